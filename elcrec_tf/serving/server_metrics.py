"""Prometheus metrics of the local server."""

from __future__ import annotations

import threading
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from elcrec_tf.errors import UserError

_SECONDS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_ROWS = tuple(1 << bit for bit in range(11))


class ServerMetrics:
    """What a server counts, in a registry of its own, so that a process can have several servers.

    Attributes:
        requests: Predict requests by signature (empty where none was found) and gRPC code.
        seconds: time from the start of a request's thread to its answer, by signature.
        batch_rows: rows, padding among them, of the batch that answered a request.
        in_flight: Predict requests that a thread works on.
        queued: requests that wait for a thread.
        version_state: state of each version, a number of TF Serving's ModelVersionStatus: 20 loading, 30 available, 40 unloading, 50 end.
        swaps: times that another version became the one that answers requests for the latest.
        refused: versions that could not be loaded.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        options: dict[str, Any] = {"namespace": "elcrec_serving", "registry": self.registry}
        self.requests = Counter("requests", "Predict requests", ["signature", "code"], **options)
        self.seconds = Histogram("request_seconds", "time of a Predict request", ["signature"], buckets=_SECONDS, **options)
        self.batch_rows = Histogram("batch_rows", "rows of the batch that answered a request", buckets=_ROWS, **options)
        self.in_flight = Gauge("requests_in_flight", "Predict requests that a thread works on", **options)
        self.queued = Gauge("requests_queued", "requests that wait for a thread", **options)
        states = "state of a version: 20 loading, 30 available, 40 unloading, 50 end"
        self.version_state = Gauge("version_state", states, ["version"], **options)
        self.swaps = Counter("version_swaps", "times that another version became the latest", **options)
        self.refused = Counter("versions_refused", "versions that could not be loaded", **options)

    def observe(self, signature: str, code: str, seconds: float) -> None:
        """Count one finished Predict request."""
        self.requests.labels(signature, code).inc()
        self.seconds.labels(signature).observe(seconds)


class MetricsServer:
    """Offers a server's metrics over HTTP on the loopback address.

    Args:
        metrics: the metrics.
        port: the port; 0 takes a free one.

    Attributes:
        port: the port that it listens on.

    Raises:
        UserError: when the port is taken.
    """

    def __init__(self, metrics: ServerMetrics, port: int) -> None:
        try:
            self._server, self._thread = start_http_server(port, "127.0.0.1", metrics.registry)
        except OSError as error:
            raise UserError(f"127.0.0.1:{port}: cannot offer metrics there ({error.strerror}); choose another --metrics-port") from None
        self.port: int = self._server.server_port

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        if self._thread is not threading.current_thread():
            self._thread.join()
