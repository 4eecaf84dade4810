import json

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from elcrec_tf.config import Config, DataConfig
from elcrec_tf.data.catalog import Catalog
from elcrec_tf.data.events import Events
from elcrec_tf.errors import UserError
from elcrec_tf.serving.batch import (
    Coverage,
    check_output,
    coverage,
    input_config,
    output_schema,
    read_events,
    recommend_events,
    write_tables,
)
from elcrec_tf.serving.recommender import Recommender
from tests.prepared import write_shards
from tests.serving.conftest import ODD, TITLES
from tests.toy import sequences_of

# Out of order in time; users interleaved; "two" has one event, "new" none that is known.
LOG = [
    ("one", "i2", 20),
    ("two", "i9", 5),
    ("one", "i1", 10),
    ("new", "nobody", 1),
    ("one", "nothing", 15),
    ("one", "i1", 30),
]
COLUMNS = [("user", pa.string()), ("rank", pa.int32()), ("item", pa.string()), ("title", pa.string()), ("score", pa.float32())]
SCHEMA = pa.schema(COLUMNS)
PLAIN = pa.schema([column for column in COLUMNS if column[0] != "title"])
HISTORIES = {"one": ["i1", "nothing", "i2", "i1"], "two": ["i9"], "new": ["nobody"]}


@pytest.fixture(scope="module")
def recommender(exported):
    return Recommender.load(exported)


def write_log(path, names=("user", "item", "timestamp")):
    table = pa.table(dict(zip(names, (list(column) for column in zip(*LOG, strict=True)), strict=True)))
    if path.suffix == ".csv":
        pyarrow.csv.write_csv(table, path)
    elif path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    return path


def read_output(path, schema=SCHEMA):
    """Rows (user, rank, item, title, score) of an output file; without the title where `schema` has none."""
    if path.suffix == ".csv":
        convert = pyarrow.csv.ConvertOptions(column_types=schema, strings_can_be_null=True, quoted_strings_can_be_null=False)
        parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
        rows = pyarrow.csv.read_csv(path, parse_options=parse, convert_options=convert).to_pylist()
    elif path.suffix == ".parquet":
        table = pq.read_table(path)
        assert table.schema == schema
        rows = table.to_pylist()
    else:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert all(list(row) == schema.names for row in rows)
    return [(*list(row.values())[:-1], np.float32(row["score"])) for row in rows]


def expected_rows(recommender, histories, k):
    answers = recommender.recommend(list(histories.values()), k)
    return [
        (user, rank, item.item_id, item.title, np.float32(item.score))
        for user, items in zip(histories, answers, strict=True)
        for rank, item in enumerate(items, 1)
    ]


@pytest.mark.parametrize("output", ["out.csv", "out.parquet", "out.jsonl"])
@pytest.mark.parametrize("source", ["log.csv", "log.parquet", "log.jsonl"])
def test_every_format_in_and_out(recommender, tmp_path, source, output):
    events = read_events(write_log(tmp_path / source), DataConfig())
    rows = write_tables(tmp_path / output, recommend_events(recommender, events, 3), SCHEMA)
    assert rows == 9
    assert read_output(tmp_path / output) == expected_rows(recommender, HISTORIES, 3)


def test_sequence_files_are_read_too(recommender, tmp_path):
    (tmp_path / "in.txt").write_text("u1 i3 i2\nu2 i7\n")
    events = read_events(tmp_path / "in.txt", DataConfig())
    write_tables(tmp_path / "out.csv", recommend_events(recommender, events, 2), SCHEMA)
    assert read_output(tmp_path / "out.csv") == expected_rows(recommender, {"u1": ["i3", "i2"], "u2": ["i7"]}, 2)


def test_shards_are_no_log_in_parquet(tmp_path):
    """Their catalogue is a Parquet file."""
    write_shards(sequences_of([1, 2, 3, 4]), tmp_path / "shop")
    with pytest.raises(UserError, match="shop: is a data set in shards; give --input the log"):
        read_events(tmp_path / "shop", DataConfig())


