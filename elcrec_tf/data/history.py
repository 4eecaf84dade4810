"""Histories as the model takes them: cut out of the data, and the one preparation that training, evaluation and serving share."""

import tensorflow as tf

from elcrec_tf.padding import PADDING


def prepare_history(items: tf.Tensor, max_length: int) -> tf.Tensor:
    """Drop padding wherever it stands, keep the latest `max_length` items, pad on the left.

    Args:
        items: int32 `[batch, n]` item indices, oldest first; 0 (padding, or an unknown item) may stand anywhere.
        max_length: most items kept.

    Returns:
        int32 `[batch, min(n, max_length)]`.
    """
    # A stable sort of "is an item" moves what is none to the front and keeps the order of the rest.
    order = tf.argsort(tf.cast(items != PADDING, tf.int32), axis=1, stable=True)
    return tf.gather(items, order, batch_dims=1)[:, -max_length:]


def latest_items(items: tf.Tensor, windows: tf.Tensor, width: int) -> tf.Tensor:
    """The latest `width` items of each window.

    Args:
        items: int32 `[n]`, all users' items one after the other.
        windows: int64 `[batch, 2]`, (start, stop) in `items`.
        width: of the result.

    Returns:
        int32 `[batch, width]`, left-padded.
    """
    index = windows[:, 1:] - width + tf.range(width, dtype=tf.int64)
    inside = index >= windows[:, :1]
    return tf.where(inside, tf.gather(items, tf.where(inside, index, 0)), PADDING)
