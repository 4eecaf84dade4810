"""New versions under load in the benchmark: what happens when they cannot be published, or nobody asks."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from elcrec_tf.errors import UserError
from pipelines.benchmark import serving


@pytest.fixture
def swaps(tmp_path, monkeypatch):
    """A function that measures the swaps of a server that is none, under a load that is what it is given."""
    (tmp_path / "1").mkdir()

    @contextmanager
    def no_server(folder, flags):
        yield SimpleNamespace(memory=lambda: 7)

    monkeypatch.setattr(serving, "running_server", no_server)
    monkeypatch.setattr(serving, "_WARM_SECONDS", 0)

    def measure(load, swap_seconds=0.01):
        monkeypatch.setattr(serving, "_load", load)
        return serving._swaps(SimpleNamespace(options=SimpleNamespace(swap_seconds=swap_seconds)), lambda: tmp_path, [])

    return measure


def no_calls(*_):
    return {"calls": [], "errors": {}}


def test_all_versions_are_published(swaps, tmp_path):
    found = swaps(no_calls)
    assert (found["versions"], found["memory_bytes"]) == (5, [7] * 6)
    assert sorted(path.name for path in tmp_path.iterdir()) == list("123456")


def test_a_version_that_cannot_be_published_is_a_users_error(swaps, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(serving.shutil, "copytree", full)
    with pytest.raises(UserError, match=r"a new version could not be published \(\[Errno 28\] No space left on device\)"):
        swaps(no_calls)


def test_nothing_is_published_for_a_load_that_failed(swaps, tmp_path):
    def fail(*_):
        raise UserError("no clients")

    with pytest.raises(UserError, match="no clients"):
        swaps(fail, swap_seconds=600)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
