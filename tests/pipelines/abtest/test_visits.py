import dataclasses

import numpy as np
import pytest

from elcrec_tf.config import SimulatorConfig
from elcrec_tf.data.planted import planted
from elcrec_tf.data.simulate import simulate
from pipelines.abtest.analysis import METRICS, OVERALL, compare
from pipelines.abtest.audience import Audience, assigned, recruit
from pipelines.abtest.policies import oracle, popularity
from pipelines.abtest.visits import EAGERNESS, STAY, visit
from pipelines.abtest.world import World

CONFIG = SimulatorConfig(sim_users=400, sim_items=200, sim_intents=4, sim_events=10)
QUIET = dataclasses.replace(CONFIG, sim_noise=0.0, sim_shared=0.0, sim_switch=0.0)
USERS = 1500


@pytest.fixture(scope="module")
def world():
    return World(CONFIG, simulate(CONFIG).catalog)


@pytest.fixture(scope="module")
def audience():
    return recruit(CONFIG, USERS, seed=0)


@pytest.fixture(scope="module")
def outcomes(world, audience):
    """What every user does under popularity (0) and under the oracle (1): in an experiment one of them is seen."""
    return [visit(CONFIG, audience, [make(world, 50)], np.zeros(USERS, int), 10, 5, 0) for make in (popularity, oracle)]


def seen(outcomes, arms):
    """The totals of an experiment that has each user in one arm."""
    fields = [field.name for field in dataclasses.fields(outcomes[0])]
    both = {name: [getattr(totals, name) for totals in outcomes] for name in fields}
    return type(outcomes[0])(**{name: np.where(arms == 0, *values) for name, values in both.items()})


def blank_audience(users, intent=0, sessions=1):
    ids = [f"u{number}" for number in range(users)]
    whole = np.full(users, intent), np.full(users, sessions), np.zeros(users, int)
    return Audience(ids, [[] for _ in ids], *whole)


def always(items):
    return lambda histories: np.tile(np.array(items, np.int32), (len(histories), 1))


def test_clicks_follow_the_planted_preference_and_the_position():
    regions = planted(QUIET)
    liked, others = regions.items[0, 2], regions.items[1, :3]
    probability = regions.probabilities[0, 2]
    for position in (1, 3):
        page = list(others)
        page[position - 1 : position - 1] = [liked]
        totals = visit(QUIET, blank_audience(20_000), [always(page)], np.zeros(20_000, int), 4, 1, seed=position)
        expected = EAGERNESS * probability / position
        assert totals.clicks.mean() == pytest.approx(expected, abs=4 * np.sqrt(expected / 20_000))
    assert visit(QUIET, blank_audience(500), [always(others)], np.zeros(500, int), 3, 1, 0).clicks.sum() == 0


def test_what_a_history_holds_makes_the_rest_of_the_region_likelier():
    regions = planted(QUIET)
    first, second = regions.items[0, :2]
    audience = dataclasses.replace(blank_audience(20_000), histories=[[int(first)] for _ in range(20_000)])
    totals = visit(QUIET, audience, [always([second])], np.zeros(20_000, int), 1, 1, 0)
    p = regions.probabilities[0]
    expected = EAGERNESS * p[1] / (1 - p[0])
    assert totals.clicks.mean() == pytest.approx(expected, abs=4 * np.sqrt(expected / 20_000))


def test_users_whom_nothing_pleases_leave_by_the_law():
    offside = planted(QUIET).items[1, :30]
    totals = visit(QUIET, blank_audience(5000, sessions=2), [always(offside)], np.zeros(5000, int), 3, 10, 0)
    assert totals.clicks.sum() == 0 and (totals.sessions == 2).all()
    pages = totals.pages.sum() / totals.sessions.sum()
    assert pages == pytest.approx((1 - STAY**10) / (1 - STAY), abs=4 * np.sqrt(2 / 10_000))  # a geometric number, 10 at most
    assert np.array_equal(totals.impressions, 3 * totals.pages)


def test_users_who_are_pleased_stay_longer(outcomes):
    pages_a_session = [totals.pages.sum() / totals.sessions.sum() for totals in outcomes]
    assert outcomes[1].clicks.sum() > 1.5 * outcomes[0].clicks.sum()
    assert pages_a_session[1] > 1.02 * pages_a_session[0]


