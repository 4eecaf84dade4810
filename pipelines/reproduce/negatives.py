"""`negatives`: what it tells a model of the test to keep the BCE's negatives off the held-out items, as the official code does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipelines.benchmark.report import Report, Table
from pipelines.reproduce.ablation import reduced
from pipelines.reproduce.figures import bars, legend_below, panels, series_colors
from pipelines.reproduce.lines import COLUMNS, line, plain, summary
from pipelines.reproduce.scene import Scene, Variant
from pipelines.reproduce.significance import METRICS, Spread, gains, paired, paired_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_KINDS = {"uniform": "off what is seen", "official": "off held-out items, too"}


def variants(scene: Scene) -> list[Variant]:
    """Each recipe and part with either kind, one after the other."""
    found = [reduced(one, part, scene.fields) for one in scene.plain() for part in scene.options.parts]
    return [
        replace(one, name=f"{one.name}, {name}", config=one.config.replace(negatives=kind))
        for one in found
        for kind, name in _KINDS.items()
    ]


def report(scene: Scene, variants: Sequence[Variant]) -> Report:
    """A table and bars for each data set."""
    tables: list[Table] = []
    result: dict[str, list[dict[str, Any]]] = {}
    shown: dict[str, dict[str, dict[str, Spread]]] = {}
    for subject in scene.subjects:
        own = [one for one in variants if one.subject is subject]
        found = {f"{one.recipe}, {one.name}": summary(scene, one) for one in own}
        worth = {f"{first.recipe}, {first.name}": _worth(scene, first, second) for first, second in zip(own[1::2], own[::2], strict=True)}
        lines = []
        for name, cells in found.items():
            lines.append(line(name, cells))
            if worth.get(name):
                lines.append(("what that is worth", "", *map(paired_text, worth[name].values())))
        about = "below each pair the difference, of the seeds that both have, and its p by a paired permutation test over users, two-sided"
        tables.append(Table(f"{subject.name}: test; {about}", COLUMNS, lines))
        result[subject.name] = [
            {"variant": name, **plain(cells), "worth": worth.get(name) or None} for name, cells in found.items() if cells
        ]
        shown[subject.name] = {name: cells for name, cells in found.items() if cells}
    return Report(result, tables, lambda figure: _draw(figure, shown))


def _worth(scene: Scene, first: Variant, second: Variant) -> dict[str, dict[str, float]]:
    """The first against the second (see `paired`), by the seeds that both were run with; empty where there is none."""
    ranks = scene.shared_ranks(first, second)
    return {} if ranks is None else paired(*({metric: gains(one, metric) for metric in METRICS} for one in ranks))


def _draw(figure: Figure, shown: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    for name, axes in panels(figure, [name for name, series in shown.items() if series]):
        bars(axes, METRICS, shown[name], series_colors(shown.values()))
        axes.set_ylabel("test")
    legend_below(figure)
