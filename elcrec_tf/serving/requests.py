"""Questions as requests, and responses as answers: what both clients share. Imports neither TensorFlow nor gRPC."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from elcrec_tf.errors import UserError
from elcrec_tf.serving import wire_pb2 as wire
from elcrec_tf.serving.answers import Answers, Embeddings, Intents, Items, Scores
from elcrec_tf.serving.histories import Histories, ItemId, batches, decode, encode, texts
from elcrec_tf.serving.tensors import DTYPE_NAMES, from_tensor, to_tensor

ROWS = 256
"""Most rows of a request; longer questions are split."""

# Servers take messages of 4 MiB by default.
_REQUEST_BYTES = 2 << 20
_BYTES_AROUND_AN_ID = 4
# What a response may claim to hold: some bytes can stand for any number of values.
_MOST_VALUES = 1 << 26

AnswerT = TypeVar("AnswerT", bound=Answers | Scores | Embeddings | Intents | Items)


class _Output(NamedTuple):
    dtype: type
    rank: int
    nothing: object


_OUTPUTS = {
    "item_ids": _Output(object, 2, b""),
    "scores": _Output(np.float32, 2, -np.inf),
    "intent": _Output(np.int32, 1, -1),
    "intents": _Output(np.int32, 2, -1),
    "probabilities": _Output(np.float32, 2, 0.0),
    "embedding": _Output(np.float32, 2, np.nan),
    "fallback": _Output(np.bool_, 1, True),
}


@dataclass(frozen=True, eq=False)
class Question(Generic[AnswerT]):
    """A question to one signature, cut into requests.

    Attributes:
        signature: its name.
        answer: the class of the answer; its fields are the signature's outputs.
        positions: for each request the rows of the question that it asks.
        inputs: for each request its inputs, `[rows, ...]`.
        columns: most columns of the answer; all that the server sends if None.
    """

    signature: str
    answer: type[AnswerT]
    positions: list[np.ndarray]
    inputs: list[dict[str, np.ndarray]]
    columns: int | None = None

    def join(self, outputs: Sequence[Mapping[str, np.ndarray]]) -> AnswerT:
        """The answer to the whole question from the outputs of its requests, rows in the order of the question.

        Raises:
            ValueError: when an output is missing, or of another type or shape than the signature's.
        """
        joined = {field.name: self._join_output(field.name, outputs) for field in fields(self.answer)}
        return self.answer(**joined)

    def _join_output(self, name: str, outputs: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
        dtype, rank, nothing = _OUTPUTS[name]
        rows = sum(map(len, self.positions))
        for positions, part in zip(self.positions, outputs, strict=True):
            if name not in part:
                raise ValueError(f"the output {name!r} is missing")
            if part[name].dtype != dtype or part[name].ndim != rank or len(part[name]) != len(positions):
                raise ValueError(f"the output {name!r} is {part[name].dtype} {list(part[name].shape)} for {len(positions)} rows")
        # Parts may differ in width: a new version can take over between two requests.
        width = max((part[name].shape[-1] for part in outputs), default=0)
        width = width if self.columns is None else min(width, self.columns)
        joined: np.ndarray = np.full((rows, width) if rank == 2 else rows, nothing, dtype)
        for positions, part in zip(self.positions, outputs, strict=True):
            if rank == 2:
                joined[positions, : part[name].shape[1]] = part[name][:, :width]
            else:
                joined[positions] = part[name]
        return decode(joined) if dtype is object else joined


# A function for each signature. The clients say what they ask. All raise `UserError` for ids and numbers that cannot be sent.


def recommend(histories: Histories, include_history: bool = False) -> Question[Answers]:
    """To `recommend`, or to `recommend_with_history`."""
    return _of_lists("recommend_with_history" if include_history else "recommend", Answers, {"history": histories})


def recommend_k(
    histories: Histories,
    k: int | Sequence[int],
    exclude: Histories | None = None,
    allow: Histories | None = None,
) -> Question[Answers]:
    """To `recommend_k`; one `k` is for all histories, no list stands for empty ones. The answer has as many columns as the largest `k`, or
    as the export's `top_k` where that is smaller."""
    counts = _whole_numbers("k", np.array([k] * len(histories)) if isinstance(k, int | np.integer) else k, least=1)
    nothing: list[list[ItemId]] = [[]] * len(histories)
    lists = {"history": histories, "exclude": nothing if exclude is None else exclude, "allow": nothing if allow is None else allow}
    if len(counts) != len(histories):
        raise UserError(f"k should be one number, or one for each of the {len(histories)} histories. Received: {len(counts)} numbers")
    question = _of_lists("recommend_k", Answers, lists, columns=int(counts.max(initial=0)))
    for positions, inputs in zip(question.positions, question.inputs, strict=True):
        inputs["k"] = counts[positions]
    return question


