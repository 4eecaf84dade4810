"""Exports to the same folder at the same time, and what killed ones leave. What an export does with it is tested with the export."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from elcrec_tf.errors import UserError
from elcrec_tf.serving.folder_lock import locked, remove, temporary_folder
from pipelines.lock import locked as locked_by_a_pipeline

IN_A_PROCESS = """
import sys, time
from pathlib import Path
from elcrec_tf.serving.folder_lock import locked, temporary_folder
with temporary_folder(Path(sys.argv[1])) as temporary, locked(Path(sys.argv[1])):
    (temporary / "half").touch()
    print(temporary.name, flush=True)
    time.sleep(600)
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_one_at_a_time_holds_a_folder(tmp_path):
    inside, most = [], []

    def work():
        for _ in range(20):
            with locked(tmp_path):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 80
    assert names(tmp_path) == []


def test_a_pipeline_that_holds_the_folder_can_publish_in_it(tmp_path):
    with locked_by_a_pipeline(tmp_path, wait=False):
        with locked(tmp_path):  # does not wait for the pipeline
            assert names(tmp_path) == [".lock"]
        assert names(tmp_path) == []


def test_another_export_s_folder_is_left_alone_until_it_is_dead(tmp_path):
    with subprocess.Popen([sys.executable, "-c", IN_A_PROCESS, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        theirs = process.stdout.readline().strip()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert names(tmp_path) == sorted([".lock", theirs, f"{theirs}.lock"])
    with temporary_folder(tmp_path) as mine:
        with temporary_folder(tmp_path) as other:
            assert names(tmp_path) == sorted([mine.name, f"{mine.name}.lock", other.name, f"{other.name}.lock"])
        assert names(tmp_path) == [mine.name, f"{mine.name}.lock"]
    assert names(tmp_path) == []


def test_what_killed_exports_left_goes_and_nothing_else(tmp_path):
    for name in (".removed-0123abcd", ".export-89abcdef"):
        (tmp_path / name / "variables").mkdir(parents=True)
    (tmp_path / ".export-00000000.lock").touch()
    for name in ("1", ".export-notes", ".removed-0123abcd-by-me", ".publishing"):
        (tmp_path / name).mkdir()
    with temporary_folder(tmp_path) as temporary:
        assert temporary.is_dir()
    assert names(tmp_path) == [".export-notes", ".publishing", ".removed-0123abcd-by-me", "1"]


def test_on_failure_nothing_stays(tmp_path):
    for folder, left in ((tmp_path / "new", False), (tmp_path, True)):
        with pytest.raises(KeyboardInterrupt), temporary_folder(folder) as temporary:
            (temporary / "half").touch()
            raise KeyboardInterrupt
        assert folder.exists() == left
    assert names(tmp_path) == []


def test_a_version_is_no_place_for_another(tmp_path):
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(UserError, match="give the folder above it"), temporary_folder(tmp_path):
        pass


def test_a_version_that_has_gone_needs_no_removing(tmp_path):
    (tmp_path / "1").mkdir()
    for _ in range(2):
        remove(tmp_path / "1")
        assert names(tmp_path) == []
