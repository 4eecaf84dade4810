import numpy as np

from elcrec_tf.results import by_history_length
from tests.toy import sequences_of


def test_metrics_by_history_length_by_hand():
    """Training parts of 1, 2, 3, 5, 6 and 9 events; ranks 0, 7, 0, 3, 25 and 0."""
    users = [list(range(1, length + 3)) for length in (1, 2, 3, 5, 6, 9)]
    groups = by_history_length(sequences_of(*users), np.array([0, 7, 0, 3, 25, 0]))
    assert list(groups) == ["1-2", "3-5", "6+"]
    assert [group["users"] for group in groups.values()] == [2, 2, 2]
    assert [group["HR@5"] for group in groups.values()] == [0.5, 1.0, 0.5]
    assert [group["HR@10"] for group in groups.values()] == [1.0, 1.0, 0.5]
    assert groups["6+"]["MRR"] == (1 / 26 + 1) / 2


def test_groups_without_users_are_left_out():
    assert list(by_history_length(sequences_of([1, 2, 3, 4, 5]), np.array([0]))) == ["3-5"]
