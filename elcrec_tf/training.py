"""A training run: data -> model -> fit -> results, in a run folder."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console

from elcrec_tf.augment import BY_SIMILARITY
from elcrec_tf.callbacks import (
    ContrastiveLossCallback,
    EpochSeeds,
    NanGuard,
    RunRecorder,
    Snapshots,
    Validation,
    WeightAverage,
    best_epoch,
)
from elcrec_tf.cluster_count import ClusterCount
from elcrec_tf.config import Config, DataConfig
from elcrec_tf.data.pipeline import histories, probe_views, ranking_batches
from elcrec_tf.data.shards import AnySequences, ShardedSequences, in_memory
from elcrec_tf.data.training_data import training_batches
from elcrec_tf.data.transitions import likeliest_successors
from elcrec_tf.errors import UserError
from elcrec_tf.evaluation import Ranker, output_model
from elcrec_tf.hardware import cpu_multiplies_bfloat16, has_gpu
from elcrec_tf.intent_em import IntentEM
from elcrec_tf.intents import kmeans
from elcrec_tf.kernels import Kernels
from elcrec_tf.layers.activity_features import quartile_bounds
from elcrec_tf.layers.transition_memory import DECAY, STEPS, WIDTH
from elcrec_tf.model import ELCRec, build_model
from elcrec_tf.optimizer import DenseAdam, FusedAdam
from elcrec_tf.progress import ProgressCallback
from elcrec_tf.run_folder import RunFolder, load_keras
from elcrec_tf.warm_start import describe, lineage, parent_of, take_over
from elcrec_tf.worker_training import ChiefCenters, SharedRanker, Team

_Strategy: TypeAlias = "tf.distribute.Strategy | None"
_PROBE_USERS = 1024
_MANY_ITEMS = 100_000  # whose table is so large that updating all of it takes most of a step
_CLUSTERED_USERS = 50_000  # that k-means starts the centres from
_COUNTED_USERS = 4000
_COUNTED_USERS_A_CENTER = 15  # more than a centre needs to stay, as users divide unevenly
_MEMORY = "--memory-weight"
_PROBE_LENGTH = 20  # latest items: enough to compare views, at a fraction of an epoch's cost


def train_model(
    sequences: AnySequences,
    config: Config,
    folder: RunFolder,
    resume: bool = False,
    console: Console | None = None,
    devices: Sequence[str] | None = None,
    team: Team | None = None,
) -> ELCRec:
    """Train ELCRec on a data set and leave a run folder with the best model.

    Args:
        sequences: the data set.
        config: the configuration.
        folder: a new run folder, or with `resume` one that holds a run.
        resume: continue the run from its last whole epoch.
        console: where progress goes; silent if None.
        devices: devices to train on; all GPUs if None, one by one under MirroredStrategy where there are several.
        team: the workers to train with, on all of their GPUs. Each of them calls this; the chief alone writes the folder.

    Returns:
        The model of the best validation epoch.

    Raises:
        UserError: for a folder in use, a resume with other settings, a warm start from a run that does not fit, a loss or states that are
            no longer finite, or workers that do not agree or are gone.
    """
    console = console or Console(quiet=True)
    devices = _devices() if devices is None else devices
    with team.together() if team else contextlib.nullcontext():
        if team:
            _check_agreement(sequences, config, folder, team)
        # What cannot be is refused before a folder is there.
        if resume:
            check_trainable(sequences, config)
            check_resumable(folder, sequences, config)
        else:
            check_startable(sequences, config, shared=team is not None or len(devices) > 1)
        if _writes(team):
            _write_start(sequences, config, folder, resume, console)
        fit_model(sequences, config, folder, console, devices, team)
        if team:
            team.meet()  # the chief has written the run folder
        return folder.load_model()


def _check_agreement(sequences: AnySequences, config: Config, folder: RunFolder, team: Team) -> None:
    """Raise `UserError` on every worker unless all are about to do the same. Comes before one of them writes, or makes a variable, which
    the workers share: variables of different shapes end in errors that nobody understands."""
    checkpoint = folder.newest_checkpoint()
    epoch = checkpoint[0] if checkpoint else 0
    settings = dataclasses.replace(config, preset="", data=DataConfig())  # where the data lies may differ
    team.check_agreement(settings=settings, data=sequences.fingerprint, checkpoint=epoch, history=_rows_until(folder, epoch))


def _rows_until(folder: RunFolder, epoch: int) -> list[dict[str, float]]:
    """The history up to an epoch with a checkpoint. A row after it belongs to an epoch that was cut off between the two."""
    return [row for row in folder.read_history() if row["epoch"] <= epoch]


def _write_start(sequences: AnySequences, config: Config, folder: RunFolder, resume: bool, console: Console) -> None:
    if resume:
        if config.train.epochs and not folder.config().train.epochs:
            # The untrained model and its results: until there is a checkpoint beside them, the run would pass for an imported one.
            folder.metrics_file.unlink(missing_ok=True)
            folder.model_file.unlink(missing_ok=True)
        folder.write_config(config)  # the number of epochs may have changed
        return
    parent = parent_of(config)
    origin = lineage(parent, sequences.catalog, folder) if parent else None
    folder.create(config, sequences.catalog, sequences.fingerprint, origin)
    if origin:
        console.print(describe(origin), soft_wrap=True)


def check_startable(sequences: AnySequences, config: Config, shared: bool | None = None) -> None:
    """Raise `UserError` for settings that a new run cannot have with this data set on this machine. (A run that is resumed may have begun
    on another one.)

    Args:
        sequences: the data set.
        config: the configuration.
        shared: whether several devices share a step; whether there are several GPUs if None.
    """
    check_trainable(sequences, config)
    _updates_touched_rows(config, sequences.catalog.num_items, _xla(config, len(_devices()) > 1 if shared is None else shared))


def check_trainable(sequences: AnySequences, config: Config) -> None:
    """Raise `UserError` for settings that this data set cannot be trained with."""
    users = sequences.num_training_users
    if not users:
        raise UserError(f"data set {sequences.name!r}: no user has the 4 events that training needs (2, and 2 held out)")
    if isinstance(sequences, ShardedSequences):
        _check_streamable(sequences, config)
        _check_questions(sequences)
    centers = config.model.centers
    if config.model.intent_clustering == "em":
        if users < centers:
            raise UserError(f"--intent-clustering em needs at least as many users as intents: {users} users, {centers} intents")
    elif _starts_by_kmeans(config) and min(users, _CLUSTERED_USERS) < centers:
        sample = f"{users} users" if users <= _CLUSTERED_USERS else f"a sample of {_CLUSTERED_USERS} users"
        raise UserError(f"--centers-start kmeans needs at least as many users as intents: {sample}, {centers} intents")


def _check_questions(shards: ShardedSequences) -> None:
    for split in ("validation", "test"):
        if not sum(shard.get(f"{split}_users", 1) for shard in shards.manifest["shards"]):
            raise UserError(
                f"{shards.folder}: no user has an event to hold out for {split}; prepare it with another split (--{split}-from)"
            )


def _check_streamable(shards: ShardedSequences, config: Config) -> None:
    needs_all_users = {
        _MEMORY: config.model.memory_weight > 0,
        "--examples prefixes": config.loss.examples == "prefixes",
        "--intent-clustering em": config.model.intent_clustering == "em",
        "--negatives official": config.loss.negatives == "official",
        "--augmentations substitute and insert": any(name in BY_SIMILARITY for name in config.augment.augmentations),
    }
    for setting, chosen in needs_all_users.items():
        if chosen:
            in_memory(shards, setting)


def check_resumable(folder: RunFolder, sequences: AnySequences, config: Config) -> None:
    """Raise `UserError` for a run that cannot go on: made with other settings or on other data, or never meant to be trained."""
    # These may change, as long as they do not move what an epoch does.
    free: dict[str, Any] = {"recovery": False} if config.schedule.lasts_all_epochs else {"recovery": False, "epochs": 0}
    mine, theirs = (one.with_preset("").replace(**free).to_dict() for one in (config, folder.config()))
    for group, values in mine.items():
        if values != theirs[group]:
            names = [name for name in values if values[name] != theirs[group].get(name)]
            raise UserError(f"{folder.path}: the run was made with other settings of {', '.join(names)}; resume it without those flags")
    if folder.fingerprint() not in (None, sequences.fingerprint):
        raise UserError(f"{folder.path}: the run was made on other data than {config.data.dataset!r} holds now; start a new run")
    rows = len(folder.read_history())
    untrained = not rows and not folder.config().train.epochs  # a run of 0 epochs has results, too
    newest = folder.newest_checkpoint()
    if newest is None and not untrained and (folder.metrics_file.is_file() or rows > 1):
        raise UserError(f"{folder.path}: has no checkpoint to resume from (an imported run, or one copied without checkpoint/)")
    if newest is not None and not folder.model_file.is_file():
        best = best_epoch(_rows_until(folder, newest[0]), f"val_{config.train.monitor}")
        if best != newest[0]:
            raise UserError(
                f"{folder.model_file}: is missing, and held epoch {best}, the checkpoint {newest[0]}; restore it, or start a new run"
            )


def fit_model(
    sequences: AnySequences,
    config: Config,
    folder: RunFolder,
    console: Console,
    devices: Sequence[str] = (),
    team: Team | None = None,
) -> None:
    """Train from the folder's newest checkpoint, or from the start, until the last epoch or the end of patience."""
    train = config.train
    strategy = team.strategy if team else _strategy(tuple(devices))
    first_epoch, model = _model_to_go_on_with(sequences, config, folder, strategy)
    recorder = RunRecorder(folder if _writes(team) else None, train.monitor, train.patience)
    recorder.rows = _rows_until(folder, first_epoch)
    if _writes(team) and not folder.model_file.is_file() and (first_epoch or not train.epochs):
        folder.save_model(model)  # a run of 0 epochs has a model too; one that is stopped in its first has none
    if _writes(team) and not train.epochs and train.snapshot_epochs:
        untrained = _snapshots(sequences, config, folder)
        untrained.set_model(model)
        untrained.on_train_begin()
    if first_epoch >= train.epochs or (recorder.rows and recorder.exhausted):
        return
    console.print(f"matrix products in {model.kernels.product_dtype}; XLA compiles: {_xla(config, strategy)}")
    replicas = strategy.num_replicas_in_sync if strategy else 1
    data = training_batches(sequences, config, first_epoch, replicas, team.shares if team else None)
    progress = ProgressCallback(console, train.epochs, train.monitor)
    averages = [WeightAverage(averaged=first_epoch > 0)] if train.average_momentum else []
    fit = functools.partial(team.fit, model) if team else functools.partial(model.fit, verbose=0, shuffle=False)
    try:
        fit(
            data.dataset,
            steps_per_epoch=data.steps_per_epoch,
            epochs=train.epochs,
            initial_epoch=first_epoch,
            callbacks=[*averages, *_callbacks(model, sequences, config, folder, recorder, team), progress],
        )
    finally:
        progress.close()


