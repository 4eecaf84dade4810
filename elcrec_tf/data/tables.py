"""Reads chosen columns of CSV, Parquet and JSON Lines files, and says where a bad row stands in its file."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.dataset
import pyarrow.parquet as pq

from elcrec_tf.errors import UserError

FORMATS = {
    ".txt": "sequences",
    ".csv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}
_BLOCK_BYTES = 8 << 20  # a row of a CSV file may not be longer than a block
_OPEN_QUOTE = "a value goes on over the end of the line; is a quote left open?"
_JSON_ROWS = 100_000  # rows held as Python objects at a time
_STRINGS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
_BYTES = (pa.types.is_binary, pa.types.is_large_binary)
_TIME_UNITS = ("s", "ms", "us", "ns")


@dataclass(frozen=True)
class Table:
    """Columns of a file, and what it takes to name a row's place in an error.

    Attributes:
        source: the file's path, or the name of a data set.
        format: csv, parquet or jsonl.
        columns: the columns asked for, by name. CSV and JSON Lines give strings, numbers as they are written; Parquet its own types.
        rows: `[rows]` position in the file of each row (from 0), or None while they are all there.
    """

    source: str
    format: str
    columns: pa.Table
    rows: np.ndarray | None = None

    def filter(self, keep: np.ndarray) -> Table:
        """The rows where the bool array `keep`, `[rows]`, is True. They remember their place in the file."""
        kept = np.flatnonzero(keep)
        return replace(self, columns=self.columns.filter(pa.array(keep)), rows=kept if self.rows is None else self.rows[kept])

    def place(self, row: int) -> str:
        """Where a row stands, `log.csv, line 7`: the line for text formats, the row (from 1) for others."""
        row = int(row if self.rows is None else self.rows[row])
        line = None
        if self.format == "csv":
            line = next(islice((line for line, _ in csv_records(Path(self.source))), row + 1, None), None)
        elif self.format == "jsonl":
            with Path(self.source).open("rb") as file:
                line = next(islice((number for number, text in enumerate(file, 1) if text.strip()), row, None), None)
        return f"{self.source}, row {row + 1}" if line is None else f"{self.source}, line {line}"


def file_format(path: Path, wanted: str = "auto") -> str:
    """The format of an existing file: `wanted`, or by its ending if that is auto. A folder of Parquet files counts as one Parquet file.

    Raises:
        UserError: for a missing or empty file, another kind of folder, or an unknown ending.
    """
    if not path.exists():
        raise UserError(f"{path}: there is no such file; check the path")
    if path.is_dir():
        if wanted in ("auto", "parquet") and parquet_files(path):
            return "parquet"
        raise UserError(f"{path}: is a folder without Parquet files, not a data set; give a file (.txt, .csv, .parquet or .jsonl)")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: is empty; give a file with interactions")
    if wanted != "auto":
        return wanted
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"{path}: unknown format; use one of the endings {', '.join(FORMATS)}, or name the format with --format")
    return FORMATS[path.suffix.lower()]


def parquet_files(folder: Path) -> list[Path]:
    """The Parquet files of a folder, in the order of their names. Hidden ones and markers, `_SUCCESS` say, are none."""
    found = [path for path in folder.glob("*") if FORMATS.get(path.suffix.lower()) == "parquet"]
    return sorted(path for path in found if not path.name.startswith((".", "_")))


def read_table(
    path: Path,
    format: str,  # noqa: A002 - as the flag is called
    flags: Mapping[str, str],
    free_text: Collection[str] = (),
) -> Table:
    """Read some columns of a file.

    Args:
        path: a file, or a folder of Parquet files.
        format: csv, parquet or jsonl.
        flags: name of each column wanted -> what sets that name, for the error when it is missing.
        free_text: those of them whose values may go over several lines; in the others of a CSV file that is a quote left open.

    Raises:
        UserError: with the file and the line or column, for a missing column, broken encoding, a ragged or unparseable line, no rows, and
            Parquet files of one folder whose columns have types that do not go together.
    """
    try:
        if format == "csv":
            columns = _read_csv(path, flags, free_text)
        else:
            columns = {"parquet": _read_parquet, "jsonl": _read_jsonl}[format](path, flags)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    if columns.num_rows == 0:
        raise UserError(f"{path}: is empty: it has columns but no row")
    return Table(str(path), format, columns)


def decode_line(path: Path, number: int, line: bytes) -> str:
    """A line of a text file; `UserError` naming the line where it is not UTF-8."""
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}, line {number}: is not UTF-8 ({error.reason}); save the file as UTF-8") from None


def _check_columns(path: Path, present: Sequence[str], flags: Mapping[str, str], hint: str = "") -> None:
    for name, flag in flags.items():
        if name not in present:
            names = ", ".join(repr(column) for column in present[:30])
            raise UserError(f"{path}: has no column {name!r}; its columns are {names}{hint}. Name the right one with {flag}")
        if present.count(name) > 1:
            raise UserError(f"{path}: has {present.count(name)} columns named {name!r}; rename all but one, or name another with {flag}")


def _read_parquet(path: Path, flags: Mapping[str, str]) -> pa.Table:
    schemas = {file: _parquet_schema(file) for file in (parquet_files(path) if path.is_dir() else [path])}
    for file, schema in schemas.items():
        _check_columns(file, schema.names, flags)
    found = {name: {file: schema.field(name).type for file, schema in schemas.items()} for name in flags}
    kinds = {name: _common_type(list(types.values())) for name, types in found.items()}
    for name, kind in kinds.items():
        if kind is None:
            raise _types_differ(name, found[name])
    # Without a schema all files would be cast to the types of the first.
    data = pyarrow.dataset.dataset([str(file) for file in schemas], pa.schema(kinds), format="parquet")
    try:
        columns = data.to_table()
        columns.validate(full=True)  # text that is not UTF-8 comes through otherwise
        return columns
    except (pa.ArrowException, OSError) as error:  # damaged pages come as OSError
        for name, types in found.items():
            if len(set(types.values())) > 1 and (reason := _cast_error(data, name)):
                raise _types_differ(name, types, reason) from None
        raise UserError(f"{path}: is not a readable Parquet file ({_first_line(error)}); write it again, or set --format") from None


def _parquet_schema(path: Path) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: is not a readable Parquet file ({_first_line(error)}); write it again, or set --format") from None


def _common_type(types: Sequence[pa.DataType]) -> pa.DataType | None:
    """The type that a column can have in all files with its values meaning in each what they meant there; None where there is none.

    A dictionary counts as what it holds, a column of nothing but nulls as any type. Floats of two widths have none: their decimals, and the
    ids that they hold exactly, differ.
    """
    if len(set(types)) == 1:
        return types[0]
    kinds = {kind.value_type if pa.types.is_dictionary(kind) else kind for kind in types if not pa.types.is_null(kind)}
    if len(kinds) == 1:
        return kinds.pop()
    if all(map(pa.types.is_integer, kinds)):
        return pa.int64()
    if all(pa.types.is_integer(kind) or pa.types.is_float64(kind) for kind in kinds):
        return pa.float64()
    if all(any(test(kind) for test in _STRINGS) for kind in kinds):
        return pa.string()
    if all(any(test(kind) for test in (*_STRINGS, *_BYTES)) for kind in kinds):
        return pa.binary()
    if all(map(pa.types.is_timestamp, kinds)) and len({kind.tz is None for kind in kinds}) == 1:
        finest = max((kind.unit for kind in kinds), key=_TIME_UNITS.index)
        return pa.timestamp(finest, None if kinds.pop().tz is None else "UTC")
    return None


def _cast_error(data: pyarrow.dataset.Dataset, name: str) -> str:
    """Why a column's values do not all fit the common type; empty where they do."""
    try:
        data.to_table(columns=[name])
    except pa.ArrowInvalid as error:
        return _first_line(error)
    except OSError:  # a damaged page
        pass
    return ""


