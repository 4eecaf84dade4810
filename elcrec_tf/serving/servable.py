"""One version of a SavedModel in memory: checks the inputs of its signatures and answers them."""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from elcrec_tf.serving import wire_pb2 as wire
from elcrec_tf.serving.batching import BatchOptions, batched, can_batch, output_widths, padded_axes, padded_size, sorted_specs
from elcrec_tf.serving.layout import SAVED_MODEL
from elcrec_tf.serving.loaded_model import LoadedModel
from elcrec_tf.serving.request_error import RequestError, invalid
from elcrec_tf.serving.tensors import DTYPE_NAMES, from_tensor, to_tensor
from elcrec_tf.serving.warmup import read_warmup

DEFAULT_SIGNATURE = "serving_default"
"""What a request without a signature's name asks."""

MOST_VALUES = 1 << 20
"""Most values of an input, its padding included."""

_MOST_MISSING = 1 << 12  # values of a request's input for which the last one given stands
# Of a signature; requests of further widths are answered one by one. A session takes longer for a new queue the more there are.
_MOST_QUEUES = 32
_CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True)
class Bounds:
    """What a request may ask. A message of a few bytes can claim any shape.

    Attributes:
        max_rows: most rows of its inputs.
        max_width: most values of a row of an input, where the signature leaves open how many.
    """

    max_rows: int
    max_width: int


