"""`python -m elcrec_tf.tune`: search hyperparameters with keras-tuner. Wiring only."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import shlex
import sys
from typing import Any

from elcrec_tf import cli
from elcrec_tf.config import GROUPS, MOST_SEED, TrainConfig
from elcrec_tf.data.datasets import load_dataset
from elcrec_tf.data.shards import AnySequences
from elcrec_tf.errors import UserError
from elcrec_tf.presets import PRESETS
from elcrec_tf.run_folder import resolve_run
from elcrec_tf.search_folder import TOLERANCE, TUNERS, SearchFolder, SearchSettings, default_search_folder, newest_search_folder
from elcrec_tf.search_space import KNOWN, make_space, read_space_file
from elcrec_tf.tuning_workers import role, run_workers

_MAX_TRIALS = 20
_NEEDED = ("keras_tuner", "scipy", "sklearn", "tensorboard", "matplotlib")
_METRICS = next(field.metadata["choices"] for field in dataclasses.fields(TrainConfig) if field.name == "monitor")
# --objective takes the place of the first; the others say what train does after training.
_NOT_HERE = ("monitor", "recovery")


def make_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(
        "tune",
        "Search hyperparameters with keras-tuner: by default the number of intents and the contrastive temperature. Everything else is "
        "decided as in training: default < preset < --config file < flag. A field given as a flag is not searched, nor by default one that "
        "has no effect (the temperature without contrastive losses, the number of intents where nothing uses them). A trial is a run "
        "folder as train leaves it; the best one is chosen on validation.",
        "[--dataset NAME|PATH] [--tuner NAME] [--max-trials N] [--space FILE.json] [--output-dir DIR] [--refit N] [--workers N] "
        "[--resume] [options]",
    )
    parser.epilog = (
        "Several machines: set KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT (of the chief) and KERASTUNER_TUNER_ID (chief, worker-1, "
        "worker-2, ...) on each, start the chief with this command, then the workers with --output-dir DIR --resume. DIR is a folder "
        "that all of them see. Where the chief ended early, stop its workers before it goes on."
    )
    run = parser.add_argument_group("run")
    run.add_argument("--output-dir", metavar="DIR", help="search folder (default: searches/<dataset>-<time>)")
    run.add_argument("--preset", choices=PRESETS, help="named settings (default: simulated for the embedded data, else default)")
    run.add_argument("--config", metavar="FILE.json", help="settings from a file, for example a run's config.json")
    run.add_argument("--resume", action="store_true", help="go on with the search in --output-dir, or with the newest one in searches/")
    run.add_argument("--workers", type=int, default=1, metavar="N", help="processes of this machine that run trials (default: 1)")
    run.add_argument("--json", action="store_true", help="print the results to standard output; everything else goes to standard error")
    search = parser.add_argument_group("search")
    search.add_argument("--tuner", choices=TUNERS, help="what chooses the trials (default: bayesian)")
    search.add_argument(
        "--max-trials",
        type=int,
        metavar="N",
        help=f"most trials (default: {_MAX_TRIALS}; as many as they have for hyperband, by --epochs, and grid)",
    )
    search.add_argument(
        "--executions-per-trial",
        type=int,
        metavar="N",
        help="seeds that a trial is trained with, for the mean of their scores (default: 1)",
    )
    search.add_argument(
        "--space",
        metavar="FILE.json",
        help='fields to search or to fix, as in {"num_clusters": {"low": 8, "high": 512, "scale": "log"}, "fusion": {"choices": '
        f'["shift", "concat"]}}, "dropout": 0.3}}; {{}} searches a field in its known range, which {", ".join(KNOWN)} have',
    )
    search.add_argument("--objective", choices=_METRICS, help="validation metric to maximise (default: NDCG@20)")
    search.add_argument(
        "--refit", type=int, default=0, metavar="N", help="train the best configuration with N seeds, and report them on test"
    )
    fields = {field.name for kind in GROUPS for field in dataclasses.fields(kind)}
    cli.add_config_flags(parser, only=fields - set(_NOT_HERE))
    return parser


def main(argv: list[str]) -> int:
    arguments = make_parser().parse_args(argv)
    _check(arguments)
    mode = role()
    if arguments.workers > 1 and mode != "alone":
        raise UserError("--workers starts processes on this machine, KERASTUNER_ORACLE_IP joins those of others; leave out one of them")
    if mode == "worker" and not arguments.resume:
        raise UserError("KERASTUNER_TUNER_ID makes this process a worker of another one's search; add --output-dir DIR --resume")
    folder, settings, sequences = _resumed(arguments) if arguments.resume else _new(arguments)
    console = cli.console(stderr=arguments.json)
    console.print(sequences.description, soft_wrap=True)
    console.print(f"search folder: {folder.path}", soft_wrap=True)
    console.print(f"{settings.tuner} search for the highest validation {settings.objective}: {settings.space}", soft_wrap=True)
    try:
        if arguments.workers > 1:
            run_workers(folder, arguments.workers, console)
        cli.import_tensorflow()
        if arguments.workers == 1:
            from elcrec_tf.tuning import search

            search(settings, folder, sequences, console, worker=mode == "worker")
        return 0 if mode == "worker" else _report(arguments, folder, settings, sequences, console)
    except KeyboardInterrupt:
        again = f"{cli.command('tune')} --output-dir {shlex.quote(str(folder.path))} --resume"
        again += f" --workers {arguments.workers}" if arguments.workers > 1 else ""
        again += f" --refit {arguments.refit}" if arguments.refit else ""
        console.print(f"stopped; go on with: {again}", soft_wrap=True)
        raise


def _check(arguments: argparse.Namespace) -> None:
    for name, least in (("max_trials", 1), ("executions_per_trial", 1), ("workers", 1), ("refit", 0)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} should be at least {least}. Received: {value}")
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f'a search needs {", ".join(missing)}, not installed here; pip install ".[tune]" in the project\'s folder')


def _new(arguments: argparse.Namespace) -> tuple[SearchFolder, SearchSettings, AnySequences]:
    folder = SearchFolder(arguments.output_dir) if arguments.output_dir else None
    if folder:
        folder.check_new()
    flags = cli.config_flags(arguments)
    monitor = {"monitor": arguments.objective} if arguments.objective else {}
    config = resolve_run(arguments.preset, arguments.config, {**flags, **monitor})
    if config.train.epochs < 1:
        raise UserError("train.epochs should be at least 1 in a search. Received: 0")
    entries = read_space_file(arguments.space) if arguments.space else {}
    # A warm start keeps the intents of the run that it goes on from.
    fixed = {*flags, "num_clusters"} if config.train.warm_start and "num_clusters" not in entries else flags
    space = make_space(config, entries, fixed, arguments.space or "space")
    tuner = arguments.tuner or "bayesian"
    if tuner == "grid":
        space = space.grid()
    sequences = load_dataset(config.data, config.simulator)
    trials = arguments.max_trials or (_MAX_TRIALS if tuner in ("random", "bayesian") else None)
    settings = SearchSettings(tuner, trials, arguments.executions_per_trial or 1, space, sequences.fingerprint)
    _check_seeds(settings, arguments.refit)
    _check_trials(settings, sequences)
    folder = folder or default_search_folder(sequences.name)
    folder.write_settings(settings)
    return folder, settings, sequences


def _check_seeds(settings: SearchSettings, refit: int) -> None:
    """Raise `UserError` where the seeds that are counted from the configuration's leave their range."""
    # The tuner's is the next one, executions and the refit take one after the other.
    seed, last = settings.space.base.train.seed, max(1, settings.executions - 1, refit - 1)
    if seed + last > MOST_SEED:
        raise UserError(
            f"--seed {seed}: the search counts its seeds on from there to {seed + last} (tuner, --executions-per-trial, --refit), and "
            f"they end at {MOST_SEED}; give --seed {MOST_SEED - last} or less"
        )


