"""`python -m pipelines.reproduce`: parser and dispatch only; no TensorFlow, the training processes import it."""

from __future__ import annotations

import shlex
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from elcrec_tf import cli
from elcrec_tf.errors import UserError
from pipelines.benchmark.machine import hardware
from pipelines.reproduce.flags import PROGRAM, make_parser

if TYPE_CHECKING:
    from rich.console import Console

    from pipelines.reproduce.ledger import Row
    from pipelines.reproduce.scene import Scene, Variant


def main(argv: list[str]) -> int:
    options = make_parser().parse_args(argv)
    from pipelines.benchmark.report import check_plots
    from pipelines.reproduce.ledger import Ledger
    from pipelines.reproduce.matrix import dry_run_table, run_missing
    from pipelines.reproduce.scene import Scene
    from pipelines.reproduce.subjects import subjects_of

    if not options.no_plot:
        check_plots()
    console = cli.console()
    fields = cli.config_flags(options)
    if fields.get("epochs", 1) < 1:
        raise UserError(f"--epochs should be at least 1: an untrained model is in no table. Received: {fields['epochs']}")
    ledger = Ledger(Path(options.output_dir))
    scene = Scene(options, fields, subjects_of(options, fields), ledger)
    table = import_module(f"pipelines.reproduce.{options.table}")
    variants: list[Variant] = table.variants(scene)
    if not variants:
        raise UserError(f"no recipe of {', '.join(options.recipes)} is a preset; see --preset in python -m elcrec_tf.train --help")
    if options.dry_run:
        console.print(dry_run_table(scene, variants))
        return 0
    failed = [] if options.no_runs else run_missing(scene, variants, console)
    _write(scene, variants, shlex.join([*PROGRAM.split(), *_without_places(argv)]), console)
    if failed:
        raise UserError(
            f"{len(failed)} runs failed, the table is made without them; the same command tries them again: {', '.join(failed)}"
        )
    return 0


def _without_places(argv: list[str]) -> list[str]:
    """The flags without those that say where something is on this machine: the files are for others, too."""
    kept, places = [], ("--data-dir", "--output-dir", "--runs-dir")
    for before, word in zip(["", *argv], argv, strict=False):
        if before not in places and word.partition("=")[0] not in places:
            kept.append(word)
    return kept


def _write(scene: Scene, variants: list[Variant], command: str, console: Console) -> None:
    from pipelines.benchmark.report import write_report

    name, ledger = scene.options.table, scene.ledger
    report = import_module(f"pipelines.reproduce.{name}").report(scene, variants)
    rows = {row["id"]: row for variant in variants for row in scene.rows(variant)}
    machines = dict.fromkeys(_machine(row) for row in rows.values())
    about = {"table": name, "command": command, "rows": list(rows), "machines": list(machines)}
    heading = [f"`{command}`", f"{len(rows)} runs (`rows.jsonl`), on {'; '.join(machines) or 'no machine yet'}."]
    write_report(report, about, heading, ledger.folder, name, not scene.options.no_plot, endings=("png", "svg"))
    for table in report.tables:
        console.print(table.rich())
    console.print(f"written to {ledger.folder}", soft_wrap=True)


def _machine(row: Row) -> str:
    software = ", ".join(f"{name} {version}" for name, version in row["versions"].items())
    return f"{hardware(row['machine'])}, {software}"


if __name__ == "__main__":
    cli.run(main)
