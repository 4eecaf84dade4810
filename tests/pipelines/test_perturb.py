import numpy as np
import pytest

from pipelines.reproduce.perturb import some_users, with_noise
from tests.toy import random_sequences, sequences_of


def test_some_users_keep_their_histories_and_the_catalogue():
    whole = random_sequences(num_users=40)
    part = some_users(whole, 0.25, seed=3)
    assert part.num_users == 10
    number = {user: index for index, user in enumerate(whole.user_ids)}
    for index, user in enumerate(part.user_ids):
        assert part[index].tolist() == whole[number[user]].tolist()
    assert list(part.catalog.ids) == list(whole.catalog.ids)
    assert part.fingerprint != whole.fingerprint


def test_popularity_is_counted_in_the_training_part_of_those_users_alone():
    part = some_users(sequences_of([1, 2, 3, 4], [1, 1, 2, 3, 4], num_items=5), 0.5, seed=0)
    trained = part[0][:-2]
    assert part.catalog.counts.tolist() == np.bincount(trained, minlength=6)[1:].tolist()


def test_a_smaller_share_lies_in_a_larger_one_and_seeds_differ():
    whole = random_sequences(num_users=40)
    small, large = (set(some_users(whole, share, seed=1).user_ids) for share in (0.2, 0.6))
    assert small < large
    assert set(some_users(whole, 0.2, seed=2).user_ids) != small
    assert some_users(whole, 1.0, seed=1) is whole
    assert some_users(whole, 0.001, seed=1).num_users == 1


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_noise_replaces_a_share_of_the_history_and_never_the_target(share):
    whole = random_sequences(num_users=2000, num_items=60)
    noisy = with_noise(whole, share, seed=0)
    last = whole.offsets[1:] - 1
    assert noisy.items[last].tolist() == whole.items[last].tolist()
    target = np.repeat(whole.items[last], np.diff(whole.offsets))
    changed = noisy.items != whole.items
    assert not np.any(noisy.items[changed] == target[changed]), "the target would be given away"
    assert noisy.items.min() >= 1 and noisy.items.max() <= 60 and noisy.items.dtype == np.int32
    history = np.ones(len(changed), bool)
    history[last] = False
    # One in 59 replacements draws the item that was there.
    assert changed[history].mean() == pytest.approx(share * 58 / 59, abs=0.015)


def test_more_noise_adds_to_less_noise():
    whole = random_sequences(num_users=200)
    little, much = (with_noise(whole, share, seed=4).items for share in (0.2, 0.6))
    changed = little != whole.items
    assert np.array_equal(much[changed], little[changed])
    assert not np.array_equal(with_noise(whole, 0.2, seed=5).items, little)
