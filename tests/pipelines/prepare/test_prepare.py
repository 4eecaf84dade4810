"""The preparation on a small local Spark, beside the reader for one machine."""

import csv
import gzip
import json
import shutil
from importlib.util import find_spec

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from elcrec_tf import cli
from elcrec_tf.config import DataConfig
from elcrec_tf.data.datasets import load_dataset
from elcrec_tf.data.shard_stream import users_of
from elcrec_tf.data.shards import load_shards
from elcrec_tf.errors import UserError
from pipelines.prepare.options import PrepareOptions

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("pyspark") is None or shutil.which("java") is None, reason="needs PySpark and Java"),
]

NAMES = ("user", "item", "timestamp")
BAD = [("", "i", "1"), ("u", None, "1"), ("u", "i", "soon"), ("u", "i", "2024-05-31")]


@pytest.fixture(scope="session")
def spark():
    from pipelines.prepare.session import spark_session

    with spark_session("local[2]", "512m", partitions=3) as session:
        yield session


@pytest.fixture
def prepared(spark, tmp_path):
    """Prepares and opens a data set."""
    from pipelines.prepare.job import prepare

    def run(source, format="csv", name="out", **fields):  # noqa: A002 - as the flag is called
        options = PrepareOptions(str(source), format, str(tmp_path / name), **{"k_core": 3, "shards": 3, **fields})
        prepare(spark, options, cli.console())
        return load_shards(tmp_path / name, name)

    return run


def log(seed=0, rows=700):
    """A log with ties, repeats, odd ids and rows in any order; the 3-core leaves about half of it."""
    rng = np.random.default_rng(seed)
    users = [f"u {number}" if number % 5 else f'"{number}", é' for number in rng.zipf(1.3, rows) % 90]
    items = [f"{number:03d}" for number in rng.zipf(1.2, rows) % 80]
    found = [*zip(users, items, map(str, rng.integers(0, 40, rows)), strict=True)]
    found += [found[index] for index in rng.integers(0, rows, 40)]
    return [found[index] for index in rng.permutation(len(found))]


def write_csv(path, rows, names=NAMES):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names, *rows])
    return path


def histories_of(data):
    """Raw user id -> raw item ids, of a data set in memory or in shards."""
    if isinstance(data.manifest if hasattr(data, "manifest") else None, dict):
        users = users_of(data, data.files()).as_numpy_iterator()
        return {user["user"].decode(): data.catalog.raw(user["items"]) for user in users}
    return {raw: data.catalog.raw(data[number]) for number, raw in enumerate(data.user_ids)}


def counts_of(data):
    return dict(zip(data.catalog.ids, data.catalog.counts.tolist(), strict=True))


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("repeated_rows", ["drop", "keep"])
@pytest.mark.parametrize("k_core", [1, 3])
def test_spark_and_one_machine_make_the_same_sequences(prepared, tmp_path, repeated_rows, k_core):
    path = write_csv(tmp_path / "log.csv", log())
    alone = load_dataset(DataConfig(dataset=str(path), k_core=k_core, ties="item", repeated_rows=repeated_rows))
    shards = prepared(path, k_core=k_core, repeated_rows=repeated_rows)
    assert 10 < len(histories_of(alone)) and alone.num_events < 700
    assert histories_of(shards) == histories_of(alone)
    assert counts_of(shards) == counts_of(alone)
    assert shards.dropped == alone.dropped


def test_every_format_and_form_of_time_gives_the_same_sequences(prepared, tmp_path):
    rows = log()
    days = [(user, item, str(np.datetime64("2024-01-01") + int(time))) for user, item, time in rows]
    expected = histories_of(prepared(write_csv(tmp_path / "log.csv", rows), name="numbers"))
    assert histories_of(prepared(write_csv(tmp_path / "days.csv", days), name="days")) == expected
    (tmp_path / "log.jsonl").write_text("\n\n".join(json.dumps({"u": user, "i": item, "t": float(time)}) for user, item, time in rows))
    assert histories_of(prepared(tmp_path / "log.jsonl", "jsonl", "json", columns=("u", "i", "t"))) == expected
    columns = list(zip(*rows, strict=True))
    times = pa.array([int(time) for time in columns[2]], pa.timestamp("ns"))
    pq.write_table(pa.table({"user": columns[0], "item": columns[1], "timestamp": times}), tmp_path / "log.parquet")
    assert histories_of(prepared(tmp_path / "log.parquet", "parquet", "parquet")) == expected


