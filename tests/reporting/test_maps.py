import numpy as np

from elcrec_tf.reporting.maps import project, similarity_order


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


def test_similar_centers_stand_together():
    centers = np.array([[1, 0], [0, 1], [0.99, 0.1], [0.1, 0.99], [0.98, -0.1]])
    groups = np.array([0, 1, 0, 1, 0])[similarity_order(centers)]
    assert np.count_nonzero(np.diff(groups)) == 1


def test_two_centers_have_an_order():
    assert sorted(similarity_order(np.eye(2)).tolist()) == [0, 1]
