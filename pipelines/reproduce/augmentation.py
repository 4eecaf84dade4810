"""`augmentation`: what the two views of a history are made by; the rest of the recipe stays."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from elcrec_tf.config import Config
from pipelines.benchmark.report import Report, Table
from pipelines.reproduce.ablation import CONTRAST
from pipelines.reproduce.figures import bars, legend_below, panels, series_colors, zoom
from pipelines.reproduce.lines import COLUMNS, line, plain, summary
from pipelines.reproduce.scene import Scene, Variant
from pipelines.reproduce.significance import Spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NO_VIEWS = dict.fromkeys(CONTRAST, 0.0)
_RANDOM = ("crop", "mask", "reorder")
_SHOWN = "NDCG@20"


def variants(scene: Scene) -> list[Variant]:
    return [
        Variant(one.subject, one.recipe, view, one.config.replace(**fields_of(view, one.config, scene.fields)))
        for one in scene.plain()
        for view in scene.options.views
    ]


def fields_of(view: str, recipe: Config, given: Collection[str] = ()) -> dict[str, Any]:
    """The fields of the configuration that a view stands for. A recipe without contrastive losses gets them, as nothing else looks at
    views; but a weight that was `given` as a flag stays."""
    if view == "none":
        return _NO_VIEWS
    has_none = not (recipe.loss.sequence_weight or recipe.loss.intent_weight)
    weights = {name: weight for name, weight in CONTRAST.items() if has_none and name not in given}
    return {"augmentations": _RANDOM if view == "random" else (view,), **weights}


def report(scene: Scene, variants: Sequence[Variant]) -> Report:
    """A table and bars for each data set."""
    tables, result = [], {}
    shown: dict[str, dict[str, dict[str, float | Spread]]] = {}
    for subject in scene.subjects:
        found = [(one, summary(scene, one)) for one in variants if one.subject is subject]
        tables.append(Table(f"{subject.name}: views", COLUMNS, [line(f"{one.recipe}, {one.name}", cells) for one, cells in found]))
        result[subject.name] = [{"recipe": one.recipe, "views": one.name, **plain(cells)} for one, cells in found if cells]
        for one, cells in found:
            if cells:
                shown.setdefault(subject.name, {}).setdefault(one.recipe, {})[one.name] = cells[_SHOWN]
    return Report(result, tables, lambda figure: _draw(figure, scene.options.views, shown))


def _draw(figure: Figure, views: Sequence[str], shown: Mapping[str, Mapping[str, Mapping[str, float | Spread]]]) -> None:
    for name, axes in panels(figure, list(shown)):
        bars(axes, views, shown[name], series_colors(shown.values()))
        axes.set_ylabel(f"test {_SHOWN}")
        axes.tick_params(axis="x", labelrotation=45)
        zoom(axes)
    legend_below(figure)