def test_the_bytes_do_not_depend_on_the_order_of_rows_files_or_partitions(prepared, spark, tmp_path):
    rows = [*log(), *BAD]
    prepared(write_csv(tmp_path / "one.csv", rows), name="first")
    several = tmp_path / "several"
    several.mkdir()
    shuffled = [rows[index] for index in np.random.default_rng(1).permutation(len(rows))]
    for number in range(3):
        write_csv(several / "one.csv" if number == 0 else several / f"{number}.csv", shuffled[number::3])
    spark.conf.set("spark.sql.shuffle.partitions", 5)
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", 50)
    prepared(several, name="second")
    spark.conf.set("spark.sql.shuffle.partitions", 3)
    first, second = content(tmp_path / "first"), content(tmp_path / "second")
    # Rejects name the file that they stand in, and the manifest their checksum.
    assert first.keys() == second.keys()
    assert {name for name in first if first[name] != second[name]} == {"rejects.jsonl.gz", "manifest.json"}
    prepared(tmp_path / "one.csv", name="second", overwrite=True)
    assert content(tmp_path / "second") == first


def test_bad_rows_are_counted_and_written_out(prepared, tmp_path):
    path = write_csv(tmp_path / "log.csv", [*log(), *BAD, ("one", "two"), ("u", "i", "1", "too many")])
    shards = prepared(path)
    reasons = {
        "bad or missing item": 1,
        "bad or missing time": 1,
        "bad or missing time: others are numbers": 1,
        "bad or missing user": 1,
        "malformed row": 2,
    }
    assert shards.manifest["rejects"]["reasons"] == reasons and shards.dropped["rejected"] == 6
    lines = gzip.decompress((tmp_path / "out" / "rejects.jsonl.gz").read_bytes()).decode().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["reason"] for row in rows] == [reason for reason, count in reasons.items() for _ in range(count)]
    assert {row["file"] for row in rows} == {"log.csv"} and [row["row"] for row in rows[-2:]] == ["one,two", "u,i,1,too many"]
    assert histories_of(shards) == histories_of(prepared(write_csv(tmp_path / "good.csv", log()), name="good"))


def test_an_extended_catalogue_keeps_the_indices_of_old_items(prepared, tmp_path):
    old = prepared(write_csv(tmp_path / "old.csv", log()), name="old")
    rows = [(user, f"new {item}" if int(item) % 2 else item, time) for user, item, time in log(1)]
    new = prepared(write_csv(tmp_path / "new.csv", rows), name="new", catalog=str(tmp_path / "old"))
    size = old.catalog.num_items
    assert list(new.catalog.ids[:size]) == list(old.catalog.ids)
    added = list(new.catalog.ids[size:])
    assert added == sorted(added) and all(raw.startswith("new") or raw not in set(old.catalog.ids) for raw in added) and added
    odd = [index for index, raw in enumerate(old.catalog.ids) if int(raw) % 2]
    assert not new.catalog.counts[odd].any()
    alone = load_dataset(DataConfig(dataset=str(tmp_path / "new.csv"), k_core=3, ties="item", repeated_rows="drop"))
    assert histories_of(new) == histories_of(alone)


def test_a_split_by_time_and_the_latest_events(prepared, tmp_path):
    path = write_csv(tmp_path / "log.csv", log())
    shards = prepared(path, k_core=2, split="time", validation_from="20", test_from="30", max_events=4, name="time")
    times, late, users, events = {}, 0, 0, 0
    for user, item, time in set(log()):
        times.setdefault(user, []).append((int(time), item))
    for user in users_of(shards, shards.files()).as_numpy_iterator():
        raw, positions = user["user"].decode(), user["positions"].tolist()
        every = [(time, item) for time, item in sorted(times[raw]) if item in set(shards.catalog.ids)]
        tested = [place for place, (time, _) in enumerate(every) if time >= 30]
        wanted = every[: tested[0] + 1] if tested else every
        late, users, events = late + len(every) - len(wanted), users + 1, events + len(wanted[-4:])
        kept = [time for time, _ in wanted[-4:]]
        assert shards.catalog.raw(user["items"]) == [item for _, item in wanted[-4:]]
        assert positions[0] == sum(time < 20 for time in kept)
        targets = [next((place for place, time in enumerate(kept) if low <= time < high), -1) for low, high in ((20, 30), (30, 99))]
        assert positions[1:] == [place if place > 0 else -1 for place in targets]
    assert (shards.num_users, shards.num_events) == (users, events) and late > 0
    assert shards.dropped["after a user's first event of the test part"] == late
    with pytest.raises(UserError, match="--validation-from 2024-05-31 is not of the form"):
        prepared(path, split="time", validation_from="2024-05-31", test_from="30", name="wrong")
    assert not (tmp_path / "wrong").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"source": "missing.csv"}, "missing.csv: cannot be read as csv"),
        (
            {"columns": ("user", "sku", "timestamp")},
            "has no column 'sku'; its columns are 'user', 'item', 'timestamp'. Name .* --item-column",
        ),
        ({"k_core": 100}, "nothing is left of .* try a smaller --k-core"),
        ({"catalog": "missing"}, "is not a catalogue"),
    ],
)
def test_one_line_says_what_is_wrong(prepared, tmp_path, fields, message):
    path = write_csv(tmp_path / "log.csv", log())
    with pytest.raises(UserError, match=message) as caught:
        prepared(**{"source": path, **fields})
    assert "\n" not in str(caught.value)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["log.csv"]


