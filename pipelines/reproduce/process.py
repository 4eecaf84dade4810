"""Runs a worker: one process a run gives a clean start, peak memory that means something, and an end that takes nothing else along."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from elcrec_tf.config import Config
from elcrec_tf.errors import UserError
from pipelines.lock import FolderInUse
from pipelines.reproduce.job import Job

IN_USE = 4
"""Exit status of a worker whose run folder another process holds."""

_ROOT = Path(__file__).parents[2]
_STANDARD_ERROR = 2


def train(job: Job, runs_dir: Path, output_dir: Path, wait: bool, afresh: bool) -> None:
    """Train a job in a process of its own, which adds the row; `wait` and `afresh` as in `training.run`.

    Raises:
        FolderInUse: when another process is at work on it.
        UserError: when it fails.
    """
    how = {"wait": wait, "afresh": afresh}
    _work({"job": job.to_dict(), "runs_dir": str(runs_dir), "output_dir": str(output_dir), **how}, f"run {job.id}")


def ranks(run_dir: Path, config: Config) -> np.ndarray:
    """Test ranks of any run folder on the data set of `config`, `[users]`. Raises `UserError` when that fails."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "ranks.npy"
        _work({"against": str(run_dir), "config": config.to_dict(), "output": str(output)}, f"ranking with {run_dir}")
        return np.load(output)


def _work(spec: dict[str, Any], what: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}
    command = [sys.executable, "-m", "pipelines.reproduce.worker"]
    # Standard output is for the tables: what the worker says goes to standard error. Its input stays open: the end of that is how it
    # learns that this process is gone.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=_STANDARD_ERROR, text=True, env=environment) as worker:
        try:
            assert worker.stdin is not None
            worker.stdin.write(json.dumps(spec) + "\n")
            worker.stdin.flush()
            status = worker.wait()
        except BaseException:
            worker.kill()
            raise
    if status == IN_USE:
        raise FolderInUse(f"{what}: another process is at work on it")
    if status:
        reason = "was killed, probably for want of memory" if status == -9 else f"ended with status {status}, see above"
        raise UserError(f"{what}: {reason}")
