import dataclasses

import numpy as np
import pytest

from elcrec_tf.data.catalog import Catalog
from elcrec_tf.data.data_drift import catalog_drift, jensen_shannon, user_drift
from tests.prepared import sharded
from tests.toy import sequences_of


def test_jensen_shannon_by_hand():
    assert jensen_shannon(np.array([1, 3]), np.array([2, 6])) == pytest.approx(0)
    assert jensen_shannon(np.array([1, 0]), np.array([0, 5])) == pytest.approx(1)
    # p = (1, 0), q = (1/2, 1/2), m = (3/4, 1/4): (log2(4/3) + (log2(2/3) + log2(2)) / 2) / 2
    by_hand = (np.log2(4 / 3) + (np.log2(2 / 3) + 1) / 2) / 2
    assert jensen_shannon(np.array([7, 0]), np.array([2, 2])) == pytest.approx(by_hand)
    assert jensen_shannon(np.zeros(2), np.zeros(2)) == 0 and jensen_shannon(np.zeros(2), np.ones(2)) == 1


def test_catalogues_are_compared_by_raw_id():
    old = Catalog(["a", "b", "c"], np.array([4, 4, 0]))
    assert catalog_drift(old, Catalog(["c", "b", "a"], np.array([0, 2, 2]))) == {
        "items": {"known": 3, "new": 0, "gone": 0},
        "events_on_new_items": 0.0,
        "popularity_divergence": 0.0,
    }
    moved = catalog_drift(old, Catalog(["d", "a"], np.array([3, 1])))
    assert moved["items"] == {"known": 1, "new": 1, "gone": 2}
    assert moved["events_on_new_items"] == 3 / 4
    # a: 1/2 -> 1/4, b: 1/2 -> 0, d: 0 -> 3/4
    assert moved["popularity_divergence"] == pytest.approx(jensen_shannon(np.array([2, 2, 0]), np.array([1, 0, 3])))


def test_users():
    old, new = sequences_of([1, 2, 3, 4, 5], [1, 2, 3, 4]), sequences_of([1, 2, 3, 4, 5, 6, 7])
    found = user_drift(old, new)
    assert found["users"] == {"old": 2, "new": 1, "share_new": 0.0}
    # Two events of each user are held out.
    assert found["events_in_training"] == {"old": {"mean": 2.5, "median": 2, "p90": 2}, "new": {"mean": 5, "median": 5, "p90": 5}}
    assert user_drift(new, old)["users"]["share_new"] == 0.5
    strange = dataclasses.replace(new, user_ids=np.array(["0\0"], object))
    assert user_drift(old, strange)["users"]["share_new"] == 1.0  # NumPy's strings would end before the NUL


def test_users_with_a_single_event_in_training_count(tmp_path):
    """Nine have one, one has ten: in memory as in shards, whose manifest tells lengths from 2 on."""
    sequences = sequences_of(*[[1, 2, 3]] * 9, list(range(1, 13)))
    expected = {"mean": 1.9, "median": 1, "p90": 1}
    assert user_drift(sequences, sequences)["events_in_training"]["new"] == expected
    assert user_drift(sequences, sharded(sequences, tmp_path / "shards"))["events_in_training"]["new"] == expected


def test_users_without_an_event_in_training_count(tmp_path):
    """Split by time: of three users one has no event before the validation."""
    sequences = sequences_of([1, 2], [1, 2, 3, 4], [1, 2, 3])
    parts = np.array([1, 2, 0, 0, 0, 1, 0, 1, 2])
    shards = sharded(sequences, tmp_path / "shards", parts=parts)
    assert user_drift(shards, shards)["events_in_training"]["new"] == {"mean": pytest.approx(4 / 3), "median": 1, "p90": 1}
