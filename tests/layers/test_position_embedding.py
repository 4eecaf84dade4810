import numpy as np
import pytest

from elcrec_tf.layers.position_embedding import PositionEmbedding
from tests.layers.check_layer import check_layer

TABLE = np.arange(8, dtype="float32").reshape(4, 2)


def layer():
    positions = PositionEmbedding(4)
    positions.build((None, None, 2))
    positions.table.assign(TABLE)
    return positions


def test_layer(tmp_path):
    check_layer(PositionEmbedding, {"max_length": 4}, (np.zeros((2, 4, 3), "float32"),), tmp_path)


@pytest.mark.parametrize("length", [0, 1, 3, 4])
def test_the_latest_item_has_the_last_position(length):
    output = np.asarray(layer()(np.ones((1, length, 2), "float32")))
    np.testing.assert_array_equal(output[0], 1 + TABLE[4 - length :])


def test_by_distance_to_the_latest_item():
    output = np.asarray(layer()(np.ones((2, 3, 2), "float32"), np.int32([[2, 1, 0], [1, 0, 3]])))
    np.testing.assert_array_equal(output, 1 + TABLE[[[1, 2, 3], [2, 3, 0]]])


def test_a_too_long_history_is_refused():
    with pytest.raises(ValueError, match="at most 4 items. Received: 5; prepare it first"):
        layer()(np.ones((1, 5, 2), "float32"))
