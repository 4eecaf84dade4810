"""A data set in shards, as `python -m pipelines.prepare` leaves it: the manifest, its checks, and what it says without reading the data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from elcrec_tf.data.catalog import Catalog
from elcrec_tf.data.records import file_sha256
from elcrec_tf.data.sequences import Sequences
from elcrec_tf.errors import UserError
from elcrec_tf.padding import PADDING

MANIFEST = "manifest.json"
FORMAT = "elcrec_tf shards 1"
LEAVE_ONE_OUT, BY_TIME = "leave-one-out", "time"


@dataclass(frozen=True, eq=False)
class ShardedSequences:
    """What `Sequences` says about users in memory, for users in files; histories are read with `elcrec_tf.data.shard_stream`.

    Attributes:
        name: short name of the data set.
        folder: where the shards lie.
        catalog: raw item ids, their indices, their counts in the training part.
        manifest: content of manifest.json.
        dropped: what was left out on purpose when the data was prepared, reason -> rows.
        translation: `[items of the shards + 1]` int32 index in `catalog` of each item index in the shards, 0 = unknown there; None where
            they are the same.
    """

    name: str
    folder: Path
    catalog: Catalog
    manifest: Mapping[str, Any]
    dropped: dict[str, int] = field(default_factory=dict)
    translation: np.ndarray | None = None

    intents = None
    """Planted intents are known of simulated data in memory only."""

    @property
    def num_users(self) -> int:
        return self.manifest["users"]

    @property
    def num_events(self) -> int:
        return self.manifest["events"]

    @property
    def num_training_users(self) -> int:
        """Users with two events in the training part."""
        return sum(self.training_users_of(0, 1))

    @property
    def fingerprint(self) -> str:
        return self.manifest["fingerprint"]

    @property
    def by_time(self) -> bool:
        """Whether the data was split by time; else by leave-one-out."""
        return self.manifest["split"]["by"] == BY_TIME

    @property
    def description(self) -> str:
        """One line: the name, the size, and what was left out on purpose."""
        size = f"{self.num_users:,} users, {self.catalog.num_items:,} items, {self.num_events:,} events"
        dropped = ", ".join(f"{rows:,} {reason}" for reason, rows in self.dropped.items())
        text = f"{self.name}: {size} in {len(self.manifest['shards'])} shards, split by {self.manifest['split']['by']}"
        return text + (f"; left out: {dropped}" if dropped else "")

    @property
    def example(self) -> list[str]:
        """Three raw ids that a history could hold: the most frequent items."""
        return self.catalog.raw(np.argsort(-self.catalog.counts, kind="stable")[:3] + 1)

    def files(self, worker: int = 0, workers: int = 1) -> list[str]:
        """Paths of a worker's shards: every `workers`-th one, from the `worker`-th on (from 0)."""
        return [str(self.folder / shard["file"]) for shard in self.manifest["shards"][worker::workers]]

    def training_users_of(self, worker: int, workers: int) -> list[int]:
        """Users with two events in the training part, for each shard of a worker."""
        return [shard["training_users"] for shard in self.manifest["shards"][worker::workers]]

    @property
    def training_lengths(self) -> tuple[np.ndarray, np.ndarray]:
        """(lengths, users): how many users have so many events in the training part, lengths rising, from 2."""
        table = np.array(self.manifest["training_lengths"], np.int64).reshape(-1, 2)
        return table[:, 0], table[:, 1]

    @property
    def longest(self) -> int:
        """Events of the longest history."""
        return self.manifest["activity"]["most"]

    def with_catalog(self, catalog: Catalog, recount: bool = False) -> ShardedSequences:
        """The same users over another catalogue, such as the one that a model was trained with, for evaluation.

        Events of items that it does not hold are left out while the shards are read, so they are not counted here. Items keep the
        catalogue's counts, or have those of the shards' training part, with `recount`.

        Raises:
            UserError: when it holds none of the items.
        """
        translation = np.concatenate([[PADDING], catalog.index(self.catalog.ids)]).astype(np.int32)
        if not translation.any():
            raise UserError(f"data set {self.name!r}: has no item of the model's catalogue")
        if recount:
            counts = np.concatenate([[0], self.catalog.counts])[self.catalog.index(catalog.ids)]
            catalog = Catalog(catalog.ids, counts, catalog.titles)
        return replace(self, catalog=catalog, translation=translation)


AnySequences = Sequences | ShardedSequences
"""What training and evaluation take."""


def in_memory(sequences: AnySequences, task: str) -> Sequences:
    """The data set, for what needs all users at once. Raises `UserError`, which names the `task`, for one in shards."""
    if isinstance(sequences, ShardedSequences):
        raise UserError(f"data set {sequences.name!r} is in shards: {task} needs a data set in memory")
    return sequences


def is_prepared(path: Path) -> bool:
    """Whether a folder holds a data set in shards, be it broken: one without its manifest is for `load_shards` to refuse."""
    return (path / MANIFEST).is_file() or any(path.glob("shard-*.tfrecord.gz"))


def load_shards(folder: Path, name: str) -> ShardedSequences:
    """Open a data set in shards, and check that every file is the one that was written.

    Raises:
        UserError: for a broken manifest, and a missing, cut or changed file.
    """
    manifest = read_manifest(folder)
    files = [*manifest["shards"], manifest["catalog"]]
    with ThreadPoolExecutor(8) as pool:  # hashing leaves the interpreter's lock
        faults = [fault for fault in pool.map(lambda entry: _fault(folder, entry), files) if fault]
    if faults:
        more = f" (and {len(faults) - 1} more files)" if len(faults) > 1 else ""
        raise UserError(f"{faults[0]}{more}; copy the folder again, or prepare it again")
    catalog = Catalog.load(folder / manifest["catalog"]["file"])
    return ShardedSequences(name, folder, catalog, manifest, dict(manifest["dropped"]))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a data set in shards. Raises `UserError` when it is missing, broken, or changed by hand."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{folder}: holds no {MANIFEST}, so it is no prepared data set; make one with python -m pipelines.prepare"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); prepare the data again") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError(f"{path}: is not of the form {FORMAT!r} that this version reads; prepare the data again")
    if manifest.get("fingerprint") != fingerprint(manifest):
        raise UserError(f"{path}: was changed after it was written (its fingerprint does not fit); prepare the data again")
    return manifest


def fingerprint(manifest: Mapping[str, Any]) -> str:
    """SHA-256 over all that a manifest says but the fingerprint itself, checksums of the files included."""
    content = {key: value for key, value in manifest.items() if key != "fingerprint"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _fault(folder: Path, entry: Mapping[str, Any]) -> str | None:
    """What is wrong with a file of the manifest."""
    path = folder / entry["file"]
    try:
        if path.stat().st_size != entry["bytes"]:
            return f"{path}: has {path.stat().st_size} bytes where the manifest says {entry['bytes']}"
        return None if file_sha256(path) == entry["sha256"] else f"{path}: is damaged (its SHA-256 is not the manifest's)"
    except OSError as error:
        return f"{path}: cannot be read ({error.strerror})"
