"""`python -m pipelines.production`: from new logs to a model in service. Wiring only."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elcrec_tf import cli
from elcrec_tf.config import Config, DataConfig, resolve
from elcrec_tf.errors import UserError
from elcrec_tf.files import read_json_object
from elcrec_tf.run_folder import RunFolder
from pipelines.lock import FolderInUse, locked
from pipelines.production.flags import COLUMNS, PREPARED, PROGRAM, limits_of, make_parser
from pipelines.production.job import Job, all_checks
from pipelines.production.log import Log
from pipelines.production.preparing import FILTERS, Preparation, input_files, log_format
from pipelines.production.publishing import check_model_folder, served_version
from pipelines.production.runs import PUBLISHED, REFUSED, Run, WorkFolder, fingerprints, same_files
from pipelines.production.steps import do_steps, plan

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

GATE_REFUSED, IN_USE = 3, 4
"""Exit statuses beside the common ones of `elcrec_tf.cli.run`."""


def main(argv: list[str]) -> int:
    arguments = make_parser().parse_args(argv)
    model = arguments.model
    check_model_folder(model)
    work = WorkFolder(arguments.work_dir or Path("production", model.resolve().name))
    if arguments.dry_run:
        return _dry_run(arguments, work)
    try:
        with locked(work.path, wait=False), locked(model, wait=False):
            return _run(arguments, work, shlex.join([*PROGRAM.split(), *argv]))
    except FolderInUse as error:
        print(f"error: {error}", file=sys.stderr)
        return IN_USE


def _dry_run(arguments: argparse.Namespace, work: WorkFolder) -> int:
    console = cli.console()
    run, files = _run_of(arguments, work)
    if run.published:
        console.print(_published_line(run), soft_wrap=True)
        return 0
    job = _job(arguments, work, run, files)
    for line in (f"run: {run.path}", *_about(job)):
        console.print(line, soft_wrap=True)
    for step, state in plan(run, job.steps(console)).items():
        console.print(f"{step}: {state}")
    return 0


def _run(arguments: argparse.Namespace, work: WorkFolder, command: str) -> int:
    run, files = _run_of(arguments, work)
    if run.published:
        print(_published_line(run))
        return 0
    job = _job(arguments, work, run, files)
    run.path.mkdir(parents=True, exist_ok=True)
    run.state["command"] = command
    run.save()
    with contextlib.closing(Log(run.path / "pipeline.log")) as log:
        console = log.console()
        try:
            return _do(job, console)
        except BaseException as error:
            same = "the same command without --new-run" if arguments.new_run else "the same command"
            why = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error) or type(error).__name__
            console.print(f"stopped: {why}; {same} goes on from here", soft_wrap=True)
            raise


def _do(job: Job, console: Console) -> int:
    run = job.run
    for line in (f"run folder: {run.path}", *_about(job)):
        console.print(line, soft_wrap=True)
    cli.import_tensorflow()
    passed = do_steps(run, job.steps(console), lambda line: console.print(line, soft_wrap=True))
    console.print(_gate_table(run))
    if not passed:
        run.end(REFUSED)
        console.print(f"refused by the gate, nothing is published; {job.model} is as it was", soft_wrap=True)
        return GATE_REFUSED
    run.end(PUBLISHED, **run.result("publish"))
    console.print(f"published {run.result('publish')['path']}", soft_wrap=True)
    return 0


def _run_of(arguments: argparse.Namespace, work: WorkFolder) -> tuple[Run, list[Path]]:
    """The newest run if it is of the same logs, else a new one; and the logs."""
    work.check_model(arguments.model)
    files = input_files(arguments.input)
    inputs = fingerprints(files)
    runs = work.runs()
    if runs and same_files(runs[-1].state["inputs"], inputs) and not arguments.new_run:
        return runs[-1], files
    return work.new(inputs, arguments.model), files


def _job(arguments: argparse.Namespace, work: WorkFolder, run: Run, files: list[Path]) -> Job:
    flags = cli.config_flags(arguments)
    model = arguments.model
    prepared = {name: flags.pop(name) for name in PREPARED if name in flags}
    last = work.run(run.parent) if run.parent else None
    config = _config(arguments, flags, last)
    given = _prepared(arguments.config, config, prepared)
    preparation = Preparation(
        source=arguments.input,
        form=log_format(files, arguments.log_format),
        engine=arguments.prepare,
        columns=tuple(getattr(given, name) for name in COLUMNS),
        k_core=given.k_core,
        repeated_rows=given.repeated_rows,
        master=arguments.master,
        memory=arguments.memory,
    )
    output = preparation.output(run.path / "data", model.resolve().name)
    return Job(
        run=run,
        last=last,
        model=model,
        serving=served_version(model, run.id) if model.is_dir() else None,
        files=files,
        preparation=preparation,
        config=dataclasses.replace(config, data=preparation.data_config(config.data, output)),
        limits=limits_of(arguments),
        users=arguments.compare_users,
        top_k=arguments.top_k,
        keep=arguments.keep,
    )


def _prepared(file: str | None, config: Config, flags: dict[str, Any]) -> DataConfig:
    """What the preparation is told: by flags, else by the file of --config, which `config` was made with. A run's config.json holds every
    setting, so a default there tells nothing; rows that are repeated are dropped unless a flag says otherwise.

    Raises:
        UserError: for a file that says which rows to keep.
    """
    in_file = read_json_object(file, "groups, as a run's config.json does").get("data", {}) if file else {}
    filters = [name for name in FILTERS if in_file.get(name) is not None]
    if filters:
        raise UserError(
            f"{file}: its data has {' and '.join(filters)}, but rows are not filtered here; leave that out, and give logs that hold the "
            "wanted rows alone"
        )
    told = {name: getattr(config.data, name) for name in PREPARED if name in in_file}
    told = {name: value for name, value in told.items() if value != getattr(DataConfig(), name)}
    return DataConfig(**{"repeated_rows": "drop", **told, **flags})


def _config(arguments: argparse.Namespace, flags: dict[str, Any], last: Run | None) -> Config:
    """Settings of a warm start, which are its parent's, or of a training from nothing."""
    parent = None if last is None else str(last.path / "train")
    parent = None if arguments.from_scratch else parent or arguments.warm_start
    if parent is None:
        return resolve(arguments.preset or "default", arguments.config, flags).replace(warm_start=None, recovery=False)
    config = resolve(None, arguments.config, flags, RunFolder(parent).config())
    return config.replace(warm_start=parent, epochs=arguments.update_epochs, recovery=False)


def _about(job: Job) -> list[str]:
    parent = job.config.train.warm_start
    start = f"from {parent}" if parent else "from nothing"
    size = sum(one["bytes"] for one in job.run.state["inputs"]) / 1e6
    return [
        f"logs: {len(job.files)} files, {size:,.1f} MB, prepared with {job.preparation.engine}",
        f"training: {start}, at most {job.config.train.epochs} epochs",
        f"serving: {job.serving or 'nothing yet'}",
    ]


def _published_line(run: Run) -> str:
    return f"nothing new to do: {run.path} has published {run.state['path']} from these logs (--new-run starts anew)"


def _gate_table(run: Run) -> Table:
    from rich.table import Table

    table = Table(title="gate")
    for name, side in (("check", "left"), ("value", "right"), ("limit", "right"), ("", "left"), ("from", "left")):
        table.add_column(name, justify=side, overflow="fold")  # type: ignore[arg-type]
    for check in all_checks(run):
        value = "no number" if check["value"] is None else f"{check['value']:.4g}"
        table.add_row(check["name"], value, f"{check['bound']} {check['limit']:.4g}", "ok" if check["passed"] else "FAILED", check["note"])
    return table


if __name__ == "__main__":
    cli.run(main)
