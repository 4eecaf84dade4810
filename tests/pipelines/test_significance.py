import numpy as np
import pytest

from pipelines.reproduce.significance import METRICS, Spread, bootstrap_means, bootstrap_p, decimal, gains, p_text, paired_p

LOG2_3 = 1.5849625007211562


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("HR@5", [1, 1, 1, 0, 0]),
        ("HR@20", [1, 1, 1, 1, 0]),
        ("NDCG@5", [1, 1 / LOG2_3, 1 / np.log2(6), 0, 0]),
        ("NDCG@20", [1, 1 / LOG2_3, 1 / np.log2(6), 1 / np.log2(7), 0]),
    ],
)
def test_gains_are_what_each_user_adds(metric, expected):
    assert gains(np.array([0, 1, 4, 5, 20], np.uint16), metric) == pytest.approx(expected)


def test_the_mean_gain_is_the_metric_that_runs_report():
    from elcrec_tf.ranking import ranking_metrics

    ranks = np.random.default_rng(0).integers(0, 40, 500)
    reported = ranking_metrics(ranks)
    assert {name: np.mean(gains(ranks, name)) for name in METRICS} == pytest.approx({name: reported[name] for name in METRICS})


def test_gains_average_over_seeds_and_add_up():
    ranks = np.array([[0, 30], [7, 30]])
    assert gains(ranks, "HR@5").tolist() == [0.5, 0]
    # User 0: HR@5 1/2, HR@20 1, NDCG@5 1/2, NDCG@20 (1 + 1/log2(9)) / 2.
    assert gains(ranks, "sum") == pytest.approx([2.5 + 0.5 / np.log2(9), 0])


def test_a_spread_is_mean_and_sample_deviation():
    spread = Spread.of([0.1, 0.2, 0.3])
    assert (spread.mean, spread.deviation, spread.seeds) == (pytest.approx(0.2), pytest.approx(0.1), 3)
    assert spread.text() == ".2000 ± .1000"
    assert [spread.holds(value) for value in (0.01, 0.39, 0.41)] == [True, True, False]
    assert (Spread.of([0.25]).text(), Spread.of([0.25]).holds(0.25)) == (".2500", None)


@pytest.mark.parametrize(
    ("values", "published", "expected", "tolerance"),
    [
        # One resample in 10,001, the sample itself, lies beyond a value that no resample reaches; twice that.
        ([1.0] * 7, 0.5, 2 / 10_001, 0),
        ([0.0] * 7, 0.5, 2 / 10_001, 0),
        # All resampled means equal the value: they count on both sides.
        ([0.5] * 7, 0.5, 1, 0),
        # Two users: means 0, 1/2, 1 with probabilities 1/4, 1/2, 1/4.
        ([0.0, 1.0], 0.5, 1, 0),
        ([0.0, 1.0], 1.0, 2 / 4, 0.02),
        ([0.0, 1.0], 0.9, 2 / 4, 0.02),
        # Three users, one with a gain: the mean is 1 only where all three draws are that user, 1/27.
        ([0.0, 0.0, 1.0], 1.0, 2 / 27, 0.015),
        # All below 1/6 in (2/3)^3.
        ([0.0, 0.0, 1.0], 1 / 6, 2 * 8 / 27, 0.03),
    ],
)
def test_bootstrap_over_users(values, published, expected, tolerance):
    assert bootstrap_p(bootstrap_means(np.array(values)), published) == pytest.approx(expected, abs=tolerance + 1e-12)


def test_bootstrap_agrees_with_drawing_users_one_by_one_and_repeats_itself():
    rng = np.random.default_rng(3)
    values = gains(rng.integers(0, 60, 400), "NDCG@20")
    published = float(np.mean(values)) - 0.015
    means = rng.choice(values, (10_000, len(values))).mean(axis=1)
    ours = bootstrap_means(values)
    assert bootstrap_p(ours, published) == pytest.approx(bootstrap_p(means, published), abs=0.02)
    assert (ours.mean(), ours.std()) == (pytest.approx(values.mean(), abs=1e-3), pytest.approx(values.std() / 20, rel=0.03))
    assert np.array_equal(bootstrap_means(values), ours) and not np.array_equal(bootstrap_means(values, seed=1), ours)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1, 1, 1], [0, 0, 0], 2 / 8),  # of 8 patterns of signs two have a sum as far from 0
        ([0, 0, 0], [1, 1, 1], 2 / 8),
        ([1, 1, 1, 5, 5], [0, 0, 0, 5, 5], 2 / 8),  # equal users say nothing
        ([1, 0], [0, 1], 1),
        ([3, 0, 0], [0, 1, 1], 1),  # the sum of +-3 +-1 +-1 is at least 1 away from 0
        ([4, 2, 1], [0, 0, 0], 2 / 8),
        ([4, 2, 0], [0, 0, 1], 4 / 8),  # of +-4 +-2 +-1 only 7 and 5 and their negatives are at least 5 away
        ([1] * 12, [0] * 12, 2 / 4096),
        ([2, 2], [2, 2], 1),
    ],
)
def test_paired_permutation_of_few_users(first, second, expected):
    assert paired_p(np.array(first, float), np.array(second, float)) == pytest.approx(
        expected, abs=2 * np.sqrt(expected * (1 - expected) / 1000) + 1e-12
    )


def test_paired_permutation_tells_a_difference_from_chance():
    rng = np.random.default_rng(0)
    base = gains(rng.integers(0, 60, 3000), "HR@20")
    same = gains(rng.integers(0, 60, 3000), "HR@20")
    better = np.maximum(base, rng.random(3000) < 0.03)
    assert paired_p(better, base) < 0.001 < 0.01 < paired_p(same, base)
    assert paired_p(base, better) == pytest.approx(paired_p(better, base), abs=1e-3)


@pytest.mark.parametrize(
    ("value", "signed", "text"),
    [(0.06718, False, ".0672"), (0.00004, False, ".0000"), (1.2345, False, "1.2345"), (0.99999, False, "1.0000")]
    + [(0.0123, True, "+.0123"), (-0.0123, True, "-.0123"), (-1.5, True, "-1.5000"), (10.25, False, "10.2500")],
)
def test_decimals_as_in_published_tables(value, signed, text):
    assert decimal(value, signed) == text


@pytest.mark.parametrize(
    ("p", "text"), [(0.0002, "<.001"), (0.0123, ".012"), (0.0994, ".099"), (0.0999, ".10"), (0.43, ".43"), (1.0, "1.00")]
)
def test_p_values_have_the_digits_they_deserve(p, text):
    assert p_text(p) == text
