"""Turns a table's columns into what histories need: ids as text, times as numbers, and the filter's verdict on each row."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from elcrec_tf.data.tables import Table
from elcrec_tf.errors import UserError

# From here on a float of that width skips whole numbers, so that two ids, or two times, could become one.
_EXACT_BELOW = {16: 2**11, 32: 2**24, 64: 2**53}
_TIME_TYPES = (
    pa.int64(),  # first, so that nanoseconds keep all their digits
    pa.float64(),
    pa.timestamp("ns"),
    pa.timestamp("ns", "UTC"),
    pa.timestamp("us"),  # for years before 1678 and after 2261
    pa.timestamp("us", "UTC"),
)


def text_column(table: Table, name: str) -> pa.ChunkedArray:
    """A column of ids as strings; null where it is missing (null, NaN or blank).

    Strings stay exactly as they are; whole numbers become their digits, 12 for the float 12.0, and decimals theirs, 1.50 for 1.50.

    Raises:
        UserError: for floats that are no whole numbers or too big to be exact, and for types that are no ids.
    """
    column = _plain(table.columns[name])
    if pa.types.is_floating(column.type):
        column = _whole(table, name, column)
    if not (_is_text(column.type) or _is_number(column.type)):
        raise UserError(f"{table.source}: column {name!r} is of type {column.type}; ids should be strings or whole numbers")
    return _without_blanks(_to_strings(table, name, column))


def required_text(table: Table, name: str) -> pa.ChunkedArray:
    """`text_column`, and a `UserError` that names the first row where it is missing."""
    column = text_column(table, name)
    _check_present(table, name, column)
    return column


def time_column(table: Table, name: str) -> np.ndarray:
    """A column of times as numbers that sort right, `[rows]` int64 where they are whole, else float64.

    Numbers stay as they are. Timestamps count their own unit since 1970, ISO 8601 text counts nanoseconds (microseconds if the years
    do not fit), in UTC where a zone is given.

    Raises:
        UserError: naming the row, for a missing or unparseable time, a mixture of forms, and whole numbers too big for 64 bits.
    """
    column = _plain(table.columns[name])
    if _is_text(column.type):
        column = pc.utf8_trim_whitespace(_without_blanks(_to_strings(table, name, column)))
    elif pa.types.is_floating(column.type):
        column = _nan_to_null(column)
    elif not (_is_number(column.type) or pa.types.is_timestamp(column.type) or pa.types.is_date(column.type)):
        raise UserError(f"{table.source}: column {name!r} is of type {column.type}; times should be numbers, dates or timestamps")
    _check_present(table, name, column)
    if pa.types.is_date32(column.type):
        column = column.cast(pa.int32())
    kinds = _TIME_TYPES if _is_text(column.type) else _TIME_TYPES[:2]
    for kind in kinds:
        try:
            times = column.cast(kind)  # Arrow refuses what would lose digits
        except pa.ArrowInvalid:
            continue
        numbers = (times.cast(pa.int64()) if pa.types.is_timestamp(kind) else times).to_numpy()
        _check_exact(table, name, column, numbers)
        return numbers
    row = max(_first_refused(column, kind) for kind in kinds)
    raise UserError(
        f"{table.place(row)}: column {name!r} holds {column[row].as_py()!r}, which is no time like the ones above it; "
        "give numbers, or ISO 8601 dates such as 2024-05-31T12:00:00Z, all with a time zone or all without"
    )


def at_least(table: Table, name: str, smallest: float) -> np.ndarray:
    """`[rows]` bool: which rows have a number of at least `smallest` in a column. A missing one does not.

    Raises:
        UserError: naming the row, where the column holds something that is no number.
    """
    column = _plain(table.columns[name])
    if _is_text(column.type):
        column = pc.utf8_trim_whitespace(_without_blanks(_to_strings(table, name, column)))
        try:
            column = column.cast(pa.float64())
        except pa.ArrowInvalid:
            row = _first_refused(column, pa.float64())
            raise UserError(
                f"{table.place(row)}: column {name!r} holds {column[row].as_py()!r}; --min-value needs numbers, "
                "--keep-values goes with any value"
            ) from None
    if not _is_number(column.type):
        raise UserError(f"{table.source}: column {name!r} is of type {column.type}; --min-value needs numbers")
    if column.type in (pa.float16(), pa.float32()):
        with np.errstate(over="ignore"):  # infinite where the type ends, which is right
            smallest = float(column.type.to_pandas_dtype()(smallest))  # so that their 4.1, another number than 4.1, passes 4.1
    values = column.cast(pa.float64(), safe=False).to_numpy()  # nulls become NaN, which is not at least anything
    return values >= smallest


def one_of(table: Table, name: str, values: tuple[str, ...]) -> np.ndarray:
    """`[rows]` bool: which rows hold one of `values` in a column; the values compare as `value_text` gives them."""
    return pc.is_in(value_text(table, name), pa.array(values, pa.string())).to_numpy()


def value_text(table: Table, name: str) -> pa.ChunkedArray:
    """A column of any plain values as text: whole floats without a fraction (4 for 4.0), booleans as true and false."""
    return _to_strings(table, name, _plain(table.columns[name]))


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _is_text(kind: pa.DataType) -> bool:
    return any(
        test(kind)
        for test in (
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_string_view,
            pa.types.is_binary,  # older writers store text so
            pa.types.is_large_binary,
        )
    )


def _to_strings(table: Table, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:  # binary: every other type that comes here has a text
        row = _first_refused(column, pa.string())
        raise UserError(f"{table.place(row)}: column {name!r} is not UTF-8; store it as text") from None
    except pa.ArrowNotImplementedError:
        raise UserError(f"{table.source}: column {name!r} is of type {column.type}; it should hold strings or numbers") from None


def _without_blanks(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Null for strings that are empty or all white space."""
    blank = pc.equal(pc.utf8_trim_whitespace(column), "")
    return pc.if_else(blank, pa.scalar(None, pa.string()), column) if pc.any(blank).as_py() else column


