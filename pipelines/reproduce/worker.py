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
from pipelines.reproduce import training
from pipelines.reproduce.job import Job
from pipelines.reproduce.ledger import Ledger


def work(spec: dict[str, Any]) -> None:
    """Do what a spec says: `job`, `runs_dir`, `output_dir`; or `against`, `config`, `output`."""
    if "job" in spec:
        training.run(Job.from_dict(spec["job"]), Path(spec["runs_dir"]), Ledger(Path(spec["output_dir"])))
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
    work(json.loads(spec))
    return 0


def _end_with_parent() -> None:
    os.read(0, 1)  # nothing comes any more until the other end is gone
    print("the command that started this run is gone", file=sys.stderr)
    os._exit(1)


if __name__ == "__main__":
    cli.run(main)
