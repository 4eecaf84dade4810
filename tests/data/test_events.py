import numpy as np
import pytest

from elcrec_tf.data.events import Events, k_core, to_sequences
from elcrec_tf.errors import UserError


def events(histories: dict[str, str], **fields) -> Events:
    """Events of `{user: "item item ..."}`."""
    items = {item: None for history in histories.values() for item in history.split()}
    codes = {item: code for code, item in enumerate(items)}
    lengths = [len(history.split()) for history in histories.values()]
    return Events(
        source="here",
        users=np.repeat(np.arange(len(histories)), lengths),
        items=np.array([codes[item] for history in histories.values() for item in history.split()]),
        user_ids=np.array(list(histories), dtype=object),
        item_ids=np.array(list(items), dtype=object),
        **fields,
    )


def test_k_core_repeats_until_stable():
    # Item w occurs once: it goes. User D is left with one event: D goes. Then item z, then user C. x and y stay at two events each.
    found = events({"A": "x y", "B": "x y", "C": "y z", "D": "z w"})
    assert k_core(found.users, found.items, 2).tolist() == [0, 1, 2, 3]


def test_k_core_may_leave_nothing_and_one_keeps_all():
    found = events({"A": "x y", "B": "y z"})
    assert k_core(found.users, found.items, 2).tolist() == []
    assert k_core(found.users, found.items, 1).tolist() == [0, 1, 2, 3]


def test_k_core_counts_repeated_events():
    found = events({"A": "x x", "B": "y z"})
    assert k_core(found.users, found.items, 2).tolist() == [0, 1]


def test_sequences_are_renumbered_and_what_was_dropped_is_counted():
    # 2-core: item p occurs once and goes, and with it user E, whose one event is left. D keeps two events, too few for leave-one-out.
    found = events({"E": "p c", "A": "c b a", "D": "b a", "B": "a b c c"}, times=np.arange(11), dropped={"earlier": 7})
    sequences = to_sequences(found, "test", 2)
    assert sequences.user_ids.tolist() == ["A", "B"]
    assert sequences.catalog.ids.tolist() == ["c", "b", "a"]  # by first appearance; p is gone
    assert [sequences[user].tolist() for user in range(2)] == [[1, 2, 3], [3, 2, 1, 1]]
    assert sequences.timestamps.tolist() == [2, 3, 4, 7, 8, 9, 10]
    assert sequences.dropped == {"earlier": 7, "k-core": 2, "fewer than 3 events": 2}
    assert (sequences.items.dtype, sequences.offsets.dtype) == (np.int32, np.int64)


def test_counts_leave_out_the_last_two_events_of_each_user():
    sequences = to_sequences(events({"A": "x y x z", "B": "x z y"}), "test", 1)
    # Training parts: A has x y, B has x. z occurs in held-out events only.
    assert dict(zip(sequences.catalog.ids, sequences.catalog.counts, strict=True)) == {"x": 2, "y": 1, "z": 0}


def test_nothing_dropped_leaves_no_reason():
    assert to_sequences(events({"A": "x y x", "B": "x y y"}), "test", 3).dropped == {}


@pytest.mark.parametrize(
    ("histories", "k", "message"),
    [
        ({"A": "x y z", "B": "x y z"}, 5, "here: nothing is left of 6 events of 2 users and 3 items after the 5-core.*--k-core"),
        ({"A": "x y", "B": "y z"}, 1, "here: nothing is left of 4 events of 2 users and 3 items: no user has 3 events.*longer histories"),
        ({"A": "x x x", "B": "x x x"}, 1, "here: has one item only .'x'."),
        ({"A": "x x x", "B": "x y x"}, 2, "here: the 2-core leaves one item only .'x'.*--k-core"),
    ],
)
def test_too_little_is_refused(histories, k, message):
    with pytest.raises(UserError, match=message):
        to_sequences(events(histories), "test", k)


def test_users_without_the_events_of_leave_one_out_go_after_the_core():
    """All are in the 2-core; that u2 goes leaves z with one event."""
    kept = to_sequences(events({"u1": "a b z", "u2": "z a", "u3": "a b c", "u4": "c b a"}), "log", 2)
    assert kept.dropped == {"fewer than 3 events": 2}
    assert dict(zip(kept.catalog.ids, np.bincount(kept.items)[1:].tolist(), strict=True)) == {"a": 3, "b": 3, "z": 1, "c": 2}
