"""The one preparation of a history for the model, used by training, evaluation and every serving signature."""

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
