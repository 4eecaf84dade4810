"""An item-to-item Markov chain: what comes right after the latest item. It needs no training, and ranks by the same protocol as ours."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from elcrec_tf.data.sequences import Sequences
from elcrec_tf.data.splits import training_ranges
from elcrec_tf.evaluation import count_ranks


def markov_chain_ranks(sequences: Sequences, split: str, batch_size: int = 256) -> np.ndarray:
    """Ranks when items are ordered by how often they came right after the history's latest item in the training part, `[users]`.

    Equally frequent ones, above all those that never came after it, are ordered by popularity.
    """
    counts = np.concatenate([[0], sequences.catalog.counts])
    popularity = np.unique(counts, return_inverse=True)[1]
    tie_breaker = popularity / (popularity.max() + 1)  # below 1, one transition
    return count_ranks(sequences, split, tie_breaker, transition_counts(sequences), batch_size)


def transition_counts(sequences: Sequences) -> sparse.csr_array:
    """How often each item (column) came right after each other one (row) in the training part, float64 `[num_items + 1, num_items + 1]`."""
    _, ends = training_ranges(sequences)
    user = np.repeat(np.arange(sequences.num_users), np.diff(sequences.offsets))
    before = np.flatnonzero(np.arange(sequences.num_events) + 1 < ends[user])
    size = sequences.catalog.num_items + 1
    # Equal pairs are added up.
    return sparse.csr_array((np.ones(len(before)), (sequences.items[before], sequences.items[before + 1])), shape=(size, size))
