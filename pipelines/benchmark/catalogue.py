"""What a large catalogue costs: a training step by sampler, ranking, an export, questions to the exact and the approximate index."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from elcrec_tf import cli
from pipelines.benchmark import machine
from pipelines.benchmark.export import raw_histories
from pipelines.benchmark.flags import SAMPLERS
from pipelines.benchmark.process import WorkerFailed
from pipelines.benchmark.report import Report, Spread, Table, plain_numbers
from pipelines.benchmark.run import Run
from pipelines.benchmark.subject import config_of, sequences_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from elcrec_tf.data.sequences import Sequences

BATCH_SIZES = (1, 64)
VECTORS = {"trained": "trained on simulated users", "untrained": "random"}
_EVENTS = 10.0
_RANKED_USERS = 512
_SECONDS = 5.0  # of asking, for each index and number of rows
_INDEX_USERS = 1000


def measure(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A worker's measurement: a model with both indexes, exported and asked.

    With `spec["trained"]` the model is trained for the configuration's epochs, on its data; else its vectors are random.

    Returns:
        `peak_memory_bytes` until both are exported; and for `exact` and `approximate` the `seconds` of the export, its `bytes`, what its
        metadata says of the `index`, and `rows_per_second` by rows a call.
    """
    cli.import_tensorflow()
    from elcrec_tf.data.pipeline import histories
    from elcrec_tf.serving.approximate import Approximation
    from elcrec_tf.training import new_model

    config = config_of(spec)
    sequences = sequences_of(spec, config)
    model = new_model(sequences, config)
    if spec["trained"]:
        from elcrec_tf.data.training_data import training_batches

        data = training_batches(sequences, config)
        model.fit(data.dataset, steps_per_epoch=data.steps_per_epoch, epochs=config.train.epochs, verbose=0, shuffle=False)
    _, sample = histories(sequences, "test", config.model.max_length, most=_INDEX_USERS, seed=config.train.seed)
    indexes = {"exact": None, "approximate": Approximation(sample)}
    with tempfile.TemporaryDirectory(prefix="elcrec-catalogue-") as folder:
        found = {name: _exported(model, sequences, Path(folder, name), index) for name, index in indexes.items()}
        memory = machine.memory()
        questions = raw_histories(sequences, config.model.max_length, config.train.seed)
        for name, one in found.items():
            one["rows_per_second"] = _asked(Path(folder, name, "1"), questions)
    return {**found, **memory}


def _exported(model: Any, sequences: Sequences, folder: Path, approximation: Any) -> dict[str, Any]:
    from elcrec_tf.serving.layout import read_metadata
    from elcrec_tf.serving.saved_model import export_saved_model

    began = time.perf_counter()
    version = export_saved_model(model, sequences.catalog, folder, approximation=approximation)
    seconds = time.perf_counter() - began
    size = sum(file.stat().st_size for file in version.rglob("*") if file.is_file())
    return {"seconds": seconds, "bytes": size, "index": read_metadata(version)["index"]}


