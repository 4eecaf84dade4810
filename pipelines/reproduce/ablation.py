"""`ablation`: the parts of ELCRec switched off, as the paper does, on the sum of the four metrics."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from elcrec_tf.config import Config, LossConfig
from elcrec_tf.reporting.published import FINGERPRINTS
from pipelines.benchmark.report import Report, Table
from pipelines.reproduce.figures import bars, legend_below, panels, series_colors, zoom
from pipelines.reproduce.flags import PARTS
from pipelines.reproduce.paper import ABLATION
from pipelines.reproduce.scene import Scene, Variant, spread
from pipelines.reproduce.significance import METRICS, Spread, decimal, gains, p_text, paired_p

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONTRAST = {"sequence_weight": 0.1, "intent_weight": 0.1}
"""Weights of Eq. 8, also for a recipe that has no contrastive losses itself."""

_NO_CONTRAST = dict.fromkeys(CONTRAST, 0.0)
# Nothing in B reads the state of a padding position: without padding it learns the same, several times as fast.
_NO_PADDING = {"official_padding": False, "sequence_pooling": "mean"}
_FIELDS: dict[str, dict[str, Any]] = {
    "B": {**_NO_CONTRAST, **_NO_PADDING, "cluster_weight": 0.0},
    "B+ICL": {**CONTRAST, "cluster_weight": 0.0},
    "B+ELCM": _NO_CONTRAST,
    "ELCRec": CONTRAST,
}
_WITH_ELCM = ("B+ELCM", "ELCRec")


def variants(scene: Scene) -> list[Variant]:
    return [reduced(one, part, scene.fields) for one in scene.plain() for part in scene.options.parts]


def reduced(variant: Variant, part: str, given: Collection[str] = ()) -> Variant:
    """What the paper calls by that name (see `flags.PARTS`), of a recipe; `given` are the fields that are flags, see `elcm`."""
    own = elcm(variant.config, given) if part in _WITH_ELCM else {}
    return replace(variant, name=part, config=variant.config.replace(**_FIELDS[part], **own))


def elcm(recipe: Config, given: Collection[str] = ()) -> dict[str, Any]:
    """The fields that give ELCM to a recipe that has none, and change no other: learned centres, and the default's weight where the recipe
    has 0; but a weight that was `given` as a flag stays."""
    has_none = not (recipe.loss.cluster_weight or "cluster_weight" in given)
    return {"intent_clustering": "learned", **({"cluster_weight": LossConfig().cluster_weight} if has_none else {})}


def report(scene: Scene, variants: Sequence[Variant]) -> Report:
    """A table and bars for each data set: published, and each recipe."""
    result: dict[str, dict[str, Any]] = {}
    shown: dict[str, dict[str, dict[str, float | Spread]]] = {}
    tables = []
    for subject in scene.subjects:
        own = [variant for variant in variants if variant.subject is subject]
        found = {(one.recipe, one.name): _summary(scene, one, own) for one in own if scene.rows(one)}
        lines = [_line(f"{recipe}, {name}", summary) for (recipe, name), summary in found.items()]
        lines += [(f"{one.recipe}, {one.name}", "not run", "", "", *[""] * len(METRICS)) for one in own if not scene.rows(one)]
        reported = ABLATION.get(FINGERPRINTS.get(subject.fingerprint, ""), {})
        lines += [(f"reported, {name}", decimal(total), "", "", *[""] * len(METRICS)) for name, total in reported.items()]
        columns = ("", "sum", "more than B", "p", *METRICS)
        about = "more than B by the seeds that B has too, p by a paired permutation test over users, two-sided"
        tables.append(Table(f"{subject.name}: test; {about}", columns, lines))
        shown[subject.name] = {"reported": dict(reported)} if reported else {}
        result[subject.name] = {"reported": reported}
        for (recipe, name), summary in found.items():
            shown[subject.name].setdefault(recipe, {})[name] = summary["sum"]
            plain = {key: value.to_dict() if isinstance(value, Spread) else value for key, value in summary.items()}
            result[subject.name].setdefault(recipe, {})[name] = plain
    return Report(result, tables, lambda figure: _draw(figure, shown))


def _summary(scene: Scene, variant: Variant, others: Sequence[Variant]) -> dict[str, Any]:
    """The sum and the metrics, and how far the sum is above that of B, by the seeds that both were run with."""
    rows = scene.rows(variant)
    summary: dict[str, Any] = {metric: spread(rows, "test", metric) for metric in ("sum", *METRICS)}
    base = next((one for one in others if one.recipe == variant.recipe and one.name == "B"), None)
    ranks = None if base is None or variant.name == "B" else scene.shared_ranks(variant, base)
    if ranks is not None:
        own, without = (gains(one, "sum") for one in ranks)
        summary |= {"more_than_b": float(np.mean(own - without)), "p": paired_p(own, without)}
    return summary


def _line(name: str, summary: Mapping[str, Any]) -> tuple[str, ...]:
    more = (decimal(summary["more_than_b"], signed=True), p_text(summary["p"])) if "p" in summary else ("", "")
    return (name, summary["sum"].text(), *more, *(summary[metric].text() for metric in METRICS))


def _draw(figure: Figure, shown: Mapping[str, Mapping[str, Mapping[str, float | Spread]]]) -> None:
    for name, axes in panels(figure, [name for name, series in shown.items() if series]):
        bars(axes, PARTS, shown[name], series_colors(shown.values()))
        axes.set_ylabel("sum of HR@5, HR@20, NDCG@5, NDCG@20")
        zoom(axes)
    legend_below(figure)
