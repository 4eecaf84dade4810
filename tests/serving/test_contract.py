"""What every server of an export promises: TensorFlow Serving's protocol, and the SavedModel's own answers.

Runs against the local server, and against TensorFlow Serving where the environment variable TF_MODEL_SERVER names its binary.
"""

import os
import shutil

import grpc
import numpy as np
import pytest
import tensorflow as tf
from grpc import StatusCode
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from elcrec_tf.serving import wire_pb2 as wire
from elcrec_tf.serving.tensors import to_tensor
from tests.serving import asking
from tests.serving.asking import error, predict, predict_request, raw_call, texts
from tests.serving.contract_servers import BINARY, local_server, tensorflow_model_server

LABELS = {"stable": 1, "canary": 2}
HISTORIES = [["i1"], [], ["i3", "i2", "i9"], ["nobody", "i4"], ["日本語", "😀", "e\u0301"], [b"\xff\xfe"], ["i5"] * 20]
HISTORY = texts(HISTORIES)
ROWS = len(HISTORIES)
IDS = texts([["i7", "nobody", "i1"]] * ROWS)
NO_IDS = np.full((ROWS, 1), b"", object)
WHOLE = np.arange(ROWS, dtype=np.int32)
QUESTIONS = {
    "serving_default": {"history": HISTORY},
    "recommend": {"history": HISTORY},
    "recommend_with_history": {"history": HISTORY},
    "recommend_k": {"history": HISTORY, "k": WHOLE, "exclude": IDS, "allow": NO_IDS},
    "score": {"history": HISTORY, "candidates": IDS},
    "encode": {"history": HISTORY},
    "intents": {"history": HISTORY},
    "similar_items": {"item": np.array([b"i1", b"nobody", b"", b"i9", "日本語".encode(), b"\xff", b"i5"], object)},
    "intent_items": {"intent": WHOLE - 1},
}
FLOATS = np.ones((2, 3), np.float32)


@pytest.fixture(scope="module")
def folder(exported, tmp_path_factory):
    folder = tmp_path_factory.mktemp("contract") / "tiny"
    for version in (1, 2):
        shutil.copytree(exported / "1", folder / str(version))
        (folder / str(version) / "assets.extra" / "tf_serving_warmup_requests").unlink(missing_ok=True)  # takes seconds
    return folder


@pytest.fixture(scope="module")
def signatures(folder):
    loaded = tf.saved_model.load(str(folder / "2"))
    yield loaded.signatures


@pytest.fixture(scope="module", params=["local", "local without batching", "tensorflow_model_server"])
def channel(request, folder):
    if request.param == "tensorflow_model_server":
        if BINARY not in os.environ:
            pytest.skip(f"needs the environment variable {BINARY}")
        server = tensorflow_model_server(folder, LABELS)
    else:
        server = local_server(folder, LABELS, batching=request.param == "local")
    with server as address, grpc.insecure_channel(address) as channel:
        yield channel


def in_process(signatures, name, inputs):
    return {key: value.numpy() for key, value in signatures[name](**{key: tf.constant(value) for key, value in inputs.items()}).items()}


def assert_same(given, expected):
    assert given.keys() == expected.keys()
    for name, values in expected.items():
        assert given[name].shape == values.shape, name
        if values.dtype == np.float32:
            np.testing.assert_allclose(given[name], values, rtol=1e-5, atol=1e-5)
        else:
            assert given[name].tolist() == values.tolist(), name


@pytest.mark.parametrize("signature", QUESTIONS)
def test_every_signature_answers_what_the_saved_model_answers(channel, signatures, signature):
    outputs, spec = predict(channel, "tiny", signature, **QUESTIONS[signature])
    assert_same(outputs, in_process(signatures, signature, QUESTIONS[signature]))
    assert (spec.name, spec.version.value, spec.signature_name) == ("tiny", 2, signature)


@pytest.mark.parametrize("signature", QUESTIONS)
def test_rows_do_not_depend_on_their_batch(channel, signatures, signature):
    expected = in_process(signatures, signature, QUESTIONS[signature])
    for row in range(ROWS):
        outputs, _ = predict(channel, "tiny", signature, **{name: values[row : row + 1] for name, values in QUESTIONS[signature].items()})
        assert_same(outputs, {name: values[row : row + 1] for name, values in expected.items()})


