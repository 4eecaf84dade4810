"""Data sets in shards as `pipelines.prepare` writes them, made from sequences in memory, without Spark."""

import json

import numpy as np
import pyarrow as pa

from elcrec_tf.data.catalog import Catalog
from elcrec_tf.data.shards import load_shards
from pipelines.prepare.manifest import write_manifest
from pipelines.prepare.options import PrepareOptions
from pipelines.prepare.writing import ShardWriter


def batches_of(sequences, shards, parts=None, rows=7):
    """What Spark hands to a writer: events sorted by shard and user, in batches that end anywhere. `parts` are those of a split by time."""
    order = sorted(range(sequences.num_users), key=lambda user: (user % shards, user))
    lengths = np.diff(sequences.offsets)[order]
    events = np.concatenate([np.arange(*sequences.offsets[user : user + 2]) for user in order])
    table = pa.table(
        {
            "shard": np.repeat(np.array(order) % shards, lengths).astype(np.int32),
            "user": pa.array(np.repeat(sequences.user_ids[order], lengths), pa.string()),
            "index": sequences.items[events],
            "part": (np.zeros(len(events)) if parts is None else parts[events]).astype(np.int32),
        }
    )
    return table.to_batches(max_chunksize=rows)


def written(writer, batches):
    """(what the writer says of each shard, events of each item in the training part)."""
    counts, shards = np.zeros(writer.num_items, np.int64), []
    for row in (row for result in writer(iter(batches)) for row in result.to_pylist()):
        if row["shard"] is None:
            counts[row["item"] - 1] += row["events"]
        else:
            shards.append(json.loads(row["shard"]))
    return shards, counts


def write_shards(sequences, folder, shards=3, parts=None, max_events=None):
    """Write a data set; its manifest."""
    folder.mkdir()
    by_time = parts is not None
    split = {"split": "time", "validation_from": "1", "test_from": "2"} if by_time else {}
    options = PrepareOptions("log.csv", "csv", str(folder), shards=shards, max_events=max_events, **split)
    writer = ShardWriter(str(folder), shards, sequences.catalog.num_items, by_time, max_events)
    infos, counts = written(writer, batches_of(sequences, shards, parts))
    catalog = Catalog(sequences.catalog.ids, counts)
    catalog.save(folder / "catalog.parquet")
    return write_manifest(folder, options, {"form": "numbers", "unit": "the log's own numbers"}, {}, {}, infos, catalog)


def sharded(sequences, folder, **arguments):
    """The same, opened."""
    write_shards(sequences, folder, **arguments)
    return load_shards(folder, sequences.name)
