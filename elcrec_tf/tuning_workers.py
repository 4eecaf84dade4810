"""A search by several processes: keras-tuner's chief hands out the trials, workers run them. Imports no TensorFlow by itself.

On several machines the user starts each process with keras-tuner's environment variables; `run_workers` starts them on this one.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from elcrec_tf import cli
from elcrec_tf.data.datasets import load_dataset
from elcrec_tf.errors import UserError
from elcrec_tf.search_folder import SearchFolder

if TYPE_CHECKING:
    from rich.console import Console

_ADDRESS = ("KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT", "KERASTUNER_TUNER_ID")
_THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
_MOST_DEATHS = 6
_GRACE_SECONDS = 20


def role(environment: Mapping[str, str] = os.environ) -> str:
    """`"alone"`, `"chief"` or `"worker"`, by keras-tuner's variables. Raises `UserError` when only some of them are set."""
    if _ADDRESS[0] not in environment:
        return "alone"
    missing = [name for name in _ADDRESS if not environment.get(name)]
    if missing:
        raise UserError(f"{_ADDRESS[0]} is set, {' and '.join(missing)} not; a search on several machines needs all three")
    return "chief" if "chief" in environment["KERASTUNER_TUNER_ID"] else "worker"


def run_workers(folder: SearchFolder, workers: int, console: Console) -> None:
    """Run a search with a chief and several workers on this machine, until it ends.

    A worker that is killed (out of memory, say) is started again. The processes end when this one does, however it ends.

    Args:
        folder: a folder that holds a search's settings.
        workers: number of workers; they share the processor's cores.
        console: where the processes' lines go.

    Raises:
        UserError: when a process ends with an error, or a worker is killed again and again.
    """
    environment = _environment(workers)
    chief = _Process("chief", folder, environment, console)
    team = [_Process(f"worker-{number}", folder, environment, console) for number in range(1, workers + 1)]
    try:
        while not chief.done and not all(worker.done for worker in team):
            time.sleep(0.2)
            chief.check()
            for worker in team:
                worker.check()
    finally:
        for worker in team:
            worker.stop(signal.SIGTERM)
        chief.stop(signal.SIGINT)  # what runs is noted as interrupted


class _Process:
    """A process of the search, whose lines are passed on."""

    def __init__(self, name: str, folder: SearchFolder, environment: Mapping[str, str], console: Console) -> None:
        self.name = name
        self.done = False
        self._folder = folder
        self._environment = {**environment, "KERASTUNER_TUNER_ID": name}
        self._console = console
        self._deaths = 0
        self._start()

    def _start(self) -> None:
        self._last = ""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "elcrec_tf.tuning_workers", str(self._folder.path)],
            env=self._environment,
            stdin=subprocess.PIPE,  # its end tells the process that this one is gone
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # Ctrl-C is for this process, which ends the others in order
        )
        self._reader = threading.Thread(target=self._pass_on, args=(self._process,), daemon=True)
        self._reader.start()

    def _pass_on(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._last = line.rstrip()
            if self._last.startswith("trial "):
                if not self._last.partition(" begins: ")[1]:  # a trial was recorded
                    self._deaths = 0
                self._console.print(f"{self.name}: {self._last}", soft_wrap=True)

    def check(self) -> None:
        """Start the process again where it was killed. Raises `UserError` when it ended with an error."""
        status = self._process.poll()
        if status is None or self.done:
            return
        self._reader.join(_GRACE_SECONDS)
        if status == 0:
            self.done = True
            return
        self._deaths += 1
        if status > 0 or self.name == "chief" or self._deaths > _MOST_DEATHS:
            what = self._last.removeprefix("error: ") or f"ended with status {status}"
            raise UserError(f"{self.name} of the search: {what}")
        self._console.print(f"{self.name} was killed (signal {-status}) and is started again", soft_wrap=True)
        self._start()

    def stop(self, number: int) -> None:
        """End the process, and wait for its end."""
        if self._process.poll() is None:
            self._process.send_signal(number)
            try:
                self._process.wait(_GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()


def _environment(workers: int) -> dict[str, str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    threads = str(max((os.cpu_count() or 1) // workers, 1))
    return {
        **dict.fromkeys(_THREADS, threads),
        "no_grpc_proxy": "127.0.0.1",
        "KERASTUNER_ORACLE_PORT": str(port),
        **os.environ,
        "KERASTUNER_ORACLE_IP": "127.0.0.1",
    }


def main(argv: list[str]) -> int:
    """A process that `run_workers` started."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    folder = SearchFolder(argv[0])
    settings = folder.settings()
    base = settings.space.base
    sequences = load_dataset(base.data, base.simulator)
    cli.import_tensorflow()

    from elcrec_tf.tuning import search

    search(settings, folder, sequences, cli.console(), worker=role() == "worker")
    return 0


def _end_with_parent() -> None:
    os.read(0, 1)  # not sys.stdin, whose lock would be held when this process ends first
    os._exit(1)


if __name__ == "__main__":
    cli.run(main)
