import numpy as np
import pytest
import tensorflow as tf

from elcrec_tf.serving.layout import ALLOWED_BATCH_SIZES, WARMUP
from elcrec_tf.serving.tensors import from_tensor
from elcrec_tf.serving.warmup import read_warmup


@pytest.fixture(scope="module")
def requests(exported):
    return list(read_warmup(exported / "1"))


def test_every_signature_is_asked_with_every_batch_size(requests, exported):
    signatures = tf.saved_model.load(str(exported / "1")).signatures
    asked = {(one.model_spec.signature_name, len(from_tensor(next(iter(one.inputs.values()))))) for one in requests}
    assert asked == {(name, rows) for name in signatures for rows in ALLOWED_BATCH_SIZES}


def test_every_request_can_be_answered(requests, exported):
    module = tf.saved_model.load(str(exported / "1"))
    for request in requests:
        if len(from_tensor(next(iter(request.inputs.values())))) <= 2:
            inputs = {name: tf.constant(from_tensor(value)) for name, value in request.inputs.items()}
            outputs = module.signatures[request.model_spec.signature_name](**inputs)
            assert not any(value.dtype == tf.float32 and np.isnan(value).any() for value in outputs.values())


def test_tensorflow_serving_s_own_messages_read_them(requests, exported):
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    records = [PredictionLog.FromString(one) for one in tf.data.TFRecordDataset(str(exported / "1" / WARMUP)).as_numpy_iterator()]
    assert len(records) == len(requests) <= 1000
    for record, request in zip(records, requests, strict=True):
        assert record.predict_log.request.model_spec.signature_name == request.model_spec.signature_name
        for name, value in request.inputs.items():
            np.testing.assert_array_equal(tf.make_ndarray(record.predict_log.request.inputs[name]), from_tensor(value))


def test_a_version_without_warm_up_has_no_requests(tmp_path):
    assert list(read_warmup(tmp_path)) == []


def test_a_cut_off_file_is_an_error(tmp_path, exported):
    (tmp_path / WARMUP).parent.mkdir()
    (tmp_path / WARMUP).write_bytes((exported / "1" / WARMUP).read_bytes()[:-5])
    with pytest.raises(tf.errors.OpError):
        list(read_warmup(tmp_path))
