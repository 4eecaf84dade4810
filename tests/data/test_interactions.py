import datetime
import decimal
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from elcrec_tf.config import DataConfig
from elcrec_tf.data.interactions import read_log, read_titles
from elcrec_tf.data.tables import file_format
from elcrec_tf.errors import UserError

FORMATS = ("csv", "parquet", "jsonl")


def write(tmp_path, format, columns):  # noqa: A002
    """A log of `{column: values}` in a format; None is a missing value."""
    path = tmp_path / f"log.{format}"
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if format == "parquet":
        pq.write_table(pa.table(columns), path)
    elif format == "jsonl":
        path.write_text("".join(json.dumps(row, default=str) + "\n" for row in rows), encoding="utf-8")
    else:
        lines = [",".join("" if value is None else f'"{value}"' for value in row.values()) for row in rows]
        path.write_text("\n".join([",".join(columns), *lines]) + "\n", encoding="utf-8")
    return path


def write_text(tmp_path, format, content):  # noqa: A002
    path = tmp_path / f"log.{format}"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(path, k_core=1, **options):
    return read_log(path, path.suffix.removeprefix("."), DataConfig(dataset=str(path), k_core=k_core, **options), "test")


def fails(path, message, **options):
    with pytest.raises(UserError, match=message) as caught:
        read(path, **options)
    assert "\n" not in str(caught.value)


def histories(sequences):
    return {user: sequences.catalog.raw(sequences[index]) for index, user in enumerate(sequences.user_ids)}


# ---- order


@pytest.mark.parametrize("format", FORMATS)
def test_events_are_chronological_and_ties_keep_the_order_of_the_file(tmp_path, format):  # noqa: A002
    columns = {
        "user": ["v", "u", "v", "u", "u", "v", "u"],
        "item": ["c", "d", "b", "a", "b", "a", "c"],
        "timestamp": [30, 5, 20, 5, 1, 30, 5],
    }
    sequences = read(write(tmp_path, format, columns))
    # v: b at 20, then c and a tied at 30. u: b at 1, then d, a, c tied at 5.
    assert histories(sequences) == {"v": ["b", "c", "a"], "u": ["b", "d", "a", "c"]}
    assert sequences.catalog.ids.tolist() == ["c", "d", "b", "a"]  # by first appearance in the file
    assert sequences.timestamps.tolist() == [20, 30, 30, 1, 5, 5, 5]
    assert sequences.name == "test"


def test_ties_by_item_id_do_not_depend_on_the_order_of_the_rows(tmp_path):
    rows = [("u", "b", 5), ("u", "é", 5), ("u", "B", 5), ("u", "z", 1), ("u", "a10", 5), ("u", "a9", 5)]
    for order in (rows, rows[::-1]):
        path = write(tmp_path, "csv", dict(zip(("user", "item", "timestamp"), zip(*order, strict=True), strict=True)))
        assert histories(read(path, ties="item")) == {"u": ["z", "B", "a10", "a9", "b", "é"]}
    assert histories(read(path))["u"] == ["z", "a9", "a10", "B", "é", "b"]


@pytest.mark.parametrize("ties", ["file", "item"])
def test_repeated_rows_are_dropped_and_counted(tmp_path, ties):
    columns = {"user": list("uuuuvvvu"), "item": list("abacabaa"), "timestamp": [1, 2, 1, 3, 1, 1, 1, 4]}
    dropped = read(write(tmp_path, "csv", columns), ties=ties, repeated_rows="drop")
    # The a of u at 4 and the events of v repeat no event of u.
    assert histories(dropped)["u"] == ["a", "b", "c", "a"] and dropped.dropped["repeated"] == 2
    assert histories(read(write(tmp_path, "csv", columns), ties=ties))["u"] == ["a", "a", "b", "c", "a"]


def test_columns_may_have_other_names_and_others_are_ignored(tmp_path):
    path = write(tmp_path, "csv", {"when": [3, 2, 1], "what": ["c", "b", "a"], "note": ["x", "", 'say ""hi"", twice'], "who": [7, 7, 7]})
    sequences = read(path, user_column="who", item_column="what", time_column="when")
    assert histories(sequences) == {"7": ["a", "b", "c"]}


