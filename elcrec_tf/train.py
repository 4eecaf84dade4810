"""`python -m elcrec_tf.train`: train, evaluate, export. Wiring only."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from elcrec_tf import cli
from elcrec_tf.config import Config
from elcrec_tf.data.datasets import load_dataset
from elcrec_tf.data.shards import AnySequences
from elcrec_tf.errors import UserError
from elcrec_tf.files import write_json
from elcrec_tf.presets import PRESETS
from elcrec_tf.run_folder import RunFolder, default_folder, newest_folder, resolve_run
from elcrec_tf.workers import Worker, this_worker

if TYPE_CHECKING:
    from elcrec_tf.worker_training import Team


def make_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(
        "train",
        "Train ELCRec, evaluate it, and export a SavedModel. Without --dataset it trains on the embedded simulated data. "
        "Values are decided in this order: default < preset < --config file < flag.",
        "[--dataset NAME|PATH] [--output-dir DIR] [--export-dir DIR] [--preset NAME | --warm-start RUN_DIR] [--config FILE.json] "
        "[--resume] [options]",
    )
    settings = ", ".join(f"{name} {value}" for name, value in PRESETS["simulated"].items())
    parser.epilog = (
        f"The preset simulated sets {settings}. The presets paper-* are the paper's published settings, for its own loss. The presets "
        "sasrec, cl4srec and iclrec are what ELCRec is built upon, with the default's settings."
    )
    run = parser.add_argument_group("run")
    run.add_argument("--output-dir", metavar="DIR", help="run folder (default: runs/<dataset>-<time>)")
    run.add_argument("--export-dir", metavar="DIR", help="folder for the model's integer versions (default: saved_models/<dataset>)")
    run.add_argument("--no-export", action="store_true", help="leave no SavedModel")
    run.add_argument("--preset", choices=PRESETS, help="named settings (default: simulated for the embedded data, else default)")
    run.add_argument("--config", metavar="FILE.json", help="settings from a file, for example a run's config.json")
    run.add_argument("--resume", action="store_true", help="continue the run in --output-dir, or the newest one in runs/")
    run.add_argument("--json", action="store_true", help="print metrics.json to standard output; everything else goes to standard error")
    cli.add_config_flags(parser)
    return parser


def main(argv: list[str]) -> int:
    arguments = make_parser().parse_args(argv)
    worker = this_worker()
    if worker and not arguments.output_dir:
        raise UserError("TF_CONFIG makes this one of several workers: they need one --output-dir, on storage that they share")
    folder, config = _folder_and_config(arguments, worker is None or worker.chief)
    team = _team(worker) if worker else None
    sequences = load_dataset(config.data, config.simulator)
    folder = folder or default_folder(sequences.name)
    cli.import_tensorflow()
    return _train(arguments, folder, config, sequences, team)


def _team(worker: Worker) -> Team:
    cli.import_tensorflow()
    from elcrec_tf.worker_training import Team

    return Team(worker)


def _folder_and_config(arguments: argparse.Namespace, writes: bool) -> tuple[RunFolder | None, Config]:
    flags = cli.config_flags(arguments)
    folder = RunFolder(arguments.output_dir) if arguments.output_dir else None
    if not arguments.resume:
        if folder and writes:
            folder.check_new()
        return folder, resolve_run(arguments.preset, arguments.config, flags)
    folder = folder or newest_folder()
    if arguments.preset or arguments.config:
        raise UserError("--resume takes the settings of the run it continues; leave out --preset and --config")
    return folder, folder.config().replace(**flags)


def _train(arguments: argparse.Namespace, folder: RunFolder, config: Config, sequences: AnySequences, team: Team | None) -> int:
    import json

    import keras

    from elcrec_tf.progress import recovery_table, results_table
    from elcrec_tf.recovery import measure_recovery
    from elcrec_tf.results import evaluate_run
    from elcrec_tf.serving.saved_model import export_run
    from elcrec_tf.training import train_model

    console = cli.console(stderr=arguments.json)
    if team and not team.worker.chief:  # it has done its part when training ends, and says nothing
        console.quiet = True
        train_model(sequences, config, folder, arguments.resume, console, team=team)
        return 0
    console.print(sequences.description, soft_wrap=True)
    console.print(f"run folder: {folder.path}", soft_wrap=True)
    try:
        model = train_model(sequences, config, folder, arguments.resume, console, team=team)
        metrics = evaluate_run(model, sequences, config, folder)
        write_json(folder.metrics_file, metrics)
        if sequences.intents is not None and config.train.recovery and config.elcm:
            metrics["intents"]["recovery"] = measure_recovery(model, sequences, config, folder, console)
            write_json(folder.metrics_file, metrics)
    except KeyboardInterrupt:
        places = f" --export-dir {shlex.quote(arguments.export_dir)}" if arguments.export_dir else ""
        places += " --no-export" * arguments.no_export + " --json" * arguments.json
        again = f"{cli.command('train')} --output-dir {shlex.quote(str(folder.path))} --resume{places}"
        console.print(f"stopped; go on with: {again}", soft_wrap=True)
        raise
    console.print(results_table(metrics))
    if "recovery" in metrics["intents"]:
        console.print(recovery_table(metrics["intents"]["recovery"]))
    if metrics["best_epoch"] is not None:
        console.print(f"best epoch {metrics['best_epoch']} of {metrics['epochs']}, {metrics['train_seconds']:.0f} s of training")
    if keras.backend.backend() != "tensorflow":
        later = f"KERAS_BACKEND=tensorflow {cli.command('export')} {shlex.quote(str(folder.path))}"
        console.print(f"no SavedModel from the {keras.backend.backend()} backend; make it with: {later}", soft_wrap=True)
    elif not arguments.no_export:
        export_dir = Path(arguments.export_dir or f"saved_models/{sequences.name}")
        export_run(folder, export_dir, console, example=sequences.example)
    if arguments.json:
        json.dump(metrics, sys.stdout, indent=2)
        print()
    return 0


if __name__ == "__main__":
    cli.run(main)
