"""RecTools' SASRec with its softmax loss, measured on the same data and machine as this package.

RecTools wants older libraries than TensorFlow does, so it lives in a virtual environment of its own, which `make_environment` makes
at the first call, and runs as a separate process (`rectools_worker.py`).
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elcrec_tf.config_fields import Group, field
from elcrec_tf.data.sequences import Sequences
from elcrec_tf.errors import UserError
from elcrec_tf.files import expanded, write_json, write_text
from pipelines.benchmark.flags import PEER_ENVIRONMENT

# PyPI's torch for Linux brings CUDA along; pip's own settings (PIP_INDEX_URL, PIP_FIND_LINKS) can name a source of CPU builds.
REQUIREMENTS = ("torch==2.13.0", "pytorch-lightning==2.5.2", "rectools[torch]==0.19.0")
MARKER = "requirements-installed.txt"
WORKER = Path(__file__).with_name("rectools_worker.py")


@dataclass(frozen=True)
class PeerSpec(Group):
    """What the peer is and how long it is measured. The sizes are those of our `default` preset, the learning rate is RecTools' own."""

    GROUP: typing.ClassVar[str] = "peer"

    hidden_size: int = field(64, "size of item embeddings and hidden states", low=1)
    num_layers: int = field(2, "self-attention blocks", low=1)
    num_heads: int = field(2, "attention heads", low=1)
    dropout: float = field(0.5, "dropout rate", low=0, below=1)
    max_length: int = field(50, "latest items of a history that the model sees", low=1)
    batch_size: int = field(256, "users a batch", low=1)
    learning_rate: float = field(1e-3, "Adam's learning rate", above=0)
    seed: int = field(0, "seed of weights, shuffling and dropout", low=0, high=2**32 - 1)
    epochs: int = field(3, "most passes over the training data, each followed by a ranking of the validation users", low=1)
    target_ndcg: float | None = field(None, "stop when the validation NDCG@20 reaches this, and report when", above=0, below=1)
    max_seconds: float | None = field(None, "start no further pass after this many seconds of training", above=0)
    max_steps: int | None = field(None, "batches a pass, for trying out; such a pass is not one over the training data", low=1)
    warmup_steps: int = field(3, "batches that a throwaway model trains before the clock starts", low=1)
    ranking_repeats: int = field(3, "how often all test users are ranked", low=1)
    threads: int | None = field(None, "threads of PyTorch (default: the usable cores)", low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden_size % self.num_heads:
            raise UserError(f"peer.hidden_size should be a multiple of peer.num_heads. Received: {self.hidden_size} and {self.num_heads}")


def make_environment(
    folder: str | Path = PEER_ENVIRONMENT, progress: Callable[[str], None] | None = None, python: str = sys.executable
) -> Path:
    """A virtual environment with `REQUIREMENTS`, made at the first call (a few minutes) and whenever they have changed.

    Args:
        folder: where it is or shall be.
        progress: is told, in one line, when it has to be made.
        python: the interpreter to make it with.

    Returns:
        The folder, absolute.

    Raises:
        UserError: when the folder holds something else, or when it cannot be made; with the last lines of pip's output.
    """
    folder = expanded(folder).absolute()
    marker, wanted = folder / MARKER, "\n".join(REQUIREMENTS) + "\n"
    own = _python_of(folder)
    if own.exists() and marker.exists() and marker.read_text(encoding="utf-8") == wanted:
        return folder
    # What is there is cleared, so it has to be an environment, half made perhaps.
    if folder.exists() and not (folder.is_dir() and ((folder / "pyvenv.cfg").exists() or not any(folder.iterdir()))):
        raise UserError(f"{folder}: is no virtual environment; remove it, or name another folder with --env")
    if progress is not None:
        progress(f"making {folder} with {', '.join(REQUIREMENTS)}")
    _make([python, "-m", "venv", "--clear", str(folder)], f"{folder}: cannot be made as a virtual environment")
    _make([str(own), "-I", "-m", "pip", "install", *REQUIREMENTS], f"{folder}: pip cannot install {', '.join(REQUIREMENTS)}")
    write_text(marker, wanted)
    return folder


def _python_of(environment: Path) -> Path:
    return environment / "bin" / "python"


def _make(command: Sequence[str], failure: str) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, errors="replace")
    if done.returncode:
        last = [line for line in done.stdout.splitlines() if line.strip()][-3:] or [f"exit status {done.returncode}"]
        raise UserError("\n  ".join([f"{failure}:", *last]))


