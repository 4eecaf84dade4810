"""`python -m elcrec_tf.evaluate`: metrics of a run on the held-out events. Wiring only."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys

from elcrec_tf import cli
from elcrec_tf.config import Config, DataConfig
from elcrec_tf.data.datasets import load_dataset
from elcrec_tf.data.inherited import with_flags
from elcrec_tf.data.shards import AnySequences
from elcrec_tf.errors import UserError
from elcrec_tf.files import write_json
from elcrec_tf.run_folder import RunFolder

_NOT_HERE = ("dataset", "data_dir", "item_metadata")  # two have a meaning of their own here, titles none


def make_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser("evaluate", "Evaluate a run's best model on its own data set, or on another with the same items.")
    parser.add_argument("run_dir", metavar="RUN_DIR", help="run folder that elcrec_tf.train or import_official wrote")
    parser.add_argument("--dataset", metavar="NAME|PATH", help="another data set; the result goes to metrics-<name>.json")
    parser.add_argument("--data-dir", metavar="DIR", help="folder of named data sets (default: the run's)")
    parser.add_argument("--json", action="store_true", help="print the metrics as JSON to standard output")
    as_in_training = {one.name: "as in training" for one in dataclasses.fields(DataConfig) if one.name not in _NOT_HERE}
    as_in_training["filter_column"] += "; '' turns the filter off"
    cli.add_config_flags(parser, [DataConfig], only=as_in_training, defaults=as_in_training)
    return parser


def main(argv: list[str]) -> int:
    arguments = make_parser().parse_args(argv)
    folder = RunFolder(arguments.run_dir)
    config = folder.config()
    given = {name: value for name, value in cli.config_flags(arguments, [DataConfig]).items() if value is not None}
    sequences = load_dataset(dataclasses.replace(with_flags(config.data, given), item_metadata=None), config.simulator)
    own = _is_own(sequences, folder, config, arguments.dataset) and not (given and folder.fingerprint() is None)
    # What only the training job can measure stays.
    recovery = folder.read_metrics().get("intents", {}).get("recovery") if own else None
    catalog = folder.catalog()
    if list(catalog.ids) != list(sequences.catalog.ids):
        sequences = sequences.with_catalog(catalog, recount=True)
    cli.import_tensorflow()

    from elcrec_tf.progress import history_length_table, results_table
    from elcrec_tf.results import evaluate_run

    console = cli.console(stderr=arguments.json)
    console.print(sequences.description, soft_wrap=True)
    metrics = evaluate_run(folder.load_model(), sequences, config, folder)
    if recovery is not None:
        metrics["intents"]["recovery"] = recovery
    path = folder.metrics_file if own else folder.path / f"metrics-{sequences.name}.json"
    write_json(path, metrics)
    if arguments.json:
        json.dump(metrics, sys.stdout, indent=2)
        print()
    else:
        console.print(results_table(metrics))
        if "by_history_length" in metrics:
            console.print(history_length_table(metrics))
        console.print(f"written to {path}", soft_wrap=True)
    return 0


def _is_own(sequences: AnySequences, folder: RunFolder, config: Config, dataset: str | None) -> bool:
    """Whether this is the data set that the run was made with; `dataset` is the one asked for, None for the run's own.

    Raises:
        UserError: when the run's own is asked for and has changed.
    """
    same = folder.fingerprint() in (None, sequences.fingerprint)
    if dataset is None and not same:
        raise UserError(
            f"the data of {config.data.dataset}, or how it is read, has changed since the run was made; evaluate it as another data set "
            f"with --dataset {shlex.quote(config.data.dataset)}, which writes metrics-{sequences.name}.json"
        )
    return same and dataset in (None, config.data.dataset)


if __name__ == "__main__":
    cli.run(main)
