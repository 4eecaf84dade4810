"""A training run: data -> model -> fit -> results, in a run folder."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from rich.console import Console

from elcrec_tf.callbacks import (
    ContrastiveLossCallback,
    EpochSeeds,
    NanGuard,
    RunRecorder,
    Snapshots,
    Validation,
)
from elcrec_tf.config import Config
from elcrec_tf.data.pipeline import histories, probe_views, ranking_batches
from elcrec_tf.data.shards import AnySequences, ShardedSequences
from elcrec_tf.data.training_data import training_batches
from elcrec_tf.errors import UserError
from elcrec_tf.evaluation import Ranker, output_model
from elcrec_tf.hardware import cpu_multiplies_bfloat16, has_gpu
from elcrec_tf.intents import kmeans
from elcrec_tf.kernels import Kernels
from elcrec_tf.model import ELCRec, build_model
from elcrec_tf.optimizer import FusedAdam
from elcrec_tf.progress import ProgressCallback
from elcrec_tf.run_folder import RunFolder, load_keras

_PROBE_USERS = 1024
_PROBE_LENGTH = 20  # latest items: enough to compare views, at a fraction of an epoch's cost


def train_model(
    sequences: AnySequences,
    config: Config,
    folder: RunFolder,
    resume: bool = False,
    console: Console | None = None,
    devices: Sequence[str] | None = None,
) -> ELCRec:
    """Train ELCRec on a data set and leave a run folder with the best model.

    Args:
        sequences: the data set.
        config: the configuration.
        folder: a new run folder, or with `resume` one that holds a run.
        resume: continue the run from its last whole epoch.
        console: where progress goes; silent if None.
        devices: devices to train on; all GPUs if None, one by one under MirroredStrategy where there are several.

    Returns:
        The model of the best validation epoch.

    Raises:
        UserError: for a folder in use, a resume with other settings, or a loss that is no longer finite.
    """
    console = console or Console(quiet=True)
    devices = _devices() if devices is None else devices
    check_trainable(sequences, config)
    if resume:
        check_resumable(folder, sequences, config)
        folder.write_config(config)  # the number of epochs may have changed
    else:
        folder.create(config, sequences.catalog, sequences.fingerprint)
    fit_model(sequences, config, folder, console, devices)
    return folder.load_model()


def check_trainable(sequences: AnySequences, config: Config) -> None:
    """Raise `UserError` for settings that this data set cannot be trained with."""
    users = sequences.num_training_users
    if not users:
        raise UserError(f"data set {sequences.name!r}: no user has the 4 events that training needs (2, and 2 held out)")
    if config.model.centers_start == "kmeans" and users < config.model.num_clusters:
        raise UserError(
            f"--centers-start kmeans needs at least as many users as intents: {users} users, --num-clusters {config.model.num_clusters}"
        )


def check_resumable(folder: RunFolder, sequences: AnySequences, config: Config) -> None:
    """Raise `UserError` for a run that cannot go on: made with other settings or on other data, or never meant to be trained."""
    # These may change: neither moves what an epoch does.
    free: dict[str, Any] = {"epochs": 0, "recovery": False}
    mine, theirs = (one.with_preset("").replace(**free).to_dict() for one in (config, folder.config()))
    for group, values in mine.items():
        if values != theirs[group]:
            names = [name for name in values if values[name] != theirs[group].get(name)]
            raise UserError(f"{folder.path}: the run was made with other settings of {', '.join(names)}; resume it without those flags")
    if folder.fingerprint() not in (None, sequences.fingerprint):
        raise UserError(f"{folder.path}: the run was made on other data than {config.data.dataset!r} holds now; start a new run")
    if folder.newest_checkpoint() is None and (folder.metrics_file.is_file() or len(folder.read_history()) > 1):
        raise UserError(f"{folder.path}: has no checkpoint to resume from (an imported run, or one copied without checkpoint/)")


def fit_model(sequences: AnySequences, config: Config, folder: RunFolder, console: Console, devices: Sequence[str] = ()) -> None:
    """Train from the folder's newest checkpoint, or from the start, until the last epoch or the end of patience."""
    train = config.train
    recorder = RunRecorder(folder, train.monitor, train.patience)
    with _strategy_scope(devices):
        checkpoint = folder.newest_checkpoint()
        if checkpoint is None:
            first_epoch, model = 0, new_model(sequences, config)
        else:
            first_epoch, model = checkpoint[0], load_keras(checkpoint[1])
            _choose_kernels(model, config)
        # A row without a checkpoint belongs to an epoch that was cut off between the two.
        recorder.rows = [row for row in folder.read_history() if row["epoch"] <= first_epoch]
    if not folder.model_file.is_file():
        folder.save_model(model)  # a run of 0 epochs has a model too
    if first_epoch >= train.epochs or (recorder.rows and recorder.exhausted):
        return
    console.print(f"matrix products in {model.kernels.product_dtype}; XLA compiles: {_xla(config)}")
    data = training_batches(sequences, config, first_epoch, replicas=max(len(devices), 1))
    ranker = Ranker(model)
    ranker.compile(jit_compile=False)
    validation = Validation(ranker, ranking_batches(sequences, "validation", train.eval_batch_size, config.model.max_length))
    schedule = config.schedule
    contrastive = ContrastiveLossCallback(
        epochs=train.epochs,
        probe=probe_views(sequences, config, _PROBE_USERS, _PROBE_LENGTH),
        warmup=schedule.contrastive_warmup,
        schedule=schedule.contrastive_schedule,
        final=schedule.contrastive_final,
        final_temperature=schedule.final_temperature,
        revive_below=schedule.revive_below,
        assignments=lambda: validation.intents,
    )
    progress = ProgressCallback(console, train.epochs, train.monitor)
    callbacks = [EpochSeeds(train.seed), NanGuard(), validation, contrastive, recorder, progress]
    callbacks.append(keras.callbacks.TensorBoard(str(folder.tensorboard), write_graph=False, profile_batch=0))
    if train.snapshot_epochs:
        callbacks.append(_snapshots(sequences, config, folder))
    try:
        model.fit(
            data.dataset,
            steps_per_epoch=data.steps_per_epoch,
            epochs=train.epochs,
            initial_epoch=first_epoch,
            verbose=0,
            shuffle=False,
            callbacks=callbacks,
        )
    finally:
        progress.close()


