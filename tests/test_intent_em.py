import numpy as np
import pytest

from elcrec_tf.errors import UserError
from elcrec_tf.intent_em import IntentEM
from tests.toy import NUM_ITEMS, toy_model

# Three histories of different lengths, several users each.
THREE = np.int32([[0, 0, 0, 0, 0, 4], [0, 0, 0, 1, 2, 3], [6, 5, 4, 3, 2, 1]])


def started(history, seed=0, **options):
    callback = IntentEM(history, seed)
    callback.set_model(toy_model(intent_clustering="em", **options))
    callback.on_train_begin()
    return callback


def centers_of(callback, epoch):
    callback.on_epoch_begin(epoch)
    return np.array(callback.model.cluster_centers.centers)


@pytest.mark.parametrize("options", [{}, {"intent_pooling": "mean"}, {"intent_pooling": "mean", "official_padding": True}], ids=str)
def test_the_centres_are_those_of_the_users_states(options):
    """As many clusters as different users: the centres are the users' pooled states, on the unit sphere."""
    callback = started(np.repeat(THREE, [4, 3, 5], axis=0)[np.random.default_rng(0).permutation(12)], **options)
    pooled = np.asarray(callback.model(THREE)["pooled"])
    expected = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    centers = centers_of(callback, 0)
    nearest = (centers @ expected.T).argmax(axis=1)
    assert sorted(nearest) == [0, 1, 2]
    np.testing.assert_allclose(centers, expected[nearest], rtol=1e-4, atol=1e-5)


def test_it_clusters_what_the_encoder_has_become():
    callback = started(np.repeat(THREE, 4, axis=0))
    before = centers_of(callback, 0)
    table = callback.model.item_embedding.table
    table.assign(np.random.default_rng(9).normal(size=table.shape))
    assert np.abs(centers_of(callback, 0) - before).max() > 0.1


def test_states_that_are_no_numbers_are_said_to_be():
    callback = started(THREE)
    callback.model.item_embedding.table.assign(np.full((NUM_ITEMS + 1, 8), np.nan))
    with pytest.raises(UserError, match="training diverged: the states are no finite numbers after epoch 2"):
        callback.on_epoch_begin(2)


def test_seed_and_epoch_decide():
    history = np.random.default_rng(0).integers(1, NUM_ITEMS + 1, (60, 6)).astype(np.int32)
    first = centers_of(started(history), 3)
    np.testing.assert_allclose(centers_of(started(history), 3), first, rtol=1e-5)
    assert np.abs(centers_of(started(history), 4) - first).max() > 1e-3
    assert np.abs(centers_of(started(history, seed=1), 3) - first).max() > 1e-3


def test_its_seconds_are_in_the_logs_of_the_epoch():
    callback, logs = started(THREE), {}
    callback.on_epoch_begin(0)
    callback.on_epoch_end(0, logs)
    assert list(logs) == ["clustering_seconds"] and logs["clustering_seconds"] > 0
