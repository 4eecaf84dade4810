"""How the arithmetic of a training step runs: the number format of its matrix products, and element-wise chains in one kernel each.

Inside `using(...)`, `matmul` rounds its operands to the chosen format and `fused` functions are compiled; outside, both are plain
`keras.ops`, so evaluation, export and serving never see either. The results differ by rounding alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops


@dataclass(frozen=True)
class Kernels:
    """A way to run: `product_dtype` is the format of matrix products; `compiled` compiles `fused` functions with XLA (TensorFlow)."""

    product_dtype: str = "float32"
    compiled: bool = False


_PLAIN = Kernels()
_active: ContextVar[Kernels] = ContextVar("kernels", default=_PLAIN)


@contextmanager
def using(kernels: Kernels) -> Iterator[None]:
    """Run what is inside with `kernels`."""
    token = _active.set(kernels)
    try:
        yield
    finally:
        _active.reset(token)


def matmul(a: Any, b: Any, transpose_b: bool = False) -> Any:
    """Matrix product of `[rows, inner]` and `[inner, columns]` (or its transpose) in the active format, which the result keeps."""
    a, b = as_operand(a), as_operand(b)
    return ops.matmul(a, ops.transpose(b) if transpose_b else b)


def as_operand(values: Any) -> Any:
    """Values in the active format of matrix products; float32 leaves them as they are."""
    dtype = _active.get().product_dtype
    return values if dtype == "float32" else ops.cast(values, dtype)


def exp(values: Any) -> Any:
    """Exponential. In bfloat16 it is hardly more accurate than that format, at half the work: `2^n (1 + f (a + b f))`, within 0.3 %."""
    if not _active.get().compiled or keras.backend.standardize_dtype(values.dtype) != "bfloat16":
        return ops.exp(values)
    return _bfloat16_exp(values)


def fused(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate an element-wise chain, so that it runs as one kernel forward and one backward where kernels are compiled.

    The backward kernel computes the chain again instead of reading its intermediate values from memory. Positional arguments are
    tensors (integers get no gradient); keyword arguments are plain values, each set of which is compiled on its own.
    """

    @functools.cache
    def kernel(**values: Any) -> Callable[..., Any]:
        return _compile(functools.partial(function, **values))

    @functools.wraps(function)
    def call(*tensors: Any, **values: Any) -> Any:
        if not _active.get().compiled or keras.backend.backend() != "tensorflow":
            return function(*tensors, **values)
        return kernel(**values)(*(_dense(one) for one in tensors))

    return call


def lookup(table: Any, rows: Any) -> Any:
    """Rows of a variable, for indices of any shape. In TensorFlow nothing else of it is read, and the gradient holds these rows alone.

    (`keras.ops.take` reads all of it, which copies it where an optimizer writes row by row.)
    """
    if keras.backend.backend() != "tensorflow":
        return ops.take(table, rows, axis=0)
    import tensorflow as tf

    return tf.gather(table.value if isinstance(table, keras.Variable) else table, rows)


def summed_rows(gradient: Any) -> tuple[Any, Any] | None:
    """(rows `[n]`, each once, and their gradients `[n, size]`) of the gradient of lookups; None for a dense gradient (TensorFlow)."""
    import tensorflow as tf

    if not isinstance(gradient, tf.IndexedSlices):
        return None
    rows, place = tf.unique(tf.reshape(gradient.indices, [-1]))
    return rows, tf.math.unsorted_segment_sum(gradient.values, place, tf.size(rows))


def dense(gradient: Any) -> Any:
    """The gradient of lookups as that of the whole table: rows that were looked up twice are added up."""
    return _dense(gradient) if keras.backend.backend() == "tensorflow" else gradient


def at_rows(rows: Any, values: Any) -> Any:
    """What to assign to a variable so that only these rows change (TensorFlow)."""
    import tensorflow as tf

    return tf.IndexedSlices(values, rows)


def _dense(values: Any) -> Any:
    """A tensor of a variable, or of the gradient of a lookup."""
    import tensorflow as tf

    return tf.convert_to_tensor(values if isinstance(values, tf.IndexedSlices) else ops.convert_to_tensor(values))


def _compile(function: Callable[..., Any]) -> Callable[..., Any]:
    import tensorflow as tf

    @tf.function(jit_compile=True, autograph=False)
    def forward(*tensors: Any) -> Any:
        return function(*tensors)

    @tf.function(jit_compile=True, autograph=False)
    def backward(tensors: tuple[Any, ...], upstream: tuple[Any, ...]) -> Any:
        with tf.GradientTape() as tape:
            tape.watch([one for one in tensors if one.dtype.is_floating])
            outputs = function(*tensors)
        gradients = tape.gradient(outputs, tensors, upstream if isinstance(outputs, tuple) else upstream[0])
        # What the function ignores has gradient 0; a compiled function cannot return None.
        return [tf.zeros_like(one) if gradient is None else gradient for one, gradient in zip(tensors, gradients, strict=True)]

    @tf.custom_gradient
    def call(*tensors: Any) -> Any:
        def gradient(*upstream: Any) -> Any:
            gradients = backward(tensors, upstream)
            return [value if one.dtype.is_floating else None for one, value in zip(tensors, gradients, strict=True)]

        return forward(*tensors), gradient

    return call


@fused
def _bfloat16_exp(values: Any) -> Any:
    power = ops.clip(ops.cast(values, "float32") * 1.4426950408889634, -126, 127)  # log2(e); the exponents that float32 has
    whole = ops.floor(power)
    rest = power - whole
    mantissa = 1 + rest * (0.6565 + 0.3435 * rest)
    # A float32 holds its exponent above its 23 bits of mantissa: adding there multiplies by a power of two.
    bits = ops.view(mantissa, "int32") + ops.bitwise_left_shift(ops.cast(whole, "int32"), 23)
    return ops.cast(ops.view(bits, "float32"), values.dtype)
