import numpy as np
import pytest
import tensorflow as tf

from elcrec_tf.dropout import dropout
from elcrec_tf.kernels import Kernels, fused, using

SEED = np.uint32([12, 34])
SHAPE = (200, 500)
COUNT = 100_000


def kept(rate=0.5, seed=SEED, salt=0, shape=SHAPE):
    """Where a value is kept, bool."""
    return np.asarray(dropout(tf.ones(shape), rate, tf.constant(seed), salt)) > 0


def correlation(one, other):
    return np.corrcoef(one.reshape(-1), other.reshape(-1))[0, 1]


# Of two independent draws of this many values, the correlation's standard deviation is 1 / sqrt(n).
NONE = 5 / np.sqrt(COUNT)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_a_share_of_rate_becomes_zero_and_the_rest_is_scaled(rate):
    values = np.random.default_rng(0).normal(size=SHAPE).astype("float32")
    dropped = np.asarray(dropout(tf.constant(values), rate, tf.constant(SEED)))
    share = np.mean(dropped == 0)
    assert abs(share - rate) < 5 * np.sqrt(rate * (1 - rate) / COUNT)
    alive = dropped != 0
    np.testing.assert_allclose(dropped[alive], values[alive] / (1 - rate), rtol=1e-6)


def test_rate_zero_changes_nothing():
    values = tf.ones((2, 3))
    assert dropout(values, 0.0, tf.constant(SEED)) is values


def test_the_seed_and_the_salt_decide():
    np.testing.assert_array_equal(kept(), kept())
    np.testing.assert_array_equal(kept(salt=3), kept(salt=3))


# A seed generator counts its second number up from call to call; salts tell the masks of one call apart.
OTHERS = {
    "next call": {"seed": np.uint32([12, 35])},
    "another first number": {"seed": np.uint32([13, 34])},
    "swapped": {"seed": np.uint32([34, 12])},
    "salt 1": {"salt": 1},
    "salt 2": {"salt": 2},
    "zero": {"seed": np.uint32([0, 0])},
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_masks_of_other_seeds_and_salts_are_uncorrelated(name, rate):
    assert abs(correlation(kept(rate), kept(rate, **OTHERS[name]))) < NONE


def test_masks_of_many_calls_are_uncorrelated_with_each_other():
    masks = np.stack([kept(0.3, np.uint32([7, call]), shape=(4000,)) for call in range(40)])
    off = np.corrcoef(masks)[~np.eye(40, dtype=bool)]
    assert np.abs(off).max() < 6 / np.sqrt(4000)
    # Each place is dropped in its share of the calls: 12 of 40 with a standard deviation of 2.9.
    dropped = 40 - masks.sum(axis=0)
    assert dropped.mean() == pytest.approx(12, abs=0.2) and dropped.std() == pytest.approx(2.9, abs=0.2)


def test_places_of_one_mask_are_uncorrelated():
    mask = kept()
    for axis in (0, 1):
        assert abs(correlation(np.delete(mask, 0, axis), np.delete(mask, -1, axis))) < NONE
    for power in (1, 4, 8, 16):  # a weak hash repeats itself at powers of two
        flat = mask.reshape(-1)
        assert abs(correlation(flat[: -(2**power)], flat[2**power :])) < 8 / np.sqrt(COUNT - 2**power)


def test_seed_numbers_use_all_their_bits():
    """A SeedGenerator's state is drawn from the whole range of uint32."""
    big = kept(seed=np.uint32([2**32 - 1, 2**31]))
    assert abs(big.mean() - 0.5) < NONE
    assert abs(correlation(big, kept())) < NONE


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_compiled_masks_and_gradients_are_the_plain_ones(rate):
    function = fused(lambda values, seed, *, salt: dropout(values, rate, seed, salt))
    values = tf.random.stateless_normal((20, 30), (1, 2))
    results = []
    for kernels in (Kernels(), Kernels(compiled=True)):
        with using(kernels), tf.GradientTape() as tape:
            tape.watch(values)
            outputs = function(values, tf.constant(SEED), salt=2)
        results.append((outputs.numpy(), tape.gradient(outputs, values).numpy()))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_allclose(results[0][1], (results[0][0] != 0) / (1 - rate), rtol=1e-6)


def test_inside_a_graph_of_unknown_size():
    signature = [tf.TensorSpec([None, 500]), tf.TensorSpec([2], tf.uint32)]
    function = tf.function(lambda values, seed: dropout(values, 0.5, seed), input_signature=signature)
    np.testing.assert_array_equal(function(tf.ones(SHAPE), SEED).numpy() > 0, kept())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_format_stays(dtype):
    assert dropout(tf.ones((3, 4), dtype), 0.5, tf.constant(SEED)).dtype == dtype
