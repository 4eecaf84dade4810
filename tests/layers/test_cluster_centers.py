import keras
import numpy as np
import pytest

from elcrec_tf.layers.cluster_centers import ClusterCenters
from tests.layers.check_layer import check_layer

RNG = np.random.default_rng(0)
EMBEDDINGS = RNG.normal(size=(4, 5, 3)).astype("float32")


def axes():
    """Three centres on the axes x, y and -x."""
    layer = ClusterCenters(3)
    layer.build((None, 2))
    layer.assign_centers(np.array([[2.0, 0.0], [0.0, 0.5], [-1.0, 0.0]]))
    return layer


def lengths(layer):
    return np.linalg.norm(np.asarray(layer.centers), axis=-1)


def test_layer(tmp_path):
    assert check_layer(ClusterCenters, {"num_clusters": 6}, (EMBEDDINGS,), tmp_path).shape == (4, 5, 6)


def test_dot_products_by_hand():
    np.testing.assert_allclose(axes()(np.float32([[3, 4], [-1, 0]])), [[3, 4, -3], [-1, 0, 1]])


def test_nearest_by_hand():
    nearest = axes().nearest(np.float32([[[3, 1], [1, 3]], [[-2, 1], [0, -1]]]))
    # The last one is at 90 degrees to x and -x and at 180 to y: the first of the equals is taken.
    np.testing.assert_array_equal(nearest, [[[1, 0], [0, 1]], [[-1, 0], [1, 0]]])


def test_take_by_index():
    np.testing.assert_array_equal(axes().take(np.int32([2, 0])), [[-1, 0], [1, 0]])


def test_nearest_by_dot_is_nearest_by_distance():
    layer = ClusterCenters(20)
    nearest = np.asarray(layer(EMBEDDINGS)).argmax(-1)
    distances = np.linalg.norm(EMBEDDINGS[..., None, :] - np.asarray(layer.centers), axis=-1)
    np.testing.assert_array_equal(nearest, distances.argmin(-1))


def test_centres_start_and_are_assigned_on_the_sphere():
    layer = ClusterCenters(7)
    layer.build((None, 5))
    np.testing.assert_allclose(lengths(layer), 1, rtol=1e-5)
    layer.assign_centers(RNG.normal(size=(7, 5)) * 30)
    np.testing.assert_allclose(lengths(layer), 1, rtol=1e-5)


def test_centres_stay_on_the_sphere_after_an_optimizer_step():
    layer = ClusterCenters(6)
    model = keras.Sequential([keras.Input((3,)), layer])
    model.compile(keras.optimizers.Adam(0.5), loss="mse", run_eagerly=True)
    before = keras.ops.convert_to_numpy(layer.centers).copy()
    model.train_on_batch(EMBEDDINGS[0], np.ones((5, 6), "float32"))
    assert np.abs(np.asarray(layer.centers) - before).max() > 0.1
    np.testing.assert_allclose(lengths(layer), 1, rtol=1e-5)


def test_gradients_reach_the_chosen_centres_only():
    import tensorflow as tf

    layer = axes()
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(layer.nearest(np.float32([[3, 1], [4, 1]])))
    gradient = tf.convert_to_tensor(tape.gradient(total, layer.centers.value))
    np.testing.assert_array_equal(gradient, [[2, 2], [0, 0], [0, 0]])


@pytest.mark.parametrize("count", [0, 1])
def test_one_centre_is_refused(count):
    with pytest.raises(ValueError, match=f"`num_clusters` should be at least 2. Received: num_clusters={count}"):
        ClusterCenters(count)


def test_a_retirable_layer(tmp_path):
    assert check_layer(ClusterCenters, {"num_clusters": 6, "retirable": True}, (EMBEDDINGS,), tmp_path).shape == (4, 5, 6)


def test_retired_centres_are_nearest_to_nothing():
    layer = ClusterCenters(3, retirable=True)
    layer.build((None, 2))
    np.testing.assert_array_equal(layer.in_use(), [0, 1, 2])
    layer.keep(np.array([[2.0, 0.0], [0.0, 0.5]]))
    np.testing.assert_array_equal(layer.in_use(), [0, 1])
    np.testing.assert_allclose(np.asarray(layer.centers)[:2], [[1, 0], [0, 1]])
    toward_the_third = np.asarray(layer.centers)[2:]
    assert np.asarray(layer(toward_the_third)).argmax() in (0, 1)
    assert np.abs(np.asarray(layer.nearest(toward_the_third)) - toward_the_third).max() > 1e-3
