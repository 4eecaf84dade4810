"""Cleaned rows -> events, on Spark: the form of their times, repeated rows, the k-core.

No step needs all events of a user or of an item in memory.
"""

from __future__ import annotations

import itertools
from functools import reduce
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F  # noqa: N812 - as everyone calls it

from elcrec_tf.errors import UserError
from pipelines.prepare.options import PrepareOptions, local_path
from pipelines.prepare.rows import FAMILIES, FRACTION, NAIVE_US, ZONED_US, clean


class TimeForm:
    """The one form of times that most rows have: the others are no times that could be compared with them.

    Args:
        counts: kind (see `rows`) -> rows.
    """

    def __init__(self, counts: dict[int, int]) -> None:
        self.name = max(FAMILIES, key=lambda name: sum(counts.get(kind, 0) for kind in FAMILIES[name]))
        self.kinds = FAMILIES[self.name]
        self.floats = self.kinds[1] == FRACTION and counts.get(FRACTION, 0) > 0
        # Years that nanoseconds cannot hold bring all times to microseconds.
        self.microseconds = any(counts.get(kind, 0) for kind in self.kinds if kind in (NAIVE_US, ZONED_US))

    @property
    def unit(self) -> str:
        """What a time counts."""
        if self.kinds[1] == FRACTION:
            return "the log's own numbers"
        return f"{'microseconds' if self.microseconds else 'nanoseconds'} since 1970"

    def column(self) -> Column:
        """The times of rows of these kinds, as one column."""
        if self.floats:
            return F.coalesce("fraction", F.col("whole").cast("double"))
        if self.microseconds:
            return F.when(F.col("kind").isin(NAIVE_US, ZONED_US), F.col("whole")).otherwise(F.expr("(whole - pmod(whole, 1000)) div 1000"))
        return F.col("whole")

    def parse(self, text: str, flag: str) -> Any:
        """A time that was given as text, comparable with `column`. Raises `UserError` where it has another form."""
        values = {"user": "u", "item": "i", "time": text, "malformed": None, "file": None}
        row = clean(pa.RecordBatch.from_pydict({name: pa.array([value], pa.string()) for name, value in values.items()})).to_pylist()[0]
        if row["kind"] not in self.kinds:
            raise UserError(f"{flag} {text} is not of the form of the log's times, which are {self.name}")
        if row["kind"] == FRACTION:
            return row["fraction"]
        if self.microseconds and row["kind"] not in (NAIVE_US, ZONED_US):
            return row["whole"] // 1000
        return row["whole"]


def time_form(rows: DataFrame) -> TimeForm:
    """The form of the times of cleaned rows."""
    counts = rows.where("kind is not null").groupBy("kind").count().collect()
    return TimeForm({row["kind"]: row["count"] for row in counts})


def split_rejects(rows: DataFrame, form: TimeForm) -> tuple[DataFrame, DataFrame]:
    """(events `user`, `item`, `time`; rejects `reason`, `row`, `file`)."""
    good = F.col("kind").isin(*form.kinds)
    events = rows.where(good).select("user", "item", form.column().alias("time"))
    values = F.to_json(F.struct("user", "item", F.coalesce(F.col("whole").cast("string"), F.col("fraction").cast("string")).alias("time")))
    other = F.when(F.col("reason").isNull(), F.lit(f"bad or missing time: others are {form.name}")).otherwise(F.col("reason"))
    rejects = rows.where(F.col("kind").isNull() | ~good).select(other.alias("reason"), F.coalesce("row", values).alias("row"), "file")
    return events, rejects


def by_user(events: DataFrame, drop_repeats: bool) -> DataFrame:
    """Events spread over the cluster by user, kept on disk; with `drop_repeats` each (user, item, time) once."""
    spread = events.repartition("user")
    return (spread.dropDuplicates(["user", "item", "time"]) if drop_repeats else spread).persist(StorageLevel.DISK_ONLY)


def k_core(events: DataFrame, k: int, work: Path) -> DataFrame:
    """The events that remain when users and items with fewer than `k` events go, again and again until none is left to go.

    Counting adds up on each side of a shuffle first, so that a hot item is a few numbers; a heavy user's events are streamed. The sets of
    users and items shrink in turn, and are settled when the items no longer change.

    Args:
        events: `user`, `item` and others.
        k: fewest events.
        work: folder for the sets, which all workers see.
    """
    if k == 1:
        return events
    left, kept = events, -1
    for turn in itertools.count():
        users = _frequent(left, "user", k, work / f"users-{turn}")
        items = _frequent(events.join(users, "user", "left_semi"), "item", k, work / f"items-{turn}")
        left = events.join(items, "item", "left_semi")
        before, kept = kept, items.count()
        if kept == before:
            break
    return left.join(users, "user", "left_semi")


def with_enough_events(events: DataFrame, fewest: int, k: int, work: Path) -> DataFrame:
    """The events of users with at least `fewest` (which a `k`-core may say already)."""
    return events if k >= fewest else events.join(_frequent(events, "user", fewest, work / "long"), "user", "left_semi")


def _frequent(events: DataFrame, name: str, k: int, file: Path) -> DataFrame:
    # Through a file: Spark's plan of each turn would hold those of all turns before it twice, and outgrow the driver's memory.
    frequent = events.groupBy(name).count().where(F.col("count") >= k).select(name)
    frequent.write.parquet(f"file://{file}")  # as it is: no letter of it stands for another
    return events.sparkSession.read.parquet(local_path(str(file)))


def parts(form: TimeForm, options: PrepareOptions) -> Column:
    """0, 1 or 2 for events of the training, validation and test part under a split by time; 0 under leave-one-out.

    Raises:
        UserError: for times of another form than the log's, or in the wrong order.
    """
    if options.validation_from is None or options.test_from is None:
        return F.lit(0)
    starts = [form.parse(options.validation_from, "--validation-from"), form.parse(options.test_from, "--test-from")]
    if starts[0] >= starts[1]:
        raise UserError(f"--validation-from {options.validation_from} should be before --test-from {options.test_from}")
    return reduce(lambda sum, start: sum + (F.col("time") >= F.lit(start)).cast("int"), starts, F.lit(0))
