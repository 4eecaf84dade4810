"""`python -m pipelines.reproduce.worker`: a process that trains one job, or ranks with one run folder. A line of JSON on standard input."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from elcrec_tf import cli
from elcrec_tf.config import Config
from elcrec_tf.files import atomic_path
from pipelines.lock import FolderInUse
from pipelines.reproduce import training
from pipelines.reproduce.job import Job
from pipelines.reproduce.ledger import Ledger
from pipelines.reproduce.process import IN_USE


def work(spec: dict[str, Any]) -> None:
    """Do what a spec says: `job`, `runs_dir`, `output_dir`, and `wait` and `afresh` where they are true; or `against`, `config`,
    `output`."""
    if "job" in spec:
        how = {name: spec.get(name, False) for name in ("wait", "afresh")}
        training.run(Job.from_dict(spec["job"]), Path(spec["runs_dir"]), Ledger(Path(spec["output_dir"])), **how)
    else:
        ranks = training.imported_ranks(Path(spec["against"]), Config.from_dict(spec["config"]))
        with atomic_path(spec["output"]) as temporary:
            np.save(temporary, ranks)


def main(argv: list[str]) -> int:
    # Unbuffered: what a thread waits for in sys.stdin's buffer would keep this process from ending.
    spec = bytearray()
    while not spec.endswith(b"\n"):
        spec += os.read(0, 1 << 16) or b"\n"
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        work(json.loads(spec))
    except FolderInUse:
        return IN_USE
    return 0


def _end_with_parent() -> None:
    os.read(0, 1)  # nothing comes any more until the other end is gone
    print("the command that started this run is gone", file=sys.stderr)
    os._exit(1)


if __name__ == "__main__":
    cli.run(main)