def _callbacks(
    model: ELCRec, sequences: AnySequences, config: Config, folder: RunFolder, recorder: RunRecorder, team: Team | None
) -> list[keras.callbacks.Callback]:
    """All that a run does beside its steps, in order; a worker that writes nothing does what the model needs."""
    train = config.train
    ranker = SharedRanker(model, team) if team else Ranker(model)
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
    callbacks = [EpochSeeds(train.seed), NanGuard(), validation, contrastive, recorder]
    if config.model.auto_clusters:
        # In front of the validation, which tells of the intents that are kept; behind the guard, as NaN has no clusters.
        callbacks.insert(callbacks.index(validation), _cluster_count(sequences, config))
    if config.model.intent_clustering == "em":
        # Right behind the validation, whose clock of the epoch counts it in.
        callbacks.insert(callbacks.index(validation) + 1, _intent_em(sequences, config))
    if _writes(team):
        callbacks.append(keras.callbacks.TensorBoard(str(folder.tensorboard), write_graph=False, profile_batch=0))
    if _writes(team) and train.snapshot_epochs:
        # In front of the recorder: an epoch with a checkpoint is not repeated.
        callbacks.insert(callbacks.index(recorder), _snapshots(sequences, config, folder))
    if team:
        callbacks.append(ChiefCenters(team))
    return callbacks


