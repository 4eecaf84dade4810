import numpy as np
import pytest
from scipy import sparse

from elcrec_tf import evaluation
from elcrec_tf.data.pipeline import ranking_batches
from elcrec_tf.evaluation import Ranker, count_ranks, evaluate_model, popularity_ranks
from elcrec_tf.ranking import exclude_items, ranking_metrics, target_ranks
from tests.toy import random_sequences, sequences_of, toy_model

MAX_LENGTH = 6
BACK = {"validation": 2, "test": 1}


@pytest.fixture(scope="module")
def sequences():
    """Histories from 3 to 40 events, many longer than the model sees; some need a wider batch than others."""
    return random_sequences(num_users=23, num_items=45, longest=40)


@pytest.fixture(scope="module")
def model():
    return toy_model(num_items=45, max_length=MAX_LENGTH)


def naive(model, sequences, split):
    """(ranks, intents) by sets and loops; every item of the whole history is left out."""
    events = [sequences[user].tolist() for user in range(sequences.num_users)]
    histories = [one[: -BACK[split]] for one in events]
    latest = np.int32([([0] * MAX_LENGTH + history)[-MAX_LENGTH:] for history in histories])
    ranks = []
    for one, history, scores in zip(events, histories, np.asarray(model.scores(latest)), strict=True):
        target = one[-BACK[split]]
        others = set(range(1, sequences.catalog.num_items + 1)) - set(history) - {target}
        ranks.append(sum(scores[item] >= scores[target] for item in others))
    return ranks, np.asarray(model(latest)["intents"]).argmax(-1)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_ranker_equals_a_naive_ranking_whatever_the_batch_size(model, sequences, split):
    ranks, intents = naive(model, sequences, split)
    ranker = Ranker(model)
    for batch_size in (4, 64):
        result = ranker.rank(ranking_batches(sequences, split, batch_size, MAX_LENGTH))
        np.testing.assert_array_equal(result["rank"], ranks)
        np.testing.assert_array_equal(result["intent"], intents)


def test_a_share_without_users_has_no_ranks(model, sequences):
    empty = ranking_batches(sequences, "test", 64, MAX_LENGTH).share(90, 91)
    whole = Ranker(model).rank(ranking_batches(sequences, "test", 64, MAX_LENGTH))
    assert {name: (values.shape, values.dtype) for name, values in Ranker(model).rank(empty).items()} == {
        name: ((0,), values.dtype) for name, values in whole.items()
    }


def test_evaluation_is_the_metrics_of_these_ranks(model, sequences):
    ranks, _ = naive(model, sequences, "test")
    assert evaluate_model(model, sequences, "test", batch_size=5) == pytest.approx(ranking_metrics(np.array(ranks)))


def test_items_beyond_the_models_sight_are_excluded_too(model):
    """40 of 45 items are in the history, 6 of them seen: the target competes with the 4 others."""
    history = list(range(1, 41))
    ranks = Ranker(model).rank(ranking_batches(sequences_of([*history, 41], num_items=45), "test", 2, MAX_LENGTH))["rank"]
    assert 0 <= ranks[0] <= 4


def test_a_target_that_repeats_the_history_is_a_certain_miss(model):
    """The protocol excludes it."""
    ranks = Ranker(model).rank(ranking_batches(sequences_of([1, 2, 3, 2], num_items=45), "test", 2, MAX_LENGTH))["rank"]
    assert ranks.tolist() == [45]


def test_popularity_by_hand():
    """Counts 3, 1, 2, 0, 2 of items 1 to 5.

    u: history 1, target 5. 1 is excluded, 3 ties and counts against the target: rank 1.
    v: history 2 3, target 1, the most popular: rank 0.
    w: history 5 1 2, target 4. 3 is more popular, and 6, as little used as the target, ties: rank 2.
    """
    sequences = sequences_of([1, 5, 6], [2, 3, 1, 6], [5, 1, 2, 4, 6], counts=[3, 1, 2, 0, 2, 0])
    for batch_size in (2, 1024):
        np.testing.assert_array_equal(popularity_ranks(sequences, "validation", batch_size), [1, 0, 2])


def test_large_catalogues_rank_in_blocks_as_at_once(model, sequences, monkeypatch):
    data = ranking_batches(sequences, "test", 5, MAX_LENGTH)
    expected = Ranker(model).rank(data)
    monkeypatch.setattr(evaluation, "MOST_AT_ONCE", 44)
    result = Ranker(model).rank(data)
    for name, values in expected.items():
        np.testing.assert_array_equal(result[name], values)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_ranks_by_counts_equal_the_scores_of_all_items(split):
    """Few items and many ties; targets that repeat the history; scores that hang upon the latest item."""
    rng = np.random.default_rng(5)
    sequences = sequences_of(*(rng.integers(1, 13, rng.integers(3, 20)) for _ in range(60)), num_items=12)
    scores = np.concatenate([[9], rng.integers(0, 4, 12) / 4])
    after = np.vstack([np.zeros((1, 13)), rng.integers(0, 3, (12, 13)) * rng.integers(0, 2, (12, 13))])
    after[:, 0] = 0
    for table in (None, after):
        expected = []
        for batch in ranking_batches(sequences, split, 16, 1).dataset.as_numpy_iterator():
            whole = scores + (0 if table is None else table[batch["history"][:, -1]])
            rest = exclude_items(np.broadcast_to(whole, (16, 13)).astype("float32"), batch["exclude"])
            expected.append((np.asarray(target_ranks(rest, batch["target"])), batch["target"]))
        ranks, targets = (np.concatenate(column) for column in zip(*expected, strict=True))
        expected = ranking_batches(sequences, split, 16, 1).in_order(targets, ranks)[0]
        found = count_ranks(sequences, split, scores, None if table is None else sparse.csr_array(table), 16)
        np.testing.assert_array_equal(found, expected)
