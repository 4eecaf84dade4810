import numpy as np
import pytest
import tensorflow as tf

from elcrec_tf.serving import search
from elcrec_tf.serving.inverted_lists import InvertedLists, default_count, divide, fewest_probes, recall_by_probes
from elcrec_tf.serving.search import ExactSearch, ListSearch, without


def keys_and_queries(items=101, queries=7, size=6, seed=0):
    rng = np.random.default_rng(seed)
    keys = rng.normal(size=(items + 1, size)).astype("float32")
    return tf.constant(keys), tf.constant(rng.normal(size=(queries, size)).astype("float32"))


def by_hand(keys, queries, k):
    scores = queries.numpy() @ keys.numpy()[1:].T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), order + 1


def asked(one, queries, k):
    return [value.numpy() for value in tf.function(one.best)(queries, tf.constant(k))]


@pytest.mark.parametrize("block", [1, 10, 51, 100, 5000])
@pytest.mark.parametrize("k", [1, 12, 101])
def test_blocks_find_what_all_items_at_once_find(block, k):
    keys, queries = keys_and_queries()
    scores, items = by_hand(keys, queries, k)
    found = asked(ExactSearch(keys, block), queries, k)
    np.testing.assert_array_equal(found[1], items)
    np.testing.assert_allclose(found[0], scores, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("block", [3, 8, 20])
def test_of_equal_scores_the_smaller_index_comes_first_across_blocks(block):
    keys = tf.constant([[0.0]] + [[1.0]] * 20)
    assert asked(ExactSearch(keys, block), tf.constant([[1.0]]), 9)[1].tolist() == [list(range(1, 10))]


@pytest.mark.parametrize("count", [1, 9, 101])
@pytest.mark.parametrize("k", [5, 101])
def test_all_lists_find_what_exact_search_finds(count, k):
    keys, queries = keys_and_queries()
    of_lists = ListSearch(keys, divide(keys[1:].numpy(), count), count)
    for ours, exact in zip(asked(of_lists, queries, k), asked(ExactSearch(keys), queries, k), strict=True):
        np.testing.assert_allclose(ours, exact, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(of_lists.keys_of(tf.constant([[0, 3], [101, 50]])), tf.gather(keys, [[0, 3], [101, 50]]))


def test_a_division_holds_every_item_once():
    keys, _ = keys_and_queries(items=500)
    lists = divide(keys[1:].numpy(), 30)
    assert sorted(lists.items.tolist()) == list(range(1, 501))
    assert lists.starts[0] == 0 and lists.starts[-1] == 500 and len(lists.starts) == 31
    for start, end in zip(lists.starts, lists.starts[1:], strict=False):
        assert (np.diff(lists.items[start:end]) > 0).all()


LISTS = InvertedLists(np.array([2, 4, 1, 3, 5]), np.array([0, 2, 2, 5]), np.float32([[1, 0], [0.5, 0.5], [0, 1]]))
KEYS = tf.constant([[9.0, 9], [0, 1], [1, 0], [0, 2], [2, 0], [0, 3]])


def test_few_lists_find_their_items_alone(monkeypatch):
    """The query is nearest to the first list, items 2 and 4, then to the empty one, then to the third with 1, 3 and 5."""
    query = tf.constant([[1.0, 0]])
    scores, items = asked(ListSearch(KEYS, LISTS, 1), query, 2)
    assert (scores.tolist(), items.tolist()) == ([[2, 1]], [[4, 2]])
    # Three items are more than the first two lists hold: the third one is looked into.
    assert asked(ListSearch(KEYS, LISTS, 1), query, 3)[1].tolist() == [[4, 2, 1]]
    monkeypatch.setattr(search, "SPARE", 1)
    scores, items = asked(ListSearch(KEYS, LISTS, 1), query, 4)
    assert scores.tolist() == [[2, 1, -np.inf, -np.inf]]
    assert items[0, :2].tolist() == [4, 2]


def test_recall_by_probes_by_hand():
    """The first query looks into lists 0, 1, 2 in this order, the second one into 2, 1, 0.

    Of (4, 2, 5) the first one finds two with one list and all with three; of (5, 3, 2) the second one the same.
    """
    recalls = recall_by_probes(LISTS, np.float32([[1, 0], [0, 1]]), np.array([[4, 2, 5], [5, 3, 2]]))
    np.testing.assert_allclose(recalls, [4 / 6, 4 / 6, 1])
    assert [fewest_probes(recalls, target) for target in (0.1, 4 / 6, 0.7, 1.0)] == [1, 1, 3, 3]


def test_predicted_recall_is_that_of_the_search():
    keys, queries = keys_and_queries(items=800, queries=40)
    lists = divide(keys[1:].numpy(), 25)
    best = by_hand(keys, queries, 20)[1]
    recalls = recall_by_probes(lists, queries.numpy(), best)
    for probes in (1, 4, 25):
        found = asked(ListSearch(keys, lists, probes), queries, 20)[1]
        hits = np.mean([np.isin(row, true).sum() / 20 for row, true in zip(found, best, strict=True)])
        # A list that holds fewer items than were asked for lets a question look further.
        assert recalls[probes - 1] - 1e-6 <= hits <= recalls[probes - 1] + (0.1 if probes == 1 else 1e-6)


def test_clustered_items_need_few_lists():
    rng = np.random.default_rng(1)
    keys = (np.repeat(rng.normal(size=(20, 8)), 50, axis=0) + rng.normal(size=(1000, 8)) / 20).astype("float32")
    lists = divide(keys, 40)
    best = by_hand(tf.constant(np.vstack([keys[:1], keys])), tf.constant(keys[::50]), 20)[1]
    assert fewest_probes(recall_by_probes(lists, keys[::50], best), 0.95) <= 10


@pytest.mark.parametrize(("items", "lists"), [(1, 1), (3, 3), (100, 20), (1_000_000, 2000)])
def test_default_number_of_lists(items, lists):
    assert default_count(items) == lists


def test_what_is_excluded_is_left_out_of_what_was_found():
    scores, items = tf.constant([[5.0, 4, 3, 3], [5, 4, 3, -np.inf]]), tf.constant([[7, 2, 9, 4], [1, 2, 3, 0]])
    best, left = without(scores, items, tf.constant([[2, 0, 2], [3, 1, 8]]), 3)
    assert best.numpy().tolist() == [[5, 3, 3], [4, -np.inf, -np.inf]]
    assert left.numpy()[0].tolist() == [7, 9, 4] and left.numpy()[1, 0] == 2
    best, left = without(scores, items, tf.zeros([2, 0], tf.int32), 2)
    assert left.numpy().tolist() == [[7, 2], [1, 2]]
