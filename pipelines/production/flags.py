"""The command line. No TensorFlow: `--help` should answer at once."""

from __future__ import annotations

import argparse
import dataclasses
import math
from pathlib import Path

from elcrec_tf import cli
from elcrec_tf.config import AugmentConfig, DataConfig, LossConfig, ModelConfig, ScheduleConfig, TrainConfig
from elcrec_tf.presets import PRESETS
from pipelines.production.gate import Limits
from pipelines.production.preparing import MEMORY, SPARK

PROGRAM = "python -m pipelines.production"
COLUMNS = ("user_column", "item_column", "time_column")
PREPARED = (*COLUMNS, "k_core", "repeated_rows")
_NOT_HERE = ("warm_start", "recovery", "snapshot_epochs", "snapshot_users")


def make_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(
        "",
        "From new logs to a model in service: prepare, check the data, train (warm from the run published last), evaluate, export, compare "
        "with the serving model, gate, publish. Run it again after it was stopped, and it goes on where it was.",
    )
    parser.prog = PROGRAM
    parser.usage = f"{PROGRAM} --input LOGS --model saved_models/NAME [--work-dir DIR] [--keep N] [--dry-run] [options]"
    parser.epilog = "Exit status: 0 published, or nothing new to do; 1 an error; 2 wrong flags; 3 the gate refused; 4 another is at work."
    run = parser.add_argument_group("run")
    run.add_argument("--input", required=True, metavar="LOGS", help="log file, folder of log files, or glob in quotes")
    run.add_argument("--model", required=True, type=Path, metavar="DIR", help="folder of the model's versions, which a server watches")
    run.add_argument("--work-dir", type=Path, metavar="DIR", help="folder of the runs (default: production/<name of the model's folder>)")
    run.add_argument("--new-run", action="store_true", help="start anew, even if these logs have a run")
    run.add_argument("--dry-run", action="store_true", help="tell what would be done, and do nothing")
    run.add_argument("--keep", type=_positive, metavar="N", help="keep the newest N versions, and the stable one (default: all)")
    run.add_argument("--top-k", type=_positive, default=100, metavar="N", help="most recommendations of an answer (default: 100)")
    _add_preparation(parser)
    _add_gate(parser)
    train = parser.add_argument_group("start of training")
    train.add_argument("--update-epochs", type=_positive, default=2, metavar="N", help="epochs of a warm start (default: 2)")
    train.add_argument("--warm-start", metavar="RUN_DIR", help="run to go on from while this work folder has published none")
    train.add_argument("--from-scratch", action="store_true", help="train from nothing, with --epochs")
    train.add_argument("--preset", choices=PRESETS, help="settings of a training from nothing (default: default)")
    train.add_argument(
        "--config",
        metavar="FILE.json",
        help="settings from a file; of its data group only the columns, k_core, repeated_rows and item_metadata count, where they are no "
        "default, and a filter in it is refused",
    )
    cli.add_config_flags(parser, (ModelConfig, LossConfig, ScheduleConfig, AugmentConfig))
    cli.add_config_flags(parser, (TrainConfig,), [one.name for one in dataclasses.fields(TrainConfig) if one.name not in _NOT_HERE])
    return parser


def _add_preparation(parser: argparse.ArgumentParser) -> None:
    section = parser.add_argument_group("preparation")
    section.add_argument(
        "--prepare",
        choices=(MEMORY, SPARK),
        default=MEMORY,
        help=f"on this machine, or on Spark, which needs Java (default: {MEMORY})",
    )
    section.add_argument(
        "--format", dest="log_format", choices=("csv", "parquet", "jsonl"), help="format of the logs (default: by the files' endings)"
    )
    section.add_argument("--master", default="local[*]", metavar="URL", help="Spark's master (default: local[*])")
    section.add_argument("--memory", default="1g", metavar="SIZE", help="heap of Spark's driver and executors (default: 1g)")
    cli.add_config_flags(parser, (DataConfig,), (*PREPARED, "item_metadata"), {"repeated_rows": "drop"})


def _add_gate(parser: argparse.ArgumentParser) -> None:
    section = parser.add_argument_group("gate")
    limits = Limits()

    def add(name: str, text: str) -> None:
        value = getattr(limits, name)
        shown = "none" if value is None else value
        section.add_argument(f"--{name.replace('_', '-')}", type=_finite, default=value, metavar="X", help=f"{text} (default: {shown})")

    add("max_drop", "largest relative fall of the validation metric (--monitor) against the serving model, on the same new data")
    add("min_metric", "lowest validation metric")
    add("max_change", "largest relative change of the number of users, items and events since the run published last")
    add("max_rejected", "largest share of the log's rows that are no events")
    add("max_unknown", "largest share of events on items that the serving model does not know")
    add("max_divergence", "largest divergence of the items' popularity from the serving model's data, in bits from 0 to 1")
    add("max_age", "most hours since the newest event")
    add("max_ahead", "most hours by which the newest event may lie in the future; large for times that are no dates")
    add("tolerance", "largest difference between a score of the export and the model's own")
    section.add_argument(
        "--compare-users", type=_positive, default=20_000, metavar="N", help="most users to compare the models on (default: 20000)"
    )


def limits_of(arguments: argparse.Namespace) -> Limits:
    return Limits(**{one.name: getattr(arguments, one.name) for one in dataclasses.fields(Limits)})


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"should be a finite number (a large one allows everything). Received: {text}")
    return value


_finite.__name__ = "float"  # argparse names it where the text is no number


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"should be a whole number of at least 1. Received: {text}")
    return int(text)
