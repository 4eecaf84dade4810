"""The gate: checks of the data and of the new model, each with what was found and what is allowed. Numbers in, verdicts out."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

HOUR = 3600.0


@dataclass(frozen=True)
class Limits:
    """What the gate allows.

    Attributes:
        max_drop: relative loss of the validation metric against the serving model.
        min_metric: lowest validation metric; None for any.
        max_change: relative change of the number of users, items and events since the run that was published last.
        max_rejected: share of the log's rows that are no events.
        max_unknown: share of the events on items that the serving model does not know.
        max_divergence: Jensen-Shannon divergence, in bits, of the items' popularity from what the serving model was trained on.
        max_age: hours since the newest event; None for any age.
        max_ahead: hours by which the newest event may lie in the future: local times may be read as UTC.
        tolerance: difference between a score of the export and the model's own.
    """

    max_drop: float = 0.05
    min_metric: float | None = None
    max_change: float = 0.5
    max_rejected: float = 0.01
    max_unknown: float = 0.3
    max_divergence: float = 0.5
    max_age: float | None = None
    max_ahead: float = 24.0
    tolerance: float = 1e-3

    def of(self, *names: str) -> dict[str, Any]:
        """Some of the limits, ready for JSON."""
        return {name: getattr(self, name) for name in names}


DATA_LIMITS = ("max_change", "max_rejected", "max_unknown", "max_divergence", "max_age", "max_ahead")
MODEL_LIMITS = ("max_drop", "min_metric", "tolerance")


@dataclass(frozen=True)
class Check:
    """A row of the gate's table.

    Attributes:
        name: what is looked at.
        value: what was found; None where that is no number.
        bound: `at least`, `more than` or `at most`.
        limit: what is allowed.
        passed: whether the value keeps within it. What is no number does not.
        note: the numbers that the value was made of.
    """

    name: str
    value: float | None
    bound: str
    limit: float
    passed: bool
    note: str = ""


def at_least(name: str, value: float | None, limit: float, note: str = "") -> Check:
    return _check(name, value, "at least", limit, note)


def more_than(name: str, value: float | None, limit: float, note: str = "") -> Check:
    return _check(name, value, "more than", limit, note)


def at_most(name: str, value: float | None, limit: float, note: str = "") -> Check:
    return _check(name, value, "at most", limit, note)


def _check(name: str, value: float | None, bound: str, limit: float, note: str) -> Check:
    if value is None or not math.isfinite(value):
        return Check(name, None, bound, float(limit), False, note)
    return Check(name, float(value), bound, float(limit), bool(_KEEPS[bound](value, limit)), note)


_KEEPS: dict[str, Callable[[float, float], bool]] = {"at least": operator.ge, "more than": operator.gt, "at most": operator.le}


def verdict(checks: Sequence[Check]) -> dict[str, Any]:
    """The checks ready for JSON, with whether all of them passed."""
    return {"passed": all(check.passed for check in checks), "checks": [asdict(check) for check in checks]}


def relative(new: float, old: float) -> float:
    """The relative change; from nothing to something it is 1."""
    return (new - old) / old if old else float(new > 0)


def data_checks(
    data: Mapping[str, Any], last: Mapping[str, Any] | None, moved: Mapping[str, Any] | None, limits: Limits, clock: float
) -> list[Check]:
    """What the prepared data is checked for.

    Args:
        data: `rows`, `rejected` (reason -> rows), `users`, `items`, `events`, `newest` (time of the newest event in the log's own unit)
            and `newest_seconds` (the same since 1970).
        last: the same of the run that was published last; None where there is none.
        moved: what `elcrec_tf.data.data_drift.catalog_drift` tells from the serving model's catalogue to the data's; None where nothing
            is served.
        limits: what is allowed.
        clock: seconds since 1970.
    """
    rejected = sum(data["rejected"].values())
    reasons = ", ".join(f"{rows:,} {reason}" for reason, rows in data["rejected"].items())
    checks = [at_most("data: share of rejected rows", rejected / max(data["rows"], 1), limits.max_rejected, reasons)]
    if last is not None:
        for name in ("users", "items", "events"):
            change = abs(relative(data[name], last[name]))
            checks.append(at_most(f"data: change of the number of {name}", change, limits.max_change, f"{last[name]:,} -> {data[name]:,}"))
        if last["newest_seconds"] <= clock + limits.max_ahead * HOUR:  # one beyond that was published by an older version
            later = (data["newest_seconds"] - last["newest_seconds"]) / HOUR
            checks.append(at_least("data: hours from the last run's newest event to this one's", later, 0))
    if moved is not None:
        items = moved["items"]
        note = f"{items['new']:,} new items, {items['gone']:,} gone"
        checks.append(at_most("data: share of events on items unknown to serving", moved["events_on_new_items"], limits.max_unknown, note))
        checks.append(at_most("data: divergence of the items' popularity, bits", moved["popularity_divergence"], limits.max_divergence))
    age = (clock - data["newest_seconds"]) / HOUR
    if limits.max_age is not None:
        checks.append(at_most("data: hours since the newest event", age, limits.max_age))
    # Were it published, the events of every later run would count as older than this one's.
    note = "--max-ahead allows more, as times need that are no dates"
    checks.append(at_most("data: hours by which the newest event lies in the future", -age, limits.max_ahead, note))
    return checks


def model_checks(found: Mapping[str, Any], metric: str, limits: Limits) -> list[Check]:
    """What the new model and its export are checked for.

    Args:
        found: what `pipelines.production.comparison.compare` tells.
        metric: the validation metric.
        limits: what is allowed.
    """
    new, popular = found["new"][metric], found["popularity"][metric]
    name = f"model: validation {metric}"
    checks = [more_than(f"{name} against popularity, relative", relative(new, popular), 0.0, f"{new:.4f} against {popular:.4f}")]
    if limits.min_metric is not None:
        checks.append(at_least(name, new, limits.min_metric))
    if found["serving"] is not None:
        for part, title in (("all", "against serving"), ("known", "against serving, on items known to it")):
            one = found["serving"][part]
            note = f"{one['new']:.4f} against {one['old']:.4f}, difference's standard error {one['error']:.4f}, {one['users']:,} users"
            checks.append(at_least(f"{name} {title}, relative", relative(one["new"], one["old"]), -limits.max_drop, note))
    parity = found["parity"]
    note = f"{parity['users']:,} users' answers"
    checks.append(at_most("export: largest difference of a score from the model's", parity["score_difference"], limits.tolerance, note))
    checks.append(at_most("export: items that the model would not answer", parity["other_items"], 0, note))
    return checks