def _writes(team: Team | None) -> bool:
    return team is None or team.worker.chief


def _model_to_go_on_with(sequences: AnySequences, config: Config, folder: RunFolder, strategy: _Strategy) -> tuple[int, ELCRec]:
    """(epochs that are done, model after them)."""
    checkpoint = folder.newest_checkpoint()
    if checkpoint is None:
        return 0, new_model(sequences, config, strategy)
    with _scope(strategy):
        model = load_keras(checkpoint[1])
    # The run may have begun on another machine. An optimizer that updates touched rows alone cannot be compiled whole.
    model.jit_compile = _xla(config, strategy) == "on" and not getattr(model.optimizer, "touched_rows", False)
    _choose_kernels(model, config, strategy)
    return checkpoint[0], model


def new_model(sequences: AnySequences, config: Config, strategy: _Strategy = None) -> ELCRec:
    """An untrained model, ready to be fitted to `training_batches` of the same data, by the devices of `strategy`."""
    keras.utils.set_random_seed(config.train.seed)
    compiled = _xla(config, strategy)
    rate = config.train.learning_rate
    touched = _updates_touched_rows(config, sequences.catalog.num_items, compiled)
    average = {"use_ema": True, "ema_momentum": config.train.average_momentum} if config.train.average_momentum else {}
    parent = parent_of(config)
    old = parent.load_model() if parent else None
    with _scope(strategy):
        model = build_model(config, sequences.catalog.num_items, _activity_bounds(sequences, config, old))
        adam = FusedAdam(rate, touched, **average) if compiled == "chains" else DenseAdam(rate, **average)
        model.compile(optimizer=adam, jit_compile=compiled == "on")
        model.optimizer.build(model.trainable_variables)
    if parent and old:
        take_over(model, old, parent.catalog(), sequences, neighbors=config.train.new_items == "neighbors")
    elif _starts_by_kmeans(config):
        _start_centers(model, sequences, config)
    if model.transition_memory is not None:
        model.transition_memory.remember(*likeliest_successors(in_memory(sequences, _MEMORY), WIDTH, STEPS, DECAY))
    _choose_kernels(model, config, strategy)
    return model


