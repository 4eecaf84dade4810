"""What Spark's tasks write: shards of users, and the rejected rows. A file appears under its name only when it is whole, and a task that
runs again writes the same bytes."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from elcrec_tf.data.records import encode_example, record_file
from elcrec_tf.files import atomic_path

RESULT_SCHEMA = "shard string, item int, events bigint"
"""What `ShardWriter` gives: a row a shard (JSON), and rows with an item's events in the training part of one task."""

_COUNTED_AT_ONCE = 1 << 14  # users
_TEST = 2  # the part


@dataclass
class Shard:
    """What the manifest says of one shard."""

    file: str
    bytes: int = 0
    sha256: str = ""
    users: int = 0
    events: int = 0
    training_users: int = 0
    validation_users: int = 0
    test_users: int = 0
    cut: int = 0
    after_test: int = 0
    lengths: Counter[int] = field(default_factory=Counter)
    training_lengths: Counter[int] = field(default_factory=Counter)

    def add(self, events: int, positions: list[int], cut: int, after_test: int) -> None:
        """Count a user with so many events, and those that were left out as `User` says; see `positions_by_time`."""
        training, validation, test = positions
        self.users += 1
        self.events += events
        self.training_users += training >= 2
        self.validation_users += validation > 0
        self.test_users += test > 0
        self.cut += cut
        self.after_test += after_test
        self.lengths[events] += 1
        self.training_lengths[training] += 1


@dataclass(frozen=True)
class ShardWriter:
    """Writes the shards of one task, for `mapInArrow`.

    Its input is sorted: shard by shard, user by user, a user's events by time. It has the columns `shard`, `user`, `index` (of the item)
    and `part` (0 training, 1 validation, 2 test under a split by time; else 0). In memory are one user's events (the latest `max_events`
    where that is set) and a count an item.

    Attributes:
        folder: where the shards go.
        shards: how many there are, for their names.
        num_items: size of the catalogue.
        by_time: whether a split by time is stored; else it is leave-one-out.
        max_events: events kept of a user, of those up to the first one of the test part.
    """

    folder: str
    shards: int
    num_items: int
    by_time: bool
    max_events: int | None

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        counts = np.zeros(self.num_items + 1, np.int64)
        for number, users in groupby(self._users(batches), key=lambda user: user.shard):
            yield _result([json.dumps(vars(self._write(number, users, counts)))], [None], [None])
        trained = np.flatnonzero(counts)
        if len(trained):
            yield _result([None] * len(trained), trained, counts[trained])

    def _write(self, number: int, users: Iterator[User], counts: np.ndarray) -> Shard:
        """Write one shard, and add the events of its training part to `counts`."""
        shard = Shard(f"shard-{number:05d}-of-{self.shards:05d}.tfrecord.gz")
        waiting: list[np.ndarray] = []
        with record_file(Path(self.folder) / shard.file) as writer:
            for user in users:
                items, parts = user.events()
                positions = positions_by_time(parts) if self.by_time else [max(len(items) - 2, 0), len(items) - 2, len(items) - 1]
                writer.write(encode_example(user.name, items.tolist(), positions if self.by_time else None))
                shard.add(len(items), positions, user.seen - len(items), user.after_test)
                waiting.append(items[: positions[0]])
                if len(waiting) == _COUNTED_AT_ONCE:
                    _count(counts, waiting)
        _count(counts, waiting)
        shard.bytes, shard.sha256 = writer.size, writer.sha256
        return shard

    def _users(self, batches: Iterator[pa.RecordBatch]) -> Iterator[User]:
        """The users, each put together from the batches that the user's events lie in."""
        user: User | None = None
        for batch in batches:
            runs = pc.run_end_encode(batch["user"])
            shards, events = batch["shard"].to_numpy(), np.stack([batch["index"].to_numpy(), batch["part"].to_numpy()])
            start = 0
            for name, stop in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
                if user is None or name != user.name:
                    if user is not None:
                        yield user
                    user = User(int(shards[start]), name, self.max_events)
                user.add(events[:, start:stop])
                start = stop
        if user is not None:
            yield user


class User:
    """One user's events as they come, up to the first one of the test part, the latest `most` of these if that is not None.

    Attributes:
        shard, name: the user's shard and raw id.
        seen: events that came, up to that one.
        after_test: events that came after it. Nothing is trained on them nor asked about them.
    """

    def __init__(self, shard: int, name: str, most: int | None) -> None:
        self.shard, self.name, self.most, self.seen, self.after_test = shard, name, most, 0, 0
        self._pieces: list[np.ndarray] = []
        self._held = 0
        self._tested = False

    def add(self, events: np.ndarray) -> None:
        """Add `[2, n]` items and parts, oldest first."""
        tests = int(np.sum(events[1] == _TEST))  # at the end
        late = tests if self._tested else max(tests - 1, 0)
        self._tested = self._tested or tests > 0
        self.after_test += late
        events = events[:, : events.shape[1] - late]
        self.seen += events.shape[1]
        self._held += events.shape[1]
        self._pieces.append(events)
        if self.most is not None and self._held > 2 * self.most:
            self._pieces = [np.concatenate(self._pieces, axis=1)[:, -self.most :].copy()]
            self._held = self.most

    def events(self) -> tuple[np.ndarray, np.ndarray]:
        """(items, parts), int32 `[n]` each."""
        items, parts = np.concatenate(self._pieces, axis=1)[:, -self.most if self.most else None :]
        return items, parts


def positions_by_time(parts: np.ndarray) -> list[int]:
    """Events in the training part, and the places of the validation and the test target: the first event of each part (-1 = none).

    Without an event before it, a target is no question: it counts as none.
    """
    starts = [int(np.searchsorted(parts, part)) for part in (1, 2)]
    there = [bool((parts == part).any()) and start > 0 for part, start in zip((1, 2), starts, strict=True)]
    return [starts[0], *(start if found else -1 for start, found in zip(starts, there, strict=True))]


@dataclass(frozen=True)
class RejectWriter:
    """Writes rejected rows, sorted, to one file of JSON lines, for `mapInArrow`: columns `reason`, `row`, `file`."""

    path: str

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        rows = 0
        with atomic_path(self.path) as temporary, temporary.open("wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as file:
            for batch in batches:
                lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in batch.to_pylist())
                file.write("".join(lines).encode(errors="replace"))
                rows += len(batch)
        yield pa.RecordBatch.from_arrays([pa.array([rows], pa.int64())], names=["rows"])


def _count(counts: np.ndarray, waiting: list[np.ndarray]) -> None:
    """Add items to their counts, and forget them."""
    if waiting:
        counts += np.bincount(np.concatenate(waiting), minlength=len(counts))
        waiting.clear()


def _result(shard: list[str | None], item: Any, events: Any) -> pa.RecordBatch:
    arrays = [pa.array(shard, pa.string()), pa.array(item, pa.int32()), pa.array(events, pa.int64())]
    return pa.RecordBatch.from_arrays(arrays, names=["shard", "item", "events"])