def score(histories: Histories, candidates: Histories) -> Question[Scores]:
    """To `score`; the answer has as many columns as the longest list of candidates."""
    lists = [texts(ids) for ids in candidates]
    return _of_lists("score", Scores, {"history": histories, "candidates": lists}, columns=max(map(len, lists), default=0))


def embeddings(histories: Histories) -> Question[Embeddings]:
    """To `encode`."""
    return _of_lists("encode", Embeddings, {"history": histories})


def intents(histories: Histories) -> Question[Intents]:
    """To `intents`."""
    return _of_lists("intents", Intents, {"history": histories})


def similar_items(items: Iterable[ItemId]) -> Question[Items]:
    """To `similar_items`."""
    return _of_values("similar_items", "item", np.array(encode(texts(items)), object))


def intent_items(intents: Sequence[int]) -> Question[Items]:
    """To `intent_items`."""
    return _of_values("intent_items", "intent", _whole_numbers("intents", intents, least=-(2**31)))


def checked_inputs(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays of a caller as `to_tensor` takes them: text of any kind becomes bytes objects.

    Raises:
        UserError: naming the input, for a type that cannot be sent.
    """
    return {name: _checked(name, np.asarray(values)) for name, values in inputs.items()}


def predict_request(spec: wire.ModelSpec, inputs: Mapping[str, np.ndarray], outputs: Iterable[str] = ()) -> wire.PredictRequest:
    """A request for `outputs` (all if empty) from arrays that `to_tensor` takes."""
    tensors = {name: to_tensor(values) for name, values in inputs.items()}
    return wire.PredictRequest(model_spec=spec, inputs=tensors, output_filter=outputs)


def read_outputs(response: wire.PredictResponse) -> dict[str, np.ndarray]:
    """The outputs of a response by name; strings as bytes objects. Raises `ValueError` for one that is no tensor we know."""
    return {name: from_tensor(tensor, _MOST_VALUES) for name, tensor in response.outputs.items()}


def _of_lists(signature: str, answer: type[AnswerT], lists: Mapping[str, Histories], columns: int | None = None) -> Question[AnswerT]:
    """A question whose inputs are lists of ids, one for each history."""
    encoded = {name: [encode(texts(ids)) for ids in rows] for name, rows in lists.items()}
    histories = len(encoded["history"])
    for name, rows in encoded.items():
        if len(rows) != histories:
            raise UserError(f"{name} should have a list for each of the {histories} histories. Received: {len(rows)} lists")
    longest_id = max((len(raw) for rows in encoded.values() for ids in rows for raw in ids), default=0)
    cells = _REQUEST_BYTES // (longest_id + _BYTES_AROUND_AN_ID)
    pieces = list(batches(list(encoded.values()), ROWS, cells))
    inputs = [dict(zip(encoded, arrays, strict=True)) for _, arrays in pieces]
    return Question(signature, answer, [positions for positions, _ in pieces], inputs, columns)


def _of_values(signature: str, name: str, values: np.ndarray) -> Question[Items]:
    """A question whose one input has a value for each row."""
    positions = [np.arange(first, min(first + ROWS, len(values))) for first in range(0, len(values), ROWS)]
    return Question(signature, Items, positions, [{name: values[piece]} for piece in positions])


def _whole_numbers(name: str, values: Sequence[int] | np.ndarray, least: int) -> np.ndarray:
    """`[n]` int32."""
    numbers = np.asarray(values)
    fits = numbers.ndim == 1 and (not numbers.size or (numbers.dtype.kind in "iu" and least <= numbers.min() <= numbers.max() < 2**31))
    if not fits:
        raise UserError(f"{name} should be whole numbers from {least} to {2**31 - 1}. Received: {reprlib.repr(numbers.tolist())}")
    return numbers.astype(np.int32)


def _checked(name: str, values: np.ndarray) -> np.ndarray:
    if values.dtype.kind in "OSU":
        return np.vectorize(lambda value: _as_bytes(name, value), otypes=[object])(values.astype(object))
    if values.dtype.name not in DTYPE_NAMES.values():
        raise UserError(f"the input {name!r} is of type {values.dtype}; give one of {', '.join(DTYPE_NAMES.values())}")
    return values


def _as_bytes(name: str, value: object) -> bytes:
    if not isinstance(value, str | bytes):
        raise UserError(f"the input {name!r} should hold text. Received: {value!r}")
    return encode([value])[0] if isinstance(value, str) else value
