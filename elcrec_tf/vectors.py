"""Vectors on the unit sphere."""

from typing import Any

from keras import ops

from elcrec_tf.kernels import fused


@fused
def unit(vectors: Any) -> Any:
    """`vectors / ‖vectors‖` along the last axis; a zero vector stays zero, and its gradient is finite."""
    square = ops.sum(ops.square(vectors), axis=-1, keepdims=True)
    return vectors * ops.rsqrt(ops.maximum(square, 1e-12))
