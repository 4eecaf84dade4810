import numpy as np
import pytest
from keras import ops

from elcrec_tf.masking import MASKED_SCORE, attention_bias, earlier_items, masked_mean, slot_mean, valid_mask, weighted_mean

HISTORY = np.array([[0, 0, 5], [7, 5, 6]], "int32")


def test_valid_is_true_where_there_is_an_item():
    np.testing.assert_array_equal(valid_mask(HISTORY), [[False, False, True], [True, True, True]])


def test_bias_by_hand():
    no, yes = MASKED_SCORE, 0
    expected = [[[no, no, no], [no, no, no], [no, no, yes]], [[yes, no, no], [yes, yes, no], [yes, yes, yes]]]
    np.testing.assert_array_equal(np.asarray(attention_bias(valid_mask(HISTORY), "float32"))[:, 0], expected)


def test_bias_keeps_histories_in_one_row_apart():
    """Two items of slot 0, then a padded slot 1, then a cell of no slot (2)."""
    no, yes = MASKED_SCORE, 0
    history, slot = np.int32([[7, 5, 0, 6, 0]]), np.int32([[0, 0, 1, 1, 2]])
    expected = [[yes, no, no, no, no], [yes, yes, no, no, no], [no] * 5, [no, no, no, yes, no], [no] * 5]
    np.testing.assert_array_equal(np.asarray(attention_bias(valid_mask(history), "float32", slot))[0, 0], expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_bias_is_finite_in_half_precision(dtype):
    assert np.isfinite(np.asarray(attention_bias(valid_mask(HISTORY), dtype), "float32")).all()


def test_earlier_items_by_hand():
    """Two histories in a row, the second with a hidden item in its middle; padding in front."""
    valid = np.array([[False, True, True, True, False, True]])
    slot = np.int32([[0, 0, 0, 1, 1, 1]])
    expected = [[False, False], [False, False], [True, False], [False, False], [True, False], [False, True]]
    np.testing.assert_array_equal(earlier_items(valid, 2, slot)[0], expected)
    alone = [[False, False], [False, False], [True, False], [True, True], [True, True], [False, True]]
    np.testing.assert_array_equal(earlier_items(valid, 2)[0], alone)


def test_masked_mean_by_hand():
    states = np.float32([[[8], [8], [2]], [[1], [2], [6]], [[1], [1], [1]]])
    valid = np.array([[False, False, True], [True, True, True], [False, False, False]])
    np.testing.assert_allclose(masked_mean(states, valid), [[2], [3], [0]])


def test_slot_mean_by_hand():
    """Slot 1 lies in two pieces, slot 2 has no cell that counts, slot 3 no cell at all; the last cell belongs to none (4)."""
    states = np.float32([[4], [1], [8], [3], [5], [100]])
    counted, slot = np.array([True, True, False, True, False, True]), np.int32([0, 1, 0, 1, 2, 4])
    np.testing.assert_allclose(slot_mean(states, counted, slot, 4), [[4], [2], [0], [0]])


def test_slot_mean_counts_beyond_what_bfloat16_can():
    states, slot = ops.ones((512, 1), "bfloat16"), ops.zeros(512, "int32")
    mean = slot_mean(states, ops.ones(512, "bool"), slot, 1)
    assert mean.dtype == "bfloat16" and float(mean[0, 0]) == 1


def test_weighted_mean_by_hand():
    """A zero value with weight 1 counts; no weight at all gives 0."""
    assert float(weighted_mean(np.float32([4, 0, 9]), np.float32([1, 1, 0]))) == 2
    assert float(weighted_mean(np.float32([4, 0, 9]), np.float32([0, 0, 0]))) == 0
