"""Events as flat arrays: the k-core, and the step from events to `Sequences`. Every reader ends here."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from elcrec_tf.data.catalog import Catalog
from elcrec_tf.data.sequences import Sequences
from elcrec_tf.errors import UserError

MIN_EVENTS = 3
"""Events a user needs for leave-one-out: one to train on, one to validate, one to test."""


@dataclass(frozen=True, eq=False)
class Events:
    """What a reader found: events sorted by user, oldest first within a user.

    Attributes:
        source: file or data set, for errors.
        users: `[events]` int positions in `user_ids`, never falling.
        items: `[events]` int positions in `item_ids`.
        user_ids, item_ids: raw ids (str objects), each once, in the order of their first appearance in the source.
        times: `[events]`, or None.
        dropped: reason -> rows that the reader left out.
    """

    source: str
    users: np.ndarray
    items: np.ndarray
    user_ids: np.ndarray
    item_ids: np.ndarray
    times: np.ndarray | None = None
    dropped: dict[str, int] = field(default_factory=dict)


def k_core(users: np.ndarray, items: np.ndarray, k: int) -> np.ndarray:
    """Positions of the events that remain when users and items with fewer than `k` events go, again and again until none is left to go.

    Args:
        users, items: `[events]` int codes from 0. Every event counts, also a repeated one.
        k: fewest events; 1 keeps all.

    Returns:
        `[kept]` int64 positions, rising.
    """
    kept = np.arange(len(users))
    while k > 1:
        of_users, of_items = users[kept], items[kept]
        enough = (np.bincount(of_users)[of_users] >= k) & (np.bincount(of_items)[of_items] >= k)
        if enough.all():
            break
        kept = kept[enough]
    return kept


def to_sequences(events: Events, name: str, k: int) -> Sequences:
    """Filter to the `k`-core, drop users too short for leave-one-out, count both, and number what is left.

    Those users go once, after the core: with `k` = 2, items that they had may be left with a single event.
    Users and items keep the order of their first appearance in the source, so item 1 is the first kept item that occurs there.

    Raises:
        UserError: when nothing is left, or one item only.
    """
    if len(events.item_ids) == 1:
        raise UserError(f"{events.source}: has one item only ({events.item_ids[0]!r}); there is nothing to rank below two items")
    core = k_core(events.users, events.items, k)
    of_users = events.users[core]
    kept = core[np.bincount(of_users)[of_users] >= MIN_EVENTS]
    gone = {"k-core": len(events.users) - len(core), f"fewer than {MIN_EVENTS} events": len(core) - len(kept)}
    dropped = {**events.dropped, **{reason: count for reason, count in gone.items() if count}}
    if len(kept) == 0:
        raise UserError(_nothing_left(events, k, gone))
    users, user_ids = _compact(events.users[kept], events.user_ids)
    items, item_ids = _compact(events.items[kept], events.item_ids)
    if len(item_ids) == 1:
        raise UserError(f"{events.source}: the {k}-core leaves one item only ({item_ids[0]!r}); try a smaller --k-core (1 keeps all)")
    ends = np.cumsum(np.bincount(users))
    # The last two events of a user are held out for test and validation: popularity may not know them.
    held_out = np.concatenate([items[ends - 1], items[ends - 2]])
    counts = np.bincount(items, minlength=len(item_ids)) - np.bincount(held_out, minlength=len(item_ids))
    return Sequences(
        name=name,
        user_ids=user_ids,
        items=(items + 1).astype(np.int32),
        offsets=np.concatenate([[0], ends]).astype(np.int64),
        catalog=Catalog(item_ids, counts),
        timestamps=None if events.times is None else events.times[kept],
        dropped=dropped,
    )


def _compact(codes: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Renumber `codes` without gaps, in the same order, and pick the ids that are left."""
    used = np.bincount(codes, minlength=len(ids)) > 0
    return (np.cumsum(used) - 1)[codes], ids[used]


def _nothing_left(events: Events, k: int, gone: dict[str, int]) -> str:
    users, items = len(events.user_ids), len(events.item_ids)
    found = f"{events.source}: nothing is left of {len(events.users)} events of {users} users and {items} items"
    if not gone["k-core"]:
        return f"{found}: no user has {MIN_EVENTS} events, one each to train on, validate and test; give longer histories"
    return f"{found} after the {k}-core (each user and item needs {k} events); try a smaller --k-core (1 keeps all)"