def _activity_bounds(sequences: AnySequences, config: Config, old: ELCRec | None) -> Sequence[int]:
    """Those of the activity features; a warm start keeps the old ones, which its weights were learned for."""
    if old is not None and old.encoder.activity_bounds is not None:
        return old.encoder.activity_bounds
    lengths, users = sequences.training_lengths
    return quartile_bounds(np.minimum(lengths - 1, config.model.max_length), users)  # of the items that the model sees


def _xla(config: Config, shared: object) -> str:
    """What XLA compiles, where a strategy, or anything else that is true, shares a step between devices."""
    if shared and config.train.xla in ("auto", "on"):
        return "chains"  # a compiled step may not read the variables of another device
    if config.train.xla != "auto":
        return config.train.xla
    # On CPU, XLA's matrix products are slower than TensorFlow's: it compiles only what stands between them.
    return "on" if keras.backend.backend() == "jax" or has_gpu() else "chains"


def _updates_touched_rows(config: Config, num_items: int, compiled: str) -> bool:
    chosen = config.train.item_updates
    if chosen == "touched" and keras.backend.backend() != "tensorflow":
        raise UserError(
            "--item-updates touched needs Keras's TensorFlow backend: elsewhere gradients have all rows; leave out --item-updates"
        )
    if chosen == "touched" and compiled != "chains":
        raise UserError(f"--item-updates touched needs --xla chains: here XLA compiles {compiled}, and a step has one shape for all rows")
    if chosen == "touched" and config.loss.next_item == "softmax":
        raise UserError(
            "--item-updates touched needs --next-item sampled_softmax or bce: the full softmax touches all rows in every step; choose one "
            "of them, or leave out --item-updates"
        )
    worth_it = config.loss.next_item != "softmax" and num_items > _MANY_ITEMS and not has_gpu()
    return chosen == "touched" or (chosen == "auto" and worth_it and compiled == "chains")


def _choose_kernels(model: ELCRec, config: Config, strategy: _Strategy) -> None:
    compiled = _xla(config, strategy)
    dtype = config.train.products
    if dtype == "auto":
        dtype = "bfloat16" if has_gpu() or (compiled != "on" and cpu_multiplies_bfloat16()) else "float32"
    model.kernels = Kernels(dtype, compiled=compiled == "chains")


def _starts_by_kmeans(config: Config) -> bool:
    """Whether k-means places the centres before the first epoch: a warm start takes its run's over, em places them in every epoch."""
    return config.model.centers_start == "kmeans" and config.model.intent_clustering == "learned" and config.train.warm_start is None


def _start_centers(model: ELCRec, sequences: AnySequences, config: Config) -> None:
    """k-means on the untrained encoder's pooled states (as the official code starts)."""
    _, history = histories(sequences, "training", config.model.max_length, most=_CLUSTERED_USERS, seed=config.train.seed)
    pooled = output_model(model, "pooled").predict(history, batch_size=256, verbose=0)["pooled"]
    model.cluster_centers.assign_centers(kmeans(pooled, config.model.centers, config.train.seed)[0])


def _cluster_count(sequences: AnySequences, config: Config) -> ClusterCount:
    most = max(_COUNTED_USERS, _COUNTED_USERS_A_CENTER * config.model.most_clusters)
    _, history = histories(sequences, "training", config.model.max_length, most=most, seed=config.train.seed)
    return ClusterCount(history)


def _intent_em(sequences: AnySequences, config: Config) -> IntentEM:
    _, history = histories(sequences, "training", config.model.max_length)
    return IntentEM(history, config.train.seed)


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


@functools.cache  # a second one would number its exchanges from the start again, and TensorFlow take them for those of the first
def _strategy(devices: tuple[str, ...]) -> _Strategy:
    """MirroredStrategy where there are several devices, else nothing."""
    return tf.distribute.MirroredStrategy(list(devices)) if len(devices) > 1 else None


def _scope(strategy: _Strategy) -> Any:
    return strategy.scope() if strategy else contextlib.nullcontext()
