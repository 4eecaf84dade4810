"""`python -m pipelines.living`: simulated logs of a service that drifts, and what daily updates are worth there. Wiring only."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from pathlib import Path
from typing import Any

from elcrec_tf import cli
from elcrec_tf.config import LossConfig, ModelConfig, TrainConfig, resolve
from elcrec_tf.data.drifting import DriftingConfig, simulate_days
from elcrec_tf.errors import UserError

PROGRAM = "python -m pipelines.living"
_METHODS = ("stale", "warm", "warm-week", "short", "scratch")
# Beside the preset simulated. A table that grows every day would be compiled every day, which takes longer than it saves.
_DEFAULTS = {"num_clusters": 24, "epochs": 15, "patience": 2, "recovery": False, "xla": "off"}


def make_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(
        "", "A simulated service that drifts from day to day: its logs, and what daily updates of a model are worth there."
    )
    parser.prog, parser.usage = PROGRAM, None
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, prog=PROGRAM, title="commands")
    log = commands.add_parser("log", help="write the raw log of some days", formatter_class=parser.formatter_class, allow_abbrev=False)
    log.add_argument("--days", nargs=2, type=int, default=(0, 27), metavar=("FIRST", "LAST"), help="days of the log (default: 0 27)")
    log.add_argument("--output", type=Path, required=True, metavar="FILE.csv", help="CSV with the columns user, item, timestamp")
    cli.add_config_flags(log, (DriftingConfig,))
    updates = commands.add_parser(
        "updates",
        help="compare a stale model with warm starts and models from scratch, update by update",
        formatter_class=parser.formatter_class,
        allow_abbrev=False,
    )
    updates.add_argument("--first-update", type=int, default=28, metavar="DAY", help="the first model has the days before (default: 28)")
    updates.add_argument("--days", type=int, default=7, metavar="N", help="days of updates (default: 7)")
    updates.add_argument("--every", type=int, default=1, metavar="DAYS", help="days between updates (default: 1)")
    updates.add_argument("--update-epochs", type=int, default=2, metavar="N", help="epochs of an update (default: 2)")
    updates.add_argument("--update-learning-rate", type=float, metavar="X", help="of a warm start (default: --learning-rate)")
    updates.add_argument("--seeds", type=int, default=1, metavar="N", help="simulated worlds, from --world-seed on (default: 1)")
    updates.add_argument("--methods", nargs="+", choices=_METHODS, default=_METHODS, help=f"(default: {' '.join(_METHODS)})")
    updates.add_argument("--output-dir", type=Path, default=Path("benchmarks/living"), metavar="DIR", help="(default: benchmarks/living)")
    updates.add_argument("--resume", action="store_true", help="go on where the same command was stopped")
    updates.add_argument("--no-plot", action="store_true", help="write no plot")
    cli.add_config_flags(updates, (DriftingConfig,))
    defaults = {name: str(value) for name, value in _DEFAULTS.items()}
    cli.add_config_flags(updates, (ModelConfig, LossConfig, TrainConfig), defaults=defaults)
    return parser


def main(argv: list[str]) -> int:
    options = make_parser().parse_args(argv)
    names = {field.name for field in dataclasses.fields(DriftingConfig)}
    drifting = DriftingConfig(**{name: value for name, value in vars(options).items() if name in names})
    return _log(options, drifting) if options.command == "log" else _updates(options, drifting, argv)


def _log(options: argparse.Namespace, drifting: DriftingConfig) -> int:
    import pyarrow as pa
    from pyarrow.csv import write_csv

    from elcrec_tf.files import atomic_path

    first, last = options.days
    if not 0 <= first <= last:
        raise UserError(f"--days should be two days, the first not after the last. Received: {first} {last}")
    log = simulate_days(drifting, last + 1).between(first, last)
    table = pa.table({"user": pa.array(log.user_names()), "item": pa.array(log.item_names()), "timestamp": log.times})
    with atomic_path(options.output) as temporary:
        write_csv(table, temporary)
    print(f"{table.num_rows:,} events of the days {first} to {last} written to {options.output}")
    return 0


def _updates(options: argparse.Namespace, drifting: DriftingConfig, argv: list[str]) -> int:
    for name in ("first_update", "days", "every", "update_epochs", "seeds"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} should be at least 1. Received: {getattr(options, name)}")
    if options.every > options.days:
        raise UserError(f"--every {options.every} leaves no update in --days {options.days}")
    from pipelines.benchmark.journal import Journal
    from pipelines.benchmark.report import check_plots

    if not options.no_plot:
        check_plots()
    config = resolve("simulated", flags={**_DEFAULTS, **cli.config_flags(options)})
    settings = {name: getattr(options, name) for name in ("first_update", "days", "every", "update_epochs")}
    rate = config.train.learning_rate if options.update_learning_rate is None else options.update_learning_rate
    settings["update_learning_rate"] = rate
    settings |= {"drifting": dataclasses.asdict(drifting), "config": config.to_dict()}
    journal = Journal(options.output_dir / "rows.jsonl", settings, options.resume)
    cli.import_tensorflow()
    console = cli.console()

    from pipelines.living.methods import World

    rows: dict[tuple[int, int, str], dict[str, Any]] = {}
    for seed in range(drifting.world_seed, drifting.world_seed + options.seeds):
        log = simulate_days(dataclasses.replace(drifting, world_seed=seed), options.first_update + options.days + options.every)
        folder = options.output_dir / "runs" / f"seed-{seed}"
        world = World(log, options.first_update, folder, config, options.every, options.update_epochs, rate, console)
        journal.measure(f"seed {seed}, first model", world.measure_first)
        for day in range(options.first_update + options.every, options.first_update + options.days + 1, options.every):
            for method in options.methods:
                key = f"seed {seed}, day {day}, {method}"
                rows[seed, day, method] = journal.measure(key, lambda: world.measure(method, day))  # noqa: B023 - called at once
    _report(options, rows, settings, argv, console)
    return 0


def _report(options: argparse.Namespace, rows: Any, settings: dict[str, Any], argv: list[str], console: Any) -> None:
    from pipelines.benchmark import machine
    from pipelines.benchmark.report import write_report
    from pipelines.living.methods import METHODS
    from pipelines.living.report import make_report

    described = machine.describe([])
    command = shlex.join([*PROGRAM.split(), *argv])
    report = make_report(rows, options.methods)
    about = {"command": command, "machine": described, "settings": settings}
    heading = [f"`{command}`", f"{machine.summary(described)}.", *(f"- {name}: {METHODS[name]}" for name in options.methods)]
    write_report(report, about, heading, options.output_dir, "updates", not options.no_plot)
    for table in report.tables:
        console.print(table.rich())
    console.print(f"written to {options.output_dir}", soft_wrap=True)


if __name__ == "__main__":
    cli.run(main)