def new_model(sequences: AnySequences, config: Config) -> ELCRec:
    """An untrained model, ready to be fitted to `training_batches` of the same data."""
    keras.utils.set_random_seed(config.train.seed)
    model = build_model(config, sequences.catalog.num_items)
    if config.model.centers_start == "kmeans":
        _start_centers(model, sequences, config)
    adam = FusedAdam if _xla(config) == "chains" else keras.optimizers.Adam
    model.compile(optimizer=adam(config.train.learning_rate), jit_compile=_xla(config) == "on")
    model.optimizer.build(model.trainable_variables)
    _choose_kernels(model, config)
    return model


def _xla(config: Config) -> str:
    if config.train.xla != "auto":
        return config.train.xla
    # On CPU, XLA's matrix products are slower than TensorFlow's: it compiles only what stands between them.
    return "on" if keras.backend.backend() == "jax" or has_gpu() else "chains"


def _choose_kernels(model: ELCRec, config: Config) -> None:
    compiled = _xla(config)
    dtype = config.train.products
    if dtype == "auto":
        dtype = "bfloat16" if has_gpu() or (compiled != "on" and cpu_multiplies_bfloat16()) else "float32"
    model.kernels = Kernels(dtype, compiled=compiled == "chains")


def _start_centers(model: ELCRec, sequences: AnySequences, config: Config) -> None:
    """k-means on the untrained encoder's pooled states (as the official code starts)."""
    _, history = histories(sequences, "training", config.model.max_length, most=50_000, seed=config.train.seed)
    pooled = output_model(model, "pooled").predict(history, batch_size=256, verbose=0)["pooled"]
    model.cluster_centers.assign_centers(kmeans(pooled, config.model.num_clusters, config.train.seed)[0])


def _snapshots(sequences: AnySequences, config: Config, folder: RunFolder) -> Snapshots:
    train = config.train
    users, history = histories(sequences, "validation", config.model.max_length, most=train.snapshot_users, seed=train.seed)
    assert train.snapshot_epochs is not None
    ids = users if isinstance(sequences, ShardedSequences) else sequences.user_ids[users]
    return Snapshots(folder, train.snapshot_epochs, ids, history)


def _devices() -> list[str]:
    """All GPUs that TensorFlow sees, as tf.distribute names them."""
    if keras.backend.backend() != "tensorflow":
        return []
    return [device.name.replace("/physical_device:", "") for device in tf.config.list_physical_devices("GPU")]


def _strategy_scope(devices: Sequence[str]) -> Any:
    """MirroredStrategy's scope where there are several devices, else nothing."""
    return tf.distribute.MirroredStrategy(list(devices)).scope() if len(devices) > 1 else contextlib.nullcontext()
