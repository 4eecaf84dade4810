"""The item table: embeddings on the way in, scores on the way out (tied)."""

from typing import Any

import keras
import numpy as np
from keras import ops

from elcrec_tf.kernels import lookup
from elcrec_tf.vectors import unit

MOST_SCALE = 64.0
"""The largest cosine score."""


@keras.saving.register_keras_serializable("elcrec_tf")
class ItemEmbedding(keras.layers.Layer):
    """Item embeddings, shared between input and score head.

    A state `h` scores item `i` with embedding `e_i` by `h . e_i` (`dot`), or by `cos(h, e_i) / temperature` (`cosine`), where
    the temperature is learned (as its logarithm, so that it stays positive) and never falls below 1/64, so that the exponential
    of a score is finite in float32.

    Args:
        num_items: items; row 0 of the table is padding, rows 1 to `num_items` are items.
        hidden_size: size of an embedding.
        score: `"dot"` or `"cosine"`.
        score_temperature: start of the cosine score's temperature.

    Call arguments:
        items: integer indices of any shape.

    Returns:
        Embeddings, `[..., hidden_size]`.
    """

    def __init__(self, num_items: int, hidden_size: int, score: str = "cosine", score_temperature: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if score not in ("dot", "cosine"):
            raise ValueError(f'`score` should be "dot" or "cosine". Received: score={score!r}')
        if not score_temperature > 0:
            raise ValueError(f"`score_temperature` should be above 0. Received: score_temperature={score_temperature}")
        self.num_items = num_items
        self.hidden_size = hidden_size
        self.score = score
        self.score_temperature = score_temperature

    def build(self, items_shape: tuple[int | None, ...] | None = None) -> None:
        self.table = self.add_weight(
            name="table",
            shape=(self.num_items + 1, self.hidden_size),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
        )
        if self.score == "cosine":
            start = keras.initializers.Constant(-float(np.log(self.score_temperature)))
            self.log_scale = self.add_weight(name="log_scale", shape=(), initializer=start)

    def call(self, items: Any) -> Any:
        return lookup(self.table, items)

    def queries(self, states: Any) -> Any:
        """States `[..., hidden_size]` -> query vectors whose dot product with `keys()` rows is the score."""
        if self.score == "dot":
            return states
        return unit(states) * ops.cast(ops.exp(ops.minimum(self.log_scale, np.log(MOST_SCALE))), states.dtype)

    def keys(self) -> Any:
        """The item side of the score, `[num_items + 1, hidden_size]`; row 0 is padding and no candidate."""
        return self._as_keys(ops.convert_to_tensor(self.table))

    def keys_of(self, items: Any) -> Any:
        """The rows of `keys()` that belong to item indices, of any shape; no other row is computed or gets a gradient."""
        return self._as_keys(lookup(self.table, items))

    def _as_keys(self, embeddings: Any) -> Any:
        return embeddings if self.score == "dot" else unit(embeddings)

    def compute_output_spec(self, items: Any) -> keras.KerasTensor:
        return keras.KerasTensor((*items.shape, self.hidden_size), self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_items": self.num_items,
            "hidden_size": self.hidden_size,
            "score": self.score,
            "score_temperature": self.score_temperature,
        }
