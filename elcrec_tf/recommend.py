"""Asks an exported model, in this process or on a server: for one history, or for every user of a file.

`python -m elcrec_tf.recommend SAVED_MODEL_DIR ...` or `python -m elcrec_tf.recommend --server HOST:PORT --model NAME ...`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from elcrec_tf.cli import add_config_flags, config_flags, console, import_tensorflow, make_parser, run
from elcrec_tf.config import DataConfig
from elcrec_tf.serving.answers import AnyRecommender
from elcrec_tf.serving.batch import (
    READ_AS_TRAINED,
    USERS_AT_A_TIME,
    check_output,
    coverage,
    input_config,
    output_schema,
    read_events,
    recommend_events,
    write_tables,
)
from elcrec_tf.serving.layout import read_metadata, version_folder

_DEFAULT_K = 10
_DEFAULT_TIMEOUT = 5.0


def main(argv: list[str]) -> int:
    parser = _parser()
    arguments = parser.parse_args(argv)
    _check_flags(parser, arguments)
    # A wrong path or a bad file should not have to wait for TensorFlow.
    metadata = read_metadata(version_folder(arguments.saved_model)) if arguments.server is None else {}
    events = None
    if arguments.input is not None:
        check_output(arguments.output, arguments.input)
        events = read_events(arguments.input, input_config(metadata, config_flags(arguments)))

    recommender = _in_process(arguments) if arguments.server is None else _on_server(arguments)
    k = min(_DEFAULT_K, recommender.top_k) if arguments.k is None else arguments.k
    recommender.check_k(k)
    if events is None:
        _answer_history(recommender, arguments, k)
        return 0
    known = coverage(recommender, events)
    batches = recommend_events(recommender, events, k, arguments.include_history)
    tables = _with_progress(batches, math.ceil(known.users / USERS_AT_A_TIME))
    rows = write_tables(arguments.output, tables, output_schema(recommender))
    print(f"{arguments.output}: {rows} recommendations for {known.users} users")
    for reason, dropped in events.dropped.items():
        _note(f"{dropped} rows of the input: {reason}")
    if known.unknown_events:
        _note(f"{known.unknown_events} of {known.events} events are of items that the model does not know; they were ignored")
    if known.fallback_users:
        _note(f"{known.fallback_users} of {known.users} users have no item that the model knows; the most popular items answer them")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("recommend", "Recommend items with an exported model.")
    parser.add_argument(
        "saved_model",
        metavar="SAVED_MODEL_DIR",
        nargs="?",
        type=Path,
        help="an exported model's folder (its newest version answers), or one version's; or ask a server with --server",
    )
    question = parser.add_mutually_exclusive_group(required=True)
    question.add_argument(
        "--history",
        metavar="ID",
        nargs="+",
        action="extend",
        help="item ids of one history, oldest first; may be repeated, and --history=ID takes an id that begins with -",
    )
    question.add_argument(
        "--input", metavar="FILE", type=Path, help="file with many histories: a CSV, Parquet or JSONL log, or 'user item item ...' text"
    )
    parser.add_argument("--output", metavar="FILE", type=Path, help="where to write the answers to --input: .csv, .parquet or .jsonl")
    parser.add_argument("--k", metavar="N", type=int, help=f"recommendations a history (default: {_DEFAULT_K})")
    parser.add_argument("--include-history", action="store_true", help="recommend items of the history, too")
    parser.add_argument("--json", action="store_true", help="print the answer to --history as JSON")
    server = parser.add_argument_group("a model on a server, in place of SAVED_MODEL_DIR")
    server.add_argument(
        "--server", metavar="HOST:PORT", help="gRPC port of TensorFlow Serving or elcrec_tf.serve; it knows no titles and no columns"
    )
    server.add_argument("--model", metavar="NAME", help="the server's name for the model")
    server.add_argument(
        "--timeout", metavar="SECONDS", type=float, help=f"for each request of at most 256 histories (default: {_DEFAULT_TIMEOUT:g})"
    )
    server.add_argument("--tls-root", metavar="FILE", type=Path, help="encrypt; the certificates (PEM) that may have signed the server's")
    server.add_argument("--token-file", metavar="FILE", type=Path, help="the server's bearer token")
    as_trained = dict.fromkeys(READ_AS_TRAINED, "as in training")
    as_trained["filter_column"] += "; '' turns the filter off"
    add_config_flags(parser, [DataConfig], only=("format", *READ_AS_TRAINED), defaults=as_trained)
    return parser


def _check_flags(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Flags that do not go together end the program like any other wrong flag."""
    _check_server_flags(parser, arguments)
    if arguments.k is not None and arguments.k < 1:
        parser.error(f"--k should be at least 1. Received: {arguments.k}")
    if (arguments.input is None) != (arguments.output is None):
        parser.error("--input and --output go together")
    if arguments.input is not None and arguments.json:
        parser.error("--json goes with --history; --output FILE.jsonl gives the answers to --input as JSON Lines")
    if arguments.input is None and config_flags(arguments):
        parser.error("--format, the names of columns and the filter go with --input")


