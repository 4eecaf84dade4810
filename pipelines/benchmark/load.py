"""Closed-loop load on a server: every client asks again as soon as it has its answer. Runs in a worker, without TensorFlow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from elcrec_tf.serving import wire_pb2 as wire
from elcrec_tf.serving.tensors import to_tensor

_WIDTH = 64  # of a request, at least
_CLIENTS_A_CHANNEL = 32
_TIMEOUT = 30.0


def measure(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A worker's measurement: single-row `recommend` requests to a server on this machine.

    Args:
        spec: `address`, `model`; `histories`, raw ids; `clients`, that ask at the same time; `seconds` of asking, after `warm_seconds`
            that do not count.

    Returns:
        `began` and `ended`, Unix time of asking that counts; `calls`, a row for each call: Unix time of its end, latency in ms;
        `errors`, number of failed calls by status code; `processor_seconds` of this process.
    """
    return asyncio.run(_load(spec))


async def _load(spec: Mapping[str, Any]) -> dict[str, Any]:
    import grpc

    from elcrec_tf.serving.connection import PREDICT

    width = max(_WIDTH, *map(len, spec["histories"]))
    payloads = [_payload(spec["model"], history, width) for history in spec["histories"]]
    clients = spec["clients"]
    channels = [grpc.aio.insecure_channel(spec["address"]) for _ in range(-(-clients // _CLIENTS_A_CHANNEL))]
    # Answers stay bytes: what reading them costs belongs to a client's own work.
    asks = [channel.unary_unary(PREDICT) for channel in channels]
    began = time.time() + spec["warm_seconds"]
    used = time.process_time()
    until = began + spec["seconds"]
    calls: list[tuple[float, float]] = []
    errors: dict[str, int] = {}

    async def client(number: int) -> None:
        ask, place = asks[number % len(asks)], number
        while time.time() < until:
            start = time.perf_counter()
            try:
                await ask(payloads[place % len(payloads)], timeout=_TIMEOUT)
            except grpc.RpcError as error:
                name = error.code().name
                errors[name] = errors.get(name, 0) + 1
                await asyncio.sleep(0.01)
            else:
                ended = time.time()
                if began <= ended < until:
                    calls.append((ended, 1000 * (time.perf_counter() - start)))
            place += clients

    await asyncio.gather(*(client(number) for number in range(clients)))
    for channel in channels:
        await channel.close()
    return {"began": began, "ended": until, "calls": calls, "errors": errors, "processor_seconds": time.process_time() - used}


def _payload(model: str, history: Sequence[str], width: int) -> bytes:
    row = np.full((1, width), b"", object)
    row[0, width - len(history) :] = [raw.encode() for raw in history]
    spec = wire.ModelSpec(name=model, signature_name="recommend")
    return wire.PredictRequest(model_spec=spec, inputs={"history": to_tensor(row)}).SerializeToString()
