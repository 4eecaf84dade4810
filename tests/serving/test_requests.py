"""Questions as requests, responses as answers: cutting, padding, joining, and what is refused."""

import numpy as np
import pytest

from elcrec_tf.errors import UserError
from elcrec_tf.serving import requests
from elcrec_tf.serving import wire_pb2 as wire
from elcrec_tf.serving.histories import batches, encode, pad, padded_width
from elcrec_tf.serving.tensors import from_tensor


@pytest.mark.parametrize(("longest", "width"), [(0, 16), (1, 16), (16, 16), (17, 32), (32, 32), (33, 64), (1000, 1024)])
def test_widths_are_few(longest, width):
    assert padded_width(longest) == width
    assert pad([[b"i"] * longest, []]).shape == (2, width)


def test_padding_is_on_the_right_and_keeps_every_byte():
    odd = encode(["a", "b\0", "\udcff", "日本"])
    assert pad([odd]).tolist() == [[b"a", b"b\0", b"\xed\xb3\xbf", "日本".encode(), *[b""] * 12]]


def test_batches_hold_every_row_once_within_their_bounds():
    rng = np.random.default_rng(0)
    columns = [[[b"%d" % row] * rng.integers(0, 70) for row in range(100)] for _ in range(2)]
    seen = []
    for positions, arrays in batches(columns, most_rows=16, most_cells=1024):
        assert len(positions) <= 16 and sum(array.size for array in arrays) <= 1024
        for array, column in zip(arrays, columns, strict=True):
            assert [[raw for raw in row if raw] for row in array] == [column[position] for position in positions]
        seen += positions.tolist()
    assert sorted(seen) == list(range(100))


def test_one_row_that_is_too_large_goes_alone():
    assert [len(positions) for positions, _ in batches([[[b"i"] * 100, [b"i"], [b"i"]]], most_rows=9, most_cells=64)] == [1, 2]


def test_requests_keep_below_the_size_that_servers_take():
    question = requests.recommend([["x" * 2000] * 20] * 200)
    sizes = [requests.predict_request(wire.ModelSpec(name="m"), inputs).ByteSize() for inputs in question.inputs]
    assert len(sizes) > 1 and max(sizes) < 4 << 20


def test_an_answer_is_as_wide_as_its_widest_request():
    """A version with a larger catalogue takes over between two requests; the answer to the longer history comes first."""
    question = requests.similar_items(["i"] * 257)
    narrow = {"item_ids": np.full((256, 1), b"a", object), "scores": np.ones((256, 1), np.float32), "fallback": np.zeros(256, bool)}
    wide = {"item_ids": np.full((1, 2), b"b", object), "scores": np.ones((1, 2), np.float32), "fallback": np.ones(1, bool)}
    answer = question.join([narrow, wide])
    assert answer.item_ids[255:].tolist() == [["a", ""], ["b", "b"]]
    assert answer.scores[255:].tolist() == [[1, -np.inf], [1, 1]]
    assert answer.fallback[255:].tolist() == [False, True]


def test_numbers_go_with_their_histories():
    for k in (3, np.int64(3)):
        assert requests.recommend_k([["a"], []], k).inputs[0]["k"].tolist() == [3, 3]
    question = requests.recommend_k([["a"], ["b"] * 20, []], [1, 2, 3])
    (inputs,) = question.inputs
    assert [row[0] for row in inputs["history"]] == [b"b", b"a", b""]
    assert inputs["k"].tolist() == [2, 1, 3] and inputs["k"].dtype == np.int32


def test_whole_numbers_of_any_kind_are_ids():
    for history in ([7, 8], ["7", "8"], np.array([7, 8]), (np.int64(7), "8")):
        assert requests.recommend([history]).inputs[0]["history"][0, :3].tolist() == [b"7", b"8", b""]


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: requests.recommend(["i1"]), "a list of item ids. Received: 'i1'"),
        (lambda: requests.recommend([[1.5]]), "strings or whole numbers. Received: 1.5"),
        (lambda: requests.similar_items([None]), "strings or whole numbers. Received: None"),
        (lambda: requests.score([["a"]], [["b"], ["c"]]), "candidates should have a list for each of the 1 histories. Received: 2"),
        (lambda: requests.recommend_k([["a"]], 1, allow=[]), "allow should have a list"),
        (lambda: requests.recommend_k([["a"]], 0), r"k should be whole numbers from 1 to 2147483647. Received: \[0\]"),
        (lambda: requests.recommend_k([["a"]], [1, 2]), "one for each of the 1 histories. Received: 2 numbers"),
        (lambda: requests.recommend_k([["a"]], [1.5]), "whole numbers"),
        (lambda: requests.recommend_k([["a"]], True), "whole numbers"),
        (lambda: requests.recommend_k([["a"]], 1.5), "whole numbers from 1 to 2147483647. Received: 1.5"),
        (lambda: requests.intent_items([2**31]), "intents should be whole numbers"),
        (lambda: requests.intent_items([[1]]), "intents should be whole numbers"),
        (lambda: requests.checked_inputs({"x": np.zeros(1, complex)}), "input 'x' is of type complex128; give one of float32, .*string"),
        (lambda: requests.checked_inputs({"x": np.array([1, "a"], object)}), "input 'x' should hold text. Received: 1"),
    ],
)
def test_what_cannot_be_sent_is_refused_in_one_line(ask, message):
    with pytest.raises(UserError, match=message) as error:
        ask()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("values", [np.array(["a", "é"]), np.array(["a", "é"], object), np.array([b"a", "é".encode()])])
def test_text_of_any_kind_is_sent_as_bytes(values):
    inputs = requests.checked_inputs({"x": values, "empty": np.zeros((0, 2), object), "one": np.array("é")})
    assert inputs["x"].tolist() == [b"a", "é".encode()]
    assert (inputs["empty"].shape, inputs["one"].item()) == ((0, 2), "é".encode())


def test_a_response_that_claims_too_much_is_refused():
    response = wire.PredictResponse()
    response.outputs["x"].dtype = 1
    response.outputs["x"].tensor_shape.dim.add(size=1 << 40)
    with pytest.raises(ValueError, match="too many values"):
        requests.read_outputs(response)


def test_a_request_holds_what_was_asked():
    request = requests.predict_request(wire.ModelSpec(name="m"), {"k": np.array([3], np.int32)}, ["scores"])
    assert (request.model_spec.name, list(request.output_filter)) == ("m", ["scores"])
    assert from_tensor(request.inputs["k"]).tolist() == [3]
