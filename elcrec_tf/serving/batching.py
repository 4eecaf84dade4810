"""Answers requests that wait at the same time as one batch, with TensorFlow's own batching op, the one that TF Serving uses."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

NARROWEST = 16
"""Least width that texts are padded to; wider ones go to the next power of two. Few widths mean few queues that share their batches."""

_MOST_ROWS = 1 << 20  # of a request; the op splits it
_MOST_QUEUED = 1 << 20  # batches; the bound on requests is the server's
_PROBES = (19, 41)

Ask: TypeAlias = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
"""Answers for a signature: its inputs by name to its outputs by name."""


@dataclass(frozen=True)
class BatchOptions:
    """How requests are joined.

    Attributes:
        max_batch_size: most rows of a batch.
        timeout_ms: how long a batch that is not full waits for more rows while a thread is free.
        num_threads: batches that run at the same time, over all signatures of a version.
    """

    max_batch_size: int
    timeout_ms: float
    num_threads: int

    @property
    def allowed_sizes(self) -> list[int]:
        """The numbers of rows that a batch is padded to: powers of two, and the largest."""
        return [*itertools.takewhile(lambda size: size < self.max_batch_size, (1 << bit for bit in range(31))), self.max_batch_size]


def batched(
    function: Any,
    options: BatchOptions,
    queue: str,
    room: Mapping[str, tuple[int, ...]],
    widths: Mapping[str, Mapping[int, tuple[str, int]]],
) -> Any:
    """A signature's function for one request, which is answered together with others. Tensors come and go as serialized TensorProtos,
    as gRPC carries them: what Python would do for every value costs more than the model.

    The call blocks until a batch with the request's rows was answered.

    Args:
        function: a signature's concrete function. Every input and output has the batch as its first dimension.
        options: how requests are joined.
        queue: of the calls in a session those with the same name are joined, so it belongs to one signature and room.
        room: for each input the shape, without rows, that it is padded to.
        widths: `output_widths` of the function: what is cut off the outputs again.

    Returns:
        A function of the inputs in the order of their names, string scalars. It gives the outputs in the order of theirs, string
        `[outputs]`, and int32 `[rows]`: how many rows, padding among them, the batch of each row had.
    """
    inputs, outputs = sorted_specs(function)
    batch_specs = [
        tf.TensorSpec((None, *room[name]), spec.dtype, name=f"input_{place}") for place, (name, spec) in enumerate(inputs.items())
    ]

    @tf.function(input_signature=batch_specs, autograph=False)
    def whole_batch(*values: tf.Tensor) -> list[tf.Tensor]:
        answers = function(**dict(zip(inputs, values, strict=True)))
        rows = tf.shape(values[0])[0]
        return [*(answers[name] for name in outputs), tf.fill([rows], rows)]

    batch = whole_batch.get_concrete_function()

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)] * len(inputs), autograph=False)
    def request(*serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        values = {name: _parsed(one, spec) for one, (name, spec) in zip(serialized, inputs.items(), strict=True)}
        # `tf.nondifferentiable_batch_function` is this op with a set of threads for each function; these share one.
        *answers, rows = tf.raw_ops.BatchFunction(
            in_tensors=[_padded(value, room[name]) for name, value in values.items()],
            captured_tensors=batch.captured_inputs,
            f=batch,
            Tout=[output.dtype for output in batch.outputs],
            num_batch_threads=options.num_threads,
            max_batch_size=_MOST_ROWS,
            allowed_batch_sizes=options.allowed_sizes,
            batch_timeout_micros=round(options.timeout_ms * 1000),
            max_enqueued_batches=_MOST_QUEUED,
            enable_large_batch_splitting=True,
            shared_name=f"elcrec_tf/{options.num_threads}/{options.max_batch_size}/{options.timeout_ms}",
            batching_queue=queue,
        )
        cut = [_cut(answer, outputs[name], widths.get(name, {}), values) for name, answer in zip(outputs, answers, strict=True)]
        return tf.stack([tf.io.serialize_tensor(answer) for answer in cut]), rows

    return request.get_concrete_function()


def _parsed(serialized: tf.Tensor, spec: tf.TensorSpec) -> tf.Tensor:
    return tf.ensure_shape(tf.io.parse_tensor(serialized, spec.dtype), spec.shape)


def _padded(value: tf.Tensor, room: tuple[int, ...]) -> tf.Tensor:
    """With nothing after its values, up to `room` on all axes but the first."""
    missing = tf.constant((0, *room)) - tf.shape(value)
    after = tf.concat([[0], missing[1:]], axis=0)
    return tf.pad(value, tf.stack([tf.zeros_like(after), after], axis=1))


def _cut(answer: tf.Tensor, spec: tf.TensorSpec, axes: Mapping[int, tuple[str, int]], values: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Without what the padding of the inputs has added."""
    for axis, (source, source_axis) in axes.items():
        answer = tf.gather(answer, tf.range(tf.shape(values[source])[source_axis]), axis=axis)
    return tf.ensure_shape(answer, spec.shape)


