"""`comparison`: every recipe beside the published results, with a test over users for each difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.benchmark.report import Report, Table
from pipelines.reproduce.figures import bars, legend_below, panels, series_colors
from pipelines.reproduce.imported import ranks_against, runs_against
from pipelines.reproduce.scene import Scene, Subject, Variant, spread
from pipelines.reproduce.significance import (
    METRICS,
    RESAMPLES,
    Spread,
    bootstrap_means,
    bootstrap_p,
    decimal,
    gains,
    p_text,
    paired,
    paired_text,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAPER = "ELCRec"
_CERTAIN = 0.01


@dataclass(frozen=True)
class _Ours:
    """A recipe's results on a data set: the spread of each metric over seeds, and every user's gain, the mean over seeds."""

    name: str
    spreads: Mapping[str, Spread]
    gains: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class _Cell:
    """A metric of a recipe against a published value."""

    metric: str
    ours: Spread
    method: str
    published: float
    p: float

    @property
    def margin(self) -> float:
        return self.ours.mean - self.published

    def to_dict(self) -> dict[str, Any]:
        within = self.ours.holds(self.published)
        return {"method": self.method, "published": self.published, "margin": self.margin, "p": self.p, "within_2_deviations": within}


def variants(scene: Scene) -> list[Variant]:
    runs_against(scene)  # what is wrong with them is better known before the runs than after
    return scene.plain()


def report(scene: Scene, variants: Sequence[Variant]) -> Report:
    """Tables, tests and a plot for each data set."""
    imported = ranks_against(scene)
    tables: list[Table] = []
    result: dict[str, Any] = {}
    shown: dict[str, dict[str, Mapping[str, float | Spread]]] = {}
    for subject in scene.subjects:
        own = [variant for variant in variants if variant.subject is subject]
        finished = [variant for variant in own if scene.rows(variant)]
        done = [_ours(scene, variant) for variant in finished]
        published = subject.published
        tables.append(_methods_table(scene, subject, own, done))
        cells = {one.name: _cells(one, published) for one in done if published}
        if cells:
            tables.append(_cells_table(subject, cells))
        pairs = _pairs(scene, finished, imported.get(subject.name, {}))
        if pairs:
            tables.append(_pairs_table(subject, pairs))
        result[subject.name] = {"absent": subject.absent or None, **_plain(done, cells, pairs)}
        reported = {f"{PAPER}, reported": published[PAPER], "best reported": best(published)} if published else {}
        shown[subject.name] = {**reported, **{one.name: one.spreads for one in done}}
    won = _won(result)
    if won:
        tables.insert(0, _won_table(won))
    return Report({"won": won, "datasets": result}, tables, lambda figure: _draw(figure, shown))


def best(published: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The highest published value of each metric, the record."""
    return {metric: max(row[metric] for row in published.values()) for metric in METRICS}


def _ours(scene: Scene, variant: Variant) -> _Ours:
    rows, ranks = scene.rows(variant), scene.ranks(variant)
    return _Ours(variant.recipe, {metric: spread(rows, "test", metric) for metric in METRICS}, _gains(ranks))


def _gains(ranks: np.ndarray) -> dict[str, np.ndarray]:
    return {metric: gains(ranks, metric) for metric in METRICS}


def _cells(ours: _Ours, published: Mapping[str, Mapping[str, float]]) -> list[tuple[_Cell, _Cell]]:
    """For each metric: against the paper's own method, and against the record."""
    found = []
    for metric in METRICS:
        means = bootstrap_means(ours.gains[metric])
        record = max(published, key=lambda method: published[method][metric])
        against = [(method, published[method][metric]) for method in (PAPER, record)]
        paper, best_reported = (_Cell(metric, ours.spreads[metric], method, value, bootstrap_p(means, value)) for method, value in against)
        found.append((paper, best_reported))
    return found


def _pairs(scene: Scene, finished: Sequence[Variant], imported: Mapping[str, np.ndarray]) -> dict[str, dict[str, dict[str, float]]]:
    """Paired tests: every two recipes by the seeds that both have, unless there is none, and every recipe with every imported run.
    `first - second` -> metric -> difference and p."""
    shared = {f"{one.recipe} - {two.recipe}": scene.shared_ranks(one, two) for one, two in combinations(finished, 2)}
    against = {f"{one.recipe} - {name}": (scene.ranks(one), ranks) for one in finished for name, ranks in imported.items()}
    return {name: paired(*map(_gains, ranks)) for name, ranks in {**shared, **against}.items() if ranks is not None}


