"""A SavedModel in a TensorFlow session of its own, as TensorFlow Serving loads it.

The eager runtime keeps what the batching op makes of a function until the process ends: tens of megabytes for each version that was ever
loaded. A session takes nearly all of it along when it goes, and its queues and their threads with it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf


class LoadedModel:
    """A SavedModel that is ready to answer. Threads may share it; `close` it when the last call has ended.

    Args:
        folder: of the SavedModel.

    Attributes:
        signatures: its concrete functions by name. They are symbolic: `callable` makes them answer.

    Raises:
        Exception: whatever TensorFlow raises for a SavedModel that is broken.
    """

    def __init__(self, folder: Path) -> None:
        self._graph = tf.Graph()
        self._lock = threading.Lock()
        with self._graph.as_default():
            self._model = tf.saved_model.load(str(folder))  # holds the variables that the signatures read
            collections = (tf.compat.v1.GraphKeys.GLOBAL_VARIABLES, tf.compat.v1.GraphKeys.TABLE_INITIALIZERS)
            variables, tables = (tf.compat.v1.get_collection(name) for name in collections)
        self.signatures: dict[str, Any] = dict(self._model.signatures)
        config = tf.compat.v1.ConfigProto(allow_soft_placement=True)  # as the eager runtime does
        self._session = tf.compat.v1.Session(graph=self._graph, config=config)
        try:
            self._session.run([*(variable.initializer for variable in variables), *tables])
        except BaseException:
            self.close()
            raise

    def callable(self, function: Callable[..., Sequence[tf.Tensor]], inputs: Iterable[tf.TensorSpec]) -> Callable[..., list[np.ndarray]]:
        """A function of tensors as one of arrays, which blocks without Python's lock until it has the answer. Texts are `bytes` objects."""
        with self._lock, self._graph.as_default():
            places = [tf.compat.v1.placeholder(spec.dtype, spec.shape) for spec in inputs]
            return self._session.make_callable(list(function(*places)), feed_list=places)

    def close(self) -> None:
        """End the session. What it held is freed with this object."""
        self._session.close()
