"""Raw logs on one machine: what becomes an event, and what is rejected, is what Spark's rows would be."""

import csv
import gzip
import json
from contextlib import nullcontext
from importlib.util import find_spec

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from elcrec_tf.errors import UserError
from pipelines.production import memory_log
from pipelines.production.memory_log import clean_log
from pipelines.production.preparing import SPARK, Preparation, _on_spark, input_files, log_format, since_1970

COLUMNS = ("user", "item", "timestamp")


def cleaned(tmp_path, name, content, form, columns=COLUMNS):
    """(what is told, events, rejects)."""
    (tmp_path / name).write_bytes(content)
    output, rejects = tmp_path / "out.parquet", tmp_path / "rejects.gz"
    found = clean_log([tmp_path / name], form, columns, output, rejects)
    lines = gzip.open(rejects, "rt").read().splitlines() if rejects.exists() else []
    return found, [tuple(row.values()) for row in pq.read_table(output).to_pylist()], [json.loads(line) for line in lines]


def test_bad_rows_of_a_csv_file_are_counted_and_written_out(tmp_path):
    log = b'item,user,when,more\ni1,u1,5,\n,u2,6,\n007, ,7,\ni2,u3\ni3,u3,2024-01-01,\nx\xff,u4,4,\n007,"u,5",9,\n'
    found, events, rejects = cleaned(tmp_path, "log.csv", log, "csv", ("user", "item", "when"))
    assert events == [("u1", "i1", 5), ("u,5", "007", 9)]
    counts = {"bad or missing item": 2, "bad or missing user": 1, "bad or missing time: others are numbers": 1, "malformed row": 1}
    assert found == {"rows": 7, "rejected": counts, "newest": 9, "unit": "the log's own numbers"}
    assert len(rejects) == 5 and {row["file"] for row in rejects} == {"log.csv"}
    assert {"reason": "malformed row", "row": "i2,u3", "file": "log.csv"} in rejects
    assert json.loads(rejects[0]["row"]) == {"user": "u2", "item": "", "time": "6"}


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "with a BOM"])
def test_a_malformed_row_that_is_not_utf8_costs_itself_alone(tmp_path, mark):
    log = mark + '"größe",item,timestamp\nMüller,i,1\n'.encode() + b"M\xfcller,i,2,3\nM\xfcller,j,4\nb,j,5\n"
    found, events, rejects = cleaned(tmp_path, "log.csv", log, "csv", ("größe", "item", "timestamp"))
    assert events == [("Müller", "i", 1), ("b", "j", 5)]
    assert found["rejected"] == {"bad or missing user": 1, "malformed row": 1}
    assert {"reason": "malformed row", "row": "M\ufffdller,i,2,3", "file": "log.csv"} in rejects


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("letter", ["é", "\udcff"], ids=["UTF-8", "other"])
def test_a_quote_left_open_costs_its_own_line_alone(tmp_path, end, letter):
    lines = [f'"u{number}",i{number % 7},{number}' for number in range(600)]
    lines[100], lines[400] = 'u9,"i3,2200', f'{letter},"i""4",",1'
    lines[200], lines[300] = '"say ""hi"", twice",i,5', '6" pipe,i,6'
    content = end.join(["user,item,timestamp", *lines, ""]).encode(errors="surrogateescape")
    found, events, rejects = cleaned(tmp_path, "log.csv", content, "csv")
    assert (found["rows"], found["rejected"]) == (600, {"malformed row": 2})
    assert {('say "hi", twice', "i", 5), ('6" pipe', "i", 6)} <= set(events) and len(events) == 598
    shown = letter.encode(errors="surrogateescape").decode(errors="replace")
    assert [row["row"] for row in rejects] == ['u9,"i3,2200', f'{shown},"i""4",",1']