def _won(result: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Recipe -> cells above the paper's method with p below .01, cells above the record, and all cells."""
    won: dict[str, dict[str, int]] = {}
    for data in result.values():
        for recipe, metrics in data["recipes"].items():
            count = won.setdefault(recipe, {"above_paper": 0, "above_record": 0, "cells": 0})
            for cell in metrics.values():
                if "paper" in cell:
                    count["cells"] += 1
                    count["above_paper"] += cell["paper"]["margin"] > 0 and cell["paper"]["p"] < _CERTAIN
                    count["above_record"] += cell["record"]["margin"] > 0
    return {recipe: count for recipe, count in won.items() if count["cells"]}


def _plain(done: Sequence[_Ours], cells: Mapping[str, list[tuple[_Cell, _Cell]]], pairs: Mapping[str, Any]) -> dict[str, Any]:
    recipes: dict[str, dict[str, Any]] = {one.name: {metric: one.spreads[metric].to_dict() for metric in METRICS} for one in done}
    for recipe, found in cells.items():
        for paper, record in found:
            recipes[recipe][paper.metric] |= {"paper": paper.to_dict(), "record": record.to_dict()}
    return {"recipes": recipes, "pairs": pairs}


def _won_table(won: Mapping[str, Mapping[str, int]]) -> Table:
    rows = [(recipe, *(f"{count[key]} of {count['cells']}" for key in ("above_paper", "above_record"))) for recipe, count in won.items()]
    return Table("Cells won", ("recipe", f"above {PAPER} as published, p < {_CERTAIN}", "above the best published"), rows)


def _methods_table(scene: Scene, subject: Subject, variants: Sequence[Variant], done: Sequence[_Ours]) -> Table:
    lines = [(f"{method}, reported", *map(decimal, _in_order(row))) for method, row in subject.published.items()]
    finished = {one.name: one for one in done}
    baselines: Mapping[str, Mapping[str, float]] = next((row["baselines"] for variant in variants for row in scene.rows(variant)), {})
    lines += [(f"{name}, here", *map(decimal, _in_order(row))) for name, row in baselines.items()]
    for variant in variants:
        ours = finished.get(variant.recipe)
        if ours is None:
            lines.append((variant.recipe, subject.absent or "not run", *[""] * (len(METRICS) - 1)))
        else:
            lines.append((f"{ours.name}, {_seeds(ours)}", *(one.text() for one in _in_order(ours.spreads))))
    return Table(f"{subject.name}: test, mean ± standard deviation over seeds", ("", *METRICS), lines)


def _cells_table(subject: Subject, cells: Mapping[str, list[tuple[_Cell, _Cell]]]) -> Table:
    columns = ("", "ours", PAPER, "difference", "p", "within ± 2 sd", "best published", "difference", "p")
    lines = []
    for recipe, found in cells.items():
        for paper, record in found:
            within = {None: "", True: "yes", False: "no"}[paper.ours.holds(paper.published)]
            against = (decimal(paper.published), decimal(paper.margin, signed=True), p_text(paper.p), within)
            best_cells = (f"{decimal(record.published)} ({record.method})", decimal(record.margin, signed=True), p_text(record.p))
            lines.append((f"{recipe}, {paper.metric}", paper.ours.text(), *against, *best_cells))
    return Table(f"{subject.name}: against published values; p by {RESAMPLES:,} bootstrap samples of the users, two-sided", columns, lines)


def _pairs_table(subject: Subject, pairs: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    lines = [(name, *map(paired_text, _in_order(metrics))) for name, metrics in pairs.items()]
    about = "paired permutation test over users, two-sided; of two recipes by the seeds that both have"
    return Table(f"{subject.name}: {about}", ("", *METRICS), lines)


def _in_order(values: Mapping[str, Any]) -> list[Any]:
    return [values[metric] for metric in METRICS]


def _seeds(ours: _Ours) -> str:
    count = ours.spreads[METRICS[0]].seeds
    return f"{count} seeds" if count > 1 else "1 seed"


def _draw(figure: Figure, shown: Mapping[str, Mapping[str, Mapping[str, float | Spread]]]) -> None:
    for name, axes in panels(figure, [name for name, series in shown.items() if series]):
        bars(axes, METRICS, shown[name], series_colors(shown.values()))
        axes.tick_params(axis="x", labelrotation=30)
    legend_below(figure)
