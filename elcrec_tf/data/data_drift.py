"""How far the data has moved between two runs."""

from __future__ import annotations

from typing import Any

import numpy as np

from elcrec_tf.data.catalog import Catalog
from elcrec_tf.data.sequences import Sequences
from elcrec_tf.data.shards import AnySequences, ShardedSequences


def jensen_shannon(one: np.ndarray, other: np.ndarray) -> float:
    """The Jensen-Shannon divergence of two distributions in bits: 0 = equal, 1 = nothing in common.

    Args:
        one, other: `[n]` counts, or weights of any sum; of one without any the divergence is 0 to itself alone, else 1.
    """
    if not one.sum() or not other.sum():
        return float(bool(one.sum()) != bool(other.sum()))
    one, other = one / one.sum(), other / other.sum()
    middle = (one + other) / 2
    return float((_relative_entropy(one, middle) + _relative_entropy(other, middle)) / 2)


def _relative_entropy(of: np.ndarray, to: np.ndarray) -> float:
    there = of > 0
    return float(np.sum(of[there] * np.log2(of[there] / to[there])))


def catalog_drift(old: Catalog, new: Catalog) -> dict[str, Any]:
    """What the items' counts in the training parts tell.

    Returns:
        `items`: how many were `known` to the old run, are `new`, and are `gone`; `events_on_new_items`, a share of the new run's;
        `popularity_divergence`: `jensen_shannon` of the items' shares of the events.
    """
    places = old.index(new.ids)
    is_new = places == 0
    in_old = np.concatenate([[0], old.counts])[places]
    gone = np.ones(old.num_items + 1, bool)
    gone[places] = gone[0] = False
    gone_counts = old.counts[gone[1:]]
    return {
        "items": {"known": int(np.sum(~is_new)), "new": int(is_new.sum()), "gone": int(gone.sum())},
        "events_on_new_items": float(new.counts[is_new].sum() / max(new.counts.sum(), 1)),
        "popularity_divergence": jensen_shannon(
            np.concatenate([in_old, gone_counts]), np.concatenate([new.counts, np.zeros_like(gone_counts)])
        ),
    }


def user_drift(old: AnySequences, new: AnySequences) -> dict[str, Any]:
    """What the users tell.

    Returns:
        `users`: their number in the `old` and the `new` data, and `share_new`, the share of the new data's that the old did not have
        (None for shards, which would have to be read); `events_in_training`: mean, median and 90th percentile of a user, of both; users
        with a single event there, or with none, count too.
    """
    share = None
    if isinstance(old, Sequences) and isinstance(new, Sequences):
        known = set(old.user_ids.tolist())  # as strings of NumPy's, all would be as wide as the longest id
        share = float(np.mean([user not in known for user in new.user_ids.tolist()]))
    return {
        "users": {"old": old.num_users, "new": new.num_users, "share_new": share},
        "events_in_training": {"old": _lengths(old), "new": _lengths(new)},
    }


def _lengths(sequences: AnySequences) -> dict[str, float]:
    of_users = np.diff(sequences.offsets) - 2 if isinstance(sequences, Sequences) else _lengths_in_shards(sequences)
    median, high = np.quantile(of_users, (0.5, 0.9), method="lower") if len(of_users) else (0, 0)
    return {"mean": float(of_users.mean()) if len(of_users) else 0.0, "median": float(median), "p90": float(high)}


def _lengths_in_shards(shards: ShardedSequences) -> np.ndarray:
    """`[users]` events in the training part, rising. The manifest tells lengths from 2 on; events beyond those are users' only ones."""
    lengths, users = shards.training_lengths
    rest = shards.num_users - users.sum()
    single = np.clip(shards.catalog.counts.sum() - lengths @ users, 0, rest)  # over another catalogue the counts are that one's
    return np.repeat([0, 1, *lengths], [rest - single, single, *users])
