"""The preparation as a whole: rows -> events -> catalogue and sequences -> shards -> manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - as everyone calls it

from elcrec_tf.data.catalog import Catalog
from elcrec_tf.errors import UserError
from pipelines.prepare import events as steps
from pipelines.prepare.folder import partial_folder
from pipelines.prepare.manifest import CATALOG, REJECTS, write_manifest
from pipelines.prepare.options import PrepareOptions
from pipelines.prepare.reading import read_rows
from pipelines.prepare.writing import RESULT_SCHEMA, RejectWriter, ShardWriter

if TYPE_CHECKING:
    from rich.console import Console


def prepare(spark: SparkSession, options: PrepareOptions, console: Console) -> dict[str, Any]:
    """Prepare a data set; its manifest.

    The same input gives the same bytes, whatever the order of its rows, the number of partitions, and the tasks that had to run again.

    Raises:
        UserError: for an output that is in use, an input that cannot be read, and one of which nothing is left.
    """
    output = Path(options.output).absolute()
    earlier = _earlier_catalog(options.catalog)
    with partial_folder(output, options.overwrite) as folder:
        rows = read_rows(spark, options)
        form = steps.time_form(rows)
        part = steps.parts(form, options)
        good, rejects = steps.split_rejects(rows, form)
        rejected = _write_rejects(rejects, folder)
        console.print(f"{rows.count():,} rows read, {sum(rejected.values()):,} rejected")
        core, dropped = _filtered(good, options, folder / ".work", console)
        index = _catalog(core, earlier)
        shards, counts = _write_shards(spark, core.withColumn("part", part), index, options, folder)
        catalog = Catalog(index, counts, earlier.titles if earlier else None)
        catalog.save(folder / CATALOG)
        times = {"form": form.name, "unit": form.unit, "newest": core.agg(F.max("time")).collect()[0][0]}
        return write_manifest(folder, options, times, rejected, dropped, shards, catalog)


def _earlier_catalog(path: str | None) -> Catalog | None:
    if path is None:
        return None
    return Catalog.load(Path(path) / CATALOG if Path(path).is_dir() else Path(path))


def _write_rejects(rejects: DataFrame, folder: Path) -> dict[str, int]:
    """Write the rejects, sorted, to one file; reason -> rows. There is no file where there are none."""
    counts = {row["reason"]: row["count"] for row in rejects.groupBy("reason").count().orderBy("reason").collect()}
    if counts:
        in_order = rejects.repartition(1).sortWithinPartitions("reason", "row", "file")
        in_order.mapInArrow(RejectWriter(str(folder / REJECTS)), "rows bigint").collect()
    return counts


def _filtered(good: DataFrame, options: PrepareOptions, work: Path, console: Console) -> tuple[DataFrame, dict[str, int]]:
    """The events that are kept, on disk, and how many were dropped for which reason."""
    kept = steps.by_user(good, options.repeated_rows == "drop")
    core = steps.k_core(kept, options.k_core, work).persist(StorageLevel.DISK_ONLY)
    long = steps.with_enough_events(core, options.fewest_events, options.k_core, work)
    if long is not core:
        long = long.persist(StorageLevel.DISK_ONLY)
    counts = [good.count(), kept.count(), core.count(), long.count()]
    reasons = ("repeated", "k-core", f"fewer than {options.fewest_events} events")
    dropped = {name: before - after for name, before, after in zip(reasons, counts, counts[1:], strict=False) if before > after}
    if not counts[-1]:
        raise UserError(f"{options.input}: nothing is left of {counts[0]:,} events ({dropped}); try a smaller --k-core (1 keeps all)")
    console.print(f"{counts[-1]:,} events kept; dropped: {', '.join(f'{rows:,} {name}' for name, rows in dropped.items()) or 'none'}")
    return long, dropped


def _catalog(core: DataFrame, earlier: Catalog | None) -> list[str]:
    """Raw item ids in the order of their indices: those of an earlier catalogue as they were, then new ones by id.

    Raises:
        UserError: when there is one item only.
    """
    ids = sorted(core.select("item").distinct().toArrow()["item"].to_pylist())
    if earlier is not None:
        known = set(earlier.ids)
        ids = [*earlier.ids, *(raw for raw in ids if raw not in known)]
    if len(ids) < 2:
        raise UserError(f"one item only is left ({ids[0]!r}); there is nothing to rank below two items")
    return ids


def _write_shards(
    spark: SparkSession, core: DataFrame, ids: list[str], options: PrepareOptions, folder: Path
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Write the shards; what the manifest says of each, and every item's events in the training part."""
    index = spark.createDataFrame(pa.table({"item": pa.array(ids, pa.string()), "index": np.arange(1, len(ids) + 1, dtype=np.int32)}))
    # The same hash picks the shard and orders its users: a shard is a random sample, and so is its beginning.
    core = core.join(index, "item").withColumn("hash", F.xxhash64("user"))
    core = core.withColumn("shard", F.pmod("hash", F.lit(options.shards)).cast("int"))
    core = core.repartition(options.shards, "shard").sortWithinPartitions("shard", "hash", "user", "time", "item")
    by_time = options.validation_from is not None
    writer = ShardWriter(str(folder), options.shards, len(ids), by_time, options.max_events)
    result = core.select("shard", "user", "index", "part").mapInArrow(writer, RESULT_SCHEMA).persist(StorageLevel.DISK_ONLY)
    shards = [json.loads(row["shard"]) for row in result.where("shard is not null").select("shard").collect()]
    events = result.where("item is not null").groupBy("item").agg(F.sum("events").alias("events")).toArrow()
    counts = np.zeros(len(ids), np.int64)
    counts[events["item"].to_numpy() - 1] = events["events"].to_numpy()
    return sorted(shards, key=lambda shard: shard["file"]), counts
