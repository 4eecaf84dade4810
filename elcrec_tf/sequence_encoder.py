"""The behaviour encoder: item indices -> hidden states. It knows no loss."""

from typing import Any

import keras

from elcrec_tf.layers.attention_block import AttentionBlock
from elcrec_tf.layers.item_embedding import ItemEmbedding
from elcrec_tf.layers.position_embedding import PositionEmbedding
from elcrec_tf.masking import attention_bias, valid_mask


@keras.saving.register_keras_serializable("elcrec_tf")
class SequenceEncoder(keras.layers.Layer):
    """A Transformer over the items of a history (SASRec; the official ELCRec architecture).

    Item and position embeddings, LayerNorm, dropout, then `num_layers` attention blocks. Each position sees itself and the
    items before it; padding is seen by none. Positions count from the latest item, so padding in front changes no state.

    Args:
        item_embedding: the item table, shared with the score head.
        max_length: longest history.
        num_layers, num_heads, dropout: of the attention blocks.

    Call arguments:
        history: `[batch, length]` int item indices, 0 = padding, left-padded, length at most `max_length`.
        training: whether dropout is on.

    Returns:
        Hidden states `[batch, length, hidden_size]`. States at padding positions are finite and mean nothing.
    """

    def __init__(
        self, item_embedding: ItemEmbedding, max_length: int, num_layers: int, num_heads: int, dropout: float, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.item_embedding = item_embedding
        self.max_length = max_length
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.dropout = dropout
        policy = self.dtype_policy
        self.position_embedding = PositionEmbedding(max_length, dtype=policy, name="position_embedding")
        self.embedding_norm = keras.layers.LayerNormalization(epsilon=1e-12, dtype=policy, name="embedding_norm")
        self.embedding_dropout = keras.layers.Dropout(dropout, dtype=policy, name="embedding_dropout")
        self.blocks = [AttentionBlock(num_heads, dropout=dropout, dtype=policy, name=f"block_{index}") for index in range(num_layers)]

    def build(self, history_shape: tuple[int | None, ...]) -> None:
        shape = (*history_shape, self.item_embedding.hidden_size)
        if not self.item_embedding.built:
            self.item_embedding.build(history_shape)
        for layer in (self.position_embedding, self.embedding_norm, *self.blocks):
            layer.build(shape)

    def call(self, history: Any, training: bool | None = None) -> Any:
        bias = attention_bias(valid_mask(history), self.compute_dtype)
        states = self.embedding_norm(self.position_embedding(self.item_embedding(history)))
        states = self.embedding_dropout(states, training=training)
        for block in self.blocks:
            states = block(states, bias, training=training)
        return states

    def compute_output_spec(self, history: Any, training: bool | None = None) -> keras.KerasTensor:
        return keras.KerasTensor((*history.shape, self.item_embedding.hidden_size), self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "item_embedding": keras.saving.serialize_keras_object(self.item_embedding),
            "max_length": self.max_length,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "dropout": self.dropout,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "SequenceEncoder":
        config = dict(config)
        config["item_embedding"] = keras.saving.deserialize_keras_object(config["item_embedding"])
        return cls(**config)
