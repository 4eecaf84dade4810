"""Indexes of tensorflow-recommenders over any item embeddings."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from elcrec_tf.errors import UserError

INDEXES = ("brute_force", "streaming")
_BLOCK = 4096  # embeddings that a streaming index scores at a time


def tensorflow_recommenders() -> Any:
    """The package tensorflow-recommenders, imported.

    It is written for Keras 2 and asks `tf.keras` for it, which is Keras 3 unless `TF_USE_LEGACY_KERAS` is set before `tf.keras` is used
    for the first time in a process. `import keras` stays Keras 3 either way.

    Raises:
        UserError: when it is not installed, cannot be loaded, or when `tf.keras` is Keras 3 already.
    """
    if "tensorflow_recommenders" not in sys.modules:
        os.environ["TF_USE_LEGACY_KERAS"] = "1"
        if not tf.keras.layers.Layer.__module__.startswith("tf_keras"):
            raise UserError(
                "tensorflow-recommenders needs tf.keras to be Keras 2, but this process has used tf.keras as Keras 3 already; "
                "set TF_USE_LEGACY_KERAS=1 before Python starts, or use keras instead of tf.keras"
            )
    try:
        import tensorflow_recommenders as tfrs
    except ImportError as error:
        raise UserError(
            f"tensorflow-recommenders cannot be imported ({error}); pip install tensorflow-recommenders, and uninstall scann if it is there"
        ) from None
    return tfrs


class ItemIndex(tf.Module):
    """Unfiltered retrieval over item embeddings, by tensorflow-recommenders.

    It can be rebuilt as often as the embeddings change, without training anything: what the signature `encode` of an exported model
    gives are queries for it. Save it as any module:
    `tf.saved_model.save(index, folder, signatures={"serving_default": index.query.get_concrete_function()})`.

    Args:
        item_ids: `n` raw ids, as strings or bytes.
        embeddings: float32 `[n, size]`; an item's score is its dot product with the query.
        k: items an answer, at most `n`.
        kind: `"brute_force"` scores all items at once; `"streaming"` goes through blocks of them, in less memory.

    Raises:
        ValueError: for another kind, or sizes that do not fit.
    """

    def __init__(self, item_ids: Sequence[str | bytes], embeddings: np.ndarray, k: int = 100, kind: str = "brute_force") -> None:
        super().__init__(name="item_index")
        if kind not in INDEXES:
            raise ValueError(f"`kind` should be one of {INDEXES}. Received: kind={kind!r}")
        if embeddings.ndim != 2 or len(embeddings) != len(item_ids) or not 1 <= k <= len(item_ids):
            raise ValueError(f"`embeddings` and `k` should fit {len(item_ids)} ids. Received: shape {embeddings.shape}, k={k}")
        ids = tf.constant(np.array(item_ids, object), tf.string)
        vectors = tf.constant(embeddings, tf.float32)
        layers = tensorflow_recommenders().layers.factorized_top_k
        if kind == "brute_force":
            index = layers.BruteForce(k=k).index(vectors, ids)
        else:
            self._blocks = tf.data.Dataset.from_tensor_slices((ids, vectors)).batch(_BLOCK)
            index = layers.Streaming(k=k).index_from_dataset(self._blocks)
        # Its variables alone: as a Keras layer the index would bring Keras along.
        self._variables = index.variables
        spec = tf.TensorSpec([None, embeddings.shape[1]], tf.float32, name="embedding")
        self.query = tf.function(lambda embedding: self._answer(index(embedding)), input_signature=[spec], autograph=False)

    @staticmethod
    def _answer(found: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        scores, item_ids = found
        return {"item_ids": item_ids, "scores": scores}
