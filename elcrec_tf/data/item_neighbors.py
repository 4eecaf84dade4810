"""Which items stand near each other in the training data: where a warm start places new ones."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from scipy import sparse

from elcrec_tf.data.shard_stream import users_of
from elcrec_tf.data.shards import AnySequences, ShardedSequences
from elcrec_tf.data.splits import training_ranges

REACH = 5
"""Events between two neighbours, at most; nearer ones count more."""
_USERS = 32_768  # of a block of shards


def item_neighbors(sequences: AnySequences, wanted: np.ndarray, known: np.ndarray) -> sparse.csr_array:
    """How near the known items stand to each wanted one: the sum of `1 / distance` over the places of all users' training parts where the
    two are at most `REACH` events apart.

    Held-out events count nowhere. Memory grows with the pairs found, not with the data.

    Args:
        sequences: all users.
        wanted, known: bool `[num_items + 1]`, by item index. An item may be both; it is no neighbour of its own.

    Returns:
        float64 `[num_items + 1, num_items + 1]`, rows of wanted items, columns of known ones.
    """
    near = sparse.csr_array((len(wanted), len(known)))
    for items, lengths in _training_parts(sequences):
        near += _of_block(items, np.repeat(np.arange(len(lengths)), lengths), wanted, known)
    return near


def _of_block(items: np.ndarray, users: np.ndarray, wanted: np.ndarray, known: np.ndarray) -> sparse.csr_array:
    """`item_neighbors` of some users' events, all one after the other."""
    rows, columns, weights = [], [], []
    for distance in range(1, REACH + 1):
        together = (users[:-distance] == users[distance:]) & (items[:-distance] != items[distance:])
        earlier, later = items[:-distance][together], items[distance:][together]
        for item, other in ((earlier, later), (later, earlier)):
            pair = wanted[item] & known[other]
            rows.append(item[pair])
            columns.append(other[pair])
            weights.append(np.full(pair.sum(), 1 / distance))
    places = (np.concatenate(rows), np.concatenate(columns))
    return sparse.csr_array((np.concatenate(weights), places), shape=(len(wanted), len(known)))


def _training_parts(sequences: AnySequences) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of users: (their items one after the other, how many each has)."""
    if isinstance(sequences, ShardedSequences):
        users = users_of(sequences, sequences.files()).map(lambda user: user["items"][: user["positions"][0]], tf.data.AUTOTUNE)
        for block in users.ragged_batch(_USERS):
            yield block.flat_values.numpy(), block.row_lengths().numpy()
        return
    starts, ends = training_ranges(sequences)
    user = np.repeat(np.arange(sequences.num_users), np.diff(sequences.offsets))
    yield sequences.items[np.arange(sequences.num_events) < ends[user]], ends - starts
