"""The command line. No TensorFlow: `--help` should answer at once."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from elcrec_tf import cli
from elcrec_tf.config import LossConfig, ModelConfig, TrainConfig
from elcrec_tf.data.drifting import DriftingConfig
from elcrec_tf.presets import PRESETS

PROGRAM = "python -m pipelines.living"
METHODS = {
    "stale": "the first model, never updated",
    "warm": "warm start from the model before, all events",
    "warm-week": "warm start from the model before, the latest week's events alone",
    "short": "from scratch, as many epochs as a warm start",
    "scratch": "from scratch, until validation no longer improves",
}
"""The methods: what an update is."""
PRESET = "simulated"
# Beside the preset. A table that grows every day would be compiled every day, which takes longer than it saves.
SETTINGS: dict[str, Any] = {"num_clusters": 24, "epochs": 15, "patience": 2, "recovery": False, "xla": "off"}
_TRAINING = ("epochs", "batch_size", "learning_rate", "patience", "seed", "new_items", "products", "xla", "eval_batch_size")


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
    updates.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help=f"(default: {' '.join(METHODS)})")
    updates.add_argument("--output-dir", type=Path, default=Path("benchmarks/living"), metavar="DIR", help="(default: benchmarks/living)")
    updates.add_argument("--resume", action="store_true", help="go on where the same command was stopped")
    updates.add_argument("--no-plot", action="store_true", help="write no plot")
    cli.add_config_flags(updates, (DriftingConfig,))
    defaults = {name: str(value) for name, value in {**PRESETS[PRESET], **SETTINGS}.items()}
    cli.add_config_flags(updates, (ModelConfig, LossConfig), defaults=defaults)
    cli.add_config_flags(updates, (TrainConfig,), only=_TRAINING, defaults=defaults)
    return parser
