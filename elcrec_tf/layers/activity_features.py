"""How active a user is, as a vector."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable("elcrec_tf")
class ActivityFeatures(keras.layers.Layer):
    """Adds to a state what the number of items before it tells: a learned vector for its power of two (1, 2-3, 4-7, ...), and one for the
    activity group that it falls into. So a user with few events need not be ranked for like one with many.

    Both start at zero. Items are counted as the encoder sees them, up to `max_length`.

    Args:
        max_length: most items that a history has.
        bounds: ascending; the most items in each activity group but the last, see `quartile_bounds`. Without any there is one group.

    Call arguments:
        states: `[..., size]`.
        seen: int `[...]`, items up to each state, 0 to `max_length`.

    Returns:
        States `[..., size]`.
    """

    def __init__(self, max_length: int, bounds: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if list(bounds) != sorted(set(bounds)):
            raise ValueError(f"`bounds` should be ascending. Received: bounds={bounds}")
        self.max_length = max_length
        self.bounds = bounds

    def build(self, states_shape: tuple[int | None, ...], seen_shape: tuple[int | None, ...] | None = None) -> None:
        counts = np.arange(self.max_length + 1)
        # A number has as many binary digits as its power of two says; 0 has none.
        self._power = np.array([int(count).bit_length() for count in counts], np.int32)
        self._group = np.searchsorted(np.array(self.bounds, np.int64), counts).astype(np.int32)
        size = states_shape[-1]
        self.powers = self.add_weight(name="powers", shape=(int(self._power[-1]) + 1, size), initializer="zeros")
        self.groups = self.add_weight(name="groups", shape=(len(self.bounds) + 1, size), initializer="zeros")

    def call(self, states: Any, seen: Any) -> Any:
        vectors = ops.take(self.powers, self._power, axis=0) + ops.take(self.groups, self._group, axis=0)
        return states + ops.cast(ops.take(vectors, seen, axis=0), states.dtype)

    def compute_output_spec(self, states: Any, seen: Any) -> keras.KerasTensor:
        return keras.KerasTensor(states.shape, states.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "max_length": self.max_length, "bounds": list(self.bounds)}


def quartile_bounds(lengths: np.ndarray, users: np.ndarray) -> list[int]:
    """The quartiles of users' history lengths, as `ActivityFeatures` takes them; fewer than three where some are equal.

    Args:
        lengths: `[n]`, never falling.
        users: `[n]`, how many users have each.
    """
    reached = np.cumsum(users)
    if not len(reached):
        return []
    places = np.arange(1, 4) * (reached[-1] - 1) // 4  # of all users in order; between two of them the lower one counts
    return np.unique(lengths[np.searchsorted(reached, places, side="right")]).tolist()