def test_k_core_applies_to_logs(tmp_path):
    path = write(tmp_path, "csv", {"user": list("AAABBBC"), "item": list("xyxxyxz"), "timestamp": range(7)})
    sequences = read(path, k_core=2)
    assert histories(sequences) == {"A": list("xyx"), "B": list("xyx")}
    assert sequences.dropped == {"k-core": 1}


def test_folder_of_parquet_files_is_one_log(tmp_path):
    for part, item in enumerate("abc"):
        pq.write_table(pa.table({"user": ["u"], "item": [item], "timestamp": [part]}), tmp_path / f"part-{part}.parquet")
    (tmp_path / "_SUCCESS").touch()
    assert histories(read_log(tmp_path, "parquet", DataConfig(k_core=1), "test")) == {"u": ["a", "b", "c"]}


def test_hidden_files_and_markers_of_a_folder_are_no_part_of_the_log(tmp_path):
    """A write that was killed leaves the first; every ending that a single file may have counts."""
    for part, name in enumerate((".1234abcd-0.parquet", "a.parquet", "b.pq", "c.PARQUET", "_d.parquet")):
        pq.write_table(pa.table({"user": ["u"], "item": [name], "timestamp": [part]}), tmp_path / name)
    assert histories(read_log(tmp_path, "parquet", DataConfig(k_core=1), "test")) == {"u": ["a.parquet", "b.pq", "c.PARQUET"]}
    for name in ("a.parquet", "b.pq", "c.PARQUET"):
        (tmp_path / name).unlink()
    with pytest.raises(UserError, match="is a folder without Parquet files"):
        file_format(tmp_path)


def write_folder(tmp_path, *parts):
    """A folder of Parquet files `0.parquet`, `1.parquet` and so on, all of user u; items and times count on unless a part has its own."""
    folder = tmp_path / "parts"
    folder.mkdir()
    for part, own in enumerate(parts):
        rows = len(next(iter(own.values())))
        columns = {
            "user": ["u"] * rows,
            "item": [f"{part}-{row}" for row in range(rows)],
            "timestamp": [10 * part + row for row in range(rows)],
        }
        pq.write_table(pa.table({**columns, **own}), folder / f"{part}.parquet")
    return folder


def read_folder(folder, **options):
    return read_log(folder, "parquet", DataConfig(dataset=str(folder), k_core=1, **options), "test")


@pytest.mark.parametrize(
    ("column", "first", "second", "types"),
    [
        ("user", pa.array([1, 2, 3]), pa.array(["007", "7", "0x10"]), "string, but in .*0.parquet of type int64"),
        ("user", pa.array([1.0, 2.0]), pa.array([1.0, 2.0], pa.float32()), "float, but in .*0.parquet of type double"),
        ("timestamp", pa.array([1], pa.timestamp("us")), pa.array([2]), r"int64, but in .*0.parquet of type timestamp\[us\]"),
        ("timestamp", pa.array([1], pa.timestamp("us", "UTC")), pa.array([2], pa.timestamp("us")), r"timestamp\[us\], but in .*UTC"),
        ("timestamp", pa.array([2**53 + 1]), pa.array([1.5]), "double, but in .*int64, .*Integer value 9007199254740993 not"),
    ],
)
def test_files_whose_types_do_not_go_together_are_refused(tmp_path, column, first, second, types):
    folder = write_folder(tmp_path, {column: first}, {column: second})
    with pytest.raises(UserError, match=rf"1.parquet: column '{column}' is of type {types}.*; write the files again with one type"):
        read_folder(folder)


