import json
import math
import os
from pathlib import Path

import keras
import numpy as np
import pytest

from elcrec_tf.config import resolve
from elcrec_tf.data.catalog import Catalog
from elcrec_tf.errors import UserError
from elcrec_tf.run_folder import RunFolder, default_folder, load_keras, newest_folder, resolve_run
from tests.toy import toy_model

CATALOG = Catalog(["a", "b", "c"], np.array([3, 0, 1]), {"b": "Title of b"})


@pytest.fixture
def run(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create(resolve(flags={"epochs": 2}), CATALOG)
    return folder


@pytest.fixture(scope="module")
def model():
    return toy_model()


@pytest.mark.parametrize(("metrics", "outgrown"), [({"epochs": 1}, True), ({"epochs": 2}, False), ({"epochs": None}, False), ({}, False)])
def test_metrics_are_outgrown_by_epochs_that_came_after_them(run, metrics, outgrown):
    run.write_history([{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0}])
    assert run.outgrew(metrics) == outgrown


def test_making_the_object_touches_nothing(tmp_path):
    folder = RunFolder(tmp_path / "run")
    assert not folder.exists
    assert folder.read_history() == []
    assert folder.newest_checkpoint() is None
    assert not folder.path.exists()


def test_configuration_and_catalogue_round_trip(run):
    assert run.exists
    assert run.config() == resolve(flags={"epochs": 2})
    assert run.config().preset == "simulated"
    catalog = run.catalog()
    assert (list(catalog.ids), catalog.counts.tolist(), catalog.titles) == (["a", "b", "c"], [3, 0, 1], {"b": "Title of b"})


def test_a_run_is_not_started_twice(run):
    with pytest.raises(UserError, match="holds a run already; --resume continues it"):
        run.create(resolve(), CATALOG)
    assert run.config().train.epochs == 2


def test_a_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty and holds no run"):
        RunFolder(tmp_path).create(resolve(), CATALOG)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_empty_folder_is_fine_and_a_file_is_not(tmp_path):
    RunFolder(tmp_path).create(resolve(), CATALOG)
    assert RunFolder(tmp_path).exists
    with pytest.raises(UserError, match="is a file"):
        RunFolder(tmp_path / "config.json").create(resolve(), CATALOG)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "holds no run"),
        ("{", "not valid JSON"),
        ("[]", "should hold a JSON object"),
        ('{"model": {"depth": 3}}', "unknown field 'depth'"),
        ('{"model": {"num_layers": 0}}', "num_layers should be at least 1"),
        (b"\xff\xfe", "not valid JSON"),
    ],
)
def test_broken_configuration(tmp_path, text, message):
    if text is not None:
        (tmp_path / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message):
        RunFolder(tmp_path).config()


def test_history_round_trip_is_exact(run):
    rows = [{"epoch": 1, "loss": 1 / 3, "val_MRR": math.pi}, {"epoch": 2, "loss": 1e-17, "seconds": 2.0}]
    run.write_history(rows)
    assert run.read_history() == rows
    lines = run.history_file.read_text().splitlines()
    assert lines[0] == "epoch,loss,val_MRR,seconds"
    assert lines[1].startswith("1,0.333") and lines[1].endswith(",")  # an epoch is a whole number, a missing value is empty


def test_history_is_written_again_as_a_whole(run):
    run.write_history([{"epoch": 1, "loss": 1.0}, {"epoch": 2, "loss": 2.0}])
    run.write_history([{"epoch": 1, "loss": 3.0}])
    assert run.read_history() == [{"epoch": 1, "loss": 3.0}]


def test_model_round_trip(run, model):
    run.save_model(model)
    history = np.int32([[0, 1, 2]])
    np.testing.assert_array_equal(run.load_model().scores(history), model.scores(history))


def test_only_the_newest_checkpoint_is_kept(run, model):
    for epoch in (9, 10):
        run.save_checkpoint(model, epoch, best=False)
    assert run.newest_checkpoint() == (10, run.path / "checkpoint" / "epoch-00010.keras")
    assert [path.name for path in (run.path / "checkpoint").iterdir()] == ["epoch-00010.keras"]


def test_the_best_model_is_there_before_its_checkpoint(run, model, monkeypatch):
    """A kill between the two then repeats the epoch, instead of leaving an older model as the best for good."""
    replaced = []
    monkeypatch.setattr("elcrec_tf.files.os.replace", lambda source, target: replaced.append(Path(target).name))
    run.save_checkpoint(model, 3, best=True)
    assert replaced == ["model.keras", "epoch-00003.keras"]


def test_foreign_and_half_written_checkpoints_are_passed_over(run):
    folder = run.path / "checkpoint"
    folder.mkdir()
    for name in ("epoch-00003.keras", "epoch-00012.keras", ".ab12-epoch-00099.keras", "best.keras"):
        (folder / name).touch()
    assert run.newest_checkpoint()[0] == 12


def test_no_model_yet(run):
    with pytest.raises(UserError, match="has no model.keras; the run has not finished an epoch"):
        run.load_model()


