import json
import math

import pytest

from elcrec_tf.errors import UserError
from elcrec_tf.files import atomic_path, expanded, write_json, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "deep" / "er" / "x.txt"
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == ".txt"
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert names(path.parent) == ["x.txt"]


def test_failure_leaves_the_old_file_and_no_temporary_one(tmp_path):
    path = tmp_path / "x.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError, match="disk full"), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("disk full")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["x.txt"]


def test_failure_removes_a_half_made_folder(tmp_path):
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "model") as temporary:
        temporary.mkdir()
        (temporary / "part").write_text("half")
        raise RuntimeError
    assert names(tmp_path) == []


def test_a_whole_folder_appears_but_replaces_none(tmp_path):
    for attempt in (1, 2):
        try:
            with atomic_path(tmp_path / "model") as temporary:
                temporary.mkdir()
                (temporary / "part").write_text(str(attempt))
        except OSError:
            assert attempt == 2
    assert names(tmp_path) == ["model"]
    assert (tmp_path / "model" / "part").read_text() == "1"


def test_a_home_that_is_not_there_is_a_users_error(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert str(expanded("~/x.csv")) == "/home/me/x.csv"
    with pytest.raises(UserError, match="~nobody-of-this-name/x.csv: there is no such home folder"):
        expanded("~nobody-of-this-name/x.csv")


def test_json_round_trip(tmp_path):
    value = {"name": "Größe", "share": 0.1, "none": None, "list": [1, 2]}
    write_json(tmp_path / "x.json", value)
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert text.endswith("}\n")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_json_has_no_nan(tmp_path, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"loss": value})
    assert names(tmp_path) == []
