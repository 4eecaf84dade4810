"""Exporting a model, loading it elsewhere, and asking it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from elcrec_tf import cli
from elcrec_tf.data.sequences import Sequences
from pipelines.benchmark.report import Report, Spread, Table, plain_numbers
from pipelines.benchmark.run import Run
from pipelines.benchmark.subject import config_of, sequences_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BATCH_SIZES = (1, 16, 256)


def measure(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A worker's measurement: `seconds` to export an untrained model to `spec["folder"]`, its `bytes` there, and its `path`."""
    cli.import_tensorflow()
    from elcrec_tf.serving.saved_model import export_saved_model
    from elcrec_tf.training import new_model

    config = config_of(spec)
    sequences = sequences_of(spec, config)
    model = new_model(sequences, config)
    began = time.perf_counter()
    path = export_saved_model(model, sequences.catalog, spec["folder"])
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "bytes": sum(file.stat().st_size for file in path.rglob("*") if file.is_file()), "path": str(path)}


def measure_serving(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A worker's measurement, with TensorFlow alone: `load_seconds`, `first_call_seconds` and `latency_ms`, by batch size, of each call.

    Args:
        spec: `path` of a SavedModel; `histories`, raw ids; `calls` for each batch size.
    """
    cli.import_tensorflow()
    import tensorflow as tf

    began = time.perf_counter()
    recommend = tf.saved_model.load(spec["path"]).signatures["serving_default"]
    loaded = time.perf_counter()
    histories = spec["histories"]
    width = max(map(len, histories))
    padded = np.array([[""] * (width - len(one)) + one for one in histories], dtype=object)
    recommend(history=tf.constant(padded[:1], tf.string))["item_ids"].numpy()
    first_call = time.perf_counter() - loaded
    latency = {str(size): _latency(recommend, padded, size, spec["calls"]) for size in BATCH_SIZES}
    return {"load_seconds": loaded - began, "first_call_seconds": first_call, "latency_ms": latency}


def _latency(recommend: Any, histories: np.ndarray, size: int, calls: int) -> list[float]:
    import tensorflow as tf

    milliseconds = []
    for call in range(calls):
        rows = np.arange(call * size, (call + 1) * size) % len(histories)
        batch = tf.constant(histories[rows], tf.string)
        began = time.perf_counter()
        recommend(history=batch)["item_ids"].numpy()
        milliseconds.append(1000 * (time.perf_counter() - began))
    return milliseconds


def benchmark(run: Run) -> Report:
    """Export in one fresh process, load and ask in another, for every repeat."""
    rows = [run.journal.measure(f"export/{repeat}", partial(_repeat, run, repeat)) for repeat in run.repeats]
    latency = {size: np.array([row["latency_ms"][str(size)] for row in rows]) for size in BATCH_SIZES}
    summary = {
        "seconds": Spread.of(row["seconds"] for row in rows),
        "bytes": rows[0]["bytes"],
        "load_seconds": Spread.of(row["load_seconds"] for row in rows),
        "first_call_seconds": Spread.of(row["first_call_seconds"] for row in rows),
        "latency_ms": {
            str(size): {"median": Spread.of(np.median(calls, axis=1)), "p99": Spread.of(np.percentile(calls, 99, axis=1))}
            for size, calls in latency.items()
        },
    }
    return Report(summary, _tables(summary), lambda figure: _draw(figure, latency))


def _repeat(run: Run, repeat: int) -> dict[str, Any]:
    """One SavedModel from its export to its last answer; it is gone afterwards, so this is one measurement."""
    with tempfile.TemporaryDirectory(prefix="elcrec-export-") as folder:
        exported = run.fresh(f"export/{repeat}", "export", folder=str(Path(folder, "model")))
        histories = raw_histories(run.sequences, run.config.model.max_length, run.config.train.seed)
        served = run.fresh(f"export/{repeat}, serving", "serve", path=exported.pop("path"), histories=histories, calls=run.options.calls)
    return {**served, **exported, "serving_peak_memory_bytes": served["peak_memory_bytes"]}


def raw_histories(sequences: Sequences, max_length: int, seed: int, most: int = 1024) -> list[list[str]]:
    """The latest items of a random sample of users, as raw ids."""
    users = np.random.default_rng(seed).permutation(sequences.num_users)[:most]
    return [sequences.catalog.raw(sequences[user][-max_length:]) for user in users]


def _tables(summary: Mapping[str, Any]) -> list[Table]:
    lines = [
        ("export, seconds", summary["seconds"].text()),
        ("size on disk, MB", f"{summary['bytes'] / 1e6:.1f}"),
        ("load in a fresh process, seconds", summary["load_seconds"].text()),
        ("first call, seconds", summary["first_call_seconds"].text()),
    ]
    latency = [(f"{size} histories", one["median"].text(), one["p99"].text()) for size, one in summary["latency_ms"].items()]
    return [
        Table("Export: median (smallest..largest)", ("", "measured"), lines),
        Table("Latency of serving_default, ms", ("a call with", "median", "99th percentile"), latency),
    ]


def _draw(figure: Figure, latency: Mapping[int, np.ndarray]) -> None:
    axes = figure.subplots()
    axes.boxplot([calls.ravel() for calls in latency.values()], whis=(1, 99), showfliers=False)
    axes.set_xticks(range(1, len(latency) + 1), [str(size) for size in latency])
    axes.set(title="Latency of serving_default (whiskers: 1st and 99th percentile)", xlabel="histories a call", ylabel="ms", yscale="log")
    plain_numbers(axes.yaxis)
