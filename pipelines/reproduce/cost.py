"""`cost`: time and memory of training ELCRec, whose intents learn with everything else, against the alternating scheme that it replaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from elcrec_tf.errors import UserError
from pipelines.benchmark.report import Report, Spread, Table, number
from pipelines.reproduce.ablation import elcm
from pipelines.reproduce.paper import COST
from pipelines.reproduce.scene import Scene, Variant

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_EPOCHS = 5
SCHEMES = {"learned": "ELCRec", "em": "alternating (ICLRec)"}
"""Values of `intent_clustering` and their names in tables."""


@dataclass(frozen=True)
class _Point:
    """The cost of a variant. The first epoch, in which everything is traced, does not count."""

    variant: Variant
    users: int
    epoch: Spread
    clustering: Spread | None
    memory: Spread | None
    device_memory: Spread | None

    def to_dict(self) -> dict[str, Any]:
        return {
            "dataset": self.variant.subject.name,
            "recipe": self.variant.recipe,
            "scheme": self.variant.name,
            "users": self.users,
            "epoch_seconds": self.epoch,
            "clustering_seconds": self.clustering,
            "peak_memory_bytes": self.memory,
            "peak_device_memory_bytes": self.device_memory,
        }


def variants(scene: Scene) -> list[Variant]:
    """Both schemes with the same encoder and as many epochs, none of them stopped early. A run that was cut off begins anew: one that goes
    on traces everything once more, in an epoch that would count."""
    epochs = scene.fields.get("epochs", _EPOCHS)
    if epochs < 2:
        raise UserError(
            f"--epochs should be at least 2 for cost: the first epoch, in which everything is traced, does not count. Received: {epochs}"
        )
    return [
        Variant(one.subject, one.recipe, name, one.config.replace(**fields, epochs=epochs, patience=epochs), afresh=True)
        for one in scene.plain()
        for scheme, name in SCHEMES.items()
        for fields in [elcm(one.config, scene.fields) if scheme == "learned" else {"intent_clustering": scheme}]
    ]


def report(scene: Scene, variants: Sequence[Variant]) -> Report:
    """What was measured, and what the paper reports of its own training."""
    points = [_point(scene, one) for one in variants if scene.rows(one)]
    lines = [_line(one, points) for one in points]
    lines += [(f"{one.subject.name}, {one.recipe}, {one.name}", "not run", *[""] * 5) for one in variants if not scene.rows(one)]
    columns = ("", "users", "seconds an epoch", "ms for each user more", "of it clustering", "peak memory, MB", "on the accelerator, MB")
    tables = [Table("An epoch of training, every run in a process of its own: median (smallest..largest)", columns, lines), _reported()]
    return Report({"points": [one.to_dict() for one in points], "reported": COST}, tables, lambda figure: _draw(figure, points))


def _point(scene: Scene, variant: Variant) -> _Point:
    rows = scene.rows(variant)

    def curve(name: str) -> Spread | None:
        values = [value for row in rows for value in row["curve"].get(name, [])[1:]]
        return Spread.of(values) if values else None

    def memory(name: str) -> Spread | None:
        values = [row[name] for row in rows if row[name] is not None]
        return Spread.of(values) if values else None

    epoch = curve("seconds")
    assert epoch is not None
    clustering = curve("clustering_seconds")
    return _Point(variant, rows[0]["users"], epoch, clustering, memory("peak_memory_bytes"), memory("peak_device_memory_bytes"))


def _line(point: _Point, points: Sequence[_Point]) -> tuple[str, ...]:
    variant = point.variant
    alike = [
        one for one in points if (one.variant.recipe, one.variant.name, _family(one)) == (variant.recipe, variant.name, _family(point))
    ]
    smallest = min(alike, key=lambda one: one.users)
    more = point.users - smallest.users
    return (
        f"{variant.subject.name}, {variant.recipe}, {variant.name}",
        f"{point.users:,}",
        point.epoch.text(),
        number(1e3 * (point.epoch.median - smallest.epoch.median) / more) if more else "",
        point.clustering.text() if point.clustering else "",
        point.memory.text(1e-6) if point.memory else "",
        point.device_memory.text(1e-6) if point.device_memory else "",
    )


def _family(point: _Point) -> str:
    """Data sets of one family differ in their number of users only: simulated x4 and simulated x16."""
    return point.variant.subject.name.partition(" x")[0]


def _reported() -> Table:
    lines = [
        (f"{dataset}, {method}", f"{seconds:,}", f"{megabytes:,}")
        for dataset, methods in COST.items()
        for method, (seconds, megabytes) in methods.items()
    ]
    return Table("Reported in the paper: whole training on one RTX 4090", ("", "seconds", "device memory, MB"), lines)


def _draw(figure: Figure, points: Sequence[_Point]) -> None:
    lines: dict[str, list[_Point]] = {}
    for point in sorted(points, key=lambda one: one.users):
        lines.setdefault(f"{_family(point)}, {point.variant.recipe}, {point.variant.name}", []).append(point)
    for index, label in enumerate(("seconds an epoch", "peak memory, MB"), 1):
        axes = figure.add_subplot(1, 2, index)
        for name, members in lines.items():
            spreads = [(one.users, one.epoch if index == 1 else one.memory) for one in members]
            known = [(count, spread.median * (1 if index == 1 else 1e-6)) for count, spread in spreads if spread is not None]
            axes.plot([count for count, _ in known], [height for _, height in known], marker="o", label=name)
        axes.yaxis.set_major_formatter("{x:,g}")
        users = sorted({one.users for one in points})
        axes.set_xticks(users, [f"{value:,}" for value in users], rotation=45)
        axes.set(xlabel="users", ylabel=label)
        if index == 1:
            axes.set_ylim(bottom=0)  # seconds from 0: the slope is what a user costs
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
