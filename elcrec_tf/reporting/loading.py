"""Runs with their data sets, checked to belong together. Loads no TensorFlow."""

from __future__ import annotations

import dataclasses
import shlex
from dataclasses import dataclass
from typing import Any

from elcrec_tf import cli
from elcrec_tf.config import Config
from elcrec_tf.data.datasets import load_dataset
from elcrec_tf.data.sequences import Sequences
from elcrec_tf.data.shards import in_memory
from elcrec_tf.errors import UserError
from elcrec_tf.run_folder import RunFolder

# What elcrec_tf.results writes; an older version's file may lack some.
_NEEDED = (
    *("dataset", "seed", "best_epoch", "epochs", "train_seconds", "parameters", "users", "items", "events", "dropped", "fingerprint"),
    *("validation", "test", "baselines", "intents"),
)


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run: its folder, what config.json, metrics.json and history.csv hold, and its data set."""

    folder: RunFolder
    config: Config
    metrics: dict[str, Any]
    history: list[dict[str, float]]
    sequences: Sequences

    @property
    def path(self) -> str:
        """The folder's path as it was given."""
        return str(self.folder.path)

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.path.resolve().name


def load_run(path: str, data_dir: str | None = None) -> Run:
    """Read a run and load the data set that it was made with.

    Args:
        path: the run folder.
        data_dir: folder of named data sets; the run's own if None.

    Raises:
        UserError: when there is no run, it is not finished, or its data set is missing or has changed.
    """
    folder = RunFolder(path)
    config = folder.config()
    metrics = folder.read_metrics()
    missing = [name for name in _NEEDED if name not in metrics]
    evaluate = f"{cli.command('evaluate')} {shlex.quote(str(folder.path))}"
    if missing:
        raise UserError(f"{folder.metrics_file}: has no {', '.join(missing)}; finish the run with --resume, or evaluate it: {evaluate}")
    history = folder.read_history()
    if folder.outgrew(metrics):
        raise UserError(
            f"{folder.metrics_file}: tells of {metrics['epochs']} epochs, {folder.history_file.name} of {len(history)}; finish the run "
            f"with --resume, or evaluate it: {evaluate}"
        )
    return Run(folder, config, metrics, history, _load_data(folder, config, metrics, data_dir))


def _load_data(folder: RunFolder, config: Config, metrics: dict[str, Any], data_dir: str | None) -> Sequences:
    data = dataclasses.replace(config.data, data_dir=data_dir or config.data.data_dir, item_metadata=None)
    try:
        sequences = in_memory(load_dataset(data, config.simulator), "the report")
    except UserError as error:
        raise UserError(f"{folder.path}: the report needs the data set that the run was made with: {error}") from None
    if sequences.fingerprint != (folder.fingerprint() or metrics["fingerprint"]):
        raise UserError(
            f"{folder.path}: the data of {config.data.dataset} has changed since the run was made; the report needs the data of that time"
        )
    return dataclasses.replace(sequences, catalog=folder.catalog())  # the same items, with their titles