def test_quotes_are_found_open_where_the_csv_module_finds_them_so():
    rng = np.random.default_rng(0)
    for _ in range(3000):
        line = "".join(rng.choice(list('"",a'), rng.integers(10))) + "\n"
        (record,) = csv.reader([line])
        # An open quote takes the line's end into its value.
        assert memory_log._is_closed(line) == (not "".join(record).endswith("\n")), line


def test_a_line_of_quotes_takes_no_time():
    for line in ('"' * 200_001, '"a"b,' * 50_000 + '"', '"",' * 50_000 + '"'):
        assert not memory_log._is_closed(line)


def test_an_empty_file_among_the_logs_and_a_mark_before_json_are_no_faults(tmp_path):
    (tmp_path / "empty.csv").touch()
    (tmp_path / "log.csv").write_text("user,item,timestamp\nu,i,1\n")
    found = clean_log([tmp_path / "empty.csv", tmp_path / "log.csv"], "csv", COLUMNS, tmp_path / "out.parquet", tmp_path / "rejects.gz")
    assert (found["rows"], found["rejected"]) == (1, {})
    lines = b'\xef\xbb\xbf{"user": 1, "item": "a", "timestamp": 5}\n'
    assert cleaned(tmp_path, "log.jsonl", lines, "jsonl")[0]["rejected"] == {}


def test_files_whose_times_have_other_units_are_put_in_order(tmp_path):
    files = []
    for name, time, unit in (("a", 1777593600, "ms"), ("b", 1577836800, "us"), ("c", 1677836800, "ns")):
        times = pa.array([time]).cast(pa.timestamp("s")).cast(pa.timestamp(unit))
        files.append(tmp_path / f"{name}.parquet")
        pq.write_table(pa.table({"user": ["u"], "item": [name], "timestamp": times}), files[-1])
    found = clean_log(files, "parquet", COLUMNS, tmp_path / "out.parquet", tmp_path / "rejects.gz")
    assert [row["timestamp"] for row in pq.read_table(tmp_path / "out.parquet").to_pylist()] == [
        1777593600 * 10**6,
        1577836800 * 10**6,
        1677836800 * 10**6,
    ]
    assert since_1970(found["newest"], found["unit"]) == 1777593600


def test_json_lines_and_parquet(tmp_path):
    lines = b'{"user": 1, "item": "a", "timestamp": 5}\n\nno json\n{"user": 1, "item": "b", "timestamp": 7.5}\n{"user": 1}\n'
    found, events, _ = cleaned(tmp_path, "log.jsonl", lines, "jsonl")
    assert events == [("1", "a", 5.0), ("1", "b", 7.5)]
    assert found["rejected"] == {"bad or missing item": 1, "malformed row": 1}
    pq.write_table(pa.table({"user": [3, None], "item": ["a", "b"], "timestamp": [1, 2]}), tmp_path / "raw.parquet")
    found, events, _ = cleaned(tmp_path, "log.parquet", (tmp_path / "raw.parquet").read_bytes(), "parquet")
    assert events == [("3", "a", 1)] and found["rejected"] == {"bad or missing user": 1}


def test_what_gzip_has_packed_is_read(tmp_path):
    log = b'user,item,timestamp\nu,a,1\nu,"b,2\nu,c,3,4\n\xff,d,5\n'
    plain = cleaned(tmp_path, "log.csv", log, "csv")[:2]
    assert plain[0]["rows"] == 4 and cleaned(tmp_path, "log.csv.gz", gzip.compress(log), "csv")[:2] == plain
    lines = b'\xef\xbb\xbf{"user": 1, "item": "a", "timestamp": 5}\n'
    assert cleaned(tmp_path, "log.jsonl.gz", gzip.compress(lines), "jsonl")[1] == [("1", "a", 5)]
    assert log_format([tmp_path / "a.CSV.gz", tmp_path / "b.csv"], None) == "csv"
    for name, form, message in (("cut.csv.gz", "csv", "cut.csv.gz: is not a readable CSV"), ("cut.jsonl.gz", "jsonl", "cannot be read")):
        with pytest.raises(UserError, match=message):
            cleaned(tmp_path, name, gzip.compress(log)[:-9], form)


