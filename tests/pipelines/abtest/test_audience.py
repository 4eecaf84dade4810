import numpy as np
import pytest

from elcrec_tf.config import SimulatorConfig
from elcrec_tf.data.simulate import simulate
from pipelines.abtest.audience import activity_groups, assigned, next_intents, recruit

SMALL = SimulatorConfig(sim_users=50, sim_items=80, sim_intents=4, sim_events=10)


def test_arms_are_balanced_and_depend_on_salt_and_user_alone():
    users = [f"u{number}" for number in range(20_000)]
    arms = assigned(users, "one")
    assert abs(arms.mean() - 0.5) < 4 * 0.5 / np.sqrt(20_000)
    assert np.array_equal(assigned(users[::-1], "one"), arms[::-1])
    assert np.array_equal(assigned(users[5:9], "one"), arms[5:9])
    again = assigned(users, "two")
    assert abs(np.mean(arms == again) - 0.5) < 4 * 0.5 / np.sqrt(20_000)


@pytest.mark.parametrize(
    ("lengths", "groups"),
    [
        ([0, 5, 6, 7, 8, 9, 10], [0, 1, 1, 2, 2, 3, 3]),
        ([0, 0], [0, 0]),
        ([7, 7, 7], [1, 1, 1]),
        ([9, 5, 5, 5, 0, 30], [3, 1, 1, 1, 0, 3]),  # ties stay together
    ],
)
def test_activity_groups_are_thirds(lengths, groups):
    assert activity_groups(np.array(lengths)).tolist() == groups


def test_intents_move_by_the_chain():
    config = SimulatorConfig(sim_intents=4, sim_switch=0.1)
    intents, draws = np.array([3, 3, 3, 0]), np.array([[0.05, 0.0], [0.05, 0.999], [0.1, 0.5], [0.0, 0.34]])
    assert next_intents(intents, draws, config).tolist() == [0, 2, 3, 2]
    assert next_intents(np.zeros(2, int), np.zeros((2, 2)), SimulatorConfig(sim_intents=1)).tolist() == [0, 0]


def test_intents_that_switch_are_uniform_over_the_others():
    config = SimulatorConfig(sim_intents=5, sim_switch=1.0)
    moved = next_intents(np.full(20_000, 2), np.random.default_rng(0).random((20_000, 2)), config)
    counts = np.bincount(moved, minlength=5)
    assert counts[2] == 0 and abs(counts[[0, 1, 3, 4]] - 5000).max() < 4 * np.sqrt(5000)


def test_fresh_users_have_the_histories_of_the_simulator_or_none():
    audience, lives = recruit(SMALL, 3000, seed=4), simulate(SimulatorConfig(**{**vars(SMALL), "sim_users": 3000}), population=5)
    new = np.array([not history for history in audience.histories])
    assert new.mean() == pytest.approx(0.1, abs=0.03)
    assert all(history == lives[user].tolist() for user, history in enumerate(audience.histories) if history)
    assert (audience.groups == 0).tolist() == new.tolist()
    first, last = lives.intents[lives.offsets[:-1]], lives.intents[lives.offsets[1:] - 1]
    assert np.array_equal(audience.intents[new], first[new])
    assert np.mean(audience.intents[~new] == last[~new]) == pytest.approx(0.9, abs=0.03)  # one more step of the chain
    assert audience.sessions.min() >= 1 and audience.sessions.mean() == pytest.approx(3, abs=0.15)
    assert audience.sessions[audience.groups == 3].mean() > audience.sessions[audience.groups == 1].mean() + 1


def test_a_seed_gives_the_same_users_again_and_another_one_others():
    first, again, other = (recruit(SMALL, 200, seed) for seed in (0, 0, 1))
    assert first.histories == again.histories and np.array_equal(first.sessions, again.sessions)
    assert first.histories != other.histories
    trained_on = simulate(SMALL)
    assert first.histories[:50] != [trained_on[user].tolist() for user in range(50)]
