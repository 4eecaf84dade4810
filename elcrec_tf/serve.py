"""Serves an exported model over gRPC with TensorFlow Serving's protocol: `python -m elcrec_tf.serve SAVED_MODEL_DIR`. Wiring only."""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from elcrec_tf.cli import command, import_tensorflow, make_parser, run
from elcrec_tf.errors import UserError
from elcrec_tf.serving.layout import SAVED_MODEL
from elcrec_tf.serving.server_options import ServerOptions

_DEFAULT = ServerOptions()
_TICK_SECONDS = 0.1


def main(argv: list[str]) -> int:
    arguments = _parser().parse_args(argv)
    folder = arguments.saved_model
    names = {field.name for field in dataclasses.fields(ServerOptions)}
    options = ServerOptions(**{name: value for name, value in vars(arguments).items() if name in names})
    _check_folder(folder)

    import_tensorflow()
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # it logs what we raise as errors
    try:
        from elcrec_tf.serving.server import LocalServer, to_stderr
    except ImportError as error:
        raise UserError(f'the server needs gRPC ({error}); pip install ".[serve]" in the project\'s folder') from None

    server = LocalServer(folder, options)
    stop = _stop_at_signals(server.versions.stop_loading)
    server.start()
    if server.metrics_port is not None:
        to_stderr(f"metrics on http://127.0.0.1:{server.metrics_port}/metrics")
    if not server.versions.available:
        to_stderr(f"{folder}: has no version that can be served yet; waiting for one on {server.address}")
    while not server.versions.available and not stop.wait(0.05):
        pass
    if not stop.is_set:
        print(f"serving {server.name} version {server.versions.available[-1]} on {server.address}", flush=True)
        stop.wait()
    if not server.stop():
        os._exit(0)  # Python would wait for the threads of the requests that did not finish
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("serve", "Serve an exported model over gRPC, with TensorFlow Serving's protocol.")
    parser.add_argument("saved_model", metavar="SAVED_MODEL_DIR", type=Path, help="the exported model's folder, with versions 1, 2, ...")
    where = parser.add_argument_group("address")
    _add(where, "model_name", "the name that requests ask for (default: the folder's)", "NAME")
    _add(where, "host", "address to listen on", "ADDRESS")
    _add(where, "port", "port to listen on; 0 takes a free one", "PORT", int)
    _add(where, "metrics_port", "offer Prometheus metrics on this port of the loopback address (default: off)", "PORT", int)
    versions = parser.add_argument_group("versions")
    _add(versions, "latest", "how many of the newest versions are served", "N", int)
    versions.add_argument(
        "--label",
        dest="labels",
        action=_Label,
        default={},
        metavar="NAME=VERSION",
        help="serve a version under a label, too, whether or not it is among the newest; may be repeated",
    )
    _add(versions, "poll_seconds", "time between two looks at the folder", "X", float)
    batching = parser.add_argument_group("batching")
    batching.add_argument(
        "--no-batching",
        dest="batching",
        action="store_false",
        help="answer each request by itself, not those that wait together as a batch",
    )
    _add(batching, "max_batch_size", "most rows of a batch", "N", int)
    _add(batching, "batch_timeout_ms", "how long a batch waits for more rows while a thread is free", "X", float)
    _add(batching, "num_batch_threads", "batches that are answered at the same time", "N", int)
    bounds = parser.add_argument_group("bounds")
    _add(bounds, "max_concurrent", "requests that are answered at the same time", "N", int)
    _add(bounds, "max_queued", "further requests that may wait; more are refused", "N", int)
    _add(bounds, "max_message_mb", "largest request in megabytes", "X", float)
    _add(bounds, "max_rows", "most rows of a request", "N", int)
    _add(bounds, "max_width", "most values of a row, such as the items of a history", "N", int)
    _add(bounds, "grace_seconds", "how long requests in flight may take when the server is stopped", "X", float)
    security = parser.add_argument_group("security")
    _add(security, "tls_cert", "PEM file with the server's certificate", "FILE", Path)
    _add(security, "tls_key", "PEM file with its key", "FILE", Path)
    _add(security, "tls_client_ca", "PEM file with the authorities that clients' certificates must be of", "FILE", Path)
    _add(security, "token_file", "file with the bearer token that requests must bring", "FILE", Path)
    return parser


def _add(group: argparse._ArgumentGroup, name: str, text: str, metavar: str, kind: type = str) -> None:
    default = getattr(_DEFAULT, name)
    text += "" if default is None else f" (default: {default:g})" if isinstance(default, float) else f" (default: {default})"
    group.add_argument(f"--{name.replace('_', '-')}", type=kind, default=default, metavar=metavar, help=text)


class _Label(argparse.Action):
    """Collects NAME=VERSION into a dict."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object, _: object = None) -> None:
        label, _, version = str(values).partition("=")
        if not label or not version.isascii() or not version.isdigit():
            parser.error(f"--label should be NAME=VERSION, as in stable=3. Received: {values}")
        setattr(namespace, self.dest, {**getattr(namespace, self.dest), label: int(version)})


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; give an exported model's folder ({command('export')} makes one)")
    if (folder / SAVED_MODEL).exists():
        raise UserError(f"{folder}: is itself a version of an exported model; give the folder above it")


class Stop:
    """Whether to stop, to be set by a signal's handler.

    An Event would not do: its `set` takes a lock that the code which the signal interrupts may hold, and a signal just before a wait
    begins does not end it.
    """

    def __init__(self) -> None:
        self.is_set = False

    def set(self) -> None:
        self.is_set = True

    def wait(self, seconds: float = math.inf) -> bool:
        """Return once it is set, or after so many seconds. Returns whether it is set."""
        ends = time.monotonic() + seconds
        while not self.is_set and (left := ends - time.monotonic()) > 0:
            time.sleep(min(left, _TICK_SECONDS))
        return self.is_set


def _stop_at_signals(also: Callable[[], None]) -> Stop:
    """Set by SIGTERM and SIGINT, which call `also`, too. After the first one they do what they do elsewhere, so a second one ends the
    program at once."""
    stop = Stop()

    def on_signal(*_: object) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        stop.set()
        also()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    return stop


if __name__ == "__main__":
    run(main)
