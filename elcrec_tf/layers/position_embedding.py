"""Learned absolute positions, counted from the latest item."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("elcrec_tf")
class PositionEmbedding(keras.layers.Layer):
    """Adds a learned vector for each position, aligned to the right: the latest item always has the last one.

    So how much padding stands before a history changes nothing.

    Args:
        max_length: longest history.

    Call arguments:
        inputs: `[batch, length, size]` with length at most `max_length`.
        distance: int `[batch, length]`, how many places before the latest item each one is; a row is one history if None.

    Returns:
        `inputs` plus the position vectors.
    """

    def __init__(self, max_length: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.max_length = max_length

    def build(self, inputs_shape: tuple[int | None, ...]) -> None:
        self.table = self.add_weight(
            name="table",
            shape=(self.max_length, inputs_shape[-1]),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
        )

    def call(self, inputs: Any, distance: Any = None) -> Any:
        return inputs + self.vectors(inputs, distance)

    def vectors(self, inputs: Any, distance: Any = None) -> Any:
        """The position vectors alone, `[length, size]`, or `[batch, length, size]` by distance."""
        table = ops.cast(self.table, inputs.dtype)
        if distance is not None:
            return ops.take(table, self.max_length - 1 - distance, axis=0)
        length = ops.shape(inputs)[1]
        if isinstance(length, int) and length > self.max_length:
            raise ValueError(f"A history should have at most {self.max_length} items. Received: {length}; prepare it first")
        return table[self.max_length - length :]

    def compute_output_spec(self, inputs: Any, distance: Any = None) -> keras.KerasTensor:
        return keras.KerasTensor(inputs.shape, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "max_length": self.max_length}
