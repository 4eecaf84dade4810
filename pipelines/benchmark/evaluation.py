"""Ranking every test user over the whole catalogue, with an untrained model: the cost does not depend on the weights."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from elcrec_tf import cli
from elcrec_tf.config import Config
from elcrec_tf.data.sequences import Sequences
from pipelines.benchmark.floor import FORMATS
from pipelines.benchmark.products import Product
from pipelines.benchmark.report import Report, Spread, Table, number
from pipelines.benchmark.run import Run
from pipelines.benchmark.subject import config_of, sequences_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from elcrec_tf.model import ELCRec


def measure(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A worker's measurement: `users`, and the `seconds` of each of `1 + spec["passes"]` rankings, the first with tracing."""
    cli.import_tensorflow()
    from elcrec_tf.training import new_model

    config = config_of(spec)
    sequences = sequences_of(spec, config)
    users, seconds = time_rankings(new_model(sequences, config), sequences, config, spec["passes"])
    return {"users": users, "seconds": seconds}


def time_rankings(model: ELCRec, sequences: Sequences, config: Config, passes: int) -> tuple[int, list[float]]:
    """`(users, seconds)`: the test users, and the time of each of `1 + passes` rankings of all of them, the first with tracing."""
    from elcrec_tf.data.pipeline import ranking_batches
    from elcrec_tf.evaluation import Ranker

    ranker = Ranker(model)
    data = ranking_batches(sequences, "test", config.train.eval_batch_size, config.model.max_length)
    seconds = []
    for _ in range(1 + passes):
        began = time.perf_counter()
        ranks = ranker.rank(data)["rank"]
        seconds.append(time.perf_counter() - began)
    return len(ranks), seconds


def benchmark(run: Run) -> Report:
    """All rankings in a fresh process, and the rate of the scoring product, for every repeat."""
    size, items = run.config.model.hidden_size, run.sequences.catalog.num_items
    rows, floors = [], []
    for repeat in run.repeats:
        rows.append(run.measure(f"evaluate/{repeat}", "evaluate", passes=run.options.passes))
        product = Product("scoring", "scores", rows[-1]["users"], size, items)
        rates = run.rates(f"rates/{repeat}", [product]).gflops[product.shape]
        floors.append(product.flops / (1e9 * max(rates[name] for name in FORMATS)))
    users = rows[0]["users"]
    later = [seconds for row in rows for seconds in row["seconds"][1:]]
    summary = {
        "users": users,
        "first_seconds": Spread.of(row["seconds"][0] for row in rows),
        "seconds": Spread.of(later),
        "users_per_second": Spread.of(users / seconds for seconds in later),
        "scoring_floor_seconds": Spread.of(floors),
        "scoring_share": Spread.of(floor / seconds for row, floor in zip(rows, floors, strict=True) for seconds in row["seconds"][1:]),
        "peak_memory_bytes": Spread.of(row["peak_memory_bytes"] for row in rows),
    }
    return Report(summary, [_table(summary)], lambda figure: _draw(figure, rows, summary["scoring_floor_seconds"]))


def _table(summary: Mapping[str, Any]) -> Table:
    lines = [
        ("users ranked", f"{summary['users']:,}"),
        ("seconds, first time with tracing", summary["first_seconds"].text()),
        ("seconds, later", summary["seconds"].text()),
        ("users/s", summary["users_per_second"].text()),
        ("floor of the scoring products, seconds", summary["scoring_floor_seconds"].text()),
        ("their share of the time, %", summary["scoring_share"].text(100)),
        ("peak memory, MB", summary["peak_memory_bytes"].text(1e-6)),
    ]
    return Table("Ranking all test users: median (smallest..largest)", ("", "measured"), lines)


def _draw(figure: Figure, rows: list[dict[str, Any]], floor: Spread) -> None:
    axes = figure.subplots()
    for repeat, row in enumerate(rows):
        axes.plot(range(1, len(row["seconds"]) + 1), row["seconds"], marker="o", label=f"repeat {repeat + 1}")
    axes.axhline(floor.median, linestyle="--", color="grey", label=f"floor of the scoring products, {number(floor.median)} s")
    axes.set(title="Ranking all test users", xlabel="ranking (the first one traces)", ylabel="seconds", ylim=(0, None))
    axes.legend()
