"""`python -m pipelines.prepare`: raw logs to training data on Spark. Wiring only."""

from __future__ import annotations

import argparse
import shlex

from elcrec_tf import cli
from elcrec_tf.config import DataConfig
from elcrec_tf.data.shards import BY_TIME, LEAVE_ONE_OUT
from pipelines.prepare.options import FORMATS, PrepareOptions


def make_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(
        "prepare", "Turn raw logs of any size into a data set in shards, which elcrec_tf.train streams, on Apache Spark."
    )
    parser.prog = "python -m pipelines.prepare"
    parser.usage = f"{parser.prog} --input PATH --format csv|parquet|jsonl --output DIR [--master URL] [options]"
    parser.add_argument("--input", required=True, metavar="PATH", help="file, folder or glob, as Spark reads it")
    parser.add_argument("--format", required=True, choices=FORMATS, help="format of the input")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the data set, under a path that all workers see")
    parser.add_argument("--overwrite", action="store_true", help="replace the data set in --output")
    columns = tuple(f"{role}_column" for role in ("user", "item", "time"))
    cli.add_config_flags(parser, (DataConfig,), (*columns, "k_core", "repeated_rows"), {"repeated_rows": "drop"})
    data = parser.add_argument_group("data set")
    data.add_argument("--split", choices=(LEAVE_ONE_OUT, BY_TIME), default=LEAVE_ONE_OUT, help=f"(default: {LEAVE_ONE_OUT})")
    data.add_argument("--validation-from", metavar="TIME", help="with --split time: what comes before it is trained on")
    data.add_argument("--test-from", metavar="TIME", help="with --split time: a user's first event from then on is the test target")
    data.add_argument("--max-events", type=_at_least_3, metavar="N", help="keep a user's latest N events (default: all)")
    data.add_argument("--shards", type=_positive, default=16, metavar="N", help="number of shards; each worker needs one (default: 16)")
    data.add_argument("--catalog", metavar="DIR", help="an earlier output, whose items keep their indices; new items come after them")
    spark = parser.add_argument_group("Spark")
    spark.add_argument(
        "--master", default="local[*]", metavar="URL", help="spark://host:port, local[N], local-cluster[...] (default: local[*])"
    )
    spark.add_argument("--memory", default="1g", metavar="SIZE", help="heap of the driver, and of each executor (default: 1g)")
    spark.add_argument("--partitions", type=_positive, default=64, metavar="N", help="parts of a shuffle (default: 64)")
    spark.add_argument("--scratch", metavar="DIR", help="folder for what Spark spills (default: the system's)")
    return parser


def main(argv: list[str]) -> int:
    arguments = make_parser().parse_args(argv)
    flags = cli.config_flags(arguments)
    given = DataConfig(**{"repeated_rows": "drop", **{name: flags[name] for name in flags if name != "format"}})
    options = PrepareOptions(
        input=arguments.input,
        format=arguments.format,
        output=arguments.output,
        columns=(given.user_column, given.item_column, given.time_column),
        k_core=given.k_core,
        repeated_rows=given.repeated_rows,
        **{name: getattr(arguments, name) for name in _OWN},
    )
    console = cli.console()
    from pipelines.prepare.session import spark_session

    with spark_session(arguments.master, arguments.memory, arguments.scratch, arguments.partitions) as spark:
        from pipelines.prepare.job import prepare

        manifest = prepare(spark, options, console)
    size = f"{manifest['users']:,} users, {manifest['items']:,} items, {manifest['events']:,} events"
    console.print(f"{size} in {len(manifest['shards'])} shards of {options.output}", soft_wrap=True)
    console.print(f"train on it: {cli.command('train')} --dataset {shlex.quote(options.output)}", soft_wrap=True)
    return 0


_OWN = ("split", "validation_from", "test_from", "max_events", "shards", "catalog", "overwrite")


def _positive(text: str) -> int:
    return _whole(text, 1)


def _at_least_3(text: str) -> int:
    return _whole(text, 3)


def _whole(text: str, low: int) -> int:
    if not text.isdecimal() or int(text) < low:
        raise argparse.ArgumentTypeError(f"should be a whole number of at least {low}. Received: {text}")
    return int(text)


if __name__ == "__main__":
    cli.run(main)