def test_the_stubs_of_tensorflow_serving_understand_it(channel, signatures):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "tiny"
    request.inputs["history"].CopyFrom(tf.make_tensor_proto(HISTORY))
    response = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=asking.SECONDS)
    outputs = {name: tf.make_ndarray(tensor) for name, tensor in response.outputs.items()}
    assert_same(outputs, in_process(signatures, "serving_default", {"history": HISTORY}))
    assert response.model_spec.signature_name == "serving_default"
    assert response.model_spec.version.value == 2


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("width", [20, 21, 40])
def test_padding_may_stand_on_either_side(channel, signatures, side, width):
    outputs, _ = predict(channel, "tiny", history=texts(HISTORIES, width, side))
    assert_same(outputs, in_process(signatures, "serving_default", {"history": HISTORY}))


def test_texts_may_come_as_raw_bytes(channel, signatures):
    """As TensorFlow's C++ writes them: the lengths of all, then the bytes of all."""
    sizes, history = [{"size": 1}, {"size": 3}], [["i3", "", "日本語"]]
    raw = wire.Tensor(dtype=7, tensor_shape={"dim": sizes}, tensor_content=b"\x02\x00\x09i3" + "日本語".encode())
    assert_same(predict(channel, "tiny", history=raw)[0], in_process(signatures, "serving_default", {"history": texts(history)}))
    for broken in (b"\x02\x00\x09i3", b"\x02\x80", b"\x01"):
        raw = wire.Tensor(dtype=7, tensor_shape={"dim": sizes}, tensor_content=broken)
        assert error(predict, channel, "tiny", history=raw)[0] == StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("rows", [1, 3, 64, 65, 200])
def test_any_number_of_rows(channel, signatures, rows):
    history = HISTORY[np.arange(rows) % ROWS]
    assert_same(predict(channel, "tiny", history=history)[0], in_process(signatures, "serving_default", {"history": history}))


def test_nothing_known_is_answered_by_popularity(channel):
    outputs, _ = predict(channel, "tiny", history=np.empty((2, 0), object))
    assert outputs["fallback"].tolist() == [True, True]
    assert np.isfinite(outputs["scores"]).all() and (outputs["item_ids"] != b"").all()


@pytest.mark.parametrize("wanted", [["scores"], ["item_ids", "fallback"]])
def test_an_output_filter_gives_those_outputs(channel, signatures, wanted):
    outputs, _ = predict(channel, "tiny", output_filter=wanted, history=HISTORY)
    expected = in_process(signatures, "serving_default", {"history": HISTORY})
    assert_same(outputs, {name: expected[name] for name in wanted})


def test_versions_and_labels_choose_the_version(channel):
    def answered_by(**choice):
        return predict(channel, "tiny", history=HISTORY, **choice)[1].version.value

    assert [answered_by(), answered_by(version=1), answered_by(version=2)] == [2, 1, 2]
    assert [answered_by(label="stable"), answered_by(label="canary")] == [1, 2]


