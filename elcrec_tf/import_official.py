"""`python -m elcrec_tf.import_official`: make a run folder from a published PyTorch checkpoint. Wiring only."""

from __future__ import annotations

import argparse
import dataclasses

from elcrec_tf import cli
from elcrec_tf.config import Config, DataConfig, resolve
from elcrec_tf.data.datasets import load_dataset
from elcrec_tf.errors import UserError
from elcrec_tf.files import write_json
from elcrec_tf.run_folder import RunFolder

_NOT_HERE = ("dataset", "data_dir", "k_core")


def make_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(
        "import_official", "Import a published ELCRec checkpoint: a run folder like any other, evaluated on its data set."
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=".pt state dict (needs torch), or its arrays as .npz")
    parser.add_argument("--dataset", metavar="NAME|PATH", required=True, help="data set that the checkpoint was trained on")
    parser.add_argument("--output-dir", metavar="DIR", required=True, help="run folder to make")
    parser.add_argument("--data-dir", metavar="DIR", help="folder of named data sets")
    parser.add_argument("--fusion", choices=("shift", "concat"), default="concat", help="fusion it was trained with (default: concat)")
    parser.add_argument("--num-heads", type=int, default=2, metavar="N", help="attention heads; no array tells them (default: 2)")
    cli.add_config_flags(parser, [DataConfig], only=[one.name for one in dataclasses.fields(DataConfig) if one.name not in _NOT_HERE])
    return parser


def main(argv: list[str]) -> int:
    arguments = make_parser().parse_args(argv)
    given = cli.config_flags(arguments, [DataConfig])
    base = resolve("paper-beauty", flags={**given, "k_core": 1})  # the checkpoint's items are the file's, whatever their counts
    sequences = load_dataset(base.data, base.simulator)
    cli.import_tensorflow()

    from elcrec_tf.model import build_model
    from elcrec_tf.official import architecture, item_rows, load_official_weights, read_checkpoint
    from elcrec_tf.progress import results_table
    from elcrec_tf.results import evaluate_run

    console = cli.console()
    console.print(sequences.description, soft_wrap=True)
    weights = read_checkpoint(arguments.checkpoint)
    shapes = architecture(weights, arguments.checkpoint)
    rows = item_rows(sequences.catalog, shapes.pop("rows"), arguments.checkpoint)
    config = _config(base, shapes, arguments)
    model = build_model(config, sequences.catalog.num_items)
    load_official_weights(model, weights, arguments.checkpoint, rows)
    folder = RunFolder(arguments.output_dir)
    folder.create(config, sequences.catalog, sequences.fingerprint)
    folder.save_model(model)
    metrics = evaluate_run(model, sequences, config, folder)
    write_json(folder.metrics_file, metrics)
    console.print(results_table(metrics))
    console.print(f"run folder: {folder.path}", soft_wrap=True)
    return 0


def _config(base: Config, shapes: dict[str, int], arguments: argparse.Namespace) -> Config:
    if arguments.num_heads < 1 or shapes["hidden_size"] % arguments.num_heads:
        raise UserError(f"--num-heads should divide the hidden size {shapes['hidden_size']}. Received: {arguments.num_heads}")
    return base.replace(**shapes, fusion=arguments.fusion, num_heads=arguments.num_heads)


if __name__ == "__main__":
    cli.run(main)
