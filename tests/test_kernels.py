import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from elcrec_tf.kernels import Kernels, as_operand, exp, fused, matmul, using

CHAINS = Kernels(compiled=True)
HALF = Kernels("bfloat16")
RNG = np.random.default_rng(0)
A, B = (RNG.normal(size=(4, 3)).astype("float32") for _ in range(2))
ROWS = np.int32([2, 0, 2])


@fused
def one_of_each(a, b, rows, *, scale, square=False):
    """Two outputs of two floating inputs and an integer one."""
    taken = ops.take(a, rows, axis=0) * scale
    return ops.sum(ops.square(taken) if square else taken, axis=-1), ops.tanh(a * b) + scale


@fused
def scalar(a, b):
    return ops.sum(a * ops.exp(b))


@fused
def ignores_the_second(a, b):
    return a * 2


def values_and_gradients(function, *tensors, upstream=None):
    """(outputs, gradients by the tensors) with a weighted sum of the outputs as the loss."""
    tensors = [tf.constant(one) for one in tensors]
    with tf.GradientTape() as tape:
        tape.watch([one for one in tensors if one.dtype.is_floating])
        outputs = function(*tensors)
        flat = tf.nest.flatten(outputs)
        loss = sum(tf.reduce_sum(one * (index + 2.0)) for index, one in enumerate(flat))
    return flat, tape.gradient(loss, tensors)


def check_equal(function, *tensors):
    plain = values_and_gradients(function, *tensors)
    with using(CHAINS):
        compiled = values_and_gradients(function, *tensors)
    for ours, theirs in zip(compiled[0] + compiled[1], plain[0] + plain[1], strict=True):
        if theirs is None:  # the compiled function cannot tell: it gives zeros
            assert ours is None or not np.any(ours)
        else:
            assert ours.dtype == theirs.dtype
            np.testing.assert_allclose(tf.convert_to_tensor(ours), tf.convert_to_tensor(theirs), rtol=1e-5, atol=1e-6)
    return compiled


@pytest.mark.parametrize("square", [False, True])
def test_compiled_values_and_gradients_are_the_plain_ones(square):
    def function(a, b, rows):
        return one_of_each(a, b, rows, scale=3.0, square=square)

    _, (_, _, to_rows) = check_equal(function, A, B, ROWS)
    assert to_rows is None  # an integer has no gradient


def test_a_single_output():
    check_equal(scalar, A, B)


def test_an_ignored_tensor_has_gradient_zero():
    _, (to_first, to_second) = check_equal(ignores_the_second, A, B)
    np.testing.assert_array_equal(to_first, np.full((4, 3), 4.0))
    np.testing.assert_array_equal(to_second, np.zeros((4, 3)))


def test_inside_a_graph_of_a_train_step():
    @tf.function
    def step(a, b):
        with tf.GradientTape() as tape:
            tape.watch((a, b))
            loss = scalar(a, b)
        return tape.gradient(loss, (a, b))

    with using(CHAINS):
        ours = step(tf.constant(A), tf.constant(B))
    for gradient, expected in zip(ours, (np.exp(B), A * np.exp(B)), strict=True):
        np.testing.assert_allclose(gradient, expected, rtol=1e-5)


def test_variables_and_gradients_of_lookups_are_taken_as_tensors():
    variable = keras.Variable(A)
    with tf.GradientTape() as tape:
        lookup = tf.reduce_sum(tf.gather(variable.value, ROWS))
    sparse = tape.gradient(lookup, variable.value)
    assert isinstance(sparse, tf.IndexedSlices)
    with using(CHAINS):
        np.testing.assert_array_equal(ignores_the_second(variable, 0.0), 2 * A)
        np.testing.assert_array_equal(ignores_the_second(sparse, 0.0), 2 * np.float32([[1, 1, 1], [0, 0, 0], [2, 2, 2], [0, 0, 0]]))


def test_a_gradient_reaches_a_variable():
    variable = keras.Variable(A)
    with using(CHAINS), tf.GradientTape() as tape:
        loss = scalar(variable, B)
    np.testing.assert_allclose(tape.gradient(loss, variable.value), np.exp(B), rtol=1e-5)


