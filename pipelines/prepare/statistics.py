"""What the manifest says of users' activity and items' popularity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def activity(lengths: Mapping[int, int]) -> dict[str, Any]:
    """Of the users' numbers of events (length -> users): mean, quantiles, the most, and the users in groups of doubling length."""
    values = np.array(sorted(lengths), np.int64)
    users = np.array([lengths[value] for value in values.tolist()], np.int64)
    reached = np.cumsum(users) / users.sum()
    quantiles = {f"quantile_{share}": int(values[np.searchsorted(reached, share - 1e-12)]) for share in (0.1, 0.5, 0.9, 0.99)}
    groups = np.floor(np.log2(values)).astype(int)
    names = {group: f"{2**group}-{2 ** (group + 1) - 1}" for group in groups.tolist()}
    by_group = {name: int(users[groups == group].sum()) for group, name in names.items()}
    return {"mean": float((values * users).sum() / users.sum()), **quantiles, "most": int(values[-1]), "users_by_events": by_group}


def popularity(counts: np.ndarray) -> dict[str, Any]:
    """Of the items' events in the training part `[items]`: the items that have any, and how the events divide over the items."""
    falling = np.sort(counts)[::-1]
    total = max(int(falling.sum()), 1)
    shares = {f"share_of_top_{share}": float(falling[: -(-len(falling) * percent // 100)].sum() / total) for share, percent in _TOP.items()}
    rising = np.cumsum(falling[::-1]) / total
    gini = float(1 - 2 * np.mean(rising) + 1 / len(falling)) if falling.any() else 0.0
    return {"items_in_training": int(np.count_nonzero(counts)), "most_events": int(falling[0]), **shares, "gini": gini}


_TOP = {"1_percent": 1, "10_percent": 10}