class Servable:
    """A loaded version. Threads may share it; `close` it when the last request is answered.

    Args:
        folder: the version's folder.
        version: its number.
        options: how requests are joined; each is answered by itself if None.
        most_rows: most rows of a call of a request that is answered by itself; one with more rows takes several.

    Attributes:
        version: its number.
        metadata: the signatures as the SavedModel describes them, a serialized `SignatureDefMap`.

    Raises:
        Exception: whatever TensorFlow raises for a SavedModel that is broken.
    """

    def __init__(self, folder: Path, version: int, options: BatchOptions | None, most_rows: int) -> None:
        self.version = version
        self.metadata = _signature_defs(folder)
        self._model = LoadedModel(folder)
        try:
            self._signatures = {name: Signature(self._model, name, options, most_rows) for name in self._model.signatures}
            requests = [(one.model_spec.signature_name or DEFAULT_SIGNATURE, one.inputs) for one in read_warmup(folder)]
            # All queues before the first answer: a session takes in everything anew when its graph has grown since.
            for name, tensors in requests:
                self.signature(name).make_queue(tensors)
            for name, tensors in requests:
                self.signature(name).answer(tensors)
        except BaseException:
            self.close()
            raise

    def signature(self, name: str) -> Signature:
        """A signature by name.

        Raises:
            RequestError: when there is no such signature.
        """
        found = self._signatures.get(name)
        if found is None:
            raise RequestError(grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
        return found

    def has_signature(self, name: str) -> bool:
        """Whether there is such a signature."""
        return name in self._signatures

    def close(self) -> None:
        """Free what the version took. No request may be in flight, and none may follow."""
        self._model.close()
        self._signatures = {}


class Signature:
    """One signature of a loaded version.

    Args:
        model: the version's.
        name: its name there.
        options: how requests are joined; each is answered by itself if None, and where an input or output has no batch dimension.
        most_rows: most rows of one call for a request that is answered by itself.
    """

    def __init__(self, model: LoadedModel, name: str, options: BatchOptions | None, most_rows: int) -> None:
        self._model = model
        self._name = name
        self._function = function = model.signatures[name]
        self._inputs, self._outputs = sorted_specs(function)
        self._has_rows = can_batch(function)
        self._options = options if self._has_rows else None
        self._most_rows = most_rows
        self._padded = {name: padded_axes(spec) for name, spec in self._inputs.items()} if self._options else {}
        self._one_call = model.callable(self._in_order, self._inputs.values())
        self._widths = output_widths(function, self._call) if self._options else {}
        self._batched: dict[tuple[tuple[int, ...], ...], Any] = {}
        self._lock = threading.Lock()

    def chosen(self, output_filter: Sequence[str]) -> Collection[str]:
        """The outputs that a request wants: all without a filter.

        Raises:
            RequestError: for an output that is unknown or named twice.
        """
        if not output_filter:
            return self._outputs
        for name in output_filter:
            if name not in self._outputs:
                known = ", ".join(self._outputs)
                raise invalid(f"output tensor alias not found in signature: {name} Outputs expected to be in the set {{{known}}}.")
        if len(set(output_filter)) < len(output_filter):
            raise invalid(f"duplicate output tensor alias: {', '.join(output_filter)}")
        return output_filter

    def make_queue(self, tensors: Mapping[str, wire.Tensor]) -> None:
        """Make what will join requests like this one, where requests are joined.

        Raises:
            RequestError: for inputs that are not the signature's.
        """
        if self._options:
            self._batched_function(self._room(self._checked(tensors, None)))

    def answer(self, tensors: Mapping[str, wire.Tensor], bounds: Bounds | None = None) -> tuple[dict[str, bytes], int]:
        """Answer one request.

        Args:
            tensors: the inputs by name.
            bounds: of the inputs; none for requests that come with the model.

        Returns:
            All outputs by name, each a serialized `wire.Tensor`, and how many rows the batch had that answered them (0 where there is
            no batch dimension).

        Raises:
            RequestError: for inputs that are not the signature's, and for what TensorFlow refuses.
        """
        values = self._checked(tensors, bounds)
        rows = next(iter(values.values())).shape[0] if self._has_rows else 0
        if bounds is not None and rows > bounds.max_rows:
            raise invalid(f"a request should have at most {bounds.max_rows} rows (--max-rows of the server). Received: {rows}")
        try:
            if rows and self._options and (answered := self._answer_batched(tensors, values)):
                return answered
            outputs = self._answer_alone(values, rows)
            return {name: to_tensor(array).SerializeToString() for name, array in outputs.items()}, min(rows, self._most_rows)
        except tf.errors.OpError as error:
            raise RequestError(_CODES.get(error.error_code, grpc.StatusCode.UNKNOWN), _reason(error)) from None

    def _answer_batched(self, tensors: Mapping[str, wire.Tensor], values: Mapping[str, np.ndarray]) -> tuple[dict[str, bytes], int] | None:
        """None when the signature has too many queues for another one."""
        function = self._batched_function(self._room(values))
        if function is None:
            return None
        # As objects: numpy's own texts end before their last zero bytes.
        answers, batch_rows = function(*(np.array(tensors[name].SerializeToString(), object) for name in self._inputs))
        return dict(zip(self._outputs, answers.tolist(), strict=True)), int(batch_rows[0])

    def _room(self, values: Mapping[str, np.ndarray]) -> tuple[tuple[int, ...], ...]:
        """The shapes, without rows, that the inputs are padded to."""
        return tuple(
            tuple(padded_size(size) if axis in self._padded[name] else size for axis, size in enumerate(array.shape) if axis)
            for name, array in values.items()
        )

    def _batched_function(self, room: tuple[tuple[int, ...], ...]) -> Any:
        """The function of a queue, made when it is first needed."""
        found = self._batched.get(room)
        if found is None and self._options is not None:
            with self._lock:
                found = self._batched.get(room)
                if found is None and len(self._batched) < _MOST_QUEUES:
                    by_name = dict(zip(self._inputs, room, strict=True))
                    request = batched(self._function, self._options, f"{self._name}/{room}", by_name, self._widths)
                    found = self._model.callable(request, [tf.TensorSpec([], tf.string)] * len(self._inputs))
                    self._batched[room] = found
        return found

    def _answer_alone(self, values: dict[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
        """Without other requests, in pieces of rows so that many rows do not need much memory."""
        pieces = [
            self._call({name: array[start : start + self._most_rows] if rows else array for name, array in values.items()})
            for start in range(0, max(rows, 1), self._most_rows)
        ]
        return pieces[0] if len(pieces) == 1 else {name: np.concatenate([piece[name] for piece in pieces]) for name in self._outputs}

    def _call(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(self._outputs, self._one_call(*(values[name] for name in self._inputs)), strict=True))

    def _in_order(self, *values: tf.Tensor) -> list[tf.Tensor]:
        answers = self._function(**dict(zip(self._inputs, values, strict=True)))
        return [answers[name] for name in self._outputs]

    def _checked(self, tensors: Mapping[str, wire.Tensor], bounds: Bounds | None) -> dict[str, np.ndarray]:
        """The inputs as arrays, in the order of their names, or the error that says what is wrong with them."""
        if tensors.keys() != self._inputs.keys():
            missing = ", ".join(sorted(self._inputs.keys() - tensors.keys()))
            extra = ", ".join(sorted(tensors.keys() - self._inputs.keys()))
            raise invalid(f"the inputs do not match the signature. Missing but required: {{{missing}}}. Sent extra: {{{extra}}}.")
        values = {name: self._array(name, tensors[name], bounds) for name in self._inputs}
        if self._has_rows and len({array.shape[0] for array in values.values()}) > 1:
            rows = ", ".join(f"{name} {array.shape[0]}" for name, array in values.items())
            raise invalid(f"the inputs should have the same number of rows. Received: {rows}")
        return values

    def _array(self, name: str, tensor: wire.Tensor, bounds: Bounds | None) -> np.ndarray:
        spec = self._inputs[name]
        if tensor.dtype != spec.dtype.as_datatype_enum:
            given = DTYPE_NAMES.get(tensor.dtype, f"type {tensor.dtype}")
            raise invalid(f"input {name} should be {spec.dtype.name} {_shape_text(spec.shape)}. Received: {given}")
        try:
            array = from_tensor(tensor, MOST_VALUES, None if bounds is None else _MOST_MISSING)
        except ValueError as error:
            raise invalid(f"input {name}: {error}") from None
        if not spec.shape.is_compatible_with(array.shape):
            raise invalid(f"input {name} should be {spec.dtype.name} {_shape_text(spec.shape)}. Received: shape {list(array.shape)}")
        width = 1 if spec.shape[1:].is_fully_defined() else math.prod(array.shape[1:])
        if bounds is not None and width > bounds.max_width:
            wanted = f"at most {bounds.max_width} values a row (--max-width of the server)"
            raise invalid(f"input {name} should have {wanted}. Received: {width}")
        axes = self._padded.get(name, ())
        if axes and math.prod(padded_size(size) if axis in axes else size for axis, size in enumerate(array.shape)) > MOST_VALUES:
            raise invalid(f"input {name}: the shape {list(array.shape)} has too many values when it is padded (at most {MOST_VALUES})")
        return array


def _reason(error: tf.errors.OpError) -> str:
    """The line of TensorFlow's message that says what was wrong: the last one that is no trace of operations."""
    lines = [line.strip() for line in (error.message or "").splitlines()]
    return [type(error).__name__, *(line for line in lines if line and not line.startswith("[["))][-1]


def _shape_text(shape: tf.TensorShape) -> str:
    return "of any shape" if shape.rank is None else f"[{', '.join('any' if size is None else str(size) for size in shape)}]"


def _signature_defs(folder: Path) -> bytes:
    """The SignatureDefs of a SavedModel's serving graph, without the one that initializes it, as a serialized SignatureDefMap."""
    saved = SavedModel.FromString((folder / SAVED_MODEL).read_bytes())
    graphs = [graph for graph in saved.meta_graphs if "serve" in graph.meta_info_def.tags]
    found = wire.SignatureDefMap()
    for graph in graphs[:1]:
        for name, definition in graph.signature_def.items():
            if name != "__saved_model_init_op":
                found.signature_def[name].ParseFromString(definition.SerializeToString())
    return found.SerializeToString()
