import math

import numpy as np
import pytest
from keras import ops

from elcrec_tf.ranking import exclude_items, ranking_metrics, ranks_in_blocks, target_ranks

NAN, INF = math.nan, math.inf
SCORES = np.float32([[9, 1, 5, 3, 4], [9, 2, 2, 7, 0]])  # column 0 is padding


def ranks(scores, targets, exclude):
    return np.asarray(target_ranks(exclude_items(np.float32(scores), np.int32(exclude)), np.int32(targets))).tolist()


def test_exclusion_by_hand():
    expected = [[-INF, 1, -INF, 3, -INF], [-INF, 2, 2, 7, -INF]]
    np.testing.assert_array_equal(exclude_items(SCORES, np.int32([[2, 4, 0], [0, 4, 4]])), expected)


def test_nothing_to_exclude_still_excludes_padding():
    np.testing.assert_array_equal(np.asarray(exclude_items(SCORES, np.zeros((2, 0), "int32")))[:, 0], -INF)
    np.testing.assert_array_equal(np.asarray(exclude_items(SCORES, np.zeros((2, 0), "int32")))[:, 1:], SCORES[:, 1:])


@pytest.mark.parametrize(
    ("scores", "target", "exclude", "rank"),
    [
        ([9, 1, 5, 3, 4], 2, [0], 0),  # the best; padding's 9 does not count
        ([9, 1, 5, 3, 4], 3, [0], 2),
        ([9, 1, 5, 3, 4], 3, [2, 4], 0),  # those before it are excluded
        ([9, 1, 5, 3, 4], 1, [0], 3),
        ([9, 2, 2, 2, 2], 1, [0], 3),  # all ties rank before it
        ([9, 2, 2, 2, 2], 1, [2], 2),  # an excluded tie does not
        ([9, 1, NAN, 3, 4], 4, [0], 1),  # a broken score ranks before it
        ([9, 1, NAN, 3, 4], 2, [0], 4),  # and is itself worst
        ([9] + [NAN] * 4, 2, [0], 4),
        ([9, 1, 5, 3, 4], 2, [2], 4),  # an excluded target is behind everything
        ([9, 1, 5, 3, 4], 2, [1, 2, 3, 4], 4),
        ([9, -INF, 5, 3, 4], 1, [0], 4),
        ([9, 1, INF, 3, 4], 4, [0], 1),
    ],
)
def test_rank_by_hand(scores, target, exclude, rank):
    assert ranks([scores], [target], [exclude]) == [rank]


def test_duplicates_in_the_exclusion_count_once():
    assert ranks(SCORES, [3, 1], [[2, 2, 2, 4], [3, 3, 0, 0]]) == ranks(SCORES, [3, 1], [[2, 4, 0, 0], [3, 0, 0, 0]])


def test_rank_equals_a_sorted_list():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(30, 41)).astype("float32")
    exclude = rng.integers(0, 41, (30, 12))
    targets = np.array([rng.choice(np.setdiff1d(np.arange(1, 41), row)) for row in exclude])
    expected = []
    for row, target, items in zip(scores, targets, exclude, strict=True):
        candidates = sorted(set(range(1, 41)) - set(items.tolist()), key=lambda item, row=row: -row[item])
        expected.append(candidates.index(target))
    assert ranks(scores, targets, exclude) == expected


def test_metrics_by_hand():
    """Ranks 0, 1, 6 and 30: gains 1/log2(2) = 1, 1/log2(3), 1/log2(8) = 1/3 and (beyond every cutoff) none."""
    metrics = ranking_metrics(np.array([0, 1, 6, 30]))
    third = 1 / math.log2(3)
    expected = {
        "HR@5": 2 / 4,
        "HR@10": 3 / 4,
        "HR@20": 3 / 4,
        "NDCG@5": (1 + third) / 4,
        "NDCG@10": (1 + third + 1 / 3) / 4,
        "NDCG@20": (1 + third + 1 / 3) / 4,
        "MRR": (1 + 1 / 2 + 1 / 7 + 1 / 31) / 4,
    }
    assert metrics == pytest.approx(expected)
    assert list(metrics) == list(expected)


def test_the_cutoff_itself_is_outside():
    """Rank 5 is the sixth place."""
    assert ranking_metrics(np.array([4]), (5,))["HR@5"] == 1
    assert ranking_metrics(np.array([5]), (5,))["HR@5"] == 0


def test_metrics_equal_naive_lists():
    """One relevant item: DCG is the gain at its place in the list of K, and the ideal DCG is 1."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 40, 200)
    for k in (1, 5, 20):
        hits, gains = [], []
        for rank in drawn:
            relevance = [int(place == rank) for place in range(k)]
            hits.append(max(relevance))
            gains.append(sum(relevant / math.log2(place + 2) for place, relevant in enumerate(relevance)))
        metrics = ranking_metrics(drawn, (k,))
        assert metrics[f"HR@{k}"] == pytest.approx(np.mean(hits))
        assert metrics[f"NDCG@{k}"] == pytest.approx(np.mean(gains))


def test_no_users_give_zero():
    assert set(ranking_metrics(np.array([], int)).values()) == {0.0}
    assert ranking_metrics(np.array([], int)).keys() == ranking_metrics(np.array([1])).keys()


def in_blocks(queries, keys, targets, exclude, block):
    def keys_of(items):
        return ops.take(keys, items, axis=0)

    return np.asarray(ranks_in_blocks(queries, np.int32(targets), np.int32(exclude), keys_of, len(keys) - 1, block)).tolist()


def at_once(queries, keys, targets, exclude):
    return ranks(queries @ keys.T, targets, exclude)


@pytest.mark.parametrize("block", [1, 4, 7, 29, 30, 64])
def test_blocks_rank_as_one(block):
    """Whatever the blocks' edges do to targets and excluded items; rows without target; a target that is itself excluded."""
    rng = np.random.default_rng(2)
    queries, keys = rng.normal(size=(6, 4)).astype("float32"), rng.normal(size=(30, 4)).astype("float32")
    targets, exclude = [1, 29, 8, 0, 15, 3], rng.integers(0, 30, (6, 9))
    exclude[4, 0] = 15
    assert in_blocks(queries, keys, targets, exclude, block) == at_once(queries, keys, targets, exclude)


@pytest.mark.parametrize("block", [3, 16])
def test_ties_and_nan_count_against_the_target_in_blocks_too(block):
    queries = np.float32([[1, 2], [np.nan, 1]])
    keys = np.tile(np.float32([[0.3, 0.7]]), (21, 1))
    exclude = [[4, 4, 0], [5, 0, 0]]
    assert in_blocks(queries, keys, [9, 9], exclude, block) == at_once(queries, keys, [9, 9], exclude) == [18, 20]
