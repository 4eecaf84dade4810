"""Keras callbacks of a training run: schedule and health of the intents, validation, what a run records, NaN, determinism.

`fit` gets them in the order of `training.fit_model`: what one adds to an epoch's logs, the later ones see.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from elcrec_tf.data.pipeline import RankingData
from elcrec_tf.errors import UserError
from elcrec_tf.evaluation import Ranker, output_model
from elcrec_tf.files import atomic_path
from elcrec_tf.intents import assignment_health, center_health, separation, view_health
from elcrec_tf.ranking import ranking_metrics
from elcrec_tf.run_folder import RunFolder


def check_states(states: np.ndarray, epoch: int) -> None:
    """Raise `UserError` where states after `epoch` epochs are no finite numbers: the last step may have done it, and no loss was computed
    since."""
    if not np.isfinite(states).all():
        raise UserError(f"training diverged: the states are no finite numbers after epoch {epoch}; try a lower --learning-rate")


class ContrastiveLossCallback(keras.callbacks.Callback):
    """Schedules the contrastive weights and the temperature, and watches what the intents do.

    At the beginning of an epoch it sets the model's weights of the sequence and intent contrastive losses to their configured
    values times `factor(epoch)`, and the temperature. At its end it adds to the logs: `intents_used`, `intent_perplexity`,
    `largest_intent`, `smallest_intent`, `intent_separation`, `center_cosine_mean`, `center_cosine_max`, `view_alignment`,
    `view_uniformity` (see `elcrec_tf.intents`) of the intents in use, the scheduled values, and `revived` when dead centres may be.
    States that are no finite numbers are a `UserError` instead, so it belongs in front of whatever records an epoch.

    Args:
        epochs: length of the schedule.
        probe: `history`, `view_a`, `view_b`, int32 `[users, length]`, of a fixed sample of users.
        warmup: epochs over which the weights rise linearly from 0: epoch e (from 0) has `(e + 1) / (warmup + 1)`.
        schedule: course after the warm-up: `"constant"`, or `"linear"` or `"cosine"` down (or up) to `final`.
        final: factor of the last epoch.
        final_temperature: temperature of the last epoch, reached geometrically; None keeps it.
        revive_below: a centre with less than this fraction of an equal share of the users is moved onto the probe user that is
            farthest from its own centre. 0 never does.
        assignments: gives the intent of every user as of now; the probe's users if None.
    """

    def __init__(
        self,
        epochs: int,
        probe: dict[str, np.ndarray],
        warmup: int = 0,
        schedule: str = "constant",
        final: float = 1.0,
        final_temperature: float | None = None,
        revive_below: float = 0.0,
        assignments: Callable[[], np.ndarray] | None = None,
    ) -> None:
        super().__init__()
        if schedule not in ("constant", "linear", "cosine"):
            raise ValueError(f'`schedule` should be "constant", "linear" or "cosine". Received: schedule={schedule!r}')
        self.epochs = epochs
        self.probe = probe
        self.warmup = warmup
        self.schedule = schedule
        self.final = final
        self.final_temperature = final_temperature
        self.revive_below = revive_below
        self.assignments = assignments

    def factor(self, epoch: int) -> float:
        """Share of the configured contrastive weights in an epoch, counted from 0."""
        if epoch < self.warmup:
            return (epoch + 1) / (self.warmup + 1)
        progress = self._progress(epoch, self.warmup)
        if self.schedule == "linear":
            return 1 + (self.final - 1) * progress
        if self.schedule == "cosine":
            return self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2
        return 1.0

    def _progress(self, epoch: int, first: int) -> float:
        """How much of the way from epoch `first` to the last one is done; the last epoch is the end also where it is the first."""
        last = self.epochs - 1
        return 1.0 if epoch >= last else max((epoch - first) / max(last - first, 1), 0.0)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        config = self.model.get_config()
        self._start = {name: config[f"{name}_weight"] for name in ("sequence", "intent")}
        self._start_temperature = config["temperature"]
        self._probe_model = output_model(self.model, "pooled", "intents")

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        for name, weight in self._start.items():
            self.model.weights_of_terms[name].assign(weight * self.factor(epoch))
        if self.final_temperature is not None:
            ratio = self.final_temperature / self._start_temperature
            self.model.temperature.assign(self._start_temperature * ratio ** self._progress(epoch, 0))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = {} if logs is None else logs
        outputs = {name: self._predict(history) for name, history in self.probe.items()}
        for output in outputs.values():
            check_states(output["pooled"], epoch + 1)
        intents = outputs["history"]["intents"]
        assigned = self.assignments() if self.assignments else intents.argmax(-1)
        layer = self.model.cluster_centers
        in_use = layer.in_use()
        logs |= assignment_health(np.searchsorted(in_use, assigned), len(in_use))
        logs["intent_separation"] = separation(intents[:, in_use])
        logs |= center_health(keras.ops.convert_to_numpy(layer.centers)[in_use])
        logs |= view_health(outputs["view_a"]["pooled"], outputs["view_b"]["pooled"])
        logs |= {f"{name}_weight": self._start[name] * self.factor(epoch) for name in self._start}
        logs["temperature"] = float(keras.ops.convert_to_numpy(self.model.temperature))
        if self.revive_below:
            logs["revived"] = self._revive(assigned, intents)

    def _predict(self, history: np.ndarray) -> dict[str, np.ndarray]:
        return self._probe_model.predict(history, batch_size=256, verbose=0)

    def _revive(self, assigned: np.ndarray, intents: np.ndarray) -> int:
        """Move dead centres onto badly served users; how many were moved."""
        centers = self.model.cluster_centers
        share = np.bincount(assigned, minlength=centers.num_clusters) / max(len(assigned), 1)
        dead = np.flatnonzero(share < self.revive_below / centers.num_clusters)
        lonely = np.argsort(intents.max(-1))[: len(dead)]
        dead = dead[: len(lonely)]
        if len(dead):
            moved = np.array(keras.ops.convert_to_numpy(centers.centers))
            moved[dead] = self._predict(self.probe["history"])["pooled"][lonely]
            centers.assign_centers(moved)
        return len(dead)


class Validation(keras.callbacks.Callback):
    """Ranks the validation items after each epoch: `val_<metric>` in the logs, and `seconds`, the epoch's training time before it.

    Attributes:
        intents: `[users]` intent of every user at the last validation.
    """

    def __init__(self, ranker: Ranker, data: RankingData) -> None:
        super().__init__()
        self.ranker = ranker
        self.data = data
        self.intents = np.zeros(0, np.int32)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._began = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = {} if logs is None else logs
        logs["seconds"] = time.perf_counter() - self._began
        result = self.ranker.rank(self.data)
        self.intents = result["intent"]
        logs |= {f"val_{name}": value for name, value in ranking_metrics(result["rank"]).items()}


class WeightAverage(keras.callbacks.Callback):
    """Puts the moving average of the weights, which the optimizer keeps (`use_ema`), into the model at the end of an epoch, so that the
    average is what is validated and saved, and the weights back before the next one.

    While the average is in the model, the weights are where the optimizer keeps the average: a checkpoint holds both.

    Args:
        averaged: whether the average is in the model at the start, as in a checkpoint of an epoch's end.
    """

    def __init__(self, averaged: bool) -> None:
        super().__init__()
        self.averaged = averaged

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self.averaged:
            self._swap()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._swap()

    def _swap(self) -> None:
        self.averaged = not self.averaged
        for weight, average in zip(self.model.trainable_variables, self.model.optimizer._model_variables_moving_average, strict=True):
            values = keras.ops.convert_to_numpy(weight).copy()
            # A mean of unit vectors is shorter: centres go back to the sphere.
            weight.assign(average if weight.constraint is None else weight.constraint(average))
            average.assign(values)


class RunRecorder(keras.callbacks.Callback):
    """Writes history.csv, the checkpoint and the best model after each epoch, and stops when the metric no longer improves.

    All that it knows comes from history.csv, so a resumed run goes on as if it had not stopped.

    Args:
        folder: the run folder; None writes nothing (where several train together, one records).
        monitor: name of the validation metric, higher is better.
        patience: epochs without a better metric before training stops.
    """

    def __init__(self, folder: RunFolder | None, monitor: str, patience: int) -> None:
        super().__init__()
        self.folder = folder
        self.monitor = f"val_{monitor}"
        self.patience = patience
        self.rows: list[dict[str, float]] = []

    @property
    def best_epoch(self) -> int:
        """The best epoch so far, counted from 1; 0 when there is none."""
        return best_epoch(self.rows, self.monitor)

    @property
    def exhausted(self) -> bool:
        """Whether `patience` epochs have passed without a better metric."""
        return len(self.rows) - self.best_epoch >= self.patience

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.rows.append({"epoch": epoch + 1, **{key: float(value) for key, value in (logs or {}).items()}})
        if self.folder:
            # The order matters for a kill in between: a row without its checkpoint is dropped at resume, and written again.
            self.folder.write_history(self.rows)
            self.folder.save_checkpoint(self.model, epoch + 1, best=self.best_epoch == epoch + 1)
        if self.exhausted:
            self.model.stop_training = True


def best_epoch(rows: list[dict[str, float]], monitor: str) -> int:
    """Epoch (from 1) with the highest `monitor`, the first of equals; 0 without rows."""
    return int(max(rows, key=lambda row: (row[monitor], -row["epoch"]))["epoch"]) if rows else 0


class NanGuard(keras.callbacks.Callback):
    """Stops a run whose loss is no longer a number. Raises `UserError`."""

    def __init__(self, every: int = 20) -> None:
        super().__init__()
        self.every = every

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        # The logged loss is the epoch's mean so far: once NaN, always NaN, so looking now and then is enough.
        if batch % self.every == 0:
            self._check(logs, f"step {batch + 1} of ")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._check(logs, "")

    def _check(self, logs: dict[str, Any] | None, step: str) -> None:
        broken = [name for name, value in (logs or {}).items() if not np.isfinite(value)]
        if broken:
            raise UserError(
                f"training diverged: {', '.join(broken)} is no finite number at {step}epoch {self._epoch + 1}; "
                "try a lower --learning-rate, a higher --temperature, or --products float32"
            )


class EpochSeeds(keras.callbacks.Callback):
    """Sets the state of every dropout to a function of (seed, epoch), so that a resumed run draws what an uninterrupted one draws."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        states = [variable for variable in self.model.variables if variable.path.endswith("seed_generator_state")]
        for index, state in enumerate(states):
            state.assign(np.random.default_rng([self.seed, epoch, index]).integers(0, 2**32, 2, np.uint32))


