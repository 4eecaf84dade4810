import numpy as np
import pytest

from elcrec_tf.data.drifting import DAY_SECONDS, DriftingConfig, simulate_days
from elcrec_tf.data.planted import YEAR_START
from elcrec_tf.errors import UserError

SMALL = DriftingConfig(users=300, items=80, intents=4, turnover_days=5, items_a_day=2, user_days=10.0)


@pytest.fixture(scope="module")
def log():
    return simulate_days(SMALL, 20)


def test_the_same_seed_gives_the_same_days_whatever_comes_after(log):
    start = simulate_days(SMALL, 8)
    cut = log.between(0, 7)
    for name in ("users", "items", "days", "times", "intents"):
        np.testing.assert_array_equal(getattr(start, name), getattr(cut, name))
    other = simulate_days(DriftingConfig(users=300, items=80, intents=4, world_seed=1), 8)
    assert len(other.users) != len(start.users) or (other.items != start.items).any()


def test_nobody_gets_an_item_twice_and_times_rise(log):
    assert len(np.unique(np.stack([log.users, log.items]), axis=1).T) == len(log.users)
    assert (np.diff(log.times) >= 0).all()
    order = np.lexsort((log.times, log.users))
    same_user = np.diff(log.users[order]) == 0
    assert (np.diff(log.times[order])[same_user] > 0).all()
    np.testing.assert_array_equal((log.times - YEAR_START) // DAY_SECONDS, log.days)


def test_users_and_items_come_and_users_go(log):
    first, last = log.between(0, 4), log.between(15, 19)
    stayed = np.isin(np.unique(first.users), last.users).mean()
    assert 0.05 < stayed < 0.6  # exp(-15 days / 10 days) = 0.22 is the share of those still there
    assert 0.5 < len(np.unique(last.users)) / len(np.unique(first.users)) < 1.5
    # 80 at the start, 2 a day, and 80 / 4 for each of three turnovers
    assert first.items.max() < 80 + 4 * 2 <= last.items.max() < 80 + 19 * 2 + 3 * 20


def test_intents_die_and_appear(log):
    assert log.lives[:, 0].tolist() == [0, 0, 0, 0, 5, 10, 15]
    died = np.flatnonzero(log.lives[:, 1] >= 0)
    assert sorted(log.lives[died, 1]) == [5, 10, 15]
    for intent, (born, gone) in enumerate(log.lives):
        days = log.days[log.intents == intent]
        assert days.min() >= born and (gone < 0 or days.max() < gone)


def test_only_noise_brings_items_of_a_dead_intent():
    config = DriftingConfig(users=500, items=100, intents=5, turnover_days=10, items_a_day=0, moving_items=0.0, trend=0.0, noise=0.1)
    log = simulate_days(config, 20)
    dead = int(np.flatnonzero(log.lives[:, 1] == 10)[0])
    own = np.arange(100)[np.arange(100) % 5 == dead]
    before, after = log.between(0, 9), log.between(10, 19)
    assert np.isin(before.items, own).mean() > 0.1
    assert np.isin(after.items, own).mean() < 0.05  # 10 % noise x 20 of 120 items, less what users have seen, plus exhausted regions


def test_sequences_hold_the_same_events(log):
    part = log.between(3, 6)
    sequences = part.sequences("part")
    counts = np.bincount(part.users)
    assert sequences.num_users == np.sum(counts >= 3)
    assert sequences.num_events == counts[counts >= 3].sum()
    user = int(sequences.user_ids[0].removeprefix("user-"))
    mine = part.users == user
    assert sequences.catalog.raw(sequences[0]) == part.item_names()[mine].tolist()


def test_errors():
    with pytest.raises(UserError, match="twice"):
        simulate_days(DriftingConfig(items=10, intents=6), 1)
    with pytest.raises(UserError, match="no event from day 30"):
        simulate_days(SMALL, 2).between(30, 31)
