"""Intents by expectation maximisation: the alternating scheme of ICLRec (Chen et al., WWW 2022) that ELCRec replaces."""

from __future__ import annotations

import time
from typing import Any

import keras
import numpy as np

from elcrec_tf.callbacks import check_states
from elcrec_tf.evaluation import output_model
from elcrec_tf.intents import kmeans


class IntentEM(keras.callbacks.Callback):
    """At the start of every epoch encodes all users, clusters them with k-means, and makes the result the model's centres.

    In between the centres stay (a model with `intent_clustering="em"` does not train them). What k-means draws is a function of
    (seed, epoch), so a resumed run gets what an uninterrupted one gets. The seconds of this step are added to the epoch's logs as
    `clustering_seconds`.

    Args:
        history: int32 `[users, max_length]`, the users' left-padded training histories, each with an item.
        seed: seed of k-means.
    """

    def __init__(self, history: np.ndarray, seed: int) -> None:
        super().__init__()
        self.history = history
        self.seed = seed

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._encoder = output_model(self.model, "pooled")
        self._encoder.compile(jit_compile=False)  # as many shapes as widths

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        began = time.perf_counter()
        centers = self.model.cluster_centers
        seed = int(np.random.default_rng([self.seed, epoch]).integers(2**32))
        pooled = self._pooled()
        check_states(pooled, epoch)
        centers.assign_centers(kmeans(pooled, centers.num_clusters, seed)[0])
        self._seconds = time.perf_counter() - began

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = {} if logs is None else logs
        logs["clustering_seconds"] = self._seconds

    def _pooled(self) -> np.ndarray:
        """Pooled states of all users, `[users, size]`. Users of about the same length share batches, so little padding is encoded."""
        longest = self.history.shape[1]
        lengths = np.maximum(np.count_nonzero(self.history, axis=1), 2)  # Keras warns of attention over one position
        widths = np.minimum(2 ** np.ceil(np.log2(lengths)).astype(int), longest)
        if self.model.get_config()["official_padding"]:  # pooled states depend on the padding
            widths = np.full_like(widths, longest)
        pooled = np.zeros((len(self.history), self.model.get_config()["hidden_size"]), np.float32)
        for width in np.unique(widths):
            users = np.flatnonzero(widths == width)
            pooled[users] = self._encoder.predict(self.history[users, longest - width :], batch_size=256, verbose=0)["pooled"]
        return pooled
