"""Cleans a raw log row by row, with Arrow: ids as text, times as numbers, and what is wrong with the others.

The rules are those of `elcrec_tf.data.columns`, which reads a whole column and stops at the first fault. Here a fault costs its row, and
times that files hold in other units are made comparable.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from elcrec_tf.data.tables import JSON_DECODER

WHOLE, FRACTION, NAIVE_NS, ZONED_NS, NAIVE_US, ZONED_US = range(6)
FAMILIES = {"numbers": (WHOLE, FRACTION), "dates without a time zone": (NAIVE_NS, NAIVE_US), "dates with a time zone": (ZONED_NS, ZONED_US)}
"""Kinds of times that can be compared. A log's times are of one family; microseconds are for years that nanoseconds cannot hold, for
dates, and for timestamps that a file holds so."""

SCHEMA = "user string, item string, kind tinyint, whole bigint, fraction double, reason string, row string, file string"
"""What `clean` gives, as Spark writes it. Of a bad row `reason` and `row` are known, of a good one `user` to `fraction`; a time that is no
whole number stands in `fraction`."""

_EXACT_BELOW = {pa.float16(): 2**11, pa.float32(): 2**24, pa.float64(): 2**53}
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$|^0[xX][0-9a-fA-F]+$"
_WHOLE_NUMBER = r"^[+-]?\d+$|^0[xX]"
_ZONED = r"[T ]\d\d.*([Zz]|[+-]\d\d:?(\d\d)?)$"
_MALFORMED = "malformed row"


def clean(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Clean rows with the columns `user`, `item`, `time` of any type that holds ids and times, `malformed` (the text of a row that could
    not be split, else null) and `file`. The result has the columns of `SCHEMA`, a row for each row."""
    user, item = (_ids(batch[name]) for name in ("user", "item"))
    kind, whole, fraction = _times(batch["time"])
    faults = (
        (pc.is_valid(batch["malformed"]), _MALFORMED),
        (pc.is_null(user), "bad or missing user"),
        (pc.is_null(item), "bad or missing item"),
        (pc.is_null(kind), "bad or missing time"),
    )
    reason = pa.nulls(len(batch), pa.string())
    for wrong, text in reversed(faults):
        reason = pc.if_else(wrong, text, reason)
    good = pc.is_null(reason)
    known = [pc.if_else(good, column, pa.scalar(None, column.type)) for column in (user, item, kind, whole, fraction)]
    return pa.RecordBatch.from_arrays(
        [*known, reason, _rows(batch, good), batch["file"]], names=["user", "item", "kind", "whole", "fraction", "reason", "row", "file"]
    )


