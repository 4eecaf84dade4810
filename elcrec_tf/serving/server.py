"""A gRPC server with TensorFlow Serving's protocol, for development, tests and edge machines. Imports TensorFlow, and no Keras."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from prometheus_client import Gauge

from elcrec_tf.errors import UserError
from elcrec_tf.serving.batching import BatchOptions
from elcrec_tf.serving.servable import Bounds, Servable
from elcrec_tf.serving.server_metrics import MetricsServer, ServerMetrics
from elcrec_tf.serving.server_options import ServerOptions, joined
from elcrec_tf.serving.server_security import TokenCheck, read_token, server_credentials
from elcrec_tf.serving.service import Service
from elcrec_tf.serving.versions import Versions

_SERVICES = ("", "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService")


def to_stderr(line: str) -> None:
    """Report a line for people. Where nobody can read it (a full disk, a reader that went away) it is lost, and the server goes on."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


class LocalServer:
    """Serves the versions in a model's folder. It is not TF Serving; it keeps the same contract.

    The port is taken when the object is made; requests are answered from `start` to `stop`, or within a `with` block.

    Args:
        folder: the model's folder, with a version or not yet.
        options: everything else.
        report: takes a line for people when a version takes over or is refused.

    Attributes:
        address: `host:port` that clients connect to.
        name: the model's name.
        metrics: what was counted.
        metrics_port: port of the metrics, or None.
        versions: the versions that are served.

    Raises:
        UserError: for a port that is taken, and files of TLS or the token that are not right.

    Example:
        ```python
        with LocalServer(Path("saved_models/beauty"), ServerOptions(port=0)) as server:
            print(server.address)
        ```
    """

    def __init__(self, folder: Path, options: ServerOptions, report: Callable[[str], None] = to_stderr) -> None:
        self.name = options.model_name or folder.resolve().name
        self.metrics = ServerMetrics()
        self._options = options
        self._report = report
        self._health = health.HealthServicer()
        self._set_health(False)
        self.versions = Versions(
            folder, self.name, _loader(options), options.latest, options.labels, self.metrics, report, on_available=self._set_health
        )
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="elcrec-versions", daemon=True)
        self._pool = _CountingPool(options.max_concurrent, self.metrics.queued)
        token = None if options.token_file is None else read_token(options.token_file)
        credentials = server_credentials(options)
        self._server = grpc.server(
            self._pool,
            handlers=Service(self.versions, self.metrics, Bounds(options.max_rows, options.max_width)).handlers(),
            interceptors=() if token is None else (TokenCheck(token),),
            options=_channel_options(options),
            maximum_concurrent_rpcs=options.max_concurrent + options.max_queued,
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self.address = joined(options.host, self._listen(credentials))
        self._metrics_server = None if options.metrics_port is None else MetricsServer(self.metrics, options.metrics_port)
        self.metrics_port = None if self._metrics_server is None else self._metrics_server.port

    def start(self) -> None:
        """Load what is in the folder, then answer requests and watch the folder. Clients that connect before are kept waiting."""
        self.versions.poll()
        self._server.start()
        self._watcher.start()

    def stop(self) -> bool:
        """Take no new request, let those in flight finish within the grace period, and free everything.

        Returns:
            Whether all finished. TensorFlow cannot be interrupted: what did not finish, a version being loaded among it, goes on in its
            thread.
        """
        ends = time.monotonic() + self._options.grace_seconds
        self._stopping.set()
        self.versions.stop_loading()
        self._health.enter_graceful_shutdown()
        self._server.stop(self._options.grace_seconds).wait()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self.versions.stop_waiting()
        if self._watcher.ident is not None:
            self._watcher.join(max(ends - time.monotonic(), 1.0))
        if self._metrics_server is not None:
            self._metrics_server.close()
        return not self._watcher.is_alive() and self.versions.release_all()

    def __enter__(self) -> LocalServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _listen(self, credentials: Any) -> int:
        address = joined(self._options.host, self._options.port)
        try:
            if credentials is None:
                return self._server.add_insecure_port(address)
            return self._server.add_secure_port(address, credentials)
        except RuntimeError:
            raise UserError(f"{address}: cannot listen there; is the port taken? Choose another --port (0 takes a free one)") from None

    def _watch(self) -> None:
        while not self._stopping.wait(self._options.poll_seconds):
            try:
                self.versions.poll()
            except Exception as error:  # the watcher outlives it: the next look may find things right
                with contextlib.suppress(Exception):
                    self._report(f"{self.versions.folder}: could not be looked at ({error}); the versions in memory stay")

    def _set_health(self, available: bool) -> None:
        status = health_pb2.HealthCheckResponse.SERVING if available else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in _SERVICES:
            self._health.set(service, status)


class _CountingPool(ThreadPoolExecutor):
    """Threads, and a gauge of the calls that wait for one."""

    def __init__(self, threads: int, waiting: Gauge) -> None:
        super().__init__(threads, thread_name_prefix="elcrec-request")
        self._waiting = waiting

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self._waiting.inc()
        return super().submit(self._begin, partial(fn, *args, **kwargs))

    def _begin(self, call: Callable[[], Any]) -> Any:
        self._waiting.dec()
        return call()


def _loader(options: ServerOptions) -> Callable[[Path, int], Servable]:
    batching = BatchOptions(options.max_batch_size, options.batch_timeout_ms, options.num_batch_threads) if options.batching else None
    return partial(Servable, options=batching, most_rows=options.max_batch_size)


def _channel_options(options: ServerOptions) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 0),  # two servers would share a port without a word
        ("grpc.max_receive_message_length", round(options.max_message_mb * (1 << 20))),
        ("grpc.max_send_message_length", -1),
        # Clients that went away without closing their connection are found out.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.server_handshake_timeout_ms", 20_000),
        # Idle clients may ask for a sign of life this often.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ]
