import itertools

import numpy as np
import pytest
import tensorflow as tf

from elcrec_tf.augment import crop, insert, mask, random_view, reorder, substitute, view_length
from elcrec_tf.config import AugmentConfig

SIMILAR = np.arange(30, dtype="int32") + 100  # the item most similar to 11 is 111
SIMILAR[0] = 0


def by_similarity(function):
    """The op with its table of similar items."""
    return lambda history, seed, ratio: function(history, seed, ratio, tf.constant(SIMILAR))


OPS = {"crop": crop, "mask": mask, "reorder": reorder, "substitute": by_similarity(substitute), "insert": by_similarity(insert)}
PLAIN = ("crop", "mask", "reorder")
WIDTH = 8
LENGTHS = (0, 1, 2, 5, WIDTH)
SEED = (3, 4)


def rows_of(length, count=300, width=WIDTH):
    """Histories 11, 12, ... of one length: an item tells its place."""
    history = np.zeros((count, width), "int32")
    history[:, width - length :] = np.arange(11, 11 + length)
    return history


@pytest.fixture(params=["eager", "mapped"])
def view(request):
    """Calls an op eagerly, or inside Dataset.map with an unknown number of rows."""

    def call(function, history, *ratio, seed=SEED, **options):
        if request.param == "eager":
            return function(tf.constant(history), tf.constant(seed, tf.int64), *ratio, **options).numpy()
        dataset = tf.data.Dataset.from_tensor_slices(history).batch(len(history))
        return next(iter(dataset.map(lambda rows: function(rows, tf.constant(seed, tf.int64), *ratio, **options)))).numpy()

    return call


def floor_share(length, tenths):
    return length * tenths // 10


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("tenths", [1, 3, 6, 10])
def test_crop_keeps_a_contiguous_part_at_the_right_end(view, length, tenths):
    kept = min(max(floor_share(length, tenths), 1), length)
    for row in view(crop, rows_of(length), tenths / 10):
        assert not row[: WIDTH - kept].any()
        part = row[WIDTH - kept :]
        np.testing.assert_array_equal(part, part[0] + np.arange(kept) if kept else part)
        assert not kept or (part[0] >= 11 and part[-1] <= 10 + length)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("tenths", [0, 3, 7, 10])
def test_mask_hides_exactly_its_share_and_moves_nothing(view, length, tenths):
    history = rows_of(length)
    masked = view(mask, history, tenths / 10)
    assert ((masked == history) | (masked == 0)).all()
    np.testing.assert_array_equal((masked != 0).sum(1), length - floor_share(length, tenths))


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("tenths", [0, 2, 6, 10])
def test_reorder_permutes_inside_one_window_only(view, length, tenths):
    history = rows_of(length)
    shuffled = view(reorder, history, tenths / 10)
    np.testing.assert_array_equal(np.sort(shuffled, axis=1), history)
    for moved in (np.flatnonzero(row) for row in shuffled != history):
        assert not len(moved) or moved[-1] - moved[0] < floor_share(length, tenths)


@pytest.mark.parametrize("name", PLAIN)
def test_rows_are_independent_of_each_others_lengths(view, name):
    """A mixed batch: each row keeps its own padding and items."""
    history = np.concatenate([rows_of(length, 20) for length in LENGTHS])
    result = view(OPS[name], history, 0.5)
    for before, after in zip(history, result, strict=True):
        assert set(after) <= set(before) | {0}
        assert not after[: np.sum(before == 0)].any()


@pytest.mark.parametrize("name", OPS)
def test_seed_decides(view, name):
    history = rows_of(WIDTH)
    once, again, other = (view(OPS[name], history, 0.5, seed=seed) for seed in ((1, 2), (1, 2), (1, 3)))
    np.testing.assert_array_equal(once, again)
    assert (once != other).any(axis=1).mean() > 0.3


