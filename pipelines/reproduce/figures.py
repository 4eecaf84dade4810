"""What the plots of several tables share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from pipelines.reproduce.significance import Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def panels(figure: Figure, names: Sequence[str]) -> Iterator[tuple[str, Axes]]:
    """Axes side by side, one a name, which becomes the title."""
    for index, name in enumerate(names, 1):
        axes = figure.add_subplot(1, len(names), index)
        axes.set_title(name)
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
        yield name, axes


def series_colors(series_of_panels: Iterable[Iterable[str]]) -> dict[str, str]:
    """A colour for every series by name, the same in all panels, whichever of them a panel lacks."""
    return {name: f"C{number}" for number, name in enumerate(dict.fromkeys(name for series in series_of_panels for name in series))}


def bars(axes: Axes, groups: Sequence[str], series: Mapping[str, Mapping[str, float | Spread]], colors: Mapping[str, str]) -> None:
    """Grouped bars, one colour a series; spreads have error bars of one standard deviation, plain numbers (published ones) are hatched."""
    width = 0.8 / max(len(series), 1)
    for number, (name, values) in enumerate(series.items()):
        known = [(place, values[group]) for place, group in enumerate(groups) if group in values]
        places = [place + (number - (len(series) - 1) / 2) * width for place, _ in known]
        means = [value.mean if isinstance(value, Spread) else value for _, value in known]
        errors = [(value.deviation or 0.0) if isinstance(value, Spread) else 0.0 for _, value in known]
        ours = all(isinstance(value, Spread) for _, value in known)
        axes.bar(places, means, width, label=name, color=colors[name], alpha=1.0 if ours else 0.45, hatch=None if ours else "//")
        if any(errors):
            axes.errorbar(places, means, errors, fmt="none", ecolor="black", elinewidth=1, capsize=2)
    axes.set_xticks(range(len(groups)), groups)


def legend_below(figure: Figure) -> None:
    """One legend for all panels, below them, where it hides no bar."""
    named = {label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if named:
        figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=len(named), fontsize="small")


def zoom(axes: Axes) -> None:
    """Let bars of nearly equal height start above zero, where their difference can be seen, and say so."""
    from matplotlib.patches import Rectangle

    tops = [patch.get_bbox().y1 for patch in axes.patches if isinstance(patch, Rectangle)]
    if tops and min(tops) > 0.5 * max(tops):
        reach = max(max(tops) - min(tops), 0.02 * max(tops))
        axes.set_ylim(max(min(tops) - reach, 0.0), max(tops) + reach)
        axes.set_xlabel("the axis does not start at 0", fontsize="x-small")
