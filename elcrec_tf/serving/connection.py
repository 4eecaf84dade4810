"""How the clients reach a server: address, TLS, token, deadlines, retries, and errors in words. Imports no TensorFlow."""

from __future__ import annotations

import ipaddress
import math
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from elcrec_tf.errors import UserError

try:
    import grpc
    import grpc.aio
    from grpc import RpcError, StatusCode

    from elcrec_tf.serving import wire_pb2 as wire
except ImportError as missing:
    raise UserError(f'the client needs grpcio and protobuf ({missing}); pip install ".[serve]" in the project\'s folder') from None

PREDICT = "/tensorflow.serving.PredictionService/Predict"
METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
_RESPONSES: dict[str, Any] = {PREDICT: wire.PredictResponse, METADATA: wire.GetModelMetadataResponse, STATUS: wire.GetModelStatusResponse}

Read = TypeVar("Read")

_MOST_BYTES = 64 << 20
_FIRST_WAIT, _LONGEST_WAIT = 0.05, 1.0

_ADVICE = {
    "UNAVAILABLE": "is the server running",
    "DEADLINE_EXCEEDED": "give it a longer timeout, or ask for less at a time",
    "NOT_FOUND": "check the name and the version of the model",
    "FAILED_PRECONDITION": "was the model exported by this version of elcrec_tf?",
    "INVALID_ARGUMENT": "check the inputs, and the label if you give one; is this an elcrec_tf export?",
    "RESOURCE_EXHAUSTED": "the server is busy, or the message is too large: ask for less at a time",
    "UNIMPLEMENTED": "is this the gRPC port of a TensorFlow Serving server? Its REST port is another",
    "UNAUTHENTICATED": "give the token that the server was started with",
    "PERMISSION_DENIED": "give a token that may ask this model",
    "INTERNAL": "is this an elcrec_tf export on a TensorFlow Serving server?",
}


class ServingError(UserError):
    """A question that a server did not answer.

    Attributes:
        code: the `grpc.StatusCode`.
        details: what the server, or gRPC, said of it.
    """

    def __init__(self, address: str, code: StatusCode, details: str, advice: str) -> None:
        super().__init__(f"{address}: {code.name} ({details}); {advice}")
        self.code = code
        self.details = details