@pytest.mark.parametrize(("name", "ratio"), [("crop", 1.0), ("mask", 0.0), ("reorder", 0.0)])
def test_ratios_that_change_nothing(name, ratio):
    history = np.concatenate([rows_of(length, 20) for length in LENGTHS])
    np.testing.assert_array_equal(OPS[name](tf.constant(history), tf.constant(SEED), ratio), history)


def test_three_tenths_of_ten_is_three():
    """0.3 * 10 is 2.9999999999999996 in float32's neighbourhood: the share is not rounded down to 2."""
    history = rows_of(10, 5, width=10)
    for ratio, hidden in ((0.3, 3), (0.7, 7), (0.6, 6), (0.1, 1)):
        np.testing.assert_array_equal((mask(tf.constant(history), tf.constant(SEED), ratio).numpy() == 0).sum(1), hidden)


def assert_even(counts, total):
    """Counts of equally likely outcomes, within five standard deviations."""
    p = 1 / len(counts)
    assert np.abs(np.array(counts) - total * p).max() < 5 * np.sqrt(total * p * (1 - p)), counts


def test_crop_starts_are_uniform():
    """Three of eight items: six starts."""
    first = crop(tf.constant(rows_of(8, 6000)), tf.constant(SEED), 0.4).numpy()[:, -3]
    assert_even([np.sum(first == 11 + start) for start in range(6)], 6000)
    assert set(first) == set(range(11, 17))


def test_mask_hides_every_place_equally_often():
    hidden = mask(tf.constant(rows_of(5, 6000)), tf.constant(SEED), 0.2).numpy()[:, 3:] == 0  # one of five items
    assert_even(hidden.sum(0), 6000)


@pytest.mark.parametrize("length", [2, 3])
def test_reorder_draws_every_permutation_equally_often(length):
    result = reorder(tf.constant(rows_of(length, 24_000, width=length)), tf.constant(SEED), 1.0).numpy()
    counts = [np.all(result == order, axis=1).sum() for order in itertools.permutations(range(11, 11 + length))]
    assert_even(counts, 24_000)


def test_reorder_windows_are_uniform():
    """Two of five items are swapped in half of the rows, at each of four places equally often."""
    history = rows_of(5, 16_000)
    result = reorder(tf.constant(history), tf.constant(SEED), 0.4).numpy()
    changed = result != history
    counts = [np.sum(changed[:, 3 + start] & changed[:, 4 + start]) for start in range(4)]
    assert_even([*counts, *[(16_000 - sum(counts)) / 4] * 4], 16_000)


RATIOS = (("crop", 0.25), ("mask", 0.5), ("reorder", 1.0))


def test_random_view_draws_each_op_equally_often(view):
    """Of eight items crop keeps 2 and mask 4; reorder keeps all."""
    result = view(random_view, rows_of(8, 3000), RATIOS)
    items = (result != 0).sum(1)
    assert_even([np.sum(items == kept) for kept in (2, 4, 8)], 3000)


@pytest.mark.parametrize(("name", "ratio"), RATIOS)
def test_random_view_uses_only_the_named_ops(view, name, ratio):
    result = view(random_view, rows_of(8), [(name, ratio)])
    assert set((result != 0).sum(1)) == {{"crop": 2, "mask": 4, "reorder": 8}[name]}


def test_random_view_takes_the_choice_it_is_given(view):
    """Number 0 is the first named."""
    choice = np.arange(300, dtype="int32") % 2
    result = view(random_view, rows_of(8), [("mask", 0.5), ("crop", 0.25)], choice=choice)
    np.testing.assert_array_equal((result != 0).sum(1), np.where(choice == 0, 4, 2))
    assert result[choice == 1, -2:].all()


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("tenths", [1, 3, 6, 10])
def test_view_length_is_that_of_the_views(name, tenths):
    """A mask's hidden items keep their places, so they count."""
    lengths = np.arange(WIDTH + 1)
    history = np.concatenate([rows_of(length, 1) for length in lengths])
    views = OPS[name](tf.constant(history), tf.constant(SEED), tenths / 10).numpy()
    expected = lengths if name == "mask" else (views != 0).sum(1)
    np.testing.assert_array_equal(view_length(name, lengths, tenths / 10, most=WIDTH), expected)


