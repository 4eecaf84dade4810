"""Adam with one kernel a variable."""

import math
from typing import Any

import keras
from keras import ops

from elcrec_tf.kernels import Kernels, fused, using

_LARGE = 100_000


@keras.saving.register_keras_serializable("elcrec_tf")
class FusedAdam(keras.optimizers.Adam):
    """`keras.optimizers.Adam`, whose dozen operations on a large variable read and write memory once (TensorFlow).

    The gradient of a lookup is summed up by row first: rows that occur twice count as one gradient, as in dense Adam.
    """

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        if self.amsgrad or math.prod(variable.shape) < _LARGE:  # small ones are not worth a compilation
            return super().update_step(gradient, variable, learning_rate)
        step = ops.cast(self.iterations + 1, variable.dtype)
        beta_1, beta_2 = (ops.cast(beta, variable.dtype) for beta in (self.beta_1, self.beta_2))
        rate = ops.cast(learning_rate, variable.dtype) * ops.sqrt(1 - ops.power(beta_2, step)) / (1 - ops.power(beta_1, step))
        index = self._get_variable_index(variable)
        momentum, velocity = self._momentums[index], self._velocities[index]
        with using(Kernels(compiled=True)):
            updated = _adam(variable, momentum, velocity, gradient, rate, beta_1=self.beta_1, beta_2=self.beta_2, epsilon=self.epsilon)
        for target, value in zip((variable, momentum, velocity), updated, strict=True):
            self.assign(target, value)


@fused
def _adam(
    variable: Any, momentum: Any, velocity: Any, gradient: Any, rate: Any, *, beta_1: float, beta_2: float, epsilon: float
) -> tuple[Any, Any, Any]:
    momentum = momentum + (gradient - momentum) * (1 - beta_1)
    velocity = velocity + (ops.square(gradient) - velocity) * (1 - beta_2)
    return variable - momentum * rate / (ops.sqrt(velocity) + epsilon), momentum, velocity
