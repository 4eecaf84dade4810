import numpy as np
import pytest
import tensorflow as tf

from elcrec_tf.augment import view_length
from elcrec_tf.config import AugmentConfig
from elcrec_tf.data.view_slots import ViewSlots

NAMES = {1: ("crop",), 2: ("insert", "crop"), 3: ("crop", "mask", "reorder")}
MOST = 50


def draws(slots, count):
    """(augmentations, slots) of `count` draws, int32 `[count, users]` each."""
    keys = tf.stack([tf.range(count, dtype=tf.int64), tf.zeros(count, tf.int64)], axis=1)
    return [part.numpy() for part in tf.map_fn(slots.draw, keys, fn_output_signature=(tf.int32, tf.int32))]


def test_slots_by_hand():
    """Groups of three from the longest down: [1], [2, 4, 5] and [8, 9, 10]; a crop keeps 0.6 of the longest, at least 1."""
    slots = ViewSlots.of(np.array([1, 2, 4, 5, 8, 9, 10]), AugmentConfig(), own_rows=False, most=MOST)
    assert slots.capacities.tolist() == [1, 1, 1, 3, 5, 5, 6, 10, 10]


@pytest.mark.parametrize("kinds", NAMES)
@pytest.mark.parametrize("users", [1, 2, 3, 7, 30])
@pytest.mark.parametrize("own_rows", [False, True])
def test_no_view_is_longer_than_its_slot(kinds, users, own_rows):
    rng = np.random.default_rng(users)
    longest = np.full(users, MOST) if own_rows else np.sort(rng.integers(1, MOST + 1, users))
    augment = AugmentConfig(augmentations=NAMES[kinds])
    slots = ViewSlots.of(longest, augment, own_rows, MOST)
    assert (slots.capacities >= 1).all() and slots.users == users and slots.kinds == kinds
    for choice, slot in zip(*draws(slots, 20), strict=True):
        assert len(set(slot.tolist())) == users  # one view a slot
        ratios = [augment.ratios[one] for one in choice]
        kept = np.array([view_length(name, length, ratio, MOST) for (name, ratio), length in zip(ratios, longest, strict=True)])
        assert (kept <= slots.capacities[slot]).all()
        if own_rows:
            np.testing.assert_array_equal(slot, np.arange(users))


@pytest.mark.parametrize("own_rows", [False, True])
def test_neighbours_get_one_augmentation_each(own_rows):
    """Groups are full from the longest user down; the shortest two are the rest of theirs."""
    slots = ViewSlots.of(np.full(8, 10), AugmentConfig(), own_rows, MOST)
    choice, _ = draws(slots, 50)
    np.testing.assert_array_equal(np.sort(choice[:, 2:].reshape(50, 2, 3), axis=-1), np.broadcast_to([0, 1, 2], (50, 2, 3)))
    assert (choice[:, 0] != choice[:, 1]).all()


@pytest.mark.parametrize("kinds", NAMES)
def test_every_user_gets_every_augmentation_equally_often(kinds):
    slots = ViewSlots.of(np.arange(1, 8), AugmentConfig(augmentations=NAMES[kinds]), own_rows=False, most=MOST)
    choice, _ = draws(slots, 600)
    shares = np.stack([(choice == kind).mean(axis=0) for kind in range(kinds)])
    # Within five standard deviations of 1 / kinds.
    assert np.abs(shares - 1 / kinds).max() <= 5 * np.sqrt((1 / kinds) * (1 - 1 / kinds) / 600)


def test_groups_draw_independently():
    choice, _ = draws(ViewSlots.of(np.full(6, 10), AugmentConfig(), own_rows=False, most=MOST), 600)
    assert np.mean(choice[:, 0] == choice[:, 3]) == pytest.approx(1 / 3, abs=0.1)


def test_a_key_decides():
    slots = ViewSlots.of(np.full(30, 10), AugmentConfig(), own_rows=False, most=MOST)
    once, again, other = (slots.draw(tf.constant(key, tf.int64))[0].numpy().tolist() for key in ([1, 2], [1, 2], [1, 3]))
    assert once == again != other


def test_crops_leave_no_third_of_their_slots_empty():
    """With the same length for all views, a crop to 0.6 would leave 0.4 of every third slot empty."""
    longest = np.sort(np.random.default_rng(0).integers(5, 50, 90))
    slots = ViewSlots.of(longest, AugmentConfig(), own_rows=False, most=MOST)
    needed = np.mean([view_length(name, longest, ratio, MOST).sum() for name, ratio in AugmentConfig().ratios])
    assert slots.capacities.sum() < 1.03 * needed < 0.9 * longest.sum()
