import dataclasses
import itertools

import numpy as np
import pytest
from sklearn.metrics import normalized_mutual_info_score

from elcrec_tf.config import SimulatorConfig
from elcrec_tf.data.oracle import Oracle
from elcrec_tf.data.planted import PlantedIntents, year_fraction
from elcrec_tf.data.sequences import Sequences
from elcrec_tf.data.simulate import planted, simulate
from elcrec_tf.data.splits import holdout_positions
from elcrec_tf.errors import UserError

TINY = SimulatorConfig(sim_users=30, sim_items=12, sim_intents=3, sim_events=5, sim_switch=0.3, sim_noise=0.2)
TINY_CASES = {
    "plain": TINY,
    "no noise": dataclasses.replace(TINY, sim_noise=0.0, sim_shared=0.6),
    "drift": dataclasses.replace(TINY, sim_drift=0.6),
    # Regions of two items: users exhaust them.
    "exhausted": dataclasses.replace(TINY, sim_items=10, sim_intents=5, sim_shared=0.0),
}


def event_probability(world: PlantedIntents, intent: int, item: int, seen: list[int], fraction: float) -> float:
    """The generator's law of one event, spelt out."""
    weights = dict.fromkeys(range(1, world.num_items + 1), 0.0)
    for start, end, probability in zip(world.items[intent], world.end_items[intent], world.probabilities[intent], strict=True):
        if probability > 0:
            weights[start] += probability * (1 - fraction)
            weights[end] += probability * fraction
    left = sum(weight for item, weight in weights.items() if item not in seen)
    uniform = 1 / (world.num_items - len(seen))
    return uniform if left < 1e-9 else (1 - world.noise) * weights[item] / left + world.noise * uniform


def brute_force(world: PlantedIntents, history: list[int], fractions: np.ndarray) -> tuple[np.ndarray, dict[int, float]]:
    """Posterior of the intent at the last event and the predictive probability of each unseen item, over all paths of intents."""
    count = world.num_intents
    posterior, following = np.zeros(count), np.zeros(count)
    event = np.array(
        [[event_probability(world, z, item, history[:t], fractions[t]) for z in range(count)] for t, item in enumerate(history)]
    )
    for path in itertools.product(range(count), repeat=len(history)):
        probability = 1 / count
        for before, after in itertools.pairwise(path):
            probability *= 1 - world.switch if before == after else world.switch / (count - 1)
        probability *= np.prod([event[t, z] for t, z in enumerate(path)])
        posterior[path[-1]] += probability
        for z in range(count):
            following[z] += probability * (1 - world.switch if z == path[-1] else world.switch / (count - 1))
    following /= posterior.sum()
    unseen = [item for item in range(1, world.num_items + 1) if item not in history]
    predictive = {
        item: sum(following[z] * event_probability(world, z, item, history, fractions[len(history)]) for z in range(count))
        for item in unseen
    }
    return posterior / posterior.sum(), predictive


@pytest.mark.parametrize("split", ["test", "validation"])
@pytest.mark.parametrize("case", TINY_CASES)
def test_equals_brute_force(case, split):
    config = TINY_CASES[case]
    sequences, world = simulate(config), planted(config)
    oracle, ends = Oracle(config), holdout_positions(sequences, split)
    posterior, ranks = oracle.intent_posterior(sequences, split), oracle.target_ranks(sequences, split)
    for user, (start, end) in enumerate(zip(sequences.offsets[:-1], ends, strict=True)):
        fractions = year_fraction(sequences.timestamps[start : end + 1])
        expected, predictive = brute_force(world, sequences.items[start:end].tolist(), fractions)
        assert posterior[user] == pytest.approx(expected, abs=1e-12)
        assert sum(predictive.values()) == pytest.approx(1)
        target = predictive.pop(int(sequences.items[end]))
        assert ranks[user] == sum(score >= target * (1 - 1e-9) for score in predictive.values())


def test_ties_count_against_the_target():
    # Nothing but noise: every unseen item is as likely as any other, so the target comes last of the 20 - 4 unseen items.
    config = SimulatorConfig(sim_users=10, sim_items=20, sim_intents=2, sim_events=5, sim_noise=1.0)
    assert set(Oracle(config).target_ranks(simulate(config))) == {15}


def test_default_recovery_and_ranking():
    config = SimulatorConfig()
    sequences, oracle = simulate(config), Oracle(config)
    posterior, ends = oracle.intent_posterior(sequences), holdout_positions(sequences, "test")
    assert posterior.sum(axis=1) == pytest.approx(1)
    assert 0.75 < normalized_mutual_info_score(sequences.intents[ends - 1], posterior.argmax(axis=1)) < 0.95

    ranks = oracle.target_ranks(sequences)
    assert ((ranks >= 0) & (ranks < config.sim_items - (ends - sequences.offsets[:-1]))).all()
    hits = (ranks < 10).mean()
    assert hits > 0.4
    assert hits > 5 * (popularity_ranks(sequences, ends) < 10).mean()


