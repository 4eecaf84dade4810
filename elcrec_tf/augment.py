"""Augmented views of histories, on whole batches, in graph (TensorFlow, inside tf.data): crop, mask, reorder (CL4SRec, arXiv
2010.14395), substitute and insert by item similarity (CoSeRec, arXiv 2108.06479), and none (dropout alone, as in DuoRec, arXiv 2110.05730).

Every function takes left-padded int32 histories `[batch, length]` (0 = padding) and a `[2]` integer seed, and returns a view of
the same shape. The same seed gives the same view.
"""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from elcrec_tf.padding import PADDING

BY_SIMILARITY = ("substitute", "insert")
"""Augmentations that need to know the item most similar to each."""


def crop(history: tf.Tensor, seed: tf.Tensor, ratio: float) -> tf.Tensor:
    """Keep a random contiguous part of `ratio` of each history (at least one item), moved to the right end."""
    length = _lengths(history)
    kept = _share_or_one(history, ratio)
    start = _random_start(length, kept, seed)
    place = _places(history, kept)
    width = tf.shape(history)[1]
    source = place + start + width - length
    return tf.where(place >= 0, tf.gather(history, tf.clip_by_value(source, 0, width - 1), batch_dims=1), PADDING)


def mask(history: tf.Tensor, seed: tf.Tensor, ratio: float) -> tf.Tensor:
    """Hide `ratio` of each history's items, chosen at random. The others keep their positions."""
    return tf.where(_chosen(history, seed, _share(_lengths(history), ratio)), PADDING, history)


def reorder(history: tf.Tensor, seed: tf.Tensor, ratio: float) -> tf.Tensor:
    """Shuffle a random contiguous part of `ratio` of each history."""
    length = _lengths(history)
    moved = _share(length, ratio)
    start = _random_start(length, moved, seed)
    place = _places(history, length)
    inside = (place >= start) & (place < start + moved)
    # Sorting by place, where the places inside the part are drawn anew within it, leaves everything else where it was.
    draw = tf.random.stateless_uniform(tf.shape(history), seed + 1)
    # Half a place less than the part keeps a draw that rounds up off the place behind it.
    key = tf.where(inside, tf.cast(start, tf.float32) + draw * (tf.cast(moved, tf.float32) - 0.5), tf.cast(place, tf.float32))
    return tf.gather(history, tf.argsort(key, axis=1, stable=True), batch_dims=1)


def substitute(history: tf.Tensor, seed: tf.Tensor, ratio: float, similar: tf.Tensor) -> tf.Tensor:
    """Replace `ratio` of each history's items (at least one), chosen at random, by the items most similar to them.

    Args:
        history, seed, ratio: see above.
        similar: int32 `[num_items + 1]`, the item most similar to each, itself where there is none; 0 for padding.
    """
    return tf.where(_chosen(history, seed, _share_or_one(history, ratio)), tf.gather(similar, history), history)


def insert(history: tf.Tensor, seed: tf.Tensor, ratio: float, similar: tf.Tensor) -> tf.Tensor:
    """Put the most similar item before `ratio` of each history's items (at least one), chosen at random.

    The latest item stays the latest. What no longer fits the width is the oldest items.

    Args:
        history, seed, ratio: see above; similar: as in `substitute`.
    """
    added = tf.where(_chosen(history, seed, _share_or_one(history, ratio)), tf.gather(similar, history), PADDING)
    both = tf.reshape(tf.stack([added, history], axis=2), [tf.shape(history)[0], 2 * tf.shape(history)[1]])
    # A stable sort of "is an item" moves what is none to the front and keeps the order of the rest.
    order = tf.argsort(tf.cast(both != PADDING, tf.int32), axis=1, stable=True)
    latest = tf.gather(both, order[:, tf.shape(history)[1] :], batch_dims=1)
    return tf.ensure_shape(latest, history.shape)


def random_view(
    history: tf.Tensor,
    seed: tf.Tensor,
    ratios: Sequence[tuple[str, float]],
    choice: tf.Tensor | None = None,
    similar: tf.Tensor | None = None,
) -> tf.Tensor:
    """A view of each history by one of several augmentations.

    Args:
        history, seed: see above.
        ratios: the augmentations by name, each with its ratio; `"dropout"` leaves a history as it is.
        choice: int32 `[batch]`, the number of each history's augmentation; drawn for each history if None.
        similar: as in `substitute`, which needs it, as `insert` does.
    """
    by_name: dict[str, Callable[..., tf.Tensor]] = {
        "crop": crop,
        "mask": mask,
        "reorder": reorder,
        "substitute": substitute,
        "insert": insert,
    }
    if choice is None:
        choice = tf.random.stateless_uniform([tf.shape(history)[0]], seed, 0, len(ratios), tf.int32)
    view = history
    for index, (name, ratio) in enumerate(ratios):
        if name != "dropout":
            extra = (similar,) if name in BY_SIMILARITY else ()
            view = tf.where(choice[:, None] == index, by_name[name](history, seed + 2 + 2 * index, ratio, *extra), view)
    return view


def view_length(name: str, lengths: np.ndarray, ratio: float, most: int) -> np.ndarray:
    """Length of the views that the named augmentation makes of histories of these lengths: a crop shortens, an insert adds, up to `most`.

    (Items that a mask hides keep their places, so they count.)
    """
    share = _share(tf.constant(lengths, tf.int32), ratio).numpy()
    if name == "crop":
        return np.minimum(np.maximum(share, 1), lengths)
    if name == "insert":
        return np.minimum(lengths + np.minimum(np.maximum(share, 1), lengths), most)
    return lengths


def _lengths(history: tf.Tensor) -> tf.Tensor:
    """Items of each history, int32 `[batch, 1]`."""
    return tf.reduce_sum(tf.cast(history != PADDING, tf.int32), axis=1, keepdims=True)


def _share(length: tf.Tensor, ratio: float) -> tf.Tensor:
    # In float64, and with a hair added, 0.3 of 10 is 3 and not 2.
    return tf.cast(tf.floor(tf.cast(length, tf.float64) * ratio + 1e-9), tf.int32)


def _share_or_one(history: tf.Tensor, ratio: float) -> tf.Tensor:
    length = _lengths(history)
    return tf.minimum(tf.maximum(_share(length, ratio), 1), length)


def _chosen(history: tf.Tensor, seed: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Which items are among `count` `[batch, 1]` of each history that are chosen at random, bool `[batch, length]`."""
    draw = tf.random.stateless_uniform(tf.shape(history), seed)
    draw = tf.where(history == PADDING, 2.0, draw)
    return tf.argsort(tf.argsort(draw, axis=1), axis=1) < count


def _places(history: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
    """Place of each column in a right-aligned run of `length` items, 0 = its oldest; negative in front of it."""
    width = tf.shape(history)[1]
    return tf.range(width)[None, :] - (width - length)


def _random_start(length: tf.Tensor, part: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Uniform start of a contiguous part of each history, int32 `[batch, 1]`."""
    draw = tf.random.stateless_uniform(tf.shape(length), seed)
    room = tf.cast(length - part + 1, tf.float32)
    return tf.minimum(tf.cast(draw * room, tf.int32), length - part)
