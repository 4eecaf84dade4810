"""The questions, the ranks and the parity, against a small model and answers made by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from elcrec_tf.data.catalog import Catalog
from elcrec_tf.serving.answers import Answers
from pipelines.production.comparison import Questions, _difference, compare, parity, popular_ranks, served_ranks
from tests.prepared import sharded
from tests.toy import random_sequences, sequences_of, toy_model

TOY = sequences_of([1, 2, 3, 4], [5, 6, 1, 2], [2, 3, 6], counts=np.array([5, 4, 3, 2, 2, 1]))


class Served:
    """What `comparison` asks of a `Recommender`: here a model's own scores, which can be tampered with."""

    def __init__(self, model, catalog, change=lambda ids, scores: None):
        self.model, self.catalog, self.change, self.top_k = model, catalog, change, catalog.num_items

    def known(self, ids):
        return self.catalog.index(ids) > 0

    def answer(self, histories, k):
        answers = Answers.blank(len(histories), k)
        for row, history in enumerate(histories):
            index = self.catalog.index(history)
            scores = np.array(self.model.scores(index[None]))[0]
            scores[[0, *index]] = -np.inf
            best = np.argsort(-scores)[: min(k, np.isfinite(scores).sum())]
            answers.item_ids[row, : len(best)] = self.catalog.raw(best)
            answers.scores[row, : len(best)] = scores[best]
            self.change(answers.item_ids[row], answers.scores[row])
        return answers


def test_questions_are_the_histories_before_the_validation_event():
    questions = Questions.of(TOY, most=10)
    asked = {tuple(history): target for history, target in zip(questions.histories, questions.targets, strict=True)}
    assert asked == {("i1", "i2"): "i3", ("i5", "i6"): "i1", ("i2",): "i3"}
    assert len(Questions.of(TOY, most=2).targets) == 2


def test_shards_give_the_same_questions(tmp_path):
    sequences = random_sequences()
    of_shards = Questions.of(sharded(sequences, tmp_path / "data"), most=1000)
    of_memory = Questions.of(sequences, most=1000)
    both = [sorted(zip(map(tuple, one.histories), one.targets, strict=True)) for one in (of_shards, of_memory)]
    assert both[0] == both[1] and len(both[0]) == sequences.num_users


def test_ranks_are_places_in_the_answer_and_misses_are_infinite():
    answers = Answers.blank(3, 3)
    answers.item_ids[:] = [["a", "b", "c"], ["a", "b", "c"], ["a", "", ""]]
    recommender = SimpleNamespace(answer=lambda histories, k: answers)
    ranks = served_ranks(recommender, Questions([["x"]] * 3, np.array(["c", "z", "z"], object)), 3)
    assert ranks.tolist() == [2, np.inf, np.inf]


def test_ranks_by_popularity():
    catalog = Catalog(["a", "b", "c", "d"], np.array([9, 5, 5, 1]))
    histories = [["x"], ["a"], ["a", "c"], ["b", "d"], ["b"]]
    ranks = popular_ranks(catalog, Questions(histories, np.array(["b", "b", "b", "a", "b"], object)))
    # b: behind a and c (a tie), each unless it is in the history; a is the first; b itself was in the history
    assert ranks.tolist() == [2, 1, 0, 0, np.inf]


def test_an_export_that_answers_as_its_model_does_is_equal():
    model = toy_model()
    found = parity(model, Served(model, TOY.catalog), Questions.of(TOY, 10), 6)
    assert found["users"] == 3 and found["other_items"] == 0 and found["score_difference"] < 1e-5


def _swap(ids, scores):
    ids[[0, 1]] = ids[[1, 0]]


def _shift(ids, scores):
    scores += 0.01


def _shorten(ids, scores):
    last = np.flatnonzero(np.isfinite(scores))[-1]
    ids[last], scores[last] = "", -np.inf


@pytest.mark.parametrize(("change", "items"), [(_swap, 6), (_shift, 0), (_shorten, 3)])
def test_an_export_that_answers_otherwise_is_found_out(change, items):
    model = toy_model()
    found = parity(model, Served(model, TOY.catalog, change), Questions.of(TOY, 10), 6)
    assert found["other_items"] == items
    assert found["other_items"] or found["score_difference"] == pytest.approx(0.01, rel=0.01)


def test_an_export_of_another_model_is_found_out():
    model, other = toy_model(), toy_model()
    other.item_embedding.table.assign(-other.item_embedding.table.value.numpy())
    found = parity(model, Served(other, TOY.catalog), Questions.of(TOY, 10), 6)
    assert found["other_items"] and found["score_difference"] > 0.1


def test_an_item_that_serving_does_not_know_is_a_miss_of_its_own():
    model = toy_model(5)
    serving = Served(model, Catalog([f"i{index}" for index in (2, 1, 4, 5, 6)]))  # not i3, the target of two users
    found = compare(toy_model(), Served(toy_model(), TOY.catalog), serving, Questions.of(TOY, 10), "HR@20")
    assert found["users"] == 3 and found["new"]["HR@20"] == 1
    assert found["serving"]["all"] == {
        "new": 1,
        "old": pytest.approx(1 / 3),
        "error": pytest.approx(np.sqrt(2) / 3 / np.sqrt(3)),
        "users": 3,
    }
    assert found["serving"]["known"] == {"new": 1, "old": 1, "error": 0, "users": 1}


def test_popularity_is_looked_at_as_far_down_as_the_models_answer():
    model, questions = toy_model(), Questions.of(TOY, 10)
    whole = compare(model, Served(model, TOY.catalog), None, questions, "MRR")["popularity"]
    export = Served(model, TOY.catalog)
    export.top_k = 1
    ranks = popular_ranks(TOY.catalog, questions)
    cut = compare(model, export, None, questions, "MRR")["popularity"]
    assert cut["MRR"] == np.mean(ranks == 0) < whole["MRR"] == pytest.approx(np.mean(1 / (ranks + 1)))


def test_differences_by_hand():
    found = _difference(np.array([0, 1, np.inf, 3]), np.array([1, 1, 1, np.inf]), "MRR")
    # 1 1/2 0 1/4 against 1/2 1/2 1/2 0
    assert (found["new"], found["old"]) == (7 / 16, 3 / 8)
    assert found["error"] == pytest.approx(np.std([1 / 2, 0, -1 / 2, 1 / 4]) / 2)
    assert _difference(np.zeros(0), np.zeros(0), "MRR") == {"new": 0, "old": 0, "error": 0, "users": 0}
