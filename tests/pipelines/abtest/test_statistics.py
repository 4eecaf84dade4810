import numpy as np
import pytest

from pipelines.abtest.statistics import Lift, Ratio, holm, normal_p, sample_ratio_p, two_proportion_p


def test_a_ratio_by_hand():
    # 6 / 8. Influences (1 - 1.5, 2 - 1.5, 3 - 3) / (8 / 3) = -3/16, 3/16, 0, of variance 2 (3/16)^2 / 2.
    ratio = Ratio.of(np.array([1, 2, 3]), np.array([2, 2, 4]))
    assert (ratio.value, ratio.variance, ratio.users) == (0.75, pytest.approx(9 / 256), 3)
    assert ratio.relative_variance == pytest.approx(9 / 256 / 0.5625)


def test_the_variance_of_a_share_of_users_is_the_binomial_one():
    ratio = Ratio.of(np.array([True] * 30 + [False] * 70), np.ones(100))
    assert ratio.variance == pytest.approx(0.3 * 0.7 * 100 / 99)


def test_the_delta_method_agrees_with_drawing_users_again():
    rng = np.random.default_rng(0)
    shown = 10 * rng.geometric(0.2, 600)
    clicks = rng.binomial(shown, rng.beta(1, 20, 600))  # users differ, so their items shown are not independent
    ratio = Ratio.of(clicks, shown)
    drawn = rng.integers(0, 600, (4000, 600))
    resampled = clicks[drawn].sum(axis=1) / shown[drawn].sum(axis=1)
    assert np.sqrt(ratio.variance / 600) == pytest.approx(resampled.std(), rel=0.05)
    as_if_items_were_independent = np.sqrt(ratio.value * (1 - ratio.value) / shown.sum())
    assert resampled.std() > 1.5 * as_if_items_were_independent


def test_a_lift_by_hand():
    # Standard error of the logarithm: sqrt(.09 / .01 / 100 + .1056 / .0144 / 100) = .404145.
    lift = Lift.between(Ratio(0.1, 0.09, 100), Ratio(0.12, 0.1056, 100))
    assert lift.value == pytest.approx(0.2)
    assert lift.low == pytest.approx(np.exp(np.log(1.2) - 1.959964 * 0.404145) - 1, abs=1e-5)
    assert lift.high == pytest.approx(np.exp(np.log(1.2) + 1.959964 * 0.404145) - 1, abs=1e-5)
    assert lift.p == pytest.approx(0.65190, abs=1e-4)  # z = .182322 / .404145 = .45113
    assert lift.detectable == pytest.approx(np.exp(2.801585 * 0.404145) - 1, abs=1e-4)


def test_shares_of_users_are_tested_by_two_proportions():
    # 30 and 45 of 100: pooled .375, z = .15 / sqrt(.375 * .625 / 50) = 2.19089.
    a, b = (Ratio.of(np.arange(100) < count, np.ones(100)) for count in (30, 45))
    assert two_proportion_p(a, b) == pytest.approx(0.02846, abs=1e-5)
    assert Lift.between(a, b, proportion=True).p == two_proportion_p(a, b)


@pytest.mark.parametrize("values", [(0.0, 0.1), (0.1, 0.0), (0.0, 0.0)])
def test_without_a_click_there_is_no_lift(values):
    a, b = (Ratio(value, 0.1, 50) for value in values)
    assert Lift.between(a, b) is None


def test_sample_size_of_the_textbook():
    # Shares of .10 and .12: (1.960 + .842)^2 (.1 * .9 + .12 * .88) / .02^2 = 3,838 an arm.
    assert Lift.between(Ratio(0.1, 0.09, 9), Ratio(0.12, 0.1056, 9)).users_needed(0.2) == pytest.approx(3838, rel=0.01)
    # Means with deviation s: about 16 s^2 / difference^2, here 16 * 0.09 / .001^2 = 1,440,000; exactly 15.7 of it.
    same = Lift.between(*[Ratio(0.1, 0.09, 9)] * 2)
    assert same.users_needed(0.01) == pytest.approx(15.698 * 90_000, rel=0.011)
    assert same.users_needed(-0.01) == pytest.approx(15.698 * 90_000, rel=0.011)
    assert same.users_needed(0.0) is None


def test_the_detectable_lift_needs_the_users_that_there_are():
    lift = Lift.between(Ratio(0.1, 0.3, 5000), Ratio(0.11, 0.3, 5000))
    assert lift.users_needed(lift.detectable) in (5000, 5001)  # rounding up


def test_the_power_is_what_it_says():
    rng = np.random.default_rng(1)
    users = Lift.between(*[Ratio(1.0, 1.0, 2)] * 2).users_needed(0.2)  # exponential numbers: variance 1 at mean 1

    def p():
        a, b = (Ratio.of(rng.exponential(mean, users), np.ones(users)) for mean in (1, 1.2))
        return Lift.between(a, b).p

    assert np.mean([p() < 0.05 for _ in range(800)]) == pytest.approx(0.8, abs=0.06)


@pytest.mark.parametrize(
    ("raw", "corrected"),
    [
        ([], []),
        ([0.2], [0.2]),
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),  # 3 * .01; 2 * .03; 1 * .04, but no less than the one before
        ([0.5, 0.6], [1.0, 1.0]),
    ],
)
def test_holm(raw, corrected):
    assert holm(raw) == pytest.approx(corrected)


def test_sample_ratio():
    assert sample_ratio_p(5100, 4900) == pytest.approx(0.0455, abs=1e-4)  # chi-square 200^2 / 10,000 = 4
    assert sample_ratio_p(50, 50) == 1
    assert sample_ratio_p(6000, 4000) < 1e-80


def test_no_difference_is_no_evidence_even_without_an_error():
    assert (normal_p(0.0, 0.0), normal_p(0.0, 1.0), normal_p(0.1, 0.0)) == (1, 1, 0)