def _check_trials(settings: SearchSettings, sequences: AnySequences) -> None:
    """Raise `UserError` where no trial, or none at an end of a range, can be trained: before the folder is taken."""
    cli.import_tensorflow()
    from elcrec_tf.training import check_startable
    from elcrec_tf.warm_start import parent_of

    for config in settings.space.extremes():
        if settings.tuner == "hyperband" and config.schedule.lasts_all_epochs:
            raise UserError(
                "--tuner hyperband goes on with trials for more epochs, which --contrastive-schedule linear and cosine and "
                "--final-temperature do not allow: they move until the last one; choose another tuner, or leave them out"
            )
        check_startable(sequences, config)
        parent_of(config)


def _resumed(arguments: argparse.Namespace) -> tuple[SearchFolder, SearchSettings, AnySequences]:
    given = [name for name in ("preset", "config", "tuner", "executions_per_trial", "space", "objective") if getattr(arguments, name)]
    given += cli.config_flags(arguments)
    if given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UserError(f"--resume takes the settings of the search it continues; leave out {names}")
    folder = SearchFolder(arguments.output_dir) if arguments.output_dir else newest_search_folder()
    settings = folder.settings()
    _check_seeds(settings, arguments.refit)
    if arguments.max_trials is not None:
        settings = dataclasses.replace(settings, max_trials=arguments.max_trials)
        folder.write_settings(settings)
    config = settings.space.base
    return folder, settings, load_dataset(config.data, config.simulator)


def _report(arguments: argparse.Namespace, folder: SearchFolder, settings: SearchSettings, sequences: AnySequences, console: Any) -> int:
    from elcrec_tf.tuning_report import refit, refit_table, trials_table, write_report

    report = write_report(folder, settings)
    console.print(trials_table(report))
    if report["best"] is None:
        raise UserError(f"{folder.path}: no trial was completed; trials.json there has the reasons")
    console.print(f"best configuration: {folder.best_config_file}", soft_wrap=True)
    clearest = next((result for result in report["trials"] if result["trial"] == report["clearest"]), None)
    if clearest is not None and clearest["intents_in_use"] is not None:
        console.print(_intents_line(report["objective"], clearest, folder), soft_wrap=True)
    if arguments.refit:
        best = next(result for result in report["trials"] if result["trial"] == report["best"])
        report["refit"] = refit(folder, settings, best, sequences, arguments.refit, console)
        console.print(refit_table(report["refit"]))
    else:
        again = f"{cli.command('train')} --config {shlex.quote(str(folder.best_config_file))}"
        console.print(f"train it with: {again}", soft_wrap=True)
    if arguments.json:
        json.dump(report, sys.stdout, indent=2)
        print()
    return 0


def _intents_line(objective: str, clearest: dict[str, Any], folder: SearchFolder) -> str:
    return (
        f"number of intents: {clearest['intents_in_use']:.0f} ({folder.intents_config_file}): of the trials within {TOLERANCE:.0%} of the "
        f"best {objective}, the users of trial {clearest['trial']} belong most clearly to one intent, and use so many of its "
        f"{clearest['values']['num_clusters']}"
    )


if __name__ == "__main__":
    cli.run(main)