def test_another_header_is_an_error(prepared, tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    write_csv(folder / "a.csv", log())
    write_csv(folder / "b.csv", log(), names=("item", "user", "timestamp"))
    with pytest.raises(UserError, match="logs/b.csv: its header names the columns 'item', 'user', .* that of /.*/a.csv 'user', 'item'"):
        prepared(folder)


def test_columns_without_a_name_and_of_one_name_are_no_fault_where_they_are_not_wanted(prepared, tmp_path):
    """Such as the index that pandas writes."""
    rows = log()
    path = write_csv(
        tmp_path / "log.csv",
        [(number, user, "x", item, "", time) for number, (user, item, time) in enumerate(rows)],
        names=("", "user", "note", "item", "note", "timestamp"),
    )
    found = histories_of(prepared(path))
    assert found == histories_of(prepared(write_csv(tmp_path / "plain.csv", rows), name="plain"))
    write_csv(path, [(number, *row) for number, row in enumerate(rows)], names=("User", *NAMES))
    assert histories_of(prepared(path, overwrite=True)) == found
    write_csv(path, [], names=("user", *NAMES))
    with pytest.raises(UserError, match="log.csv: has 2 columns named 'user'; rename all but one"):
        prepared(path, name="double")


def test_parquet_files_whose_times_have_other_units_are_put_in_order(prepared, tmp_path):
    """As they are on one machine; Spark reads all files as it reads the first one, whatever their units."""
    (tmp_path / "logs").mkdir()
    for name, time, unit in (("a", "2024-04-01", "ns"), ("b", "2024-01-01", "us"), ("c", "2024-05-01", "ms"), ("d", "2024-06-01", "ns")):
        times = pa.array(np.array([time] * 2, "datetime64[s]")).cast(pa.timestamp(unit))
        # A whole number for an id is no other id than its text.
        items = pa.array([ord(name)] * 2) if name == "b" else pa.array([str(ord(name))] * 2)
        pq.write_table(pa.table({"user": ["u", "v"], "item": items, "timestamp": times}), tmp_path / "logs" / f"{name}.parquet")
    shards = prepared(tmp_path / "logs", "parquet", k_core=1)
    assert histories_of(shards) == dict.fromkeys("uv", ["98", "97", "99", "100"])
    assert shards.manifest["times"] == {
        "form": "dates without a time zone",
        "unit": "microseconds since 1970",
        "newest": int(np.datetime64("2024-06-01", "us").astype(int)),
    }
    only = {"k_core": 1, "split": "time", "validation_from": "2024-05-01", "test_from": "2024-06-01", "name": "time"}
    times = prepared(tmp_path / "logs" / "[ad].parquet", "parquet", **only).manifest["times"]
    assert (times["form"], times["unit"]) == ("dates without a time zone", "nanoseconds since 1970")
    pq.write_table(pa.table({"user": ["u"], "timestamp": [1]}), tmp_path / "logs" / "e [1].parquet")
    with pytest.raises(UserError, match=r"^/.*/logs/e \[1\].parquet: has no column 'item'; its columns are 'user', 'timest"):
        prepared(tmp_path / "logs", "parquet", name="other")


def test_folders_and_files_may_have_any_letters(prepared, tmp_path):
    """Of a glob, of an address, and blanks; and of all that a folder holds, the files that are named are read."""
    expected = histories_of(prepared(write_csv(tmp_path / "log.csv", log()), name="plain"))
    folder = tmp_path / "my [data] 100%25"
    (folder / "archive").mkdir(parents=True)
    write_csv(folder / "archive" / "old.csv", log(1))
    path = write_csv(folder / "{a} *.csv", log())
    assert histories_of(prepared(folder / "*", files=(str(path),), name="my [data] 100%25/out 1")) == expected
    assert sorted(one.name for one in folder.iterdir()) == ["archive", "out 1", "{a} *.csv"]
    columns = dict(zip(NAMES, zip(*log(), strict=True), strict=True))
    pq.write_table(pa.table({**columns, "timestamp": pa.array(map(int, columns["timestamp"]))}), folder / "a [1].parquet")
    found = prepared(folder / "*.parquet", "parquet", files=(str(folder / "a [1].parquet"),), name="parquet")
    assert histories_of(found) == expected
