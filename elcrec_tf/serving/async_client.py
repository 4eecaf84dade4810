"""`Client` for asyncio. Needs grpcio, protobuf and NumPy only, as that does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from elcrec_tf.serving import model_info, requests
from elcrec_tf.serving import wire_pb2 as wire
from elcrec_tf.serving.answers import Answers, Embeddings, Intents, Items, Scores
from elcrec_tf.serving.connection import METADATA, PREDICT, STATUS, Connection, RpcError, ServingError, Tls, time_left, waits
from elcrec_tf.serving.histories import Histories, ItemId
from elcrec_tf.serving.model_info import Signature, VersionState
from elcrec_tf.serving.readiness import Readiness
from elcrec_tf.serving.requests import AnswerT, Question


class AsyncClient:
    """`Client` for asyncio: the same arguments and the same calls, as coroutines. It belongs to the event loop of its first call.

    Example:
        ```python
        async with AsyncClient("127.0.0.1:8500", "beauty") as client:
            answers = await client.recommend([["12", "7"]])
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
        self._channel: Any = None  # a channel takes the event loop that runs when it is made
        self._calls: dict[str, Any] = {}
        self._closed = False

    async def recommend(self, histories: Histories, include_history: bool = False, *, timeout: float | None = None) -> Answers:
        """See `Client.recommend`."""
        return await self._ask(requests.recommend(histories, include_history), timeout)

    async def recommend_k(
        self,
        histories: Histories,
        k: int | Sequence[int],
        exclude: Histories | None = None,
        allow: Histories | None = None,
        *,
        timeout: float | None = None,
    ) -> Answers:
        """See `Client.recommend_k`."""
        return await self._ask(requests.recommend_k(histories, k, exclude, allow), timeout)

    async def score(self, histories: Histories, candidates: Histories, *, timeout: float | None = None) -> Scores:
        """See `Client.score`."""
        return await self._ask(requests.score(histories, candidates), timeout)

    async def encode(self, histories: Histories, *, timeout: float | None = None) -> Embeddings:
        """See `Client.encode`."""
        return await self._ask(requests.embeddings(histories), timeout)

    async def intents(self, histories: Histories, *, timeout: float | None = None) -> Intents:
        """See `Client.intents`."""
        return await self._ask(requests.intents(histories), timeout)

    async def similar_items(self, items: Iterable[ItemId], *, timeout: float | None = None) -> Items:
        """See `Client.similar_items`."""
        return await self._ask(requests.similar_items(items), timeout)

    async def intent_items(self, intents: Sequence[int], *, timeout: float | None = None) -> Items:
        """See `Client.intent_items`."""
        return await self._ask(requests.intent_items(intents), timeout)

    async def predict(
        self, signature: str, inputs: Mapping[str, np.ndarray], outputs: Iterable[str] = (), *, timeout: float | None = None
    ) -> dict[str, np.ndarray]:
        """See `Client.predict`."""
        return await self._predict(signature, requests.checked_inputs(inputs), outputs, self.connection.ends_at(timeout))

    async def status(self, *, timeout: float | None = None) -> list[VersionState]:
        """See `Client.status`."""
        request = wire.GetModelStatusRequest(model_spec=self.connection.spec())
        return model_info.version_states(await self._call(STATUS, request, self.connection.ends_at(timeout)))

    async def metadata(self, *, timeout: float | None = None) -> dict[str, Signature]:
        """See `Client.metadata`."""
        request = wire.GetModelMetadataRequest(model_spec=self.connection.spec(), metadata_field=["signature_def"])
        response = await self._call(METADATA, request, self.connection.ends_at(timeout))
        return self.connection.read(model_info.signatures, response)

    async def wait_until_ready(self, timeout: float = 60.0) -> None:
        """See `Client.wait_until_ready`."""
        readiness = Readiness(self.connection, timeout)
        while True:
            try:
                if readiness.is_ready(await self.status(timeout=readiness.poll_timeout)):
                    return
            except ServingError as error:
                readiness.failed(error)
            await asyncio.sleep(readiness.pause())

    async def close(self) -> None:
        """See `Client.close`."""
        self._closed = True
        if self._channel is not None:
            await self._channel.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def _ask(self, question: Question[AnswerT], timeout: float | None) -> AnswerT:
        end = self.connection.ends_at(timeout)
        outputs = [await self._predict(question.signature, inputs, (), end) for inputs in question.inputs]
        return self.connection.read(question.join, outputs)

    async def _predict(self, signature: str, inputs: Mapping[str, np.ndarray], outputs: Iterable[str], end: float) -> dict[str, np.ndarray]:
        request = requests.predict_request(self.connection.spec(signature), inputs, outputs)
        return self.connection.read(requests.read_outputs, await self._call(PREDICT, request, end))

    async def _call(self, path: str, request: Any, end: float) -> Any:
        pauses = waits()
        while not self._closed:
            if self._channel is None:
                self._channel = self.connection.open(asynchronous=True)
                self._calls = self.connection.calls(self._channel)
            try:
                return await self._calls[path](request, timeout=time_left(end), metadata=self.connection.metadata)
            except RpcError as error:
                await asyncio.sleep(self.connection.pause(error, pauses, end))
            except asyncio.CancelledError:
                if not self._closed or _is_cancelled():
                    raise
        raise self.connection.closed()


def _is_cancelled() -> bool:
    """Whether somebody cancels this task. A channel that is closed ends its calls as if they did."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
