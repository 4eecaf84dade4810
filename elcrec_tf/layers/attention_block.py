"""One block of the behaviour encoder."""

from typing import Any

import keras
from keras import ops

from elcrec_tf.dropout import dropout
from elcrec_tf.kernels import fused, matmul
from elcrec_tf.replicas import own_seed


@keras.saving.register_keras_serializable("elcrec_tf")
class AttentionBlock(keras.layers.Layer):
    """Multi-head self-attention and a feed-forward network, each with dropout, residual and LayerNorm (post-LN, as in SASRec).

    `y = LN(x + dropout(attention(x)))`, then `LN(y + dropout(W2 gelu(W1 y)))` with the exact (erf) GELU.
    What a position may look at is the caller's business: it comes in as an additive bias.

    Beside attention, which weighs by content, may stand a local filter, which weighs by place: each position gets the sum of the states
    of the `local_width` positions before it, each times a learned vector (a causal depthwise convolution).

    Args:
        num_heads: attention heads; divides the size of the states.
        local_width: positions before each one that the local filter sees; 0 has none.
        feed_forward_size: width of the hidden layer; 4 times the states' size if None.
        dropout: rate for attention weights and both sub-layers' outputs.
        epsilon: of LayerNorm.

    Call arguments:
        inputs: `[batch, length, size]`.
        bias: additive attention bias, broadcast to `[batch, heads, query, key]`.
        earlier: bool `[batch, length, local_width]`, what the local filter may use (`masking.earlier_items`).
        wanted: `[n]` numbers of the positions, counted row by row, whose outputs are wanted; all if None.
        training: whether dropout is on.

    Returns:
        `[batch, length, size]`, or `[n, size]` of the wanted positions.
    """

    def __init__(
        self,
        num_heads: int,
        local_width: int = 0,
        feed_forward_size: int | None = None,
        dropout: float = 0.0,
        epsilon: float = 1e-12,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.local_width = local_width
        self.feed_forward_size = feed_forward_size
        self.dropout = dropout
        self.epsilon = epsilon
        self.seed_generator = keras.random.SeedGenerator()

    def build(self, inputs_shape: tuple[int | None, ...], bias_shape: tuple[int | None, ...] | None = None) -> None:
        size = inputs_shape[-1]
        if size is None or size % self.num_heads:
            raise ValueError(f"`num_heads` should divide the states' size. Received: num_heads={self.num_heads}, size={size}")
        wide = self.feed_forward_size or 4 * size

        # These layers hold the weights; `call` joins what comes after each product into one kernel.
        def dense(units: int, name: str) -> keras.layers.Dense:
            return keras.layers.Dense(units, kernel_initializer=_initializer(), dtype=self.dtype_policy, name=name)

        # Queries, keys and values come from one matrix product: three small ones are slower.
        self.query_key_value = dense(3 * size, "query_key_value")
        self.attention_output = dense(size, "attention_output")
        self.expand = dense(wide, "expand")
        self.contract = dense(size, "contract")
        self.attention_norm = keras.layers.LayerNormalization(epsilon=self.epsilon, dtype=self.dtype_policy, name="attention_norm")
        self.output_norm = keras.layers.LayerNormalization(epsilon=self.epsilon, dtype=self.dtype_policy, name="output_norm")
        for layer in (self.query_key_value, self.attention_output, self.expand, self.attention_norm, self.output_norm):
            layer.build(inputs_shape)
        self.contract.build((*inputs_shape[:-1], wide))
        if self.local_width:
            self.local_filter = self.add_weight(name="local_filter", shape=(self.local_width, size), initializer=_initializer())

    def call(self, inputs: Any, bias: Any, earlier: Any = None, wanted: Any = None, training: bool | None = None) -> Any:
        batch, length, size = ops.shape(inputs)
        rate = self.dropout if training else 0.0
        seed = own_seed(self.seed_generator.next()) if rate else ops.zeros((2,), "uint32")
        local = ops.reshape(_filter(inputs, earlier, self.local_filter), (-1, size)) if self.local_width else None
        inputs = ops.reshape(inputs, (-1, size))
        projected = ops.reshape(matmul(inputs, self.query_key_value.kernel), (batch, length, 3 * size))
        mixed = _attend(projected, self.query_key_value.bias, bias, seed, heads=self.num_heads, rate=rate)
        mixed = ops.reshape(mixed, (-1, size))
        if wanted is not None:
            inputs, mixed = ops.take(inputs, wanted, axis=0), ops.take(mixed, wanted, axis=0)
            local = None if local is None else ops.take(local, wanted, axis=0)

        def add(product: Any, dense: Any, residual: Any, norm: Any, salt: int) -> Any:
            return _add_norm(product, dense.bias, residual, norm.gamma, norm.beta, seed, rate=rate, salt=salt, epsilon=self.epsilon)

        product = matmul(mixed, self.attention_output.kernel)
        # The product may be in a smaller format than the states (`kernels.matmul`).
        product = product if local is None else ops.cast(product, local.dtype) + local
        states = add(product, self.attention_output, inputs, self.attention_norm, 1)
        hidden = _gelu(matmul(states, self.expand.kernel), self.expand.bias)
        states = add(matmul(hidden, self.contract.kernel), self.contract, states, self.output_norm, 2)
        return states if wanted is not None else ops.reshape(states, (batch, length, size))

    def compute_output_spec(
        self, inputs: Any, bias: Any, earlier: Any = None, wanted: Any = None, training: bool | None = None
    ) -> keras.KerasTensor:
        shape = inputs.shape if wanted is None else (wanted.shape[0], inputs.shape[-1])
        return keras.KerasTensor(shape, inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "local_width": self.local_width,
            "feed_forward_size": self.feed_forward_size,
            "dropout": self.dropout,
            "epsilon": self.epsilon,
        }


@fused
def _attend(projected: Any, projection_bias: Any, bias: Any, seed: Any, *, heads: int, rate: float) -> Any:
    """Scaled dot-product attention of `[batch, length, 3 size]` queries, keys and values -> `[batch, length, size]`."""
    dtype = projected.dtype
    batch, length, width = ops.shape(projected)
    head_size = width // 3 // heads
    split = ops.reshape(_float32(projected) + _float32(projection_bias), (batch, length, 3, heads, head_size))
    query, key, value = (ops.transpose(split[:, :, i], (0, 2, 1, 3)) for i in range(3))
    scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) * head_size**-0.5
    weights = dropout(ops.softmax(scores + _float32(bias), axis=-1), rate, seed)
    mixed = ops.transpose(ops.matmul(weights, value), (0, 2, 1, 3))
    return ops.cast(ops.reshape(mixed, (batch, length, width // 3)), dtype)


@fused
def _filter(states: Any, earlier: Any, local_filter: Any) -> Any:
    """`Σ_j f_j ∘ x_{t-j}` over the earlier positions that count, `[batch, length, size]`."""
    length = ops.shape(states)[1]
    counted = ops.cast(earlier, "float32")
    total = 0.0
    for place in range(local_filter.shape[0]):
        before = ops.pad(_float32(states), [[0, 0], [place + 1, 0], [0, 0]])[:, :length]
        total = total + before * counted[:, :, place, None] * _float32(local_filter[place])
    return ops.cast(total, states.dtype)


@fused
def _add_norm(product: Any, bias: Any, residual: Any, gamma: Any, beta: Any, seed: Any, *, rate: float, salt: int, epsilon: float) -> Any:
    """`LN(residual + dropout(product + bias))`."""
    states = _float32(residual) + dropout(_float32(product) + _float32(bias), rate, seed, salt)
    return ops.cast(layer_norm(states, gamma, beta, epsilon), residual.dtype)


@fused
def _gelu(product: Any, bias: Any) -> Any:
    return ops.cast(ops.gelu(_float32(product) + _float32(bias), approximate=False), product.dtype)


def layer_norm(states: Any, gamma: Any, beta: Any, epsilon: float) -> Any:
    """LayerNorm over the last axis, in float32."""
    centred = states - ops.mean(states, axis=-1, keepdims=True)
    variance = ops.mean(ops.square(centred), axis=-1, keepdims=True)
    return centred * ops.rsqrt(variance + epsilon) * _float32(gamma) + _float32(beta)


def _float32(values: Any) -> Any:
    return ops.cast(values, "float32")


def _initializer() -> keras.initializers.Initializer:
    return keras.initializers.RandomNormal(stddev=0.02)
