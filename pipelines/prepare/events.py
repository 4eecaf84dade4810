"""Raw log -> clean events, on Spark: reading, the form of its times, repeated rows, the k-core.

No step needs all events of a user or of an item in memory.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - as everyone calls it
from pyspark.sql import types as T  # noqa: N812

from elcrec_tf.errors import UserError
from pipelines.prepare.options import PrepareOptions, local_path, without_glob
from pipelines.prepare.rows import (
    FAMILIES,
    FRACTION,
    NAIVE_US,
    SCHEMA,
    ZONED_US,
    CleanJson,
    CleanNanoseconds,
    clean,
    clean_batches,
    first_lines,
)
from pipelines.prepare.session import reason

_BAD = "_malformed"
_IDS = (T.StringType, T.BinaryType, T.IntegralType, T.FractionalType)
_TIMES = (*_IDS, T.TimestampType, T.TimestampNTZType, T.DateType)
Task = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]


def read_rows(spark: SparkSession, options: PrepareOptions) -> DataFrame:
    """The rows of the log, cleaned: the columns of `rows.SCHEMA`, kept on disk.

    Raises:
        UserError: for files that are not there or cannot be read, and columns that are missing or hold neither ids nor times.
    """
    try:
        raw = {"csv": _csv, "parquet": _parquet, "jsonl": _json}[options.format](spark, options)
        rows = raw.persist(StorageLevel.DISK_ONLY)
        rows.count()
    except UserError:
        raise
    except Exception as error:  # Spark's own, of many kinds
        raise UserError(f"{options.input}: cannot be read as {options.format}: {reason(error)}") from None
    return rows


def _csv(spark: SparkSession, options: PrepareOptions) -> DataFrame:
    names = _header(spark, options)
    _check_columns(options, names, options.input)
    # By their places: names of other columns may be empty, or there twice, which Spark's columns may not.
    places = [f"column{place}" for place in range(len(names))]
    schema = T.StructType([T.StructField(name, T.StringType()) for name in (*places, _BAD)])
    # A quote within quotes is doubled, as in every reader but Spark's.
    reader = spark.read.option("header", True).option("escape", '"').option("columnNameOfCorruptRecord", _BAD)
    return _cleaned(reader.schema(schema).csv(options.paths), [places[names.index(name)] for name in options.columns], F.col(_BAD))


def _header(spark: SparkSession, options: PrepareOptions) -> list[str]:
    """The names of the columns, which all files have to have in the same order."""
    lines = spark.read.text(options.paths).where("trim(value) != '' and _metadata.file_block_start = 0")
    lines = lines.select(F.col("value").alias("line"), F.col("_metadata.file_path").alias("file"))
    firsts = sorted((row["file"], row["line"]) for row in lines.mapInArrow(first_lines, "line string, file string").collect())
    headers = {file: next(csv.reader([line])) for file, line in firsts}
    first = next(iter(headers), "")
    for file, names in headers.items():
        if names != headers[first]:
            raise UserError(
                f"{_path(file)}: its header names the columns {', '.join(map(repr, names[:30]))}, but that of {_path(first)} "
                f"{', '.join(map(repr, headers[first][:30]))}; give all files the same columns in the same order, or prepare them apart"
            )
    return headers.get(first, [])


def _path(uri: str) -> str:
    """A file's path, be it with the scheme and host of another file system."""
    return unquote(urlsplit(uri).path if uri.startswith("file:") else uri)


def _parquet(spark: SparkSession, options: PrepareOptions) -> DataFrame:
    """Files whose columns are of other types are read apart: Spark would read all of them as the first one is."""
    rows = spark.read.parquet(*options.paths)
    groups: dict[tuple[str, ...], list[str]] = {}
    files = sorted(rows.inputFiles())
    with ThreadPoolExecutor(16) as pool:
        kinds = list(pool.map(lambda file: _types(spark, file, options.columns), files))
    for file, types in zip(files, kinds, strict=True):
        groups.setdefault(types, []).append(_path(file))
    if len(groups) == 1:
        return _parquet_rows(rows, options, next(iter(groups)), options.input)
    groups_rows = ((spark.read.parquet(*map(_exactly, paths)), types, paths[0]) for types, paths in groups.items())
    return reduce(DataFrame.unionAll, (_parquet_rows(rows, options, types, source) for rows, types, source in groups_rows))


def _exactly(path: str) -> str:
    """What Spark takes for a path of `_path`."""
    return local_path(path) if path.startswith("/") else without_glob(path)


def _types(spark: SparkSession, file: str, columns: Sequence[str]) -> tuple[str, ...]:
    """Types of some columns of a file, as Arrow calls them; as Spark does where the file is not on this machine. Empty: not there."""
    if not file.startswith("file:"):
        schema = spark.read.parquet(without_glob(_path(file))).schema
        return tuple(schema[name].dataType.simpleString() if name in schema.names else "" for name in columns)
    try:
        schema = pq.read_schema(_path(file))
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{_path(file)}: is not a readable Parquet file ({error}); write it again, or take it out") from None
    return tuple(str(schema.field(name).type) if name in schema.names else "" for name in columns)


def _parquet_rows(rows: DataFrame, options: PrepareOptions, types: Sequence[str], source: str) -> DataFrame:
    _check_columns(options, rows.columns, source)
    for name, kinds in zip(options.columns, (_IDS, _IDS, _TIMES), strict=True):
        kind = rows.schema[name].dataType
        if not isinstance(kind, kinds):
            holds = "times should be numbers, dates or timestamps" if kinds is _TIMES else "ids should be strings or whole numbers"
            raise UserError(f"{source}: column {name!r} is of type {kind.simpleString()}; {holds}")
    nanoseconds = re.fullmatch(r"timestamp\[ns(?:, tz=(.+))?\]", types[2])
    as_numbers = isinstance(rows.schema[options.columns[2]].dataType, T.LongType)
    task = CleanNanoseconds(nanoseconds[1]) if nanoseconds and as_numbers else clean_batches
    return _cleaned(rows, options.columns, F.lit(None).cast("string"), task)


def _json(spark: SparkSession, options: PrepareOptions) -> DataFrame:
    lines = spark.read.text(options.paths).where(F.trim("value") != "")
    lines = lines.select(F.col("value").cast("binary").alias("line"), F.col("_metadata.file_name").alias("file"))
    return lines.mapInArrow(CleanJson(options.columns), SCHEMA)


def _check_columns(options: PrepareOptions, present: list[str], source: str) -> None:
    for name, flag in zip(options.columns, ("--user-column", "--item-column", "--time-column"), strict=True):
        if name not in present:
            names = ", ".join(map(repr, present[:30]))
            raise UserError(f"{source}: has no column {name!r}; its columns are {names}. Name the right one with {flag}")
        if (times := present.count(name)) > 1:
            raise UserError(f"{source}: has {times} columns named {name!r}; rename all but one, or name another with {flag}")


def _cleaned(rows: DataFrame, names: Sequence[str], malformed: Column, task: Task = clean_batches) -> DataFrame:
    columns = [F.col(f"`{name}`").alias(role) for name, role in zip(names, ("user", "item", "time"), strict=True)]
    return rows.select(*columns, malformed.alias("malformed"), F.col("_metadata.file_name").alias("file")).mapInArrow(task, SCHEMA)


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