@pytest.mark.parametrize("damage", ["empty", "text", "truncated"])
def test_broken_model_file(run, model, damage):
    run.save_model(model)
    whole = run.model_file.read_bytes()
    run.model_file.write_bytes({"empty": b"", "text": b"no model", "truncated": whole[: len(whole) // 2]}[damage])
    with pytest.raises(UserError, match="model.keras: cannot be loaded") as error:
        run.load_model()
    assert "\n" not in str(error.value)


def test_an_error_without_words_still_gives_a_message(run, monkeypatch):
    def fail(path):
        raise AssertionError

    run.model_file.touch()
    monkeypatch.setattr(keras.models, "load_model", fail)
    with pytest.raises(UserError, match="cannot be loaded .AssertionError"):
        run.load_model()


def test_another_kind_of_model(tmp_path):
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "model.keras")
    with pytest.raises(UserError, match="holds no ELCRec model but Sequential"):
        load_keras(tmp_path / "model.keras")


@pytest.fixture
def parent(tmp_path):
    """The path of a run with settings of its own."""
    RunFolder(tmp_path / "parent").create(
        resolve("default", flags={"dataset": "log.csv", "num_clusters": 16, "filter_column": "stars", "min_value": 4.0}), CATALOG
    )
    return str(tmp_path / "parent")


def config_file(tmp_path, values):
    (tmp_path / "file.json").write_text(json.dumps(values))
    return str(tmp_path / "file.json")


def test_a_file_names_the_run_to_start_from_as_the_flag_does(parent, tmp_path):
    expected = resolve_run(None, None, {"warm_start": parent, "epochs": 3})
    assert (expected.model.num_clusters, expected.train.warm_start) == (16, parent)
    file = config_file(tmp_path, {"train": {"warm_start": parent, "epochs": 3}})
    assert resolve_run(None, file, {}) == expected
    with pytest.raises(UserError, match="file.json: train.warm_start takes the settings .*leave out --preset"):
        resolve_run("best", file, {})
    with pytest.raises(UserError, match="holds no run"):
        resolve_run(None, file, {"warm_start": str(tmp_path / "another")})  # a flag wins


@pytest.mark.parametrize("by_flag", [True, False])
def test_a_preset_in_a_file_is_refused_beside_a_warm_start(parent, tmp_path, by_flag):
    flags, train = ({"warm_start": parent}, {}) if by_flag else ({}, {"warm_start": parent})
    with pytest.raises(UserError, match="takes the settings of the run that it goes on from; leave out the preset in .*file.json"):
        resolve_run(None, config_file(tmp_path, {"preset": "best", "train": train}), flags)


def test_a_whole_configuration_may_name_its_preset_beside_a_warm_start(parent, tmp_path):
    whole = resolve("best", flags={"dataset": "log.csv", "warm_start": parent, "epochs": 5})
    config = resolve_run(None, config_file(tmp_path, whole.to_dict()), {})
    assert config.with_preset("best") == whole
    assert resolve_run(None, config_file(tmp_path, whole.replace(warm_start=None).to_dict()), {"warm_start": parent}) == config


@pytest.mark.parametrize("values", [{"train": 3}, {"train": {"warm_start": 3}}])
def test_a_faulty_file_is_told_as_ever(tmp_path, values):
    with pytest.raises(UserError, match="should be"):
        resolve_run(None, config_file(tmp_path, values), {})


def test_an_inherited_condition_is_replaced_by_another_one(parent):
    data = resolve_run(None, None, {"warm_start": parent, "filter_column": "event", "keep_values": ("buy",)}).data
    assert (data.filter_column, data.min_value, data.keep_values) == ("event", None, ("buy",))
    data = resolve_run(None, None, {"warm_start": parent}).data
    assert (data.filter_column, data.min_value) == ("stars", 4.0)
    assert resolve_run(None, None, {"warm_start": parent, "filter_column": ""}).data.filter_column is None


def test_default_folders_are_new(tmp_path):
    paths = []
    for _ in range(3):
        folder = default_folder("beauty", tmp_path / "runs")
        folder.create(resolve(), CATALOG)
        paths.append(folder.path)
    assert len(set(paths)) == 3
    assert all(path.name.startswith("beauty-") for path in paths)


def test_newest_folder_is_the_one_started_last(tmp_path):
    for name, started in (("b", 300), ("a", 500), ("c", 100)):
        folder = RunFolder(tmp_path / name)
        folder.create(resolve(), CATALOG)
        os.utime(folder.path / "config.json", (started, started))
    (tmp_path / "no-run").mkdir()
    assert newest_folder(tmp_path).path == tmp_path / "a"


def test_no_run_to_resume(tmp_path):
    with pytest.raises(UserError, match="holds no run to resume"):
        newest_folder(tmp_path / "runs")


def test_config_file_is_plain_json(run):
    values = json.loads((run.path / "config.json").read_text())
    assert values["train"]["epochs"] == 2
    assert values["augment"]["augmentations"] == ["crop", "mask", "reorder"]
