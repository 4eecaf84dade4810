import json
import resource
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from elcrec_tf import __version__
from elcrec_tf.data.catalog import Catalog
from elcrec_tf.errors import UserError
from elcrec_tf.serving import saved_model
from elcrec_tf.serving.layout import versions
from elcrec_tf.serving.saved_model import export_saved_model
from tests.serving.conftest import CLOSE, ODD, TITLES, by_hand, tiny_model

WITHOUT_KERAS = """
import json, sys
for name in ("keras", "tf_keras", "elcrec_tf"):
    sys.modules[name] = None  # importing it fails
import tensorflow as tf
histories = json.load(sys.stdin)
outputs = tf.saved_model.load(sys.argv[1]).signatures["serving_default"](history=tf.constant(histories))
ids = [[raw.decode() for raw in row] for row in outputs["item_ids"].numpy()]
print(json.dumps({"ids": ids, "scores": outputs["scores"].numpy().tolist()}))
"""


@pytest.fixture(scope="module")
def small():
    return tiny_model(3, num_layers=1), Catalog(["a", "b", "c"])


def write_little(module, catalog, folder, metadata, name):
    """Stands in for the writing where only the folders matter: it takes seconds."""
    (folder / "saved_model.pb").touch()


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_it_loads_and_answers_without_keras(exported, model, catalog):
    histories = [["", "i1", "i2"], ODD[:3]]
    command = [sys.executable, "-c", WITHOUT_KERAS, str(exported / "1")]
    answer = subprocess.run(command, input=json.dumps(histories), capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    outputs = json.loads(answer.stdout)
    for row, history in enumerate(histories):
        ids, scores = by_hand(model, catalog, history, 12)
        assert outputs["ids"][row] == ids
        np.testing.assert_allclose(outputs["scores"][row], scores, **CLOSE)


def test_no_xla_gets_in_from_a_model_compiled_with_it(tmp_path, small):
    model, catalog = tiny_model(3, num_layers=1), small[1]
    model.compile(optimizer=keras.optimizers.Adam(), jit_compile=True)
    model.predict(np.array([[1, 2], [0, 3]], np.int32), verbose=0)  # makes the compiled function
    version = export_saved_model(model, catalog, tmp_path)
    assert b"_XlaMustCompile" not in (version / "saved_model.pb").read_bytes()


def test_only_what_answers_needs_is_saved(exported, model):
    saved = tf.train.list_variables(str(exported / "1" / "variables" / "variables"))
    sizes = sum(int(np.prod(shape)) for name, shape in saved if name.endswith("VARIABLE_VALUE"))
    # The table again: as keys of the scores, and as unit vectors with their indices for similar items.
    items, size = model.item_embedding.num_items, model.item_embedding.hidden_size
    weights = sum(int(np.prod(weight.shape)) for weight in (*model.encoder.weights, *model.cluster_centers.weights))
    assert sizes == weights + (items + 1) * size + items * (size + 1)


def test_versions_count_up(tmp_path, small, monkeypatch):
    monkeypatch.setattr(saved_model, "_write", write_little)
    assert export_saved_model(*small, tmp_path / "m") == tmp_path / "m" / "1"
    (tmp_path / "m" / "9").mkdir()
    (tmp_path / "m" / "10-old").mkdir()
    (tmp_path / "m" / "notes.txt").touch()
    assert export_saved_model(*small, tmp_path / "m") == tmp_path / "m" / "10"
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["1", "10", "10-old", "9", "notes.txt", "tf_serving"]


def test_old_versions_are_pruned_on_request_but_not_the_stable_one(tmp_path, small, monkeypatch):
    monkeypatch.setattr(saved_model, "_write", write_little)
    for _ in range(3):
        export_saved_model(*small, tmp_path)
    assert set(versions(tmp_path)) == {1, 2, 3}
    export_saved_model(*small, tmp_path, keep=2)
    assert set(versions(tmp_path)) == {1, 3, 4}  # the first one is labelled stable until somebody says otherwise
    config = tmp_path / "tf_serving" / "models.config"
    config.write_text(config.read_text().replace('"stable" value: 1', '"stable" value: 4'))
    export_saved_model(*small, tmp_path, keep=1)
    assert set(versions(tmp_path)) == {4, 5}
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_version_that_another_export_takes_is_left_alone(tmp_path, small, monkeypatch):
    def slow_write(*arguments):
        write_little(*arguments)
        (tmp_path / "1").mkdir()
        (tmp_path / "1" / "theirs").touch()

    monkeypatch.setattr(saved_model, "_write", slow_write)
    assert export_saved_model(*small, tmp_path) == tmp_path / "2"
    assert files(tmp_path / "1") == ["theirs"]


def test_two_exports_at_a_time_agree_on_what_is_served(tmp_path, small, monkeypatch):
    """The second one comes while the first writes models.config, with the versions that it has seen."""
    write_files = saved_model.write_serving_files
    other = threading.Thread(target=export_saved_model, args=(*small, tmp_path), kwargs={"keep": 1})

    def interrupted(directory, kept):
        if other.ident is None:
            other.start()
            other.join(0.5)  # it gets all the time it needs, unless it has to wait
        write_files(directory, kept)

    monkeypatch.setattr(saved_model, "_write", write_little)
    for _ in range(3):
        export_saved_model(*small, tmp_path)
    monkeypatch.setattr(saved_model, "write_serving_files", interrupted)
    export_saved_model(*small, tmp_path, keep=1)
    other.join()
    assert set(versions(tmp_path)) == {1, 5}
    assert "specific { versions: 1 versions: 5 }" in (tmp_path / "tf_serving" / "models.config").read_text()
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_an_export_removes_what_a_killed_one_left(tmp_path, small, monkeypatch):
    monkeypatch.setattr(saved_model, "_write", write_little)
    (tmp_path / ".export-0123abcd").mkdir()
    (tmp_path / ".removed-0123abcd").mkdir()
    export_saved_model(*small, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "tf_serving"]


def test_metadata_and_titles_travel_along(exported, catalog):
    metadata = json.loads((exported / "1" / "assets" / "metadata.json").read_text())
    assert metadata["elcrec_tf"] == __version__
    assert metadata["config"] == {"preset": "default"}
    assert metadata["test_metrics"] == {"HR@10": 0.5}
    assert (metadata["top_k"], metadata["num_items"], metadata["max_length"]) == (12, catalog.num_items, 6)
    assert metadata["signatures"] == sorted(
        [
            "encode",
            "intent_items",
            "intents",
            "recommend",
            "recommend_k",
            "recommend_with_history",
            "score",
            "serving_default",
            "similar_items",
        ]
    )
    travelled = Catalog.load(exported / "1" / "assets.extra" / "catalog.parquet")
    assert list(travelled.ids) == list(catalog.ids)
    assert travelled.titles == TITLES


@pytest.mark.parametrize("error", [RuntimeError("disk on fire"), KeyboardInterrupt()], ids=repr)
def test_a_failed_export_leaves_nothing_behind(tmp_path, small, monkeypatch, error):
    monkeypatch.setattr(saved_model, "_write", write_little)
    export_saved_model(*small, tmp_path / "old")
    before = files(tmp_path)

    def fail(*arguments):
        write_little(*arguments)
        raise error

    monkeypatch.setattr(saved_model, "_write", fail)
    for directory in (tmp_path / "old", tmp_path / "new"):
        with pytest.raises(type(error)):
            export_saved_model(*small, directory)
    assert files(tmp_path) == before


def test_folders_that_cannot_be_written_are_user_errors(tmp_path, small, monkeypatch):
    (tmp_path / "file").write_text("mine")
    for directory in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="cannot be written"):
            export_saved_model(*small, directory)
    assert (tmp_path / "file").read_text() == "mine"

    def full(*arguments, **options):
        raise tf.errors.ResourceExhaustedError(None, None, "no space left on device")

    monkeypatch.setattr(tf.saved_model, "save", full)
    with pytest.raises(UserError, match="no space left on device"):
        export_saved_model(*small, tmp_path / "m")
    assert files(tmp_path) == ["file"]


