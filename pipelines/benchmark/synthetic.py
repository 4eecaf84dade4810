"""Sequences without structure but of any size, made in no time: for costs, which do not depend on what is learned."""

from __future__ import annotations

import numpy as np

from elcrec_tf.data.catalog import Catalog
from elcrec_tf.data.sequences import Sequences

_FEWEST_EVENTS = 5


def zipf_sequences(users: int, items: int, events: float, seed: int = 0, exponent: float = 1.0) -> Sequences:
    """Independent draws from a Zipf popularity over a catalogue of `items`; ids are numbers.

    Args:
        users: number of users.
        items: size of the catalogue; most items may have no event.
        events: mean number of events a user, at least 5; 5 and a geometric rest.
        seed: of the draws.
        exponent: `p(rank) ~ 1 / rank ** exponent`.
    """
    rng = np.random.default_rng(seed)
    lengths = _FEWEST_EVENTS + rng.geometric(1 / (events - _FEWEST_EVENTS + 1), users) - 1
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    cumulative = np.cumsum(np.arange(1, items + 1, dtype=np.float64) ** -exponent)
    rank = np.searchsorted(cumulative, rng.random(offsets[-1]) * cumulative[-1])
    drawn = (np.minimum(rank, items - 1) + 1).astype(np.int32)
    training = np.ones(len(drawn), bool)
    training[offsets[1:] - 1] = training[offsets[1:] - 2] = False
    return Sequences(
        name=f"zipf-{items}",
        user_ids=np.arange(users).astype(str).astype(object),
        items=drawn,
        offsets=offsets,
        catalog=Catalog(np.arange(1, items + 1).astype(str), np.bincount(drawn[training], minlength=items + 1)[1:]),
    )
