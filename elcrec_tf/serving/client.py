"""Asks a model on a TensorFlow Serving server, or on `elcrec_tf.serve`, over gRPC.

Needs grpcio, protobuf and NumPy only: neither TensorFlow nor Keras is imported.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from elcrec_tf.serving import model_info, requests
from elcrec_tf.serving import wire_pb2 as wire
from elcrec_tf.serving.answers import Answers, Embeddings, Intents, Items, Scores
from elcrec_tf.serving.async_client import AsyncClient
from elcrec_tf.serving.connection import METADATA, PREDICT, STATUS, Connection, RpcError, ServingError, Tls, time_left, waits
from elcrec_tf.serving.histories import Histories, ItemId
from elcrec_tf.serving.model_info import Signature, VersionState
from elcrec_tf.serving.readiness import Readiness
from elcrec_tf.serving.requests import AnswerT, Question

__all__ = ["AsyncClient", "Client", "ServingError", "Tls"]


class Client:
    """A model on a server, ready to be asked; threads may share it.

    Histories are item ids, oldest first, whole numbers or strings, as many as the server takes (`--max-width` of `elcrec_tf.serve`).
    Unknown ids are ignored. More than 256 rows go out as several requests, one after the other. Every call takes a `timeout` in seconds
    for all of them, retries included; UNAVAILABLE alone is tried again, with growing pauses, while there is time. All calls share one
    connection.

    Args:
        address: `HOST:PORT` of the server's gRPC port, or `unix:PATH`.
        model: its name on the server.
        version: the version that should answer; the newest if None.
        label: the version by its label ("stable"), in place of its number.
        deadline: seconds for calls without a `timeout`.
        tls: how to encrypt; plain text if None.
        token: bearer token; needs TLS unless the server is on this machine.

    Raises:
        UserError: for arguments that make no sense; a call raises it for ids and numbers that cannot be sent.
        ServingError: a call that the server did not answer, with the gRPC status as `code`.

    Example:
        ```python
        with Client("127.0.0.1:8500", "beauty") as client:
            client.wait_until_ready()
            answers = client.recommend([["12", "7"]])
            print(answers.item_ids[0, :5], answers.scores[0, :5])
        ```
    """

    def __init__(
        self,
        address: str,
        model: str,
        *,
        version: int | None = None,
        label: str | None = None,
        deadline: float = 5.0,
        tls: Tls | None = None,
        token: str | None = None,
    ) -> None:
        self.connection = Connection(address, model, version, label, deadline, tls, token)
        self._channel = self.connection.open()
        self._calls = self.connection.calls(self._channel)
        self._closed = threading.Event()

    def recommend(self, histories: Histories, include_history: bool = False, *, timeout: float | None = None) -> Answers:
        """The best items for each history, as many as the model was exported for; those of the history only with `include_history`."""
        return self._ask(requests.recommend(histories, include_history), timeout)

    def recommend_k(
        self,
        histories: Histories,
        k: int | Sequence[int],
        exclude: Histories | None = None,
        allow: Histories | None = None,
        *,
        timeout: float | None = None,
    ) -> Answers:
        """The `k` best items for each history that it does not have.

        Args:
            histories: one list of ids a question.
            k: for all, or one for each history. The answer is as wide as the largest, and at most as wide as the model was exported for
                (`export --top-k`, 100); the cells beyond a smaller one are `""` and -inf.
            exclude: for each history further ids that may not appear.
            allow: for each history the ids that may appear; an empty list allows everything.
            timeout: seconds.
        """
        return self._ask(requests.recommend_k(histories, k, exclude, allow), timeout)

    def score(self, histories: Histories, candidates: Histories, *, timeout: float | None = None) -> Scores:
        """The scores of each history's own candidates."""
        return self._ask(requests.score(histories, candidates), timeout)

    def encode(self, histories: Histories, *, timeout: float | None = None) -> Embeddings:
        """The embedding of each history."""
        return self._ask(requests.embeddings(histories), timeout)

    def intents(self, histories: Histories, *, timeout: float | None = None) -> Intents:
        """The most probable latent intents of each history."""
        return self._ask(requests.intents(histories), timeout)

    def similar_items(self, items: Iterable[ItemId], *, timeout: float | None = None) -> Items:
        """The items most similar to each item."""
        return self._ask(requests.similar_items(items), timeout)

    def intent_items(self, intents: Sequence[int], *, timeout: float | None = None) -> Items:
        """The most typical items of each intent, by its index."""
        return self._ask(requests.intent_items(intents), timeout)

    def predict(
        self, signature: str, inputs: Mapping[str, np.ndarray], outputs: Iterable[str] = (), *, timeout: float | None = None
    ) -> dict[str, np.ndarray]:
        """Any signature of any model, in one request.

        Args:
            signature: its name; empty for the default.
            inputs: arrays by name; text as bytes or str.
            outputs: names of the outputs that are wanted; all if empty.
            timeout: seconds.

        Returns:
            Arrays by name, text as bytes objects.
        """
        return self._predict(signature, requests.checked_inputs(inputs), outputs, self.connection.ends_at(timeout))

    def status(self, *, timeout: float | None = None) -> list[VersionState]:
        """The versions that the server has or had, newest first."""
        request = wire.GetModelStatusRequest(model_spec=self.connection.spec())
        return model_info.version_states(self._call(STATUS, request, self.connection.ends_at(timeout)))

    def metadata(self, *, timeout: float | None = None) -> dict[str, Signature]:
        """The model's signatures by name."""
        request = wire.GetModelMetadataRequest(model_spec=self.connection.spec(), metadata_field=["signature_def"])
        response = self._call(METADATA, request, self.connection.ends_at(timeout))
        return self.connection.read(model_info.signatures, response)

    def wait_until_ready(self, timeout: float = 60.0) -> None:
        """Return once a version takes traffic, the wanted one if `version` names it; TF Serving does not say what a label stands for.

        Raises:
            ServingError: DEADLINE_EXCEEDED after `timeout` seconds, with the last state seen; at once where waiting does not help.
        """
        readiness = Readiness(self.connection, timeout)
        while True:
            try:
                if readiness.is_ready(self.status(timeout=readiness.poll_timeout)):
                    return
            except ServingError as error:
                readiness.failed(error)
            self._closed.wait(readiness.pause())

    def close(self) -> None:
        """Close the connection. Calls under way, and later ones, end with a `ServingError` that says CANCELLED."""
        self._closed.set()
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _ask(self, question: Question[AnswerT], timeout: float | None) -> AnswerT:
        end = self.connection.ends_at(timeout)
        outputs = [self._predict(question.signature, inputs, (), end) for inputs in question.inputs]
        return self.connection.read(question.join, outputs)

    def _predict(self, signature: str, inputs: Mapping[str, np.ndarray], outputs: Iterable[str], end: float) -> dict[str, np.ndarray]:
        request = requests.predict_request(self.connection.spec(signature), inputs, outputs)
        return self.connection.read(requests.read_outputs, self._call(PREDICT, request, end))

    def _call(self, path: str, request: Any, end: float) -> Any:
        pauses = waits()
        while not self._closed.is_set():
            try:
                return self._calls[path](request, timeout=time_left(end), metadata=self.connection.metadata)
            except RpcError as error:
                self._closed.wait(self.connection.pause(error, pauses, end))
            except ValueError:  # gRPC's word for a channel that was closed just before the call
                if not self._closed.is_set():
                    raise
        raise self.connection.closed()
