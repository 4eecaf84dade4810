"""Makes the approximate index of an export: divides the items into lists, and decides from users' histories how many to look into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from elcrec_tf.errors import UserError
from elcrec_tf.model import ELCRec
from elcrec_tf.serving.inverted_lists import InvertedLists, default_count, divide, fewest_probes, recall_by_probes
from elcrec_tf.serving.search import ExactSearch, ListSearch

_BATCH = 64


@dataclass(frozen=True)
class Approximation:
    """What an approximate index is made of.

    Attributes:
        histories: int32 `[n, max_length]` prepared histories of at least two users: half of them decide how many lists are looked into, the
            others measure the recall.
        recall: share of the truly best items that has to be found.
        lists: number of lists; None takes `default_count`.
        probes: lists looked into; None takes the fewest that reach `recall`.
    """

    histories: np.ndarray
    recall: float = 0.95
    lists: int | None = None
    probes: int | None = None


def approximate_search(model: ELCRec, keys: tf.Tensor, top_k: int, wanted: Approximation) -> tuple[ListSearch, dict[str, Any]]:
    """An approximate search over `keys`, and what metadata.json says of it.

    Args:
        model: gives the queries of the histories.
        keys: float32 `[num_items + 1, size]`, `item_keys(model)`.
        top_k: items whose recall is measured.
        wanted: the settings.

    Raises:
        UserError: for more lists than items, more probes than lists, a recall out of bounds, or fewer than two histories.
    """
    num_items = len(keys) - 1
    count = wanted.lists or default_count(num_items)
    _check(wanted, count, num_items)
    lists = divide(keys[1:].numpy(), count)
    queries = [_queries(model, wanted.histories[start : start + _BATCH]) for start in range(0, len(wanted.histories), _BATCH)]
    best = _best(keys, queries, min(top_k, num_items))
    half, all_queries = len(best) // 2, np.concatenate(queries)
    probes = wanted.probes or fewest_probes(recall_by_probes(lists, all_queries[:half], best[:half]), wanted.recall)
    measured = recall_by_probes(lists, all_queries[half:], best[half:])
    about = {
        "kind": "approximate",
        "lists": count,
        "probes": probes,
        "candidates": float(_candidates(lists, all_queries[half:], probes)),
        "recall": {"wanted": wanted.recall, "measured": float(measured[probes - 1]), "at": best.shape[1], "users": len(best) - half},
    }
    return ListSearch(keys, lists, probes), about


def _check(wanted: Approximation, count: int, num_items: int) -> None:
    if not 0 < wanted.recall <= 1:
        raise UserError(f"--index-recall should be above 0 and at most 1. Received: {wanted.recall}")
    if count > num_items:
        raise UserError(f"--index-lists should be at most the {num_items:,} items. Received: {count}")
    if wanted.probes is not None and wanted.probes > count:
        raise UserError(f"--index-probes should be at most the {count:,} lists. Received: {wanted.probes}")
    if len(wanted.histories) < 2:
        raise UserError("--index approximate needs at least 2 users with a history, to measure its recall; use --index exact")


def _queries(model: ELCRec, histories: np.ndarray) -> np.ndarray:
    return tf.cast(model.item_embedding.queries(model.latest(tf.constant(histories))["user"]), tf.float32).numpy()


def _best(keys: tf.Tensor, queries: list[np.ndarray], k: int) -> np.ndarray:
    exact = ExactSearch(keys)
    search = tf.function(lambda batch: exact.best(batch, k)[1], reduce_retracing=True, autograph=False)
    return np.concatenate([search(tf.constant(batch)).numpy() for batch in queries])


def _candidates(lists: InvertedLists, queries: np.ndarray, probes: int) -> float:
    """Items that a query scores, on average."""
    near = np.argsort(-(queries @ lists.centers.T), axis=1)[:, :probes]
    return float(np.diff(lists.starts)[near].sum(axis=1).mean())
