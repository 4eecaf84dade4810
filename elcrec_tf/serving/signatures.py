"""The signatures of an exported model: raw item ids in, raw item ids out."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from elcrec_tf.data.catalog import Catalog
from elcrec_tf.data.history import prepare_history
from elcrec_tf.losses import ASSIGNMENT_SHARPNESS
from elcrec_tf.model import ELCRec
from elcrec_tf.padding import PADDING
from elcrec_tf.retrieval import best_items, tensorflow_recommenders
from elcrec_tf.vectors import unit

NO_INTENT = -1
"""Intent of a history without a known item."""

TOP_INTENTS = 10
"""Most intents that the signature `intents` answers."""


def _ids(name: str) -> tf.TensorSpec:
    return tf.TensorSpec([None, None], tf.string, name=name)


_HISTORY = _ids("history")


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
    """A trained ELCRec with its catalogue, as functions from raw ids to raw ids.

    Every input has a batch dimension, so that a server can batch all of them. A `history` is string `[batch, n]`, oldest first; `""` is
    padding and may stand anywhere, and ids that are not in the catalogue are dropped as if they were padding. All go `prepare` ->
    `score` -> `best_items`, so they agree with each other. Every answer has `fallback`, bool `[batch]`: True where nothing that was
    asked about is known, and popularity (an item's events in the training part) answers.

    Args:
        model: the trained model. Later changes of its item table do not reach the module's scores: item keys are computed here, once.
        catalog: its items; the counts are the popularity that answers histories without a known item.
        top_k: items an answer, at least 1; all items where the catalogue has fewer.

    Raises:
        ValueError: for a catalogue that does not fit the model or that holds the empty id, and for `top_k` below 1.
        UserError: where tensorflow-recommenders, which finds similar items, cannot be used.
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
        self.num_clusters = model.cluster_centers.num_clusters
        # As an attribute the Keras model would travel along with all its functions, a training step compiled with XLA among them, and
        # TF Serving refuses XLA. Functions are not tracked, so the variables are, by themselves.
        self._latest = model.latest
        self._queries = model.item_embedding.queries
        self._centers = model.cluster_centers.take
        self._memory = model.transition_memory and model.transition_memory.call
        keys = tf.cast(model.item_embedding.keys(), tf.float32)
        similar = _similarity_index(unit(keys[1:]), min(self.top_k + 1, catalog.num_items))
        self._similar = similar.call
        memory = model.transition_memory.weights if model.transition_memory else []
        weights = (*model.encoder.weights, *model.cluster_centers.weights, *memory)
        self._variables = [*(weight.value for weight in weights), *similar.variables]
        self._keys = tf.Variable(keys, trainable=False, name="item_keys")
        self._ids = tf.constant(np.concatenate([[""], catalog.ids]).astype(object), tf.string)
        self._popularity = tf.constant(np.concatenate([[0], catalog.counts]), tf.float32)
        index = tf.lookup.KeyValueTensorInitializer(self._ids[1:], tf.range(1, catalog.num_items + 1))
        self._index = tf.lookup.StaticHashTable(index, default_value=PADDING, name="item_index")

    def signatures(self) -> dict[str, Any]:
        """The concrete functions by signature name."""
        names = (
            "recommend",
            "recommend_with_history",
            "recommend_k",
            "score_candidates",
            "encode",
            "intents",
            "similar_items",
            "intent_items",
        )
        functions = {name: getattr(self, name).get_concrete_function() for name in names}
        functions["score"] = functions.pop("score_candidates")
        return {"serving_default": functions["recommend"], **functions}

    @tf.function(input_signature=[_HISTORY], autograph=False)
    def recommend(self, history: tf.Tensor) -> dict[str, tf.Tensor]:
        """The best items that a history does not have yet.

        Returns:
            `item_ids` string and `scores` float32 `[batch, top_k]`, best first, `""` and -inf where nothing is left to recommend;
            `intent` int32 `[batch]`, `NO_INTENT` under the fallback; `fallback`.
        """
        prepared = self.prepare(history)
        return self._recommend(prepared, prepared.items)

    @tf.function(input_signature=[_HISTORY], autograph=False)
    def recommend_with_history(self, history: tf.Tensor) -> dict[str, tf.Tensor]:
        """As `recommend`, with items of the history among the recommendations."""
        prepared = self.prepare(history)
        return self._recommend(prepared, prepared.items[:, :0])

    @tf.function(
        input_signature=[_HISTORY, tf.TensorSpec([None], tf.int32, name="k"), _ids("exclude"), _ids("allow")],
        autograph=False,
    )
    def recommend_k(self, history: tf.Tensor, k: tf.Tensor, exclude: tf.Tensor, allow: tf.Tensor) -> dict[str, tf.Tensor]:
        """As `recommend`, with the number of items and the candidates chosen by row.

        Args:
            history: see the class.
            k: int32 `[batch]`, items wanted: the cells behind them are `""` and -inf. At most `top_k` are answered.
            exclude: string `[batch, m]`, items that may not appear, beside those of the history.
            allow: string `[batch, l]`, the only items that may appear. A row without an id (all `""`) allows every item; one whose ids
                are all unknown allows none.
        """
        prepared = self.prepare(history)
        excluded = tf.concat([prepared.items, self._index.lookup(exclude)], axis=1)
        scores, intent = self.score(prepared)
        scores = tf.where(self._allowed(allow), scores, -np.inf)
        best, index = best_items(scores, excluded, self.top_k)
        wanted = tf.range(self.top_k)[None, :] < k[:, None]
        return {**self._answer(tf.where(wanted, best, -np.inf), index), "intent": intent, "fallback": prepared.fallback}

    @tf.function(input_signature=[_HISTORY, _ids("candidates")], autograph=False)
    def score_candidates(self, history: tf.Tensor, candidates: tf.Tensor) -> dict[str, tf.Tensor]:
        """The signature `score`: scores of given items, for a ranking stage.

        Args:
            history: see the class.
            candidates: string `[batch, c]`; items of the history may be among them.

        Returns:
            `scores` float32 `[batch, c]`, -inf for unknown ids and padding; `fallback`.
        """
        prepared = self.prepare(history)
        items = self._index.lookup(candidates)
        keys = tf.gather(self._keys, items)
        scores = tf.linalg.matvec(keys, self._query(prepared))
        if self._memory:
            scores += tf.gather(self._memory(prepared.history), items, batch_dims=1)
        scores = tf.where(prepared.fallback[:, None], tf.gather(self._popularity, items), scores)
        return {"scores": tf.where(items == PADDING, -np.inf, scores), "fallback": prepared.fallback}

    @tf.function(input_signature=[_HISTORY], autograph=False)
    def encode(self, history: tf.Tensor) -> dict[str, tf.Tensor]:
        """The user's embedding: its dot product with an item's key is the item's score, less what a transition memory adds.

        Returns:
            `embedding` float32 `[batch, size]`, zeros under the fallback; `fallback`.
        """
        prepared = self.prepare(history)
        embedding = tf.where(prepared.fallback[:, None], 0.0, self._query(prepared))
        return {"embedding": embedding, "fallback": prepared.fallback}

    @tf.function(input_signature=[_HISTORY], autograph=False)
    def intents(self, history: tf.Tensor) -> dict[str, tf.Tensor]:
        """The likeliest intents of a history: ELCM's soft assignment to the centres.

        Returns:
            `intents` int32 and `probabilities` float32 `[batch, m]`, likeliest first, m = `TOP_INTENTS` or all; `NO_INTENT` and 0 under
            the fallback; `fallback`.
        """
        prepared = self.prepare(history)
        cosines = tf.cast(self._latest(prepared.history)["intents"], tf.float32)
        probabilities = tf.nn.softmax(ASSIGNMENT_SHARPNESS * cosines, axis=-1)
        best, index = tf.math.top_k(probabilities, min(TOP_INTENTS, self.num_clusters))
        fallback = prepared.fallback[:, None]
        return {
            "intents": tf.where(fallback, NO_INTENT, index),
            "probabilities": tf.where(fallback, 0.0, best),
            "fallback": prepared.fallback,
        }

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="item")], autograph=False)
    def similar_items(self, item: tf.Tensor) -> dict[str, tf.Tensor]:
        """The items whose embeddings have the largest cosine with an item's, without itself.

        Args:
            item: string `[batch]`.

        Returns:
            `item_ids` string and `scores` float32 `[batch, top_k]`; `fallback`, True for an unknown item.
        """
        items = self._index.lookup(item)
        cosine, index = self._similar(unit(tf.gather(self._keys, items)))
        own = index == items[:, None]
        best, place = tf.math.top_k(tf.where(own, -np.inf, cosine), self.top_k)
        index = tf.gather(index, place, batch_dims=1)
        return self._or_popular(best, index, items == PADDING)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, name="intent")], autograph=False)
    def intent_items(self, intent: tf.Tensor) -> dict[str, tf.Tensor]:
        """The items most typical of an intent: those that a user exactly at its centre would be recommended.

        Args:
            intent: int32 `[batch]`, 0 to k - 1.

        Returns:
            `item_ids` string and `scores` float32 `[batch, top_k]`; `fallback`, True for an intent that there is not.
        """
        unknown = (intent < 0) | (intent >= self.num_clusters)
        queries = tf.cast(self._queries(self._centers(tf.where(unknown, 0, intent))), tf.float32)
        scores = tf.matmul(queries, self._keys, transpose_b=True)
        best, index = best_items(scores, tf.zeros_like(intent)[:, None], self.top_k)
        return self._or_popular(best, index, unknown)

    def prepare(self, history: tf.Tensor) -> Prepared:
        """Raw histories, string `[batch, n]`, as the model takes them."""
        items = self._index.lookup(history)
        # The model reads its last column, so there has to be one, also where n is 0.
        padded = tf.pad(items, [[0, 0], [1, 0]], constant_values=PADDING)
        # Servers pad to a few widths: the encoder sees no more than the longest history.
        known = tf.math.count_nonzero(items, axis=1, dtype=tf.int32)
        longest = tf.clip_by_value(tf.reduce_max(tf.concat([known, [1]], axis=0)), 1, self.max_length)
        return Prepared(items, prepare_history(padded, self.max_length)[:, -longest:], known == 0)

    def score(self, prepared: Prepared) -> tuple[tf.Tensor, tf.Tensor]:
        """Score of every item, float32 `[batch, num_items + 1]` (column 0 means nothing), and the intent, int32 `[batch]`.

        Under the fallback an item's score is its number of events in the training part.
        """
        outputs = self._latest(prepared.history)
        queries = tf.cast(self._queries(outputs["user"]), tf.float32)
        scores = tf.matmul(queries, self._keys, transpose_b=True)
        if self._memory:
            scores += self._memory(prepared.history)
        intent = tf.argmax(outputs["intents"], axis=-1, output_type=tf.int32)
        scores = tf.where(prepared.fallback[:, None], self._popularity, scores)
        return scores, tf.where(prepared.fallback, NO_INTENT, intent)

    def _query(self, prepared: Prepared) -> tf.Tensor:
        return tf.cast(self._queries(self._latest(prepared.history)["user"]), tf.float32)

    def _recommend(self, prepared: Prepared, excluded: tf.Tensor) -> dict[str, tf.Tensor]:
        scores, intent = self.score(prepared)
        return {**self._answer(*best_items(scores, excluded, self.top_k)), "intent": intent, "fallback": prepared.fallback}

    def _allowed(self, allow: tf.Tensor) -> tf.Tensor:
        """Which items each row allows, bool `[batch, num_items + 1]`."""
        items = self._index.lookup(allow)
        rows = tf.broadcast_to(tf.range(tf.shape(items)[0])[:, None], tf.shape(items))
        index = tf.reshape(tf.stack([rows, items], axis=-1), [-1, 2])
        shape = [tf.shape(items)[0], tf.shape(self._keys)[0]]
        listed = tf.scatter_nd(index, tf.ones(tf.shape(index)[:1], tf.int32), shape) > 0
        return listed | tf.reduce_all(allow == "", axis=1)[:, None]

    def _or_popular(self, best: tf.Tensor, index: tf.Tensor, fallback: tf.Tensor) -> dict[str, tf.Tensor]:
        """An answer, replaced by the most popular items where `fallback` `[batch]`."""
        popular, popular_index = best_items(self._popularity[None, :], tf.zeros([1, 1], tf.int32), self.top_k)
        best = tf.where(fallback[:, None], popular, best)
        index = tf.where(fallback[:, None], popular_index, index)
        return {**self._answer(best, index), "fallback": fallback}

    def _answer(self, best: tf.Tensor, index: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"item_ids": tf.where(best > -np.inf, tf.gather(self._ids, index), ""), "scores": best}


def _similarity_index(embeddings: tf.Tensor, k: int) -> Any:
    """tensorflow-recommenders' exact index over unit vectors of items 1, 2, ...; it answers item indices."""
    index = tensorflow_recommenders().layers.factorized_top_k.BruteForce(k=k)
    return index.index(embeddings, tf.range(1, len(embeddings) + 1))
