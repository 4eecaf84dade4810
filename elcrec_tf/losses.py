"""The loss terms, as pure functions of `keras.ops` in float32.

Weights are 1 for what counts and 0 for padding; a mean with nothing to count is 0. `keys` is the item side of the score
(`ItemEmbedding.keys()`), whose row 0 is padding and never a candidate.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from elcrec_tf.kernels import as_operand, exp, fused, matmul
from elcrec_tf.masking import weighted_mean
from elcrec_tf.padding import PADDING
from elcrec_tf.vectors import unit

ASSIGNMENT_SHARPNESS = 10.0
"""Inverse temperature of the soft assignment of a history to its intents."""

_EXCLUDED = -1e9
# Bytes of logits computed at a time: they are read again before they leave the cache.
_CACHED_LOGITS = 20_000_000


def softmax_loss(queries: Any, targets: Any, keys: Any, bounded: bool = False) -> Any:
    """Cross entropy of the next item over the whole catalogue.

    The `[n, num_items]` logits are computed, and turned into gradients, a block of rows at a time: with `E = exp(Q Kᵀ)` and its
    row sums `s`, the loss is `log s - q·k_target`, and its gradients are `(E K) / s - k_target` and `Eᵀ (Q / s)` less the queries
    of each target. So a block is written once and read three times, while it is in the cache.

    Args:
        queries: `[n, size]` query vectors (`ItemEmbedding.queries()`).
        targets: `[n]` item indices; 0 where there is none.
        keys: `[num_items + 1, size]`.
        bounded: whether no score is beyond ±64 (cosine scores): then exponentials are finite as they are. Otherwise the row's
            largest logit is subtracted first.

    Returns:
        Scalar: the mean over the rows with a target.
    """
    weights = _float32(ops.not_equal(targets, PADDING))
    weights = weights / ops.maximum(ops.sum(weights), 1)
    positive = _float32(ops.sum(queries * ops.take(keys, targets, axis=0), axis=-1))
    return _catalogue_lse(queries, keys, weights, bounded) - ops.sum(weights * positive)


def _catalogue_lse(queries: Any, keys: Any, weights: Any, bounded: bool) -> Any:
    """`Σ_i w_i log Σ_j exp(q_i · k_j)` over the items j (row 0 of the keys is none)."""

    @ops.custom_gradient
    def lse(queries: Any, keys: Any) -> Any:
        items = as_operand(keys[1:])
        total, query_parts, key_parts = [], [], []
        for part in _blocks(queries.shape[0], items):
            query, weight = queries[part], weights[part][:, None]
            logits = matmul(query, items, transpose_b=True)
            shift = ops.zeros((1, 1), logits.dtype) if bounded else ops.max(logits, axis=-1, keepdims=True)
            exponential = exp(logits if bounded else logits - shift)
            sums = _float32(ops.sum(exponential, axis=-1, keepdims=True))
            share = weight / sums
            total.append(ops.sum(weight * (ops.log(sums) + _float32(shift))))
            query_parts.append(_float32(matmul(exponential, items)) * share)
            key_parts.append(matmul(ops.transpose(exponential), _float32(query) * share))
        query_gradient = ops.concatenate(query_parts, axis=0)

        def gradient(*args: Any, upstream: Any = None) -> tuple[Any, Any]:
            upstream = args[0] if upstream is None else upstream
            return ops.cast(upstream * query_gradient, queries.dtype), ops.cast(_key_gradient(upstream, *key_parts), keys.dtype)

        return sum(total), gradient

    return lse(queries, keys)


def _key_gradient(upstream: Any, *parts: Any) -> Any:
    """The blocks' gradients of the items added up; row 0, padding, has none."""
    return ops.pad(upstream * sum(_float32(part) for part in parts), [[1, 0], [0, 0]])


