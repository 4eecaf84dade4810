"""The report's pictures: matplotlib figures as inline SVG.

Text and lines have the page's own colour (`currentColor`), so that a picture fits light and dark pages. Figures are small, because a
page lays them out beside each other, or one below the other on a phone.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from elcrec_tf.reporting.maps import UserMap

COLORS = (
    "#3d7fc1",
    "#d9822b",
    "#3f9c6b",
    "#c65353",
    "#8f6bc9",
    "#b8962e",
    "#4aa3ad",
    "#c2639f",
    "#7d8f2f",
    "#9a6b4b",
    "#5b6fd6",
    "#5f9ea0",
)
_INK = "#123456"  # stands for the page's text colour until the SVG is written
_REST = "#8d949c"
_WIDTH, _HEIGHT = 4.2, 2.6
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "grid.linewidth": 0.5,
    "grid.alpha": 0.15,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "lines.markersize": 3,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), _INK),
}


@dataclass(frozen=True)
class Curve:
    """A line of a chart: its label, and values over x. `color` is an index of `COLORS`."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    color: int = 0


def line_chart(title: str, curves: Sequence[Curve], x_label: str = "epoch", mark: float | None = None) -> Markup:
    """A chart of curves; `mark` draws a dashed line at an x."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(title)
        for curve in curves:
            marker = "o" if len(curve.x) <= 12 else None
            axes.plot(curve.x, curve.y, color=COLORS[curve.color % len(COLORS)], label=_plain(curve.label), marker=marker)
        if mark is not None:
            axes.axvline(mark, color=_INK, linewidth=0.8, linestyle=(0, (3, 3)), alpha=0.5)
        if x_label == "epoch":
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel(x_label)
        axes.margins(y=0.08)
        if len(curves) > 1:
            axes.legend(loc="best", ncols=2 if len(curves) > 3 else 1)
        ends = "; ".join(f"{curve.label} from {curve.y[0]:.4g} to {curve.y[-1]:.4g}" for curve in curves if len(curve.y))
        return _svg(figure, f"{title} over {x_label}: {ends}")


def size_chart(sizes: np.ndarray) -> Markup:
    """Bars of the intents' shares of the users, `[num_clusters]` users each, the largest first; a line shows an equal share."""
    shares = np.sort(sizes)[::-1] / max(sizes.sum(), 1)
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes("Share of users, the largest intent first")
        # One outline instead of a bar each: hundreds of intents stay light, and a single large one visible.
        axes.stairs(shares * 100, fill=True, facecolor=COLORS[0], edgecolor=COLORS[0], alpha=0.8, linewidth=1)
        axes.axhline(100 / len(shares), color=_INK, linewidth=0.8, linestyle=(0, (3, 3)), alpha=0.6)
        axes.annotate("equal share", (len(shares), 100 / len(shares)), (0, 3), textcoords="offset points", ha="right", fontsize=8)
        axes.set(xlabel="intent", ylabel="% of users", xlim=(0, len(shares)), ylim=(0, None))
        return _svg(
            figure, f"Sizes of {len(shares)} intents: from {shares[0]:.1%} to {shares[-1]:.1%} of the users, equal {1 / len(shares):.1%}"
        )


def user_map(users: UserMap, shown: Sequence[int]) -> Markup:
    """A map of users; those of the intents in `shown` have the colours of `COLORS` in order, the others are grey, as are all without."""
    intents = np.full(len(users.points), -1) if users.intents is None else users.intents
    color = {intent: COLORS[index % len(COLORS)] for index, intent in enumerate(shown)}
    with matplotlib.rc_context({**_STYLE, "axes.grid": False}):
        figure = Figure(figsize=(3.4, 3.4), layout="constrained")
        axes = figure.subplots()
        rest = ~np.isin(intents, list(color))
        for inside, alpha in ((rest, 0.3), (~rest, 0.85)):
            colors = [color.get(intent, _REST) for intent in intents[inside]]
            axes.scatter(users.points[inside, 0], users.points[inside, 1], c=colors, s=5, alpha=alpha, linewidths=0, rasterized=True)
        axes.set_title(users.title)
        axes.set_axis_off()
        coloured = "" if users.intents is None else ", coloured by intent"
        return _svg(figure, f"Map of {len(users.points):,} users {users.title}{coloured}", dpi=160)


def center_map(centers: np.ndarray, order: np.ndarray) -> Markup:
    """Cosine between all pairs of centres `[k, size]`, in the given order."""
    cosines = centers[order] @ centers[order].T
    with matplotlib.rc_context({**_STYLE, "axes.grid": False}):
        figure = Figure(figsize=(4.0, 3.4), layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(cosines, cmap=_diverging(), vmin=-1, vmax=1, interpolation="none" if len(order) < 200 else "antialiased")
        axes.set_axis_off()
        bar = figure.colorbar(image, ax=axes, shrink=0.8, ticks=[-1, -0.5, 0, 0.5, 1])
        bar.outline.set_visible(False)
        axes.set_title("Cosine between intents, similar ones side by side", loc="left")
        return _svg(figure, f"Cosine between the centres of {len(order)} intents", dpi=160)


def _axes(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
    axes = figure.subplots()
    axes.set_title(_plain(title), loc="left")
    return figure, axes


def _diverging() -> ListedColormap:
    """Blue, transparent, orange: 0 has the page's colour, light or dark."""
    ends = [np.array([int(COLORS[index][start : start + 2], 16) / 255 for start in (1, 3, 5)]) for index in (0, 1)]
    steps = np.linspace(-1, 1, 255)
    return ListedColormap([(*ends[int(step > 0)], abs(step) ** 0.8) for step in steps])


def _plain(text: str) -> str:
    """Text that matplotlib takes as it is: a dollar sign would begin a formula, and an underscore hide a curve from the legend."""
    return ("\u200b" if text.startswith("_") else "") + text.replace("$", r"\$")


def _svg(figure: Figure, description: str, dpi: int = 100) -> Markup:
    """The figure as an SVG element of no fixed size, the same text for the same figure, described for those who cannot see it."""
    buffer = io.StringIO()
    # Without a salt the ids that a picture refers to would be random.
    with matplotlib.rc_context({"svg.hashsalt": "elcrec_tf"}):
        figure.savefig(buffer, format="svg", transparent=True, dpi=dpi, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # they name nothing that is referred to, and repeat from picture to picture
    head, body = text.split(">", 1)
    view = re.search(r'viewBox="[^"]*"', head)
    assert view is not None
    return Markup(f'<svg {view[0]} role="img" aria-label="{escape(description)}">{body}')
