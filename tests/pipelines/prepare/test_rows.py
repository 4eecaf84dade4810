import datetime
import json

import numpy as np
import pyarrow as pa
import pytest

from elcrec_tf.config import DataConfig
from elcrec_tf.data.columns import text_column, time_column
from elcrec_tf.data.tables import Table
from elcrec_tf.errors import UserError
from pipelines.prepare.rows import FRACTION, NAIVE_NS, NAIVE_US, WHOLE, ZONED_NS, ZONED_US, CleanJson, clean


def cleaned(user=("u",), item=("i",), time=("1",), malformed=None):
    rows = max(len(user), len(item), len(time))
    columns = [one if isinstance(one, pa.Array) else pa.array(one if len(one) == rows else list(one) * rows) for one in (user, item, time)]
    batch = [*columns, pa.array(malformed or [None] * rows, pa.string()), pa.array(["log.csv"] * rows)]
    result = clean(pa.RecordBatch.from_arrays(batch, names=["user", "item", "time", "malformed", "file"]))
    return result.to_pylist()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["a", " b ", "007", "", "  ", None, "\u3000", "x\ufffd"], ["a", " b ", "007", None, None, None, None, None]),
        ([1, -2, None], ["1", "-2", None]),
        ([12.0, 0.5, float("nan"), 2.0**53], ["12", None, None, None]),
        ([b"\xc3\xbc", b"\xff"], ["ü", None]),
    ],
)
def test_ids_are_text_or_missing(values, expected):
    rows = cleaned(user=values)
    assert [row["user"] for row in rows] == expected
    assert [row["reason"] for row in rows] == [None if id else "bad or missing user" for id in expected]


@pytest.mark.parametrize(
    ("value", "kind", "time"),
    [
        ("12", WHOLE, 12),
        (" -5 ", WHOLE, -5),
        ("1.5", FRACTION, 1.5),
        ("1e3", FRACTION, 1000.0),
        ("1970-01-02", NAIVE_NS, 86_400 * 10**9),
        ("1970-01-01 00:00:01.5", NAIVE_NS, 15 * 10**8),
        ("1970-01-01T00:00:01Z", ZONED_NS, 10**9),
        ("1970-01-01T01:00:01+01:00", ZONED_NS, 10**9),
        ("1500-01-01", NAIVE_US, -14831769600000000),
        (3, WHOLE, 3),
        (2.5, FRACTION, 2.5),
        (2.0, WHOLE, 2),
        (datetime.datetime(1970, 1, 1, 0, 0, 1), NAIVE_US, 10**6),
        (datetime.date(1970, 1, 3), NAIVE_US, 2 * 86_400 * 10**6),
        ("0x1f", WHOLE, 31),
        ("1704067203.125", FRACTION, 1704067203.125),
    ],
)
def test_times_are_numbers_of_a_kind(value, kind, time):
    (row,) = cleaned(time=[value])
    assert row["reason"] is None and row["kind"] == kind
    assert row["fraction" if kind == FRACTION else "whole"] == time


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (pa.timestamp("s"), (NAIVE_US, 5_000_000)),
        (pa.timestamp("ms"), (NAIVE_US, 5_000_000)),
        (pa.timestamp("us"), (NAIVE_US, 5_000_000)),
        (pa.timestamp("ns"), (NAIVE_NS, 5_000_000_000)),
        (pa.timestamp("ms", "Europe/Berlin"), (ZONED_US, 5_000_000)),
        (pa.timestamp("ns", "UTC"), (ZONED_NS, 5_000_000_000)),
    ],
    ids=str,
)
def test_timestamps_keep_their_unit(kind, expected):
    time = pa.array([5], pa.int64()).cast(pa.timestamp("s")).cast(pa.timestamp(kind.unit)).cast(kind)
    (row,) = cleaned(time=time)
    assert (row["kind"], row["whole"]) == expected


def test_a_date_that_no_calendar_has_costs_its_row():
    rows = cleaned(time=pa.array([2**31 - 1, 1], pa.int32()).cast(pa.date32()))
    assert [row["whole"] for row in rows] == [None, 86_400 * 10**6]
    assert cleaned(time=pa.array(np.float16([2.5])))[0]["fraction"] == 2.5


