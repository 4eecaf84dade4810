import numpy as np
import pytest

from elcrec_tf.reporting.figures import user_map
from elcrec_tf.reporting.loading import Run
from elcrec_tf.reporting.maps import project, similarity_order, user_maps
from elcrec_tf.run_folder import RunFolder
from tests.toy import random_sequences, toy_config, toy_model


def test_a_map_keeps_directions_together_and_is_the_same_each_time():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(3), 12)
    vectors = np.eye(3)[group] + 0.05 * rng.normal(size=(36, 3))
    vectors *= rng.uniform(0.1, 10, (36, 1))  # lengths say nothing
    points = project(vectors)
    assert np.array_equal(points, project(vectors))
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    assert (group[distance.argmin(axis=1)] == group).all()


@pytest.mark.parametrize("vectors", [np.full((12, 4), 0.3), np.zeros((12, 4))])
def test_equal_vectors_are_one_point(vectors):
    assert not np.any(project(vectors) - project(vectors)[0])


@pytest.mark.parametrize(
    ("settings", "coloured"),
    [
        ({}, [True]),
        ({"intent_clustering": "em"}, [False, True]),
        ({"num_clusters": "auto", "most_clusters": 4}, [False, True]),
        ({"revive_below": 0.1}, [False, True]),
    ],
)
def test_intents_of_other_numbers_have_no_colours(tmp_path, settings, coloured):
    """A map of the best model shows them instead."""
    sequences, folder = random_sequences(num_users=12, num_items=6, longest=6), RunFolder(tmp_path)
    folder.snapshots.mkdir()
    rng = np.random.default_rng(0)
    np.savez(folder.snapshots / "epoch-00002.npz", pooled=rng.normal(size=(12, 8)), intents=np.arange(12) % 3)
    maps = user_maps(Run(folder, toy_config(max_length=6, **settings), {}, [], sequences), toy_model())
    assert [one.title for one in maps] == ["after epoch 2", "best model"][: len(coloured)]
    assert [one.intents is not None for one in maps] == coloured
    assert ["coloured by intent" in user_map(one, [0, 1]) for one in maps] == coloured


def test_similar_centers_stand_together():
    centers = np.array([[1, 0], [0, 1], [0.99, 0.1], [0.1, 0.99], [0.98, -0.1]])
    groups = np.array([0, 1, 0, 1, 0])[similarity_order(centers)]
    assert np.count_nonzero(np.diff(groups)) == 1


def test_two_centers_have_an_order():
    assert sorted(similarity_order(np.eye(2)).tolist()) == [0, 1]