def test_a_full_disk_leaves_the_old_version_as_it_is(tmp_path, exported, model, catalog):
    shutil.copytree(exported, tmp_path / "m")
    before = {path: path.read_bytes() for path in (tmp_path / "m").rglob("*") if path.is_file()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # larger files fail as they would on a full disk
    try:
        with pytest.raises(UserError, match="cannot be written"):
            export_saved_model(model, catalog, tmp_path / "m")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path: path.read_bytes() for path in (tmp_path / "m").rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["1", "tf_serving"]


def test_tensorflow_s_own_tool_lists_the_signatures(exported):
    command = [Path(sys.executable).with_name("saved_model_cli"), "show", "--dir", exported / "1", "--all"]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    for name in json.loads((exported / "1" / "assets" / "metadata.json").read_text())["signatures"]:
        assert f"signature_def['{name}']" in answer.stdout


def test_a_version_is_no_place_for_versions(exported, small):
    with pytest.raises(UserError, match="give the folder above it"):
        export_saved_model(*small, exported / "1")
    assert not [name for name in files(exported) if ".export" in name]


def test_another_keras_backend_is_a_user_error(tmp_path, small, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(UserError, match=r"TensorFlow backend, this is jax; run KERAS_BACKEND=tensorflow .* -m elcrec_tf.export RUN_DIR"):
        export_saved_model(*small, tmp_path / "m")
    assert files(tmp_path) == []


def test_models_that_cannot_answer_are_user_errors(tmp_path, small):
    model, catalog = tiny_model(3), small[1]
    with pytest.raises(UserError, match="2 items, the model 3"):
        export_saved_model(model, Catalog(["a", "b"]), tmp_path / "m")
    with pytest.raises(UserError, match="`top_k` should be at least 1"):
        export_saved_model(model, catalog, tmp_path / "m", top_k=0)
    model.cluster_centers.centers.assign(model.cluster_centers.centers * np.nan)
    with pytest.raises(UserError, match="NaN"):
        export_saved_model(model, catalog, tmp_path / "m")
    assert files(tmp_path) == []
