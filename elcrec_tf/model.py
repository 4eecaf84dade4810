"""ELCRec: behaviour encoder, latent intents, and the training objective that ties them."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from elcrec_tf import replicas
from elcrec_tf.config import Config
from elcrec_tf.kernels import Kernels, using
from elcrec_tf.layers.cluster_centers import ClusterCenters
from elcrec_tf.layers.item_embedding import ItemEmbedding
from elcrec_tf.layers.transition_memory import TransitionMemory
from elcrec_tf.losses import bce_loss, elcm_assign, elcm_paper, nt_xent, sampled_softmax_loss, softmax_loss
from elcrec_tf.masking import masked_mean, slot_mean, valid_mask
from elcrec_tf.sequence_encoder import SequenceEncoder
from elcrec_tf.vectors import unit

PARTS = ("examples", "users", "view_a", "view_b")
TERMS = ("next_item", "sequence", "intent", "cluster")


@keras.saving.register_keras_serializable("elcrec_tf")
class ELCRec(keras.Model):
    """Sequential recommendation with end-to-end learned intents (ELCRec, NeurIPS 2024, arXiv 2401.05975).

    A functional model: history -> hidden states, the user's state, and its similarity to every latent intent. Training adds
    the terms of Eq. 7-8, `next_item + w_seq sequence + w_int intent + alpha cluster`, in `compute_loss`.

    Args:
        num_items: items in the catalogue; indices run from 1, 0 is padding.
        max_length, hidden_size, num_layers, num_heads, dropout, local_width: of the encoder.
        activity_bounds: of the encoder's activity features; None has none.
        score, score_temperature: of the score head, see `ItemEmbedding`.
        memory_weight: of the `TransitionMemory` that adds to the scores; 0 has none.
        num_clusters: latent intents.
        retirable_clusters: whether training may take intents out of use (see `ClusterCenters`).
        intent_clustering: `"learned"`: the centres are trained, ELCM among the terms. `"em"`: they are not, and there is no ELCM term;
            somebody sets them (see `elcrec_tf.intent_em`).
        intent_pooling: what stands for a history when its intent is chosen: the `"mean"` of its states, or the `"last"`.
        fusion: Eq. 5: `"shift"` adds the nearest centre to a state, `"concat"` appends it; `"none"` leaves states as they are.
        next_item: `"softmax"`, `"sampled_softmax"` or `"bce"`.
        sequence_weight, intent_weight, cluster_weight: weights of the terms. They and `temperature` become non-trainable
            variables of the model, so a schedule reaches a compiled step.
        cluster_form: `"paper"` (`elcm_paper`) or `"assign"` (`elcm_assign`).
        temperature, similarity, mask_same_intent: of both contrastive losses, see `nt_xent`.
        sequence_pooling: the sequence contrastive loss compares the `"mean"` of the fused states, or all of them
            `"flatten"`ed (which needs rows padded to one length).
        contrastive_batch: where several replicas share a batch (tf.distribute), the contrastive losses compare the histories of each
            replica by themselves (`"local"`), or those of all (`"global"`). Every other term is the whole batch's.
        official_padding: let padding positions enter pooled states, as the official code does.

    Call arguments:
        history: int32 `[batch, length]`, 0 = padding, left-padded, length at most `max_length`. A training batch is called with a dict
            instead, see `compute_loss`.

    Returns:
        A dict: `states` `[batch, length, hidden_size]`; `user` `[batch, hidden_size]`, the latest state, which predicts; `pooled`
        `[batch, hidden_size]`, what stands for the history when its intent is chosen; `intents` `[batch, num_clusters]`, the
        cosine between `pooled` and each centre.
    """

    def __init__(
        self,
        num_items: int,
        max_length: int = 50,
        hidden_size: int = 64,
        num_layers: int = 2,
        num_heads: int = 2,
        dropout: float = 0.5,
        local_width: int = 0,
        activity_bounds: Sequence[int] | None = None,
        score: str = "cosine",
        score_temperature: float = 0.1,
        memory_weight: float = 0.0,
        num_clusters: int = 256,
        retirable_clusters: bool = False,
        intent_clustering: str = "learned",
        intent_pooling: str = "last",
        fusion: str = "shift",
        next_item: str = "softmax",
        sequence_weight: float = 0.1,
        intent_weight: float = 0.1,
        cluster_weight: float = 0.1,
        cluster_form: str = "assign",
        temperature: float = 0.2,
        similarity: str = "cosine",
        sequence_pooling: str = "mean",
        mask_same_intent: bool = False,
        contrastive_batch: str = "local",
        official_padding: bool = False,
        dtype: Any = None,
        name: str = "elcrec",
        **kwargs: Any,
    ) -> None:
        architecture = {key: value for key, value in locals().items() if key not in ("self", "kwargs", "__class__")}
        _check_choice("intent_pooling", intent_pooling, ("mean", "last"))
        _check_choice("intent_clustering", intent_clustering, ("learned", "em"))
        _check_choice("fusion", fusion, ("shift", "concat", "none"))
        _check_choice("next_item", next_item, ("softmax", "sampled_softmax", "bce"))
        _check_choice("cluster_form", cluster_form, ("paper", "assign"))
        _check_choice("similarity", similarity, ("dot", "cosine"))
        _check_choice("sequence_pooling", sequence_pooling, ("mean", "flatten"))
        _check_choice("contrastive_batch", contrastive_batch, ("local", "global"))
        if keras.dtype_policies.get(dtype).compute_dtype == "float16":
            raise ValueError(f"`dtype` should not compute in float16, where exponentials of scores overflow. Received: dtype={dtype}")
        items = ItemEmbedding(num_items, hidden_size, score, score_temperature, dtype=dtype, name="item_embedding")
        encoder = SequenceEncoder(
            items, max_length, num_layers, num_heads, dropout, local_width, activity_bounds, dtype=dtype, name="encoder"
        )
        learned = intent_clustering == "learned"
        centers = ClusterCenters(num_clusters, retirable_clusters, trainable=learned, dtype=dtype, name="cluster_centers")

        history = keras.Input((None,), dtype="int32", name="history")
        states = encoder(history)
        pooled = _pool(states, history, intent_pooling, official_padding)
        outputs = {"states": states, "user": states[:, -1], "pooled": pooled, "intents": centers(unit(pooled))}
        super().__init__(inputs=history, outputs=outputs, name=name, **kwargs)
        self.input_spec = None  # a training batch is a dict

        self._arguments = architecture
        self.kernels = Kernels()
        self.item_embedding = items
        self.encoder = encoder
        self.cluster_centers = centers
        self.transition_memory = self._memory(num_items, memory_weight)
        self.weights_of_terms = {
            "sequence": self._scalar("sequence_weight", sequence_weight),
            "intent": self._scalar("intent_weight", intent_weight),
            "cluster": self._scalar("cluster_weight", cluster_weight),
        }
        self.temperature = self._scalar("temperature", temperature)
        self.term_means = {term: keras.metrics.Mean(name=term) for term in TERMS}

    def _memory(self, num_items: int, weight: float) -> TransitionMemory | None:
        if not weight:
            return None
        memory = TransitionMemory(num_items, weight, dtype="float32", name="transition_memory")
        memory.build()
        return memory

    def _scalar(self, name: str, value: float) -> Any:
        start = keras.initializers.Constant(value)
        return self.add_weight(name=name, shape=(), initializer=start, trainable=False, dtype="float32")

    def widened(self, history: Any) -> Any:
        """The history as this model should see it in evaluation: padded to `max_length` under `official_padding`, where pooled
        states depend on the padding; else as it is."""
        if not self._arguments["official_padding"]:
            return history
        length = self._arguments["max_length"]
        padding = ops.zeros((ops.shape(history)[0], length), history.dtype)
        return ops.concatenate([padding, history], axis=1)[:, -length:]

    def latest(self, history: Any) -> dict[str, Any]:
        """The outputs `user` and `intents` for prepared histories, without computing states that nothing needs."""
        if self._arguments["intent_pooling"] == "mean" or self._arguments["official_padding"]:
            outputs = self(self.widened(history), training=False)
            return {name: outputs[name] for name in ("user", "intents")}
        batch, length = ops.shape(history)
        user = self.encoder(history, wanted=(ops.arange(batch) + 1) * length - 1, training=False)
        return {"user": user, "intents": self.cluster_centers(unit(user))}

    def scores(self, history: Any) -> Any:
        """Score of every item for the next place in each history, `[batch, num_items + 1]`; column 0 (padding) means nothing."""
        return self.scores_of(self(history, training=False)["user"], history)

    def scores_of(self, user: Any, history: Any = None) -> Any:
        """`scores` from user states `[batch, hidden_size]`, with what the transition memory, if any, adds for the histories."""
        scores = ops.matmul(self.item_embedding.queries(user), ops.transpose(self.item_embedding.keys()))
        if history is None or self.transition_memory is None:
            return scores
        return scores + ops.cast(self.transition_memory(history), scores.dtype)

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if not isinstance(inputs, dict):
            return super().call(inputs, training=training, mask=mask)
        with using(self.kernels):
            return self._encode(inputs, training)

    def _encode(self, parts: dict[str, Any], training: bool | None) -> dict[str, Any]:
        """States of a training batch's cells, `[cells, hidden_size]` by part, from one pass of the encoder over all of them.

        Of `examples` beside `users` (prefixes) only the last cells' states, which predict: `[examples, hidden_size]`.
        """
        parts = {name: parts[name] for name in PARTS if name in parts}
        rows = [ops.shape(part["history"]) for part in parts.values()]
        cells = [count * length for count, length in rows]
        wanted = None
        if "users" in parts:
            last = parts["examples"]["last"]
            wanted = ops.concatenate([last, cells[0] + ops.arange(sum(cells[1:]), dtype=last.dtype)], axis=0)
            cells[0] = ops.shape(last)[0]
        joined = {name: ops.concatenate([part[name] for part in parts.values()], axis=0) for name in ("history", "slot", "distance")}
        states = self.encoder(joined["history"], joined["slot"], joined["distance"], wanted, training=training)
        states = ops.reshape(states, (-1, self._arguments["hidden_size"]))
        # One split has a cheaper gradient than several slices.
        ends = [sum(cells[: index + 1]) for index in range(len(cells) - 1)]
        return dict(zip(parts, ops.split(states, ends, axis=0) if ends else [states], strict=True))

    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True) -> Any:
        """The weighted sum of the terms for one training batch (see `elcrec_tf.data.training_data.training_batches`).

        Args:
            x: dict of parts, each a dict of histories packed in rows: `history`, `slot`, `distance` `[rows, length]` and `last`
                `[slots]` (see `elcrec_tf.data.packing`). `examples` predict. `view_a` and `view_b`, absent when both contrastive
                weights are 0 for good, hold views of the users. `users` holds the users' histories where the examples are prefixes,
                so that the contrastive terms and ELCM see a user once; elsewhere the examples are the users.
            y: dict with `target` (`[rows, length]` for position examples, `[slots]` for prefix examples; 0 = none); `negative` of
                the same shape (BCE), or `negatives` and their `negative_log_rates` `[m]` (sampled softmax).
            y_pred: the states, what calling this model with x gives.
        """
        with using(self.kernels):
            return self._total(x, y, y_pred)

    def _total(self, x: Any, y: Any, states: Any) -> Any:
        targets = ops.sum(ops.cast(valid_mask(y["target"]), "float32"))
        terms = {"next_item": replicas.weight(targets) * self._next_item_loss(states["examples"], y)}
        users = "users" if "users" in x else "examples"
        pooled = _pool_slots(states[users], x[users], self._arguments["intent_pooling"], self._arguments["official_padding"])
        # A batch is filled up with empty slots to keep its shape; they take no part.
        latest = ops.take(ops.reshape(x[users]["history"], (-1,)), x[users]["last"])
        present = ops.cast(valid_mask(latest), "float32")
        of_all = replicas.gather(pooled, present)
        if self._arguments["intent_clustering"] == "learned":
            terms["cluster"] = self._cluster_loss(*of_all)
        if "view_a" in x:
            views = self._compared(x, states)
            if self._arguments["contrastive_batch"] == "global":
                terms |= self._contrastive_losses(replicas.gather(*views), *of_all)
            else:
                weight = replicas.weight(ops.sum(present))
                terms |= {term: weight * value for term, value in self._contrastive_losses(views, pooled, present).items()}
        total = terms["next_item"]
        for term, value in terms.items():
            self.term_means[term].update_state(value)
            if term in self.weights_of_terms:
                total = total + self.weights_of_terms[term] * value
        # Keras's hook that scales a loss for tf.distribute; elsewhere it changes nothing.
        return self._aggregate_additional_loss(total)

    def _next_item_loss(self, states: Any, y: Any) -> Any:
        queries = self.item_embedding.queries(states)
        targets = ops.reshape(y["target"], (-1,))

        # Outside a layer's call nothing casts the item table: under mixed precision it would stay float32.
        def keys_of(items: Any) -> Any:
            return ops.cast(self.item_embedding.keys_of(items), queries.dtype)

        if self._arguments["next_item"] == "bce":
            return bce_loss(queries, targets, ops.reshape(y["negative"], (-1,)), keys_of)
        if self._arguments["next_item"] == "sampled_softmax":
            return sampled_softmax_loss(queries, targets, y["negatives"], y["negative_log_rates"], keys_of)
        keys = ops.cast(self.item_embedding.keys(), queries.dtype)
        return softmax_loss(queries, targets, keys, bounded=self._arguments["score"] == "cosine")

    def _cluster_loss(self, pooled: Any, present: Any) -> Any:
        form = elcm_paper if self._arguments["cluster_form"] == "paper" else elcm_assign
        return sum(form(pooled, self.cluster_centers.centers, present, self.cluster_centers.active))

    def _compared(self, x: Any, states: Any) -> list[Any]:
        """What the contrastive losses compare: the two views' fused representations and their pooled states, `[slots, size]` each."""
        arguments, views = self._arguments, [(states[name], x[name]) for name in ("view_a", "view_b")]
        fused = [self._sequence_representation(*view) for view in views]
        return fused + [_pool_slots(*view, arguments["intent_pooling"], arguments["official_padding"]) for view in views]

    def _contrastive_losses(self, views: Any, pooled: Any, present: Any) -> dict[str, Any]:
        intent = ops.argmax(self.cluster_centers(unit(pooled)), axis=-1)
        labels = intent if self._arguments["mask_same_intent"] else None

        def contrast(a: Any, b: Any) -> Any:
            return nt_xent(a, b, self.temperature, self._arguments["similarity"], present, labels)

        fused_a, fused_b, pooled_a, pooled_b = views
        centers = self.cluster_centers.take(intent)
        return {"sequence": contrast(fused_a, fused_b), "intent": (contrast(pooled_a, centers) + contrast(pooled_b, centers)) / 2}

    def _sequence_representation(self, states: Any, part: Any) -> Any:
        """Eq. 5 at every position (unless fusion is off), then the mean or all positions side by side, `[slots, size]`."""
        fused = self._fuse(states)
        if self._arguments["sequence_pooling"] == "flatten":  # a row is one slot then
            return ops.reshape(fused, (ops.shape(part["history"])[0], -1))
        return _mean_slots(fused, part, self._arguments["official_padding"])

    def _fuse(self, states: Any) -> Any:
        fusion = self._arguments["fusion"]
        if fusion == "none":
            return states
        nearest = self.cluster_centers.nearest(states)
        return states + nearest if fusion == "shift" else ops.concatenate([states, nearest], axis=-1)

    def without_retired(self) -> "ELCRec":
        """This model with the intents in use alone: itself where none can be retired, else a copy (not compiled)."""
        if not self._arguments["retirable_clusters"]:
            return self
        centers, kept = self.cluster_centers, self.cluster_centers.in_use()
        copy = ELCRec(**{**self._arguments, "num_clusters": len(kept), "retirable_clusters": False})
        values = [weight for weight in self.weights if weight is not centers.active]
        for target, source in zip(copy.weights, values, strict=True):
            target.assign(ops.take(source, kept, axis=0) if source is centers.centers else source)
        return copy

    def get_config(self) -> dict[str, Any]:
        return dict(self._arguments)

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "ELCRec":
        return cls(**config)


