"""What the replicas of a training step share under tf.distribute. A step that runs once, on one device, shares nothing.

All replicas call these functions, in the same order. A replica's loss is divided by the number of replicas and gradients are summed up
(as Keras and tf.distribute do), so a term is the global batch's when the *mean* of its values over the replicas is.
"""

from typing import Any

import keras
from keras import ops


def gather(*values: Any) -> tuple[Any, ...]:
    """The rows of all replicas, one replica's below the other's: float32 `[n]` or `[n, size]` -> `[replicas * n, ...]` each.

    Gradients go back to the replica that a row came from.
    """
    context = _context()
    if context is None:
        return values
    # Side by side they take one exchange; TensorFlow's gradient of gathering several does not work anyway.
    sizes = [1 if len(one.shape) == 1 else one.shape[1] for one in values]
    columns = ops.concatenate([ops.reshape(one, (-1, size)) for one, size in zip(values, sizes, strict=True)], axis=1)
    rows = context.all_gather(columns, axis=0)
    ends = [sum(sizes[: index + 1]) for index in range(len(sizes) - 1)]
    parts = ops.split(ops.reshape(rows, (context.num_replicas_in_sync * columns.shape[0], sum(sizes))), ends, axis=1)
    return tuple(ops.reshape(part, (-1, *one.shape[1:])) for part, one in zip(parts, values, strict=True))


def weight(count: Any) -> Any:
    """What turns a mean over a replica's own `count` rows into its part of the mean over all replicas' rows: `count / mean count`."""
    context = _context()
    if context is None:
        return 1.0
    count = ops.cast(count, "float32")
    return count * context.num_replicas_in_sync / ops.maximum(context.all_reduce("SUM", count), 1)


def own_seed(seed: Any) -> Any:
    """A random seed `[2]` of this replica's own, made from one that all share."""
    context = _context()
    # The second word counts the steps: there another replica would be where this one is some steps later.
    return seed if context is None else seed + ops.cast(ops.stack([context.replica_id_in_sync_group, 0]), seed.dtype)


def _context() -> Any:
    """tf.distribute's replica context where there are several replicas, else None."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return context if context is not None and context.num_replicas_in_sync > 1 else None
