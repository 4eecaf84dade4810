"""The report's page: templates filled with what the sections say. Everything that comes from data is escaped."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import jinja2
from markupsafe import Markup

from elcrec_tf import __version__

_DIGITS = 4


def render(runs: list[dict[str, Any]], comparison: dict[str, Any] | None) -> str:
    """The page as HTML.

    Args:
        runs: views of `elcrec_tf.reporting.sections.run_view`.
        comparison: view of `elcrec_tf.reporting.comparison.comparison_view`, None for one run.
    """
    loader = jinja2.PackageLoader("elcrec_tf.reporting")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    filters = (_metric, _percent, _signed_percent, _count, _duration, _setting)
    environment.filters |= {one.__name__.removeprefix("_"): one for one in filters} | {"picture": _numbered_pictures()}
    return environment.get_template("page.html").render(runs=runs, comparison=comparison, version=__version__)


def _numbered_pictures() -> Callable[[Markup], Markup]:
    """A filter that makes the ids of each picture its own: two equal pictures on a page would share theirs."""
    numbers = itertools.count(1)
    return lambda svg: Markup(re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>picture-{next(numbers)}-", str(svg)))


def _metric(value: float) -> str:
    return f"{value:.{_DIGITS}f}"


def _percent(share: float, digits: int = 0) -> str:
    return f"{share:.{digits}%}"


def _signed_percent(share: float) -> str:
    return f"{share:+.0%}".replace("-", "−")


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _duration(seconds: float) -> str:
    """`42 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.3g} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "none" if value is None else f"{value:.12g}" if isinstance(value, float) else str(value)
