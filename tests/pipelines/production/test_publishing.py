"""Publishing, with folders that look like exports."""

import json

import pytest

from elcrec_tf.errors import UserError
from elcrec_tf.serving import saved_model
from pipelines.production.publishing import check_model_folder, publish, served_version, version_of


def export_of(folder, run_id=None):
    (folder / "assets").mkdir(parents=True)
    (folder / "saved_model.pb").write_text(str(run_id))
    own = {} if run_id is None else {"pipeline_run": run_id}
    (folder / "assets" / "metadata.json").write_text(json.dumps({"elcrec_tf": "1", "top_k": 5, "num_items": 6, **own}))
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.isdecimal() or path.name.startswith("."))


def test_a_run_is_published_once(tmp_path):
    export, model = export_of(tmp_path / "export" / "1", "mine"), tmp_path / "model"
    export_of(model / "4")
    assert publish(export, model, "mine", None) == publish(export, model, "mine", None) == model / "5"
    assert names(model) == ["4", "5"] and (export / "saved_model.pb").is_file()
    assert (model / "tf_serving" / "models.config").is_file()


def test_a_publication_that_is_cut_off_leaves_no_version_and_is_made_good(tmp_path, monkeypatch):
    export, model = export_of(tmp_path / "export" / "1", "mine"), tmp_path / "model"
    model.mkdir()  # as the lock leaves it
    with monkeypatch.context() as patch:
        patch.setattr(saved_model, "take_next_version", lambda copy, folder: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            publish(export, model, "mine", None)
    assert names(model) == [".publishing"] and version_of(model, "mine") is None
    (model / ".publishing" / "saved_model.pb").unlink()  # half a copy
    assert publish(export, model, "mine", None) == model / "1"
    assert names(model) == ["1"] and (model / "1" / "saved_model.pb").read_text() == "mine"


def test_cut_off_after_the_rename_the_old_versions_still_go(tmp_path, monkeypatch):
    export, model = export_of(tmp_path / "export" / "1", "mine"), tmp_path / "model"
    for number in ("1", "2", "3"):
        export_of(model / number)
    with monkeypatch.context() as patch:
        patch.setattr(saved_model, "tidy", lambda folder, keep: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            publish(export, model, "mine", 2)
    assert names(model) == ["1", "2", "3", "4"]
    assert publish(export, model, "mine", 2) == model / "4"
    assert names(model) == ["1", "3", "4"]  # 1 is labelled stable


def test_what_is_served_is_the_newest_version_of_another_run(tmp_path):
    assert served_version(export_of(tmp_path / "model" / "1", "old").parent, "mine") == tmp_path / "model" / "1"
    export_of(tmp_path / "model" / "3", "mine")
    (tmp_path / "model" / "2").mkdir()  # no export: servers refuse it
    assert served_version(tmp_path / "model", "mine") == tmp_path / "model" / "1"
    assert served_version(tmp_path / "model", "next") == tmp_path / "model" / "3"


def test_a_version_is_no_model_folder(tmp_path):
    with pytest.raises(UserError, match="give the folder above it"):
        check_model_folder(export_of(tmp_path / "1"))
