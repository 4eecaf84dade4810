"""`python -m elcrec_tf.drift`: what changed from one run to a later one. Wiring only."""

from __future__ import annotations

import argparse
from pathlib import Path

from elcrec_tf import cli
from elcrec_tf.errors import UserError
from elcrec_tf.files import write_json

SAME_INTENT = 0.5
LEAST_SHARE = 0.1


def make_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(
        "drift",
        "Tell how the intents moved, appeared and died from one run to a later one, and how far the data has moved. Runs that were trained "
        "apart share no axes: the old model is turned onto the new one first, by the items that both know.",
    )
    parser.add_argument("old_run", metavar="OLD_RUN", help="run folder")
    parser.add_argument("new_run", metavar="NEW_RUN", help="run folder of a later run, on newer data")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write everything that was found there")
    parser.add_argument(
        "--same-intent",
        type=float,
        default=SAME_INTENT,
        metavar="X",
        help=f"least cosine of an intent with itself (default: {SAME_INTENT})",
    )
    parser.add_argument(
        "--least-share",
        type=float,
        default=LEAST_SHARE,
        metavar="X",
        help=f"an intent with less than this fraction of an equal share of the users is taken for dead (default: {LEAST_SHARE})",
    )
    return parser


def main(argv: list[str]) -> int:
    arguments = make_parser().parse_args(argv)
    if arguments.output is not None and arguments.output.suffix.lower() != ".json":
        raise UserError(f"--output should name a .json file. Received: {arguments.output}")
    if not -1 <= arguments.same_intent <= 1 or not 0 <= arguments.least_share <= 1:
        raise UserError("--same-intent is a cosine, between -1 and 1, and --least-share a fraction, between 0 and 1")
    cli.import_tensorflow()

    from elcrec_tf.reporting.drift import Side, measure_drift
    from elcrec_tf.reporting.drift_tables import drift_tables

    console = cli.console()
    old, new = Side.load(arguments.old_run), Side.load(arguments.new_run)
    found = measure_drift(old, new, arguments.same_intent, arguments.least_share)
    for table in drift_tables(found):
        console.print(table)
    for side in (old, new):
        if side.missing:
            console.print(f"{side.folder.path}: users are not compared: {side.missing}", soft_wrap=True)
    if found["least_share"] is None:
        console.print("all intents of both runs count: --least-share needs the users of both", soft_wrap=True)
    if arguments.output is not None:
        write_json(arguments.output, found)
        console.print(f"written to {arguments.output}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    cli.run(main)