def popularity_ranks(sequences: Sequences, ends: np.ndarray) -> np.ndarray:
    counts = np.concatenate(([-1], sequences.catalog.counts))
    ranks = []
    for start, end in zip(sequences.offsets[:-1], ends, strict=True):
        scores = counts.copy()
        scores[sequences.items[start:end]] = -1
        ranks.append((scores >= scores[sequences.items[end]]).sum() - 1)
    return np.array(ranks)


@pytest.mark.parametrize(
    "config",
    [
        SimulatorConfig(),
        SimulatorConfig(sim_drift=0.7),
        SimulatorConfig(sim_items=60, sim_intents=6, sim_events=20, sim_zipf=1.5),  # regions often exhausted, many exact draws
    ],
)
def test_the_simulator_obeys_the_law_that_the_oracle_inverts(config):
    # If `p` is the true posterior, the truth's own probability is on average sum_z p(z)^2: E[p(truth)] = E[E[p(truth) | history]].
    sequences = simulate(config)
    posterior = Oracle(config).intent_posterior(sequences)
    truth = sequences.intents[holdout_positions(sequences, "test") - 1]
    of_truth = posterior[np.arange(len(truth)), truth]
    # Four standard errors of the mean over users.
    assert abs(of_truth.mean() - (posterior**2).sum(axis=1).mean()) < 4 * of_truth.std() / np.sqrt(len(truth))


def test_blocks_do_not_change_the_result(monkeypatch):
    sequences, oracle = simulate(TINY), Oracle(TINY)
    posterior, ranks = oracle.intent_posterior(sequences), oracle.target_ranks(sequences)
    monkeypatch.setattr("elcrec_tf.data.oracle._CELLS", 40)
    assert np.array_equal(oracle.intent_posterior(sequences), posterior)
    assert np.array_equal(oracle.target_ranks(sequences), ranks)


def test_unknown_split():
    with pytest.raises(ValueError, match="split='train'"):
        Oracle(TINY).intent_posterior(simulate(TINY), "train")


def test_foreign_sequences_are_refused():
    sequences = simulate(TINY)
    with pytest.raises(UserError, match="own simulator configuration"):
        Oracle(dataclasses.replace(TINY, sim_items=14)).intent_posterior(sequences)
    with pytest.raises(UserError, match="own simulator configuration"):
        Oracle(TINY).intent_posterior(dataclasses.replace(sequences, timestamps=None))
    with pytest.raises(UserError, match="an event is impossible"):
        Oracle(dataclasses.replace(TINY, sim_switch=0, sim_noise=0, sim_shared=0)).intent_posterior(sequences)
    with pytest.raises(UserError, match="sim_items should be at least twice"):
        Oracle(SimulatorConfig(sim_items=20))


@pytest.mark.parametrize("case", ["plain", "no noise", "exhausted"])
def test_the_best_items_are_the_likeliest_to_follow(case):
    config = TINY_CASES[case]
    sequences, world = simulate(config), planted(config)
    best = Oracle(config).best_items(sequences, 4)
    for user in range(8):
        history = sequences[user].tolist()
        _, predictive = brute_force(world, history, np.zeros(len(history) + 1))
        likeliest = sorted(predictive.values(), reverse=True)[:4]
        items = [item for item in best[user] if item]
        assert len(items) == len(likeliest)
        assert [predictive[item] for item in items] == pytest.approx(likeliest)


def test_the_best_items_of_a_user_without_events_and_of_one_with_all():
    config = dataclasses.replace(TINY, sim_noise=0.0, sim_shared=0.0, sim_items=12)
    first = planted(config).items[:, 0]
    items = np.arange(1, 13, dtype=np.int32)
    one_event = simulate(config)[0][:1]
    sequences = Sequences(
        "few",
        np.array(["none", "one"], object),
        one_event,
        np.array([0, 0, 1]),
        simulate(config).catalog,
        np.zeros(1),
    )
    best = Oracle(config).best_items(sequences, 20)
    assert set(best[0, :3]) == set(first)  # of every region the most popular one
    assert sorted(best[0, :12]) == items.tolist() and not best[0, 12:].any()
    assert one_event[0] not in best[1] and np.count_nonzero(best[1]) == 11


def test_the_best_items_under_drift_are_refused():
    config = TINY_CASES["drift"]
    with pytest.raises(UserError, match="without drift"):
        Oracle(config).best_items(simulate(config), 3)
