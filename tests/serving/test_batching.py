from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from elcrec_tf.serving import wire_pb2 as wire
from elcrec_tf.serving.batching import BatchOptions, padded_size
from elcrec_tf.serving.request_error import RequestError
from elcrec_tf.serving.servable import Servable
from elcrec_tf.serving.tensors import from_tensor, to_tensor
from tests.serving.asking import texts
from tests.serving.toy_servable import write_toy

OPTIONS = BatchOptions(max_batch_size=8, timeout_ms=0, num_threads=2)
PATIENT = BatchOptions(max_batch_size=8, timeout_ms=20_000, num_threads=2)  # only a full batch is answered soon


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_toy(tmp_path_factory.mktemp("toy"), 1)


@pytest.fixture(scope="module")
def servable(folder):
    return Servable(folder, 1, OPTIONS, 8)


def ask(servable, signature, **inputs):
    outputs, batch_rows = servable.signature(signature).answer({name: to_tensor(np.asarray(values)) for name, values in inputs.items()})
    return {name: from_tensor(wire.Tensor.FromString(value)) for name, value in outputs.items()}, batch_rows


@pytest.mark.parametrize(("largest", "sizes"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (64, [1, 2, 4, 8, 16, 32, 64])])
def test_allowed_sizes_are_powers_of_two_and_the_largest(largest, sizes):
    assert BatchOptions(largest, 0, 1).allowed_sizes == sizes


@pytest.mark.parametrize(("size", "width"), [(0, 16), (1, 16), (16, 16), (17, 32), (32, 32), (33, 64)])
def test_widths_go_to_powers_of_two(size, width):
    assert padded_size(size) == width


def test_outputs_that_are_as_wide_as_an_input_are_found(servable):
    assert servable.signature("widths")._widths == {"left": {1: ("left", 1)}, "right": {1: ("right", 1)}}
    assert servable.signature("count")._widths == {}


@pytest.mark.parametrize(("left", "right"), [(3, 5), (0, 1), (16, 17), (5, 5)])
def test_padding_is_cut_off_again(servable, left, right):
    given = {"left": np.full((2, left), b"l", object), "right": np.full((2, right), b"rr", object)}
    outputs, batch_rows = ask(servable, "widths", **given, pair=np.array([[1, 2], [3, 4]], np.float32))
    assert (outputs["left"] == given["left"]).all() and outputs["left"].shape == (2, left)
    assert outputs["right"].tolist() == [[2] * right] * 2
    assert outputs["sum"].tolist() == [3, 7]
    assert batch_rows == 2


def test_requests_at_the_same_time_are_one_batch(folder):
    servable = Servable(folder, 1, PATIENT, 8)
    histories = [[b"a"] * number for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda history: ask(servable, "count", history=texts([history])), histories))
    assert [outputs["known"].tolist() for outputs, _ in answers] == [[number] for number in range(8)]
    assert [batch_rows for _, batch_rows in answers] == [8] * 8


def test_signatures_and_widths_do_not_share_batches(folder):
    """Eight rows would be a full batch; four of each are answered by themselves, when the time is up."""
    servable = Servable(folder, 1, BatchOptions(8, 200, 2), 8)
    questions = [("count", 3), ("count", 20), ("serving_default", 3)] * 4
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda one: ask(servable, one[0], history=np.full((1, one[1]), b"x", object)), questions))
    assert [outputs["known"].tolist() for outputs, _ in answers] == [[width] for _, width in questions]
    assert max(batch_rows for _, batch_rows in answers) <= 4


def test_versions_at_the_same_time_do_not_share_batches(tmp_path):
    servables = [Servable(write_toy(tmp_path, version), version, BatchOptions(8, 200, 2), 8) for version in (1, 2)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: ask(servables[number % 2], "count", history=texts([[b"a"]])), range(8)))
    assert [outputs["tag"].tolist() for outputs, _ in answers] == [[1], [2]] * 4


@pytest.mark.parametrize("rows", [9, 64, 1000])
@pytest.mark.parametrize("options", [OPTIONS, None])
def test_many_rows_are_answered_in_pieces(folder, rows, options):
    servable = Servable(folder, 1, options, 8)
    history = texts([[b"a"] * (number % 5) for number in range(rows)], width=5)
    outputs, batch_rows = ask(servable, "count", history=history)
    assert outputs["known"].tolist() == [number % 5 for number in range(rows)]
    assert outputs["tag"].tolist() == [1] * rows
    assert batch_rows == 8


@pytest.mark.parametrize("options", [OPTIONS, None])
@pytest.mark.parametrize("shape", [(0, 3), (0, 0)])
def test_no_rows_are_answered_by_no_rows(folder, options, shape):
    outputs, _ = ask(Servable(folder, 1, options, 8), "count", history=np.empty(shape, object))
    assert {name: values.shape for name, values in outputs.items()} == {"tag": (0,), "known": (0,)}


def test_a_signature_without_a_batch_dimension_is_answered_alone(servable):
    outputs, batch_rows = ask(servable, "scalar", x=np.float32(1.5))
    assert (outputs["y"].shape, float(outputs["y"]), batch_rows) == ((), 2.5, 0)


def test_too_many_widths_are_answered_alone(servable, monkeypatch):
    monkeypatch.setattr("elcrec_tf.serving.servable._MOST_QUEUES", 1)
    signature = servable.signature("count")
    signature._batched.clear()
    for width in (3, 20, 40):
        outputs, _ = ask(servable, "count", history=np.full((2, width), b"x", object))
        assert outputs["known"].tolist() == [width, width]
    assert len(signature._batched) == 1


def test_an_error_of_the_model_keeps_its_code_and_hits_only_its_batch(servable):
    with pytest.raises(RequestError, match="x should be negative") as failure:
        ask(servable, "fail", x=np.array([1], np.int32))
    assert failure.value.code == grpc.StatusCode.INVALID_ARGUMENT
    assert ask(servable, "fail", x=np.array([-1], np.int32))[0]["x"].tolist() == [-1]