def test_columns_can_have_other_names(recommender, tmp_path):
    path = write_log(tmp_path / "log.csv", names=("who", "what", "when"))
    events = read_events(path, DataConfig(user_column="who", item_column="what", time_column="when"))
    assert list(events.user_ids) == list(HISTORIES)
    with pytest.raises(UserError, match="no column 'user'.*--user-column"):
        read_events(path, DataConfig())


CONFIG = Config().replace(
    dataset="old.csv",
    format="jsonl",
    user_column="who",
    item_column="what",
    time_column="when",
    filter_column="stars",
    min_value=4.0,
    k_core=7,
)
METADATA = json.loads(json.dumps({"config": CONFIG.to_dict()}))


def test_an_input_is_read_as_the_training_data():
    """Columns and filter only: the data set, its format and the k-core were the training file's own."""
    assert input_config(METADATA, {}) == DataConfig(
        user_column="who", item_column="what", time_column="when", filter_column="stars", min_value=4.0
    )
    events = json.loads(json.dumps({"config": Config().replace(filter_column="event", keep_values=["buy", "view"]).to_dict()}))
    assert input_config(events, {}) == DataConfig(filter_column="event", keep_values=("buy", "view"))


@pytest.mark.parametrize("metadata", [{}, {"config": None}, {"config": {"preset": "default"}}])
def test_an_export_without_a_config_leaves_the_defaults(metadata):
    assert input_config(metadata, {}) == DataConfig()
    assert input_config(metadata, {"user_column": "u", "format": "csv"}) == DataConfig(user_column="u", format="csv")


@pytest.mark.parametrize(
    ("flags", "filter_of"),
    [
        ({"user_column": "u"}, ("stars", 4.0, None)),
        ({"filter_column": "rating"}, ("rating", 4.0, None)),  # another name for the same column
        ({"min_value": 3.0}, ("stars", 3.0, None)),
        ({"filter_column": "event", "keep_values": ["buy"]}, ("event", None, ("buy",))),  # 4.0 was for the stars
        ({"filter_column": ""}, (None, None, None)),
    ],
)
def test_flags_win_over_the_training_data(flags, filter_of):
    config = input_config(METADATA, flags)
    assert (config.filter_column, config.min_value, config.keep_values) == filter_of
    assert config.user_column == flags.get("user_column", "who")


def test_a_sequence_file_has_no_columns_to_filter(tmp_path):
    (tmp_path / "in.txt").write_text("u1 i3 i2\n")
    events = read_events(tmp_path / "in.txt", input_config(METADATA, {}))
    assert (list(events.item_ids), events.dropped) == (["i3", "i2"], {})


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("user,what,when,stars", "no column 'who'.*--user-column"),
        ("who,what,when,rating", "no column 'stars'.*--filter-column"),
    ],
)
def test_a_missing_column_of_the_training_data_names_its_flag(tmp_path, header, message):
    (tmp_path / "log.csv").write_text(f"{header}\na,i1,1,5\n")
    with pytest.raises(UserError, match=message):
        read_events(tmp_path / "log.csv", input_config(METADATA, {}))


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_titles_are_there_where_the_catalogue_has_them(recommender, tmp_path, ending):
    events = Events("log", np.zeros(1, int), np.zeros(1, int), np.array(["u"], object), np.array(["i9"], object))
    output = tmp_path / f"out.{ending}"
    write_tables(output, recommend_events(recommender, events, 12, include_history=True), output_schema(recommender))
    rows = {row[2]: row[3] for row in read_output(output)}
    assert rows == {item: TITLES.get(item) for item in rows}
    plain = Recommender(recommender.folder, recommender.metadata, Catalog(recommender.catalog.ids), recommender._loaded)
    assert output_schema(plain) == PLAIN
    write_tables(output, recommend_events(plain, events, 12, include_history=True), output_schema(plain))
    assert [row[2] for row in read_output(output, PLAIN)] == list(rows)


