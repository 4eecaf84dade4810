import math
from collections import Counter

import numpy as np
import pytest

from elcrec_tf.config import AugmentConfig
from elcrec_tf.data.item_similarity import nearest_items, similar_items
from tests.toy import random_sequences, sequences_of


def test_nearest_by_hand():
    """Training parts 1 2, 1 2 3, 3 4 and 5; the last two events of each user are held out.

    Item 1: with 2 twice, 1 / log 3 + 1 / log 4 over sqrt(2 2) = .82; with 3 once, 1 / log 4 over 2 = .36. Item 3: with 4 once, 1 / log 3
    over sqrt(2 1) = .64. Item 5 has no other.
    """
    sequences = sequences_of([1, 2, 6, 6], [1, 2, 3, 6, 5], [3, 4, 5, 1], [5, 6, 1], num_items=7)
    assert nearest_items(sequences).tolist() == [0, 2, 1, 4, 3, 5, 6, 7]


def test_the_first_of_equals_is_taken():
    assert nearest_items(sequences_of([3, 1, 2, 4, 4])).tolist()[1:] == [2, 1, 1, 4]


def test_a_user_counts_once_however_often_an_item_repeats():
    """2 is with 1 at two users; 3 as often as 2, but at one of them."""
    sequences = sequences_of([1, 2, 9, 9], [1, 2, 3, 3, 3, 3, 9, 9], num_items=9)
    assert nearest_items(sequences)[1] == 2


def naive(sequences):
    users = [sorted(set(sequences[user].tolist()[:-2])) for user in range(sequences.num_users)]
    owners = Counter(item for items in users for item in items)
    together = Counter()
    for items in users:
        together.update({(i, j): 1 / math.log(1 + len(items)) for i in items for j in items if i != j})
    nearest = np.arange(sequences.catalog.num_items + 1)
    for i in range(1, len(nearest)):
        found = [(-round(together[i, j] / math.sqrt(owners[i] * owners[j]), 9), j) for j in owners if together[i, j]]
        nearest[i] = min(found, default=(0, i))[1]
    return nearest


@pytest.mark.parametrize("pairs", [1, 40, 10_000])
def test_it_equals_a_naive_count_however_it_is_cut_into_blocks(pairs):
    sequences = random_sequences(num_users=50, num_items=30, seed=1)
    np.testing.assert_array_equal(nearest_items(sequences, pairs), naive(sequences))


def test_held_out_events_change_nothing():
    rng = np.random.default_rng(0)
    users = [rng.integers(1, 20, 8).tolist() for _ in range(30)]
    changed = [[*user[:-2], *rng.integers(1, 20, 2).tolist()] for user in users]
    nearest, other = (nearest_items(sequences_of(*one, num_items=20)) for one in (users, changed))
    np.testing.assert_array_equal(nearest, other)


@pytest.mark.parametrize(("names", "needed"), [(("crop", "dropout"), False), (("crop", "insert"), True), (("substitute",), True)])
def test_only_what_needs_it_computes_it(names, needed):
    sequences = sequences_of([1, 2, 3, 4])
    similar = similar_items(sequences, AugmentConfig(augmentations=names))
    assert (similar is not None) == needed
    assert similar is None or similar.numpy().tolist() == [0, 2, 1, 3, 4]
