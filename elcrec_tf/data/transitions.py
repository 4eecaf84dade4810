"""What came after what in the training part: counted transitions from item to item."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from elcrec_tf.data.sequences import Sequences
from elcrec_tf.data.splits import training_ranges


def transition_counts(sequences: Sequences, steps: int = 1, decay: float = 1.0) -> sparse.csr_array:
    """How often each item (column) came after each other one (row) in the training part, float64 `[num_items + 1, num_items + 1]`.

    Args:
        sequences: all users.
        steps: the most places between the two; 1 counts what came right after.
        decay: what came s places after counts `decay^(s - 1)`.
    """
    _, ends = training_ranges(sequences)
    end = np.repeat(ends, np.diff(sequences.offsets))
    place = np.arange(sequences.num_events)
    counts = sparse.csr_array((sequences.catalog.num_items + 1,) * 2)
    for step in range(1, steps + 1):
        before = np.flatnonzero(place + step < end)
        weights = np.full(len(before), decay ** (step - 1))
        # Equal pairs are added up.
        counts = counts + sparse.csr_array((weights, (sequences.items[before], sequences.items[before + step])), shape=counts.shape)
    return counts


def likeliest_successors(sequences: Sequences, width: int, steps: int, decay: float) -> tuple[np.ndarray, np.ndarray]:
    """The items that most often come after each one, for `elcrec_tf.layers.transition_memory.TransitionMemory`.

    An item does not succeed itself: what a user has already is not recommended again.

    Args:
        sequences: all users.
        width: most successors kept of an item.
        steps, decay: see `transition_counts`.

    Returns:
        (successors, shares), int32 and float32 `[num_items + 1, width]`, likeliest first, of equals the smaller index; shares are of all
        that came after the item, also of what is not kept. Where an item has fewer successors the rest is 0.
    """
    counts = transition_counts(sequences, steps, decay).tocoo()
    row, column, value = (part[counts.row != counts.col] for part in (counts.row, counts.col, counts.data))
    total = np.bincount(row, value, minlength=counts.shape[0])
    order = np.lexsort((column, -value, row))
    row, column, value = row[order], column[order], value[order]
    first = np.searchsorted(row, np.arange(counts.shape[0]))
    place = np.arange(len(row)) - first[row]
    kept = place < width
    successors, shares = np.zeros((counts.shape[0], width), np.int32), np.zeros((counts.shape[0], width), np.float32)
    successors[row[kept], place[kept]] = column[kept]
    shares[row[kept], place[kept]] = value[kept] / total[row[kept]]
    return successors, shares
