import math

import numpy as np
import pytest

from elcrec_tf.reporting.breakdown import (
    Grouping,
    by_activity,
    by_length,
    by_popularity,
    gini,
    group_rows,
    intents_by_group,
    item_bias,
    item_tiers,
    popularity_ranks_of_items,
)


def test_activity_groups_are_quarters_of_the_users():
    grouping = by_activity(np.array([9, 3, 4, 5, 6, 7, 8, 10]))
    # Sorted: 3 4 | 5 6 | 7 8 | 9 10.
    assert grouping.index.tolist() == [3, 0, 0, 1, 1, 2, 2, 3]
    assert grouping.labels == ("new", "low", "medium", "high")
    assert grouping.notes == ("up to 4 events", "5–6 events", "7–8 events", "more than 8 events")


def test_equally_active_users_share_a_group():
    grouping = by_activity(np.array([5, 5, 5, 5, 5, 5, 6, 9]))
    # The lower, middle and upper quartiles are 5, 5 and 5 (positions 1, 3 and 5 of 0 to 7).
    assert grouping.index.tolist() == [0, 0, 0, 0, 0, 0, 3, 3]
    assert grouping.notes == ("up to 5 events", "no such users", "no such users", "more than 5 events")


@pytest.mark.parametrize("users", [0, 1, 2, 3, 100])
def test_each_user_is_in_one_activity_group_and_order_is_kept(users):
    events = np.random.default_rng(users).integers(3, 30, users)
    index = by_activity(events).index
    assert set(index) <= {0, 1, 2, 3}
    assert (np.diff(index[np.argsort(events)]) >= 0).all()


def test_history_lengths_fall_into_bins():
    grouping = by_length(np.array([1, 2, 3, 5, 6, 50, 51, 1000]))
    assert [grouping.labels[group] for group in grouping.index] == [
        *("1–2 events", "1–2 events", "3–5 events", "3–5 events"),
        *("6–10 events", "21–50 events", "more than 50 events", "more than 50 events"),
    ]


def test_head_torso_and_tail_hold_half_three_tenths_and_a_fifth_of_the_events():
    # 100 events. Before each item, most popular first: 0, 30 | 50, 60, 70 | 80, 90 and 95 of them.
    counts = np.array([5, 10, 30, 20, 10, 10, 10, 5])
    assert item_tiers(counts).tolist() == [2, 1, 0, 0, 1, 1, 2, 2]


def test_items_without_events_are_tail():
    assert item_tiers(np.array([0, 8, 0])).tolist() == [2, 0, 2]
    assert item_tiers(np.array([0, 0])).tolist() == [0, 0]  # nothing is known: no item is less popular than another


def test_users_are_grouped_by_the_popularity_of_their_target():
    grouping = by_popularity(np.array([3, 1, 2, 3]), np.array([5, 10, 30, 20, 10, 10, 10, 5]))
    assert [grouping.labels[group] for group in grouping.index] == ["head", "tail", "torso", "head"]
    assert grouping.notes[0] == "2 items with 50% of the training events"


def test_equally_popular_items_share_the_mean_of_their_ranks():
    assert popularity_ranks_of_items(np.array([7, 2, 7, 9, 2, 2])).tolist() == [2.5, 5, 2.5, 1, 5, 5]


@pytest.mark.parametrize(
    ("exposure", "expected"),
    [
        ([4, 4, 4], 0),
        ([0, 0, 0, 9], 3 / 4),
        ([1, 3], 1 / 4),  # mean absolute difference of all pairs (4 / 4 = 1) over twice the mean (2 * 2)
        ([0, 0], 0),
    ],
)
def test_gini(exposure, expected):
    assert gini(np.array(exposure)) == pytest.approx(expected)


def test_gini_is_half_the_relative_mean_difference():
    exposure = np.random.default_rng(0).integers(0, 50, 40)
    difference = np.abs(exposure[:, None] - exposure[None]).mean()
    assert gini(exposure) == pytest.approx(difference / (2 * exposure.mean()))


def test_bias_of_recommendations():
    counts = np.array([6, 3, 1, 0])
    # Item 1 three times, item 3 once; the 0 is no item. Ranks 1, 2, 3, 4; head is item 1 (0 events before), torso item 2 (6 of 10),
    # tail items 3 (9 of 10) and 4 (10 of 10).
    bias = item_bias(np.array([[1, 3], [1, 0], [1, 0]]), counts)
    assert bias["coverage"] == 2 / 4
    assert bias["mean_rank"] == (3 * 1 + 1 * 3) / 4
    assert bias["tiers"] == [3 / 4, 0, 1 / 4]
    # Sorted exposures 0, 0, 1, 3 with weights -3, -1, 1, 3, over 4 items times 4 shown.
    assert bias["gini"] == (1 + 9) / 16


def test_bias_of_nothing_is_zero():
    assert item_bias(np.zeros((2, 3), int), np.array([1, 2])) == {"coverage": 0, "gini": 0, "mean_rank": 0, "tiers": [0, 0, 0]}


def test_group_rows_add_up():
    grouping = Grouping(("a", "b", "c"), ("", "", ""), np.array([0, 1, 0, 0]))
    rows = group_rows(grouping, np.array([0, 9, 2, 30]), np.array([5, 5, 5, 0]))
    assert [row["users"] for row in rows] == [3, 1, 0]
    assert [row["share"] for row in rows] == [3 / 4, 1 / 4, 0]
    assert rows[0]["metrics"]["HR@5"] == 2 / 3
    assert rows[0]["metrics"]["NDCG@5"] == pytest.approx((1 + 1 / math.log2(4)) / 3)
    assert rows[0]["baseline"]["HR@5"] == 1 / 3
    assert rows[1]["metrics"]["HR@10"] == 1
    assert set(rows[2]["metrics"].values()) == {0}


def test_intents_divide_over_the_groups():
    grouping = Grouping(("a", "b", "c"), ("", "", ""), np.array([0, 0, 0, 0, 1]))
    shares = intents_by_group(np.array([2, 2, 0, 2, 1]), grouping, 3)
    assert shares.tolist() == [[1 / 4, 0, 3 / 4], [0, 1, 0], [0, 0, 0]]
