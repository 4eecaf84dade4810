"""The behaviour encoder: item indices -> hidden states. It knows no loss."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from elcrec_tf.dropout import dropout
from elcrec_tf.kernels import fused
from elcrec_tf.layers.activity_features import ActivityFeatures
from elcrec_tf.layers.attention_block import AttentionBlock, layer_norm
from elcrec_tf.layers.item_embedding import ItemEmbedding
from elcrec_tf.layers.position_embedding import PositionEmbedding
from elcrec_tf.masking import attention_bias, earlier_items, valid_mask, visible_items
from elcrec_tf.replicas import own_seed


@keras.saving.register_keras_serializable("elcrec_tf")
class SequenceEncoder(keras.layers.Layer):
    """A Transformer over the items of a history (SASRec; the official ELCRec architecture).

    Item and position embeddings, LayerNorm, dropout, then `num_layers` attention blocks. Each position sees itself and the
    items before it; padding is seen by none. Positions count from the latest item, so padding in front changes no state.

    Args:
        item_embedding: the item table, shared with the score head.
        max_length: longest history.
        num_layers, num_heads, dropout, local_width: of the attention blocks.
        activity_bounds: adds `ActivityFeatures` with these bounds to the states; None adds nothing.

    Call arguments:
        history: `[batch, length]` int item indices, 0 = padding, left-padded, length at most `max_length`; or several histories
            in a row, then with `slot` and `distance` (see `elcrec_tf.data.packing`).
        slot: int `[batch, length]`, which history of its row a cell belongs to.
        distance: int `[batch, length]`, cells to the last one of its history.
        wanted: `[n]` numbers of the cells, counted row by row, whose states are wanted; all if None. The last block computes no others.
        training: whether dropout is on.

    Returns:
        Hidden states `[batch, length, hidden_size]`, or `[n, hidden_size]` of the wanted cells. States at padding positions are finite
        and mean nothing.
    """

    def __init__(
        self,
        item_embedding: ItemEmbedding,
        max_length: int,
        num_layers: int,
        num_heads: int,
        dropout: float,
        local_width: int = 0,
        activity_bounds: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.item_embedding = item_embedding
        self.max_length = max_length
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.dropout = dropout
        self.local_width = local_width
        self.activity_bounds = activity_bounds
        policy = self.dtype_policy
        self.position_embedding = PositionEmbedding(max_length, dtype=policy, name="position_embedding")
        self.embedding_norm = keras.layers.LayerNormalization(epsilon=1e-12, dtype=policy, name="embedding_norm")
        self.seed_generator = keras.random.SeedGenerator()
        self.blocks = [
            AttentionBlock(num_heads, local_width, dropout=dropout, dtype=policy, name=f"block_{index}") for index in range(num_layers)
        ]
        self.activity = None if activity_bounds is None else ActivityFeatures(max_length, activity_bounds, dtype=policy, name="activity")

    def build(self, history_shape: tuple[int | None, ...]) -> None:
        shape = (*history_shape, self.item_embedding.hidden_size)
        if not self.item_embedding.built:
            self.item_embedding.build(history_shape)
        for layer in (self.position_embedding, self.embedding_norm, *self.blocks):
            layer.build(shape)
        if self.activity is not None:
            self.activity.build(shape)

    def call(self, history: Any, slot: Any = None, distance: Any = None, wanted: Any = None, training: bool | None = None) -> Any:
        valid = valid_mask(history)
        bias = attention_bias(valid, self.compute_dtype, slot)
        earlier = earlier_items(valid, self.local_width, slot) if self.local_width else None
        items = self.item_embedding(history)
        rate = self.dropout if training else 0.0
        seed = own_seed(self.seed_generator.next()) if rate else ops.zeros((2,), "uint32")
        norm = self.embedding_norm
        states = _embed(items, self.position_embedding.vectors(items, distance), norm.gamma, norm.beta, seed, rate=rate)
        for block in self.blocks[:-1]:
            states = block(states, bias, earlier, training=training)
        states = self.blocks[-1](states, bias, earlier, wanted, training=training)
        if self.activity is None:
            return states
        seen = visible_items(bias)
        return self.activity(states, seen if wanted is None else ops.take(ops.reshape(seen, (-1,)), wanted, axis=0))

    def compute_output_spec(
        self, history: Any, slot: Any = None, distance: Any = None, wanted: Any = None, training: bool | None = None
    ) -> keras.KerasTensor:
        shape = history.shape if wanted is None else wanted.shape
        return keras.KerasTensor((*shape, self.item_embedding.hidden_size), self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "item_embedding": keras.saving.serialize_keras_object(self.item_embedding),
            "max_length": self.max_length,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "dropout": self.dropout,
            "local_width": self.local_width,
            "activity_bounds": self.activity_bounds,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "SequenceEncoder":
        config = dict(config)
        config["item_embedding"] = keras.saving.deserialize_keras_object(config["item_embedding"])
        return cls(**config)


@fused
def _embed(items: Any, positions: Any, gamma: Any, beta: Any, seed: Any, *, rate: float) -> Any:
    """`dropout(LN(items + positions))`."""
    states = ops.cast(items, "float32") + ops.cast(positions, "float32")
    return ops.cast(dropout(layer_norm(states, gamma, beta, 1e-12), rate, seed), items.dtype)
