"""Training decides the number of intents: centres that stand for the same users are merged, one that stands for two groups is split.

Both are judged by the simplified silhouette of a sample of users (`intents.separation`): how much nearer users are to their own centre
than to the next one. A group of users that two centres share has a silhouette near 0, one centre between two groups is far from both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from elcrec_tf.callbacks import check_states
from elcrec_tf.evaluation import output_model
from elcrec_tf.intents import kmeans, separation, unit_rows

_FEWEST = 10
"""Sampled users that a centre should have; a half that a split would make, too."""
_SEED = 0


@dataclass(frozen=True)
class Change:
    """What a revision did: the new centres `[k, size]`, and how many were retired for want of users, merged away and added."""

    centers: np.ndarray
    retired: int
    merged: int
    added: int


def revise(centers: np.ndarray, users: np.ndarray, most: int) -> Change:
    """Retire, merge and add centres, so that the silhouette of the users rises as far as it does.

    Centres with too few users are retired. The others are merged pair by pair, the pair first whose merger costs least (Ward), down to
    half of them; of all these stages the one with the highest silhouette is kept. Then each group is split in two where that raises it
    further.

    Args:
        centers: `[k, size]` unit vectors, k at least 2.
        users: `[n, size]` unit vectors of a sample of users.
        most: most centres.

    Returns:
        At least 2 and at most `most` centres.
    """
    labels = np.argmax(users @ centers.T, axis=1)
    counts = np.bincount(labels, minlength=len(centers))
    large = np.sort(np.argsort(-counts, kind="stable")[: max(2, np.count_nonzero(counts >= _FEWEST))])
    merged = _merge(centers[large], users)
    added = _split(merged, users, most)
    return Change(added, len(centers) - len(large), len(large) - len(merged), len(added) - len(merged))


def _merge(centers: np.ndarray, users: np.ndarray) -> np.ndarray:
    best, best_separation = centers, separation(users @ centers.T)
    weights = np.bincount(np.argmax(users @ centers.T, axis=1), minlength=len(centers)).astype(np.float64)
    for _ in range(len(centers) - max(2, len(centers) // 2)):
        cost = 1 - centers @ centers.T
        cost *= weights[:, None] * weights[None, :] / np.maximum(weights[:, None] + weights[None, :], 1)
        np.fill_diagonal(cost, np.inf)
        one, other = sorted(divmod(int(np.argmin(cost)), len(centers)))
        joint = unit_rows((weights[one] * centers[one] + weights[other] * centers[other])[None])[0]
        centers = np.delete(centers, other, axis=0)
        centers[one] = joint
        weights[one] += weights[other]
        weights = np.delete(weights, other)
        now = separation(users @ centers.T)
        if now >= best_separation:
            best, best_separation = centers, now
    return best


def _split(centers: np.ndarray, users: np.ndarray, most: int) -> np.ndarray:
    labels = np.argmax(users @ centers.T, axis=1)
    best = separation(users @ centers.T)
    for group in range(len(centers)):
        members = users[labels == group]
        if len(centers) == most or len(members) < 2 * _FEWEST:
            continue
        halves, side = kmeans(members, 2, _SEED)
        halves = unit_rows(halves)
        tried = np.concatenate([centers, halves[1:]])
        tried[group] = halves[0]
        now = separation(users @ tried.T)
        if min(np.bincount(side, minlength=2)) >= _FEWEST and now > best:
            centers, best = tried, now
    return centers


class ClusterCount(keras.callbacks.Callback):
    """Revises the number of intents after each epoch, and adds to its logs `clusters` (how many are in use from now on),
    `clusters_retired`, `clusters_merged` and `clusters_added`.

    The model's centres have to be retirable.

    Args:
        history: int32 `[users, length]` prepared histories of a sample of users.
    """

    def __init__(self, history: np.ndarray) -> None:
        super().__init__()
        self.history = history

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._pooled = output_model(self.model, "pooled")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = {} if logs is None else logs
        layer = self.model.cluster_centers
        pooled = self._pooled.predict(self.history, batch_size=256, verbose=0)["pooled"]
        check_states(pooled, epoch + 1)
        users = unit_rows(pooled)
        change = revise(keras.ops.convert_to_numpy(layer.centers)[layer.in_use()], users, layer.num_clusters)
        layer.keep(change.centers)
        logs["clusters"] = len(change.centers)
        logs |= {f"clusters_{name}": getattr(change, name) for name in ("retired", "merged", "added")}
