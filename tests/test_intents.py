import math

import numpy as np
import pytest

from elcrec_tf.intents import assignment_health, center_health, kmeans, recovery, separation, unit_rows, view_health


def test_assignment_health_by_hand():
    """Shares 1/2, 1/4, 1/4 and 0: entropy 1/2 ln 2 + 2 * 1/4 ln 4 = 3/2 ln 2, so perplexity 2^1.5."""
    health = assignment_health(np.array([0, 0, 1, 2]), 4)
    assert health == pytest.approx({"intents_used": 3 / 4, "intent_perplexity": 2**1.5, "largest_intent": 1 / 2, "smallest_intent": 0})


@pytest.mark.parametrize(("assigned", "perplexity"), [([2] * 5, 1), ([0, 1, 2, 3], 4)])
def test_perplexity_runs_from_one_to_all(assigned, perplexity):
    assert assignment_health(np.array(assigned), 4)["intent_perplexity"] == pytest.approx(perplexity)


def test_assignment_health_without_users():
    assert assignment_health(np.array([], int), 3)["intents_used"] == 0


def test_separation_by_hand():
    """Distances 0.2 and 0.8, then 0.5 and 0.5, then 0 and 1: means 1 - 1/4, 0 and 1."""
    cosines = np.array([[0.8, 0.2, 0.1], [0.5, 0.5, -1.0], [0.0, -0.3, 1.0]])
    assert separation(cosines) == pytest.approx((0.75 + 0 + 1) / 3)


def test_separation_is_highest_at_the_planted_number():
    rng = np.random.default_rng(0)
    planted = unit_rows(rng.normal(size=(12, 24)))
    users = unit_rows(np.repeat(planted, 50, axis=0) + 0.08 * rng.normal(size=(600, 24)))
    found = {k: separation(users @ unit_rows(kmeans(users, k, 0, tries=5)[0]).T) for k in (3, 6, 12, 24, 48)}
    assert max(found, key=found.get) == 12


def test_center_health_by_hand():
    """Cosines 0, 0 and -1 between x, y and -x (each twice)."""
    health = center_health(np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
    assert health == pytest.approx({"center_cosine_mean": -1 / 3, "center_cosine_max": 0})


def test_view_health_by_hand():
    """Views x, y against x, -y: squared distances 0 and 4. Users are at squared distance 2: log exp(-2 * 2)."""
    health = view_health(np.array([[5.0, 0.0], [0.0, 2.0]]), np.array([[1.0, 0.0], [0.0, -1.0]]))
    assert health == pytest.approx({"view_alignment": 2, "view_uniformity": -4})


def test_view_health_of_collapsed_and_of_single_views():
    assert view_health(np.ones((3, 2)), np.ones((3, 2))) == pytest.approx({"view_alignment": 0, "view_uniformity": 0}, abs=1e-12)
    assert view_health(np.ones((1, 2)), np.ones((1, 2)))["view_uniformity"] == 0


def test_recovery_ignores_names_and_is_one_for_equal_partitions():
    assert recovery(np.array([2, 2, 0, 1]), np.array([0, 0, 1, 2])) == pytest.approx(1)
    assert recovery(np.array([0, 0, 0, 0]), np.array([0, 0, 1, 1])) == pytest.approx(0)


def test_recovery_by_hand():
    """Planted halves, one of them split in two: I = ln 2, entropies ln 2 and 3/2 ln 2, so 1 / ((1 + 3/2) / 2) = 4/5."""
    assert recovery(np.array([0, 0, 1, 2]), np.array([0, 0, 1, 1])) == pytest.approx(4 / 5)


def test_kmeans_finds_directions_whatever_the_lengths():
    rng = np.random.default_rng(0)
    angles = np.repeat([0, 2 * math.pi / 3, 4 * math.pi / 3], 20) + rng.normal(0, 0.05, 60)
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1) * rng.uniform(0.1, 50, (60, 1))
    centers, labels = kmeans(vectors, 3, seed=0)
    assert recovery(labels, np.repeat([0, 1, 2], 20)) == pytest.approx(1)
    np.testing.assert_allclose(np.linalg.norm(centers, axis=1), 1, atol=0.02)
    np.testing.assert_array_equal(kmeans(vectors, 3, seed=0)[1], labels)
