"""The latent intents."""

from typing import Any

import keras
import numpy as np
from keras import ops

from elcrec_tf.kernels import matmul
from elcrec_tf.masking import MASKED_SCORE
from elcrec_tf.vectors import unit


@keras.saving.register_keras_serializable("elcrec_tf")
class ClusterCenters(keras.layers.Layer):
    """Latent intents as learnable cluster centres on the unit sphere (ELCRec, Section 3.3).

    The centres start as random unit vectors and are projected back onto the sphere after every optimizer step, so the nearest
    centre of any embedding, by distance or by angle, is the one with the largest dot product.

    Args:
        num_clusters: number of intents k.
        retirable: whether centres may be taken out of use, and back into it, while training: the weight `active`
            `[num_clusters]` is 1 for those in use. The others are nearest to nothing.

    Call arguments:
        embeddings: `[..., size]`.

    Returns:
        Dot products with all centres, `[..., num_clusters]`; cosines where the embeddings are unit vectors. Those of retired centres
        are `MASKED_SCORE`.
    """

    def __init__(self, num_clusters: int, retirable: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if num_clusters < 2:
            raise ValueError(f"`num_clusters` should be at least 2. Received: num_clusters={num_clusters}")
        self.num_clusters = num_clusters
        self.retirable = retirable
        self.active: Any = None

    def build(self, embeddings_shape: tuple[int | None, ...]) -> None:
        self.centers = self.add_weight(
            name="centers",
            shape=(self.num_clusters, embeddings_shape[-1]),
            initializer=_random_unit_vectors,
            constraint=keras.constraints.UnitNorm(axis=-1),
        )
        if self.retirable:
            self.active = self.add_weight(name="active", shape=(self.num_clusters,), initializer="ones", trainable=False)

    def call(self, embeddings: Any) -> Any:
        return self._of_active(ops.matmul(embeddings, ops.transpose(ops.cast(self.centers, embeddings.dtype))))

    def nearest(self, embeddings: Any) -> Any:
        """The nearest centre of each embedding, `[..., size]`. Gradients reach the centres, not the choice."""
        products = matmul(ops.stop_gradient(embeddings), ops.stop_gradient(self.centers), transpose_b=True)
        products = self._of_active(products)
        # The largest of one: faster than argmax, which Keras guards against negative zeros.
        return self.take(ops.squeeze(ops.top_k(products, 1)[1], axis=-1))

    def _of_active(self, products: Any) -> Any:
        if not self.retirable:
            return products
        return ops.where(ops.cast(self.active, "bool"), products, ops.full((), MASKED_SCORE, products.dtype))

    def take(self, index: Any) -> Any:
        """Centres by index, `[..., size]`."""
        return ops.cast(ops.take(self.centers, index, axis=0), self.compute_dtype)

    def assign_centers(self, centers: np.ndarray) -> None:
        """Set the centres from `[num_clusters, size]` vectors (k-means, a checkpoint); they are normalised."""
        norm = np.linalg.norm(centers, axis=-1, keepdims=True)
        self.centers.assign(centers / np.maximum(norm, 1e-12))

    def keep(self, centers: np.ndarray) -> None:
        """Make `[k, size]` vectors, k from 2 to `num_clusters`, the centres in use; the others are retired. Needs retirable centres."""
        values = np.array(ops.convert_to_numpy(self.centers))
        values[: len(centers)] = centers
        self.assign_centers(values)
        self.active.assign((np.arange(self.num_clusters) < len(centers)).astype("float32"))

    def in_use(self) -> np.ndarray:
        """Numbers of the centres that are in use."""
        return np.flatnonzero(ops.convert_to_numpy(self.active)) if self.retirable else np.arange(self.num_clusters)

    def compute_output_spec(self, embeddings: Any) -> keras.KerasTensor:
        return keras.KerasTensor((*embeddings.shape[:-1], self.num_clusters), self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_clusters": self.num_clusters, "retirable": self.retirable}


def _random_unit_vectors(shape: tuple[int, ...], dtype: Any = None) -> Any:
    return unit(keras.random.normal(shape, dtype=dtype))
