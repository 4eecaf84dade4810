"""Trains and evaluates a job: an ordinary run folder, from which a row and ranks are taken. Imports TensorFlow when it is asked to work."""

from __future__ import annotations

import shutil
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from elcrec_tf import cli
from elcrec_tf.config import Config
from elcrec_tf.data.datasets import load_dataset
from elcrec_tf.data.sequences import Sequences
from elcrec_tf.data.shards import in_memory
from elcrec_tf.errors import UserError
from elcrec_tf.files import write_json
from elcrec_tf.run_folder import RunFolder
from pipelines.benchmark import machine
from pipelines.lock import locked
from pipelines.reproduce.job import Job, differences, settings, versions
from pipelines.reproduce.ledger import Ledger, Row
from pipelines.reproduce.perturb import some_users, with_noise

if TYPE_CHECKING:
    from elcrec_tf.model import ELCRec

_MACHINE = ("processor", "cores", "flags", "memory_bytes", "accelerators", "backend")


def run(job: Job, runs_dir: Path, ledger: Ledger, wait: bool = False, afresh: bool = False) -> None:
    """Train a job in its run folder, go on there where it was cut off, and add its row to the ledger unless that is there.

    Args:
        job: what to train.
        runs_dir: holds the run folders.
        ledger: takes the row.
        wait: for the end of another process that is at work in the run folder.
        afresh: a training that was cut off begins anew.

    Raises:
        FolderInUse: when another process is at work in the run folder, unless `wait` is given.
        UserError: as training does, and when the data has changed.
    """
    folder = job.run_folder(runs_dir)
    with locked(folder.path, wait=wait):
        ledger.reload()
        if ledger.find(job) is not None:  # made by the process that held the folder
            return
        if afresh and not folder.metrics_file.is_file():
            _empty(folder.path)
        sequences = _sequences(job)
        cli.import_tensorflow()
        memory = _train(job, sequences, folder)
        metrics, model = folder.read_metrics(), folder.load_model()
        ranks = _test_ranks(model, sequences, job.config, job.noise, job.seen)
        ledger.add(row(job, folder, sequences, metrics, ranks, memory), ranks)


def _empty(path: Path) -> None:
    """Remove what a folder holds, not the folder itself: the lock is on that."""
    for child in path.iterdir():
        if child.is_dir():
            shutil.rmtree(child)
        else:
            child.unlink()


def imported_ranks(run_dir: Path, config: Config) -> np.ndarray:
    """Test ranks, `[users]`, of the best model of any run folder on the data set of `config`."""
    cli.import_tensorflow()
    return _test_ranks(RunFolder(run_dir).load_model(), in_memory(load_dataset(config.data, config.simulator), "a table"), config)


def _sequences(job: Job) -> Sequences:
    sequences = in_memory(load_dataset(job.config.data, job.config.simulator), "a table")
    if sequences.fingerprint != job.fingerprint:
        raise UserError(f"the data of {job.config.data.dataset} has changed since this command started; start it again")
    return sequences


def _train(job: Job, sequences: Sequences, folder: RunFolder) -> dict[str, int | None]:
    """Bring a run folder to its end; what that took in memory (None each where nothing was left to train)."""
    from elcrec_tf.results import evaluate_run
    from elcrec_tf.training import train_model

    if folder.read_metrics():
        return {"peak_memory_bytes": None, "peak_device_memory_bytes": None}
    begun = len(folder.read_history())
    # A run that goes on keeps its own way to the data: the job's identity says that the rest is the same.
    config = folder.config() if folder.exists else job.config
    seen = some_users(sequences, job.train_share, job.seed)
    model = train_model(seen, config, folder, resume=folder.exists, console=cli.console(stderr=True))
    memory = machine.memory()  # before the evaluation
    write_json(folder.metrics_file, evaluate_run(model, sequences, config, folder))
    return memory if len(folder.read_history()) > begun else dict.fromkeys(memory)


def _test_ranks(model: ELCRec, sequences: Sequences, config: Config, noise: float = 0.0, seen: int = 0) -> np.ndarray:
    """Ranks of the test targets. Whatever is done to the histories, what is excluded stays the true one: the task is the same."""
    import tensorflow as tf

    from elcrec_tf.data.pipeline import ranking_batches
    from elcrec_tf.evaluation import Ranker

    size, length = config.train.eval_batch_size, seen or model.encoder.max_length
    data = ranking_batches(sequences, "test", size, length)
    if noise:
        noisy = ranking_batches(with_noise(sequences, noise, config.train.seed), "test", size, length)
        pairs = tf.data.Dataset.zip((data.dataset, noisy.dataset))
        data = replace(data, dataset=pairs.map(lambda true, seen: {**true, "history": seen["history"]}))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You are using a softmax over axis")  # Keras warns where the model sees a single item
        return Ranker(model).rank(data)["rank"]


def row(
    job: Job, folder: RunFolder, sequences: Sequences, metrics: dict[str, Any], ranks: np.ndarray, memory: dict[str, int | None]
) -> Row:
    """What the ledger keeps of a run: identity, configuration, metrics, the course of training, its cost, versions, machine, date."""
    from elcrec_tf.ranking import ranking_metrics
    from elcrec_tf.results import by_history_length

    history = folder.read_history()
    curves = ("loss", f"val_{job.config.train.monitor}", "seconds", "clustering_seconds")
    described = machine.describe(machine.devices())
    # Of the very model that ranked by disturbed histories: the row of its training may be of an earlier one, on another machine.
    undisturbed = {"undisturbed": metrics["test"]} if job.noise or job.seen else {}
    return {
        "id": job.id,
        "dataset": job.dataset,
        "fingerprint": job.fingerprint,
        "preset": job.config.preset,
        "recipe": job.recipe,
        "variant": job.variant,
        "differences": differences(job.config),
        "seed": job.seed,
        "train_share": job.train_share,
        "noise": job.noise,
        "seen": job.seen,
        "validation": metrics["validation"],
        "test": ranking_metrics(ranks),
        **undisturbed,
        "by_history_length": by_history_length(sequences, ranks),
        "baselines": metrics["baselines"],
        "best_epoch": metrics["best_epoch"],
        "epochs": metrics["epochs"],
        "train_seconds": metrics["train_seconds"],
        **memory,
        "curve": {name: [round(one[name], 6) for one in history if name in one] for name in curves if history and name in history[0]},
        "parameters": metrics["parameters"],
        "users": metrics["users"],
        "items": metrics["items"],
        "events": metrics["events"],
        "config": settings(job.config),
        "versions": versions(),
        "machine": {name: described[name] for name in _MACHINE},
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