@dataclass(frozen=True)
class Tls:
    """How to encrypt.

    Attributes:
        root: PEM file of the certificates that may have signed the server's; those that come with gRPC if None.
        certificate, key: PEM files of the client's own certificate, for a server that asks for one; both or none.
    """

    root: str | Path | None = None
    certificate: str | Path | None = None
    key: str | Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files. Raises `UserError` for one that is missing or no certificate, and for a certificate without a key."""
        if (self.certificate is None) != (self.key is None):
            raise UserError("a client's TLS certificate and its key go together; give both files, or none")
        root, key, certificate = (None if path is None else _read(Path(path)) for path in (self.root, self.key, self.certificate))
        for path, content in ((self.root, root), (self.certificate, certificate)):
            if content is not None and b"-----BEGIN CERTIFICATE-----" not in content:
                raise UserError(f"{path}: holds no certificate; give a PEM file")
        return grpc.ssl_channel_credentials(root, key, certificate)


@dataclass(frozen=True)
class Connection:
    """Where a model is served and how to reach it; knows no calls.

    Attributes:
        address: `HOST:PORT`, or `unix:PATH`.
        model: its name on the server.
        version, label: which version should answer, one of them at most; the newest if None.
        deadline: seconds for a call that names no timeout, its retries included.
        tls: how to encrypt; plain text if None.
        token: bearer token sent with every call.

    Raises:
        UserError: for a value that makes no sense, and for a token that would travel in plain text to another machine.
    """

    address: str
    model: str
    version: int | None = None
    label: str | None = None
    deadline: float = 5.0
    tls: Tls | None = None
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"unix:.+|[^/\s]+:[0-9]{1,5}", self.address):
            raise UserError(f"a server's address should be HOST:PORT. Received: {self.address!r}")
        if not self.model:
            raise UserError(f"{self.address}: give the name of the model that the server has")
        if self.version is not None and self.label is not None:
            raise UserError(f"{self.address}: give a version or a label. Received: version={self.version}, label={self.label!r}")
        self.ends_at(self.deadline)
        if self.token is None:
            return
        if not re.fullmatch(r"[\x21-\x7e]+", self.token):
            raise UserError("a token should be one word of printable ASCII characters; the one given is not")
        if self.tls is None and not self.is_loopback:
            raise UserError(f"{self.address}: is another machine, and without TLS anyone between could read the token; give TLS, too")

    @property
    def is_loopback(self) -> bool:
        """Whether the address is this machine by its very name; no name is looked up."""
        host = self.address.rpartition(":")[0].strip("[]")
        try:
            return self.address.startswith("unix:") or host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call carries beside its message."""
        return () if self.token is None else (("authorization", f"Bearer {self.token}"),)

    def spec(self, signature: str = "") -> wire.ModelSpec:
        """Names the model, the version and the signature in a request."""
        spec = wire.ModelSpec(name=self.model, signature_name=signature)
        if self.version is not None:
            spec.version.value = self.version
        elif self.label is not None:
            spec.version_label = self.label
        return spec

    def open(self, asynchronous: bool = False) -> Any:
        """A new channel of gRPC. It connects with the first call, and again whenever it has to."""
        kind, options = grpc.aio if asynchronous else grpc, _options(self.is_loopback)
        if self.tls is None:
            return kind.insecure_channel(self.address, options)
        return kind.secure_channel(self.address, self.tls.credentials(), options)

    def calls(self, channel: Any) -> dict[str, Any]:
        """What to call, by the path of the method."""
        return {
            path: channel.unary_unary(path, request_serializer=_serialized, response_deserializer=response.FromString)
            for path, response in _RESPONSES.items()
        }

    def ends_at(self, timeout: float | None) -> float:
        """The time on `time.monotonic`'s clock when a call that starts now has to be over."""
        timeout = self.deadline if timeout is None else timeout
        if not (timeout > 0 and math.isfinite(timeout)):
            raise UserError(f"{self.address}: a timeout should be a number of seconds above 0. Received: {timeout}")
        return time.monotonic() + timeout

    def pause(self, error: RpcError, waits: Iterator[float], end: float) -> float:
        """Seconds to wait before the same request goes out again.

        Raises:
            ServingError: for an error that another try does not mend (all but UNAVAILABLE), and when there is no time left for one.
        """
        wait = next(waits)
        if error.code() is not StatusCode.UNAVAILABLE or time.monotonic() + wait >= end:
            raise self.error(error.code(), error.details()) from None
        return wait

    def read(self, reader: Callable[..., Read], *arguments: Any) -> Read:
        """`reader(*arguments)`; a response that makes no sense to it (`ValueError`) becomes a `ServingError`."""
        try:
            return reader(*arguments)
        except ValueError as error:
            raise self.error(StatusCode.INTERNAL, str(error)) from None

    def closed(self) -> ServingError:
        """The error of a call on a client that was closed."""
        return ServingError(self.address, StatusCode.CANCELLED, "the client is closed", "make another one")

    def error(self, code: StatusCode, details: str | None) -> ServingError:
        """A status as an error of one line with advice."""
        advice = _ADVICE.get(code.name, "the server's log may say more")
        if code is StatusCode.UNAVAILABLE:
            advice += ", and does it speak TLS there?" if self.tls else ", and does it take plain text there?"
        return ServingError(self.address, code, " ".join((details or "no details").split()), advice)


def waits() -> Iterator[float]:
    """Seconds between tries: twice as long each time up to a bound, and shifted at random, so that clients do not come back together."""
    longest = _FIRST_WAIT
    while True:
        yield random.uniform(longest / 2, longest)
        longest = min(2 * longest, _LONGEST_WAIT)


def time_left(end: float) -> float:
    """Seconds until `end`; gRPC takes none below 0."""
    return max(end - time.monotonic(), 0.0)


def read_token(path: Path) -> str:
    """The token in a file, without the white space around it."""
    token = _read(path).decode("utf-8", "replace").strip()
    if not token:
        raise UserError(f"{path}: is empty; it should hold the server's token")
    return token


def _serialized(message: Any) -> bytes:
    return message.SerializeToString()


def _options(loopback: bool) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", _MOST_BYTES),
        ("grpc.max_send_message_length", _MOST_BYTES),
        # Retries are ours: on UNAVAILABLE alone, within the deadline. Nothing else may bring other ones.
        ("grpc.enable_retries", 0),
        ("grpc.service_config_disable_resolution", 1),
        # A server that starts again is found again soon; gRPC alone would wait up to two minutes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2000),
        # A peer that has vanished is noticed 10 seconds after something was sent. More pings than this a server may take for an attack.
        ("grpc.keepalive_time_ms", 300_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        *([("grpc.enable_http_proxy", 0)] if loopback else []),
    ]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
