"""Exports a run's model as a SavedModel: `python -m elcrec_tf.export RUN_DIR`. Wiring only."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from elcrec_tf.cli import console, import_tensorflow, make_parser, run
from elcrec_tf.errors import UserError
from elcrec_tf.run_folder import RunFolder

if TYPE_CHECKING:
    from elcrec_tf.serving.approximate import Approximation


def main(argv: list[str]) -> int:
    parser = make_parser("export", "Export the best model of a run as a SavedModel with raw item ids in and out.")
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="folder of a run, as elcrec_tf.train wrote it")
    parser.add_argument(
        "--export-dir",
        metavar="DIR",
        type=Path,
        help="the model's folder; the export is its next version, a folder 1, 2, ... in it (default: saved_models/<data set>)",
    )
    parser.add_argument(
        "--top-k", metavar="N", type=int, default=100, help="most recommendations that one question can have (default: 100)"
    )
    parser.add_argument(
        "--keep",
        metavar="N",
        type=int,
        help="then remove all versions but the N newest, and the one labelled stable in tf_serving/models.config (default: remove none)",
    )
    index = parser.add_argument_group("index")
    index.add_argument(
        "--index",
        choices=("exact", "approximate"),
        default="exact",
        help="how items are found: among all, or among the lists that are likeliest to hold the best (large catalogues); reads the run's "
        "data to measure the recall (default: exact)",
    )
    index.add_argument(
        "--index-recall",
        metavar="X",
        type=float,
        help="share of the --top-k best items that an approximate index has to find (default: 0.95)",
    )
    index.add_argument("--index-lists", metavar="N", type=int, help="lists (default: twice the square root of the number of items)")
    index.add_argument("--index-probes", metavar="N", type=int, help="lists looked into (default: as few as the recall needs)")
    index.add_argument("--index-users", metavar="N", type=int, help="users who measure it (default: 1000)")
    arguments = parser.parse_args(argv)
    for name in ("top_k", "keep", "index_lists", "index_probes", "index_users"):
        if (value := getattr(arguments, name)) is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} should be at least 1. Received: {value}")
    approximate = {"index_recall": 0.95, "index_lists": None, "index_probes": None, "index_users": 1000}
    for name, default in approximate.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, default)
        elif arguments.index == "exact":
            parser.error(f"--{name.replace('_', '-')} is of an approximate index; add --index approximate, or leave it out")
    folder = RunFolder(arguments.run_dir)
    if not folder.exists:
        raise UserError(f"{folder.path}: holds no run (no config.json); give a folder that elcrec_tf.train wrote")

    import_tensorflow()
    from elcrec_tf.serving.saved_model import export_run

    approximation = _approximation(arguments, folder) if arguments.index == "approximate" else None
    export_run(folder, arguments.export_dir, console(), arguments.top_k, keep=arguments.keep, approximation=approximation)
    return 0


def _approximation(arguments: argparse.Namespace, folder: RunFolder) -> Approximation:
    """The settings of an approximate index, with a sample of the run's users."""
    from elcrec_tf.data.datasets import load_dataset
    from elcrec_tf.data.pipeline import histories
    from elcrec_tf.serving.approximate import Approximation

    config = folder.config()
    data = dataclasses.replace(config.data, item_metadata=None)  # the run's catalogue has the titles
    sequences = load_dataset(data, config.simulator).with_catalog(folder.catalog())
    _, found = histories(sequences, "test", config.model.max_length, most=arguments.index_users, seed=config.train.seed)
    return Approximation(found, arguments.index_recall, arguments.index_lists, arguments.index_probes)


if __name__ == "__main__":
    run(main)
