"""The number of intents, decided while training."""

from types import SimpleNamespace

import numpy as np
import pytest

from elcrec_tf.cluster_count import ClusterCount, revise
from elcrec_tf.errors import UserError
from elcrec_tf.intents import unit_rows

GROUPS = 8


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def axes():
    """Eight directions at right angles in 16 dimensions."""
    return np.eye(16)[:GROUPS]


def around(rng, directions, count, spread=0.1):
    """`count` unit vectors around each direction."""
    vectors = np.repeat(directions, count, axis=0)
    return unit_rows(vectors + spread * rng.normal(size=vectors.shape))


def settled(centers, users, most, times=6):
    for _ in range(times):
        change = revise(centers, users, most)
        centers = change.centers
    return change


def groups_of(centers, axes):
    """Number of the axis that each centre lies on (nearer than to any other; training moves it there)."""
    cosines = centers @ axes.T
    assert np.all(cosines.max(axis=1) > 0.7)
    return sorted(cosines.argmax(axis=1))


def test_many_centres_become_as_many_as_there_are_groups(rng, axes):
    users = around(rng, axes, 40)
    change = settled(around(rng, axes, 6, spread=0.3), users, most=48)
    assert groups_of(change.centers, axes) == list(range(GROUPS))
    assert (change.retired, change.merged, change.added) == (0, 0, 0)  # nothing is left to do


def test_one_centre_between_several_groups_is_split(rng, axes):
    users = around(rng, axes, 40)
    start = unit_rows(np.stack([axes[:4].sum(axis=0), axes[4:].sum(axis=0)]))
    change = settled(start, users, most=48)
    assert groups_of(change.centers, axes) == list(range(GROUPS))


def test_centres_without_users_are_retired(rng, axes):
    users = around(rng, axes[:4], 40)
    change = revise(axes, users, most=8)
    assert (change.retired, change.merged, change.added) == (4, 0, 0)
    assert groups_of(change.centers, axes) == [0, 1, 2, 3]


def test_at_most_half_of_the_centres_are_merged_at_once(rng, axes):
    users = around(rng, axes[:2], 200)
    start = around(rng, axes[:2], 6, spread=0.15)
    counts = np.bincount(np.argmax(users @ start.T, axis=1), minlength=12)
    change = revise(start, users, most=12)
    large = np.count_nonzero(counts >= 10)
    assert large > 4
    assert change.merged <= large - large // 2


@pytest.mark.parametrize("most", [2, 3, 5])
def test_there_are_never_more_centres_than_room(rng, axes, most):
    change = settled(axes[:2], around(rng, axes, 40), most)
    assert len(change.centers) == most


def test_two_centres_stay_even_where_all_users_are_alike(rng, axes):
    change = settled(axes, around(rng, axes[:1], 100), most=8)
    assert len(change.centers) == 2
    np.testing.assert_allclose(np.linalg.norm(change.centers, axis=1), 1, rtol=1e-6)


def test_few_users_decide_nothing_that_cannot_be_decided(rng, axes):
    change = revise(axes, around(rng, axes[:3], 2), most=8)
    assert len(change.centers) == 2
    assert change.added == 0


def test_states_that_are_no_numbers_are_said_to_be(monkeypatch):
    callback = ClusterCount(np.zeros((2, 3), np.int32))
    callback.set_model(SimpleNamespace(cluster_centers=None))
    callback._pooled = SimpleNamespace(predict=lambda *_, **__: {"pooled": np.array([[1.0, np.nan], [0.0, 1.0]])})
    with pytest.raises(UserError, match="training diverged: the states are no finite numbers after epoch 3"):
        callback.on_epoch_end(2)
