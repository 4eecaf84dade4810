"""The input pipeline alone: what training waits for at most."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from elcrec_tf import cli
from pipelines.benchmark.counts import training_inputs
from pipelines.benchmark.report import Report, Spread, Table, number
from pipelines.benchmark.run import Run
from pipelines.benchmark.subject import config_of, sequences_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def epoch_seconds(data: Any, epochs: int) -> list[float]:
    """Seconds to make every batch of an epoch of `training_batches`, epoch by epoch, with nothing else to do."""
    batches = iter(data.dataset)
    seconds = []
    for _ in range(epochs):
        began = time.perf_counter()
        for _ in range(data.steps_per_epoch):
            next(batches)
        seconds.append(time.perf_counter() - began)
    return seconds


def measure(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A worker's measurement.

    Returns:
        `first_batch_seconds`, from the data set in memory to the first batch of a pipeline; `epoch_seconds`, of as many epochs as the
        configuration says, of another one; `steps_per_epoch`; `padding_share`; `batch_bytes`, the mean of an epoch's batches.
    """
    cli.import_tensorflow()
    import tensorflow as tf

    from elcrec_tf.data.training_data import training_batches

    config = config_of(spec)
    sequences = sequences_of(spec, config)
    began = time.perf_counter()
    next(iter(training_batches(sequences, config).dataset))
    first_batch = time.perf_counter() - began
    data = training_batches(sequences, config)
    seconds = epoch_seconds(data, config.train.epochs)
    sizes = [sum(tensor.numpy().nbytes for tensor in tf.nest.flatten(batch)) for batch in data.dataset.take(data.steps_per_epoch)]
    return {
        "first_batch_seconds": first_batch,
        "epoch_seconds": seconds,
        "steps_per_epoch": data.steps_per_epoch,
        "padding_share": data.padding_share,
        "batch_bytes": float(np.mean(sizes)),
    }


def benchmark(run: Run) -> Report:
    """The pipeline of the configured objective, in a fresh process for every repeat."""
    rows = [run.measure(f"input/{repeat}", "input") for repeat in run.repeats]
    inputs = training_inputs(run.sequences)
    items = int(np.minimum(inputs, run.config.model.max_length).sum())
    later = [seconds for row in rows for seconds in row["epoch_seconds"][1:]]
    summary = {
        "users": len(inputs),
        "items": items,
        "steps_per_epoch": rows[0]["steps_per_epoch"],
        "padding_share": rows[0]["padding_share"],
        "batch_bytes": Spread.of(row["batch_bytes"] for row in rows),
        "first_batch_seconds": Spread.of(row["first_batch_seconds"] for row in rows),
        "first_epoch_seconds": Spread.of(row["epoch_seconds"][0] for row in rows),
        "epoch_seconds": Spread.of(later),
        "batches_per_second": Spread.of(rows[0]["steps_per_epoch"] / seconds for seconds in later),
        "items_per_second": Spread.of(items / seconds for seconds in later),
    }
    return Report(summary, [_table(summary)], lambda figure: _draw(figure, rows))


def _table(summary: Mapping[str, Any]) -> Table:
    lines = [
        ("seconds to the first batch", summary["first_batch_seconds"].text()),
        ("seconds of the first epoch", summary["first_epoch_seconds"].text()),
        ("seconds of a later epoch", summary["epoch_seconds"].text()),
        ("batches/s", summary["batches_per_second"].text()),
        ("real items/s", summary["items_per_second"].text()),
        ("batches an epoch", str(summary["steps_per_epoch"])),
        ("KB a batch", summary["batch_bytes"].text(1e-3)),
        ("positions that are padding", f"{number(100 * summary['padding_share'])} %"),
    ]
    return Table("Input pipeline alone: median (smallest..largest)", ("", "measured"), lines)


def _draw(figure: Figure, rows: list[dict[str, Any]]) -> None:
    axes = figure.subplots()
    for repeat, row in enumerate(rows):
        axes.plot(range(1, len(row["epoch_seconds"]) + 1), row["epoch_seconds"], marker="o", label=f"repeat {repeat + 1}")
    axes.set(title="Input pipeline alone", xlabel="epoch", ylabel="seconds an epoch", ylim=(0, None))
    axes.legend()
