"""Tables and plot of the updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.benchmark.report import Report, Table, number
from pipelines.living.questions import GROUPS
from pipelines.reproduce.figures import legend_below, panels
from pipelines.reproduce.significance import Spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRIC = "NDCG@20"
Rows = Mapping[tuple[int, int, str], Mapping[str, Any]]
"""What was measured, by (seed, day, method)."""


def make_report(rows: Rows, methods: Sequence[str]) -> Report:
    """A metric by method and group of events, the mean of the updates, with its spread over the seeds; seconds; the metric by day."""
    days = sorted({day for _, day, _ in rows})
    summary = {method: _summary(rows, method) for method in methods}
    lines = [
        (
            method,
            *(summary[method][group].text() for group in GROUPS),
            number(summary[method]["seconds"].mean),
            number(summary[method]["processor_seconds"].mean),
            number(summary[method]["epochs"].mean),
        )
        for method in methods
    ]
    columns = ("", *GROUPS, "seconds an update", "processor seconds", "epochs")
    by_day = {method: [_mean(rows, method, day, "all") for day in days] for method in methods}
    daily = [(str(day), *(f"{by_day[method][place]:.4f}" for method in methods)) for place, day in enumerate(days)]
    tables = [
        Table(f"{METRIC} on the events until the next update", columns, lines),
        Table(f"{METRIC} by day, all events", ("day", *methods), daily),
        Table("events", ("day", *_COUNTS), [(str(day), *_counts(rows, day)) for day in days]),
    ]
    plain = {method: {name: spread.to_dict() for name, spread in values.items()} for method, values in summary.items()}
    return Report(
        {"metric": METRIC, "summary": plain, "by_day": {"days": days, **by_day}}, tables, lambda figure: _draw(figure, rows, methods)
    )


def _seeds(rows: Rows) -> list[int]:
    return sorted({seed for seed, _, _ in rows})


def _summary(rows: Rows, method: str) -> dict[str, Spread]:
    """The mean over the days of each seed: the metric of each group of events, seconds and epochs of training."""
    by_seed: dict[str, list[float]] = {}
    for seed in _seeds(rows):
        mine = [row for (one, _, name), row in rows.items() if one == seed and name == method]
        for group in GROUPS:
            by_seed.setdefault(group, []).append(_weighted(mine, group))
        for name in ("seconds", "processor_seconds", "epochs"):
            by_seed.setdefault(name, []).append(sum(row[name] for row in mine) / len(mine))
    return {name: Spread.of(values) for name, values in by_seed.items()}


def _mean(rows: Rows, method: str, day: int, group: str) -> float:
    return _weighted([row for (_, one, name), row in rows.items() if one == day and name == method], group)


def _weighted(rows: Sequence[Mapping[str, Any]], group: str) -> float:
    """The metric over all the rows' questions of a group."""
    parts = [row["metrics"][group] for row in rows]
    return sum(part["questions"] * part[METRIC] for part in parts) / max(sum(part["questions"] for part in parts), 1)


_COUNTS = (*GROUPS, "cold items", "first events of users")


def _counts(rows: Rows, day: int) -> list[str]:
    """Events of a day, of all seeds: asked for, by group, and not asked for."""
    ones = {seed: row for (seed, one, _), row in rows.items() if one == day}.values()
    asked = [sum(row["metrics"][group]["questions"] for row in ones) for group in GROUPS]
    return [f"{count:,}" for count in (*asked, sum(row["cold"] for row in ones), sum(row["first_events"] for row in ones))]


def _draw(figure: Figure, rows: Rows, methods: Sequence[str]) -> None:
    days = sorted({day for _, day, _ in rows})
    names = {"all events": "all", "old users": "old users", "new items": "new items"}
    for title, axes in panels(figure, [*names, "by cost"]):
        for place, method in enumerate(methods):
            if title in names:
                values = [_mean(rows, method, day, names[title]) for day in days]
                axes.plot(days, values, marker="o", color=f"C{place}", label=method)
                axes.set(xlabel="day", ylabel=METRIC)
            else:
                summary = _summary(rows, method)
                axes.scatter(summary["processor_seconds"].mean, summary["all"].mean, color=f"C{place}", label=method)
                axes.set(xlabel="processor seconds of an update", ylabel=f"{METRIC}, all events")
    legend_below(figure)
