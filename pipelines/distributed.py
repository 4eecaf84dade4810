"""`python -m pipelines.distributed --workers N -- ...`: one training by N workers on this machine. Imports no TensorFlow itself."""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import IO

from elcrec_tf import cli, train
from elcrec_tf.errors import UserError
from elcrec_tf.run_folder import RunFolder, default_folder, newest_folder, resolve_run

_THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
_GRACE_SECONDS = 20


def make_parser() -> argparse.ArgumentParser:
    program = "python -m pipelines.distributed"
    parser = argparse.ArgumentParser(
        prog=program,
        usage=f"{program} [--workers N] [--restarts N] -- [arguments of elcrec_tf.train]",
        description="Train with several workers on this machine (MultiWorkerMirroredStrategy). Each gets its share of every batch. "
        "When one is killed the others are ended, and with --restarts all go on from the last whole epoch.",
        allow_abbrev=False,
    )
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="workers; they share the processor's cores (default: 2)")
    parser.add_argument("--restarts", type=int, default=0, metavar="N", help="how often to go on after a kill (default: 0)")
    parser.add_argument("train", nargs="*", help=argparse.SUPPRESS)
    return parser


def main(argv: list[str]) -> int:
    options = make_parser().parse_args(argv)
    if options.workers < 1 or options.restarts < 0:
        raise UserError(f"--workers should be at least 1, --restarts at least 0. Received: {options.workers} and {options.restarts}")
    folder, arguments, again = _commands(options.train)
    signal.signal(signal.SIGTERM, _interrupt)
    for restarts_left in range(options.restarts, -1, -1):
        status = _run(options.workers, again if folder.exists else arguments)
        if status >= 0 or not restarts_left:
            break
        print(f"killed by signal {-status}; all workers start again ({restarts_left - 1} restarts left)", file=sys.stderr, flush=True)
    return status if status >= 0 else 128 - status


def _commands(arguments: list[str]) -> tuple[RunFolder, list[str], list[str]]:
    """(run folder, the workers' arguments, their arguments once the folder holds the run)."""
    parsed = train.make_parser().parse_args(arguments)  # a wrong flag ends here
    if parsed.output_dir:
        folder = RunFolder(parsed.output_dir)
    elif parsed.resume:
        folder = newest_folder()
    else:
        dataset = resolve_run(parsed.preset, parsed.config, cli.config_flags(parsed)).data.dataset
        folder = default_folder(Path(dataset).stem)
    if not parsed.resume:
        folder.check_new()
    again = ["--output-dir", str(folder.path), "--resume"]  # with the settings that the folder holds
    again += ["--export-dir", parsed.export_dir] if parsed.export_dir else []
    again += [flag for flag, given in (("--no-export", parsed.no_export), ("--json", parsed.json)) if given]
    first = arguments if parsed.output_dir else [*arguments, "--output-dir", str(folder.path)]
    return folder, first, first if parsed.resume else again


def _run(workers: int, arguments: Sequence[str]) -> int:
    """Run the workers until they are done, or one fails. Returns 0, a failing worker's exit status, or minus the signal that killed one.

    Raises:
        OSError: when what the workers say cannot be passed on; `BrokenPipeError` where nobody reads it any more.
    """
    addresses = _free_addresses(workers)
    team = [_start(index, addresses, arguments) for index in range(workers)]
    failed: list[OSError] = []
    bare = "--json" in arguments  # standard output is JSON then, of the one worker that writes
    readers = [
        threading.Thread(target=_pass_on, args=(prefix, source, target, failed), daemon=True)
        for index, process in enumerate(team)
        for prefix, source, target in (
            ("" if bare else f"worker {index}: ", process.stdout, sys.stdout),
            (f"worker {index}: ", process.stderr, sys.stderr),
        )
    ]
    for reader in readers:
        reader.start()
    try:
        while True:
            if failed:
                raise failed[0]
            ended = [status for process in team if (status := process.poll()) is not None]
            if any(ended):
                return min(status for status in ended if status)  # a kill is the cause, what the others say of it a consequence
            if len(ended) == workers:
                return 0
            time.sleep(0.1)
    finally:
        _stop(team)
        for reader in readers:
            reader.join(_GRACE_SECONDS)


def _free_addresses(count: int) -> list[str]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _start(index: int, addresses: Sequence[str], arguments: Sequence[str]) -> subprocess.Popen[str]:
    task = {"cluster": {"worker": list(addresses)}, "task": {"type": "worker", "index": index}}
    threads = str(max((os.cpu_count() or 1) // len(addresses), 1))
    environment = {
        **dict.fromkeys(_THREADS, threads),
        "no_grpc_proxy": "127.0.0.1",
        "PYTHONUNBUFFERED": "1",
        **os.environ,
        "TF_CONFIG": json.dumps(task),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "elcrec_tf.train", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C is for this process, which ends the others
    )


def _pass_on(prefix: str, source: IO[str], target: IO[str], failed: list[OSError]) -> None:
    """Pass lines on. An error is kept, and the lines are read all the same: a worker waits until somebody does."""
    for line in source:
        if not failed:
            try:
                target.write(prefix + line)
                target.flush()
            except OSError as error:
                failed.append(error)


def _stop(team: Sequence[subprocess.Popen[str]]) -> None:
    for process in team:
        process.terminate()
    deadline = time.monotonic() + _GRACE_SECONDS
    for process in team:
        try:
            process.wait(max(deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    cli.run(main)
