"""TensorFlow Serving's RPCs, answered by the versions of one model."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message

from elcrec_tf.serving import wire_pb2 as wire
from elcrec_tf.serving.request_error import RequestError, invalid
from elcrec_tf.serving.servable import DEFAULT_SIGNATURE, Bounds
from elcrec_tf.serving.server_metrics import ServerMetrics
from elcrec_tf.serving.versions import Versions

_METADATA_FIELD = "signature_def"
_METADATA_TYPE = "type.googleapis.com/tensorflow.serving.SignatureDefMap"
_Request = TypeVar("_Request", wire.PredictRequest, wire.GetModelMetadataRequest, wire.GetModelStatusRequest)


class Service:
    """Answers Predict, GetModelMetadata and GetModelStatus.

    Messages come and go as bytes: a request that cannot be parsed is then an error of ours, with a status that says so.

    Args:
        versions: what answers.
        metrics: counts requests.
        bounds: what a request may ask.
    """

    def __init__(self, versions: Versions, metrics: ServerMetrics, bounds: Bounds) -> None:
        self._versions = versions
        self._metrics = metrics
        self._bounds = bounds

    def handlers(self) -> list[Any]:
        """gRPC's handlers of the two services."""
        prediction = {"Predict": self.predict, "GetModelMetadata": self.model_metadata}
        services = {"PredictionService": prediction, "ModelService": {"GetModelStatus": self.model_status}}
        return [
            grpc.method_handlers_generic_handler(
                f"tensorflow.serving.{service}", {name: grpc.unary_unary_rpc_method_handler(method) for name, method in methods.items()}
            )
            for service, methods in services.items()
        ]

    def predict(self, data: bytes, context: grpc.ServicerContext) -> bytes:
        """A signature's answer: a PredictRequest to a PredictResponse."""
        started, signature, code = time.perf_counter(), "", grpc.StatusCode.UNKNOWN
        self._metrics.in_flight.inc()
        try:
            _check_wanted(context)
            request = _parsed(wire.PredictRequest, data)
            name = request.model_spec.signature_name or DEFAULT_SIGNATURE
            with self._versions.use(request.model_spec) as servable:
                if servable.has_signature(name):
                    signature = name  # only names that exist: each makes a series of the metrics
                # No variable holds the signature: it would keep a released version in memory until the request ends.
                wanted = servable.signature(name).chosen(request.output_filter)
                outputs, batch_rows = servable.signature(name).answer(request.inputs, self._bounds)
                version = servable.version
            if batch_rows:
                self._metrics.batch_rows.observe(batch_rows)
            response = wire.PredictResponse()
            for output in wanted:
                response.outputs[output].MergeFromString(outputs[output])
            _fill_spec(response.model_spec, request.model_spec.name, version).signature_name = name
            answer = response.SerializeToString()
            code = grpc.StatusCode.OK
            return answer
        except RequestError as error:
            code = error.code
            _abort(context, error)
        finally:
            self._metrics.in_flight.dec()
            self._metrics.observe(signature, code.name, time.perf_counter() - started)

    def model_metadata(self, data: bytes, context: grpc.ServicerContext) -> bytes:
        """The signatures of a version: a GetModelMetadataRequest to a GetModelMetadataResponse."""
        return _answer(self._model_metadata, wire.GetModelMetadataRequest, data, context)

    def model_status(self, data: bytes, context: grpc.ServicerContext) -> bytes:
        """The states of the versions: a GetModelStatusRequest to a GetModelStatusResponse."""
        return _answer(self._model_status, wire.GetModelStatusRequest, data, context)

    def _model_metadata(self, request: wire.GetModelMetadataRequest) -> Message:
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != _METADATA_FIELD:
                raise invalid(f"Metadata field {field} is not supported")
        with self._versions.use(request.model_spec) as servable:
            described = AnyMessage(type_url=_METADATA_TYPE, value=servable.metadata)
            response = wire.GetModelMetadataResponse(metadata={_METADATA_FIELD: described})
            _fill_spec(response.model_spec, request.model_spec.name, servable.version)
        return response

    def _model_status(self, request: wire.GetModelStatusRequest) -> Message:
        return wire.GetModelStatusResponse(model_version_status=self._versions.status(request.model_spec))


def _answer(method: Callable[[_Request], Message], kind: type[_Request], data: bytes, context: grpc.ServicerContext) -> bytes:
    try:
        _check_wanted(context)
        return method(_parsed(kind, data)).SerializeToString()
    except RequestError as error:
        _abort(context, error)


def _check_wanted(context: grpc.ServicerContext) -> None:
    """Nobody waits for the answer to a request that lost its client, or its deadline, while it waited for a thread."""
    remaining = context.time_remaining()
    if remaining is not None and remaining <= 0:
        raise RequestError(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed while the request waited for a thread")
    if not context.is_active():
        raise RequestError(grpc.StatusCode.CANCELLED, "the client is gone")


def _parsed(kind: type[_Request], data: bytes) -> _Request:
    try:
        request = kind.FromString(data)
    except DecodeError:
        raise invalid(f"the request is no {kind.DESCRIPTOR.name}") from None
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    return request


def _fill_spec(spec: wire.ModelSpec, name: str, version: int) -> wire.ModelSpec:
    spec.name = name
    spec.version.value = version
    return spec


def _abort(context: grpc.ServicerContext, error: RequestError) -> NoReturn:
    context.abort(error.code, str(error))
    raise AssertionError("abort raises")
