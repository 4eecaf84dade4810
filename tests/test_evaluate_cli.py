"""`python -m elcrec_tf.evaluate` on a small run made by hand."""

import json

import keras
import pytest

from elcrec_tf import evaluate
from elcrec_tf.data.datasets import load_dataset
from elcrec_tf.errors import UserError
from elcrec_tf.files import write_json
from elcrec_tf.model import build_model
from elcrec_tf.run_folder import RunFolder
from tests.prepared import write_shards
from tests.toy import toy_config

LOG = "a i1 i2 i3 i4\nb i2 i3 i1\nc i4 i1 i2 i3\n"
LONGER = LOG + "d i3 i2 i1 unheard-of\n"


def make_run(tmp_path, fingerprint=True):
    """A run on `shop.txt`; without a fingerprint it is one of an older version."""
    data = tmp_path / "shop.txt"
    data.write_text(LOG)
    config = toy_config(dataset=str(data), k_core=1)
    sequences = load_dataset(config.data)
    keras.utils.set_random_seed(1)
    folder = RunFolder(tmp_path / "runs" / "[v2]")
    folder.create(config, sequences.catalog, sequences.fingerprint if fingerprint else None)
    folder.save_model(build_model(config, sequences.catalog.num_items))
    return folder, data


def metrics_files(folder):
    return sorted(path.name for path in folder.path.glob("metrics*"))


