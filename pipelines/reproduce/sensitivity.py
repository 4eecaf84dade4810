"""`sensitivity`: how much the number of intents and the weight of the clustering loss (the paper's alpha) matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.benchmark.report import Report, Table
from pipelines.reproduce.figures import panels
from pipelines.reproduce.lines import COLUMNS, line, plain, summary
from pipelines.reproduce.scene import Scene, Variant
from pipelines.reproduce.significance import Spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SERIES = {"intents": "num_clusters", "alpha": "cluster_weight"}
"""What is varied, one thing at a time: its name in tables -> field of the configuration."""

_SHOWN = "NDCG@20"
_Points = dict[float, dict[str, Spread]]


def variants(scene: Scene) -> list[Variant]:
    values = {"intents": scene.options.clusters, "alpha": scene.options.alphas}
    return [
        Variant(one.subject, one.recipe, f"{series} {value:g}", one.config.replace(**{field: value}))
        for one in scene.plain()
        for series, field in SERIES.items()
        for value in values[series]
    ]


def report(scene: Scene, variants: Sequence[Variant]) -> Report:
    """A table and a curve for each data set and each thing that is varied."""
    tables: list[Table] = []
    result: dict[str, Any] = {}
    curves: dict[str, dict[str, _Points]] = {}
    for subject in scene.subjects:
        result[subject.name] = {series: {} for series in SERIES}
        for series in SERIES:
            own = [one for one in variants if one.subject is subject and one.name.startswith(f"{series} ")]
            found = [(one, summary(scene, one)) for one in own]
            tables.append(Table(f"{subject.name}: {series}", COLUMNS, [line(f"{one.recipe}, {one.name}", cells) for one, cells in found]))
            for one, cells in found:
                if cells:
                    value = float(one.name.removeprefix(f"{series} "))
                    curves.setdefault(f"{subject.name}: {series}", {}).setdefault(one.recipe, {})[value] = cells
                    result[subject.name][series].setdefault(one.recipe, {})[f"{value:g}"] = plain(cells)
    return Report(result, tables, lambda figure: _draw(figure, curves))


def _draw(figure: Figure, curves: Mapping[str, Mapping[str, _Points]]) -> None:
    for name, axes in panels(figure, list(curves)):
        for recipe, points in curves[name].items():
            for split, column, style in (("validation", f"validation {_SHOWN}", "--"), ("test", _SHOWN, "-")):
                values = sorted(points)
                spreads: list[Any] = [points[value][column] for value in values]
                means, errors = [one.mean for one in spreads], [one.deviation or 0.0 for one in spreads]
                axes.errorbar(values, means, errors, marker="o", linestyle=style, capsize=2, label=f"{recipe}, {split}")
        values = sorted({value for points in curves[name].values() for value in points})
        base = 2 if name.endswith("intents") else 10
        if values[0] > 0:
            axes.set_xscale("log", base=base)
        else:  # 0 stands a step before the smallest of the others
            axes.set_xscale("symlog", base=base, linthresh=min((value for value in values if value), default=1.0))
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.set(xlabel=name.rpartition(": ")[2], ylabel=_SHOWN)
        axes.legend(fontsize="small")
