"""Exports a run's model as a SavedModel: `python -m elcrec_tf.export RUN_DIR`. Wiring only."""

from __future__ import annotations

from pathlib import Path

from elcrec_tf.cli import console, import_tensorflow, make_parser, run
from elcrec_tf.errors import UserError
from elcrec_tf.run_folder import RunFolder


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
    arguments = parser.parse_args(argv)
    for name in ("top_k", "keep"):
        if (value := getattr(arguments, name)) is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} should be at least 1. Received: {value}")
    folder = RunFolder(arguments.run_dir)
    if not folder.exists:
        raise UserError(f"{folder.path}: holds no run (no config.json); give a folder that elcrec_tf.train wrote")

    import_tensorflow()
    from elcrec_tf.serving.saved_model import export_run

    export_run(folder, arguments.export_dir, console(), arguments.top_k, keep=arguments.keep)
    return 0


if __name__ == "__main__":
    run(main)
