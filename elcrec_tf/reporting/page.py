"""The report's page: templates filled with what the sections say. Everything that comes from data is escaped."""

from __future__ import annotations

from typing import Any

import jinja2

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
    environment.filters |= {"metric": _metric, "percent": _percent, "count": _count, "duration": _duration, "setting": _setting}
    return environment.get_template("page.html").render(runs=runs, comparison=comparison, version=__version__)


def _metric(value: float) -> str:
    return f"{value:.{_DIGITS}f}"


def _percent(share: float, digits: int = 0) -> str:
    return f"{share:.{digits}%}"


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
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
