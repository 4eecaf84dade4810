"""One block of the behaviour encoder."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("elcrec_tf")
class AttentionBlock(keras.layers.Layer):
    """Multi-head self-attention and a feed-forward network, each with dropout, residual and LayerNorm (post-LN, as in SASRec).

    `y = LN(x + dropout(attention(x)))`, then `LN(y + dropout(W2 gelu(W1 y)))` with the exact (erf) GELU.
    What a position may look at is the caller's business: it comes in as an additive bias.

    Args:
        num_heads: attention heads; divides the size of the states.
        feed_forward_size: width of the hidden layer; 4 times the states' size if None.
        dropout: rate for attention weights and both sub-layers' outputs.
        epsilon: of LayerNorm.

    Call arguments:
        inputs: `[batch, length, size]`.
        bias: additive attention bias, broadcast to `[batch, heads, query, key]`.
        training: whether dropout is on.

    Returns:
        `[batch, length, size]`.
    """

    def __init__(
        self, num_heads: int, feed_forward_size: int | None = None, dropout: float = 0.0, epsilon: float = 1e-12, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.feed_forward_size = feed_forward_size
        self.dropout = dropout
        self.epsilon = epsilon

    def build(self, inputs_shape: tuple[int | None, ...], bias_shape: tuple[int | None, ...] | None = None) -> None:
        size = inputs_shape[-1]
        if size is None or size % self.num_heads:
            raise ValueError(f"`num_heads` should divide the states' size. Received: num_heads={self.num_heads}, size={size}")
        wide = self.feed_forward_size or 4 * size

        def dense(units: int, name: str, activation: Any = None) -> keras.layers.Dense:
            return keras.layers.Dense(units, activation=activation, kernel_initializer=_initializer(), dtype=self.dtype_policy, name=name)

        # Queries, keys and values come from one matrix product: three small ones are slower.
        self.query_key_value = dense(3 * size, "query_key_value")
        self.attention_output = dense(size, "attention_output")
        self.expand = dense(wide, "expand", lambda x: keras.activations.gelu(x, approximate=False))
        self.contract = dense(size, "contract")
        self.attention_norm = keras.layers.LayerNormalization(epsilon=self.epsilon, dtype=self.dtype_policy, name="attention_norm")
        self.output_norm = keras.layers.LayerNormalization(epsilon=self.epsilon, dtype=self.dtype_policy, name="output_norm")
        self.weights_dropout = keras.layers.Dropout(self.dropout, dtype=self.dtype_policy, name="weights_dropout")
        self.attention_dropout = keras.layers.Dropout(self.dropout, dtype=self.dtype_policy, name="attention_dropout")
        self.output_dropout = keras.layers.Dropout(self.dropout, dtype=self.dtype_policy, name="output_dropout")
        for layer in (self.query_key_value, self.attention_output, self.expand, self.attention_norm, self.output_norm):
            layer.build(inputs_shape)
        self.contract.build((*inputs_shape[:-1], wide))

    def call(self, inputs: Any, bias: Any, training: bool | None = None) -> Any:
        attended = self.attention_output(self._attend(inputs, bias, training))
        states = self.attention_norm(inputs + self.attention_dropout(attended, training=training))
        transformed = self.contract(self.expand(states))
        return self.output_norm(states + self.output_dropout(transformed, training=training))

    def _attend(self, inputs: Any, bias: Any, training: bool | None) -> Any:
        batch, length, size = ops.shape(inputs)
        head_size = size // self.num_heads
        projected = ops.reshape(self.query_key_value(inputs), (batch, length, 3, self.num_heads, head_size))
        query, key, value = (ops.transpose(projected[:, :, i], (0, 2, 1, 3)) for i in range(3))
        scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) * head_size**-0.5
        weights = ops.softmax(scores + bias, axis=-1)
        mixed = ops.matmul(self.weights_dropout(weights, training=training), value)
        return ops.reshape(ops.transpose(mixed, (0, 2, 1, 3)), (batch, length, size))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "feed_forward_size": self.feed_forward_size,
            "dropout": self.dropout,
            "epsilon": self.epsilon,
        }


def _initializer() -> keras.initializers.Initializer:
    return keras.initializers.RandomNormal(stddev=0.02)
