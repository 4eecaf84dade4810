"""The one definition of padding and what follows from it. `valid_mask` is True where there is a real item.

Histories are left-padded: the latest item is always in the last column.
"""

from typing import Any

from keras import ops

from elcrec_tf.padding import PADDING

# The score that a masked position gets before the softmax. Large enough to vanish in float32, small enough for float16.
MASKED_SCORE = -1e4


def valid_mask(history: Any) -> Any:
    """`[batch, length]` item indices -> bool of the same shape, True = a real item."""
    return ops.not_equal(history, PADDING)


def attention_bias(valid: Any, dtype: str) -> Any:
    """Additive bias `[batch, 1, query, key]`: 0 where a query may look (valid keys at or before it), `MASKED_SCORE` elsewhere.

    Padding in front of a history may look nowhere. Its row of equal biases leaves a softmax over everything, a meaningless but
    finite state that must not be read. (A hidden item of a masked view still looks at the items before it.)
    """
    length = ops.shape(valid)[1]
    position = ops.arange(length)
    causal = ops.greater_equal(position[:, None], position[None, :])
    allowed = ops.logical_and(causal[None, None], valid[:, None, None, :])
    return ops.where(allowed, ops.zeros((), dtype), ops.full((), MASKED_SCORE, dtype))


def masked_mean(states: Any, valid: Any) -> Any:
    """Mean of `[batch, length, size]` over the valid positions, `[batch, size]`; zeros where no position is valid."""
    weights = ops.cast(valid, states.dtype)[:, :, None]
    return ops.sum(states * weights, axis=1) / ops.maximum(ops.sum(weights, axis=1), 1)


def weighted_mean(values: Any, weights: Any) -> Any:
    """Mean of `values` under `weights` of the same shape; 0 where all weights are 0."""
    return ops.sum(values * weights) / ops.maximum(ops.sum(weights), 1)
