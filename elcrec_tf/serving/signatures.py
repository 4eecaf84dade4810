"""The signatures of an exported model: raw item ids in, raw item ids out."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from elcrec_tf.data.catalog import Catalog
from elcrec_tf.data.history import prepare_history
from elcrec_tf.model import ELCRec
from elcrec_tf.padding import PADDING
from elcrec_tf.ranking import exclude_items

NO_INTENT = -1
"""Intent of a history without a known item."""

_HISTORY = tf.TensorSpec([None, None], tf.string, name="history")


class Prepared(NamedTuple):
    """A batch of raw histories as the model takes it.

    Attributes:
        items: int32 `[batch, n]` indices of everything in the histories; 0 where there is no item of the catalogue.
        history: int32 `[batch, length]` the latest items, left-padded; `length` is at least 1.
        fallback: bool `[batch]`, True where a history has no known item: popularity answers there.
    """

    items: tf.Tensor
    history: tf.Tensor
    fallback: tf.Tensor


class ServingModule(tf.Module):
    """A trained ELCRec with its catalogue, as functions from raw histories to raw recommendations.

    Every signature takes `history`, string `[batch, n]`, oldest first. `""` is padding and may stand anywhere; ids that are not in the
    catalogue are dropped as if they were padding. All go `prepare` -> `score` -> `top_items`, so they agree with each other.

    Args:
        model: the trained model. Later changes of its item table do not reach the module's scores: item keys are computed here, once.
        catalog: its items; the counts are the popularity that answers histories without a known item.
        top_k: recommendations a history, at least 1; all items where the catalogue has fewer.

    Raises:
        ValueError: for a catalogue that does not fit the model or that holds the empty id, and for `top_k` below 1.
    """

    def __init__(self, model: ELCRec, catalog: Catalog, top_k: int = 100) -> None:
        super().__init__(name="elcrec_serving")
        if catalog.num_items != model.item_embedding.num_items:
            raise ValueError(f"The catalogue has {catalog.num_items} items, the model {model.item_embedding.num_items}")
        if "" in catalog.ids:
            raise ValueError('`catalog` should not hold the id "": it means padding')
        if top_k < 1:
            raise ValueError(f"`top_k` should be at least 1. Received: top_k={top_k}")
        self.top_k = min(top_k, catalog.num_items)
        self.max_length = model.encoder.max_length
        # The official code's pooled states include padding: its intents mean something at one width only.
        self._fixed_width = bool(model.get_config()["official_padding"])
        # As an attribute the Keras model would travel along with all its functions, a training step compiled with XLA among them, and
        # TF Serving refuses XLA. Functions are not tracked, so the variables are, by themselves.
        call: Any = model
        self._encode = partial(call, training=False)
        self._queries = model.item_embedding.queries
        self._variables = [weight.value for weight in (*model.encoder.weights, *model.cluster_centers.weights)]
        self._keys = tf.Variable(tf.cast(model.item_embedding.keys(), tf.float32), trainable=False, name="item_keys")
        self._ids = tf.constant(np.concatenate([[""], catalog.ids]).astype(object), tf.string)
        self._popularity = tf.constant(np.concatenate([[0], catalog.counts]), tf.float32)
        index = tf.lookup.KeyValueTensorInitializer(self._ids[1:], tf.range(1, catalog.num_items + 1))
        self._index = tf.lookup.StaticHashTable(index, default_value=PADDING, name="item_index")

    def signatures(self) -> dict[str, Any]:
        """The concrete functions by signature name."""
        recommend = self.recommend.get_concrete_function()
        return {
            "serving_default": recommend,
            "recommend": recommend,
            "recommend_with_history": self.recommend_with_history.get_concrete_function(),
        }

    @tf.function(input_signature=[_HISTORY], autograph=False)
    def recommend(self, history: tf.Tensor) -> dict[str, tf.Tensor]:
        """The best items that a history does not have yet.

        Returns:
            `item_ids` string and `scores` float32 `[batch, top_k]`, best first, `""` and -inf where nothing is left to recommend;
            `intent` int32 `[batch]`, `NO_INTENT` under the fallback; `fallback` bool `[batch]`.
        """
        prepared = self.prepare(history)
        scores, intent = self.score(prepared)
        return {**self.top_items(scores, prepared.items, self.top_k), "intent": intent, "fallback": prepared.fallback}

    @tf.function(input_signature=[_HISTORY], autograph=False)
    def recommend_with_history(self, history: tf.Tensor) -> dict[str, tf.Tensor]:
        """As `recommend`, with items of the history among the recommendations."""
        prepared = self.prepare(history)
        scores, intent = self.score(prepared)
        nothing = prepared.items[:, :0]
        return {**self.top_items(scores, nothing, self.top_k), "intent": intent, "fallback": prepared.fallback}

    def prepare(self, history: tf.Tensor) -> Prepared:
        """Raw histories, string `[batch, n]`, as the model takes them."""
        items = self._index.lookup(history)
        # The model reads its last column, so there has to be one, also where n is 0.
        room = self.max_length if self._fixed_width else 1
        padded = tf.pad(items, [[0, 0], [room, 0]], constant_values=PADDING)
        fallback = tf.reduce_all(items == PADDING, axis=1)
        return Prepared(items, prepare_history(padded, self.max_length), fallback)

    def score(self, prepared: Prepared) -> tuple[tf.Tensor, tf.Tensor]:
        """Score of every item, float32 `[batch, num_items + 1]` (column 0 means nothing), and the intent, int32 `[batch]`.

        Under the fallback an item's score is its number of events in the training part.
        """
        outputs = self._encode(prepared.history)
        queries = tf.cast(self._queries(outputs["user"]), tf.float32)
        scores = tf.matmul(queries, self._keys, transpose_b=True)
        intent = tf.argmax(outputs["intents"], axis=-1, output_type=tf.int32)
        scores = tf.where(prepared.fallback[:, None], self._popularity, scores)
        return scores, tf.where(prepared.fallback, NO_INTENT, intent)

    def top_items(self, scores: tf.Tensor, excluded: tf.Tensor, k: int | tf.Tensor) -> dict[str, tf.Tensor]:
        """The `k` best items, `item_ids` and `scores` `[batch, k]`; of equal scores the smaller index comes first.

        Args:
            scores: `[batch, num_items + 1]`.
            excluded: int32 `[batch, n]` indices of items that may not appear; 0 = none.
            k: at most the number of items.
        """
        best, index = tf.math.top_k(exclude_items(scores, excluded), k)
        ids = tf.gather(self._ids, index)
        return {"item_ids": tf.where(best > -np.inf, ids, ""), "scores": best}
