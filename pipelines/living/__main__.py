"""`python -m pipelines.living`: simulated logs of a service that drifts, and what daily updates are worth there. Wiring only."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from typing import Any

from elcrec_tf import cli
from elcrec_tf.config import Config, resolve
from elcrec_tf.data.drifting import DriftingConfig, simulate_days
from elcrec_tf.errors import UserError
from pipelines.living.flags import METHODS, PRESET, PROGRAM, SETTINGS, make_parser
from pipelines.lock import locked


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
    from pipelines.benchmark.report import check_plots

    if not options.no_plot:
        check_plots()
    config = resolve(PRESET, flags={**SETTINGS, **cli.config_flags(options)})
    settings = {name: getattr(options, name) for name in ("first_update", "days", "every", "update_epochs")}
    rate = config.train.learning_rate if options.update_learning_rate is None else options.update_learning_rate
    settings["update_learning_rate"] = rate
    settings |= {"drifting": dataclasses.asdict(drifting), "config": config.to_dict()}
    try:
        config.replace(learning_rate=rate)
    except UserError as error:
        raise UserError(f"--update-learning-rate: {error}") from None
    with locked(options.output_dir, wait=False):
        _measure(options, drifting, config, settings, argv)
    return 0


def _measure(options: argparse.Namespace, drifting: DriftingConfig, config: Config, settings: dict[str, Any], argv: list[str]) -> None:
    from pipelines.benchmark.journal import Journal

    journal = Journal(options.output_dir / "rows.jsonl", settings, options.resume)
    cli.import_tensorflow()
    console = cli.console()

    from pipelines.living.methods import World

    rows: dict[tuple[int, int, str], dict[str, Any]] = {}
    for seed in range(drifting.world_seed, drifting.world_seed + options.seeds):
        log = simulate_days(dataclasses.replace(drifting, world_seed=seed), options.first_update + options.days + options.every)
        folder = options.output_dir / "runs" / f"seed-{seed}"
        rate = settings["update_learning_rate"]
        world = World(log, options.first_update, folder, config, options.every, options.update_epochs, rate, console)
        journal.measure(f"seed {seed}, first model", world.measure_first)
        for day in range(options.first_update + options.every, options.first_update + options.days + 1, options.every):
            for method in options.methods:
                key = f"seed {seed}, day {day}, {method}"
                rows[seed, day, method] = journal.measure(key, lambda: world.measure(method, day))  # noqa: B023 - called at once
    _report(options, rows, settings, argv, console)


def _report(options: argparse.Namespace, rows: Any, settings: dict[str, Any], argv: list[str], console: Any) -> None:
    from pipelines.benchmark import machine
    from pipelines.benchmark.report import write_report
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
