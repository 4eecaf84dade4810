"""What robustness is tried against: fewer users to learn from, and wrong items in the histories."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from elcrec_tf.data.catalog import Catalog
from elcrec_tf.data.sequences import Sequences
from elcrec_tf.data.splits import training_ranges


def some_users(sequences: Sequences, share: float, seed: int) -> Sequences:
    """A random share of the users, at least one, over the same catalogue, whose counts become theirs.

    For one seed, a smaller share lies in a larger one.
    """
    if share >= 1:
        return sequences
    count = max(1, round(share * sequences.num_users))
    users = np.sort(np.random.default_rng([seed, 0]).permutation(sequences.num_users)[:count])
    histories = [sequences[user] for user in users]
    chosen = np.isin(np.repeat(np.arange(sequences.num_users), np.diff(sequences.offsets)), users)
    part = replace(
        sequences,
        user_ids=sequences.user_ids[users],
        items=sequences.items[chosen],
        offsets=np.concatenate([[0], np.cumsum([len(history) for history in histories])]).astype(np.int64),
        timestamps=None if sequences.timestamps is None else sequences.timestamps[chosen],
        intents=None if sequences.intents is None else sequences.intents[chosen],
    )
    starts, ends = training_ranges(part)
    trained = np.concatenate([part.items[start:end] for start, end in zip(starts, ends, strict=True)])
    counts = np.bincount(trained, minlength=part.catalog.num_items + 1)[1:]
    return replace(part, catalog=Catalog(part.catalog.ids, counts, part.catalog.titles))


def with_noise(sequences: Sequences, share: float, seed: int) -> Sequences:
    """Every item but the user's last, the test target, becomes with probability `share` another one, uniform over the catalogue.

    Never the target, which would give it away. For one seed, the items replaced at a smaller share are replaced alike at a larger one.
    """
    rng = np.random.default_rng([seed, 1])
    replaced = rng.random(sequences.num_events) < share
    replaced[sequences.offsets[1:] - 1] = False
    target = np.repeat(sequences.items[sequences.offsets[1:] - 1], np.diff(sequences.offsets))
    other = rng.integers(1, sequences.catalog.num_items, sequences.num_events, dtype=np.int32)
    other += other >= target
    return replace(sequences, items=np.where(replaced, other, sequences.items).astype(np.int32))