class Counted:
    """A fused function that counts how often Python runs it: each time when it is plain, once a trace when it is compiled."""

    def __init__(self):
        self.runs = []

        def function(a, *, power=1):
            self.runs.append(power)
            return a**power

        self.call = fused(function)


def test_it_is_traced_once_for_each_shape_and_each_set_of_plain_values():
    counted = Counted()
    with using(CHAINS):
        for _ in range(3):
            assert counted.call(tf.constant(3.0), power=2).numpy() == 9
            assert counted.call(tf.constant(3.0), power=3).numpy() == 27
        assert counted.runs == [2, 3]
        counted.call(tf.constant([3.0, 4.0]), power=3)
        assert counted.runs == [2, 3, 3]


def test_outside_using_it_is_plain():
    counted = Counted()
    for _ in range(3):
        counted.call(tf.constant(3.0))
    with using(HALF):
        counted.call(tf.constant(3.0))
    assert len(counted.runs) == 4


def test_using_ends_with_its_block_even_by_an_error():
    with pytest.raises(ZeroDivisionError), using(HALF):
        with using(Kernels("float32")):
            assert as_operand(tf.constant(A)).dtype == tf.float32
        assert as_operand(tf.constant(A)).dtype == tf.bfloat16
        raise ZeroDivisionError
    assert as_operand(tf.constant(A)).dtype == tf.float32


@pytest.mark.parametrize("transpose_b", [False, True])
def test_products_round_their_operands_to_the_chosen_format(transpose_b):
    right = B if transpose_b else B.T
    plain = matmul(tf.constant(A), tf.constant(right), transpose_b)
    np.testing.assert_allclose(plain, A @ B.T, rtol=1e-5)
    with using(HALF):
        half = matmul(tf.constant(A), keras.Variable(right), transpose_b)
    assert (plain.dtype, half.dtype) == (tf.float32, tf.bfloat16)
    np.testing.assert_allclose(tf.cast(half, tf.float32), A @ B.T, rtol=0.02, atol=0.02)


def test_a_product_of_half_precision_has_gradients_in_full():
    a, b = tf.constant(A), tf.constant(B.T)
    with using(HALF), tf.GradientTape() as tape:
        tape.watch((a, b))
        loss = tf.reduce_sum(tf.cast(matmul(a, b), tf.float32))
    for gradient, one in zip(tape.gradient(loss, (a, b)), (a, b), strict=True):
        assert gradient.dtype == tf.float32 and gradient.shape == one.shape


# --- exponential ------------------------------------------------------------------------------------------------------


def exponentials(values, kernels):
    """(ours, exact) of bfloat16 values."""
    values = tf.cast(values, tf.bfloat16)
    with using(kernels):
        ours = exp(values)
    assert ours.dtype == tf.bfloat16
    return tf.cast(ours, tf.float32).numpy(), np.exp(tf.cast(values, tf.float32).numpy().astype(np.float64))


def test_the_exponential_in_bfloat16_is_as_good_as_the_format():
    """0.3 % of its own, and up to 0.4 % (half of the last of 8 bits) by rounding to bfloat16."""
    ours, exact = exponentials(np.linspace(-80, 80, 20_001).astype("float32"), CHAINS)
    assert np.abs(ours / exact - 1).max() < 0.007
    assert np.abs(np.mean(ours / exact - 1)) < 0.001  # so sums are better


def test_the_exponential_of_zero_is_one():
    np.testing.assert_array_equal(exponentials(np.float32([0.0, -0.0]), CHAINS)[0], 1)


def test_the_exponential_of_very_small_values_is_nothing():
    """A row's largest logit is subtracted from dot scores: the others may be hundreds below."""
    ours, _ = exponentials(np.float32([-87, -88, -100, -200, -300, -600, -1e4]), CHAINS)
    assert (ours >= 0).all() and ours.max() < 1e-30


@pytest.mark.parametrize("kernels", [Kernels(), HALF], ids=str)
def test_the_exponential_is_the_plain_one_where_nothing_is_compiled(kernels):
    ours, exact = exponentials(np.linspace(-80, 80, 999).astype("float32"), kernels)
    np.testing.assert_allclose(ours, exact, rtol=2**-8)


def test_the_exponential_in_float32_is_exact():
    values = tf.linspace(-80.0, 80.0, 999)
    with using(CHAINS):
        np.testing.assert_array_equal(exp(values), tf.exp(values))
