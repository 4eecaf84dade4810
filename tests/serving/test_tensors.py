"""Arrays as messages and back, with TensorFlow's own messages as the judge."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from elcrec_tf.serving import wire_pb2 as wire
from elcrec_tf.serving.tensors import DTYPE_NAMES, STRING, from_tensor, to_tensor

NUMBERS = [name for name in DTYPE_NAMES.values() if name != "string"]
SHAPES = [(), (0,), (3,), (2, 3), (2, 0, 3)]


def numbers(name, shape):
    return (np.arange(np.prod(shape)).reshape(shape) % 2).astype(name)


def strings(shape):
    flat = np.array([b"a", b"", b"\0", "é".encode(), b"\xff", b"bb"], object)
    return np.resize(flat, shape).astype(object)


ARRAYS = [numbers(name, shape) for name in NUMBERS for shape in SHAPES] + [strings(shape) for shape in SHAPES]


def same(found, expected):
    return found.dtype == expected.dtype and found.shape == expected.shape and found.tolist() == expected.tolist()


@pytest.mark.parametrize("values", ARRAYS, ids=lambda values: f"{values.dtype}{list(values.shape)}")
def test_arrays_survive_both_ways_and_as_tensorflow_reads_and_writes_them(values):
    message = to_tensor(values)
    assert same(from_tensor(message), values)
    assert same(tf.make_ndarray(tensor_pb2.TensorProto.FromString(message.SerializeToString())), values)
    written = tf.make_tensor_proto(values, dtype=tf.string if values.dtype == object else None, shape=values.shape)
    assert same(from_tensor(wire.Tensor.FromString(written.SerializeToString())), values)


def test_an_array_in_another_order_is_read_in_its_own():
    values = np.arange(6, dtype=np.int32).reshape(2, 3).T
    assert same(from_tensor(to_tensor(values)), values)


@pytest.mark.parametrize("kind", ["f4", "f8", "i4", "i8"])
def test_an_array_with_the_bytes_the_other_way_round_keeps_its_values(kind):
    values = np.arange(6).reshape(2, 3)
    for order in "<>":
        assert same(from_tensor(to_tensor(values.astype(order + kind))), values.astype(kind))


def message(dtype, sizes, **values):
    shape = wire.TensorShape(dim=[wire.TensorShape.Dim(size=size) for size in sizes])
    return wire.Tensor(dtype=dtype, tensor_shape=shape, **values)


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (message(1, [3], float_val=[1, 2]), [1, 2, 2]),
        (message(3, [2, 2], int_val=[7]), [[7, 7], [7, 7]]),
        (message(10, [2]), [False, False]),
        (message(STRING, [3], string_val=[b"a"]), [b"a", b"a", b"a"]),
        (message(STRING, [2]), [b"", b""]),
        (message(9, [0]), []),
    ],
)
def test_the_last_value_fills_what_is_missing(tensor, expected):
    assert from_tensor(tensor).tolist() == expected
    assert tf.io.parse_tensor(tensor.SerializeToString(), tf.as_dtype(tensor.dtype)).numpy().tolist() == expected


@pytest.mark.parametrize("values", [strings((2, 3)), strings((1,)), np.array([b"x" * 127, b"y" * 128, b"z" * 20_000], object)], ids=len)
def test_texts_as_raw_bytes(values):
    lengths = b"".join(varint(len(raw)) for raw in values.flat)
    tensor = message(STRING, values.shape, tensor_content=lengths + b"".join(values.flat))
    assert same(from_tensor(tensor), values)
    assert same(tf.io.parse_tensor(tensor.SerializeToString(), tf.string).numpy(), values)


def varint(number):
    low = number & 0x7F
    return bytes([low]) if number < 0x80 else bytes([low | 0x80]) + varint(number >> 7)


def test_so_many_values_may_be_missing():
    for tensor in (message(STRING, [2, 50], string_val=[b"a"]), message(3, [2, 50], int_val=[1])):
        assert from_tensor(tensor, most_filled=99).shape == (2, 50)
        with pytest.raises(ValueError, match=r"the shape \[2, 50\] needs 100 values, 1 are given \(at most 98 may be missing\)"):
            from_tensor(tensor, most_filled=98)
    raw = message(3, [2], tensor_content=bytes(8))
    assert from_tensor(raw, most_filled=0).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("tensor", "error"),
    [
        (wire.Tensor(dtype=1, tensor_shape=wire.TensorShape(unknown_rank=True)), "shape is unknown"),
        (message(1, [-1]), r"shape \[-1\] has a negative size"),
        (message(1, [2], float_val=[1, 2, 3]), "3 values are given for a shape of 2"),
        (message(1, [2], tensor_content=b"1234"), r"shape \[2\] needs 8 bytes, 4 are given"),
        (message(STRING, [3], tensor_content=b"\x01\x01"), "do not hold the lengths of 3 texts"),
        (message(STRING, [1], tensor_content=b"\xff\xff\xff\xff\xff\x01"), "do not hold the lengths of 1 texts"),
        (message(STRING, [2], tensor_content=b"\x01\x02ab"), "add up to 3 bytes, 2 are given"),
        (message(STRING, [0], tensor_content=b"a"), "add up to 0 bytes, 1 are given"),
        (message(99, [1]), "data type 99 is not supported"),
        (message(STRING, [1 << 30]), "too many values"),
        (message(1, [1 << 62, 0]), "too many values"),
    ],
)
def test_messages_that_make_no_sense_are_refused(tensor, error):
    with pytest.raises(ValueError, match=error):
        from_tensor(tensor, most_values=1000)