def test_dates_are_times_too(tmp_path):
    log = b"user,item,timestamp\nu,a,2024-01-01T00:00:01\nu,b,2024-01-01 00:00:02.5\nu,c,1704067203\n"
    found, events, _ = cleaned(tmp_path, "log.csv", log, "csv")
    assert [event[2] for event in events] == [1704067201 * 10**9, 17040672025 * 10**8]
    assert found["rejected"] == {"bad or missing time: others are dates without a time zone": 1}
    assert since_1970(found["newest"], found["unit"]) == 1704067202.5


@pytest.mark.parametrize("time", [1704067203, 1704067203000, 1704067203000000, 1704067203000000000])
def test_numbers_are_taken_for_seconds_by_their_size(time):
    assert since_1970(time, "the log's own numbers") == pytest.approx(1704067203)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"user,thing,timestamp\nu,a,1\n", "has no column 'item'.*--item-column"),
        (b"user,item,timestamp\n,,\n", "no row of the log is an event"),
        (b"user,item,timestamp,item\nu,i,1,j\n", "has 2 columns named 'item'; rename all but one, or name another with --item-column"),
        (b'user,item,timestamp,"note\nu,i,1,\n', "log.csv, line 1: a quote is left open"),
    ],
)
def test_a_log_without_events_is_told(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        cleaned(tmp_path, "log.csv", content, "csv")


def test_a_parquet_file_that_is_none_is_told(tmp_path):
    with pytest.raises(UserError, match="not a readable Parquet file"):
        cleaned(tmp_path, "log.parquet", b"PAR1 nothing", "parquet")


def test_inputs_are_files_folders_and_globs(tmp_path):
    for name in ("b.csv", "a.csv", ".hidden.csv", "_SUCCESS"):
        (tmp_path / name).write_text("x")
    for source in (tmp_path, tmp_path / "*.csv"):
        assert [file.name for file in input_files(str(source))] == ["a.csv", "b.csv"]
    with pytest.raises(UserError, match="there is no such file"):
        input_files(str(tmp_path / "*.json"))
    (tmp_path / "[a].csv").write_text("x")
    assert [file.name for file in input_files(str(tmp_path / "[a].csv"))] == ["[a].csv"], "a file before it is a glob"
    assert [file.name for file in input_files(str(tmp_path / "[b].csv"))] == ["b.csv"]
    files = input_files(str(tmp_path))
    assert (log_format(files, None), log_format(files, "jsonl")) == ("csv", "jsonl")
    with pytest.raises(UserError, match="--format"):
        log_format([*files, tmp_path / "c.parquet"], None)


@pytest.mark.skipif(find_spec("pyspark") is None, reason="needs PySpark")
def test_spark_gets_the_files_whose_content_is_known(tmp_path, monkeypatch):
    """A glob may name a folder, too."""
    from pipelines.prepare import job, session

    (tmp_path / "archive").mkdir()
    for name in ("[a] b.csv", "archive/old.csv"):
        (tmp_path / name).write_text("user,item,timestamp\n")
    asked = []
    monkeypatch.setattr(session, "spark_session", lambda master, memory: nullcontext())
    times = {"newest": 1, "unit": "the log's own numbers"}
    manifest = {"rejects": None, "events": 1, "dropped": {}, "times": times}
    monkeypatch.setattr(job, "prepare", lambda spark, options, console: asked.append(options) or manifest)
    source = str(tmp_path / "*")
    preparation = Preparation(source, "csv", SPARK, COLUMNS, 5, "drop")
    _on_spark(preparation, input_files(source), tmp_path / "out", None, None)
    (options,) = asked
    assert options.paths == [f"file://{tmp_path}/\\[a\\] b.csv"]
