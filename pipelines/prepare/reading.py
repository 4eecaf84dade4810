"""Files of a log -> cleaned rows, on Spark: CSV, Parquet and JSON lines, local or on another file system."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - as everyone calls it
from pyspark.sql import types as T  # noqa: N812

from elcrec_tf.errors import UserError
from pipelines.prepare.options import PrepareOptions, local_path, without_glob
from pipelines.prepare.rows import SCHEMA, CleanJson, CleanNanoseconds, clean_batches, first_lines
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