def test_visits_are_reproducible_and_the_arm_itself_is_without_effect(world, audience, outcomes):
    same = popularity(world, 50)
    arms = assigned(audience.user_ids, "any")
    split = visit(CONFIG, audience, [same, same], arms, 10, 5, 0)
    other = visit(CONFIG, audience, [same, same], arms, 10, 5, 1)
    for name in ("sessions", "pages", "impressions", "clicks"):
        assert np.array_equal(getattr(split, name), getattr(outcomes[0], name))
    assert not np.array_equal(split.clicks, other.clicks)


def test_histories_grow_by_what_was_clicked_and_the_audience_stays(world):
    audience, asked = recruit(CONFIG, 60, seed=3), []
    before = [list(history) for history in audience.histories]
    best = oracle(world, 50)

    def policy(histories):
        asked.extend(map(list, histories))
        return best(histories)

    totals = visit(CONFIG, audience, [policy], np.zeros(60, int), 10, 5, 0)
    assert audience.histories == before
    assert totals.clicks.sum() > 60
    assert all(len(set(history)) == len(history) for history in asked)
    assert any(history not in before for history in asked)


def test_users_who_have_the_whole_catalogue_are_shown_nothing(world):
    audience = dataclasses.replace(blank_audience(3), histories=[list(range(1, 201))] * 3)
    totals = visit(CONFIG, audience, [popularity(world, 50)], np.zeros(3, int), 10, 5, 0)
    assert totals.impressions.sum() == totals.clicks.sum() == 0 and (totals.pages >= 1).all()


def test_without_a_difference_p_values_are_uniform(outcomes, audience):
    found = {metric.name: [] for metric in METRICS}
    for salt in range(300):
        arms = assigned(audience.user_ids, f"salt {salt}")
        for one in compare(outcomes[1], arms, np.zeros(USERS, int)):
            if one.group == OVERALL:
                found[one.metric.name].append(one.lift.p)
    for name, p_values in found.items():
        grid = np.sort(p_values)
        distance = np.abs(grid - (np.arange(300) + 0.5) / 300).max()
        assert distance < 1.63 / np.sqrt(300), name  # Kolmogorov-Smirnov at the 1 % level
        assert 0.01 <= np.mean(grid < 0.05) <= 0.1, name


def test_intervals_hold_the_true_lift(outcomes, audience):
    everyone, held = np.ones(USERS, bool), {metric.name: 0 for metric in METRICS}
    for salt in range(200):
        arms = assigned(audience.user_ids, f"salt {salt}")
        for one in compare(seen(outcomes, arms), arms, np.zeros(USERS, int)):
            if one.group == OVERALL:
                truth = one.metric.ratio(outcomes[1], everyone).value / one.metric.ratio(outcomes[0], everyone).value - 1
                held[one.metric.name] += one.lift.low <= truth <= one.lift.high
    # The users themselves are given here, which makes intervals for all users there could be too wide rather than too narrow.
    assert min(held.values()) >= 0.9 * 200


def test_a_better_recommender_wins(outcomes, audience):
    arms = assigned(audience.user_ids, "one")
    comparisons = {(one.group, one.metric.name): one for one in compare(seen(outcomes, arms), arms, audience.groups)}
    assert list(dict.fromkeys(group for group, _ in comparisons)) == [OVERALL, "new", "low", "medium", "high"]
    for metric in ("PVCTR", "UVCTR", "clicks"):
        overall = comparisons[OVERALL, metric]
        assert overall.lift.low > 0 and overall.lift.p < 1e-6 and overall.p_corrected is None
        for group in ("low", "medium", "high"):
            one = comparisons[group, metric]
            assert one.lift.value > 0 and one.lift.p <= one.p_corrected < 0.01
    assert sum(comparisons[group, "VV"].a.users for group in ("new", "low", "medium", "high")) == comparisons[OVERALL, "VV"].a.users


def test_groups_without_users_in_both_arms_are_left_out(outcomes):
    arms, groups = np.arange(USERS) % 2, np.where(np.arange(USERS) < 3, 0, 2)
    found = compare(outcomes[0], arms, groups)
    assert list(dict.fromkeys(one.group for one in found)) == [OVERALL, "medium"]  # one new user in B
