"""`newcomers`: how users with few events are served, and what activity features are worth to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from elcrec_tf.errors import UserError
from pipelines.benchmark.report import Report, Table
from pipelines.reproduce.figures import bars, legend_below, panels, series_colors
from pipelines.reproduce.scene import Scene, Variant
from pipelines.reproduce.significance import Spread, gains, p_text, paired_p

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = "NDCG@20"
_ALL = "all users"
_GROUPS = {"1-2": "users with 1-2 events", "3-5": "users with 3-5 events", "6+": "users with more than 5 events"}
_FEATURES = {False: "without features", True: "activity features"}
_Cells = dict[str, Spread]


def variants(scene: Scene) -> list[Variant]:
    """Each recipe with and without the features; each of them with whole test histories, and with the latest items alone.

    Raises:
        UserError: where more of the latest items are asked for than a recipe's model sees.
    """
    most = max(scene.options.seen)
    for one in scene.plain():
        if most > one.config.model.max_length:
            raise UserError(f"--seen {most}: {one.recipe} sees the latest {one.config.model.max_length} items at most (--max-length)")
    return [
        Variant(one.subject, one.recipe, name, one.config.replace(activity_features=features), seen=seen)
        for one in scene.plain()
        for features, name in _FEATURES.items()
        for seen in (0, *scene.options.seen)
    ]


def report(scene: Scene, variants: Sequence[Variant]) -> Report:
    """A table and bars for each data set."""
    tables: list[Table] = []
    result: dict[str, Any] = {}
    shown: dict[str, dict[str, _Cells]] = {}
    seen = [_seen(items) for items in scene.options.seen]
    for subject in scene.subjects:
        own = [one for one in variants if one.subject is subject]
        found: dict[str, _Cells] = {}
        for one in own:
            found.setdefault(f"{one.recipe}, {one.name}", {}).update(_cells(scene, one))
        columns = [name for name in (_ALL, *_GROUPS.values(), *seen) if name == _ALL or any(name in cells for cells in found.values())]
        lines = [(name, *(cells[column].text() if column in cells else "" for column in columns)) for name, cells in found.items() if cells]
        lines += [(name, "not run", *[""] * (len(columns) - 1)) for name, cells in found.items() if not cells]
        p_values = _p_values(scene, own)
        lines += [
            (f"{recipe}, p", *(p_text(by_column[one]) if one in by_column else "" for one in columns))
            for recipe, by_column in p_values.items()
        ]
        about = "events are those of the training part; p of the difference, by the seeds that both have, "
        about += "by a paired permutation test over users, two-sided"
        tables.append(Table(f"{subject.name}: test {_SHOWN}; {about}", ("", *columns), lines))
        plain = {name: {column: one.to_dict() for column, one in cells.items()} for name, cells in found.items()}
        result[subject.name] = {"metric": _SHOWN, "values": plain, "p": p_values}
        shown[subject.name] = found
    return Report(result, tables, lambda figure: _draw(figure, shown))


def _cells(scene: Scene, variant: Variant) -> _Cells:
    """What a variant's rows say: of all users and each group with whole histories, of all users with cut ones."""
    rows = scene.rows(variant)
    if not rows:
        return {}
    whole = Spread.of([row["test"][_SHOWN] for row in rows])
    if variant.seen:
        return {_seen(variant.seen): whole}
    groups = {
        name: Spread.of([row["by_history_length"][key][_SHOWN] for row in rows])
        for key, name in _GROUPS.items()
        if all(key in row.get("by_history_length", {}) for row in rows)
    }
    return {_ALL: whole, **groups}


def _p_values(scene: Scene, variants: Sequence[Variant]) -> dict[str, dict[str, float]]:
    """Recipe -> column -> p of the features' worth to all users, by the seeds that both have; the groups have no test."""
    found: dict[str, dict[str, float]] = {}
    by_name = {(one.recipe, one.name, one.seen): one for one in variants}
    for (recipe, name, seen), with_features in by_name.items():
        ranks = scene.shared_ranks(with_features, by_name[recipe, _FEATURES[False], seen]) if name == _FEATURES[True] else None
        if ranks is not None:
            first, second = (gains(one, _SHOWN) for one in ranks)
            found.setdefault(recipe, {})[_seen(seen) if seen else _ALL] = paired_p(first, second)
    return found


def _seen(items: int) -> str:
    return f"latest {items} items seen" if items > 1 else "latest item seen"


def _draw(figure: Figure, shown: Mapping[str, Mapping[str, _Cells]]) -> None:
    for name, axes in panels(figure, list(shown)):
        columns = list(dict.fromkeys(column for cells in shown[name].values() for column in cells))
        bars(axes, columns, shown[name], series_colors(shown.values()))
        axes.set_ylabel(f"test {_SHOWN}")
        axes.tick_params(axis="x", labelrotation=30)
    legend_below(figure)
