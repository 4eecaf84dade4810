"""Recommendations for every user of a file, read as a log is read for training, written piece by piece.

Imports no TensorFlow: the caller brings the `Recommender`, or a server's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from elcrec_tf.config import DataConfig
from elcrec_tf.data.events import Events
from elcrec_tf.data.inherited import with_flags
from elcrec_tf.data.interactions import read_log_events
from elcrec_tf.data.mind import read_mind_events
from elcrec_tf.data.sequence_file import read_sequence_events
from elcrec_tf.data.shards import is_prepared
from elcrec_tf.data.tables import FORMATS, file_format
from elcrec_tf.errors import UserError
from elcrec_tf.files import atomic_path
from elcrec_tf.serving.answers import AnyRecommender

READ_AS_TRAINED = ("user_column", "item_column", "time_column", "filter_column", "min_value", "keep_values", "ties", "repeated_rows")
"""The fields of `DataConfig` that an input takes over from the training data."""

USERS_AT_A_TIME = 2048
_OUTPUTS = {ending: kind for ending, kind in FORMATS.items() if kind != "sequences"}


@dataclass(frozen=True)
class Coverage:
    """How much of an input the exported model knows.

    Attributes:
        users, events: of the input.
        unknown_events: events whose item is not in the catalogue; they are ignored.
        fallback_users: users without a known item; the most popular items answer them.
    """

    users: int
    events: int
    unknown_events: int
    fallback_users: int


def check_output(output: Path, source: Path) -> None:
    """Raise `UserError` when the output's ending names no format, or when writing it would replace a folder or the input."""
    if output.suffix.lower() not in _OUTPUTS:
        raise UserError(f"{output}: unknown format; --output should end in {', '.join(_OUTPUTS)}")
    if output.is_dir():
        raise UserError(f"{output}: is a folder; give --output the name of a file")
    if output.exists() and source.exists() and output.samefile(source):
        raise UserError(f"{output}: is the input itself; give --output another name")


def input_config(metadata: Mapping[str, Any], flags: Mapping[str, Any]) -> DataConfig:
    """How to read an input: as the training data was read, where the flags say nothing else.

    Data in shards was read when it was prepared, which its run does not know: then columns, order and repeated rows are the defaults.

    Args:
        metadata: of the exported model; without a config the defaults hold.
        flags: fields of `DataConfig`; see `with_flags`.
    """
    trained = (metadata.get("config") or {}).get("data") or {}
    fields = {name: trained[name] for name in READ_AS_TRAINED if name in trained}
    return with_flags(DataConfig(**fields), flags)


def output_schema(recommender: AnyRecommender) -> pa.Schema:
    """Columns of the output: a row a recommendation, rank 1 is the best, users in the order of the input.

    `title` is there only where the catalogue has titles, null for an item without one.
    """
    title = [("title", pa.string())] if recommender.titles else []
    return pa.schema([("user", pa.string()), ("rank", pa.int32()), ("item", pa.string()), *title, ("score", pa.float32())])


def read_events(source: Path, config: DataConfig) -> Events:
    """All events of a log or a sequence file, chronological within a user: no k-core, no user left out.

    Args:
        source: an existing file, or a folder of Parquet files.
        config: its format, the names of its columns and the filter of its rows. A sequence file has no columns: only the format counts.

    Raises:
        UserError: naming file, line or column, for any fault of the file, and for a data set in shards.
    """
    if is_prepared(source):  # its catalogue alone would look like a log in Parquet
        raise UserError(f"{source}: is a data set in shards; give --input the log that it was prepared from, or another file of histories")
    format = file_format(source, config.format)  # noqa: A001 - as the flag is called
    readers = {"sequences": read_sequence_events, "mind": read_mind_events}
    return readers[format](source) if format in readers else read_log_events(source, format, config)


def coverage(recommender: AnyRecommender, events: Events) -> Coverage:
    """Count what the model does not know."""
    known = recommender.known(events.item_ids)[events.items]
    return Coverage(
        users=len(events.user_ids),
        events=len(events.users),
        unknown_events=int(np.sum(~known)),
        fallback_users=len(events.user_ids) - len(np.unique(events.users[known])),
    )


def recommend_events(
    recommender: AnyRecommender, events: Events, k: int, include_history: bool = False, users_at_a_time: int = USERS_AT_A_TIME
) -> Iterator[pa.Table]:
    """Yield tables of `output_schema` for `users_at_a_time` users each, `ceil(users / users_at_a_time)` of them."""
    schema, titles = output_schema(recommender), recommender.titles
    ends = np.cumsum(np.bincount(events.users, minlength=len(events.user_ids)))
    starts = np.concatenate([[0], ends[:-1]])
    for first in range(0, len(ends), users_at_a_time):
        users = slice(first, first + users_at_a_time)
        histories = [events.item_ids[events.items[a:b]].tolist() for a, b in zip(starts[users], ends[users], strict=True)]
        answers = recommender.answer(histories, k, include_history)
        row, column = np.nonzero(answers.item_ids != "")  # a user who has everything gets no row
        items = answers.item_ids[row, column]
        columns = {
            "user": events.user_ids[users][row],
            "rank": (column + 1).astype(np.int32),
            "item": items,
            "title": [titles.get(raw) for raw in items],
            "score": answers.scores[row, column],
        }
        yield pa.table([pa.array(columns[field.name], field.type) for field in schema], schema=schema)


def write_tables(output: Path, tables: Iterable[pa.Table], schema: pa.Schema) -> int:
    """Write tables of `schema` as they come, as CSV, Parquet or JSON Lines by the file's ending; the file appears when it is whole.

    Returns:
        The number of rows.

    Raises:
        UserError: when the file cannot be written.
    """
    rows = 0
    try:
        with atomic_path(output) as temporary, _writer(temporary, _OUTPUTS[output.suffix.lower()], schema) as write:
            for table in tables:
                write(table)
                rows += table.num_rows
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror or error}); give --output another name") from None
    return rows


@contextmanager
def _writer(path: Path, format: str, schema: pa.Schema) -> Iterator[Callable[[pa.Table], object]]:  # noqa: A002 - as the flag is called
    if format == "csv":
        with pyarrow.csv.CSVWriter(path, schema) as csv_writer:
            yield csv_writer.write_table
    elif format == "parquet":
        with pq.ParquetWriter(path, schema) as parquet_writer:
            yield parquet_writer.write_table
    else:
        with path.open("w", encoding="utf-8", newline="\n") as file:
            yield lambda table: file.writelines(_json_lines(table))


def _json_lines(table: pa.Table) -> Iterator[str]:
    # As text a float32 has the digits that it needs; as a Python float it has twice as many.
    scores = table["score"].cast(pa.string()).to_pylist()
    for row, score in zip(table.drop_columns("score").to_pylist(), scores, strict=True):
        yield json.dumps({**row, "score": float(score)}, ensure_ascii=False) + "\n"
