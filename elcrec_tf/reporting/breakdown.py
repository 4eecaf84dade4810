"""Metrics by groups of users and items, coverage and popularity bias of recommendations. Arrays in, plain numbers out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from elcrec_tf.padding import PADDING
from elcrec_tf.ranking import ranking_metrics

ACTIVITY = ("new", "low", "medium", "high")
POPULARITY = ("head", "torso", "tail")
_HEAD, _TORSO = 0.5, 0.8  # share of the events that the head's items have, and head and torso together
_LENGTHS = (2, 5, 10, 20, 50)


@dataclass(frozen=True, eq=False)
class Grouping:
    """A division of users.

    Attributes:
        labels: names of the groups, in order.
        notes: what each group is, in a few words.
        index: `[users]` the group of each user.
    """

    labels: tuple[str, ...]
    notes: tuple[str, ...]
    index: np.ndarray


def by_activity(events: np.ndarray) -> Grouping:
    """New, low, medium and high: the quarters of the users by their number of events, `[users]`.

    Users with equally many events share a group, so the quarters may be uneven and one may be empty.
    """
    edges = np.quantile(events, (0.25, 0.5, 0.75), method="lower") if len(events) else np.zeros(3, int)
    return Grouping(ACTIVITY, _range_notes(edges), np.searchsorted(edges, events, side="left"))


def by_length(lengths: np.ndarray) -> Grouping:
    """Histories, `[users]` events each, in bins from 1-2 to more than 50 events."""
    labels = _range_notes(np.array(_LENGTHS), first=1)
    return Grouping(labels, ("",) * len(labels), np.searchsorted(_LENGTHS, lengths, side="left"))


def by_popularity(targets: np.ndarray, counts: np.ndarray) -> Grouping:
    """Users by the popularity of their target: `item_tiers` of `targets`, `[users]` item indices (1 to n)."""
    tiers = item_tiers(counts)
    notes = tuple(
        f"{int(np.sum(tiers == tier)):,} items with {share:.0%} of the training events"
        for tier, share in enumerate(_shares(counts, tiers, len(POPULARITY)))
    )
    return Grouping(POPULARITY, notes, tiers[targets - 1])


def group_rows(grouping: Grouping, ranks: np.ndarray, baseline_ranks: np.ndarray) -> list[dict[str, Any]]:
    """A row a group: `label`, `note`, `users`, `share` of all users, `metrics`, and `baseline`, the metrics of `baseline_ranks`.

    Args:
        grouping: the groups.
        ranks, baseline_ranks: `[users]` ranks of the targets, 0 = best.
    """
    rows = []
    for group, (label, note) in enumerate(zip(grouping.labels, grouping.notes, strict=True)):
        inside = grouping.index == group
        rows.append(
            {
                "label": label,
                "note": note,
                "users": int(inside.sum()),
                "share": float(inside.mean()) if len(inside) else 0.0,
                "metrics": ranking_metrics(ranks[inside]),
                "baseline": ranking_metrics(baseline_ranks[inside]),
            }
        )
    return rows


def item_tiers(counts: np.ndarray) -> np.ndarray:
    """0 = head: the most popular items that hold half of the events; 1 = torso: the next, up to 80 %; 2 = tail.

    Args:
        counts: `[items]` events of each item. Of equally popular items those that come first in the catalogue rank higher.
    """
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]
    tiers = np.empty(len(counts), np.int64)
    # An item belongs to the tier that its first event falls into.
    tiers[order] = np.searchsorted([_HEAD, _TORSO], before / max(counts.sum(), 1), side="right")
    return tiers


def popularity_ranks_of_items(counts: np.ndarray) -> np.ndarray:
    """`[items]` rank by events, 1 = the most popular; equally popular items share the mean of their ranks."""
    _, inverse, sizes = np.unique(-counts, return_inverse=True, return_counts=True)
    return (np.cumsum(sizes) - (sizes - 1) / 2)[inverse]


def gini(exposure: np.ndarray) -> float:
    """Gini coefficient of how often each item is shown, `[items]`: 0 = all alike, (n - 1) / n = one item alone."""
    ordered = np.sort(exposure.astype(np.float64))
    total, n = ordered.sum(), len(ordered)
    if not total:
        return 0.0
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * total))


def item_bias(items: np.ndarray, counts: np.ndarray) -> dict[str, Any]:
    """How a pile of items (recommendations, or events) spreads over the catalogue.

    Args:
        items: item indices of any shape; 0 is no item.
        counts: `[n]` training events of each item.

    Returns:
        `coverage` (share of the catalogue that occurs), `gini`, `mean_rank` (mean popularity rank, 1 = the most popular) and
        `tiers` (share of head, torso and tail).
    """
    exposure = np.bincount(items.ravel(), minlength=len(counts) + 1)[PADDING + 1 :]
    shown = max(exposure.sum(), 1)
    return {
        "coverage": float(np.mean(exposure > 0)),
        "gini": gini(exposure),
        "mean_rank": float(exposure @ popularity_ranks_of_items(counts) / shown),
        "tiers": _shares(exposure, item_tiers(counts), len(POPULARITY)),
    }


def intents_by_group(intents: np.ndarray, grouping: Grouping, num_clusters: int) -> np.ndarray:
    """`[groups, num_clusters]` share of each group's users that an intent holds; a row without users is 0."""
    groups = len(grouping.labels)
    table = np.bincount(grouping.index * num_clusters + intents, minlength=groups * num_clusters).reshape(groups, num_clusters)
    return table / np.maximum(table.sum(axis=1, keepdims=True), 1)


def _shares(weights: np.ndarray, index: np.ndarray, groups: int) -> list[float]:
    """Share of the weight in each group."""
    return (np.bincount(index, weights, groups) / max(weights.sum(), 1)).tolist()


def _range_notes(edges: np.ndarray, first: int = 0) -> tuple[str, ...]:
    """Words for the ranges up to and including each edge, and beyond the last: `1–2 events`, `3–5 events`, `more than 5 events`."""
    notes, start = [], first
    for edge in edges.tolist():
        if edge < start:
            notes.append("no such users")
        elif edge == start:
            notes.append(f"{edge} events")
        else:
            notes.append(f"{start}–{edge} events" if start else f"up to {edge} events")
        start = max(start, edge + 1)
    return (*notes, f"more than {start - 1} events")