def _blocks(rows: int | None, items: Any) -> list[slice]:
    """Blocks of about the same number of rows, so that one block's logits fit the cache; one block of unknown size."""
    if rows is None:
        return [slice(None)]
    value_bytes = 2 if keras.backend.standardize_dtype(items.dtype) == "bfloat16" else 4
    most = max(64, _CACHED_LOGITS // (value_bytes * items.shape[0]))
    count = -(-rows // most)
    size = -(-rows // count)
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def sampled_softmax_loss(queries: Any, targets: Any, negatives: Any, negative_log_rates: Any, keys_of: Callable[[Any], Any]) -> Any:
    """Cross entropy over the target and a shared sample of negatives, each corrected by its sampling rate (logQ).

    A negative's score is lowered by the logarithm of its expected count in the sample, so that the sum over negatives
    estimates the sum over the catalogue without bias; the target is always there and needs no correction. A negative that
    is a row's own target is left out of that row.

    Args:
        queries: `[n, size]`; targets: `[n]`, 0 where there is none.
        negatives: `[m]` item indices; 0 is no draw.
        negative_log_rates: `[m]` logarithm of the probability that one draw is that negative. Its expected count in the sample
            is as many times that as there are draws.
        keys_of: gives the rows of the keys of item indices, `[n]` -> `[n, size]` (no other row of a large table is touched).

    Returns:
        Scalar: the mean over the rows with a target.
    """
    positive = _float32(ops.sum(queries * keys_of(targets), axis=-1))
    scores = _float32(ops.matmul(queries, ops.transpose(keys_of(negatives))))
    drawn = ops.not_equal(negatives, PADDING)
    count = ops.maximum(ops.sum(_float32(drawn)), 1)
    scores = scores - ops.where(drawn, negative_log_rates + ops.log(count), -_EXCLUDED)
    scores = ops.where(ops.equal(negatives[None, :], targets[:, None]), _EXCLUDED, scores)
    logits = ops.concatenate([positive[:, None], scores], axis=-1)
    return _target_mean(ops.logsumexp(logits, axis=-1) - positive, targets)


def bce_loss(queries: Any, targets: Any, negatives: Any, keys_of: Callable[[Any], Any]) -> Any:
    """Binary cross entropy of the next item against one sampled negative (the paper's next-item loss).

    Args:
        queries: `[n, size]`; targets, negatives: `[n]` item indices, 0 where there is no target; keys_of: see `sampled_softmax_loss`.

    Returns:
        Scalar: the mean over the rows with a target, both halves summed.
    """
    positive = _float32(ops.sum(queries * keys_of(targets), axis=-1))
    negative = _float32(ops.sum(queries * keys_of(negatives), axis=-1))
    return _target_mean(ops.softplus(-positive) + ops.softplus(negative), targets)


def nt_xent(view_a: Any, view_b: Any, temperature: Any, similarity: str = "dot", weights: Any = None, labels: Any = None) -> Any:
    """Symmetric contrastive loss between paired rows (NT-Xent; the InfoNCE of Eq. 4 and Eq. 6).

    Each of the 2n rows of [a; b] has its partner as the positive and the other 2n - 2 rows as negatives.

    Args:
        view_a, view_b: `[n, size]`, row i of one is the partner of row i of the other.
        temperature: divides the similarities.
        similarity: `"dot"` or `"cosine"`.
        weights: `[n]`, 0 for rows that take no part, neither as anchors nor as negatives; all 1 if None.
        labels: `[n]`; rows with equal labels are no negatives of each other (false negatives). None masks nothing.

    Returns:
        Scalar mean over the 2n anchors that take part.
    """
    view_a, view_b = _float32(view_a), _float32(view_b)
    if similarity == "cosine":
        view_a, view_b = unit(view_a), unit(view_b)
    rows = ops.shape(view_a)[0]
    weights = ops.ones((rows,), "float32") if weights is None else _float32(weights)
    labels = ops.arange(rows, dtype="int32") if labels is None else ops.cast(labels, "int32")
    positive = ops.tile(ops.sum(view_a * view_b, axis=-1), [2]) / temperature
    weights = ops.tile(weights, [2])
    weights = weights / ops.maximum(ops.sum(weights), 1)
    both = ops.concatenate([view_a, view_b], axis=0)
    return _contrast_lse(both, temperature, weights, ops.tile(labels, [2])) - ops.sum(weights * positive)


def _contrast_lse(both: Any, temperature: Any, weights: Any, labels: Any) -> Any:
    """`Σ_i w_i log Σ_j exp(x_i · x_j / temperature)` over the rows j that row i is compared with.

    With the weighted probabilities `P`, its gradient by the rows is `(P X + Pᵀ X) / temperature`; the temperature gets none.
    """

    @ops.custom_gradient
    def lse(both: Any) -> Any:
        log_sums, probabilities = _contrast(matmul(both, both, transpose_b=True), temperature, weights, labels)
        by_rows = _float32(matmul(probabilities, both)) + _float32(matmul(ops.transpose(probabilities), both))

        def gradient(*args: Any, upstream: Any = None) -> Any:
            upstream = args[0] if upstream is None else upstream
            return upstream / temperature * by_rows

        return ops.sum(weights * log_sums), gradient

    return lse(both)


@fused
def _contrast(products: Any, temperature: Any, weights: Any, labels: Any) -> tuple[Any, Any]:
    """(log sums `[2n]`, probabilities times weights `[2n, 2n]`) of the anchors."""
    count = ops.shape(products)[0]
    index = ops.arange(count)
    partner = ops.equal((index[:, None] + count // 2) % count, index[None, :])
    # A row's own label takes itself out.
    drop = ops.logical_or(ops.equal(labels[:, None], labels[None, :]), ops.equal(weights, 0)[None, :])
    logits = ops.where(ops.logical_and(drop, ops.logical_not(partner)), _EXCLUDED, _float32(products) / temperature)
    most = ops.max(logits, axis=-1, keepdims=True)
    exponential = ops.exp(logits - most)
    sums = ops.sum(exponential, axis=-1, keepdims=True)
    return ops.squeeze(most + ops.log(sums), axis=-1), ops.cast(exponential * (weights[:, None] / sums), products.dtype)


def elcm_paper(embeddings: Any, centers: Any, weights: Any = None, active: Any = None) -> tuple[Any, Any]:
    """The two terms of the ELCM loss, Eq. 3, exactly as in the paper.

    `push = -1/((k-1)k) Σ_{i≠j} ‖ĉ_i - ĉ_j‖²` and `pull = 1/(bk) Σ_i Σ_j ‖ĥ_i - ĉ_j‖²`, with `ĥ`, `ĉ` L2-normalised. On the unit
    sphere both depend on the means alone, `push = -(2 - 2‖c̄‖²) k/(k-1)` and `pull = 2 - 2 h̄·c̄`, which is what is computed.

    Args:
        embeddings: `[b, size]`; centers: `[k, size]`; weights: `[b]`, 0 for rows that do not count; all 1 if None.
        active: `[k]`, 0 for centres that do not count; all 1 if None.

    Returns:
        (push, pull), two scalars; the loss is their sum.
    """
    embeddings, centers = unit(_float32(embeddings)), unit(_float32(centers))
    k = centers.shape[0] if active is None else ops.sum(active)
    mean_center = _mean_rows(centers, active)
    push = -(2 - 2 * ops.sum(ops.square(mean_center))) * k / (k - 1)
    pull = _mean_rows(2 - 2 * ops.matmul(embeddings, mean_center), weights)
    return push, pull


def elcm_assign(
    embeddings: Any, centers: Any, weights: Any = None, active: Any = None, sharpness: float = ASSIGNMENT_SHARPNESS
) -> tuple[Any, Any, Any]:
    """ELCM that clusters: Eq. 3 with each embedding pulled to *its* centres, centres pushed apart pairwise, all of them used.

    With `p_ij = softmax_j(sharpness ĥ_i·ĉ_j)`:

    - `pull = 1/b Σ_i Σ_j p_ij ‖ĥ_i - ĉ_j‖²`,
    - `push = 1/sharpness log mean_{i≠j} exp(sharpness ĉ_i·ĉ_j)`, a soft maximum: the closest centres repel most,
    - `balance = Σ_j p̄_j log(k p̄_j)`, the divergence of the mean assignment `p̄` from an even one.

    Args:
        embeddings: `[b, size]`; centers: `[k, size]`; weights: `[b]`, 0 for rows that do not count; all 1 if None.
        active: `[k]`, 0 for centres that do not count; all 1 if None.
        sharpness: inverse temperature of the assignment.

    Returns:
        (push, pull, balance), three scalars; the loss is their sum.
    """
    weights = ops.ones(ops.shape(embeddings)[:1], "float32") if weights is None else weights
    active = ops.ones(ops.shape(centers)[:1], "float32") if active is None else active
    return _elcm_assign(embeddings, centers, weights, active, sharpness=sharpness)


@fused
def _elcm_assign(embeddings: Any, centers: Any, weights: Any, active: Any, *, sharpness: float) -> tuple[Any, Any, Any]:
    embeddings, centers = unit(_float32(embeddings)), unit(_float32(centers))
    counted = ops.greater(active, 0)
    k = ops.sum(_float32(active))
    cosine = ops.matmul(embeddings, ops.transpose(centers))
    assignment = ops.softmax(ops.where(counted, sharpness * cosine, _EXCLUDED), axis=-1)
    pull = _mean_rows(ops.sum(assignment * (2 - 2 * cosine), axis=-1), weights)
    between = sharpness * ops.matmul(centers, ops.transpose(centers))
    pairs = ops.logical_and(counted[:, None], counted[None, :])
    pairs = ops.logical_and(pairs, ops.logical_not(ops.eye(centers.shape[0], dtype="bool")))
    push = (ops.logsumexp(ops.where(pairs, between, _EXCLUDED)) - ops.log(k * (k - 1))) / sharpness
    share = _mean_rows(assignment, weights)
    balance = ops.sum(share * ops.log(k * share + 1e-12))
    return push, pull, balance


def _mean_rows(values: Any, weights: Any) -> Any:
    """Mean over the first axis under `weights` (all 1 if None)."""
    if weights is None:
        return ops.mean(values, axis=0)
    weights = ops.reshape(_float32(weights), (-1,) + (1,) * (len(values.shape) - 1))
    return ops.sum(values * weights, axis=0) / ops.maximum(ops.sum(weights), 1)


def _target_mean(losses: Any, targets: Any) -> Any:
    return weighted_mean(losses, _float32(ops.not_equal(targets, PADDING)))


def _float32(values: Any) -> Any:
    return ops.cast(values, "float32")
