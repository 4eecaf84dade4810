"""What a search finds: the table of its trials, trials.json, the best configuration, HParams for TensorBoard, and its refit on test."""

from __future__ import annotations

import shutil
import statistics
from typing import Any

import keras
import tensorflow as tf
from rich.console import Console
from rich.table import Table
from tensorboard.plugins.hparams import summary_v2 as hparams  # not its api, which asks for tf.keras: retrieval.py says why that matters

from elcrec_tf.data.shards import AnySequences
from elcrec_tf.files import write_json
from elcrec_tf.results import evaluate_run
from elcrec_tf.run_folder import RunFolder
from elcrec_tf.search_folder import SearchFolder, SearchSettings, TrialResult, best_trial, clearest_trial
from elcrec_tf.search_parameter import Parameter
from elcrec_tf.training import train_model
from elcrec_tf.tuning_plots import write_plots


def write_report(folder: SearchFolder, settings: SearchSettings) -> dict[str, Any]:
    """Write trials.json, and where a trial is completed best_config.json, the plots and the HParams, and intents_config.json where the
    number of intents is searched.

    Returns:
        What trials.json holds: `objective`, `tuner`, `best` (the best trial's id, None without one), `clearest` (that of
        `clearest_trial`, None where the number of intents is not searched) and `trials`.
    """
    trials = folder.trials(settings)
    best = best_trial(trials)
    clearest = clearest_trial(trials) if "num_clusters" in {one.name for one in settings.space.parameters} else None
    report = {
        "objective": settings.objective,
        "tuner": settings.tuner,
        "best": None if best is None else best.trial,
        "clearest": None if clearest is None else clearest.trial,
        "trials": [result.to_dict() for result in trials],
    }
    write_json(folder.path / "trials.json", report)
    if best is not None:
        write_json(folder.best_config_file, settings.space.config(best.values).to_dict())
        if clearest is not None and clearest.intents_in_use is not None:
            own = settings.space.config(clearest.values).replace(num_clusters=max(2, round(clearest.intents_in_use)))  # maybe out of range
            write_json(folder.intents_config_file, own.to_dict())
        write_plots(folder, settings, trials)
        write_hparams(folder, settings, trials)
    return report


def write_hparams(folder: SearchFolder, settings: SearchSettings, trials: list[TrialResult]) -> None:
    """Write the completed trials for TensorBoard's HParams, in place of what was written before."""
    path = folder.path / "tensorboard"
    shutil.rmtree(path, ignore_errors=True)
    metric = f"val_{settings.objective}"
    keys = {one.name: hparams.HParam(one.name, _domain(one)) for one in settings.space.parameters}
    with tf.summary.create_file_writer(str(path)).as_default():
        hparams.hparams_config(list(keys.values()), [hparams.Metric(metric, display_name=f"validation {settings.objective}")])
    for result in trials:
        if result.score is not None:
            with tf.summary.create_file_writer(str(path / result.trial)).as_default():
                hparams.hparams({keys[name]: value for name, value in result.values.items()}, trial_id=result.trial)
                tf.summary.scalar(metric, result.score, step=result.epochs)


def _domain(parameter: Parameter) -> Any:
    if parameter.choices:
        return hparams.Discrete(list(parameter.choices))
    interval = hparams.IntInterval if parameter.kind is int else hparams.RealInterval
    return interval(parameter.low, parameter.high)


def trials_table(report: dict[str, Any]) -> Table:
    """All trials, the best first, failed ones with their reason last."""
    table = Table(title=f"trials by validation {report['objective']}")
    for name in ("trial", report["objective"], "separation", "in use"):
        table.add_column(name, justify="right")
    table.add_column("values")
    for name in ("epochs", "seconds"):
        table.add_column(name, justify="right")
    table.add_column("")
    for result in sorted(report["trials"], key=lambda result: -1.0 if result["score"] is None else result["score"], reverse=True):
        score = "-" if result["score"] is None else f"{result['score']:.4f}"
        separation = "-" if result["separation"] is None else f"{result['separation']:.3f}"
        in_use = "-" if result["intents_in_use"] is None else f"{result['intents_in_use']:.0f}"
        values = ", ".join(f"{name} {value}" for name, value in result["values"].items())
        note = f"continues {result['continues']}" if result["continues"] else ""
        if result["status"] != "completed":
            note = f"{result['status']}: {result['reason']}" if result["reason"] else result["status"]
        table.add_row(result["trial"], score, separation, in_use, values, str(result["epochs"]), f"{result['seconds']:.0f}", note)
    return table


def refit(
    folder: SearchFolder, settings: SearchSettings, best: dict[str, Any], sequences: AnySequences, seeds: int, console: Console
) -> dict[str, Any]:
    """Train the best configuration with several seeds, as run folders in `refit/`, and look at test; refit.json holds the result.

    Runs that are there already are continued.

    Args:
        folder: the search.
        settings: its settings.
        best: the best trial, as trials.json holds it.
        sequences: the data set.
        seeds: number of seeds, counted from the configuration's.
        console: where progress goes.

    Returns:
        `trial`, `runs` (seed, folder, `validation` and `test` metrics), and `mean` and `spread` (standard deviation, None for one
        seed) of each split's metrics.
    """
    config = settings.space.config(best["values"])
    runs = []
    for seed in range(config.train.seed, config.train.seed + seeds):
        keras.backend.clear_session()
        run = RunFolder(folder.path / "refit" / f"{best['trial']}-seed-{seed}")
        console.print(f"best configuration, seed {seed}: {run.path}", soft_wrap=True)
        own = config.replace(seed=seed)
        metrics = evaluate_run(train_model(sequences, own, run, resume=run.exists, console=console), sequences, own, run)
        write_json(run.metrics_file, metrics)
        runs.append({"seed": seed, "run": str(run.path), **{split: metrics[split] for split in ("validation", "test")}})
    result: dict[str, Any] = {"trial": best["trial"], "runs": runs, "mean": {}, "spread": {}}
    for split in ("validation", "test"):
        columns = {name: [run[split][name] for run in runs] for name in runs[0][split]}
        result["mean"][split] = {name: statistics.mean(values) for name, values in columns.items()}
        result["spread"][split] = {name: statistics.stdev(values) if seeds > 1 else None for name, values in columns.items()}
    write_json(folder.path / "refit.json", result)
    return result


def refit_table(result: dict[str, Any]) -> Table:
    """The test metrics of a refit: a row for each seed, then mean and standard deviation."""
    names = list(result["mean"]["test"])
    table = Table(title=f"best configuration (trial {result['trial']}) on test")
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right")
    for run in result["runs"]:
        table.add_row(f"seed {run['seed']}", *(f"{run['test'][name]:.4f}" for name in names))
    if len(result["runs"]) > 1:
        for row in ("mean", "spread"):
            table.add_row("standard deviation" if row == "spread" else row, *(f"{result[row]['test'][name]:.4f}" for name in names))
    return table