@pytest.mark.parametrize(
    ("first", "second", "ids"),
    [
        (pa.array([1, 300], pa.int16()), pa.array([2**53 + 1]), ["1", "300", "9007199254740993"]),
        (pa.array([1, 2]), pa.array([3.0]), ["1", "2", "3"]),
        (pa.array(["007", "7"]).dictionary_encode(), pa.array(["é"], pa.large_string()), ["007", "7", "é"]),
        (pa.array([b"007", b"7"]), pa.array(["é"]), ["007", "7", "é"]),
    ],
)
def test_ids_of_files_with_other_types_stay_as_written(tmp_path, first, second, ids):
    assert histories(read_folder(write_folder(tmp_path, {"item": first}, {"item": second}))) == {"u": ids}


def test_times_of_files_with_other_units_sort_right(tmp_path):
    seconds, micros = pa.array([1, 3], pa.timestamp("s", "UTC")), pa.array([2_000_000], pa.timestamp("us", "Europe/Berlin"))
    sequences = read_folder(write_folder(tmp_path, {"timestamp": seconds}, {"timestamp": micros}))
    assert histories(sequences) == {"u": ["0-0", "1-0", "0-1"]}
    assert sequences.timestamps.tolist() == [1_000_000, 2_000_000, 3_000_000]


def test_every_file_of_a_folder_has_the_filter_column(tmp_path):
    folder = write_folder(tmp_path, {"rating": [4, 1, 5]}, {"rating": [4.5, 0.5]})
    kept = read_folder(folder, filter_column="rating", min_value=4.0)
    assert histories(kept) == {"u": ["0-0", "0-2", "1-0"]}
    pq.write_table(pa.table({"user": ["u"], "item": ["a"], "timestamp": [99]}), folder / "2.parquet")
    with pytest.raises(UserError, match="2.parquet: has no column 'rating'; .*--filter-column"):
        read_folder(folder, filter_column="rating", min_value=4.0)


def test_an_unreadable_file_of_a_folder_is_named(tmp_path):
    folder = write_folder(tmp_path, {"item": ["a", "b", "c"]})
    (folder / "1.parquet").write_bytes(b"cut off")
    with pytest.raises(UserError, match="1.parquet: is not a readable Parquet file"):
        read_folder(folder)


# ---- ids


@pytest.mark.parametrize(
    ("format", "content"),
    [
        ("csv", "user,item,timestamp\n007,1.0,1\n007,NA,2\n007,null,3\n007,é\U0001f600,4\n"),
        ("csv", '\ufeffuser,item,timestamp\r\n"007","1.0",1\r\n\r\n007,NA,2\r\n007,"null",3\r\n007,é\U0001f600,4'),
        (
            "jsonl",
            '{"user": "007", "item": "1.0", "timestamp": 1}\n{"user": "007", "item": "NA", "timestamp": 2}\n\n'
            '{"user": "007", "item": "null", "timestamp": 3}\n{"item": "\\u00e9\\ud83d\\ude00", "timestamp": 4, "user": "007"}',
        ),
    ],
)
def test_text_ids_stay_exactly_as_written(tmp_path, format, content):  # noqa: A002
    assert histories(read(write_text(tmp_path, format, content))) == {"007": ["1.0", "NA", "null", "é\U0001f600"]}


def test_ids_that_look_like_dates_or_big_numbers_survive_json(tmp_path):
    lines = ['{"user": "2024-05-31", "item": 18446744073709551615, "timestamp": 1}']
    lines += [f'{{"user": "2024-05-31", "item": {item}, "timestamp": 2}}' for item in ("18446744073709551614", "12.0", "true")]
    found = histories(read(write_text(tmp_path, "jsonl", "\n".join(lines))))
    assert found == {"2024-05-31": ["18446744073709551615", "18446744073709551614", "12", "true"]}


