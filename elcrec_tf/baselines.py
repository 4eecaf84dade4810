"""An item-to-item Markov chain: what comes right after the latest item. It needs no training, and ranks by the same protocol as ours."""

from __future__ import annotations

import numpy as np

from elcrec_tf.data.sequences import Sequences
from elcrec_tf.data.transitions import transition_counts
from elcrec_tf.evaluation import count_ranks


def markov_chain_ranks(sequences: Sequences, split: str, batch_size: int = 256) -> np.ndarray:
    """Ranks when items are ordered by how often they came right after the history's latest item in the training part, `[users]`.

    Equally frequent ones, above all those that never came after it, are ordered by popularity.
    """
    counts = np.concatenate([[0], sequences.catalog.counts])
    popularity = np.unique(counts, return_inverse=True)[1]
    tie_breaker = popularity / (popularity.max() + 1)  # below 1, one transition
    return count_ranks(sequences, split, tie_breaker, transition_counts(sequences), batch_size)