def build_model(config: Config, num_items: int, activity_bounds: Sequence[int] = ()) -> ELCRec:
    """The model that a configuration describes, for a catalogue of `num_items` items.

    `activity_bounds` are those of `ActivityFeatures`, where the configuration has them on.
    """
    model, loss = config.model, config.loss
    return ELCRec(
        num_items,
        max_length=model.max_length,
        hidden_size=model.hidden_size,
        num_layers=model.num_layers,
        num_heads=model.num_heads,
        dropout=model.dropout,
        local_width=model.local_width,
        activity_bounds=list(activity_bounds) if model.activity_features else None,
        score=model.score,
        score_temperature=model.score_temperature,
        memory_weight=model.memory_weight,
        num_clusters=model.centers,
        retirable_clusters=model.auto_clusters,
        intent_clustering=model.intent_clustering,
        intent_pooling=model.intent_pooling,
        fusion=model.fusion,
        next_item=loss.next_item,
        sequence_weight=loss.sequence_weight,
        intent_weight=loss.intent_weight,
        cluster_weight=loss.cluster_weight,
        cluster_form=loss.cluster_form,
        temperature=loss.temperature,
        similarity=loss.similarity,
        sequence_pooling=loss.sequence_pooling,
        mask_same_intent=loss.mask_same_intent,
        contrastive_batch=loss.contrastive_batch,
        official_padding=loss.official_padding,
    )


