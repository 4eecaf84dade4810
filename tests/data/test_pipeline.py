import numpy as np
import pytest

from elcrec_tf.data import pipeline
from elcrec_tf.data.pipeline import histories, probe_views, ranking_batches
from tests.toy import random_sequences, toy_config

MAX_LENGTH = 8
LONG = random_sequences(num_users=21, num_items=80, longest=70, seed=1)


def bare(row):
    """The items of a left-padded row; it must have no padding between or behind them."""
    items = row[row != 0]
    np.testing.assert_array_equal(row[len(row) - len(items) :], items)
    return tuple(items.tolist())


@pytest.mark.parametrize(("split", "back"), [("validation", 2), ("test", 1)])
@pytest.mark.parametrize("batch_size", [1, 4, 50])
def test_ranking_batches_cover_every_user_once(split, back, batch_size):
    data = ranking_batches(LONG, split, batch_size, MAX_LENGTH)
    columns = ("history", "exclude", "target")
    batches = data.dataset.as_numpy_iterator()
    rows = [row for batch in batches for row in zip(*(batch[name] for name in columns), strict=True)]
    assert len(rows) == len(data.users)
    assert len(rows) % batch_size == 0
    assert sorted(data.users[data.users >= 0].tolist()) == list(range(LONG.num_users))
    for user, (history, exclude, target) in zip(data.users, rows, strict=True):
        if user < 0:
            assert not history.any() and not exclude.any() and target == 0
            continue
        seen = LONG[user].tolist()[:-back]
        assert bare(history) == tuple(seen[-MAX_LENGTH:])
        assert bare(exclude) == tuple(seen)
        assert target == LONG[user][-back]
        assert len(exclude) == 4 or len(exclude) < 2 * len(seen)  # a long history does not widen all


@pytest.mark.parametrize("count", [1, 2, 3, 40])
def test_shares_of_ranking_batches_are_all_batches_once(count, monkeypatch):
    monkeypatch.setattr(pipeline, "MOST_CELLS", 16)  # wide batches have fewer rows
    sequences = random_sequences(num_users=30)
    whole = ranking_batches(sequences, "test", 4, max_length=8)
    assert set(whole.rows) >= {2, 4} and sum(whole.rows) == len(whole.users)
    assert all(batch["exclude"].size <= 16 for batch in whole.dataset.as_numpy_iterator())
    shares = [whole.share(index, count) for index in range(count)]
    assert [share.empty for share in shares] == [index >= len(whole.rows) for index in range(count)]
    assert sorted(np.concatenate([share.users for share in shares]).tolist()) == sorted(whole.users.tolist())
    for share in shares:
        rows = np.concatenate([np.zeros(0, int), *(batch["target"] for batch in share.dataset.as_numpy_iterator())])
        wanted = [sequences.items[sequences.offsets[user + 1] - 1] if user >= 0 else 0 for user in share.users]
        np.testing.assert_array_equal(rows, wanted)


def test_unknown_split():
    with pytest.raises(ValueError, match="should be 'validation' or 'test'"):
        ranking_batches(LONG, "training", 4, MAX_LENGTH)


@pytest.mark.parametrize(("split", "back"), [("training", 3), ("validation", 2), ("test", 1)])
def test_histories_are_what_comes_before_the_target(split, back):
    users, history = histories(LONG, split, MAX_LENGTH)
    expected = {user: tuple(LONG[user].tolist()[:-back][-MAX_LENGTH:]) for user in range(LONG.num_users) if len(LONG[user]) > back}
    assert history.shape == (len(users), MAX_LENGTH)
    assert {int(user): bare(row) for user, row in zip(users, history, strict=True)} == expected
    assert users.tolist() == sorted(users.tolist())


def test_a_sample_of_histories_is_reproducible():
    users, history = histories(LONG, "test", MAX_LENGTH, most=5, seed=3)
    again, other = histories(LONG, "test", MAX_LENGTH, most=5, seed=3)[0], histories(LONG, "test", MAX_LENGTH, most=5, seed=4)[0]
    assert len(users) == len(set(users.tolist())) == 5
    np.testing.assert_array_equal(users, again)
    assert users.tolist() != other.tolist()
    np.testing.assert_array_equal(history, histories(LONG, "test", MAX_LENGTH)[1][users])
    assert len(histories(LONG, "test", MAX_LENGTH, most=1000)[0]) == LONG.num_users


def test_probe_views_are_fixed_and_of_their_histories():
    config = toy_config(max_length=6)
    views = probe_views(LONG, config, users=10, max_length=50)
    assert {name: array.shape for name, array in views.items()} == dict.fromkeys(("history", "view_a", "view_b"), (10, 6))
    for row, *both in zip(views["history"], views["view_a"], views["view_b"], strict=True):
        assert all(set(view) <= set(row) | {0} and view.any() for view in both)
    assert (views["view_a"] != views["view_b"]).any()
    for name, array in probe_views(LONG, config, users=10, max_length=50).items():
        np.testing.assert_array_equal(array, views[name])
    assert probe_views(LONG, config, users=10, max_length=4)["history"].shape == (10, 4)