def sorted_specs(function: Any) -> tuple[dict[str, tf.TensorSpec], dict[str, tf.TensorSpec]]:
    """The inputs and the outputs of a signature's concrete function, by name in alphabetical order."""
    inputs, outputs = function.structured_input_signature[1], function.structured_outputs
    return dict(sorted(inputs.items())), dict(sorted(outputs.items()))


def can_batch(function: Any) -> bool:
    """Whether every input and output has a first dimension of any size, as a batch has."""
    inputs, outputs = sorted_specs(function)
    shapes = [spec.shape for spec in (*inputs.values(), *outputs.values())]
    return bool(inputs) and all(shape.rank is not None and shape.rank >= 1 and shape[0] is None for shape in shapes)


def padded_axes(spec: tf.TensorSpec) -> tuple[int, ...]:
    """The axes of an input that are padded: those of any size, after the first, where `""` can stand for nothing."""
    return tuple(axis for axis, size in enumerate(spec.shape) if axis and size is None and spec.dtype == tf.string)


def padded_size(size: int) -> int:
    """The power of two that a width is padded to."""
    return max(NARROWEST, 1 << (size - 1).bit_length()) if size else NARROWEST


def output_widths(function: Any, ask: Ask) -> dict[str, dict[int, tuple[str, int]]]:
    """Which dimensions of the outputs are as wide as a padded input, so that the padding has to be cut off again.

    A signature does not say so. It is asked twice, for one row of nothing with widths that all differ.

    Args:
        function: a signature's concrete function.
        ask: what answers for it.

    Returns:
        By output and axis, the input and its axis.
    """
    inputs, outputs = sorted_specs(function)
    ends = [(name, axis) for name, spec in inputs.items() for axis in padded_axes(spec)]
    if not ends or not any(None in spec.shape[1:] for spec in outputs.values()):
        return {}
    same = [set(_equal_sizes(function, ask, dict(zip(ends, itertools.count(first, 2), strict=False)))) for first in _PROBES]
    found: dict[str, dict[int, tuple[str, int]]] = {}
    for output, axis, end in sorted(set.intersection(*same)):
        found.setdefault(output, {})[axis] = end
    return found


def _equal_sizes(function: Any, ask: Ask, sizes: Mapping[tuple[str, int], int]) -> Iterator[tuple[str, int, tuple[str, int]]]:
    inputs, outputs = sorted_specs(function)
    nothing = {
        name: np.full(
            [1, *(sizes.get((name, axis), size or 1) for axis, size in enumerate(spec.shape) if axis)],
            b"" if spec.dtype == tf.string else 0,
            spec.dtype.as_numpy_dtype,
        )
        for name, spec in inputs.items()
    }
    ends = {size: end for end, size in sizes.items()}
    for name, values in ask(nothing).items():
        for axis, size in enumerate(values.shape):
            if axis and outputs[name].shape[axis] is None and size in ends:
                yield name, axis, ends[size]
