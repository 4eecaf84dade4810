import math

import keras
import numpy as np
import pytest

from elcrec_tf.kernels import Kernels, using
from elcrec_tf.layers.attention_block import AttentionBlock
from tests.layers.check_layer import check_layer

RNG = np.random.default_rng(0)
STATES = RNG.normal(size=(3, 5, 8)).astype("float32")
OPEN = np.zeros((3, 1, 5, 5), "float32")


@pytest.fixture(scope="module")
def block():
    keras.utils.set_random_seed(0)
    return AttentionBlock(2)


def test_layer(tmp_path):
    arguments = {"num_heads": 2, "feed_forward_size": 12, "dropout": 0.1, "epsilon": 1e-6}
    check_layer(AttentionBlock, arguments, (STATES, OPEN), tmp_path, trains=False)


def test_gradients_reach_every_weight(block):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(block(STATES, OPEN) * RNG.normal(size=STATES.shape).astype("float32"))
    weights = block.trainable_weights
    gradients = tape.gradient(loss, weights)
    for weight, gradient in zip(weights, gradients, strict=True):
        assert np.abs(np.asarray(gradient)).max() > 1e-7, weight.path


def test_output_is_normalised(block):
    """The last operation is LayerNorm with scale 1 and shift 0."""
    output = np.asarray(block(STATES, OPEN))
    np.testing.assert_allclose(output.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(output.std(-1), 1, rtol=1e-4)


def test_equals_a_plain_numpy_computation(block):
    """Post-LN: LN(x + attention), then LN(y + W2 gelu(W1 y)) with the exact GELU, head by head."""
    causal = np.where(np.tril(np.ones((5, 5), bool)), 0, -1e4).astype("float32")[None, None]

    def norm(x):
        return (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)

    def dense(layer, x):
        return x @ np.asarray(layer.kernel, np.float64) + np.asarray(layer.bias, np.float64)

    x = STATES.astype(np.float64)
    query, key, value = np.split(dense(block.query_key_value, x), 3, axis=-1)
    heads = []
    for part in (slice(0, 4), slice(4, 8)):
        scores = query[..., part] @ key[..., part].swapaxes(1, 2) / math.sqrt(4) + causal[:, 0]
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        heads.append(weights / weights.sum(-1, keepdims=True) @ value[..., part])
    y = norm(x + dense(block.attention_output, np.concatenate(heads, axis=-1)))
    wide = dense(block.expand, y)
    gelu = wide * 0.5 * (1 + np.vectorize(math.erf)(wide / math.sqrt(2)))
    expected = norm(y + dense(block.contract, gelu))
    np.testing.assert_allclose(block(STATES, causal), expected, rtol=1e-4, atol=1e-5)


def test_a_masked_position_is_not_seen(block):
    bias = OPEN.copy()
    bias[..., 2] = -1e4
    changed = STATES.copy()
    changed[:, 2] += 1
    others = [0, 1, 3, 4]
    before, after = np.asarray(block(STATES, bias)), np.asarray(block(changed, bias))
    np.testing.assert_allclose(after[:, others], before[:, others], rtol=1e-5, atol=1e-6)
    assert np.abs(after[:, 2] - before[:, 2]).max() > 0  # but it is itself computed


def test_wanted_outputs_are_those_of_all(block):
    """Positions are counted row by row, in any order."""
    wanted = np.int32([14, 0, 6, 6])
    every = np.asarray(block(STATES, OPEN)).reshape(-1, 8)
    np.testing.assert_allclose(block(STATES, OPEN, wanted=wanted), every[wanted], rtol=1e-5, atol=1e-6)


def test_compiled_chains_give_the_same_outputs_and_gradients(block):
    import tensorflow as tf

    results = []
    for kernels in (Kernels(), Kernels(compiled=True)):
        with using(kernels), tf.GradientTape() as tape:
            outputs = block(STATES, OPEN)
            loss = tf.reduce_sum(outputs * tf.sin(tf.range(outputs.shape[-1], dtype=tf.float32)))
        results.append([outputs, *tape.gradient(loss, block.trainable_weights)])
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_dropout_is_on_in_training_only():
    block = AttentionBlock(2, dropout=0.5)
    once, again = (np.asarray(block(STATES, OPEN, training=False)) for _ in range(2))
    np.testing.assert_array_equal(once, again)
    assert np.abs(np.asarray(block(STATES, OPEN, training=True)) - once).max() > 1e-3


def test_heads_divide_the_size():
    with pytest.raises(ValueError, match="`num_heads` should divide .* num_heads=3, size=8"):
        AttentionBlock(3)(STATES, OPEN)


def test_a_layer_with_a_local_filter(tmp_path):
    earlier = np.ones((3, 5, 2), bool)
    check_layer(AttentionBlock, {"num_heads": 2, "local_width": 2}, (STATES, OPEN, earlier), tmp_path, trains=False)


def test_the_local_filter_adds_earlier_states_to_what_attention_gives():
    keras.utils.set_random_seed(0)
    plain, local = AttentionBlock(2), AttentionBlock(2, local_width=2)
    earlier = RNG.random((3, 5, 2)) < 0.7
    plain(STATES, OPEN), local(STATES, OPEN, earlier)
    filters = RNG.normal(size=(2, 8)).astype("float32")
    values = {weight.path.split("/", 1)[1]: weight for weight in plain.weights}
    for weight in local.weights:
        if weight is not local.local_filter:
            weight.assign(values[weight.path.split("/", 1)[1]])
    local.local_filter.assign(np.zeros((2, 8)))
    np.testing.assert_allclose(local(STATES, OPEN, earlier), plain(STATES, OPEN), rtol=1e-5, atol=1e-6)
    # With attention's output off, what is left of the first half is LN(x + filter).
    local.local_filter.assign(filters)
    local.attention_output.kernel.assign(np.zeros((8, 8)))
    local.contract.kernel.assign(np.zeros((32, 8)))
    mixed = STATES.astype(np.float64)
    for place in (1, 2):
        before = np.pad(STATES, [(0, 0), (place, 0), (0, 0)])[:, :5]
        mixed = mixed + before * earlier[:, :, place - 1, None] * filters[place - 1]
    mixed = (mixed - mixed.mean(-1, keepdims=True)) / mixed.std(-1, keepdims=True)
    np.testing.assert_allclose(local(STATES, OPEN, earlier), mixed, rtol=1e-4, atol=1e-4)