def _nan_to_null(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)


def _whole(table: Table, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A float column of ids as int64, NaN as null."""
    limit = _EXACT_BELOW[column.type.bit_width]
    column = _nan_to_null(column.cast(pa.float64()))
    exact = pc.and_(pc.equal(pc.floor(column), column), pc.less(pc.abs(column), limit))
    if not pc.all(exact).as_py():  # nulls are skipped
        row = int(pc.index(exact, False).as_py())
        raise UserError(
            f"{table.place(row)}: column {name!r} holds {column[row].as_py()!r}; ids should be strings or whole numbers, "
            f"floats only below {limit}. Store the column as strings"
        )
    return column.cast(pa.int64())


def _check_present(table: Table, name: str, column: pa.ChunkedArray) -> None:
    if column.null_count:
        row = int(pc.index(column.is_null(), True).as_py())
        raise UserError(
            f"{table.place(row)}: column {name!r} is missing there ({column.null_count} rows lack it); fill it in or remove those rows"
        )


def _check_exact(table: Table, name: str, column: pa.ChunkedArray, times: np.ndarray) -> None:
    """Refuse infinite times, and text of so many digits that floats would confuse neighbouring times."""
    bad = ~np.isfinite(times)
    if _is_text(column.type) and times.dtype.kind == "f":
        bad |= np.abs(times) >= _EXACT_BELOW[64]
    if bad.any():
        row = int(np.argmax(bad))
        raise UserError(
            f"{table.place(row)}: column {name!r} holds {column[row].as_py()!r}, a time that cannot be kept exactly; "
            "write the column as whole numbers of up to 18 digits"
        )


def _first_refused(column: pa.ChunkedArray, kind: pa.DataType) -> int:
    """Row of the first value that cannot be cast to `kind`, by bisection; the number of rows if there is none."""
    low, high = 0, len(column) + 1  # the first `low` values can be cast, the first `high` cannot
    while high - low > 1:
        middle = (low + high) // 2
        try:
            column.slice(low, middle - low).cast(kind)
            low = middle
        except pa.ArrowInvalid:
            high = middle
    return low