@pytest.mark.parametrize(
    ("values", "ids"),
    [
        (pa.array([12, 7, 12], pa.int32()), ["12", "7", "12"]),
        (pa.array([2**64 - 1, 7, 12], pa.uint64()), ["18446744073709551615", "7", "12"]),
        (pa.array([12.0, 7.0, -1.0]), ["12", "7", "-1"]),
        (pa.array([12.0, 7.0, 12.0], pa.float32()), ["12", "7", "12"]),
        (pa.array(["007", "a", "b"], pa.large_string()), ["007", "a", "b"]),
        (pa.array(["007", "a", "b"], pa.string_view()), ["007", "a", "b"]),
        (pa.array([b"007", b"a", b"b"]), ["007", "a", "b"]),
        (pa.array(["007", "a", "007"]).dictionary_encode(), ["007", "a", "007"]),
        (pa.array([decimal.Decimal("12"), decimal.Decimal("7"), decimal.Decimal("1")]), ["12", "7", "1"]),
    ],
)
def test_parquet_ids_become_text(tmp_path, values, ids):
    path = write(tmp_path, "parquet", {"user": ["u"] * 3, "item": values, "timestamp": [1, 2, 3]})
    assert histories(read(path)) == {"u": ids}


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_float_ids_with_nulls_are_whole_where_they_are(tmp_path, format):  # noqa: A002
    # The usual result of a join: the ids became floats because some rows have none, and those rows are filtered out.
    columns = {"user": ["u"] * 4, "item": [12.0, None, 7.0, 12.0], "timestamp": [1, 2, 3, 4], "event": ["buy", "search", "buy", "buy"]}
    sequences = read(write(tmp_path, format, columns), filter_column="event", keep_values=("buy",))
    assert histories(sequences) == {"u": ["12", "7", "12"]}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pa.array([1.0, 2.5, 3.0]), "log.parquet, row 2: column 'item' holds 2.5; ids should be strings or whole numbers"),
        (pa.array([1.0, 2.0**53, 3.0]), r"log.parquet, row 2: column 'item' holds 9\d+.0; .*Store the column as strings"),
        (pa.array([1.0, 2.0**24, 3.0], pa.float32()), "log.parquet, row 2: column 'item' holds 16777216.0"),
        (pa.array([[1], [2], [3]]), "log.parquet: column 'item' is of type list.*ids should be"),
        (pa.array([True, False, True]), "log.parquet: column 'item' is of type bool"),
        (pa.array([b"a", b"\xff", b"c"]), "log.parquet, row 2: column 'item' is not UTF-8"),
    ],
)
def test_ids_that_cannot_be_kept_exactly_are_refused(tmp_path, values, message):
    fails(write(tmp_path, "parquet", {"user": ["u"] * 3, "item": values, "timestamp": [1, 2, 3]}), message)


# ---- times


@pytest.mark.parametrize("format", FORMATS)
def test_nanoseconds_sort_right(tmp_path, format):  # noqa: A002
    # Neighbours that are one and the same number as a float.
    times = [1700000000000000002, 1700000000000000001, 1700000000000000003]
    assert len({float(time) for time in times}) == 1
    sequences = read(write(tmp_path, format, {"user": ["u"] * 3, "item": ["b", "a", "c"], "timestamp": times}))
    assert histories(sequences) == {"u": ["a", "b", "c"]}
    assert sequences.timestamps.dtype == np.int64
    assert sequences.timestamps.tolist() == sorted(times)


@pytest.mark.parametrize("format", ["csv", "jsonl"])
@pytest.mark.parametrize(
    ("times", "numbers"),
    [
        (["2024-05-31", "2024-05-30T23:59:59", "2024-05-31 00:00"], [1717113599 * 10**9, 1717113600 * 10**9, 1717113600 * 10**9]),
        (
            ["2024-05-31T02:00:00+02:00", "2024-05-30T23:59:59Z", "2024-05-31T00:00:00.5Z"],
            [1717113599000000000, 1717113600 * 10**9, 1717113600500000000],
        ),
        (["2500-01-01", "1970-01-01", "2500-01-02"], [0, 16725225600 * 10**6, 16725312000 * 10**6]),
        (["2.5", "1", "1e3"], [1.0, 2.5, 1000.0]),
        ([" 2", "1 ", "-3"], [-3, 1, 2]),
    ],
)
def test_times_as_text(tmp_path, format, times, numbers):  # noqa: A002
    sequences = read(write(tmp_path, format, {"user": ["u"] * 3, "item": ["b", "a", "c"], "timestamp": times}))
    assert sequences.timestamps.tolist() == numbers


