"""The item most similar to each, for augmentation: items that the same users have, by training events alone."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import tensorflow as tf
from scipy import sparse

from elcrec_tf.augment import BY_SIMILARITY
from elcrec_tf.config import AugmentConfig
from elcrec_tf.data.sequences import Sequences
from elcrec_tf.data.shards import AnySequences, in_memory
from elcrec_tf.data.splits import training_ranges

# Pairs of items held at a time, a few dozen bytes each: few enough for the cache.
_PAIRS = 300_000


def similar_items(sequences: AnySequences, augment: AugmentConfig) -> tf.Tensor | None:
    """What `elcrec_tf.augment.random_view` takes as `similar`; None where no augmentation needs it. Raises `UserError` for shards."""
    needed = any(name in BY_SIMILARITY for name in augment.augmentations)
    return tf.constant(nearest_items(in_memory(sequences, "--augmentations substitute and insert"))) if needed else None


@lru_cache(maxsize=1)  # training and what measures it ask for the same
def nearest_items(sequences: Sequences, pairs: int = _PAIRS) -> np.ndarray:
    """The most similar item of every item.

    `sim(i, j) = Σ_{u has i and j} 1 / log(1 + |u|) / sqrt(|i| |j|)`, with `|u|` the items of a user's training part and `|i|` the users of
    an item: co-occurrence, in which users with few items count more (ItemCF-IUF, as in CoSeRec). The first of equals is taken. Held-out
    events count nowhere. Memory grows with the events and with `pairs`, never with the square of the items.

    Returns:
        int32 `[num_items + 1]`; an item that never occurs with another gets itself, 0 (padding) gets 0.
    """
    owned = _owned(sequences)
    items_of, users_of = (np.maximum(owned.sum(axis=axis), 1) for axis in (1, 0))
    scaled = sparse.diags_array(1 / np.log1p(items_of)) @ owned @ sparse.diags_array(1 / np.sqrt(users_of))
    transposed = scaled.T.tocsr()
    nearest = np.arange(owned.shape[1], dtype=np.int32)
    work = np.cumsum(owned.T @ items_of)  # pairs that the rows up to each item can have
    first = 0
    while first < len(work):
        before = work[first - 1] if first else 0
        stop = max(int(np.searchsorted(work, before + pairs, side="right")), first + 1)
        _fill(nearest, first, transposed[first:stop] @ owned, users_of)
        first = stop
    return nearest


def _owned(sequences: Sequences) -> sparse.csr_array:
    """Which items each user's training part has, 0 or 1, float64 `[users, num_items + 1]`."""
    starts, ends = training_ranges(sequences)
    user = np.repeat(np.arange(sequences.num_users), np.diff(sequences.offsets))
    trained = np.arange(sequences.num_events) < ends[user]
    shape = (sequences.num_users, sequences.catalog.num_items + 1)
    owned = sparse.csr_array((np.ones(trained.sum()), (user[trained], sequences.items[trained])), shape=shape)
    owned.sum_duplicates()
    owned.data[:] = 1
    return owned


def _fill(nearest: np.ndarray, first: int, block: sparse.csr_array, users_of: np.ndarray) -> None:
    """Set the entries of the items from `first` on, whose similarities are the rows of `block` (before division by the root of `|j|`)."""
    row = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
    similarity = np.where(block.indices == row + first, 0.0, block.data / np.sqrt(users_of[block.indices]))
    rows = np.flatnonzero(np.diff(block.indptr))
    starts = block.indptr[rows]
    best = np.zeros(block.shape[0])
    best[rows] = np.maximum.reduceat(similarity, starts)
    others = np.where(similarity == best[row], block.indices, block.shape[1])
    found = best[rows] > 0
    nearest[first + rows[found]] = np.minimum.reduceat(others, starts)[found]
