"""The signatures of an exported model: raw item ids in, raw item ids out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from elcrec_tf.data.catalog import Catalog
from elcrec_tf.data.history import prepare_history
from elcrec_tf.losses import ASSIGNMENT_SHARPNESS
from elcrec_tf.model import ELCRec
from elcrec_tf.padding import PADDING
from elcrec_tf.retrieval import tensorflow_recommenders
from elcrec_tf.serving.search import BLOCK, ExactSearch, Search, without
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
    the model -> one `Search`, so they agree with each other. Every answer has `fallback`, bool `[batch]`: True where nothing that was
    asked about is known, and popularity (an item's events in the training part) answers.

    Args:
        model: the trained model. Later changes of its item table do not reach the module's scores: item keys are computed here, once.
        catalog: its items; the counts are the popularity that answers histories without a known item.
        top_k: items an answer, at least 1; all items where the catalogue has fewer.
        search: finds items by their keys (`item_keys(model)`); exactly if None.

    Raises:
        ValueError: for a catalogue that does not fit the model or that holds the empty id, and for `top_k` below 1.
        UserError: where tensorflow-recommenders, which finds similar items, cannot be used.
    """

    def __init__(self, model: ELCRec, catalog: Catalog, top_k: int = 100, search: Search | None = None) -> None:
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
        memory = model.transition_memory
        self._added, self._remembered = (memory.call, memory.remembered) if memory else (None, None)
        keys = item_keys(model)
        self._search = ExactSearch(keys) if search is None else search
        few = min(self.top_k + 1, catalog.num_items)
        self._similar, similar_variables = self._similarity(keys, few, unit_keys=model.item_embedding.score == "cosine")
        weights = (*model.encoder.weights, *model.cluster_centers.weights, *(memory.weights if memory else ()))
        self._variables = [*(weight.value for weight in weights), *self._search.variables, *similar_variables]
        self._ids = tf.constant(np.concatenate([[""], catalog.ids]).astype(object), tf.string)
        self._popularity = tf.constant(np.concatenate([[0], catalog.counts]), tf.float32)
        self._popular_items = tf.constant(np.argsort(-catalog.counts, kind="stable") + 1, tf.int32)
        index = tf.lookup.KeyValueTensorInitializer(self._ids[1:], tf.range(1, catalog.num_items + 1))
        self._index = tf.lookup.StaticHashTable(index, default_value=PADDING, name="item_index")

    def _similarity(self, keys: tf.Tensor, k: int, unit_keys: bool) -> tuple[Callable[[tf.Tensor], Any], list[tf.Variable]]:
        """(a function from unit vectors to the `k` items of the largest cosine, its variables)."""
        if len(keys) <= BLOCK:
            index = _similarity_index(unit(keys[1:]), k)
            return index.call, index.variables
        # A large catalogue is searched in blocks, and held once where its keys are unit vectors.
        search = self._search if unit_keys else ExactSearch(unit(keys))
        return lambda vectors: search.best(vectors, k), [] if unit_keys else search.variables

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
        query, intent = self._asked(prepared)
        best, items = self._best(query, prepared, excluded)
        allowed = _each_once(self._index.lookup(allow))
        scores = self._candidate_scores(query, prepared, allowed)
        listed = tf.reduce_any(allow != "", axis=1)[:, None]
        of_list = without(scores, allowed, excluded, self.top_k)
        best, items = tf.where(listed, of_list[0], best), tf.where(listed, of_list[1], items)
        wanted = tf.range(self.top_k)[None, :] < k[:, None]
        return {**self._answer(tf.where(wanted, best, -np.inf), items), "intent": intent, "fallback": prepared.fallback}

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
        query, _ = self._asked(prepared)
        scores = self._candidate_scores(query, prepared, self._index.lookup(candidates))
        return {"scores": scores, "fallback": prepared.fallback}

    @tf.function(input_signature=[_HISTORY], autograph=False)
    def encode(self, history: tf.Tensor) -> dict[str, tf.Tensor]:
        """The user's embedding: its dot product with an item's key is the item's score, less what a transition memory adds.

        Returns:
            `embedding` float32 `[batch, size]`, zeros under the fallback; `fallback`.
        """
        prepared = self.prepare(history)
        query, _ = self._asked(prepared)
        embedding = tf.where(prepared.fallback[:, None], 0.0, query)
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
        cosine, index = self._similar(unit(self._search.keys_of(items)))
        best, index = without(cosine, index, items[:, None], self.top_k)
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
        best, index = without(*self._search.best(queries, self.top_k), intent[:, None][:, :0], self.top_k)
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

    def _asked(self, prepared: Prepared) -> tuple[tf.Tensor, tf.Tensor]:
        """The histories' queries, float32 `[batch, size]`, and intents, int32 `[batch]`."""
        outputs = self._latest(prepared.history)
        intent = tf.argmax(outputs["intents"], axis=-1, output_type=tf.int32)
        return tf.cast(self._queries(outputs["user"]), tf.float32), tf.where(prepared.fallback, NO_INTENT, intent)

    def _recommend(self, prepared: Prepared, excluded: tf.Tensor) -> dict[str, tf.Tensor]:
        query, intent = self._asked(prepared)
        found = self._best(query, prepared, excluded)
        return {**self._answer(*found), "intent": intent, "fallback": prepared.fallback}

    def _best(self, query: tf.Tensor, prepared: Prepared, excluded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """(scores, items) `[batch, top_k]`: the best that are not `excluded` `[batch, m]`, under the fallback the most popular."""
        enough = tf.minimum(self.top_k + tf.shape(excluded)[1], len(self._popular_items))
        found = self._search.best(query, enough)
        if self._remembered is not None:
            found = self._with_remembered(*found, query, prepared)
        best, items = without(*found, excluded, self.top_k)
        popular, popular_items = without(*self._popular(enough, tf.shape(query)[0]), excluded, self.top_k)
        fallback = prepared.fallback[:, None]
        return tf.where(fallback, popular, best), tf.where(fallback, popular_items, items)

    def _with_remembered(self, scores: tf.Tensor, items: tf.Tensor, query: tf.Tensor, prepared: Prepared) -> tuple[tf.Tensor, tf.Tensor]:
        """What was found without the transition memory, and the items that it adds to.

        It lowers no score. So of the items that it does not add to, the best without it are the best: nothing is missed.
        """
        assert self._remembered is not None
        remembered = _each_once(self._remembered(prepared.history))
        others = without(scores, items, remembered, tf.shape(items)[1])
        own = self._candidate_scores(query, prepared, remembered)
        return tf.concat([others[0], own], axis=1), tf.concat([others[1], remembered], axis=1)

    def _popular(self, k: tf.Tensor | int, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The `k` items with the most events in the training part, the same in every row: (events, items) `[rows, k]`."""
        items = self._popular_items[:k]
        return tf.tile(tf.gather(self._popularity, items)[None], [rows, 1]), tf.tile(items[None], [rows, 1])

    def _candidate_scores(self, query: tf.Tensor, prepared: Prepared, items: tf.Tensor) -> tf.Tensor:
        """Scores of given items, `[batch, c]`; their popularity under the fallback, -inf for padding."""
        scores = tf.linalg.matvec(self._search.keys_of(items), query)
        if self._added is not None:
            scores += tf.gather(self._added(prepared.history), items, batch_dims=1)
        scores = tf.where(prepared.fallback[:, None], tf.gather(self._popularity, items), scores)
        return tf.where(items == PADDING, -np.inf, scores)

    def _or_popular(self, best: tf.Tensor, index: tf.Tensor, fallback: tf.Tensor) -> dict[str, tf.Tensor]:
        """An answer, replaced by the most popular items where `fallback` `[batch]`."""
        popular, popular_index = self._popular(self.top_k, tf.shape(best)[0])
        best = tf.where(fallback[:, None], popular, best)
        index = tf.where(fallback[:, None], popular_index, index)
        return {**self._answer(best, index), "fallback": fallback}

    def _answer(self, best: tf.Tensor, index: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"item_ids": tf.where(best > -np.inf, tf.gather(self._ids, index), ""), "scores": best}


def item_keys(model: ELCRec) -> tf.Tensor:
    """The item side of a model's scores as it is served, float32 `[num_items + 1, size]`; row 0 is padding."""
    return tf.cast(model.item_embedding.keys(), tf.float32)


def _each_once(items: tf.Tensor) -> tf.Tensor:
    """Items of each row `[batch, n]` in ascending order, padding in place of repetitions."""
    items = tf.sort(items, axis=1)
    again = tf.concat([tf.zeros_like(items[:, :1], tf.bool), items[:, 1:] == items[:, :-1]], axis=1)
    return tf.where(again, PADDING, items)


def _similarity_index(embeddings: tf.Tensor, k: int) -> Any:
    """tensorflow-recommenders' exact index over unit vectors of items 1, 2, ...; it answers item indices."""
    index = tensorflow_recommenders().layers.factorized_top_k.BruteForce(k=k)
    return index.index(embeddings, tf.range(1, len(embeddings) + 1))
