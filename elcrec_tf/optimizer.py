"""Adam with one kernel a variable."""

import math
from typing import Any

import keras
from keras import ops

from elcrec_tf.kernels import Kernels, at_rows, dense, fused, lookup, summed_rows, using

_LARGE = 100_000


@keras.saving.register_keras_serializable("elcrec_tf")
class DenseAdam(keras.optimizers.Adam):
    """`keras.optimizers.Adam`, for which rows that a step looked up twice have one gradient, their sum.

    (Keras takes them for two, and adds up their squares instead of squaring their sum: a step would depend on how often a batch, or each of
    several devices, happens to look up the same item.)
    """

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        super().update_step(dense(gradient), variable, learning_rate)


@keras.saving.register_keras_serializable("elcrec_tf")
class FusedAdam(DenseAdam):
    """`DenseAdam`, whose dozen operations on a large variable read and write memory once (TensorFlow).

    Args:
        touched_rows: update only the rows that the gradient of a lookup holds ("lazy" Adam): the others, moments included, stay as they
            are, where dense Adam would let their moments decay and move them on. A step then costs what it touches, not what the table
            holds.
        **kwargs: of `keras.optimizers.Adam`.
    """

    def __init__(self, learning_rate: Any = 0.001, touched_rows: bool = False, **kwargs: Any) -> None:
        super().__init__(learning_rate, **kwargs)
        self.touched_rows = touched_rows

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        touched = summed_rows(gradient) if self.touched_rows else None
        if touched is None and (self.amsgrad or math.prod(variable.shape) < _LARGE):  # small ones are not worth a compilation
            return super().update_step(gradient, variable, learning_rate)
        step = ops.cast(self.iterations + 1, variable.dtype)
        beta_1, beta_2 = (ops.cast(beta, variable.dtype) for beta in (self.beta_1, self.beta_2))
        rate = ops.cast(learning_rate, variable.dtype) * ops.sqrt(1 - ops.power(beta_2, step)) / (1 - ops.power(beta_1, step))
        index = self._get_variable_index(variable)
        state = (variable, self._momentums[index], self._velocities[index])
        constants = {"beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}
        if touched is None:
            with using(Kernels(compiled=True)):
                updated = _adam(*state, gradient, rate, **constants)
        else:  # not compiled: every step touches another number of rows
            rows, gradient = touched
            updated = [at_rows(rows, value) for value in _adam(*(lookup(one, rows) for one in state), gradient, rate, **constants)]
        for target, value in zip(state, updated, strict=True):
            self.assign(target, value)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "touched_rows": self.touched_rows}


@fused
def _adam(
    variable: Any, momentum: Any, velocity: Any, gradient: Any, rate: Any, *, beta_1: float, beta_2: float, epsilon: float
) -> tuple[Any, Any, Any]:
    momentum = momentum + (gradient - momentum) * (1 - beta_1)
    velocity = velocity + (ops.square(gradient) - velocity) * (1 - beta_2)
    return variable - momentum * rate / (ops.sqrt(velocity) + epsilon), momentum, velocity