def test_json_times_may_mix_whole_numbers_and_fractions(tmp_path):
    columns = {"user": ["u"] * 3, "item": ["b", "a", "c"], "timestamp": [2, 1.5, 3]}
    assert read(write(tmp_path, "jsonl", columns)).timestamps.tolist() == [1.5, 2.0, 3.0]


DAY = datetime.date(2024, 5, 31)
NOON = datetime.datetime(2024, 5, 31, 12)


@pytest.mark.parametrize(
    ("values", "numbers"),
    [
        (pa.array([NOON] * 3, pa.timestamp("ms")), [1717156800 * 10**3] * 3),
        (pa.array([NOON] * 3, pa.timestamp("us", "UTC")), [1717156800 * 10**6] * 3),
        (pa.array([DAY] * 3, pa.date32()), [19874] * 3),
        (pa.array([3, 2, 1], pa.int16()), [1, 2, 3]),
        (pa.array([3.0, 2.0, 1.5]), [1.5, 2.0, 3.0]),
        (pa.array([decimal.Decimal("1.5")] * 3), [1.5] * 3),
        (pa.array(["2024-05-31"] * 3).dictionary_encode(), [1717113600 * 10**9] * 3),
    ],
)
def test_parquet_times(tmp_path, values, numbers):
    path = write(tmp_path, "parquet", {"user": ["u"] * 3, "item": ["a", "b", "c"], "timestamp": values})
    assert read(path).timestamps.tolist() == numbers


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (["1", "2", "soon"], "log.csv, line 4: column 'timestamp' holds 'soon', which is no time.*ISO 8601"),
        (["2024-05-31", "2024-13-31", "2024-05-31"], "log.csv, line 3: column 'timestamp' holds '2024-13-31'"),
        (["2024-05-31", "2024-05-31", "17"], "log.csv, line 4: column 'timestamp' holds '17'"),
        (["2024-05-31T00:00:00Z", "2024-05-31T00:00:00", "2024-05-31T00:00:00Z"], "log.csv, line 3: .*all with a time zone or all without"),
        (["1", "99999999999999999999", "3"], "log.csv, line 3: .*cannot be kept exactly; write .* whole numbers of up to 18 digits"),
        (["1700000000000000001", "1.5", "2"], "log.csv, line 2: .*cannot be kept exactly"),
        (["1", "nan", "3"], "log.csv, line 3: column 'timestamp' holds 'nan', a time that cannot be kept"),
        (["1", "inf", "3"], "log.csv, line 3: column 'timestamp' holds 'inf'"),
    ],
)
def test_bad_times_name_line_column_and_remedy(tmp_path, times, message):
    fails(write(tmp_path, "csv", {"user": ["u"] * 3, "item": ["a", "b", "c"], "timestamp": times}), message)


@pytest.mark.parametrize("values", [pa.array([True, False, True]), pa.array([[1], [2], [3]]), pa.array([1, 2, 3], pa.duration("s"))])
def test_times_of_other_types_are_refused(tmp_path, values):
    path = write(tmp_path, "parquet", {"user": ["u"] * 3, "item": ["a", "b", "c"], "timestamp": values})
    fails(path, "log.parquet: column 'timestamp' is of type (bool|list.*|duration.*); times should be numbers, dates")


def test_whole_numbers_beyond_64_bits_are_no_times(tmp_path):
    times = pa.array([2**64 - 1, 7, 12], pa.uint64())
    path = write(tmp_path, "parquet", {"user": ["u"] * 3, "item": ["a", "b", "c"], "timestamp": times})
    fails(path, "log.parquet.*column 'timestamp' holds 18446744073709551615, which is no time")


# ---- filter

RATINGS = {"user": ["u"] * 5, "item": list("abcde"), "timestamp": range(5), "rating": [4.0, 2.5, None, 5.0, 4.0]}


