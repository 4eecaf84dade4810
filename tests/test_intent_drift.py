import numpy as np
import pytest

from elcrec_tf.intent_drift import match_intents, rotation
from elcrec_tf.intents import unit_rows


def centers(count=5, size=8, seed=0):
    """Nearly orthogonal unit vectors."""
    return unit_rows(np.eye(size)[:count] + 0.05 * np.random.default_rng(seed).normal(size=(count, size)))


def everything(one):
    return np.ones(len(one), bool)


def test_identical_centres_do_not_drift():
    one = centers()
    found = match_intents(one, one, everything(one), everything(one), same=0.5)
    assert [(match.old, match.new) for match in sorted(found.kept, key=lambda match: match.old)] == [(i, i) for i in range(5)]
    assert all(match.cosine == pytest.approx(1) for match in found.kept)
    assert found.died == found.appeared == []


def test_permuted_centres_are_found_again_and_a_removed_one_has_died():
    old = centers()
    order = np.array([3, 0, 4, 1])  # 2 is missing
    found = match_intents(old, old[order], everything(old), everything(order), same=0.5)
    assert {match.old: match.new for match in found.kept} == {3: 0, 0: 1, 4: 2, 1: 3}
    assert found.died == [2] and found.appeared == []
    back = match_intents(old[order], old, everything(order), everything(old), same=0.5)
    assert back.appeared == [2] and back.died == []


def test_a_pair_below_the_threshold_is_one_that_died_and_one_that_appeared():
    old = np.eye(4)[:3]
    new = np.eye(4)[[0, 1, 3]]
    found = match_intents(old, new, everything(old), everything(new), same=0.5)
    assert (found.died, found.appeared) == ([2], [2])
    assert len(match_intents(old, new, everything(old), everything(new), same=-1.0).kept) == 3  # 0 is no less


def test_an_intent_that_turned_around_costs_no_other_its_match():
    old = centers()
    new = old * np.array([[-1], [1], [1], [1], [1]])
    found = match_intents(old, new, everything(old), everything(new), same=0.5)
    assert {match.old: match.new for match in found.kept} == {1: 1, 2: 2, 3: 3, 4: 4}


def test_centres_without_users_are_no_intents():
    one = centers()
    found = match_intents(one, one, everything(one), np.array([True, True, False, True, True]), same=0.5)
    assert (found.died, found.appeared, len(found.kept)) == ([2], [], 4)
    assert match_intents(one, one, np.zeros(5, bool), everything(one), same=0.5).appeared == [0, 1, 2, 3, 4]


def test_a_model_that_was_turned_is_turned_back():
    rng = np.random.default_rng(1)
    items = rng.normal(size=(30, 8))
    turn = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    lengths = rng.uniform(0.5, 2, (30, 1))  # do not matter
    np.testing.assert_allclose(rotation(items, lengths * items @ turn), turn, atol=1e-10)
    with pytest.raises(ValueError, match="as many vectors"):
        rotation(items[:5], items[:5])
