import functools
import hashlib
import http.server
import socket
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from elcrec_tf.config import DataConfig, SimulatorConfig
from elcrec_tf.data import datasets, movielens
from elcrec_tf.data.datasets import BENCHMARKS, load_dataset, short_name
from elcrec_tf.errors import UserError

BEAUTY = b"1 1 2 3\n2 3 2 1 4\n"


class Server(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and writes down what was asked for."""

    requests: list[str] = []

    def log_message(self, format, *args):  # noqa: A002
        self.requests.append(self.path)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder that stands for the benchmark files' site, its requests in `Server.requests`."""
    folder = tmp_path / "site"
    folder.mkdir()
    Server.requests.clear()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Server, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(datasets, "BASE_URL", f"http://127.0.0.1:{server.server_port}")
        yield folder
        server.shutdown()


@pytest.fixture
def small_beauty(monkeypatch):
    """The published Beauty file is `BEAUTY` for a test."""
    monkeypatch.setitem(BENCHMARKS, "beauty", ("Beauty.txt", hashlib.sha256(BEAUTY).hexdigest()))


def refused_url() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def fails(message, **options):
    with pytest.raises(UserError, match=message) as caught:
        load_dataset(DataConfig(**options))
    assert "\n" not in str(caught.value)


# ---- by name


def test_simulated_data_follows_its_own_settings():
    sequences = load_dataset(DataConfig(), SimulatorConfig(sim_users=7, sim_items=40, sim_intents=2))
    assert (sequences.name, sequences.num_users) == ("simulated", 7)


@pytest.mark.parametrize(
    ("name", "users", "items", "events"),
    [("beauty", 22363, 12101, 198502), ("sports", 35598, 18357, 296337), ("toys", 19412, 11924, 167597), ("yelp", 30431, 20033, 316354)],
)
def test_published_files_are_found_in_a_folder(shared, name, users, items, events):
    sequences = load_dataset(DataConfig(dataset=name, data_dir=str(shared / "data")))
    assert (sequences.name, sequences.num_users, sequences.catalog.num_items, sequences.num_events) == (name, users, items, events)
    assert sequences.dropped == {}


def test_download_happens_once(site, small_beauty, tmp_path):
    (site / "Beauty.txt").write_bytes(BEAUTY)
    config = DataConfig(dataset="beauty", data_dir=str(tmp_path / "new" / "cache"), k_core=1)
    first, second = load_dataset(config), load_dataset(config)
    assert first.fingerprint == second.fingerprint
    assert first.name == "beauty"
    assert Server.requests == ["/Beauty.txt"]
    assert [path.name for path in (tmp_path / "new" / "cache").iterdir()] == ["Beauty.txt"]


def test_default_folder_is_in_the_users_cache(site, small_beauty, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (site / "Beauty.txt").write_bytes(BEAUTY)
    load_dataset(DataConfig(dataset="beauty", k_core=1))
    assert (tmp_path / ".cache" / "elcrec_tf" / "Beauty.txt").read_bytes() == BEAUTY


def test_download_of_another_file_is_refused_and_not_kept(site, tmp_path):
    (site / "Beauty.txt").write_bytes(BEAUTY)
    fails(
        "Beauty.txt: gives another file than the published one.*by hand at .*Beauty.txt", dataset="beauty", data_dir=str(tmp_path / "cache")
    )
    assert not (tmp_path / "cache").exists()


def test_local_file_that_is_not_the_published_one(tmp_path):
    (tmp_path / "Beauty.txt").write_bytes(BEAUTY)
    fails("Beauty.txt: is not the published Beauty.txt .*SHA-256 differs.*remove it", dataset="beauty", data_dir=str(tmp_path))


def test_absent_from_the_site(site, tmp_path):
    fails("/Yelp.txt: cannot be fetched .*404.*put the file by hand at .*Yelp.txt", dataset="yelp", data_dir=str(tmp_path))


def test_no_network(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(datasets, "BASE_URL", refused_url())
    message = r"http://127.0.0.1:\d+/Toys_and_Games.txt: cannot be fetched .*refused.*by hand at .*Toys_and_Games.txt"
    fails(message, dataset="toys", data_dir=str(tmp_path))


def test_cache_folder_that_cannot_be_written(site, small_beauty, tmp_path):
    (site / "Beauty.txt").write_bytes(BEAUTY)
    (tmp_path / "file").write_text("in the way")
    fails("cannot be written .*--data-dir", dataset="beauty", data_dir=str(tmp_path / "file" / "cache"))


# ---- by path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("log.txt", "u a b c\n"),
        ("log.csv", "user,item,timestamp\nu,a,1\nu,b,2\nu,c,3\n"),
        ("log.NDJSON", "".join(f'{{"user": "u", "item": "{item}", "timestamp": {time}}}\n' for time, item in enumerate("abc"))),
    ],
)
def test_file_is_read_by_its_ending(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    sequences = load_dataset(DataConfig(dataset=str(tmp_path / name), k_core=1))
    assert (sequences.name, sequences.catalog.ids.tolist()) == ("log", ["a", "b", "c"])


def test_format_may_be_named(tmp_path):
    (tmp_path / "events.log").write_text("user,item,timestamp\nu,a,1\nu,b,2\nu,c,3\n")
    assert load_dataset(DataConfig(dataset=str(tmp_path / "events.log"), format="csv", k_core=1)).num_events == 3
    fails("events.log: unknown format; .*--format", dataset=str(tmp_path / "events.log"))


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("Beauty.txt", "beauty"),
        ("Sports_and_Outdoors.txt", "sports"),
        ("Toys_and_Games.txt", "toys"),
        ("Yelp.txt", "yelp"),
        ("My Shop (2024).csv", "my-shop-2024"),
        ("part.v2.parquet", "part.v2"),
        ("shop-2024.06", "shop-2024.06"),
        ("behaviors.tsv", "behaviors"),
        ("Покупки 2024.csv", "покупки-2024"),
        ("購買.csv", "購買"),
        ("Cafe\u0301.csv", "caf\u00e9"),  # as macOS writes it
        ("खरीद.csv", "खरीद"),  # vowels that are marks
        ("\udcff🛒.csv", "dataset"),
    ],
)
def test_short_names_are_safe_for_folders(tmp_path, file, name):
    assert short_name(tmp_path / file) == name


