"""What the local server can be told. Imports neither TensorFlow nor gRPC."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from elcrec_tf.errors import UserError
from elcrec_tf.serving.layout import ALLOWED_BATCH_SIZES

_LONGEST = 1_000_000  # of times and queues; what lies beyond is a mistake, and too long for the system's timers


@dataclass(frozen=True)
class ServerOptions:
    """Options of `LocalServer`, validated.

    Attributes:
        model_name: the name that requests ask for; the folder's if None.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        latest: how many of the newest versions are served.
        labels: versions by label; a labelled version is served whether or not it is among the newest.
        poll_seconds: time between two looks at the folder.
        batching: whether requests that wait at the same time are answered as one batch.
        max_batch_size: most rows of a batch; a request with more rows is answered in several.
        batch_timeout_ms: how long a batch that is not full waits for more rows while a thread is free to answer it.
        num_batch_threads: batches that are answered at the same time.
        max_concurrent: requests that are answered at the same time, each by a thread.
        max_queued: requests that may wait for a thread; more are refused.
        max_message_mb: largest request in megabytes.
        max_rows: most rows of a request. A message of a few bytes can ask for many, each of which is answered with items and scores.
        max_width: most values of a row of an input. All rows of a batch are as wide as its widest, up to the next power of two.
        grace_seconds: how long requests in flight may take when the server stops.
        metrics_port: port of the Prometheus metrics on the loopback address; 0 takes a free one, None offers none.
        tls_cert: PEM file with the server's certificate chain.
        tls_key: PEM file with its key.
        tls_client_ca: PEM file with the authorities that clients' certificates must be of; None asks clients for no certificate.
        token_file: file with the bearer token that requests must bring; None asks for none.

    Raises:
        UserError: for a value out of its bounds, and for options that do not go together.
    """

    model_name: str | None = None
    host: str = "127.0.0.1"
    port: int = 8500
    latest: int = 1
    labels: Mapping[str, int] = field(default_factory=dict)
    poll_seconds: float = 2.0
    batching: bool = True
    max_batch_size: int = ALLOWED_BATCH_SIZES[-1]
    batch_timeout_ms: float = 0.0
    num_batch_threads: int = 1  # TensorFlow already spreads a batch over the cores
    max_concurrent: int = 256
    max_queued: int = 256
    max_message_mb: float = 4.0
    max_rows: int = 4096
    max_width: int = 16384
    grace_seconds: float = 10.0
    metrics_port: int | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    token_file: Path | None = None

    def __post_init__(self) -> None:
        for name in ("latest", "max_batch_size", "num_batch_threads", "max_concurrent", "max_rows", "max_width"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        for name in ("max_queued", "batch_timeout_ms", "grace_seconds"):
            self._check(name, 0 <= getattr(self, name) <= _LONGEST, f"at least 0 and at most {_LONGEST}")
        self._check("poll_seconds", 0 < self.poll_seconds <= _LONGEST, f"more than 0 and at most {_LONGEST}")
        self._check("max_message_mb", 0 < self.max_message_mb <= 1024, "more than 0 and at most 1024")
        for name in ("port", "metrics_port"):
            self._check(name, 0 <= (getattr(self, name) or 0) <= 65535, "a number from 0 to 65535")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise UserError("--tls-cert and --tls-key go together")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise UserError("--tls-client-ca needs --tls-cert and --tls-key")
        if self.token_file is not None and self.tls_cert is None and not is_loopback(self.host):
            raise UserError(f"--token-file on {self.host} needs --tls-cert and --tls-key: a token must not travel in plain text")

    def _check(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            raise UserError(f"--{name.replace('_', '-')} should be {wanted}. Received: {getattr(self, name)}")


def is_loopback(host: str) -> bool:
    """Whether an address stays on its own machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # another host name
        return False


def joined(host: str, port: int) -> str:
    """`host:port`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
