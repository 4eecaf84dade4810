import keras
import numpy as np
import pytest

from elcrec_tf.layers.transition_memory import TransitionMemory

SUCCESSORS = np.int32([[0, 0], [2, 3], [3, 0], [0, 0]])
SHARES = np.float32([[0, 0], [0.5, 0.5], [1, 0], [0, 0]])


@pytest.fixture
def memory():
    layer = TransitionMemory(3, weight=2.0, width=2)
    layer.build()
    layer.remember(SUCCESSORS, SHARES)
    return layer


def test_additions_by_hand(memory):
    """After 1, 2: 3 comes with 1 from the latest item and 0.95 x 0.5 from the one before, 2 with 0.95 x 0.5. After 3 comes nothing."""
    added = np.asarray(memory(np.int32([[1, 2], [0, 1], [0, 3], [0, 0]])))
    expected = 2 * np.log1p(100 * np.array([[0, 0, 0.475, 1.475], [0, 0, 0.5, 0.5], [0, 0, 0, 0], [0, 0, 0, 0]]))
    np.testing.assert_allclose(added, expected, rtol=1e-6)


def test_padding_changes_nothing_and_only_the_latest_items_count(memory):
    history = np.int32([[1, 2, 1]])
    np.testing.assert_array_equal(memory(np.pad(history, [(0, 0), (60, 0)])), memory(history))
    full = np.int32([[3] * 50])
    np.testing.assert_array_equal(memory(np.pad(full, [(0, 0), (1, 0)], constant_values=1)), memory(full))


def test_round_trips(memory, tmp_path):
    assert TransitionMemory.from_config(memory.get_config()).get_config() == memory.get_config()
    history = keras.Input((None,), dtype="int32")
    model = keras.Model(history, memory(history))
    assert model.output_shape == (None, 4) and not model.trainable_weights
    model.save(tmp_path / "memory.keras")
    rows = np.int32([[1, 2], [0, 1]])
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "memory.keras").predict(rows, verbose=0), memory(rows))


@pytest.mark.parametrize("arguments", [{"weight": 0.0}, {"weight": 1.0, "width": 0}])
def test_values_out_of_bounds_are_refused(arguments):
    with pytest.raises(ValueError, match="`weight` should be above 0 and `width` at least 1. Received"):
        TransitionMemory(3, **arguments)


def test_what_is_not_remembered_gets_nothing(memory):
    history = np.int32([[1, 2], [0, 1], [0, 0]])
    remembered, added = np.asarray(memory.remembered(history)), np.asarray(memory(history))
    for items, row in zip(remembered, added, strict=True):
        assert set(np.flatnonzero(row[1:]) + 1) == set(items.tolist()) - {0}
