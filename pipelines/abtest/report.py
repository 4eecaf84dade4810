"""An experiment's result as tables, JSON and a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.abtest.analysis import METRICS, OVERALL, Comparison
from pipelines.abtest.audience import GROUPS, Audience
from pipelines.abtest.statistics import Ratio
from pipelines.abtest.visits import Totals
from pipelines.benchmark.report import Report, Table
from pipelines.reproduce.figures import legend_below
from pipelines.reproduce.significance import p_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNDEFINED = "-"
_LIFT_COLUMNS = ("lift, %", "95 % interval", "p")


def make_report(comparisons: Sequence[Comparison], audience: Audience, bounds: Mapping[str, Totals], detect: float) -> Report:
    """Everything that an experiment found.

    Args:
        comparisons: see `analysis.compare`.
        audience: its users.
        bounds: what all users did under other policies, by name; may be empty.
        detect: the lift that the table tells the needed users for.
    """
    overall = [one for one in comparisons if one.group == OVERALL]
    limits = {name: [metric.ratio(totals, np.ones(len(totals.clicks), bool)) for metric in METRICS] for name, totals in bounds.items()}
    ranges = _ranges(audience)
    tables = [
        _audience_table(overall[0], comparisons, ranges),
        _lift_table(overall),
        _size_table(overall, detect),
        _group_table(comparisons),
    ]
    tables += [_bounds_table(overall, limits)] if limits else []
    result = {
        "overall": [_plain(one, detect) for one in overall],
        "groups": [_plain(one, detect) for one in comparisons if one.group != OVERALL],
        "history_lengths": ranges,
        "bounds": {name: {m.name: ratio.value for m, ratio in zip(METRICS, ratios, strict=True)} for name, ratios in limits.items()},
    }
    return Report(result, tables, lambda figure: _draw(figure, comparisons))


def _audience_table(overall: Comparison, comparisons: Sequence[Comparison], ranges: Mapping[str, str]) -> Table:
    one_a_group = {one.group: one for one in comparisons if one.metric is overall.metric}
    rows = [[name, ranges.get(name, ""), f"{one.a.users:,}", f"{one.b.users:,}"] for name, one in one_a_group.items()]
    return Table("Users, by their activity before the experiment", ("group", "events", "users A", "users B"), rows)


def _lift_table(overall: Sequence[Comparison]) -> Table:
    rows = [[one.metric.name, *_value_cells(one), *_lift_cells(one)] for one in overall]
    meanings = "; ".join(f"{one.metric.name}: {one.metric.meaning}" for one in overall)
    return Table(f"All users ({meanings})", ("metric", "A", "B", *_LIFT_COLUMNS), rows)


def _size_table(overall: Sequence[Comparison], detect: float) -> Table:
    rows = []
    for one in overall:
        cells = [UNDEFINED] * 3
        if one.lift:
            needed = (one.lift.users_needed(lift) for lift in (one.lift.value, detect))
            cells = [f"{100 * one.lift.detectable:.2f}", *(UNDEFINED if users is None else f"{users:,}" for users in needed)]
        rows.append([one.metric.name, *cells])
    title = "Sample size: the lift that so many users detect, and the users an arm that detect a lift (80 % power, 5 % level)"
    return Table(title, ("metric", "detectable, %", "users for the lift seen", f"users for {detect:+.1%}"), rows)


def _group_table(comparisons: Sequence[Comparison]) -> Table:
    rows = []
    for one in comparisons:
        if one.group != OVERALL:
            corrected = UNDEFINED if one.p_corrected is None else p_text(one.p_corrected)
            rows.append([one.group, one.metric.name, *_value_cells(one), *_lift_cells(one), corrected])
    title = "By activity (Holm: p corrected for the groups of a metric; the other tables' p are not corrected)"
    return Table(title, ("group", "metric", "A", "B", *_LIFT_COLUMNS, "Holm"), rows)


def _bounds_table(overall: Sequence[Comparison], limits: Mapping[str, Sequence[Ratio]]) -> Table:
    """Where A and B lie between `limits`, the lowest first."""
    (low_name, low), (high_name, high) = limits.items()
    rows = []
    for one, floor, ceiling in zip(overall, low, high, strict=True):
        room = ceiling.value - floor.value
        shares = [(arm.value - floor.value) / room if room > 0 else None for arm in (one.a, one.b)]
        values = [one.metric.text(ratio.value) for ratio in (floor, one.a, one.b, ceiling)]
        rows.append([one.metric.name, *values, *(UNDEFINED if share is None else f"{share:.0%}" for share in shares)])
    title = f"Between {low_name} and {high_name}, each answering all users (share: how far an arm has come from one to the other)"
    return Table(title, ("metric", low_name, "A", "B", high_name, "share A", "share B"), rows)


def _value_cells(one: Comparison) -> list[str]:
    return [one.metric.text(one.a.value), one.metric.text(one.b.value)]


def _lift_cells(one: Comparison) -> list[str]:
    if one.lift is None:
        return [UNDEFINED] * 3
    value, low, high = (f"{100 * lift:+.2f}" for lift in (one.lift.value, one.lift.low, one.lift.high))
    return [value, f"{low} .. {high}", p_text(one.lift.p)]


def _ranges(audience: Audience) -> dict[str, str]:
    """Group -> the lengths of its histories, such as `5-8`; groups with a user only."""
    lengths = np.array([len(history) for history in audience.histories])
    found = {name: lengths[audience.groups == index] for index, name in enumerate(GROUPS)}
    return {name: f"{own.min()}" if own.min() == own.max() else f"{own.min()}-{own.max()}" for name, own in found.items() if len(own)}


def _plain(one: Comparison, detect: float) -> dict[str, Any]:
    arms = {name: {"users": arm.users, "value": arm.value} for name, arm in (("a", one.a), ("b", one.b))}
    plain: dict[str, Any] = {"group": one.group, "metric": one.metric.name, "meaning": one.metric.meaning, **arms, "lift": None}
    if one.lift:
        needed = {"users_an_arm_for_this_lift": one.lift.users_needed(one.lift.value), "detect": detect}
        plain["lift"] = asdict(one.lift) | needed | {"users_an_arm_to_detect": one.lift.users_needed(detect)}
        plain["p_corrected"] = one.p_corrected
    return plain


def _draw(figure: Figure, comparisons: Sequence[Comparison]) -> None:
    """A panel a metric: lifts with their intervals, a line a group."""
    groups = list(dict.fromkeys(one.group for one in comparisons))
    for index, metric in enumerate(METRICS, 1):
        axes = figure.add_subplot(1, len(METRICS), index)
        axes.set_title(f"{metric.name}\n{metric.meaning}", fontsize="medium")
        axes.axvline(0, color="black", linewidth=0.8)
        axes.grid(axis="x", alpha=0.3)
        for one in comparisons:
            if one.metric is metric and one.lift:
                percents = [100 * value for value in (one.lift.low, one.lift.value, one.lift.high)]
                sure = one.lift.p < 0.05 if one.p_corrected is None else one.p_corrected < 0.05
                row, colour = groups.index(one.group), "C0" if sure else "0.6"
                axes.plot([percents[0], percents[2]], [row, row], color=colour, linewidth=2)
                label = "p < .05 (groups: corrected)" if sure else "no significant lift"
                axes.plot(percents[1], row, "o", color=colour, label=label)
        axes.set_yticks(range(len(groups)), groups)
        axes.set_ylim(len(groups) - 0.5, -0.5)
        axes.set_xlabel("lift of B over A, %")
    legend_below(figure)
