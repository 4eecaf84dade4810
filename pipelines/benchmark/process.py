"""Runs a measurement in a process of its own: start-up time and peak memory mean something only there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from elcrec_tf.errors import UserError

_ROOT = Path(__file__).parents[2]


class WorkerFailed(UserError):
    """A measuring process ended without a result. The message says why, as far as it can be known."""


def measure(kind: str, **spec: Any) -> dict[str, Any]:
    """What a worker measures for this spec, see `pipelines.benchmark.worker`.

    Args:
        kind: a key of `worker.MEASURES`.
        **spec: what that measurement takes, ready for JSON.

    Raises:
        WorkerFailed: when the process fails, with the last line that it printed to standard error.
    """
    command = [sys.executable, "-m", "pipelines.benchmark.worker"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", env=environment
    ) as worker:
        try:
            output, errors = worker.communicate(json.dumps({"kind": kind, "started": time.time(), **spec}))
        except BaseException:
            worker.kill()
            raise
    if worker.returncode:
        raise WorkerFailed(f"measuring {kind} failed: {_reason(worker.returncode, errors)}")
    return json.loads(output.splitlines()[-1])


def _reason(status: int, errors: str) -> str:
    if status == -9:
        return "the process was killed, probably for want of memory"
    lines = [line for line in errors.splitlines() if line.strip()]
    return lines[-1].removeprefix("error: ") if lines else f"exit status {status}"
