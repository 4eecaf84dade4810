"""`robustness`: wrong items in the test histories, and fewer users to learn from; ELCRec against the same model without intents (B)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipelines.benchmark.report import Report, Table
from pipelines.reproduce.ablation import reduced
from pipelines.reproduce.figures import panels
from pipelines.reproduce.ledger import Row
from pipelines.reproduce.scene import Scene, Variant, spread
from pipelines.reproduce.significance import Spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = "NDCG@20"
_MODELS = ("B", "ELCRec")


@dataclass(frozen=True)
class _Point:
    """What a variant reaches, and what part of the undisturbed result that is."""

    value: Spread
    kept: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return {**self.value.to_dict(), "kept": self.kept}


_Curves = dict[str, dict[float, _Point]]


def variants(scene: Scene) -> list[Variant]:
    found = []
    for one in scene.plain():
        for name in _MODELS:
            whole = reduced(one, name, scene.fields)
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
            found = _curves(scene, own, place, whole=0.0 if name == "wrong items" else 1.0)
            places = sorted({place(one) for one in own})
            tables.append(_table(f"{subject.name}: {about}; test {_SHOWN}", places, found))
            result[subject.name][name] = {
                line: {f"{value:g}": one.to_dict() for value, one in points.items()} for line, points in found.items()
            }
            curves[f"{subject.name}: {name}"] = found
    return Report(result, tables, lambda figure: _draw(figure, curves))


def _curves(scene: Scene, variants: Sequence[Variant], place: Callable[[Variant], float], whole: float) -> _Curves:
    undisturbed = {(one.recipe, one.name): scene.rows(one) for one in variants if place(one) == whole}
    found: _Curves = {}
    for one in variants:
        points = found.setdefault(f"{one.recipe}, {one.name}", {})
        rows = scene.rows(one)
        if rows:
            kept = None if place(one) == whole else _kept(rows, undisturbed.get((one.recipe, one.name), []))
            points[place(one)] = _Point(spread(rows, "test", _SHOWN), kept)
    return found


def _kept(rows: Sequence[Row], whole: Sequence[Row]) -> float | None:
    """Part of the undisturbed result, by the seeds that have both.

    A row of wrong items tells the undisturbed result of its own model, which may have been trained again since the whole row was made.
    """
    by_seed = {row["seed"]: row["test"][_SHOWN] for row in whole}
    by_seed |= {row["seed"]: row["undisturbed"][_SHOWN] for row in rows if "undisturbed" in row}
    both = [(row["test"][_SHOWN], by_seed[row["seed"]]) for row in rows if row["seed"] in by_seed]
    total = sum(before for _, before in both)
    return sum(after for after, _ in both) / total if total else None


def _table(title: str, places: Sequence[float], curves: _Curves) -> Table:
    """A line a model; beside each value the part of the undisturbed one that is kept."""
    lines = [(name, *(_cell(points.get(place)) for place in places)) for name, points in curves.items()]
    return Table(title, ("", *(f"{place:g}" for place in places)), lines)


def _cell(point: _Point | None) -> str:
    if point is None:
        return "not run"
    return point.value.text() + (f" ({point.kept:.0%})" if point.kept is not None else "")


def _draw(figure: Figure, curves: Mapping[str, _Curves]) -> None:
    for name, axes in panels(figure, list(curves)):
        for line, points in curves[name].items():
            places = sorted(points)
            errors = [points[place].value.deviation or 0.0 for place in places]
            axes.errorbar(places, [points[place].value.mean for place in places], errors, marker="o", capsize=2, label=line)
        axes.set(xlabel=name.rpartition(": ")[2] + ", share", ylabel=f"test {_SHOWN}")
        axes.legend(fontsize="small")