@pytest.mark.parametrize("kind", [pa.large_string(), pa.dictionary(pa.int8(), pa.string()), pa.string_view()], ids=str)
def test_text_may_be_stored_in_other_ways(kind):
    values = pa.array(["1970-01-01T00:00:01", "1970-01-01T00:00:01"]).cast(kind)
    rows = cleaned(time=values, user=pa.array(["a", "b"]).cast(kind))
    assert [(row["kind"], row["whole"], row["user"]) for row in rows] == [(NAIVE_NS, 10**9, "a"), (NAIVE_NS, 10**9, "b")]


def test_numbers_that_are_beyond_64_bits_or_fractions_stand_among_whole_ones():
    rows = cleaned(time=pa.array([1.5, 2.0, float("nan"), 1e300, -3.0, float("inf")]))
    assert [(row["whole"], row["fraction"]) for row in rows] == [
        (None, 1.5),
        (2, None),
        (None, None),
        (None, 1e300),
        (-3, None),
        (None, None),
    ]


@pytest.mark.parametrize(
    "value", ["", "soon", "nan", "inf", "2024-13-01", "1e400", "12345678901234567890", "1 2", None, "2024-05-31T25:00"]
)
def test_no_time(value):
    (row,) = cleaned(time=pa.array([value], pa.string()))
    assert row["kind"] is None and row["reason"] == "bad or missing time"
    assert row["file"] == "log.csv" and json.loads(row["row"]) == {"user": "u", "item": "i", "time": value}


@pytest.mark.parametrize(
    "times",
    [
        ["1", "-3", "170000000000000000"],
        ["1.5", "2", ".25"],
        ["2024-05-31", "2024-05-31 12:00", "2024-05-31T12:00:00.123456789"],
        ["2024-05-31T12:00:00Z", "2024-05-31T12:00:00+02:00", "2024-05-31 12:00:00-0530"],
        ["1500-01-01", "1600-05-31 12:00"],
    ],
)
def test_good_columns_read_as_on_one_machine(times):
    column = pa.chunked_array([times])
    expected = time_column(Table("log.csv", "csv", pa.table({"timestamp": column})), DataConfig().time_column)
    rows = cleaned(time=times)
    assert [row["fraction"] if row["kind"] == FRACTION else row["whole"] for row in rows] == expected.tolist()
    ids = ["a", " b", "0x1"]
    assert [row["user"] for row in cleaned(user=ids)] == text_column(Table("log.csv", "csv", pa.table({"u": ids})), "u").to_pylist()


@pytest.mark.parametrize("time", ["soon", "nan", "99999999999999999999"])
def test_what_stops_one_machine_costs_a_row_here(time):
    with pytest.raises(UserError):
        time_column(Table("log", "parquet", pa.table({"timestamp": [time]})), "timestamp")
    good, bad = cleaned(time=["7", time])
    assert good["reason"] is None and bad["reason"] == "bad or missing time"


def test_a_malformed_row_is_kept_as_it_stands():
    good, bad = cleaned(user=["u", None], malformed=[None, "u,i"])
    assert good["reason"] is None and good["row"] is None
    assert (bad["reason"], bad["row"], bad["user"], bad["whole"]) == ("malformed row", "u,i", None, None)


def test_lines_of_json():
    lines = [
        b'{"u": 7, "i": "x", "t": 1.0, "other": [1]}',
        b'{"u": true, "i": 1.5, "t": "2024-05-31"}',
        b'{"u": "a", "t": 1}',
        b"[1, 2]",
        b'{"u": {"no": "id"}, "i": "x", "t": 1}',
        b'{"u": "a"',
        b"\xff",
        b'{"u": "\\ud800", "i": "x", "t": 1}',
    ]
    batch = pa.RecordBatch.from_pydict({"line": pa.array(lines, pa.binary()), "file": ["log.jsonl"] * len(lines)})
    (result,) = CleanJson(("u", "i", "t"))(iter([batch]))
    rows = result.to_pylist()
    assert [(row["user"], row["item"], row["whole"]) for row in rows[:2]] == [("7", "x", 1), ("true", "1.5", 1717113600 * 10**9)]
    assert [row["reason"] for row in rows[2:]] == ["bad or missing item", *["malformed row"] * 5]
    assert rows[3]["row"] == "[1, 2]"


def test_many_bad_values_among_many():
    times = ["x" if index % 7 == 0 else str(index) for index in range(1000)]
    assert [row["whole"] for row in cleaned(time=times)] == [None if index % 7 == 0 else index for index in range(1000)]
