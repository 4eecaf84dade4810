"""Users' histories in memory: every event in one flat array, one slice a user."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from elcrec_tf.data.catalog import Catalog
from elcrec_tf.errors import UserError
from elcrec_tf.padding import PADDING


@dataclass(frozen=True, eq=False)
class Sequences:
    """Chronological item sequences of all users.

    User `u` has the events `items[offsets[u]:offsets[u + 1]]`, oldest first.

    Attributes:
        name: short name of the data set, used for folders and tables.
        user_ids: `[users]` raw user ids (str objects).
        items: `[events]` int32 catalogue indices, 1 to `catalog.num_items` (0 is padding and never occurs).
        offsets: `[users + 1]` int64.
        catalog: raw item ids and their indices.
        timestamps: `[events]` time of each event in the log's own unit, or None where the source has no times.
        intents: `[events]` int32 planted intent of each event (simulated data only), or None.
        dropped: what was left out on purpose when the data was read, reason -> rows.
    """

    name: str
    user_ids: np.ndarray
    items: np.ndarray
    offsets: np.ndarray
    catalog: Catalog
    timestamps: np.ndarray | None = None
    intents: np.ndarray | None = None
    dropped: dict[str, int] = field(default_factory=dict)

    @property
    def num_users(self) -> int:
        return len(self.user_ids)

    @property
    def num_events(self) -> int:
        return len(self.items)

    @property
    def num_training_users(self) -> int:
        """Users with two events in the training part, which is all events but the last two."""
        return int(np.sum(np.diff(self.offsets) >= 4))

    @property
    def training_lengths(self) -> tuple[np.ndarray, np.ndarray]:
        """(lengths, users): how many users have so many events in the training part, lengths rising, from 2."""
        lengths = np.diff(self.offsets) - 2
        return np.unique(lengths[lengths >= 2], return_counts=True)

    @property
    def example(self) -> list[str]:
        """Three raw ids that a history could hold: the first user's first ones."""
        return self.catalog.raw(self[0][:3])

    @property
    def description(self) -> str:
        """One line: the name, the size, and what was left out on purpose."""
        text = f"{self.name}: {self.num_users:,} users, {self.catalog.num_items:,} items, {self.num_events:,} events"
        dropped = ", ".join(f"{rows:,} {reason}" for reason, rows in self.dropped.items())
        return text + (f"; left out: {dropped}" if dropped else "")

    def __getitem__(self, user: int) -> np.ndarray:
        """Item indices of one user, oldest first."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    def with_catalog(self, catalog: Catalog, recount: bool = False) -> Sequences:
        """The same users over another catalogue, such as the one that a model was trained with.

        Events of items that it does not hold are left out, then users with fewer than 3 events; both are counted in `dropped`. Items keep
        the catalogue's counts, or are counted anew in what is left of the training part, with `recount`.

        Raises:
            UserError: when nothing is left.
        """
        translation = np.concatenate([[PADDING], catalog.index(self.catalog.ids)]).astype(np.int32)
        items = translation[self.items]
        known = items != PADDING
        user = np.repeat(np.arange(self.num_users), np.diff(self.offsets))
        kept = np.bincount(user[known], minlength=self.num_users) >= 3
        if not kept.any():
            raise UserError(f"data set {self.name!r}: no user has 3 events with items of the model's catalogue")
        events = known & kept[user]
        counts = np.bincount(user[events], minlength=self.num_users)[kept]
        dropped = {"events of items unknown to the model": int(np.sum(~known)), "users with fewer than 3 events": int(np.sum(~kept))}
        items, ends = items[events], np.cumsum(counts)
        if recount:
            training = np.delete(items, np.concatenate([ends - 1, ends - 2]))
            catalog = Catalog(catalog.ids, np.bincount(training, minlength=catalog.num_items + 1)[1:], catalog.titles)
        return Sequences(
            self.name,
            self.user_ids[kept],
            items,
            np.concatenate([[0], ends]),
            catalog,
            None if self.timestamps is None else self.timestamps[events],
            None if self.intents is None else self.intents[events],
            self.dropped | {reason: rows for reason, rows in dropped.items() if rows},
        )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over users, items and their order: equal data sets have equal fingerprints."""
        digest = hashlib.sha256()
        for ids in (self.user_ids, self.catalog.ids):
            digest.update("\0".join(ids).encode())
        digest.update(np.ascontiguousarray(self.items, "<i4").tobytes())
        digest.update(np.ascontiguousarray(self.offsets, "<i8").tobytes())
        return digest.hexdigest()
