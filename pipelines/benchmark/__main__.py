"""`python -m pipelines.benchmark`: parser and dispatch only; no TensorFlow, the measuring processes import it."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from elcrec_tf import cli
from elcrec_tf.config import Config, resolve
from elcrec_tf.errors import UserError
from pipelines.benchmark.flags import PROGRAM, SETTINGS, SIMULATED, make_parser
from pipelines.lock import locked

if TYPE_CHECKING:
    from pipelines.benchmark.report import Report
    from pipelines.benchmark.run import Run


def main(argv: list[str]) -> int:
    options = make_parser().parse_args(argv)
    config = _config(options)
    from pipelines.benchmark.journal import Journal
    from pipelines.benchmark.report import check_plots
    from pipelines.benchmark.run import Run
    from pipelines.benchmark.subject import catalogue_spec, sequences_of

    if not options.no_plot:
        check_plots()
    sequences = sequences_of({"synthetic": catalogue_spec(getattr(options, "items", None))}, config)
    folder = Path(options.output_dir or f"benchmarks/{options.command}-{sequences.name}")
    settings = {name: value for name, value in vars(options).items() if name in SETTINGS}
    settings |= {"command": options.command, "config": config.to_dict(), "data": sequences.fingerprint}
    with locked(folder, wait=False):
        journal = Journal(folder / "rows.jsonl", settings, options.resume)
        run = Run(options, config, sequences, journal, cli.console(stderr=options.json))
        run.console.print(sequences.description, soft_wrap=True)
        return _report(run, folder, shlex.join([*PROGRAM.split(), *argv]))


def _config(options: argparse.Namespace) -> Config:
    flags = cli.config_flags(options)
    if hasattr(options, "default_epochs"):  # it stands above a preset's and a file's: those are for training to the end
        flags.setdefault("epochs", options.default_epochs)
        flags["snapshot_epochs"] = None  # nothing is kept, and a file's may lie beyond these epochs
        if flags["epochs"] < 2:
            raise UserError("--epochs should be at least 2: the first one traces and compiles, the others are what is measured")
    if options.command in SIMULATED:
        flags["dataset"] = "simulated"  # whatever a file says
    if options.command == "catalogue":
        flags["next_item"] = "sampled_softmax"  # no other loss has negatives to compare
    return resolve(options.preset, options.config, flags)


def _report(run: Run, folder: Path, command: str) -> int:
    from pipelines.benchmark import machine
    from pipelines.benchmark.report import write_report

    report = _benchmark(run.options.command)(run)
    described = machine.describe(run.devices())
    sequences = run.sequences
    about = {
        "benchmark": run.options.command,
        "command": command,
        "dataset": {
            "name": sequences.name,
            "fingerprint": sequences.fingerprint,
            "users": sequences.num_users,
            "items": sequences.catalog.num_items,
            "events": sequences.num_events,
        },
        "machine": described,
        "repeats": run.options.repeats,
        "config": run.config.to_dict(),
        "measurements": run.journal.rows,
    }
    heading = [f"`{command}`", f"{sequences.description}. Repeats: {run.options.repeats}. {machine.summary(described)}."]
    content = write_report(report, about, heading, folder, run.options.command, not run.options.no_plot)
    for table in report.tables:
        run.console.print(table.rich())
    run.console.print(f"written to {folder}", soft_wrap=True)
    if run.options.json:
        json.dump(content, sys.stdout, indent=2)
        print()
    return 0


def _benchmark(command: str) -> Callable[[Run], Report]:
    from pipelines.benchmark import catalogue, comparison, evaluation, export, objective, scaling, serving
    from pipelines.benchmark import input as input_pipeline

    return {
        "train": objective.benchmark,
        "evaluate": evaluation.benchmark,
        "input": input_pipeline.benchmark,
        "export": export.benchmark,
        "serve": serving.benchmark,
        "scaling": scaling.benchmark,
        "catalogue": catalogue.benchmark,
        "peer": comparison.benchmark,
    }[command]


if __name__ == "__main__":
    cli.run(main)