def _pool(states: Any, history: Any, pooling: str, official_padding: bool) -> Any:
    """What stands for a history when its intent is chosen, `[batch, size]`."""
    if pooling == "last":
        # The latest item of a masked view may be hidden: take the last position that holds an item.
        valid = valid_mask(history)
        position = ops.max(ops.where(valid, ops.cumsum(ops.ones_like(history), axis=1) - 1, 0), axis=1)
        return ops.squeeze(ops.take_along_axis(states, position[:, None, None], axis=1), axis=1)
    return ops.mean(states, axis=1) if official_padding else masked_mean(states, valid_mask(history))


def _pool_slots(states: Any, part: Any, pooling: str, official_padding: bool) -> Any:
    """`_pool` of histories packed in rows: states `[cells, size]` -> `[slots, size]`."""
    if pooling == "mean":
        return _mean_slots(states, part, official_padding)
    history, slot = ops.reshape(part["history"], (-1,)), ops.reshape(part["slot"], (-1,))
    slots = ops.shape(part["last"])[0]
    cell = ops.where(valid_mask(history), ops.arange(ops.shape(history)[0], dtype="int32"), 0)
    # An empty slot takes cell 0 (or less, where a segment without cells has the smallest integer): it counts for nothing.
    return ops.take(states, ops.maximum(ops.segment_max(cell, slot, slots + 1)[:slots], 0), axis=0)


def _mean_slots(states: Any, part: Any, official_padding: bool) -> Any:
    history, slot = ops.reshape(part["history"], (-1,)), ops.reshape(part["slot"], (-1,))
    counted = ops.ones_like(history, dtype="bool") if official_padding else valid_mask(history)
    return slot_mean(states, counted, slot, ops.shape(part["last"])[0])


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"`{name}` should be one of {choices}. Received: {name}={value!r}")