def _types_differ(name: str, types: Mapping[Path, pa.DataType], reason: str = "") -> UserError:
    """The error for a column that cannot be read as one; it names the first file, and the first of those that do not go with it.

    Args:
        name: of the column.
        types: its types, not all of them alike.
        reason: why a common type does not do, where there is one.
    """
    (first, kind), *others = ((file, kind) for file, kind in types.items() if not pa.types.is_null(kind))
    other, another = next((file, one) for file, one in others if (one != kind if reason else _common_type([kind, one]) is None))
    return UserError(
        f"{other}: column {name!r} is of type {another}, but in {first} of type {kind}, and the two cannot be read as one"
        f"{reason and f' ({reason})'}; write the files again with one type for all"
    )


def csv_records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The records of a CSV file that are not blank, each with the number of the line it ends on. Bad bytes become lone surrogates."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file)
        try:
            yield from ((reader.line_num, record) for record in reader if record)
        except csv.Error:  # no CSV at all: the caller goes without a line number
            return


def _read_csv(path: Path, flags: Mapping[str, str], free_text: Collection[str]) -> pa.Table:
    line, header = next(csv_records(path), (1, []))
    if any("\udc80" <= letter <= "\udcff" for name in header for letter in name):
        raise UserError(f"{path}, line {line}: is not UTF-8; save the file as UTF-8")
    hint = " (the first line should name the columns, separated by commas)" if len(header) < 2 or header[0].isdigit() else ""
    _check_columns(path, header, flags, hint)
    try:
        columns = pyarrow.csv.read_csv(
            path,
            read_options=pyarrow.csv.ReadOptions(block_size=_BLOCK_BYTES),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            # Strings keep ids as they are written ("007"), and no column's type can change from one block to the next.
            convert_options=pyarrow.csv.ConvertOptions(include_columns=list(flags), column_types=dict.fromkeys(flags, pa.string())),
        )
    except pa.ArrowException as error:
        _explain_csv(path, len(header))
        raise UserError(f"{path}: is not a readable CSV file ({_first_line(error)}); is a quote left open?") from None
    broken = [name for name in flags if any(pc.any(pc.match_substring(columns[name], end)).as_py() for end in "\r\n")]
    # No id and no time has a line break in it: what does has swallowed other rows, up to the next quote.
    strict = [header.index(name) for name in broken if name not in free_text]
    begins = _broken_line(path, strict) if strict else _open_quote(path) if broken else None
    if begins is not None:
        raise UserError(f"{path}, line {begins}: {_OPEN_QUOTE}")
    return columns