def test_unknown_name_lists_the_known_ones():
    fails("unknown data set 'Beauti'; did you mean 'beauty'.* Known: simulated, beauty, .*movielens-1m, or the path", dataset="Beauti")
    fails("unknown data set 'xyz'; Known: simulated", dataset="xyz")


def test_paths_that_are_no_data_set(tmp_path):
    fails("nowhere.csv: there is no such file", dataset=str(tmp_path / "nowhere.csv"))
    fails("nowhere.csv: there is no such file", dataset="nowhere.csv")
    fails("is a folder without Parquet files, not a data set; give a file", dataset=str(tmp_path))
    (tmp_path / "empty.csv").touch()
    fails("empty.csv: is empty", dataset=str(tmp_path / "empty.csv"))


def test_filter_options_go_with_logs_only(tmp_path):
    (tmp_path / "log.txt").write_text("u a b c\n")
    for dataset in ("simulated", "beauty", str(tmp_path / "log.txt")):
        message = f"{dataset}: has no columns, so --filter-column.* do not fit.*--filter-column '' turns off"
        fails(message, dataset=dataset, filter_column="rating", min_value=4.0)


def test_an_empty_filter_column_is_no_filter(tmp_path):
    (tmp_path / "log.txt").write_text("u a b c\n")
    (tmp_path / "log.csv").write_text("user,item,timestamp\nu,a,1\nu,b,2\nu,c,3\n")
    for name in ("log.txt", "log.csv"):
        config = DataConfig(dataset=str(tmp_path / name), k_core=1, filter_column="", min_value=4.0, keep_values=("buy",))
        assert load_dataset(config).num_events == 3


