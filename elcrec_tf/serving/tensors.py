"""Arrays as TensorFlow Serving's messages carry them. Imports no TensorFlow."""

from __future__ import annotations

import itertools
import math

import numpy as np

from elcrec_tf.serving import wire_pb2 as wire

STRING = 7
"""Number of `tensorflow.DataType.DT_STRING`."""

# Numbers of tensorflow.DataType that the exported signatures use: NumPy's name, and the field that holds values one by one.
_NUMBERS = {
    1: ("float32", "float_val"),
    2: ("float64", "double_val"),
    3: ("int32", "int_val"),
    9: ("int64", "int64_val"),
    10: ("bool", "bool_val"),
}
_LARGEST_SHIFT = 28  # of a varint with 32 bits
_DTYPES = {name: number for number, (name, _) in _NUMBERS.items()}
DTYPE_NAMES = {number: name for number, (name, _) in _NUMBERS.items()} | {STRING: "string"}
"""Names by number of `tensorflow.DataType`, of the types that can be carried."""


def to_tensor(values: np.ndarray) -> wire.Tensor:
    """An array as a message. Arrays of bytes objects become strings; float32, float64, int32, int64 and bool keep their type."""
    shape = wire.TensorShape(dim=[wire.TensorShape.Dim(size=size) for size in values.shape])
    if values.dtype == object:
        return wire.Tensor(dtype=STRING, tensor_shape=shape, string_val=values.ravel().tolist())
    number = _DTYPES[values.dtype.name]
    content = values.astype(values.dtype.newbyteorder("="), copy=False).tobytes()  # a message does not tell its byte order
    return wire.Tensor(dtype=number, tensor_shape=shape, tensor_content=content)


def from_tensor(tensor: wire.Tensor, most_values: int | None = None, most_filled: int | None = None) -> np.ndarray:
    """The array of a message; strings as bytes objects.

    As in TensorFlow, values may stand as raw bytes or one by one, and the last one given fills what is missing.

    Args:
        tensor: the message.
        most_values: largest number of values that is accepted; any if None. A message of a few bytes can claim any shape.
        most_filled: how many values may be missing; any number if None.

    Raises:
        ValueError: for an unknown type, an unknown or negative shape, more values than the shape has, raw bytes that are not the shape's
            values, or too large a shape.
    """
    if tensor.tensor_shape.unknown_rank:
        raise ValueError("the shape is unknown")
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    if min(shape, default=0) < 0:
        raise ValueError(f"the shape {list(shape)} has a negative size")
    count = math.prod(shape)
    if most_values is not None and max(count, *shape, 0) > most_values:
        raise ValueError(f"the shape {list(shape)} has too many values (at most {most_values})")
    if tensor.dtype not in DTYPE_NAMES:
        raise ValueError(f"the data type {tensor.dtype} is not supported")
    name, field = _NUMBERS.get(tensor.dtype, ("object", "string_val"))
    dtype = np.dtype(name)
    if tensor.tensor_content and tensor.dtype != STRING:
        if len(tensor.tensor_content) != count * dtype.itemsize:
            raise ValueError(f"the shape {list(shape)} needs {count * dtype.itemsize} bytes, {len(tensor.tensor_content)} are given")
        return np.frombuffer(tensor.tensor_content, dtype).reshape(shape)
    values = _strings(tensor.tensor_content, count) if tensor.tensor_content else list(getattr(tensor, field))
    if most_filled is not None and count - len(values) > most_filled:
        raise ValueError(f"the shape {list(shape)} needs {count} values, {len(values)} are given (at most {most_filled} may be missing)")
    return _filled(values, count, b"" if tensor.dtype == STRING else 0, dtype).reshape(shape)


def _strings(content: bytes, count: int) -> list[bytes]:
    """Texts out of raw bytes: the lengths of all, as the varints of protocol buffers, then the bytes of all."""
    lengths, start = [], 0
    for _ in range(count):
        length = shift = 0
        while True:
            if start == len(content) or shift > _LARGEST_SHIFT:
                raise ValueError(f"the raw bytes do not hold the lengths of {count} texts")
            byte, start = content[start], start + 1
            length |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
        lengths.append(length)
    if sum(lengths) != len(content) - start:
        raise ValueError(f"the lengths of the texts add up to {sum(lengths)} bytes, {len(content) - start} are given")
    ends = [start, *(start + end for end in itertools.accumulate(lengths))]
    return [content[first:last] for first, last in itertools.pairwise(ends)]


def _filled(values: list, count: int, nothing: object, dtype: np.dtype) -> np.ndarray:
    given = len(values)
    if given > count:
        raise ValueError(f"{given} values are given for a shape of {count}")
    array = np.full(count, values[-1] if given else nothing, dtype)
    array[:given] = values
    return array
