"""What came after the latest items in other users' histories, as an addition to the scores."""

from typing import Any

import keras
from keras import ops

WIDTH = 128
"""Successors remembered of an item."""

STEPS, DECAY = 50, 0.95
"""A successor follows within `STEPS` places; one that follows s places later counts `DECAY^(s - 1)`."""

_LATEST, _RECENCY, _GAIN = 50, 0.95, 100.0


@keras.saving.register_keras_serializable("elcrec_tf")
class TransitionMemory(keras.layers.Layer):
    """Adds to an item's score how often it came after the latest items of the history: `weight log(1 + 100 Σ_m 0.95^m P(j | i_m))`.

    `i_m` is the m-th latest item (0 = the latest) of the 50 latest that the encoder is given, `P(j | i)` the share of j among all that came
    after i in the training part. A network of moderate size under strong dropout generalises, and forgets rare pairs of items that did
    occur; this does not. It is counted, not trained, and takes no part in the loss.

    Args:
        num_items: items in the catalogue.
        weight: of the addition.
        width: successors remembered of an item.

    Call arguments:
        history: int `[batch, length]` item indices, 0 = padding, left-padded.

    Returns:
        What to add to the scores, float32 `[batch, num_items + 1]`; column 0 (padding) means nothing.
    """

    def __init__(self, num_items: int, weight: float, width: int = WIDTH, **kwargs: Any) -> None:
        super().__init__(**{"trainable": False, **kwargs})
        if not weight > 0 or width < 1:
            raise ValueError(f"`weight` should be above 0 and `width` at least 1. Received: weight={weight}, width={width}")
        self.num_items = num_items
        self.weight = weight
        self.width = width

    def build(self, history_shape: tuple[int | None, ...] | None = None) -> None:
        shape = (self.num_items + 1, self.width)
        self.successors = self.add_weight(name="successors", shape=shape, initializer="zeros", dtype="int32", trainable=False)
        self.shares = self.add_weight(name="shares", shape=shape, initializer="zeros", dtype="float32", trainable=False, autocast=False)

    def remember(self, successors: Any, shares: Any) -> None:
        """Set what is remembered, `[num_items + 1, width]` each (see `elcrec_tf.data.transitions.likeliest_successors`)."""
        self.successors.assign(successors)
        self.shares.assign(shares)

    def call(self, history: Any) -> Any:
        latest = _latest(history)
        batch, count = ops.shape(latest)
        shares = ops.take(self.shares, latest, axis=0) * ops.power(_RECENCY, ops.arange(count, dtype="float32"))[:, None]
        rows = ops.arange(batch, dtype="int32")[:, None, None] * (self.num_items + 1)
        places = ops.reshape(rows + ops.take(self.successors, latest, axis=0), (-1, 1))
        total = ops.scatter(places, ops.reshape(shares, (-1,)), (batch * (self.num_items + 1),))
        return self.weight * ops.log1p(_GAIN * ops.reshape(total, (-1, self.num_items + 1)))

    def remembered(self, history: Any) -> Any:
        """The items that something is added to, int32 `[batch, n]`, in any order, repeated, with 0 in between."""
        return ops.reshape(ops.take(self.successors, _latest(history), axis=0), (-1, ops.shape(_latest(history))[1] * self.width))

    def compute_output_spec(self, history: Any) -> keras.KerasTensor:
        return keras.KerasTensor((history.shape[0], self.num_items + 1), "float32")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_items": self.num_items, "weight": self.weight, "width": self.width}


def _latest(history: Any) -> Any:
    """The latest items, the latest first."""
    return ops.flip(history[:, -_LATEST:], axis=1)
