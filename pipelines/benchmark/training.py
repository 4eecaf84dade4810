"""Measures training: epochs, start-up, memory, the input pipeline alone. What is compared with it is made in `objective` and `scaling`."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from elcrec_tf import cli
from pipelines.benchmark import machine
from pipelines.benchmark.input import epoch_seconds
from pipelines.benchmark.subject import config_of, sequences_of


def measure(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A worker's measurement: `epochs` epochs of training without validation, from the start of the process.

    Returns:
        `epoch_seconds`, the first with tracing and compilation; `steps_per_epoch`; `padding_share`; `parameters` (trained numbers);
        `start`, seconds from the start of the process: `import`, then `data`, then `first_step` (model, compilation and one step),
        and their `total`; the peak memory of all that; `input_seconds`, the second of two epochs of the input pipeline alone.
    """
    cli.import_tensorflow()
    from elcrec_tf.data.training_data import training_batches
    from elcrec_tf.training import new_model

    imported = time.time()
    config = config_of(spec)
    sequences = sequences_of(spec, config)
    data = training_batches(sequences, config)
    prepared = time.time()
    model = new_model(sequences, config)
    clock = _clock()
    model.fit(data.dataset, steps_per_epoch=data.steps_per_epoch, epochs=config.train.epochs, verbose=0, shuffle=False, callbacks=[clock])
    memory = machine.memory()  # before the input pipeline runs once more
    start = {"import": imported - spec["started"], "data": prepared - imported, "first_step": clock.first_step - prepared}
    return {
        "epoch_seconds": clock.epoch_seconds,
        "steps_per_epoch": data.steps_per_epoch,
        "padding_share": data.padding_share,
        "parameters": sum(math.prod(weight.shape) for weight in model.trainable_variables),
        "start": {**start, "total": sum(start.values())},
        "input_seconds": epoch_seconds(training_batches(sequences, config), epochs=2)[-1],
        **memory,
    }


def _clock() -> Any:
    import keras

    class Clock(keras.callbacks.Callback):
        """Times every epoch, and the end of the first step."""

        def __init__(self) -> None:
            super().__init__()
            self.epoch_seconds: list[float] = []
            self.first_step = 0.0

        def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
            self._began = time.perf_counter()

        def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
            if not self.first_step:
                self._wait()
                self.first_step = time.time()

        def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
            self._wait()
            self.epoch_seconds.append(time.perf_counter() - self._began)

        def _wait(self) -> None:
            # An accelerator works behind the program's back: reading a weight waits for the steps that change it.
            smallest = min(self.model.trainable_variables, key=lambda weight: math.prod(weight.shape))
            np.asarray(keras.ops.convert_to_tensor(smallest))

    return Clock()