def test_random_view_of_nothing_is_nothing(view):
    np.testing.assert_array_equal(view(random_view, rows_of(0), AugmentConfig().ratios), rows_of(0))


def test_default_view_never_hides_a_whole_history():
    """The contrastive losses pool a view's items: there is always one."""
    ratios = AugmentConfig(mask_ratio=0.99).ratios
    for length in range(1, WIDTH + 1):
        assert (random_view(tf.constant(rows_of(length)), tf.constant(SEED), ratios).numpy() != 0).any(axis=1).all()


# --- by similarity, and none ------------------------------------------------------------------------------------------


def at_least_one(length, tenths):
    return min(max(floor_share(length, tenths), 1), length)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("tenths", [1, 3, 6, 10])
def test_substitute_replaces_exactly_its_share_by_similar_items(view, length, tenths):
    history = rows_of(length)
    replaced = view(OPS["substitute"], history, tenths / 10)
    changed = replaced != history
    np.testing.assert_array_equal(changed.sum(1), at_least_one(length, tenths))
    np.testing.assert_array_equal(replaced[changed], history[changed] + 100)


@pytest.mark.parametrize("length", [0, 1, 2, 4])
@pytest.mark.parametrize("tenths", [1, 5, 10])
def test_insert_puts_a_similar_item_before_its_share_of_items(view, length, tenths):
    """Where it fits, nothing else changes: without what was put in, the history is as it was."""
    history = rows_of(length)
    for before, after in zip(history, view(OPS["insert"], history, tenths / 10), strict=True):
        added = np.flatnonzero(after >= 100)
        assert len(added) == at_least_one(length, tenths)
        np.testing.assert_array_equal(after[added], after[added + 1] + 100)
        rest = np.delete(after, added)
        np.testing.assert_array_equal(rest, before[len(added) :])


def test_insert_keeps_the_latest_items_of_a_full_history(view):
    """Four more than fit: the oldest four are gone, and the latest item is the latest."""
    history = rows_of(WIDTH)
    result = view(OPS["insert"], history, 0.5)
    assert result.all() and (result[:, -1] == 11 + WIDTH - 1).all()
    # By hand, for the one row in which every other item from the second on was chosen: 12, 14, 16, 18.
    assert (result == [114, 14, 15, 116, 16, 17, 118, 18]).all(axis=1).any()


@pytest.mark.parametrize("name", ["substitute", "insert"])
def test_every_item_is_chosen_equally_often(name):
    result = OPS[name](tf.constant(rows_of(4, 8000)), tf.constant(SEED), 0.25).numpy()
    assert_even([np.sum(result == item + 100) for item in range(11, 15)], 8000)


def test_an_item_without_a_similar_one_is_its_own(view):
    alone = tf.range(30, dtype=tf.int32)
    history = rows_of(4)
    np.testing.assert_array_equal(view(lambda *arguments: substitute(*arguments, alone), history, 1.0), history)


def test_dropout_views_are_the_histories(view):
    history = rows_of(5)
    np.testing.assert_array_equal(view(random_view, history, AugmentConfig(augmentations=("dropout",)).ratios), history)


def test_random_view_hands_on_the_similar_items(view):
    choice = np.arange(300, dtype="int32") % 3
    ratios = [("dropout", 0.0), ("insert", 0.25), ("substitute", 0.5)]
    result = view(random_view, rows_of(4), ratios, choice=choice, similar=tf.constant(SIMILAR))
    np.testing.assert_array_equal((result >= 100).sum(1), choice)
    np.testing.assert_array_equal((result != 0).sum(1), np.where(choice == 1, 5, 4))