class Snapshots(keras.callbacks.Callback):
    """Writes sampled users' embeddings and intents after chosen epochs: `snapshots/epoch-00005.npz` with the arrays
    `user_ids`, `embeddings` (the state that predicts), `pooled` (the state whose intent is chosen) and `intents`.

    Args:
        folder: the run folder.
        epochs: epochs, counted from 1; 0 is the state before training.
        user_ids: `[users]`; history: int32 `[users, length]` prepared histories.
    """

    def __init__(self, folder: RunFolder, epochs: tuple[int, ...], user_ids: np.ndarray, history: np.ndarray) -> None:
        super().__init__()
        self.folder = folder
        self.epochs = epochs
        self.user_ids = user_ids
        self.history = history

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._outputs = output_model(self.model, "user", "pooled", "intents")
        if 0 in self.epochs and not self._file(0).exists():  # a resumed run starts with a trained model
            self._write(0)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if epoch + 1 in self.epochs:
            self._write(epoch + 1)

    def _file(self, epoch: int) -> Path:
        return self.folder.snapshots / f"epoch-{epoch:05d}.npz"

    def _write(self, epoch: int) -> None:
        outputs = self._outputs.predict(self.history, batch_size=256, verbose=0)
        with atomic_path(self._file(epoch)) as temporary:
            np.savez_compressed(
                temporary,
                user_ids=self.user_ids.astype(str),
                embeddings=outputs["user"],
                pooled=outputs["pooled"],
                intents=outputs["intents"].argmax(-1),
            )