@pytest.mark.parametrize(
    ("code", "part", "request_of"),
    [
        (StatusCode.NOT_FOUND, "Latest(other)", lambda: predict_request("other", history=HISTORY)),
        (StatusCode.NOT_FOUND, "Specific(tiny, 7)", lambda: predict_request("tiny", version=7, history=HISTORY)),
        (StatusCode.INVALID_ARGUMENT, "best", lambda: predict_request("tiny", label="best", history=HISTORY)),
        (StatusCode.INVALID_ARGUMENT, "canary", lambda: predict_request("other", label="canary", history=HISTORY)),
        (StatusCode.INVALID_ARGUMENT, "no name", lambda: predict_request("", history=HISTORY)),
        (StatusCode.INVALID_ARGUMENT, "ModelSpec", lambda: wire.PredictRequest(inputs={"history": to_tensor(HISTORY)})),
        (StatusCode.FAILED_PRECONDITION, "nothing", lambda: predict_request("tiny", "nothing", history=HISTORY)),
        (StatusCode.FAILED_PRECONDITION, "init_op", lambda: predict_request("tiny", "__saved_model_init_op")),
        (StatusCode.INVALID_ARGUMENT, "history", lambda: predict_request("tiny")),
        (StatusCode.INVALID_ARGUMENT, "more", lambda: predict_request("tiny", history=HISTORY, more=HISTORY)),
        (StatusCode.INVALID_ARGUMENT, "candidates", lambda: predict_request("tiny", "score", history=HISTORY)),
        (StatusCode.INVALID_ARGUMENT, "string", lambda: predict_request("tiny", history=FLOATS)),
        (StatusCode.INVALID_ARGUMENT, "", lambda: predict_request("tiny", history=HISTORY[0])),
        (StatusCode.INVALID_ARGUMENT, "", lambda: predict_request("tiny", history=HISTORY[None])),
        (StatusCode.INVALID_ARGUMENT, "", lambda: predict_request("tiny", history=np.array(b"i1", object))),
        (StatusCode.INVALID_ARGUMENT, "", lambda: predict_request("tiny", "score", history=HISTORY, candidates=IDS[:2])),
        (StatusCode.INVALID_ARGUMENT, "best", lambda: predict_request("tiny", output_filter=["best"], history=HISTORY)),
        (StatusCode.INVALID_ARGUMENT, "scores", lambda: predict_request("tiny", output_filter=["scores"] * 2, history=HISTORY)),
        (StatusCode.INVALID_ARGUMENT, "", lambda: predict_request("tiny", history=wire.Tensor(dtype=99))),
    ],
)
def test_a_wrong_request_gets_tensorflow_servings_code(channel, code, part, request_of):
    found, details = error(raw_call, channel, asking.PREDICT, request_of().SerializeToString())
    assert found == code
    assert part in details
    assert predict(channel, "tiny", history=HISTORY)


def test_the_metadata_describe_every_signature(channel, signatures):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "tiny"
    response = prediction_service_pb2_grpc.PredictionServiceStub(channel).GetModelMetadata(request, timeout=asking.SECONDS)
    described = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(described)
    assert (response.model_spec.name, response.model_spec.version.value) == ("tiny", 2)
    assert set(described.signature_def) - {"__saved_model_init_op"} == set(signatures) == set(QUESTIONS)
    for name, function in signatures.items():
        for found, expected in (
            (described.signature_def[name].inputs, function.structured_input_signature[1]),
            (described.signature_def[name].outputs, function.structured_outputs),
        ):
            assert {key: (tf.as_dtype(one.dtype), tf.TensorShape(one.tensor_shape).as_list()) for key, one in found.items()} == {
                key: (one.dtype, one.shape.as_list()) for key, one in expected.items()
            }


@pytest.mark.parametrize(
    ("code", "name", "choice", "fields"),
    [
        (StatusCode.INVALID_ARGUMENT, "tiny", {}, []),
        (StatusCode.INVALID_ARGUMENT, "tiny", {}, ["assets"]),
        (StatusCode.INVALID_ARGUMENT, "tiny", {}, ["signature_def", "assets"]),
        (StatusCode.INVALID_ARGUMENT, "", {}, ["signature_def"]),
        (StatusCode.NOT_FOUND, "other", {}, ["signature_def"]),
        (StatusCode.NOT_FOUND, "tiny", {"version": 7}, ["signature_def"]),
    ],
)
def test_wrong_questions_about_the_metadata(channel, code, name, choice, fields):
    request = wire.GetModelMetadataRequest(model_spec=asking.spec(name, **choice), metadata_field=fields)
    assert error(raw_call, channel, asking.METADATA, request.SerializeToString())[0] == code


def test_the_status_of_the_versions(channel):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "tiny"
    response = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(request, timeout=asking.SECONDS)
    available = get_model_status_pb2.ModelVersionStatus.AVAILABLE
    assert [(one.version, one.state, one.status.error_code) for one in response.model_version_status] == [
        (2, available, 0),
        (1, available, 0),
    ]
    assert asking.status(channel, "tiny", version=1) == {1: "AVAILABLE"}
    assert error(asking.status, channel, "tiny", version=7)[0] == StatusCode.NOT_FOUND
    assert error(asking.status, channel, "other")[0] == error(asking.status, channel, "")[0] == StatusCode.NOT_FOUND


def test_a_question_without_a_model_is_refused(channel):
    for path in (asking.METADATA, asking.STATUS):
        assert error(raw_call, channel, path, b"")[0] == StatusCode.INVALID_ARGUMENT