def test_it_shows_the_data_set_the_results_and_where_they_are(tmp_path, capsys):
    folder, _ = make_run(tmp_path)
    assert evaluate.main([str(folder.path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("shop: 3 users, 4 items, 11 events\n")
    assert out.endswith(f"written to {folder.path}/metrics.json\n")
    assert json.loads(folder.metrics_file.read_text())["users"] == 3


def test_it_shows_the_metrics_by_history_length(tmp_path, capsys):
    """Two users have two events in their training part, one has one."""
    folder, _ = make_run(tmp_path)
    assert evaluate.main([str(folder.path)]) == 0
    out = capsys.readouterr().out
    assert "by the events in a user's training part" in out and "1-2" in out and "3-5" not in out
    metrics = json.loads(folder.metrics_file.read_text())
    assert metrics["by_history_length"] == {"1-2": {"users": 3, **metrics["test"]}}


def test_metrics_of_shards_have_no_history_lengths(tmp_path, capsys):
    folder, data = make_run(tmp_path)
    write_shards(load_dataset(folder.config().data), tmp_path / "sharded")
    assert evaluate.main([str(folder.path), "--dataset", str(tmp_path / "sharded")]) == 0
    out = capsys.readouterr().out
    assert "held-out events" in out and "by the events" not in out and "markov" not in out
    metrics = json.loads((folder.path / "metrics-sharded.json").read_text())
    assert metrics["users"] == 3 and "by_history_length" not in metrics


def test_json_stands_alone_on_standard_output(tmp_path, capsys):
    folder, _ = make_run(tmp_path)
    assert evaluate.main([str(folder.path), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == json.loads(folder.metrics_file.read_text())
    assert captured.err == "shop: 3 users, 4 items, 11 events\n"


def test_data_that_has_changed_is_refused_as_the_runs_own(tmp_path):
    folder, data = make_run(tmp_path)
    data.write_text(LONGER)
    with pytest.raises(UserError, match=rf"the data of {data}, or how it is read, has changed since the run.*--dataset {data}"):
        evaluate.main([str(folder.path)])
    assert metrics_files(folder) == []


def test_data_that_has_changed_is_another_data_set(tmp_path, capsys):
    folder, data = make_run(tmp_path)
    assert evaluate.main([str(folder.path)]) == 0
    before = folder.metrics_file.read_text()
    capsys.readouterr()
    data.write_text(LONGER)
    assert evaluate.main([str(folder.path), "--dataset", str(data)]) == 0
    assert capsys.readouterr().out.startswith("shop: 4 users, 4 items, 14 events; left out: 1 events of items unknown to the model\n")
    assert metrics_files(folder) == ["metrics-shop.json", "metrics.json"]
    assert json.loads((folder.path / "metrics-shop.json").read_text())["users"] == 4
    assert folder.metrics_file.read_text() == before


def test_the_runs_own_data_set_may_be_named(tmp_path):
    folder, data = make_run(tmp_path)
    assert evaluate.main([str(folder.path), "--dataset", str(data)]) == 0
    assert metrics_files(folder) == ["metrics.json"]


def test_a_run_without_a_fingerprint_is_not_checked(tmp_path):
    folder, data = make_run(tmp_path, fingerprint=False)
    data.write_text(LONGER)
    assert evaluate.main([str(folder.path)]) == 0
    assert json.loads(folder.metrics_file.read_text())["users"] == 4


def write_log(path, header="user,item,timestamp,stars"):
    """The events of `LOG` as a CSV file, all of them with 5 stars."""
    rows = [f"{user},{item},{time},5" for user, *items in map(str.split, LOG.splitlines()) for time, item in enumerate(items)]
    path.write_text("\n".join([header, *rows, ""]))
    return path


def test_a_log_with_other_columns_can_be_evaluated(tmp_path):
    folder, _ = make_run(tmp_path)
    log = write_log(tmp_path / "other.csv", "user,sku,timestamp,stars")
    with pytest.raises(UserError, match="no column 'item'.*--item-column"):
        evaluate.main([str(folder.path), "--dataset", str(log)])
    assert evaluate.main([str(folder.path), "--dataset", str(log), "--item-column", "sku"]) == 0
    assert json.loads((folder.path / "metrics-other.json").read_text())["users"] == 3
    with pytest.raises(UserError, match="or how it is read, has changed"):
        evaluate.main([str(folder.path), "--k-core", "3"])


def test_an_inherited_filter_can_be_turned_off(tmp_path):
    log, text = write_log(tmp_path / "shop.csv"), tmp_path / "other.txt"
    text.write_text(LOG)
    config = toy_config(dataset=str(log), k_core=1, filter_column="stars", min_value=4.0)
    sequences, folder = load_dataset(config.data), RunFolder(tmp_path / "run")
    folder.create(config, sequences.catalog, sequences.fingerprint)
    folder.save_model(build_model(config, sequences.catalog.num_items))
    with pytest.raises(UserError, match="has no columns, .*--filter-column '' turns off"):
        evaluate.main([str(folder.path), "--dataset", str(text)])
    assert evaluate.main([str(folder.path), "--dataset", str(text), "--filter-column", ""]) == 0
    assert metrics_files(folder) == ["metrics-other.json"]


def test_titles_whose_file_has_moved_are_not_needed(tmp_path):
    folder, _ = make_run(tmp_path)
    folder.write_config(folder.config().replace(item_metadata=str(tmp_path / "moved.csv")))
    assert evaluate.main([str(folder.path)]) == 0
    assert metrics_files(folder) == ["metrics.json"]


def test_popularity_is_that_of_the_data_that_is_evaluated(tmp_path, monkeypatch, capsys):
    """Also where the data has other items than the run; the run itself counted i3 never."""
    seen = []
    monkeypatch.setattr("elcrec_tf.results.evaluate_run", lambda model, sequences, config, folder: seen.append(sequences) or {})
    folder, data = make_run(tmp_path)
    data.write_text(LONGER)
    assert evaluate.main([str(folder.path), "--dataset", str(data), "--json"]) == 0
    catalog = seen[0].catalog
    assert dict(zip(catalog.ids, catalog.counts.tolist(), strict=True)) == {"i1": 2, "i2": 2, "i3": 1, "i4": 1}


def test_what_only_training_measures_stays(tmp_path):
    folder, _ = make_run(tmp_path)
    write_json(folder.metrics_file, {"intents": {"recovery": {"planted": 4}}})
    assert evaluate.main([str(folder.path)]) == 0
    assert json.loads(folder.metrics_file.read_text())["intents"]["recovery"] == {"planted": 4}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"intents": 3}', "\xff"])
def test_a_broken_metrics_file_is_a_user_error(tmp_path, content):
    folder, _ = make_run(tmp_path)
    folder.metrics_file.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match="metrics.json: .*remove it and evaluate"):
        evaluate.main([str(folder.path)])
