"""Dropout whose mask is a hash of place and seed: cheap to make inside a compiled kernel, and to make again for its gradient."""

from typing import Any

import numpy as np
from keras import ops


def dropout(values: Any, rate: float, seed: Any, salt: int = 0) -> Any:
    """Values with a share of `rate` set to 0 and the others scaled by `1 / (1 - rate)`.

    Args:
        values: any shape.
        rate: in [0, 1); 0 changes nothing.
        seed: `[2]` integers, as `keras.random.SeedGenerator.next` gives them. The same seed and salt give the same mask.
        salt: tells masks drawn from one seed apart.
    """
    if not rate:
        return values
    first, second = (ops.cast(seed[place], "uint32") for place in range(2))
    key = _mixed(first + _uint32(salt * 0x9E3779B9)) ^ _mixed(second + _uint32(0x7F4A7C15))
    count = int(np.prod(values.shape)) if None not in values.shape else ops.size(values)
    place = ops.reshape(ops.cast(ops.arange(count, dtype="int32"), "uint32"), ops.shape(values))
    draw = _mixed(place * _uint32(0x9E3779B1) + key)
    kept = ops.greater_equal(draw, _uint32(round(rate * 2**32)))
    return ops.where(kept, values * (1 / (1 - rate)), ops.zeros_like(values))


def _mixed(bits: Any) -> Any:
    """The finalizer of MurmurHash3: every bit of a uint32 moves every other."""
    bits = (bits ^ _shifted(bits, 16)) * _uint32(0x85EBCA6B)
    bits = (bits ^ _shifted(bits, 13)) * _uint32(0xC2B2AE35)
    return bits ^ _shifted(bits, 16)


def _shifted(bits: Any, count: int) -> Any:
    return ops.bitwise_right_shift(bits, _uint32(count))


def _uint32(value: int) -> Any:
    return ops.convert_to_tensor(np.uint32(value % 2**32))
