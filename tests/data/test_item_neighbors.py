import numpy as np

from elcrec_tf.data.item_neighbors import REACH, item_neighbors
from tests.prepared import sharded
from tests.toy import random_sequences, sequences_of


def mask(num_items, *items):
    found = np.zeros(num_items + 1, bool)
    found[list(items)] = True
    return found


def test_nearer_items_count_more_and_held_out_events_not_at_all():
    # The training parts are 1 2 3 4 and 4 2; the last two events of each user are held out.
    sequences = sequences_of([1, 2, 3, 4, 5, 6], [4, 2, 1, 3], num_items=6)
    near = item_neighbors(sequences, mask(6, 4), mask(6, 1, 2, 3, 5)).toarray()
    expected = np.zeros((7, 7))
    expected[4, [1, 2, 3]] = 1 / 3, 1 / 2 + 1, 1
    np.testing.assert_allclose(near, expected)


def test_an_item_is_no_neighbour_of_its_own_and_reach_ends():
    items = [1, 1, *range(2, REACH + 3), 8, 8]
    near = item_neighbors(sequences_of(items, num_items=8), mask(8, 1), mask(8, *range(1, 9))).toarray()
    assert near[1, 1] == 0
    assert near[1, 2] == 1 + 1 / 2
    assert near[1, REACH + 1] == 1 / REACH and near[1, REACH + 2] == 0


def test_shards_say_the_same(tmp_path):
    sequences = random_sequences()
    wanted, known = mask(60, *range(1, 20)), mask(60, *range(15, 61))
    shards = sharded(sequences, tmp_path / "data")
    np.testing.assert_allclose(item_neighbors(shards, wanted, known).toarray(), item_neighbors(sequences, wanted, known).toarray())
