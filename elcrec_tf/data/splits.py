"""Leave-one-out as ranges over `Sequences.items`; nothing is copied.

A user's last event is the test target, the one before it the validation target, and all before that the training part.
"""

from __future__ import annotations

import numpy as np

from elcrec_tf.data.sequences import Sequences


def training_ranges(sequences: Sequences) -> tuple[np.ndarray, np.ndarray]:
    """The training part of every user: `sequences.items[starts[u]:ends[u]]`, all events but the last two.

    Its inputs are all of these but the last, its targets all but the first.

    Returns:
        `(starts, ends)`, int64 `[users]` each.
    """
    return sequences.offsets[:-1], sequences.offsets[1:] - 2


def holdout_positions(sequences: Sequences, split: str) -> np.ndarray:
    """Position in `sequences.items` of every user's target event in the split `validation` or `test`, int64 `[users]`.

    The history to predict it from is `sequences.items[sequences.offsets[u]:targets[u]]`: the test history holds the validation target.

    Raises:
        ValueError: for another split.
    """
    back = {"validation": 2, "test": 1}
    if split not in back:
        raise ValueError(f"`split` should be 'validation' or 'test'. Received: split={split!r}")
    return sequences.offsets[1:] - back[split]
