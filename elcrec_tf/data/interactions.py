"""Reads logs, one interaction a row, in CSV, Parquet or JSON Lines; and files of item titles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from elcrec_tf.config import DataConfig
from elcrec_tf.data.columns import at_least, one_of, required_text, text_column, time_column, value_text
from elcrec_tf.data.events import Events, to_sequences
from elcrec_tf.data.sequences import Sequences
from elcrec_tf.data.tables import Table, file_format, read_table
from elcrec_tf.errors import UserError


def read_log(path: Path, format: str, config: DataConfig, name: str) -> Sequences:  # noqa: A002 - as the flag is called
    """Read a log file into chronological sequences: `read_log_events`, then the k-core.

    Args:
        path: a file, or a folder of Parquet files.
        format: csv, parquet or jsonl.
        config: column names, filter and k-core.
        name: the name of the result.

    Raises:
        UserError: naming file, line or column and the remedy, for any fault of the file.
    """
    return to_sequences(read_log_events(path, format, config), name, config.k_core)


def read_log_events(path: Path, format: str, config: DataConfig) -> Events:  # noqa: A002 - as the flag is called
    """Read all events of a log file that pass the filter; see `read_log`, and `log_events` for their order."""
    flags = {config.user_column: "--user-column", config.item_column: "--item-column", config.time_column: "--time-column"}
    if len(flags) < 3:
        raise UserError(f"--user-column, --item-column and --time-column should name three columns. Received: {', '.join(flags)}")
    column = config.filter_column
    free_text = () if column is None or column in flags else (column,)
    return log_events(read_table(path, format, {**flags, **dict.fromkeys(free_text, "--filter-column")}, free_text), config)


def log_sequences(table: Table, config: DataConfig, name: str) -> Sequences:
    """Chronological sequences from a table with one interaction a row: `log_events`, then the k-core.

    Raises:
        UserError: as `log_events`, and when nothing is left.
    """
    return to_sequences(log_events(table, config), name, config.k_core)


def log_events(table: Table, config: DataConfig) -> Events:
    """Events from a table with one interaction a row.

    Rows are filtered first, so that rows filtered out may lack a user, item or time. Ids become text; rows of a user are sorted by time,
    ties as `config.ties` says. A repeated interaction counts as often as it occurs, unless `config.repeated_rows` says otherwise. Items and
    users are numbered in the order in which the filtered rows name them.

    Raises:
        UserError: for filter options that do not fit, a missing user, item or time, and times that cannot be read.
    """
    table, dropped = _filtered(table, config)
    users, user_ids = _encode(required_text(table, config.user_column))
    items, item_ids = _encode(required_text(table, config.item_column))
    times = time_column(table, config.time_column)
    by_time = (_by_id(item_ids)[items], times, users) if config.ties == "item" else (times, users)
    order = np.lexsort(by_time)  # stable
    if config.repeated_rows == "drop":
        repeated = _repeated(users, items, times)
        order = order[~repeated[order]]
        dropped = {**dropped, "repeated": int(repeated.sum())} if repeated.any() else dropped
    return Events(table.source, users[order], items[order], user_ids, item_ids, times[order], dropped)


def read_titles(path: Path) -> dict[str, str]:
    """Read a file of item metadata: the columns id and title of a CSV, Parquet or JSON Lines file.

    Items without a title are left out; of two titles for one id the later one counts.

    Raises:
        UserError: for any fault of the file, a missing id among them.
    """
    format = file_format(path)  # noqa: A001 - as the flag is called
    if format == "sequences":
        raise UserError(f"{path}: item metadata should be CSV, Parquet or JSON Lines with the columns id and title")
    table = read_table(path, format, {"id": "the header 'id'", "title": "the header 'title'"}, free_text=("title",))
    pairs = zip(required_text(table, "id").to_pylist(), text_column(table, "title").to_pylist(), strict=True)
    return {raw: title for raw, title in pairs if title is not None}


def _filtered(table: Table, config: DataConfig) -> tuple[Table, dict[str, int]]:
    """The rows that pass the filter, and the count of those that do not."""
    column = config.filter_column
    if column is None:
        if config.min_value is not None or config.keep_values is not None:
            raise UserError("--min-value and --keep-values need --filter-column, the column whose value they look at")
        return table, {}
    if config.min_value is None and config.keep_values is None:
        raise UserError(f"--filter-column {column} needs --min-value (numbers) or --keep-values (any values)")
    keep = np.ones(table.columns.num_rows, bool)
    if config.min_value is not None:
        keep &= at_least(table, column, config.min_value)
    if config.keep_values is not None:
        keep &= one_of(table, column, config.keep_values)
    out = int(np.sum(~keep))
    if out == len(keep):
        values = ", ".join(repr(value) for value in value_text(table, column).unique().slice(0, 5).to_pylist())
        raise UserError(
            f"{table.source}: column {column!r} lets none of {out} rows pass --min-value and --keep-values; it holds {values} and so on"
        )
    return table.filter(keep), {f"filtered out by {column}": out} if out else {}


def _by_id(ids: np.ndarray) -> np.ndarray:
    """Place of each id in the order of their bytes, which is that of Python's strings."""
    place = np.empty(len(ids), np.int64)
    place[np.argsort(ids)] = np.arange(len(ids))
    return place


def _repeated(users: np.ndarray, items: np.ndarray, times: np.ndarray) -> np.ndarray:
    """`[rows]` bool: which rows have the user, item and time of one before them."""
    order = np.lexsort((items, times, users))  # stable
    same = np.all([column[order][1:] == column[order][:-1] for column in (users, items, times)], axis=0)
    repeated = np.zeros(len(users), bool)
    repeated[order[1:][same]] = True
    return repeated


def _encode(ids: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Codes from 0 in the order of first appearance, `[rows]` int32, and the distinct ids."""
    encoded = ids.dictionary_encode().unify_dictionaries().combine_chunks()
    return encoded.indices.to_numpy(), encoded.dictionary.to_numpy(zero_copy_only=False)
