import numpy as np
import pytest

from elcrec_tf.baselines import markov_chain_ranks
from tests.toy import random_sequences, sequences_of


def test_ranks_by_hand():
    """From 1: 2 twice, 3 once; the rest by popularity, 4 before 5 and 6, which are as popular as each other.

    u is at 1, target 2: rank 0. v is at 1, target 4: 2 and 3 come first, rank 2. w is at 1, target 5: 2, 3, 4 first, and 6 ties: rank 4.
    x is at 2, target 3, which never came after 2, nor did anything: by popularity, 1 is in its history, so only 4 comes first.
    """
    users = ([1, 2, 1, 2, 1, 3, 9, 9], [7, 1, 2, 8], [7, 1, 4, 8], [7, 1, 5, 8], [1, 2, 3, 8])
    sequences = sequences_of(*users, num_items=9, counts=[9, 0, 1, 3, 0, 0, -1, -1, -1])
    for batch_size in (2, 64):
        assert markov_chain_ranks(sequences, "validation", batch_size).tolist()[1:] == [0, 2, 4, 1]


def naive(sequences, back):
    """By loops: transitions first, popularity second, the whole history excluded, ties against the target."""
    counts, after = sequences.catalog.counts, np.zeros((sequences.catalog.num_items + 1,) * 2)
    for user in range(sequences.num_users):
        train = sequences[user].tolist()[:-2]
        for first, second in zip(train, train[1:], strict=False):
            after[first, second] += 1
    ranks = []
    for user in range(sequences.num_users):
        history, target = sequences[user].tolist()[:-back], sequences[user][-back]

        def score(item, latest=history[-1]):
            return after[latest, item], counts[item - 1]

        others = set(range(1, sequences.catalog.num_items + 1)) - set(history) - {target}
        ranks.append(sum(score(item) >= score(target) for item in others))
    return ranks


@pytest.mark.parametrize(("split", "back"), [("validation", 2), ("test", 1)])
def test_ranks_equal_a_naive_ranking(split, back):
    sequences = random_sequences(num_users=40, num_items=25, longest=14, seed=2)
    sequences.catalog.counts[:] = np.random.default_rng(0).integers(0, 9, 25)
    np.testing.assert_array_equal(markov_chain_ranks(sequences, split, 16), naive(sequences, back))