@pytest.mark.parametrize("format", FORMATS)
def test_smallest_value(tmp_path, format):  # noqa: A002
    sequences = read(write(tmp_path, format, RATINGS), filter_column="rating", min_value=4)
    assert histories(sequences) == {"u": ["a", "d", "e"]}
    assert sequences.dropped == {"filtered out by rating": 2}


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_kept_values_compare_as_text(tmp_path, format):  # noqa: A002
    sequences = read(write(tmp_path, format, RATINGS), filter_column="rating", keep_values=("4", "2.5"))
    assert histories(sequences) == {"u": ["a", "b", "e"]}


def test_kept_values_and_smallest_value_both_hold(tmp_path):
    sequences = read(write(tmp_path, "csv", RATINGS), filter_column="rating", min_value=3, keep_values=("4.0", "5.0", "2.5"))
    assert sequences.dropped == {"filtered out by rating": 2}


@pytest.mark.parametrize("format", FORMATS)
def test_rows_filtered_out_may_lack_an_item_and_places_stay_right(tmp_path, format):  # noqa: A002
    columns = {
        "user": ["u"] * 5,
        "item": ["a", None, "b", "c", None],
        "timestamp": [1, 2, 3, 4, 5],
        "event": ["buy", "look", "buy", "buy", "buy"],
    }
    place = {"csv": "line 6", "parquet": "row 5", "jsonl": "line 5"}[format]
    fails(write(tmp_path, format, columns), f"{place}: column 'item' is missing", filter_column="event", keep_values=("buy",))
    columns["event"][4] = "look"
    assert histories(read(write(tmp_path, format, columns), filter_column="event", keep_values=("buy",))) == {"u": ["a", "b", "c"]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_value": 4.0}, "--min-value and --keep-values need --filter-column"),
        ({"keep_values": ("buy",)}, "--min-value and --keep-values need --filter-column"),
        ({"filter_column": "rating"}, "--filter-column rating needs --min-value .* or --keep-values"),
        ({"filter_column": "rating", "min_value": 9.0}, "log.csv: column 'rating' lets none of 5 rows pass .*'4.0', '2.5'"),
        ({"filter_column": "item", "min_value": 1.0}, "log.csv, line 2: column 'item' holds 'a'; --min-value needs numbers"),
        ({"filter_column": "stars", "min_value": 1.0}, "log.csv: has no column 'stars'; its columns are 'user', .* with --filter-column"),
    ],
)
def test_filter_options_that_do_not_fit(tmp_path, options, message):
    fails(write(tmp_path, "csv", RATINGS), message, **options)


def test_smallest_value_of_a_column_without_numbers(tmp_path):
    columns = {"user": ["u"] * 3, "item": ["a", "b", "c"], "timestamp": [1, 2, 3], "bought": [True, True, False]}
    fails(write(tmp_path, "parquet", columns), "column 'bought' is of type bool; --min-value", filter_column="bought", min_value=1.0)
    assert (
        read(write(tmp_path, "parquet", {**columns, "bought": [True] * 3}), filter_column="bought", keep_values=("true",)).num_events == 3
    )


def test_a_filter_columns_text_may_go_over_lines(tmp_path):
    path = write_text(tmp_path, "csv", 'user,item,timestamp,note\nu,a,1,buy\nu,b,2,"two\nlines"\nu,c,3,buy\nu,d,4,buy\n')
    assert histories(read(path, filter_column="note", keep_values=("buy",))) == {"u": ["a", "c", "d"]}
    path = write_text(tmp_path, "csv", 'user,item,timestamp,note\nu,a,1,buy\nu,b,2,"buy\nu,c,3,buy\nu,d,4,buy\n')
    fails(path, "log.csv, line 3: .*is a quote left open", filter_column="note", keep_values=("buy",))


# ---- faults


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("column", "flag"), [("user", "--user-column"), ("item", "--item-column"), ("timestamp", "--time-column")])
def test_missing_column_lists_those_there_are(tmp_path, format, column, flag):  # noqa: A002
    columns = {"user": ["u"], "item": ["a"], "timestamp": [1]}
    columns[f"my {column}"] = columns.pop(column)
    fails(write(tmp_path, format, columns), f"log.{format}: has no column '{column}'; its columns are .*'my {column}'.*{flag}")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("column", ["user", "item", "timestamp"])