def _open_quote(path: Path) -> int | None:
    """The line on which the first record begins with a quote that does not close where a value ends, if any. Arrow takes such records."""
    begins = 1
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            for _ in reader:
                begins = reader.line_num + 1
        except csv.Error:
            return begins
    return None


def _broken_line(path: Path, wanted: Sequence[int]) -> int:
    """The line on which the first record begins that has a line break in one of the wanted columns."""
    begins = 1
    for line, record in csv_records(path):
        if _has_line_break(record[place] for place in wanted):
            break
        begins = line + 1
    return begins  # also where the records end here, because the value is longer than the csv module takes


def _has_line_break(values: Iterable[str]) -> bool:
    return any(end in value for value in values for end in "\r\n")


def _explain_csv(path: Path, width: int) -> None:
    """Raise the error that names the first bad line. Arrow's own message has no line when it reads with several threads."""
    begins = 1
    for line, record in csv_records(path):
        if len(record) != width and _has_line_break(record):
            raise UserError(f"{path}, line {begins}: {_OPEN_QUOTE}")
        begins = line + 1
        if len(record) != width:
            raise UserError(f"{path}, line {line}: has {len(record)} values where the header names {width} columns; mend the line")
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            decode_line(path, number, text)


def _read_jsonl(path: Path, flags: Mapping[str, str]) -> pa.Table:
    tables: list[pa.Table] = []
    present: dict[str, None] = {}  # the keys seen, in order
    with path.open("rb") as file:
        rows = _json_rows(path, file)
        while chunk := list(islice(rows, _JSON_ROWS)):
            present.update(dict.fromkeys(chunk[0][1]))
            columns = {name: _json_column(path, name, chunk) for name in flags}
            present.update(dict.fromkeys(name for name, column in columns.items() if column.null_count < len(chunk)))
            tables.append(pa.table(columns))
    if not tables:
        raise UserError(f"{path}: is empty: it has no row")
    _check_columns(path, list(present), flags)
    return pa.concat_tables(tables)


def _json_rows(path: Path, lines: Iterable[bytes]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of each line that is not blank."""
    for number, line in enumerate(lines, 1):
        text = decode_line(path, number, line)
        if not text.strip():
            continue
        try:
            row = JSON_DECODER.decode(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: is not valid JSON ({error}); put one whole object on each line") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: should be a JSON object; put one object on each line, not a list of them")
        yield number, row


def _json_column(path: Path, name: str, rows: list[tuple[int, dict[str, Any]]]) -> pa.Array:
    values = [row.get(name) for _, row in rows]
    try:
        return pa.array(values, pa.string())
    except (pa.ArrowException, TypeError, UnicodeEncodeError):  # some value is no plain string
        return pa.array([_json_text(path, number, name, value) for (number, _), value in zip(rows, values, strict=True)], pa.string())


def _json_text(path: Path, number: int, name: str, value: Any) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    try:
        if value is not None:
            value.encode()  # lists and objects have no such method, and half a surrogate pair has no UTF-8
    except (AttributeError, UnicodeEncodeError):
        raise UserError(f"{path}, line {number}: column {name!r} should hold a plain string or number. Received: {value!r}") from None
    return value


def _plain_number(text: str) -> str:
    """A JSON number as text, 12 for 12.0: writers turn a whole column into floats as soon as one value is missing."""
    value = float(text)
    return str(int(value)) if abs(value) < 2**53 and value.is_integer() else text


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]


# Arrow's JSON reader turns strings that look like dates into times and big integers into floats. This keeps numbers as written.
JSON_DECODER = json.JSONDecoder(parse_int=str, parse_float=_plain_number, parse_constant=lambda _: None)
