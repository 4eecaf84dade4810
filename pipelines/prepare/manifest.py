"""The manifest, written last: what makes a folder of files a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from elcrec_tf.data.catalog import Catalog
from elcrec_tf.data.records import file_sha256
from elcrec_tf.data.shards import FORMAT, MANIFEST, fingerprint
from elcrec_tf.files import write_json
from pipelines.prepare.options import PrepareOptions
from pipelines.prepare.statistics import activity, popularity

CATALOG = "catalog.parquet"
REJECTS = "rejects.jsonl.gz"
_POSITIONS = {"positions": "int64 [3]: events in the training part, places of the validation and the test target in items (-1 = none)"}


def write_manifest(
    folder: Path,
    options: PrepareOptions,
    times: Mapping[str, Any],
    rejected: Mapping[str, int],
    dropped: Mapping[str, int],
    shards: Sequence[Mapping[str, Any]],
    catalog: Catalog,
) -> dict[str, Any]:
    """Write the manifest of a folder that holds everything else; its content.

    Nothing in it depends on where the input or the folder lies, nor on when it was made.

    Args:
        folder: with the shards, the catalogue and the rejects.
        options: what was asked for.
        times: form and unit of the log's times, and the newest one, be it of an event that was cut off a user's history.
        rejected: reason -> rows that were no events.
        dropped: reason -> events that were left out.
        shards: what `ShardWriter` says of each shard.
        catalog: the catalogue.
    """
    by_time = options.validation_from is not None
    lengths, training = (Counter[int]() for _ in range(2))
    entries = [dict(shard) for shard in shards]
    for shard in entries:
        lengths.update({int(length): users for length, users in shard.pop("lengths").items()})
        training.update({int(length): users for length, users in shard.pop("training_lengths").items()})
    if after_test := sum(shard.pop("after_test") for shard in entries):
        dropped = {**dropped, "after a user's first event of the test part": after_test}
    if cut := sum(shard.pop("cut") for shard in entries):
        dropped = {**dropped, f"beyond a user's latest {options.max_events}": cut}
    if all_rejected := sum(rejected.values()):
        dropped = {"rejected": all_rejected, **dropped}
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "schema": {"user": "bytes", "items": "int64 list, indices in the catalogue, oldest first", **(_POSITIONS if by_time else {})},
        "split": {"by": options.split, "validation_from": options.validation_from, "test_from": options.test_from},
        "settings": {"k_core": options.k_core, "repeated_rows": options.repeated_rows, "ties": "item", "max_events": options.max_events},
        "times": dict(times),
        "users": sum(shard["users"] for shard in entries),
        "items": catalog.num_items,
        "events": sum(shard["events"] for shard in entries),
        "dropped": dropped,
        "rejects": {**_file(folder / REJECTS), "reasons": rejected} if rejected else None,
        "activity": activity(lengths),
        "popularity": popularity(catalog.counts),
        "training_lengths": sorted([length, users] for length, users in training.items() if length >= 2),
        "catalog": _file(folder / CATALOG),
        "shards": entries,
    }
    manifest["fingerprint"] = fingerprint(manifest)
    write_json(folder / MANIFEST, manifest)
    return manifest


def _file(path: Path) -> dict[str, Any]:
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": file_sha256(path)}