def test_missing_value_names_its_row(tmp_path, format, column):  # noqa: A002
    columns = {"user": ["u", "u", "u"], "item": ["a", "b", "c"], "timestamp": [1, 2, 3]}
    columns[column] = [columns[column][0], None, None]
    place = {"csv": "line 3", "parquet": "row 2", "jsonl": "line 2"}[format]
    fails(write(tmp_path, format, columns), f"log.{format}, {place}: column '{column}' is missing there .2 rows.*fill it in or remove")


@pytest.mark.parametrize("blank", ["", "  "])
@pytest.mark.parametrize("format", ["parquet", "jsonl", "csv"])
def test_blank_text_is_missing(tmp_path, format, blank):  # noqa: A002
    columns = {"user": ["u", "u", blank], "item": ["a", "b", "c"], "timestamp": [1, 2, 3]}
    fails(write(tmp_path, format, columns), "column 'user' is missing there .1 rows")


def test_nan_is_missing(tmp_path):
    columns = {"user": [1.0, float("nan"), 1.0], "item": ["a", "b", "c"], "timestamp": [1, 2, 3]}
    fails(write(tmp_path, "parquet", columns), "row 2: column 'user' is missing")
    columns = {"user": ["u", "u", "u"], "item": ["a", "b", "c"], "timestamp": [1.0, 2.0, float("nan")]}
    fails(write(tmp_path, "parquet", columns), "row 3: column 'timestamp' is missing")
    fails(write(tmp_path, "jsonl", columns), "line 3: column 'timestamp' is missing")


def test_lines_are_counted_over_quoted_line_ends_and_blank_lines(tmp_path):
    path = write_text(tmp_path, "csv", 'user,note,item,timestamp\nu,"two\nlines",a,1\n\nu,,,2\n')
    fails(path, "log.csv, line 5: column 'item' is missing")


@pytest.mark.parametrize(
    ("format", "content", "message"),
    [
        ("csv", "user,item,timestamp\n", "log.csv: is empty: it has columns but no row"),
        ("csv", "\n\n", "log.csv: has no column 'user'"),
        ("csv", "user,item,timestamp\nu,a,1\nu,b\nu,c,3\n", "log.csv, line 3: has 2 values where the header names 3 columns; mend"),
        ("csv", "user,item,timestamp\nu,a,1\nu,b,2,9\n", "log.csv, line 3: has 4 values"),
        ("csv", b"user,item,timestamp\nu,a,1\nu,\xe9,2\n", "log.csv, line 3: is not UTF-8 .*save the file as UTF-8"),
        ("csv", b"user,it\xe9m,timestamp\nu,a,1\n", "log.csv, line 1: is not UTF-8"),
        ("csv", "user,item,timestamp\n".encode("utf-16"), "log.csv, line 1: is not UTF-8"),
        ("csv", "user;item;timestamp\nu;a;1\n", "its columns are 'user;item;timestamp' .*separated by commas"),
        ("csv", "1,2,3\n1,2,3\n", "its columns are '1', '2', '3' .the first line should name the columns"),
        ("csv", "user,item,timestamp,user\nu,a,1,v\n", "log.csv: has 2 columns named 'user'; rename"),
        ("csv", 'user,item,timestamp\nt,a,1\nu,"a,1\nu,b,2\n', "log.csv, line 3: .*is a quote left open"),
        ("csv", 'user,item,timestamp\nt,a,1\nu,"a,1\nu,b,2\nu,",2\n', "log.csv, line 3: .*is a quote left open"),
        ("csv", 'user,item,timestamp\nu,a,"1\n' + "u,b,2\n" * 30_000 + '"\n', "log.csv, line 2: .*is a quote left open"),
        ("jsonl", "\n", "log.jsonl: is empty"),
        ("jsonl", '{"user": "u"}\n{"user": "u",\n', "log.jsonl, line 2: is not valid JSON .*one whole object on each line"),
        ("jsonl", '[{"user": "u"}]\n', "log.jsonl, line 1: should be a JSON object"),
        ("jsonl", b'{"user": "u"}\n{"user": "\xff"}\n', "log.jsonl, line 2: is not UTF-8"),
        (
            "jsonl",
            '{"user": ["u"], "item": "a", "timestamp": 1}\n',
            r"log.jsonl, line 1: column 'user' should hold a plain string.*\['u'\]",
        ),
        ("jsonl", '{"user": "u", "item": "\\ud800", "timestamp": 1}\n', "log.jsonl, line 1: column 'item' should hold a plain string"),
        ("parquet", b"\x00\x01\x02 no parquet", "log.parquet: is not a readable Parquet file .*write it again, or set --format"),
        ("parquet", b"PAR1" + bytes(64) + b"PAR1", "log.parquet: is not a readable Parquet file"),
        ("csv", "user,item,timestamp\nu,a,1\nu,a,2\nv,a,3\n", "log.csv: has one item only .'a'"),
        ("csv", "user,item,timestamp\nu,a,1\nu,b,2\n", "log.csv: nothing is left of 2 events of 1 users and 2 items"),
    ],
)
def test_broken_files(tmp_path, format, content, message):  # noqa: A002
    fails(write_text(tmp_path, format, content), message)


