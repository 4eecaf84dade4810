"""`robustness`: wrong items in the test histories, and fewer users to learn from; ELCRec against the same model without intents (B)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipelines.benchmark.report import Report, Table
from pipelines.reproduce.ablation import reduced
from pipelines.reproduce.figures import panels
from pipelines.reproduce.scene import Scene, Variant, spread
from pipelines.reproduce.significance import Spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = "NDCG@20"
_MODELS = ("B", "ELCRec")
_Curves = dict[str, dict[float, Spread]]


def variants(scene: Scene) -> list[Variant]:
    found = []
    for one in scene.plain():
        for name in _MODELS:
            whole = reduced(one, name)
            found.append(whole)
            found += [replace(whole, noise=noise) for noise in scene.options.noise]
            found += [replace(whole, train_share=share) for share in scene.options.shares]
    return found


def report(scene: Scene, variants: Sequence[Variant]) -> Report:
    """Two tables and two curves for each data set."""
    tables: list[Table] = []
    result: dict[str, Any] = {}
    curves: dict[str, _Curves] = {}
    series: tuple[tuple[str, str, Callable[[Variant], float], Callable[[Variant], bool]], ...] = (
        (
            "wrong items",
            "share of the items of the test histories replaced by random ones",
            lambda v: v.noise,
            lambda v: v.train_share == 1,
        ),
        ("fewer users", "share of the users trained on, all tested", lambda v: v.train_share, lambda v: v.noise == 0),
    )
    for subject in scene.subjects:
        result[subject.name] = {}
        for name, about, place, belongs in series:
            own = [one for one in variants if one.subject is subject and belongs(one)]
            found = _curves(scene, own, place)
            places = sorted({place(one) for one in own})
            tables.append(_table(f"{subject.name}: {about}; test {_SHOWN}", places, found, whole=0.0 if name == "wrong items" else 1.0))
            result[subject.name][name] = {
                line: {f"{value:g}": one.to_dict() for value, one in points.items()} for line, points in found.items()
            }
            curves[f"{subject.name}: {name}"] = found
    return Report(result, tables, lambda figure: _draw(figure, curves))


def _curves(scene: Scene, variants: Sequence[Variant], place: Callable[[Variant], float]) -> _Curves:
    found: _Curves = {}
    for one in variants:
        points = found.setdefault(f"{one.recipe}, {one.name}", {})
        rows = scene.rows(one)
        if rows:
            points[place(one)] = spread(rows, "test", _SHOWN)
        if rows and one.noise and all("undisturbed" in row for row in rows):
            points[0.0] = spread(rows, "undisturbed", _SHOWN)  # what is kept is a part of what the same model has
    return found


def _table(title: str, places: Sequence[float], curves: _Curves, whole: float) -> Table:
    """A line a model; beside each value the part of the undisturbed one that is kept."""
    lines = [(name, *(_cell(points, place, whole) for place in places)) for name, points in curves.items()]
    return Table(title, ("", *(f"{place:g}" for place in places)), lines)


def _cell(points: Mapping[float, Spread], place: float, whole: float) -> str:
    if place not in points:
        return "not run"
    kept = f" ({points[place].mean / points[whole].mean:.0%})" if whole in points and place != whole and points[whole].mean else ""
    return points[place].text() + kept


def _draw(figure: Figure, curves: Mapping[str, _Curves]) -> None:
    for name, axes in panels(figure, list(curves)):
        for line, points in curves[name].items():
            places = sorted(points)
            errors = [points[place].deviation or 0.0 for place in places]
            axes.errorbar(places, [points[place].mean for place in places], errors, marker="o", capsize=2, label=line)
        axes.set(xlabel=name.rpartition(": ")[2] + ", share", ylabel=f"test {_SHOWN}")
        axes.legend(fontsize="small")
