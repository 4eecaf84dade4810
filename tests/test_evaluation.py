import numpy as np
import pytest

from elcrec_tf.data.pipeline import ranking_batches
from elcrec_tf.evaluation import Ranker, evaluate_model, popularity_ranks
from elcrec_tf.ranking import ranking_metrics
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