def clean_batches(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """`clean`, as Spark's `mapInArrow` takes it."""
    return map(clean, batches)


@dataclass(frozen=True)
class CleanNanoseconds:
    """The same for times that Spark gives as whole numbers: timestamps in nanoseconds since 1970, for which it has no type.

    Attributes:
        zone: their time zone, if they have one.
    """

    zone: str | None

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            times = batch["time"].cast(pa.timestamp("ns", self.zone))
            yield clean(batch.set_column(batch.schema.get_field_index("time"), "time", times))


class CleanJson:
    """The same for lines of JSON: batches with the columns `line` (binary) and `file`.

    Args:
        columns: keys of user, item and time.
    """

    def __init__(self, columns: tuple[str, str, str]) -> None:
        self.columns = columns

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield clean(self._columns(batch))

    def _columns(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        rows: list[tuple[str | None, ...]] = []
        for line in batch["line"].to_pylist():
            try:
                row = JSON_DECODER.decode(line.decode())
                if not isinstance(row, dict):
                    raise TypeError("should be an object")
                rows.append((*(_json_value(row[name]) if name in row else None for name in self.columns), None))
            except (ValueError, TypeError, RecursionError):  # no UTF-8, no JSON, no object, or a value that is no string or number
                rows.append((None, None, None, line.decode(errors="replace")))
        names = ("user", "item", "time", "malformed")
        arrays = [pa.array([row[index] for row in rows], pa.string()) for index in range(len(names))]
        return pa.RecordBatch.from_arrays([*arrays, batch["file"]], names=[*names, "file"])


def first_lines(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Of lines (`line` and `file`) the first one of each file, as Spark's `mapInArrow` takes it."""
    seen: set[str] = set()
    for batch in batches:
        for file in batch["file"].unique().to_pylist():
            if file not in seen:
                seen.add(file)
                yield batch.slice(pc.index(batch["file"], file).as_py(), 1)


def _json_value(value: object) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or isinstance(value, str):
        return value and value.encode().decode()  # half a surrogate pair has no UTF-8: a ValueError
    raise TypeError("should be a plain string or number")


def _ids(column: pa.Array) -> pa.Array:
    """Ids as text; null where they are missing, fractions, or not UTF-8 (which Spark's readers replace by U+FFFD)."""
    if pa.types.is_floating(column.type):
        exact = pc.and_(pc.equal(pc.floor(column), column), pc.less(pc.abs(column), _EXACT_BELOW[column.type]))
        column = pc.if_else(exact, column, pa.scalar(None, column.type)).cast(pa.int64())
    text = _cast_or_null(column, pa.string())
    bad = pc.or_(pc.equal(pc.utf8_trim_whitespace(text), ""), pc.match_substring(text, "\ufffd"))
    return pc.if_else(bad, pa.scalar(None, pa.string()), text)


def _times(column: pa.Array) -> tuple[pa.Array, pa.Array, pa.Array]:
    """(kind, whole, fraction) of times; all null where there is none."""
    found: dict[int, pa.Array] = {}
    column = _plain(column)
    if pa.types.is_date(column.type):
        column = _cast_or_null(_cast_or_null(column, pa.date32()), pa.timestamp("us"))
    if pa.types.is_timestamp(column.type):
        zone, is_nano = column.type.tz, column.type.unit == "ns"
        kind = (ZONED_NS if is_nano else ZONED_US) if zone else (NAIVE_NS if is_nano else NAIVE_US)
        found[kind] = (column if is_nano else _cast_or_null(column, pa.timestamp("us", zone))).cast(pa.int64())
    elif pa.types.is_string(column.type) or pa.types.is_binary(column.type):
        text = pc.utf8_trim_whitespace(_cast_or_null(column, pa.string()))
        number, zoned = (pc.fill_null(pc.match_substring_regex(text, pattern), False) for pattern in (_NUMBER, _ZONED))
        found |= _numbers(_where(number, text))
        for first, second, zone, mask in ((NAIVE_NS, NAIVE_US, None, pc.invert(zoned)), (ZONED_NS, ZONED_US, "UTC", zoned)):
            dates = _where(pc.and_not(mask, number), text)
            found[first] = _cast_or_null(dates, pa.timestamp("ns", zone)).cast(pa.int64())
            found[second] = _cast_or_null(_where(pc.is_null(found[first]), dates), pa.timestamp("us", zone)).cast(pa.int64())
    else:
        found |= _numbers(column)
    fraction = found.pop(FRACTION, pa.nulls(len(column), pa.float64()))
    kinds = [pc.if_else(pc.is_valid(values), pa.scalar(kind, pa.int8()), None) for kind, values in found.items()]
    kinds.append(pc.if_else(pc.is_valid(fraction), pa.scalar(FRACTION, pa.int8()), None))
    return pc.coalesce(*kinds), pc.coalesce(*found.values()), fraction


def _plain(column: pa.Array) -> pa.Array:
    """Without what a file may have to store a column in less space."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_float16(column.type):
        column = column.cast(pa.float32())
    return column.cast(pa.string()) if pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type) else column


def _numbers(column: pa.Array) -> dict[int, pa.Array]:
    """Whole numbers of 64 bits, and the finite fractions among the others; text of so many digits that a float loses some is no number."""
    text, candidates = pa.types.is_string(column.type), column
    if text:
        candidates = _where(pc.match_substring_regex(column, _WHOLE_NUMBER), column)
    elif pa.types.is_floating(column.type):
        candidates = _where(pc.equal(pc.floor(column), column), column)
    whole = _cast_or_null(candidates, pa.int64())
    fraction = _cast_or_null(_where(pc.is_null(whole), column), pa.float64())
    kept = pc.less(pc.abs(fraction), 2.0**53) if text else pc.is_finite(fraction)
    return {WHOLE: whole, FRACTION: _where(kept, fraction)}


def _where(mask: pa.Array, values: pa.Array) -> pa.Array:
    return pc.if_else(pc.fill_null(mask, False), values, pa.scalar(None, values.type))


def _cast_or_null(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """A cast in which the values that Arrow refuses become null. They should be few: each is found by bisection."""
    try:
        return column.cast(kind)
    except pa.ArrowInvalid:
        if len(column) == 1:
            return pa.nulls(1, kind)
        middle = len(column) // 2
        return pa.concat_arrays([_cast_or_null(column.slice(0, middle), kind), _cast_or_null(column.slice(middle), kind)])


def _rows(batch: pa.RecordBatch, good: pa.Array) -> pa.Array:
    """Text of the bad rows: as it stood, or the three values as JSON."""
    bad = pc.indices_nonzero(pc.invert(good)).to_pylist()
    texts: list[str | None] = [None] * len(batch)
    for index in bad:
        malformed = batch["malformed"][index].as_py()
        values = {name: _shown(batch[name][index]) for name in ("user", "item", "time")}
        texts[index] = malformed if malformed is not None else json.dumps(values, ensure_ascii=False)
    return pa.array(texts, pa.string())


def _shown(scalar: pa.Scalar) -> object:
    try:
        value = scalar.as_py()
    except (OverflowError, ValueError):  # a date that Python has no place for
        return str(scalar.cast(pa.int32()) if pa.types.is_date32(scalar.type) else scalar.type)
    return value if value is None or isinstance(value, str | int | float) else str(value)
