"""Pictures of a search: score against each searched field, number of intents and temperature, and the best score so far."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from elcrec_tf.files import atomic_path
from elcrec_tf.search_folder import TOLERANCE, SearchFolder, SearchSettings, TrialResult, best_trial, clearest_trial
from elcrec_tf.search_parameter import Parameter

_COLUMNS = 3
_CELLS = 8


def write_plots(folder: SearchFolder, settings: SearchSettings, trials: list[TrialResult]) -> list[Path]:
    """Write the plots of a search with completed trials as PNG files; their paths.

    `parameters.png`, `best_so_far.png`, `num_clusters.png` where that is searched (with how clearly users belong to one intent), and
    `num_clusters_temperature.png` where both are.
    """
    completed = [result for result in trials if result.score is not None]
    searched = {one.name: one for one in settings.space.parameters}
    figures = {"parameters": _parameters(settings, completed), "best_so_far": _best_so_far(settings, completed)}
    if "num_clusters" in searched:
        figures["num_clusters"] = _intents(settings, searched["num_clusters"], completed)
    if {"num_clusters", "temperature"} <= set(searched):
        figures["num_clusters_temperature"] = _map(settings, searched["num_clusters"], searched["temperature"], completed)
    paths = []
    for name, figure in figures.items():
        path = folder.path / "plots" / f"{name}.png"
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=120)
        paths.append(path)
    return paths


def _parameters(settings: SearchSettings, trials: list[TrialResult]) -> Figure:
    parameters = settings.space.parameters
    columns = min(len(parameters), _COLUMNS)
    rows = math.ceil(len(parameters) / columns)
    figure = Figure(figsize=(4.2 * columns, 3.4 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).flat
    best = best_trial(trials)
    for axes, parameter in zip(grid, parameters, strict=False):
        axes.scatter(_places(parameter, trials), _scores(trials), s=22, alpha=0.8)
        if best is not None:
            axes.scatter(_places(parameter, [best]), _scores([best]), s=70, facecolors="none", edgecolors="C3", label="best")
        _scale(axes, parameter, "x")
        axes.grid(alpha=0.3)
    for axes in list(grid)[len(parameters) :]:
        axes.set_visible(False)
    figure.supylabel(f"validation {settings.objective}", fontsize="medium")
    return figure


def _best_so_far(settings: SearchSettings, trials: list[TrialResult]) -> Figure:
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    numbers, scores = [int(result.trial) for result in trials], _scores(trials)
    axes.scatter(numbers, scores, s=22, alpha=0.8, label="trial")
    axes.step(numbers, np.maximum.accumulate(scores), where="post", color="C3", label="best so far")
    axes.set_xlabel("trial")
    axes.set_ylabel(f"validation {settings.objective}")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _intents(settings: SearchSettings, clusters: Parameter, trials: list[TrialResult]) -> Figure:
    figure = Figure(figsize=(6, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    places, best, clearest = _places(clusters, trials), best_trial(trials), clearest_trial(trials)
    for axes, values in ((upper, _scores(trials)), (lower, [result.separation for result in trials])):
        axes.scatter(places, values, s=22, alpha=0.8)
        axes.grid(alpha=0.3)
    if best is not None and clearest is not None:
        upper.axhline((1 - TOLERANCE) * (best.score or 0.0), color="C3", linewidth=0.8, label="as good as the best")
        lower.scatter(
            _places(clusters, [clearest]), [clearest.separation], s=70, facecolors="none", edgecolors="C3", label="clearest of those"
        )
    for axes, label in ((upper, f"validation {settings.objective}"), (lower, "separation of the intents")):
        axes.set_ylabel(label)
        axes.legend()
    _scale(lower, clusters, "x")
    return figure


def _map(settings: SearchSettings, clusters: Parameter, temperature: Parameter, trials: list[TrialResult]) -> Figure:
    figure = Figure(figsize=(6, 4.4), layout="constrained")
    axes = figure.subplots()
    x, y, scores = _places(clusters, trials), _places(temperature, trials), _scores(trials)
    cells, edges_x, edges_y = _cells(x, y, scores, _edges(clusters), _edges(temperature))
    axes.pcolormesh(edges_x, edges_y, cells.T, vmin=min(scores), vmax=max(scores), alpha=0.5)
    points = axes.scatter(x, y, c=scores, s=60, edgecolors="black", linewidths=0.6, zorder=2)
    best = best_trial(trials)
    if best is not None:
        axes.scatter(_places(clusters, [best]), _places(temperature, [best]), s=190, facecolors="none", edgecolors="C3", zorder=3)
    _scale(axes, clusters, "x")
    _scale(axes, temperature, "y")
    figure.colorbar(points, label=f"validation {settings.objective}")
    return figure


def _cells(
    x: list[float], y: list[float], scores: list[float], edges_x: np.ndarray, edges_y: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean score of the trials in each cell, NaN where there is none, and the cells' edges."""
    sums, *_ = np.histogram2d(x, y, (edges_x, edges_y), weights=scores)
    counts, *edges = np.histogram2d(x, y, (edges_x, edges_y))
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan), edges[0], edges[1]


def _edges(parameter: Parameter) -> np.ndarray:
    """Edges of the map's cells: around each choice, or even on the scale of a range."""
    if parameter.choices:
        return np.arange(len(parameter.choices) + 1) - 0.5
    space = np.geomspace if parameter.log else np.linspace
    edges = space(parameter.low, parameter.high, _CELLS + 1)
    edges[0], edges[-1] = parameter.low, parameter.high  # no trial is lost to rounding
    return edges


def _places(parameter: Parameter, trials: list[TrialResult]) -> list[float]:
    """Where trials stand on an axis: at their values, or at their choice's number."""
    values = [result.values[parameter.name] for result in trials]
    return [float(parameter.choices.index(value)) for value in values] if parameter.choices else values


def _scores(trials: list[TrialResult]) -> list[Any]:
    return [result.score for result in trials]


def _scale(axes: Axes, parameter: Parameter, side: str) -> None:
    """Label an axis, and give it the parameter's scale or its choices as ticks."""
    getattr(axes, f"set_{side}label")(parameter.name)
    if parameter.choices:
        getattr(axes, f"set_{side}ticks")(range(len(parameter.choices)), [str(choice) for choice in parameter.choices])
        getattr(axes, f"set_{side}lim")(-0.5, len(parameter.choices) - 0.5)
        return
    if parameter.log:
        axis = getattr(axes, f"{side}axis")
        getattr(axes, f"set_{side}scale")("log")
        axis.set_major_locator(LogLocator(base=2) if parameter.kind is int else LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