@pytest.mark.parametrize("users_at_a_time", [1, 2, 3])
def test_pieces_make_up_the_whole(recommender, tmp_path, users_at_a_time):
    events = read_events(write_log(tmp_path / "log.csv"), DataConfig())
    tables = list(recommend_events(recommender, events, 4, users_at_a_time=users_at_a_time))
    assert len(tables) == -(-3 // users_at_a_time)
    rows = [tuple(row.values()) for table in tables for row in table.to_pylist()]
    for row, expected in zip(rows, expected_rows(recommender, HISTORIES, 4), strict=True):
        assert row[:4] == expected[:4]
        assert row[4] == pytest.approx(expected[4], rel=1e-5, abs=1e-5)


def test_coverage_counts_what_is_unknown(recommender, tmp_path):
    events = read_events(write_log(tmp_path / "log.csv"), DataConfig())
    assert coverage(recommender, events) == Coverage(users=3, events=6, unknown_events=2, fallback_users=1)


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_odd_ids_survive(recommender, tmp_path, ending):
    users = ["a\nb", 'q"uo,te', " padded ", "ユーザー"]
    table = pa.table({"user": users, "item": ["i1", ODD[0], "i2", ODD[4]], "timestamp": [1, 2, 3, 4]})
    pq.write_table(table, tmp_path / "in.parquet")
    events = read_events(tmp_path / "in.parquet", DataConfig())
    output = tmp_path / f"out.{ending}"
    write_tables(output, recommend_events(recommender, events, 12), SCHEMA)
    histories = dict(zip(users, ([item] for item in table["item"].to_pylist()), strict=True))
    assert read_output(output) == expected_rows(recommender, histories, 12)
    assert {row[2] for row in read_output(output)} & set(ODD)


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_a_user_who_has_everything_gets_no_row(recommender, catalog, tmp_path, ending):
    size = catalog.num_items
    everything = Events("log", np.zeros(size, int), np.arange(size), np.array(["u"], object), catalog.ids)
    output = tmp_path / f"out.{ending}"
    assert write_tables(output, recommend_events(recommender, everything, 5), SCHEMA) == 0
    assert read_output(output) == []


def test_include_history(recommender, tmp_path):
    events = read_events(write_log(tmp_path / "log.csv"), DataConfig())
    (table,) = recommend_events(recommender, events, 12, include_history=True)
    items = [row["item"] for row in table.to_pylist() if row["user"] == "two"]
    assert items == [item.item_id for item in recommender.recommend([["i9"]], 12, include_history=True)[0]]


def test_a_failure_leaves_the_old_file(recommender, tmp_path):
    (tmp_path / "out.csv").write_text("old")

    def tables():
        yield SCHEMA.empty_table()
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_tables(tmp_path / "out.csv", tables(), SCHEMA)
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]
    assert (tmp_path / "out.csv").read_text() == "old"


def test_outputs_that_cannot_be_written_are_user_errors(tmp_path):
    source = write_log(tmp_path / "log.csv")
    (tmp_path / "folder.csv").mkdir()
    for output, message in (
        (tmp_path / "out.xlsx", "unknown format.*.csv"),
        (tmp_path / "out.txt", "unknown format"),
        (tmp_path / "out", "unknown format"),
        (tmp_path / "folder.csv", "is a folder"),
        (source, "is the input itself"),
    ):
        with pytest.raises(UserError, match=message):
            check_output(output, source)
    check_output(tmp_path / "new" / "out.csv", source)
    with pytest.raises(UserError, match="cannot be written"):
        write_tables(source / "out.csv", [], SCHEMA)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user,item,timestamp\n", "is empty"),
        ("user,item\nu,i1\n", "no column 'timestamp'.*--time-column"),
        ("user,item,timestamp\nu,i1,1\nu,,2\n", "line 3: column 'item' is missing"),
        ("user,item,timestamp\nu,i1,soon\n", "line 2: column 'timestamp'"),
    ],
)
def test_faults_of_the_input_are_user_errors(tmp_path, text, message):
    (tmp_path / "log.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_events(tmp_path / "log.csv", DataConfig())
