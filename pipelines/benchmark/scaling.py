"""How the cost of an epoch grows with users, catalogue, history length and number of intents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from elcrec_tf.config import Config
from pipelines.benchmark.flags import SERIES
from pipelines.benchmark.process import WorkerFailed
from pipelines.benchmark.report import Report, Spread, Table, plain_numbers
from pipelines.benchmark.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_FULL_SOFTMAX = 100_000  # items: beyond, the full softmax is no practical choice on a CPU
_CATALOGUE_EVENTS = 10.0
_LONG_EVENTS = 200.0
_LONG_ITEMS = 4000
_LONG_USERS = 500


@dataclass(frozen=True)
class Point:
    """One training run of a series.

    Attributes:
        series: what grows.
        line: several lines of a series, one for each next-item loss.
        value: how far it has grown.
        config: of the run.
        users: users trained on, for the rate.
        synthetic: arguments of `zipf_sequences` where the data is not the simulator's.
    """

    series: str
    line: str
    value: int
    config: Config
    users: int
    synthetic: dict[str, Any] | None = None

    @property
    def key(self) -> str:
        return f"scaling/{self.series}/{self.line}/{self.value}"


def points(config: Config, options: Any) -> list[Point]:
    """All runs that were asked for."""
    makers = {"users": _users, "catalogue": _catalogue, "length": _length, "intents": _intents}
    return [point for name in SERIES if name in options.series for point in makers[name](config, options)]


def _users(config: Config, options: Any) -> list[Point]:
    base = config.simulator.sim_users
    return [_point("users", base * factor, config.replace(sim_users=base * factor)) for factor in options.user_factors]


def _catalogue(config: Config, options: Any) -> list[Point]:
    found = []
    for items in options.catalogue_sizes:
        users = config.simulator.sim_users
        synthetic = {"users": users, "items": items, "events": _CATALOGUE_EVENTS, "seed": config.simulator.sim_seed}
        for loss in ("sampled_softmax", "softmax"):
            if loss == "sampled_softmax" or items <= _MOST_FULL_SOFTMAX:
                found.append(Point("catalogue", loss, items, config.replace(next_item=loss), users, synthetic))
    return found


def _length(config: Config, options: Any) -> list[Point]:
    """The same long histories throughout: only how much of them the model sees grows."""
    users = min(_LONG_USERS, config.simulator.sim_users)
    longer = config.replace(sim_users=users, sim_items=max(_LONG_ITEMS, config.simulator.sim_items), sim_events=_LONG_EVENTS)
    return [_point("length", length, longer.replace(max_length=length)) for length in options.lengths]


def _intents(config: Config, options: Any) -> list[Point]:
    return [_point("intents", count, config.replace(num_clusters=count)) for count in options.intents]


def _point(series: str, value: int, config: Config) -> Point:
    return Point(series, config.loss.next_item, value, config, config.simulator.sim_users)


def benchmark(run: Run) -> Report:
    """Every point in a fresh process, one repeat after the other. A run that fails, for want of memory say, is a result too."""
    found = points(run.config, run.options)
    rows: dict[str, list[dict[str, Any]]] = {point.key: [] for point in found}
    for repeat in run.repeats:
        for point in found:
            key = f"{point.key}/{repeat}"
            rows[point.key].append(run.journal.measure(key, partial(_measure, run, key, point)))
    summaries = [_summary(point, rows[point.key]) for point in found]
    return Report({"points": summaries}, [_table(summaries)], lambda figure: _draw(figure, summaries))


def _measure(run: Run, key: str, point: Point) -> dict[str, Any]:
    try:
        return run.fresh(key, "train", point.config, synthetic=point.synthetic)
    except WorkerFailed as error:
        run.console.print(str(error))
        return {"failed": str(error)}


def _summary(point: Point, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    about = {"series": point.series, "line": point.line, "value": point.value, "users": point.users}
    failed = [row["failed"] for row in rows if "failed" in row]
    if failed:
        return {**about, "failed": failed[0]}
    later = [seconds for row in rows for seconds in row["epoch_seconds"][1:]]
    return {
        **about,
        "epoch_seconds": Spread.of(later),
        "users_per_second": Spread.of(point.users / seconds for seconds in later),
        "step_seconds": Spread.of(seconds / rows[0]["steps_per_epoch"] for seconds in later),
        "peak_memory_bytes": Spread.of(row["peak_memory_bytes"] for row in rows),
        "padding_share": rows[0]["padding_share"],
    }


def _table(summaries: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for one in summaries:
        name = (f"{one['series']} {one['value']:,}", one["line"])
        if "failed" in one:
            rows.append((*name, "failed", "", "", one["failed"]))
        else:
            cells = (one["epoch_seconds"].text(), one["users_per_second"].text(), one["step_seconds"].text(1e3))
            rows.append((*name, *cells, one["peak_memory_bytes"].text(1e-6)))
    return Table(
        "Cost of an epoch: median (smallest..largest)", ("", "loss", "seconds an epoch", "users/s", "step, ms", "peak memory, MB"), rows
    )


def _draw(figure: Figure, summaries: Sequence[Mapping[str, Any]]) -> None:
    labels = {"users": "users", "catalogue": "items in the catalogue", "length": "max_length", "intents": "intents"}
    done_by_series = {name: [one for one in summaries if one["series"] == name and "failed" not in one] for name in SERIES}
    shown = {name: done for name, done in done_by_series.items() if done}
    for index, (series, done) in enumerate(shown.items(), start=1):
        axes = figure.add_subplot(1, len(shown), index)
        for line in dict.fromkeys(one["line"] for one in done):
            members = [one for one in done if one["line"] == line]
            seconds = [one["epoch_seconds"].median for one in members]
            axes.loglog([one["value"] for one in members], seconds, marker="o", label=line)
        plain_numbers(axes.yaxis)
        values = sorted({one["value"] for one in done})
        axes.set_xticks(values, [f"{value:,}" for value in values], rotation=45)
        axes.set_xticks([], minor=True)
        axes.set(xlabel=labels[series], ylabel="seconds an epoch" if index == 1 else "")
        axes.legend(fontsize="small")