def _check_server_flags(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    if (arguments.saved_model is None) == (arguments.server is None):
        parser.error("give either SAVED_MODEL_DIR or --server HOST:PORT")
    if arguments.server is not None and not arguments.model:
        parser.error("--server needs --model NAME: a server does not tell what models it has")
    only_with_server = (arguments.model, arguments.timeout, arguments.tls_root, arguments.token_file)
    if arguments.server is None and any(value is not None for value in only_with_server):
        parser.error("--model, --timeout, --tls-root and --token-file go with --server")
    if arguments.timeout is not None and not 0 < arguments.timeout < math.inf:
        parser.error(f"--timeout should be above 0. Received: {arguments.timeout}")


def _in_process(arguments: argparse.Namespace) -> AnyRecommender:
    import_tensorflow()
    from elcrec_tf.serving.recommender import Recommender

    return Recommender.load(arguments.saved_model)


def _on_server(arguments: argparse.Namespace) -> AnyRecommender:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what it has to say is in our errors, too
    from elcrec_tf.serving.remote import RemoteRecommender

    timeout = _DEFAULT_TIMEOUT if arguments.timeout is None else arguments.timeout
    return RemoteRecommender.connect(arguments.server, arguments.model, timeout, arguments.tls_root, arguments.token_file)


def _answer_history(recommender: AnyRecommender, arguments: argparse.Namespace, k: int) -> None:
    history = arguments.history
    answers = recommender.answer([history], k, arguments.include_history)
    fallback, intent = bool(answers.fallback[0]), int(answers.intent[0])
    unknown = [raw for raw, known in zip(history, recommender.known(history), strict=True) if not known]
    rows = [
        {"rank": rank, "item": raw, "title": recommender.titles.get(raw), "score": float(str(score))}
        for rank, (raw, score) in enumerate(zip(answers.item_ids[0], answers.scores[0], strict=True), 1)
        if raw
    ]
    if arguments.json:
        answer = {"history": history, "unknown": unknown, "fallback": fallback, "intent": intent, "recommendations": rows}
        print(json.dumps(answer, indent=2))
        return
    print(_table(rows) if rows else "nothing is left to recommend: the history has every item")
    if unknown:
        _note(f"the model does not know {', '.join(map(_shown, unknown))}; ignored")
    if fallback:
        _note("no item of the history is known, so these are the most popular items (score: events in the training data)")


def _table(rows: list[dict[str, object]]) -> str:
    """Rows as aligned text; the title's column only where there is a title."""
    from rich.cells import cell_len

    columns = ["rank", "item", *(["title"] if any(row["title"] for row in rows) else []), "score"]
    score_format = "{:.4f}".format
    lines = [columns, *([score_format(row[name]) if name == "score" else _shown(row[name]) for name in columns] for row in rows)]
    widths = [max(cell_len(line[column]) for line in lines) for column in range(len(columns))]
    right = ("rank", "score")

    def padded(text: str, width: int, name: str) -> str:
        space = " " * (width - cell_len(text))
        return space + text if name in right else text + space

    return "\n".join("  ".join(map(padded, line, widths, columns)) for line in lines)


def _shown(value: object) -> str:
    """An id or title that keeps to its line: odd characters escaped, and quoted where a reader could not tell."""
    text = "" if value is None else str(value)
    return text if text.isprintable() and text == text.strip() else json.dumps(text)


def _with_progress(batches: Iterable[Any], total: int) -> Iterable[Any]:
    """The batches, with a bar on a terminal."""
    from rich.progress import track

    terminal = console(stderr=True)
    return track(batches, "recommending", total, console=terminal, transient=True, disable=not terminal.is_terminal)


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


if __name__ == "__main__":
    run(main)