# ---- titles


def test_item_metadata_gives_titles(tmp_path):
    (tmp_path / "log.txt").write_text("u a b c\n")
    (tmp_path / "titles.csv").write_text("id,title\nb,The B\nx,Not here\n")
    sequences = load_dataset(DataConfig(dataset=str(tmp_path / "log.txt"), k_core=1, item_metadata=str(tmp_path / "titles.csv")))
    assert sequences.catalog.titles == {"b": "The B"}
    assert sequences.catalog.index(["c"]).tolist() == [3]
    assert sequences.catalog.counts.tolist() == [1, 0, 0]


def test_item_metadata_of_other_items_is_refused(tmp_path):
    (tmp_path / "log.txt").write_text("u a b c\n")
    (tmp_path / "titles.csv").write_text("id,title\nB000,The B\n")
    message = "titles.csv: has no title for any item; its ids look like 'B000', the data set's like 'a'"
    fails(message, dataset=str(tmp_path / "log.txt"), k_core=1, item_metadata=str(tmp_path / "titles.csv"))


# ---- MovieLens


def test_movielens(tmp_path, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("importlib_resources")  # tensorflow-datasets uses it without asking for it
    import tensorflow as tf

    columns = {
        "user_id": [b"7", b"7", b"7", b"7", b"9", b"9", b"9"],
        "movie_id": [b"30", b"20", b"10", b"20", b"10", b"20", b"30"],
        "movie_title": [b"Am\xc3\xa9lie", b"Heat", b"Bond", b"Heat", b"Bond", b"Heat", b"Am\xc3\xa9lie"],
        "timestamp": np.array([3, 1, 2, 4, 5, 6, 7]),
        "user_rating": np.array([4, 5, 3, 1, 5, 5, 5], np.float32),
    }
    monkeypatch.setattr(movielens, "_check_reachable", lambda url: None)
    with tfds.testing.mock_data(as_dataset_fn=lambda self, **kwargs: tf.data.Dataset.from_tensor_slices(columns)):
        sequences = load_dataset(DataConfig(dataset="movielens-100k", data_dir=str(tmp_path), k_core=1))
        rated = load_dataset(DataConfig(dataset="movielens-1m", k_core=1, filter_column="user_rating", min_value=2.0))
    assert (sequences.name, sequences.user_ids.tolist(), sequences.catalog.ids.tolist()) == (
        "movielens-100k",
        ["7", "9"],
        ["30", "20", "10"],
    )
    assert sequences.catalog.raw(sequences[0]) == ["20", "10", "30", "20"]
    assert sequences.catalog.titles == {"30": "Amélie", "20": "Heat", "10": "Bond"}
    assert rated.dropped == {"filtered out by user_rating": 1}


def test_movielens_without_a_network(tmp_path, monkeypatch):
    pytest.importorskip("tensorflow_datasets")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setitem(movielens.ARCHIVES, "movielens-1m", f"{refused_url()}/ml-1m.zip")
    message = "ml-1m.zip: cannot be fetched .*refused.*by hand at .*movielens/1m-ratings"
    fails(message, dataset="movielens-1m", data_dir=str(tmp_path))


def test_movielens_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    asked = []
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", SimpleNamespace(builder=lambda name, data_dir: asked.append(data_dir)))
    for data_dir in ("~/tfds", None):
        fails(f"by hand at {tmp_path if data_dir else '~'}/t.*/movielens/1m-ratings", dataset="movielens-1m", data_dir=data_dir)
    assert asked == [f"{tmp_path}/tfds", None]


def test_movielens_without_tensorflow_datasets(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    fails("movielens-1m needs .* pip install tensorflow-datasets", dataset="movielens-1m")


def test_movielens_filters_on_ratings_only():
    fails("movielens-1m: the column to filter on is user_rating", dataset="movielens-1m", filter_column="genre", keep_values=("Drama",))


def test_importing_loads_no_tensorflow():
    code = "import sys, elcrec_tf.data.datasets, elcrec_tf.data.splits; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
