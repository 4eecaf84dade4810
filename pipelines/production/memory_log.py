"""Raw logs to one file of clean events, on one machine: the rows that are no events are counted and written out, by Spark's rules."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from elcrec_tf.errors import UserError
from elcrec_tf.files import atomic_path
from pipelines.prepare.rows import FAMILIES, FRACTION, NAIVE_US, ZONED_US, CleanJson, clean

_ROLES = ("user", "item", "time")
_BATCH = 100_000
_BLOCK_BYTES = 8 << 20
_UNREADABLE = (OSError, EOFError, zlib.error)  # the last two of gzip files that are cut off or damaged
# A value: in quotes that close, or without one at its beginning. Nothing is matched in two ways, so no line takes long.
_VALUE = r'(?:"[^"]*+(?:""[^"]*+)*+"|(?!"))[^,]*+'
_CLOSED = re.compile(f"{_VALUE}(?:,{_VALUE})*+")


def clean_log(files: Sequence[Path], form: str, columns: tuple[str, str, str], output: Path, rejects: Path) -> dict[str, Any]:
    """Write the events of some files to one Parquet file with the columns user, item, timestamp, and the other rows to `rejects`.

    Args:
        files: in the order in which their rows are to stand.
        form: csv, parquet or jsonl.
        columns: names of the user, item and time columns.
        output: the Parquet file.
        rejects: JSON lines with `reason`, `row` and `file`, gzip; not written where there are none.

    Returns:
        `rows`, `rejected` (reason -> rows), `newest` (time of the newest event), `unit` (what a time counts).

    Raises:
        UserError: for a file that cannot be read, a missing column, and a log without any event.
    """
    read = {"csv": _csv, "parquet": _parquet, "jsonl": _jsonl}[form]
    batches = [batch for file in files for batch in read(file, columns)]
    rows = pa.Table.from_batches(batches) if batches else None
    family = _family(rows) if rows is not None else None
    if rows is None or family is None:
        raise UserError(f"{files[0]}: no row of the log is an event, with user, item and time")
    of_family = pc.is_in(rows["kind"], pa.array(FAMILIES[family], pa.int8()))
    events, others = rows.filter(of_family), rows.filter(pc.invert(of_family))
    times, unit = _times(events, family)
    with atomic_path(output) as temporary:
        pq.write_table(pa.table({"user": events["user"], "item": events["item"], "timestamp": times}), temporary)
    rejected = _write_rejects(others, f"bad or missing time: others are {family}", rejects)
    return {"rows": rows.num_rows, "rejected": rejected, "newest": pc.max(times).as_py(), "unit": unit}


def _family(rows: pa.Table) -> str | None:
    """The kind of times that most rows have; None where no row has a time."""
    counts = Counter(rows["kind"].drop_null().to_pylist())
    return max(FAMILIES, key=lambda name: sum(counts[kind] for kind in FAMILIES[name])) if counts else None


def _times(events: pa.Table, family: str) -> tuple[pa.ChunkedArray, str]:
    """Times that can be compared, and what they count."""
    kinds = set(events["kind"].unique().to_pylist())
    whole = events["whole"]
    if FRACTION in FAMILIES[family]:
        times = pc.coalesce(events["fraction"], whole.cast(pa.float64(), safe=False)) if FRACTION in kinds else whole
        return times, "the log's own numbers"
    if kinds & {NAIVE_US, ZONED_US}:
        is_micro = pc.is_in(events["kind"], pa.array([NAIVE_US, ZONED_US], pa.int8()))
        return pc.if_else(is_micro, whole, pc.divide(whole, 1000)), "microseconds since 1970"
    return whole, "nanoseconds since 1970"


def _write_rejects(others: pa.Table, default: str, path: Path) -> dict[str, int]:
    rows = others.select(["reason", "row", "user", "item", "whole", "fraction", "file"]).to_pylist()
    counts: Counter[str] = Counter()
    if not rows:
        return {}
    with atomic_path(path) as temporary, gzip.open(temporary, "wt", encoding="utf-8") as file:
        for row in rows:
            reason = row["reason"] or default
            counts[reason] += 1
            time = row["fraction"] if row["whole"] is None else row["whole"]
            text = row["row"] or json.dumps({"user": row["user"], "item": row["item"], "time": str(time)}, ensure_ascii=False)
            file.write(json.dumps({"reason": reason, "row": text, "file": row["file"]}, ensure_ascii=False) + "\n")
    return dict(sorted(counts.items()))


def _csv(path: Path, columns: tuple[str, str, str]) -> Iterator[pa.RecordBatch]:
    """A record is a line, as it is for Spark: a quote that is left open costs its line, not all rows up to the next quote."""
    bad: list[str] = []

    def skip(row: Any) -> str:
        bad.append(_restored(row.text or "", encoding))
        return "skip"

    try:
        with _opened(path) as file:
            if not file.read(1):
                return
        _check_columns(path, _header(path), columns)
        # Arrow shows a malformed row as text, and fails where that is no UTF-8. As Latin-1 every byte is a letter (see `_restored`).
        encoding = "utf-8" if _is_utf8(path) else "latin-1"
        names = [name.encode().decode(encoding) for name in columns]
        bad += (_restored(line, "latin-1") for line in _open_lines(path))
        with _closed_lines(path) if bad else _without_mark(path) as content:
            table = pyarrow.csv.read_csv(
                content,
                read_options=pyarrow.csv.ReadOptions(block_size=_BLOCK_BYTES, encoding=encoding),
                parse_options=pyarrow.csv.ParseOptions(invalid_row_handler=skip),
                # Bytes first: a value that is not UTF-8 costs its row, not the file.
                convert_options=pyarrow.csv.ConvertOptions(include_columns=list(names), column_types=dict.fromkeys(names, pa.binary())),
            )
    except (pa.ArrowException, *_UNREADABLE) as error:
        raise UserError(f"{path}: is not a readable CSV file ({_first_line(error)})") from None
    for batch in table.to_batches(_BATCH):
        yield _cleaned(path, [_text(column, encoding) for column in batch.columns], None)
    if bad:
        yield _cleaned(path, [pa.nulls(len(bad), pa.string())] * 3, bad)


def _opened(path: Path) -> BinaryIO:
    """A file, unpacked where it is gzip's."""
    with path.open("rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    return cast(BinaryIO, gzip.open(path) if is_gzip else path.open("rb"))


def _header(path: Path) -> list[str]:
    """The first record that is not blank."""
    with io.TextIOWrapper(_opened(path), encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        try:
            return next((record for record in csv.reader(file) if record), [])
        except csv.Error:  # no CSV at all
            return []


def _open_lines(path: Path) -> list[str]:
    """The lines that leave a quote open, without their ends. Raises `UserError` where one of them is the header."""
    if not _has_quotes(path):
        return []
    found = [(number, line.rstrip("\r\n")) for number, line in enumerate(_lines(path)) if not _is_closed(line)]
    if found and found[0][0] == 0:
        raise UserError(f"{path}, line 1: a quote is left open in the names of the columns; close it")
    return [line for _, line in found]


def _has_quotes(path: Path) -> bool:
    with _opened(path) as file:
        return any(b'"' in block for block in iter(lambda: file.read(_BLOCK_BYTES), b""))


def _closed_lines(path: Path) -> io.BytesIO:
    """The file without the lines that leave a quote open."""
    kept = io.BytesIO()
    kept.writelines(line.encode("latin-1") for line in _lines(path) if _is_closed(line))
    kept.seek(0)
    return kept


def _is_closed(line: str) -> bool:
    return '"' not in line or _CLOSED.fullmatch(line) is not None


def _lines(path: Path) -> Iterator[str]:
    """The lines of a file with their ends. As Latin-1 every byte is a letter; quotes, commas and line ends are what they are in UTF-8."""
    with io.TextIOWrapper(_without_mark(path), encoding="latin-1", newline="") as file:
        yield from file


def _text(column: pa.Array, encoding: str) -> pa.Array:
    """Bytes as text; what was not UTF-8 in the file gets U+FFFD, which no id may have."""
    if encoding == "utf-8":
        return column.cast(pa.string())
    return pa.array([value and _restored(value.decode(), encoding) for value in column.to_pylist()], pa.string())


def _restored(text: str, encoding: str) -> str:
    return text if encoding == "utf-8" else text.encode(encoding).decode(errors="replace")


def _without_mark(path: Path) -> BinaryIO:
    """A file behind its byte order mark, which Arrow would take for a part of the first column's name."""
    file = _opened(path)
    if file.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
        file.seek(0)
    return file


def _is_utf8(path: Path) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with _opened(path) as file:
            while block := file.read(_BLOCK_BYTES):
                decoder.decode(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _parquet(path: Path, columns: tuple[str, str, str]) -> Iterator[pa.RecordBatch]:
    try:
        with pq.ParquetFile(path) as file:
            _check_columns(path, file.schema_arrow.names, columns)
            for batch in file.iter_batches(_BATCH, columns=list(columns)):
                yield _cleaned(path, [batch[name] for name in columns], None)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: is not a readable Parquet file ({_first_line(error)})") from None


def _jsonl(path: Path, columns: tuple[str, str, str]) -> Iterator[pa.RecordBatch]:
    try:
        with _without_mark(path) as file:
            lines = [line for line in file.read().splitlines() if line.strip()]
    except _UNREADABLE as error:
        raise UserError(f"{path}: cannot be read ({_first_line(error)})") from None
    for start in range(0, len(lines), _BATCH):
        part = lines[start : start + _BATCH]
        batch = pa.RecordBatch.from_pydict({"line": pa.array(part, pa.binary()), "file": [path.name] * len(part)})
        yield from CleanJson(columns)(iter([batch]))


def _cleaned(path: Path, values: Sequence[pa.Array], malformed: list[str] | None) -> pa.RecordBatch:
    rows = len(values[0])
    texts = pa.array(malformed, pa.string()) if malformed else pa.nulls(rows, pa.string())
    return clean(pa.RecordBatch.from_arrays([*values, texts, pa.array([path.name] * rows)], names=[*_ROLES, "malformed", "file"]))


def _check_columns(path: Path, present: Sequence[str], columns: Sequence[str]) -> None:
    for name, flag in zip(columns, ("--user-column", "--item-column", "--time-column"), strict=True):
        if name not in present:
            names = ", ".join(map(repr, present[:30]))
            raise UserError(f"{path}: has no column {name!r}; its columns are {names}. Name the right one with {flag}")
        if present.count(name) > 1:
            raise UserError(f"{path}: has {present.count(name)} columns named {name!r}; rename all but one, or name another with {flag}")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
