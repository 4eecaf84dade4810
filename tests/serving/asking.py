"""Plain gRPC calls with our wire messages, for the tests of the servers."""

import time

import grpc
import numpy as np

from elcrec_tf.serving import wire_pb2 as wire
from elcrec_tf.serving.tensors import from_tensor, to_tensor

SECONDS = 60
PREDICT = "/tensorflow.serving.PredictionService/Predict"
METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
STATUS = "/tensorflow.serving.ModelService/GetModelStatus"


def texts(rows, width=None, side="right"):
    """Lists of ids as a bytes array `[len(rows), width]`, padded on one side."""
    width = max(map(len, rows)) if width is None else width
    array = np.full((len(rows), width), b"", object)
    for number, row in enumerate(rows):
        start = 0 if side == "right" else width - len(row)
        array[number, start : start + len(row)] = [raw if isinstance(raw, bytes) else raw.encode() for raw in row]
    return array


def spec(name, signature="", version=None, label=None):
    found = wire.ModelSpec(name=name, signature_name=signature)
    if version is not None:
        found.version.value = version
    if label is not None:
        found.version_label = label
    return found


def predict_request(name, signature="", version=None, label=None, output_filter=(), **inputs):
    tensors = {key: value if isinstance(value, wire.Tensor) else to_tensor(_array(value)) for key, value in inputs.items()}
    return wire.PredictRequest(model_spec=spec(name, signature, version, label), inputs=tensors, output_filter=output_filter)


def _array(values):
    array = np.asarray(values)
    return array.astype(object) if array.dtype.kind == "S" else array


def raw_call(channel, path, data, timeout=SECONDS, **options):
    """Bytes in, bytes out."""
    return channel.unary_unary(path)(data, timeout=timeout, **options)


def predict(channel, *args, timeout=SECONDS, metadata=None, **kwargs):
    """(outputs as arrays, the response's model spec)"""
    data = raw_call(channel, PREDICT, predict_request(*args, **kwargs).SerializeToString(), timeout, metadata=metadata)
    response = wire.PredictResponse.FromString(data)
    return {name: from_tensor(tensor) for name, tensor in response.outputs.items()}, response.model_spec


def status(channel, name, **version):
    """State names by version, in the order of the response."""
    request = wire.GetModelStatusRequest(model_spec=spec(name, **version))
    data = raw_call(channel, STATUS, request.SerializeToString())
    found = wire.GetModelStatusResponse.FromString(data).model_version_status
    return {one.version: wire.ModelVersionStatus.State.Name(one.state) for one in found}


def error(call, *args, **kwargs):
    """(code, details) of a call; OK if it does not fail."""
    try:
        call(*args, **kwargs)
    except grpc.RpcError as failure:
        return failure.code(), failure.details()
    return grpc.StatusCode.OK, ""


def wait_until(holds, seconds=SECONDS):
    """Wait for something that another thread or process does."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
