"""Augmented views of histories: crop, mask, reorder, on whole batches, in graph (TensorFlow, inside tf.data).

Every function takes left-padded int32 histories `[batch, length]` (0 = padding) and a `[2]` integer seed, and returns a view of
the same shape. The same seed gives the same view.
"""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from elcrec_tf.padding import PADDING


def crop(history: tf.Tensor, seed: tf.Tensor, ratio: float) -> tf.Tensor:
    """Keep a random contiguous part of `ratio` of each history (at least one item), moved to the right end."""
    length = _lengths(history)
    kept = tf.minimum(tf.maximum(_share(length, ratio), 1), length)
    start = _random_start(length, kept, seed)
    place = _places(history, kept)
    width = tf.shape(history)[1]
    source = place + start + width - length
    return tf.where(place >= 0, tf.gather(history, tf.clip_by_value(source, 0, width - 1), batch_dims=1), PADDING)


def mask(history: tf.Tensor, seed: tf.Tensor, ratio: float) -> tf.Tensor:
    """Hide `ratio` of each history's items, chosen at random. The others keep their positions."""
    draw = tf.random.stateless_uniform(tf.shape(history), seed)
    draw = tf.where(history == PADDING, 2.0, draw)
    order = tf.argsort(tf.argsort(draw, axis=1), axis=1)
    return tf.where(order < _share(_lengths(history), ratio), PADDING, history)


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


def random_view(
    history: tf.Tensor,
    seed: tf.Tensor,
    augmentations: Sequence[str] = ("crop", "mask", "reorder"),
    crop_ratio: float = 0.6,
    mask_ratio: float = 0.3,
    reorder_ratio: float = 0.6,
    choice: tf.Tensor | None = None,
) -> tf.Tensor:
    """A view of each history by one of the named augmentations: the one that `choice` `[batch]` numbers, else drawn for each history."""
    by_name: dict[str, tuple[Callable[..., tf.Tensor], float]] = {
        "crop": (crop, crop_ratio),
        "mask": (mask, mask_ratio),
        "reorder": (reorder, reorder_ratio),
    }
    if choice is None:
        choice = tf.random.stateless_uniform([tf.shape(history)[0]], seed, 0, len(augmentations), tf.int32)
    view = history
    for index, name in enumerate(augmentations):
        function, ratio = by_name[name]
        view = tf.where(choice[:, None] == index, function(history, seed + 2 + 2 * index, ratio), view)
    return view


def kept_length(name: str, lengths: np.ndarray, crop_ratio: float) -> np.ndarray:
    """Length of the views that the named augmentation makes of histories of these lengths; only a crop shortens."""
    if name != "crop":
        return lengths
    return np.minimum(np.maximum(_share(tf.constant(lengths, tf.int32), crop_ratio).numpy(), 1), lengths)


def _lengths(history: tf.Tensor) -> tf.Tensor:
    """Items of each history, int32 `[batch, 1]`."""
    return tf.reduce_sum(tf.cast(history != PADDING, tf.int32), axis=1, keepdims=True)


def _share(length: tf.Tensor, ratio: float) -> tf.Tensor:
    # In float64, and with a hair added, 0.3 of 10 is 3 and not 2.
    return tf.cast(tf.floor(tf.cast(length, tf.float64) * ratio + 1e-9), tf.int32)


def _places(history: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
    """Place of each column in a right-aligned run of `length` items, 0 = its oldest; negative in front of it."""
    width = tf.shape(history)[1]
    return tf.range(width)[None, :] - (width - length)


def _random_start(length: tf.Tensor, part: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Uniform start of a contiguous part of each history, int32 `[batch, 1]`."""
    draw = tf.random.stateless_uniform(tf.shape(length), seed)
    room = tf.cast(length - part + 1, tf.float32)
    return tf.minimum(tf.cast(draw * room, tf.int32), length - part)
