"""Training by several workers: the part of a run that Keras' `fit` does elsewhere. Keras 3 has no MultiWorkerMirroredStrategy in `fit`."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from elcrec_tf.data.pipeline import RankingData
from elcrec_tf.errors import UserError
from elcrec_tf.evaluation import Ranker
from elcrec_tf.model import ELCRec
from elcrec_tf.workers import Worker

# The default, 10 seconds, gives up workers of a busy machine that only had no processor for a while.
_SILENT_MILLISECONDS = 60_000
_LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError)


class Team:
    """The workers that train together, seen from one of them. To be made before TensorFlow computes anything; waits for all.

    Every worker calls the same methods in the same order, within `together()`: each holds a copy of the model, and what one computes the
    others wait for.

    Args:
        worker: which of them this process is, by TF_CONFIG.

    Raises:
        UserError: when another worker is gone while this one waits for it.

    Attributes:
        strategy: `tf.distribute.MultiWorkerMirroredStrategy`, over all GPUs of each worker, or its CPU.
        replicas: devices of all workers together; shares: those of this worker, a range of them.
    """

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        with self.together():
            self.strategy = _strategy()
        self.replicas: int = self.strategy.num_replicas_in_sync
        own = self.replicas // worker.count
        self.shares = range(worker.index * own, (worker.index + 1) * own)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Around all that the workers do with each other. Raises `UserError` when another worker is gone."""
        try:
            yield
        except _LOST as error:
            reason = str(error.message).splitlines()[0].rpartition("}} ")[2]
            again = "start all of them again, with --resume where the run folder holds a run"
            raise UserError(f"another worker is gone ({reason}); {again}") from None

    def sum(self, values: np.ndarray) -> np.ndarray:
        """The sum of the workers' arrays of one shape."""
        # A replica brings its worker's values, or nothing: the first one of each worker speaks.
        first = self.shares.start

        def of_replica(context: Any) -> tf.Tensor:
            return tf.constant(values if context.replica_id_in_sync_group == first else np.zeros_like(values))

        return self.strategy.reduce("SUM", self.strategy.experimental_distribute_values_from_function(of_replica), axis=None).numpy()

    def from_chief(self, values: np.ndarray) -> np.ndarray:
        """The chief's array, on all workers."""
        return self.sum(values if self.worker.chief else np.zeros_like(values))

    def meet(self) -> None:
        """Wait until every worker is here."""
        self.sum(np.zeros(1, np.int32))

    def check_agreement(self, **facts: object) -> None:
        """Raise `UserError` on every worker, unless all have the same facts; it names the first that differs."""
        digests = [int.from_bytes(hashlib.sha256(repr(fact).encode()).digest()[:7], "big") for fact in facts.values()]
        table = np.zeros((self.worker.count, len(facts)), np.int64)
        table[self.worker.index] = digests
        table = self.sum(table)
        for name, column in zip(facts, table.T, strict=True):
            for index in np.flatnonzero(column != column[0]):
                raise UserError(
                    f"worker {index} has another {name} than worker 0; all need the same command, the same data, and a run folder "
                    "on storage that they share"
                )

    def fit(
        self,
        model: ELCRec,
        dataset: tf.data.Dataset,
        steps_per_epoch: int,
        epochs: int,
        initial_epoch: int,
        callbacks: Sequence[keras.callbacks.Callback],
    ) -> None:
        """What `model.fit` does with the same arguments. The logs of a step are this worker's own, those of an epoch everyone's.

        Args:
            model: made and compiled within `strategy.scope()`.
            dataset: batches without end: the shares of this worker's replicas, one below the other.
        """
        step = self._step(model, dataset)
        called = keras.callbacks.CallbackList(list(callbacks), model=model, epochs=epochs, steps=steps_per_epoch)
        model.stop_training = False
        called.on_train_begin()
        for epoch in range(initial_epoch, epochs):
            model.reset_metrics()
            called.on_epoch_begin(epoch)
            for batch in range(steps_per_epoch):
                called.on_train_batch_begin(batch)
                called.on_train_batch_end(batch, step())
            called.on_epoch_end(epoch, {name: float(value) for name, value in model.get_metrics_result().items()})
            if model.stop_training:
                break
        called.on_train_end()

    def _step(self, model: ELCRec, dataset: tf.data.Dataset) -> Callable[[], dict[str, Any]]:
        """A function that takes the next training step and gives its logs."""
        batches = iter(_by_replica(dataset, len(self.shares)))

        @tf.function(autograph=False)
        def train_step(batch: Any) -> Any:
            return self.strategy.run(model.train_step, args=(batch,))

        def step() -> dict[str, Any]:
            # Not a distributed data set: its batches would have no static shapes.
            logs = train_step(self.strategy.experimental_distribute_values_from_function(lambda _: next(batches)))
            return {name: self.strategy.experimental_local_results(value)[0] for name, value in logs.items()}

        return step


class SharedRanker(Ranker):
    """A `Ranker` that ranks its share of the users; all workers get everyone's ranks."""

    def __init__(self, model: ELCRec, team: Team) -> None:
        super().__init__(model)
        self.team = team

    def rank(self, data: RankingData) -> dict[str, np.ndarray]:
        worker = self.team.worker
        own = data.share(worker.index, worker.count)
        found = super().rank(own)
        if data.users is None or own.users is None:  # users in shards are numbered as the workers find them
            counts = np.zeros(worker.count, np.int64)
            counts[worker.index] = len(found["rank"])
            ends = np.cumsum(self.team.sum(counts))
            users, total = np.arange(ends[worker.index] - len(found["rank"]), ends[worker.index]), ends[-1]
        else:
            users, total = np.sort(own.users[own.users >= 0]), np.sum(data.users >= 0)
        results = {}
        for name, values in found.items():
            of_all = np.zeros(total, values.dtype)
            of_all[users] = values
            results[name] = self.team.sum(of_all)
        return results


class ChiefCenters(keras.callbacks.Callback):
    """Gives all workers the chief's centres before each epoch.

    What moves them outside a training step (k-means, the revival of dead ones, a decision on their number) each worker computes by
    itself, and on unlike processors may round otherwise.
    """

    def __init__(self, team: Team) -> None:
        super().__init__()
        self.team = team

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        layer = self.model.cluster_centers
        for weight in (layer.centers, layer.active) if layer.retirable else (layer.centers,):
            weight.assign(self.team.from_chief(keras.ops.convert_to_numpy(weight)))


def _strategy() -> tf.distribute.MultiWorkerMirroredStrategy:
    from tensorflow.python.eager import context  # there is no public way to say how long a worker may be silent

    configure = context.context().configure_coordination_service
    context.context().configure_coordination_service = functools.partial(configure, heartbeat_timeout_in_ms=_SILENT_MILLISECONDS)
    return tf.distribute.MultiWorkerMirroredStrategy()


def _by_replica(dataset: tf.data.Dataset, replicas: int) -> tf.data.Dataset:
    """A batch for each replica in turn, from batches for all of them."""

    def split(*batch: Any) -> Any:
        return tf.nest.map_structure(lambda rows: tf.reshape(rows, [replicas, rows.shape[0] // replicas, *rows.shape[1:]]), batch)

    return dataset.map(split).unbatch().prefetch(tf.data.AUTOTUNE)
