"""Samplers: their rates by hand, and what they promise: the sum over a corrected sample estimates the sum over the catalogue."""

import numpy as np
import pytest
import tensorflow as tf

from elcrec_tf.data.catalog import Catalog
from elcrec_tf.data.negatives import NegativeSampler
from elcrec_tf.data.training_data import training_batches
from tests.toy import sequences_of, toy_config

COUNTS = np.array([4, 0, 10, 2])  # shares 4/17, 1/17, 10/17, 2/17: an item without an event counts as one
TARGETS = np.int32([[3, 0, 1], [3, 4, 0]])
KINDS = ("uniform", "log-uniform", "in-batch", "mixed")


def sampler(kind, count=8, counts=COUNTS):
    return NegativeSampler(kind, count, Catalog([f"i{index}" for index in range(len(counts))], counts))


def drawn(kind, count=8, key=(1, 2), targets=TARGETS, counts=COUNTS):
    found = sampler(kind, count, counts).draw(tf.constant(targets), tf.constant(key, tf.int64))
    return found["negatives"].numpy(), found["negative_log_rates"].numpy()


@pytest.mark.parametrize(
    ("kind", "rates"),
    [
        ("uniform", [1 / 4] * 4),
        # ranks 1, 3, 0, 2 of the items 1 to 4: log(3/2), log(5/4), log(2/1), log(4/3), over log 5
        ("log-uniform", np.log([3 / 2, 5 / 4, 2, 4 / 3]) / np.log(5)),
        ("in-batch", [4 / 17, 1 / 17, 10 / 17, 2 / 17]),
        ("mixed", [(1 / 4 + share / 17) / 2 for share in (4, 1, 10, 2)]),
    ],
)
def test_rates_by_hand(kind, rates):
    assert sum(rates) == pytest.approx(1)
    negatives, log_rates = drawn(kind, 400, targets=np.int32([1, 2, 3, 4]))
    assert set(negatives.tolist()) == {1, 2, 3, 4}
    np.testing.assert_allclose(np.exp(log_rates), np.array(rates)[negatives - 1], rtol=1e-5)


@pytest.mark.parametrize("count", [1, 3, 9])
def test_an_odd_number_of_mixed_negatives_has_one_more_uniform_draw(count):
    half = count // 2
    rates = [((count - half) / 4 + half * share / 17) / count for share in (4, 1, 10, 2)]
    np.testing.assert_allclose(np.exp(sampler("mixed", count)._log_rates[1:]), rates, rtol=1e-5)


@pytest.mark.parametrize("count", [2, 6, 1000, 1024])
def test_the_rates_of_an_even_number_of_mixed_negatives_are_the_mean_to_the_last_bit(count):
    share = np.maximum(COUNTS, 1) / 17
    np.testing.assert_array_equal(sampler("mixed", count)._log_rates[1:], np.log((np.full(4, 1 / 4) + share) / 2).astype(np.float32))


def test_in_batch_negatives_are_the_targets():
    assert drawn("in-batch")[0].tolist() == [3, 0, 1, 3, 4, 0]


def test_mixed_negatives_are_half_uniform_half_targets():
    negatives, _ = drawn("mixed", 2001, counts=np.ones(1000, int))
    assert len(negatives) == 2001
    assert len(set(negatives[:1001].tolist())) > 500
    np.testing.assert_allclose(np.bincount(negatives[1001:], minlength=5)[[1, 3, 4]] / 1000, [1 / 4, 1 / 2, 1 / 4], atol=0.06)


def test_a_batch_without_targets_has_none_to_draw():
    assert drawn("mixed", 4, targets=np.int32([0, 0]))[0][2:].tolist() == [0, 0]


def test_log_uniform_reaches_the_last_rank_of_a_large_catalogue():
    negatives, _ = drawn("log-uniform", 200_000, counts=np.arange(3_000_000)[::-1])
    assert negatives.min() == 1
    assert negatives.max() > 2_990_000
    # half of the probability lies below rank sqrt(n + 1) - 1
    assert np.mean(negatives <= np.sqrt(3_000_001) - 1) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_draws_are_a_function_of_the_seed(kind):
    np.testing.assert_array_equal(drawn(kind)[0], drawn(kind)[0])
    if kind != "in-batch":
        assert drawn(kind, 100)[0].tolist() != drawn(kind, 100, key=(1, 3))[0].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_the_estimate_of_the_partition_sum_is_unbiased(kind):
    """Mean over many samples of `Σ exp(score) / (m rate)`, against `Σ exp(score)` over the catalogue."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=7)
    counts = np.array([30, 20, 15, 15, 8, 7, 5])
    of = sampler(kind, 6, counts)

    @tf.function
    def estimate(targets, key):
        found = of.draw(targets, key)
        weights = tf.exp(tf.gather(tf.constant(scores, tf.float32), found["negatives"] - 1) - found["negative_log_rates"])
        return tf.reduce_sum(weights) / tf.cast(tf.size(found["negatives"]), tf.float32)

    targets = rng.choice(7, (3000, 6), p=counts / counts.sum()).astype("int32") + 1
    estimates = [float(estimate(tf.constant(row), tf.constant([0, step], tf.int64))) for step, row in enumerate(targets)]
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert abs(np.mean(estimates) - np.exp(scores).sum()) < 4 * error
    assert 4 * error < 0.1 * np.exp(scores).sum()


@pytest.mark.parametrize("kind", KINDS)
def test_two_devices_share_what_the_catalogue_gives_and_have_batches_of_their_own(kind):
    sequences = sequences_of(*([1, 2, 3, 4, 5, 6] for _ in range(8)), [6, 5, 4, 3, 2, 1], counts=[9, 8, 7, 6, 5, 4])
    config = toy_config(next_item="sampled_softmax", negatives=kind, num_negatives=6, sequence_weight=0.0, intent_weight=0.0)
    batches = training_batches(sequences, config, replicas=2).dataset.take(3).as_numpy_iterator()
    for _, y in batches:
        first, second = np.split(y["negatives"], 2)
        if kind in ("uniform", "log-uniform"):
            np.testing.assert_array_equal(first, second)
        if kind == "in-batch":
            np.testing.assert_array_equal(np.concatenate([first, second]), y["target"].reshape(-1))
    again = training_batches(sequences, config, replicas=2).dataset.take(3).as_numpy_iterator()
    np.testing.assert_array_equal([batch["negatives"] for _, batch in again][-1], y["negatives"])
