"""An approximate index over item keys: lists of items by k-means, and how many of them have to be looked into for a recall."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_SAMPLE = 64  # items a list that k-means sees
_CELLS = 1 << 24  # scores held at a time


@dataclass(frozen=True)
class InvertedLists:
    """All items of a catalogue, divided into lists of similar ones.

    Attributes:
        items: int `[num_items]` item indices, list after list, ascending within a list.
        starts: int64 `[lists + 1]`: list i is `items[starts[i]:starts[i + 1]]`.
        centers: float32 `[lists, size]`: a query looks into the lists whose centres have the largest dot products with it.
    """

    items: np.ndarray
    starts: np.ndarray
    centers: np.ndarray

    @property
    def count(self) -> int:
        return len(self.centers)


def default_count(num_items: int) -> int:
    """Lists for a catalogue: centres and candidates cost about the same where there are some times the square root of the items."""
    return int(max(1, min(num_items, round(2 * np.sqrt(num_items)))))


def divide(keys: np.ndarray, count: int, seed: int = 0) -> InvertedLists:
    """Divide items by scikit-learn's MiniBatchKMeans over a sample of their keys.

    Args:
        keys: float32 `[num_items, size]` of items 1, 2, ...
        count: lists, at most `num_items`.
        seed: of the sample and of k-means.
    """
    from sklearn.cluster import MiniBatchKMeans

    rng = np.random.default_rng(seed)
    sample = keys if len(keys) <= _SAMPLE * count else keys[np.sort(rng.choice(len(keys), _SAMPLE * count, replace=False))]
    means = MiniBatchKMeans(count, init="random", n_init=1, batch_size=max(4096, 4 * count), max_iter=20, random_state=seed)
    centers = means.fit(sample).cluster_centers_.astype(np.float32)
    assigned = _nearest(keys, centers)
    return InvertedLists(
        items=np.argsort(assigned, kind="stable") + 1,
        starts=np.concatenate([[0], np.cumsum(np.bincount(assigned, minlength=count))]),
        centers=centers,
    )


def _nearest(keys: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """The centre nearest to each key (Euclidean distance)."""
    half = np.sum(centers**2, axis=1) / 2
    rows = max(1, _CELLS // len(centers))
    parts = [np.argmax(keys[start : start + rows] @ centers.T - half, axis=1) for start in range(0, len(keys), rows)]
    return np.concatenate(parts)


def recall_by_probes(lists: InvertedLists, queries: np.ndarray, best: np.ndarray) -> np.ndarray:
    """Share of the truly best items that are found when 1, 2, ... lists are looked into, `[lists]`, rising to 1.

    No search is needed: a found list's items are scored exactly, so an item is found as soon as its list is looked into.

    Args:
        lists: the index.
        queries: float32 `[n, size]`.
        best: int `[n, k]` indices of each query's truly best items.
    """
    list_of = np.empty(len(lists.items) + 1, np.int64)
    list_of[lists.items] = np.repeat(np.arange(lists.count), np.diff(lists.starts))
    looked_into = np.zeros(lists.count)
    for query, wanted in zip(queries, best, strict=True):
        place = np.empty(lists.count, np.int64)
        place[np.argsort(-(lists.centers @ query), kind="stable")] = np.arange(lists.count)
        looked_into += np.bincount(place[list_of[wanted]], minlength=lists.count)
    return np.cumsum(looked_into) / best.size


def fewest_probes(recalls: np.ndarray, target: float) -> int:
    """Lists to look into for a recall of at least `target`."""
    return min(int(np.searchsorted(recalls, target - 1e-12)) + 1, len(recalls))
