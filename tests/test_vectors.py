import numpy as np
import tensorflow as tf

from elcrec_tf.vectors import unit


def test_unit_by_hand():
    np.testing.assert_allclose(unit(np.float32([[3, 4], [0, -2], [0, 0]])), [[0.6, 0.8], [0, -1], [0, 0]], rtol=1e-6)


def test_zero_vector_has_a_finite_gradient():
    vectors = tf.constant([[0.0, 0.0], [1.0, 1.0]])
    with tf.GradientTape() as tape:
        tape.watch(vectors)
        total = tf.reduce_sum(unit(vectors))
    assert np.isfinite(tape.gradient(total, vectors).numpy()).all()


def test_only_the_last_axis_is_normalised():
    vectors = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    np.testing.assert_allclose(np.linalg.norm(unit(vectors), axis=-1), np.ones((2, 3)), rtol=1e-5)