def test_damaged_parquet_pages(tmp_path):
    path = write(tmp_path, "parquet", {"user": ["u"] * 9999, "item": [f"i{n}" for n in range(9999)], "timestamp": list(range(9999))})
    content = bytearray(path.read_bytes())
    content[4:4000] = bytes(3996)
    path.write_bytes(content)
    fails(path, "log.parquet: is not a readable Parquet file")


def test_parquet_text_that_is_not_utf8(tmp_path):
    path = write(tmp_path, "parquet", {"user": ["u1", "u2", "u3"], "item": ["a", "b", "c"], "timestamp": [1, 2, 3]})
    path.write_bytes(path.read_bytes().replace(b"u2", b"u\xff"))
    fails(path, "log.parquet: is not a readable Parquet file .*UTF8")


def test_one_column_in_two_roles(tmp_path):
    fails(write(tmp_path, "csv", RATINGS), "should name three columns. Received: user, timestamp", item_column="user")


# ---- titles


@pytest.mark.parametrize("format", FORMATS)
def test_titles(tmp_path, format):  # noqa: A002
    columns = {"id": ["1", "2", "3", "1"], "title": ["Heat, the film", None, "Bond", "Heat"], "year": [1995, 1996, 1997, 1998]}
    assert read_titles(write(tmp_path, format, columns)) == {"1": "Heat", "3": "Bond"}


def test_titles_may_go_over_lines(tmp_path):
    assert read_titles(write_text(tmp_path, "csv", 'id,title\na,"Two\nlines"\nb,Plain\n')) == {"a": "Two\nlines", "b": "Plain"}


@pytest.mark.parametrize("rest", ["c,Solo\n", 'c,"Solo"\n'])
def test_a_quote_that_a_title_leaves_open_swallows_no_rows(tmp_path, rest):
    with pytest.raises(UserError, match="log.csv, line 3: .*is a quote left open"):
        read_titles(write_text(tmp_path, "csv", f'id,title\na,Heat\nb,"Bond\n{rest}'))


def test_titles_with_faults(tmp_path):
    with pytest.raises(UserError, match="log.csv: has no column 'title'; its columns are 'id', 'name'"):
        read_titles(write(tmp_path, "csv", {"id": ["1"], "name": ["Heat"]}))
    with pytest.raises(UserError, match="log.csv, line 3: column 'id' is missing"):
        read_titles(write(tmp_path, "csv", {"id": ["1", None], "title": ["Heat", "Bond"]}))
    with pytest.raises(UserError, match="nowhere.csv: there is no such file"):
        read_titles(tmp_path / "nowhere.csv")
    (tmp_path / "titles.txt").write_text("1 Heat\n")
    with pytest.raises(UserError, match="titles.txt: item metadata should be CSV, Parquet or JSON Lines"):
        read_titles(tmp_path / "titles.txt")
