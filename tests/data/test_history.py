import numpy as np
import pytest
import tensorflow as tf

from elcrec_tf.data.history import latest_items, prepare_history


def prepared(items, max_length):
    return prepare_history(tf.constant(items, tf.int32), max_length).numpy().tolist()


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([0, 0, 0, 0], [0, 0, 0]),
        ([0, 0, 0, 7], [0, 0, 7]),
        ([1, 2, 0, 0], [0, 1, 2]),  # right-padded
        ([1, 0, 2, 0], [0, 1, 2]),  # an unknown item in between
        ([0, 1, 2, 3], [1, 2, 3]),
        ([1, 2, 3, 4], [2, 3, 4]),  # the latest are kept
        ([5, 5, 5, 1], [5, 5, 1]),  # repeats stay
    ],
)
def test_by_hand(items, expected):
    assert prepared([items], 3) == [expected]


@pytest.mark.parametrize("width", [0, 1, 3, 4, 5, 9])
def test_width_is_the_smaller_one(width):
    items = np.arange(1, 2 * width + 1).reshape(2, width)
    assert prepared(items, 4) == items[:, -4:].tolist()


def test_rows_are_independent_and_it_is_idempotent():
    rng = np.random.default_rng(0)
    items = rng.integers(1, 30, (50, 10)) * (rng.random((50, 10)) < 0.6)
    once = prepared(items, 6)
    assert once == [([0] * 6 + [int(item) for item in row if item])[-6:] for row in items]
    assert prepared(once, 6) == once


def test_inside_a_graph_of_unknown_width():
    function = tf.function(lambda items: prepare_history(items, 3), input_signature=[tf.TensorSpec([None, None], tf.int32)])
    assert function(tf.constant([[1, 0, 2, 3, 0, 4]])).numpy().tolist() == [[2, 3, 4]]
    assert function(tf.constant([[1, 0]])).numpy().tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (1, [[3], [0], [6]]),
        (2, [[2, 3], [0, 0], [5, 6]]),
        (4, [[0, 1, 2, 3], [0, 0, 0, 0], [0, 0, 5, 6]]),  # what stands before a window is another user's
        (9, [[0, 0, 0, 0, 0, 0, 1, 2, 3], [0] * 9, [0, 0, 0, 0, 0, 0, 0, 5, 6]]),
    ],
)
def test_latest_items_of_windows_by_hand(width, expected):
    items, windows = tf.constant([1, 2, 3, 4, 5, 6], tf.int32), np.int64([[0, 3], [3, 3], [4, 6]])
    assert latest_items(items, tf.constant(windows), width).numpy().tolist() == expected
    mapped = tf.data.Dataset.from_tensors(windows).map(lambda rows: latest_items(items, rows, width))
    assert next(iter(mapped)).numpy().tolist() == expected
