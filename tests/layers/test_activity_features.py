import numpy as np
import pytest

from elcrec_tf.layers.activity_features import ActivityFeatures, quartile_bounds
from tests.layers.check_layer import check_layer


def test_layer(tmp_path):
    seen = np.int32([[0, 1, 2, 3], [4, 5, 6, 7]])
    check_layer(ActivityFeatures, {"max_length": 7, "bounds": [2, 4]}, (np.ones((2, 4, 3), "float32"), seen), tmp_path)


def test_a_new_layer_changes_nothing():
    states = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    np.testing.assert_array_equal(ActivityFeatures(5, [2])(states, np.int32([[0, 1, 2], [3, 4, 5]])), states)


def test_vectors_by_hand():
    """Powers of two: 0, 1, 2-3, 4-7, 8. Groups: up to 2, up to 5, more."""
    layer = ActivityFeatures(8, [2, 5])
    layer.build((None, 1))
    layer.powers.assign([[0.0], [1.0], [2.0], [3.0], [4.0]])
    layer.groups.assign([[10.0], [20.0], [30.0]])
    added = np.asarray(layer(np.zeros((9, 1), "float32"), np.arange(9, dtype="int32")))[:, 0]
    assert added.tolist() == [10, 11, 12, 22, 23, 23, 33, 33, 34]


@pytest.mark.parametrize("bounds", [[2, 1], [2, 2]])
def test_bounds_that_do_not_ascend_are_refused(bounds):
    with pytest.raises(ValueError, match="`bounds` should be ascending. Received"):
        ActivityFeatures(8, bounds)


@pytest.mark.parametrize(
    ("lengths", "bounds"),
    [([1, 2, 3, 4, 5, 6, 7, 8, 9], [3, 5, 7]), ([2, 2, 2, 2, 2, 9], [2]), ([2, 2, 2, 3, 9], [2, 3]), ([4], [4]), ([], [])],
)
def test_quartile_bounds(lengths, bounds):
    assert quartile_bounds(*np.unique(np.array(lengths, np.int64), return_counts=True)) == bounds
