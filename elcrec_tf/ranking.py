"""Ranking the catalogue: exclusion, top-k, the rank of a target, and the metrics of leave-one-out."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from keras import ops

from elcrec_tf.padding import PADDING

CUTOFFS = (5, 10, 20)
BLOCK = 1 << 14
"""Items that are scored at a time where a catalogue is too large for all of them: the scores of a batch stay near the processor."""

MOST_AT_ONCE = 1 << 16
"""Items of the largest catalogue that is scored all at once."""


def exclude_items(scores: Any, items: Any) -> Any:
    """Scores with the given items, and padding, set to -inf.

    Args:
        scores: `[batch, num_items + 1]`, column 0 = padding.
        items: `[batch, n]` item indices; 0 (padding) may fill up.

    Returns:
        `[batch, num_items + 1]`.
    """
    batch, width = ops.shape(items)
    rows = ops.repeat(ops.arange(batch, dtype="int32")[:, None], width + 1, axis=1)
    columns = ops.concatenate([ops.cast(items, "int32"), ops.full((batch, 1), PADDING, "int32")], axis=1)
    index = ops.reshape(ops.stack([rows, columns], axis=-1), (-1, 2))
    worst = ops.full((batch * (width + 1),), -float("inf"), scores.dtype)
    return ops.scatter_update(scores, index, worst)


def target_ranks(scores: Any, targets: Any) -> Any:
    """How many other items rank before the target, int32 `[batch]`; 0 = best.

    Ties count against the target, and so does NaN: no constant or broken scores can look good. A target that is itself
    excluded (-inf) ranks behind everything.

    Args:
        scores: `[batch, num_items + 1]` after `exclude_items`; targets: `[batch]` item indices.
    """
    own = ops.take_along_axis(scores, ops.cast(targets, "int32")[:, None], axis=1)
    behind = ops.sum(ops.cast(ops.less(scores, own), "int32"), axis=1)
    return ops.shape(scores)[1] - 1 - behind


def ranks_in_blocks(queries: Any, targets: Any, excluded: Any, keys_of: Callable[[Any], Any], num_items: int, block: int = BLOCK) -> Any:
    """`target_ranks` after `exclude_items` of the scores `queries · keys`, in memory for a block of items, int32 `[batch]`.

    Args:
        queries: `[batch, size]`; targets: `[batch]` item indices; excluded: `[batch, n]`, 0 (padding) may fill up.
        keys_of: gives the keys `[n, size]` of item indices `[n]`.
        num_items: of the catalogue.
        block: items scored at a time.
    """
    batch, targets = ops.shape(queries)[0], ops.cast(targets, "int32")
    own_keys = keys_of(targets)

    def count(index: Any, ahead: Any) -> Any:
        first = 1 + index * block
        items = first + ops.arange(block, dtype="int32")
        # The target's score is taken from the same product: another one may round differently, and a tie would be none.
        keys = ops.concatenate([own_keys, keys_of(ops.minimum(items, num_items))], axis=0)
        scores = ops.cast(ops.matmul(queries, ops.transpose(keys)), "float32")
        own = ops.diagonal(scores[:, :batch])[:, None]
        here = ops.logical_and(excluded >= first, excluded < first + block)
        scores = exclude_items(scores, ops.where(here, excluded - first + batch, 0))[:, batch:]
        rival = ops.logical_and(items <= num_items, items != targets[:, None])
        return ahead + ops.sum(ops.cast(ops.logical_and(rival, ops.logical_not(ops.less(scores, own))), "int32"), axis=1)

    ahead = ops.fori_loop(0, -(-num_items // block), count, ops.zeros((batch,), "int32"))
    lost = ops.logical_or(ops.equal(targets, PADDING), ops.any(ops.equal(excluded, targets[:, None]), axis=1))
    lost = ops.logical_or(lost, ops.isnan(ops.cast(ops.sum(queries * own_keys, axis=1), "float32")))
    return ops.where(lost, num_items, ahead)


def ranking_metrics(ranks: np.ndarray, cutoffs: Sequence[int] = CUTOFFS) -> dict[str, float]:
    """Metrics of ranks with one relevant item each.

    `HR@K = mean(rank < K)`, `NDCG@K = mean([rank < K] / log2(rank + 2))`, `MRR = mean(1 / (rank + 1))`.

    Args:
        ranks: `[users]`, 0 = best. No users give 0 everywhere.
    """
    ranks = np.asarray(ranks, np.float64)
    if not len(ranks):
        return dict.fromkeys([f"{name}@{k}" for name in ("HR", "NDCG") for k in cutoffs] + ["MRR"], 0.0)
    gain = 1 / np.log2(ranks + 2)
    metrics = {f"HR@{k}": float(np.mean(ranks < k)) for k in cutoffs}
    metrics |= {f"NDCG@{k}": float(np.mean(gain * (ranks < k))) for k in cutoffs}
    metrics["MRR"] = float(np.mean(1 / (ranks + 1)))
    return metrics