def write_sequences(sequences: Sequences, path: Path) -> None:
    """The sequences as the worker reads them: a line a user, item indices oldest first, held-out items included."""
    with path.open("w", encoding="ascii") as file:
        for user in range(sequences.num_users):
            file.write(" ".join(map(str, sequences[user].tolist())) + "\n")


def measure_peer(
    sequences: Sequences,
    spec: PeerSpec | None = None,
    progress: Callable[[str], None] | None = None,
    environment: str | Path = PEER_ENVIRONMENT,
) -> dict[str, Any]:
    """Train and rank with RecTools' SASRec, in its own process.

    The protocol is that of `elcrec_tf.evaluation`: trained on all but a user's last two items, ranked over the whole catalogue with the
    whole history excluded. NDCG@20 is the mean over all users. Items without a training event are unknown to RecTools; targets among
    them are misses.

    Args:
        sequences: the data set.
        spec: sizes and limits; the defaults if None.
        progress: is called with a line after each pass.
        environment: folder of RecTools' environment, see `make_environment`, which is called if it is not there.

    Returns:
        `library`, `versions`, `settings`, `device` and `threads`;
        `users`, `items_trained`, `users_trained`, `targets_trained` (of one pass), `padding_share`;
        `seconds_to_first_step` (from the start of the process), `peak_memory_bytes`;
        `epoch_seconds`, the median of the passes;
        `curve`, a row a pass: `epoch`, `seconds` of the pass, `train_seconds` of all passes so far, `validation_seconds` of the ranking
        after it, `wall_seconds` since training began (with RecTools' preparation of every pass and all rankings), `NDCG@20`;
        `target`: `NDCG@20`, `reached`, and where it was `epoch`, `train_seconds`, `wall_seconds`; None without `spec.target_ndcg`;
        `test`: `NDCG@20`, `ranking_seconds` (median) and `all_ranking_seconds`.

    Raises:
        UserError: when the environment cannot be made, or the worker fails.
    """
    spec, progress = spec or PeerSpec(), progress or (lambda line: None)
    python = _python_of(make_environment(environment, progress))
    with tempfile.TemporaryDirectory(prefix="elcrec-peer-") as name:
        folder = Path(name)
        write_sequences(sequences, folder / "sequences.txt")
        write_json(folder / "spec.json", dataclasses.asdict(spec))
        _run_worker(python, folder, progress)
        return {"dataset": sequences.name, **json.loads((folder / "result.json").read_text(encoding="utf-8"))}


def _run_worker(python: Path, folder: Path, progress: Callable[[str], None]) -> None:
    # -I: neither PYTHONPATH nor the user's packages may reach into that environment.
    command = [str(python), "-I", str(WORKER), "sequences.txt", "spec.json", "result.json"]
    errors = folder / "errors.txt"
    with errors.open("w") as stderr, subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=stderr, text=True) as worker:
        try:
            assert worker.stdout is not None
            for line in worker.stdout:
                progress(line.rstrip("\n"))
        except BaseException:
            worker.kill()
            raise
    if worker.returncode:
        lines = errors.read_text(encoding="utf-8", errors="replace").split("\n")
        ended = f"was ended by signal {-worker.returncode}" if worker.returncode < 0 else f"exit status {worker.returncode}"
        raise UserError(f"RecTools ({python}) failed: {next((line for line in reversed(lines) if line.strip()), ended)}")
