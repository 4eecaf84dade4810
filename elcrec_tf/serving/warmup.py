"""Warm-up requests: what TensorFlow Serving, and our local server, replay before a new version takes traffic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from elcrec_tf.serving import wire_pb2 as wire
from elcrec_tf.serving.layout import ALLOWED_BATCH_SIZES, WARMUP
from elcrec_tf.serving.tensors import to_tensor

_WIDTHS = (16, 64)
_MOST_RECORDS = 1000  # TensorFlow Serving reads no more


def write_warmup(version: Path, model_name: str, signatures: Mapping[str, Any], item_ids: Sequence[str]) -> None:
    """Write a request for every signature, allowed batch size and, where an input is a list of ids, width.

    Args:
        version: folder of the SavedModel.
        model_name: what the requests call the model (servers replay them whatever the name).
        signatures: concrete functions by name.
        item_ids: some ids of the catalogue.
    """
    path = version / WARMUP
    path.parent.mkdir(exist_ok=True)
    records = [
        wire.PredictionLog(predict_log=wire.PredictLog(request=_request(model_name, name, inputs)))
        for name, function in signatures.items()
        for inputs in _inputs(_specs(function), item_ids)
    ]
    assert len(records) <= _MOST_RECORDS
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record.SerializeToString())


def read_warmup(version: Path) -> Iterator[wire.PredictRequest]:
    """The warm-up requests of a version; none where it has no such file.

    Raises:
        tf.errors.OpError: for a file that cannot be read, or that is cut off.
    """
    path = version / WARMUP
    if path.is_file():
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            yield wire.PredictionLog.FromString(record).predict_log.request


def _request(model_name: str, signature: str, inputs: Mapping[str, np.ndarray]) -> wire.PredictRequest:
    spec = wire.ModelSpec(name=model_name, signature_name=signature)
    return wire.PredictRequest(model_spec=spec, inputs={name: to_tensor(values) for name, values in inputs.items()})


def _specs(function: Any) -> dict[str, tf.TensorSpec]:
    positional, named = function.structured_input_signature
    return {spec.name: spec for spec in (*positional, *named.values())}


def _inputs(specs: Mapping[str, tf.TensorSpec], item_ids: Sequence[str]) -> Iterator[dict[str, np.ndarray]]:
    widths = _WIDTHS if any(len(spec.shape) == 2 for spec in specs.values()) else _WIDTHS[:1]
    for rows in ALLOWED_BATCH_SIZES:
        for width in widths:
            yield {name: _values(spec, rows, width, item_ids) for name, spec in specs.items()}


def _values(spec: tf.TensorSpec, rows: int, width: int, item_ids: Sequence[str]) -> np.ndarray:
    shape = (rows, width)[: len(spec.shape)]
    if spec.dtype == tf.string:
        ids = np.array([raw.encode() for raw in item_ids], object)
        return np.resize(ids, shape)
    return np.ones(shape, spec.dtype.as_numpy_dtype)
