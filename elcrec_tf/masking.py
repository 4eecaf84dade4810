"""The one definition of padding and what follows from it. `valid_mask` is True where there is a real item.

A row holds one history, left-padded: the latest item is in the last column. Or it holds several (see `elcrec_tf.data.packing`): then
`slot` tells which cells belong together.
"""

from typing import Any

from keras import ops

from elcrec_tf.kernels import fused
from elcrec_tf.padding import PADDING

# The score that a masked position gets before the softmax. Large enough to vanish in float32, small enough for float16.
MASKED_SCORE = -1e4


def valid_mask(history: Any) -> Any:
    """`[batch, length]` item indices -> bool of the same shape, True = a real item."""
    return ops.not_equal(history, PADDING)


def attention_bias(valid: Any, dtype: str, slot: Any = None) -> Any:
    """Additive bias `[batch, 1, query, key]`: 0 where a query may look, `MASKED_SCORE` elsewhere.

    It may look at valid keys at or before it, of its own history where `slot` `[batch, length]` says which one that is.

    Padding in front of a history may look nowhere. Its row of equal biases leaves a softmax over everything, a meaningless but
    finite state that must not be read. (A hidden item of a masked view still looks at the items before it.)
    """
    return _attention_bias(valid, ops.zeros_like(valid, dtype="int32") if slot is None else slot, dtype=dtype)


@fused
def _attention_bias(valid: Any, slot: Any, *, dtype: str) -> Any:
    position = ops.arange(ops.shape(valid)[1])
    causal = ops.greater_equal(position[:, None], position[None, :])
    own = ops.equal(slot[:, None, :, None], slot[:, None, None, :])
    allowed = ops.logical_and(ops.logical_and(causal[None, None], valid[:, None, None, :]), own)
    return ops.where(allowed, ops.zeros((), dtype), ops.full((), MASKED_SCORE, dtype))


def visible_items(bias: Any) -> Any:
    """How many items each position may look at, int32 `[batch, length]`, from its `attention_bias`: those of its history up to itself."""
    return ops.sum(ops.cast(ops.equal(bias[:, 0], 0), "int32"), axis=-1)


def earlier_items(valid: Any, width: int, slot: Any = None) -> Any:
    """bool `[batch, length, width]`: whether the cell 1, 2, ..., `width` places before each one holds an item of the same history."""
    slot = ops.zeros_like(valid, dtype="int32") if slot is None else slot
    length = ops.shape(valid)[1]

    def before(values: Any, places: int) -> Any:
        return ops.pad(values, [[0, 0], [places, 0]])[:, :length]

    own = [ops.logical_and(before(valid, places), ops.equal(before(slot, places), slot)) for places in range(1, width + 1)]
    return ops.stack(own, axis=-1)


def masked_mean(states: Any, valid: Any) -> Any:
    """Mean of `[batch, length, size]` over the valid positions, `[batch, size]`; zeros where no position is valid."""
    weights = ops.cast(valid, states.dtype)[:, :, None]
    return ops.sum(states * weights, axis=1) / ops.maximum(ops.sum(weights, axis=1), 1)


def slot_mean(states: Any, counted: Any, slot: Any, slots: int) -> Any:
    """Mean of `[cells, size]` over the counted cells (bool `[cells]`) of each slot, `[slots, size]`; zeros where none counts."""
    weights = ops.cast(counted, "float32")[:, None]  # bfloat16 cannot count beyond 256
    # One segment more than there are slots takes the cells that belong to none.
    total = ops.segment_sum(ops.cast(states, "float32") * weights, slot, slots + 1)[:slots]
    return ops.cast(total / ops.maximum(ops.segment_sum(weights, slot, slots + 1)[:slots], 1), states.dtype)


def weighted_mean(values: Any, weights: Any) -> Any:
    """Mean of `values` under `weights` of the same shape; 0 where all weights are 0."""
    return ops.sum(values * weights) / ops.maximum(ops.sum(weights), 1)
