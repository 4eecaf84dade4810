import math

import numpy as np
import pytest

from elcrec_tf.layers.item_embedding import ItemEmbedding
from tests.layers.check_layer import check_layer

ITEMS = np.array([[0, 1, 2], [3, 4, 1]], "int32")
TABLE = np.array([[9, 9], [3, 4], [0, 2], [0, 0]], "float32")  # padding, then items at (3, 4), (0, 2) and (0, 0)


def embedding(**arguments):
    layer = ItemEmbedding(3, 2, **arguments)
    layer.build()
    layer.table.assign(TABLE)
    return layer


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize("score", ["dot", "cosine"])
def test_layer(score, tmp_path):
    # A cosine's temperature plays no part in looking items up, so the train step leaves it alone.
    arguments = {"num_items": 4, "hidden_size": 3, "score": score, "score_temperature": 0.2}
    output = check_layer(ItemEmbedding, arguments, (ITEMS,), tmp_path, trains=score == "dot")
    assert output.shape == (2, 3, 3)


def test_rows_are_looked_up():
    np.testing.assert_array_equal(embedding()(ITEMS[:, :2] % 4), TABLE[ITEMS[:, :2] % 4])


def scores(layer, states):
    return np.asarray(layer.queries(np.float32(states)) @ np.asarray(layer.keys()).T)[:, 1:]


def test_dot_scores_by_hand():
    np.testing.assert_allclose(scores(embedding(score="dot"), [[1, 2], [0, -1]]), [[11, 4, 0], [-4, -2, 0]])


def test_cosine_scores_by_hand():
    """State (0, 5): cosines 4/5 and 1 with the first two items, times 1/temperature = 10. The zero vector has cosine 0 with all."""
    layer = embedding(score="cosine", score_temperature=0.1)
    np.testing.assert_allclose(scores(layer, [[0, 5], [0, 0]]), [[8, 10, 0], [0, 0, 0]], rtol=1e-5)


def test_cosine_scores_ignore_lengths_but_not_the_learned_temperature():
    layer = embedding(score="cosine", score_temperature=0.5)
    states = np.array([[1.0, 3.0]])
    once = scores(layer, states)
    np.testing.assert_allclose(scores(layer, 7 * states), once, rtol=1e-5)
    layer.log_scale.assign(math.log(6))  # the temperature goes from 1/2 to 1/6
    np.testing.assert_allclose(scores(layer, states), 3 * once, rtol=1e-5)


def test_the_temperature_stays_above_1_64():
    """So that the exponential of a score is finite: exp(64) is 6e27."""
    layer = embedding(score="cosine")
    layer.log_scale.assign(math.log(1000))
    np.testing.assert_allclose(scores(layer, [[0, 5]]), [[64 * 0.8, 64, 0]], rtol=1e-5)


def test_temperature_is_a_trainable_weight_of_the_cosine_only():
    assert [weight.name for weight in embedding(score="cosine").trainable_weights] == ["table", "log_scale"]
    assert [weight.name for weight in embedding(score="dot").trainable_weights] == ["table"]


@pytest.mark.parametrize("arguments", [{"score": "euclid"}, {"score_temperature": 0.0}, {"score_temperature": math.nan}])
def test_invalid_arguments(arguments):
    with pytest.raises(ValueError, match=f"`{next(iter(arguments))}` should be"):
        ItemEmbedding(3, 2, **arguments)
