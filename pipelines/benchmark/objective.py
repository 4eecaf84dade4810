"""`train`: the whole objective and each of its parts switched off in turn, against the floor of a step."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from elcrec_tf.config import Config
from elcrec_tf.errors import UserError
from pipelines.benchmark.counts import Step, count_step, training_inputs
from pipelines.benchmark.floor import PARTS, Rates, floor_seconds, step_bytes
from pipelines.benchmark.products import Product, step_products
from pipelines.benchmark.report import Report, Spread, Table, number
from pipelines.benchmark.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WEIGHTS: dict[str, dict[str, float]] = {
    "whole": {},
    "no-sequence": {"sequence_weight": 0.0},
    "no-intent": {"intent_weight": 0.0},
    "no-elcm": {"cluster_weight": 0.0},
    "next-item": {"sequence_weight": 0.0, "intent_weight": 0.0, "cluster_weight": 0.0},
}
"""Variants of the objective by name: the weights in which each differs."""

LABELS = {
    "whole": "whole objective",
    "no-sequence": "without sequence contrastive",
    "no-intent": "without intent contrastive",
    "no-elcm": "without ELCM",
    "next-item": "next item only",
}
_STARTS = {"import": "imports", "data": "data", "first_step": "model and first step"}


@dataclass
class _Variant:
    """A variant, its measurements (`training.measure`), and for each of them the floor of a step, in seconds of each part."""

    name: str
    config: Config
    rows: list[dict[str, Any]] = field(default_factory=list)
    floors: list[dict[str, float]] = field(default_factory=list)
    float32_floors: list[float] = field(default_factory=list)

    def step(self, run: Run) -> Step:
        return count_step(run.sequences, self.config, self.rows[0]["steps_per_epoch"])

    def products(self, run: Run) -> list[Product]:
        return step_products(self.step(run), self.config, run.sequences.catalog.num_items)

    def add_floor(self, run: Run, rates: Rates) -> None:
        products = self.products(run)
        moved = step_bytes(self.step(run), self.config, run.sequences.catalog.num_items, self.rows[0]["parameters"])
        self.floors.append(floor_seconds(products, moved, rates))
        self.float32_floors.append(sum(floor_seconds(products, moved, rates, ("float32",)).values()))


def benchmark(run: Run) -> Report:
    """Every variant in turn, then the rates that their floors need; and all of it again for every repeat."""
    variants = _variants(run.config, run.options.variants)
    for repeat in run.repeats:
        for variant in variants:
            variant.rows.append(run.measure(f"train/{variant.name}/{repeat}", "train", variant.config))
        # Measured close to what it is compared with: a shared machine is not always equally fast.
        rates = run.rates(f"rates/{repeat}", [product for variant in variants for product in variant.products(run)])
        for variant in variants:
            variant.add_floor(run, rates)
    summaries = {variant.name: _summary(run, variant) for variant in variants}
    return Report({"variants": summaries}, _tables(summaries), lambda figure: _draw(figure, summaries))


def _variants(config: Config, names: Sequence[str]) -> list[_Variant]:
    """The named variants, without those that switch off nothing that is on. Raises `UserError` where none is left."""
    found = [_Variant(name, config.replace(**WEIGHTS[name])) for name in names]
    found = [variant for variant in found if variant.name == "whole" or variant.config != config]
    if not found:
        raise UserError(f"--variants {' '.join(names)}: switches off nothing that is on with these settings; add whole")
    return found


def _summary(run: Run, variant: _Variant) -> dict[str, Any]:
    rows, floors = variant.rows, variant.floors
    inputs = training_inputs(run.sequences)
    items = int(np.minimum(inputs, variant.config.model.max_length).sum())
    steps = rows[0]["steps_per_epoch"]
    later = [seconds for row in rows for seconds in row["epoch_seconds"][1:]]
    epochs = [statistics.median(row["epoch_seconds"][1:]) for row in rows]
    totals = [sum(floor.values()) for floor in floors]
    products = variant.products(run)
    device_memory = [row["peak_device_memory_bytes"] for row in rows if row["peak_device_memory_bytes"] is not None]
    return {
        "users": len(inputs),
        "items": items,
        "steps_per_epoch": steps,
        "padding_share": rows[0]["padding_share"],
        "parameters": rows[0]["parameters"],
        "epoch_seconds": Spread.of(later),
        "users_per_second": Spread.of(len(inputs) / seconds for seconds in later),
        "items_per_second": Spread.of(items / seconds for seconds in later),
        "first_epoch_seconds": Spread.of(row["epoch_seconds"][0] for row in rows),
        "start_seconds": {name: Spread.of(row["start"][name] for row in rows) for name in (*_STARTS, "total")},
        "peak_memory_bytes": Spread.of(row["peak_memory_bytes"] for row in rows),
        "peak_device_memory_bytes": Spread.of(device_memory) if device_memory else None,
        "input_seconds": Spread.of(row["input_seconds"] for row in rows),
        "epoch_over_input": Spread.of(epoch / row["input_seconds"] for epoch, row in zip(epochs, rows, strict=True)),
        "step_seconds": Spread.of(seconds / steps for seconds in later),
        "floor_seconds": {part: Spread.of(floor[part] for floor in floors) for part in PARTS} | {"total": Spread.of(totals)},
        "float32_floor_seconds": Spread.of(variant.float32_floors),
        "step_over_floor": Spread.of(epoch / steps / total for epoch, total in zip(epochs, totals, strict=True)),
        "step_over_float32_floor": Spread.of(epoch / steps / total for epoch, total in zip(epochs, variant.float32_floors, strict=True)),
        "gflop": {part: sum(product.flops for product in products if product.part == part) / 1e9 for part in PARTS if part != "memory"},
    }


def _tables(summaries: Mapping[str, dict[str, Any]]) -> list[Table]:
    labels = [LABELS[name] for name in summaries]
    values = list(summaries.values())

    def table(title: str, lines: Sequence[tuple[str, Sequence[str]]]) -> Table:
        return Table(title, ("", *labels), [(name, *cells) for name, cells in lines])

    def spread(name: str, key: str, factor: float = 1, within: str | None = None) -> tuple[str, list[str]]:
        return name, [(value[within] if within else value)[key].text(factor) for value in values]

    training = [
        spread("seconds an epoch", "epoch_seconds"),
        spread("users/s", "users_per_second"),
        spread("real items/s", "items_per_second"),
        ("positions that are padding", [f"{number(100 * value['padding_share'])} %" for value in values]),
        spread("seconds of the first epoch", "first_epoch_seconds"),
        *(spread(f"seconds to the first step: {label}", key, within="start_seconds") for key, label in _STARTS.items()),
        spread("seconds to the first step", "total", within="start_seconds"),
        spread("peak memory, MB", "peak_memory_bytes", 1e-6),
        spread("input pipeline alone, seconds an epoch", "input_seconds"),
        spread("training epoch / input epoch", "epoch_over_input"),
    ]
    if all(value["peak_device_memory_bytes"] for value in values):
        training.insert(-2, spread("peak memory of the accelerator, MB", "peak_device_memory_bytes", 1e-6))
    floor = [
        ("steps an epoch", [str(value["steps_per_epoch"]) for value in values]),
        spread("step, ms", "step_seconds", 1e3),
        *(spread(f"floor: {part}, ms", part, 1e3, "floor_seconds") for part in PARTS),
        spread("floor, ms", "total", 1e3, "floor_seconds"),
        spread("floor in float32 alone, ms", "float32_floor_seconds", 1e3),
        spread("step / floor", "step_over_floor"),
        spread("step / float32 floor", "step_over_float32_floor"),
        ("GFLOP a step that must be", [number(sum(value["gflop"].values())) for value in values]),
    ]
    return [table("Training: median (smallest..largest)", training), table("A step against its floor", floor)]


def _draw(figure: Figure, summaries: Mapping[str, dict[str, Any]]) -> None:
    left, right = figure.subplots(1, 2)
    labels = [LABELS[name] for name in summaries]
    values = list(summaries.values())
    epochs = [value["epoch_seconds"] for value in values]
    error = np.array([[epoch.median - epoch.low, epoch.high - epoch.median] for epoch in epochs]).T
    place = np.arange(len(values))
    left.barh(place - 0.2, [epoch.median for epoch in epochs], 0.4, xerr=error, color="lightgrey", label="measured")
    _stack(
        left, place + 0.2, {part: [value["floor_seconds"][part].median * value["steps_per_epoch"] for value in values] for part in PARTS}
    )
    left.set(title="An epoch, and its floor by part", xlabel="seconds")
    _stack(right, place, {label: [value["start_seconds"][key].median for value in values] for key, label in _STARTS.items()})
    right.set(title="From the start of the process to the first step", xlabel="seconds")
    for axes in (left, right):
        axes.set_yticks(place, labels)
        axes.invert_yaxis()
        axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=6)


def _stack(axes: Any, place: np.ndarray, parts: Mapping[str, Sequence[float]]) -> None:
    below = np.zeros(len(place))
    for label, lengths in parts.items():
        axes.barh(place, lengths, 0.4, left=below, label=label)
        below = below + lengths