def _asked(version: Path, histories: Sequence[Sequence[str]]) -> dict[str, float]:
    """Rows answered a second, by rows a call."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(version))
    recommend = loaded.signatures["serving_default"]
    width = max(map(len, histories))
    padded = np.array([[""] * (width - len(one)) + list(one) for one in histories], dtype=object)
    rates = {}
    for size in BATCH_SIZES:
        batches = [tf.constant(np.resize(padded, (len(padded), width))[start : start + size]) for start in range(0, len(padded), size)]
        batches = [batch for batch in batches if len(batch) == size] or [tf.constant(np.resize(padded, (size, width)))]
        recommend(history=batches[0])["item_ids"].numpy()
        calls, began = 0, time.perf_counter()
        while time.perf_counter() - began < _SECONDS:
            recommend(history=batches[calls % len(batches)])["item_ids"].numpy()
            calls += 1
        rates[str(size)] = calls * size / (time.perf_counter() - began)
    return rates


def benchmark(run: Run) -> Report:
    """Every measurement in a fresh process, one repeat after the other. One that fails, for want of memory say, is a result too."""
    summaries = [_summary(run, items) for items in run.options.catalogue_sizes]
    return Report({"catalogues": summaries}, _tables(summaries), lambda figure: _draw(figure, summaries))


def _summary(run: Run, items: int) -> dict[str, Any]:
    config = run.config
    users = config.simulator.sim_users
    synthetic = {"users": users, "items": items, "events": _EVENTS, "seed": config.simulator.sim_seed}
    summary: dict[str, Any] = {"items": items}
    if "train" in run.options.parts:
        summary["train"] = {
            sampler: _training(run, f"{items}/train/{sampler}", config.replace(negatives=sampler), synthetic)
            for sampler in run.options.samplers
        }
    if "evaluate" in run.options.parts:
        few = synthetic | {"users": min(users, _RANKED_USERS)}
        rows = _rows(run, f"{items}/evaluate", "evaluate", config, synthetic=few, passes=1)
        summary["evaluate"] = _spreads(rows, lambda row: {"users_per_second": row["users"] / row["seconds"][-1]})
    if "index" in run.options.parts:
        simulated = config.replace(sim_items=items)
        settings = {"trained": (simulated, None), "untrained": (config, synthetic)}
        summary["index"] = {
            name: _index(_rows(run, f"{items}/index/{name}", "catalogue", one, synthetic=data, trained=name == "trained"))
            for name, (one, data) in settings.items()
        }
    return summary


def _rows(run: Run, name: str, kind: str, config: Any, **spec: Any) -> list[dict[str, Any]]:
    """One row a repeat; a failed one holds `failed` alone."""

    def measured(key: str) -> dict[str, Any]:
        try:
            return run.fresh(key, kind, config, **spec)
        except WorkerFailed as error:
            run.console.print(str(error))
            return {"failed": str(error)}

    keys = [f"catalogue/{name}/{repeat}" for repeat in run.repeats]
    return [run.journal.measure(key, lambda key=key: measured(key)) for key in keys]  # type: ignore[misc]


def _spreads(rows: Sequence[Mapping[str, Any]], values: Any) -> dict[str, Any]:
    """Spreads of `values(row)` and of the peak memory; `failed` where one failed."""
    failed = [row["failed"] for row in rows if "failed" in row]
    if failed:
        return {"failed": failed[0]}
    found = [{**values(row), "peak_memory_bytes": row["peak_memory_bytes"]} for row in rows]
    return {name: Spread.of(one[name] for one in found) for name in found[0]}


def _training(run: Run, name: str, config: Any, synthetic: Mapping[str, Any]) -> dict[str, Any]:
    rows = _rows(run, name, "train", config, synthetic=dict(synthetic))
    return _spreads(rows, lambda row: {"step_seconds": min(row["epoch_seconds"][1:]) / row["steps_per_epoch"]})


def _index(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    def values(row: Mapping[str, Any]) -> dict[str, float]:
        about = row["approximate"]["index"]
        found = {name: about[name] for name in ("lists", "probes", "candidates")} | {"recall": about["recall"]["measured"]}
        for name in ("exact", "approximate"):
            found |= {f"{name}_seconds": row[name]["seconds"], f"{name}_bytes": row[name]["bytes"]}
            found |= {f"{name}_rows_per_second_{size}": row[name]["rows_per_second"][str(size)] for size in BATCH_SIZES}
        return found

    return _spreads(rows, values)


def _tables(summaries: Sequence[Mapping[str, Any]]) -> list[Table]:
    training, ranking, index = [], [], []
    for one in summaries:
        items = f"{one['items']:,}"
        for sampler, cost in one.get("train", {}).items():
            training.append((items, sampler, *_cells(cost, ("step_seconds", 1e3), ("peak_memory_bytes", 1e-6))))
        if "evaluate" in one:
            ranking.append((items, *_cells(one["evaluate"], ("users_per_second", 1), ("peak_memory_bytes", 1e-6))))
        for vectors, found in one.get("index", {}).items():
            for name in ("exact", "approximate"):
                rates = [(f"{name}_rows_per_second_{size}", 1) for size in BATCH_SIZES]
                cells = _cells(found, (f"{name}_seconds", 1), (f"{name}_bytes", 1e-6), *rates, ("peak_memory_bytes", 1e-6))
                index.append((items, VECTORS[vectors], name, *cells, *_about_lists(found, name)))
    rows_a_call = tuple(f"rows/s, {size} a call" for size in BATCH_SIZES)
    memory = "peak memory, MB"
    columns = ("items", "vectors", "index", "export, s", "size, MB", *rows_a_call, memory, "lists looked into", "recall@100")
    tables = [
        Table("Training by negatives", ("items", "negatives", "step, ms", memory), training),
        Table("Ranking users", ("items", "users/s", memory), ranking),
        Table("Export and questions: median (smallest..largest)", columns, index),
    ]
    return [table for table in tables if table.rows]


def _cells(found: Mapping[str, Any], *wanted: tuple[str, float]) -> list[str]:
    if "failed" in found:
        return [found["failed"], *[""] * (len(wanted) - 1)]
    return [found[name].text(factor) for name, factor in wanted]


def _about_lists(found: Mapping[str, Any], name: str) -> tuple[str, str]:
    """What an index looks into, and its recall."""
    if "failed" in found:
        return "", ""
    return ("", "1") if name == "exact" else (_looked_into(found), found["recall"].text())


def _looked_into(found: Mapping[str, Any]) -> str:
    return f"{found['probes'].median:,.0f} of {found['lists'].median:,.0f} ({found['candidates'].median:,.0f} items)"


def _draw(figure: Figure, summaries: Sequence[Mapping[str, Any]]) -> None:
    left, right = figure.subplots(1, 2)
    for sampler in SAMPLERS:
        steps = {one["items"]: one.get("train", {}).get(sampler, {}).get("step_seconds") for one in summaries}
        _line(left, steps, sampler, 1e3)
    for name in ("exact", "approximate"):
        for size in BATCH_SIZES:
            rates = {one["items"]: one.get("index", {}).get("trained", {}).get(f"{name}_rows_per_second_{size}") for one in summaries}
            _line(right, rates, f"{name}, {size} rows a call", 1)
    left.set(title="Training step, ms", xlabel="items")
    right.set(title="Questions a second", xlabel="items")
    for axes in (left, right):
        if axes.lines:
            axes.set(xscale="log", yscale="log")
            plain_numbers(axes.yaxis)
            axes.legend(fontsize="small")
        else:
            axes.set_visible(False)  # that part was not measured


def _line(axes: Axes, found: Mapping[int, Spread | None], label: str, factor: float) -> None:
    done = {items: spread.median * factor for items, spread in found.items() if spread is not None}
    if done:
        axes.plot(list(done), list(done.values()), marker="o", label=label)
