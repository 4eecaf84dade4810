"""Publishes an export that was checked before: it becomes the next version of a model, whole or not at all, and once."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from elcrec_tf.errors import UserError
from elcrec_tf.serving.layout import SAVED_MODEL, read_metadata, versions

RUN_ID = "pipeline_run"
"""Key in an export's metadata.json of the id of the run that made it."""
_COPY = ".publishing"


def check_model_folder(folder: Path) -> None:
    """Raise `UserError` for a folder that is no model's."""
    if (folder / SAVED_MODEL).exists():
        raise UserError(f"{folder}: is itself a version of an exported model; give the folder above it with --model")


def version_of(folder: Path, run_id: str) -> Path | None:
    """The version that a run has published, be it that it was cut off right after."""
    return next((path for path, found in _run_ids(folder) if found == run_id), None)


def served_version(folder: Path, run_id: str) -> Path | None:
    """The newest version that a run did not make itself: what is served while it works."""
    return next((path for path, found in _run_ids(folder) if found != run_id), None)


def _run_ids(folder: Path) -> list[tuple[Path, str | None]]:
    """The versions that elcrec_tf exported, newest first, with the id of the run that made each, if any."""
    found = []
    for _, path in sorted(versions(folder).items(), reverse=True):
        with contextlib.suppress(UserError):  # broken, or of another kind: servers refuse it too
            found.append((path, read_metadata(path).get(RUN_ID)))
    return found


def publish(export: Path, folder: Path, run_id: str, keep: int | None) -> Path:
    """Give an export the next version number, unless the run has one already, and remove old versions; the version's folder.

    The export is copied, since it may lie on another file system, and the copy is renamed, so that a server sees all of it or nothing.
    The caller holds the model's folder against other pipelines; exports to the same folder are kept off while the versions change.
    """
    from elcrec_tf.serving.folder_lock import locked
    from elcrec_tf.serving.saved_model import take_next_version, tidy

    copy = folder / _COPY
    shutil.rmtree(copy, ignore_errors=True)  # of a process that was killed
    version = version_of(folder, run_id)
    if version is None:
        shutil.copytree(export, copy)
    with locked(folder):
        if version is None:
            version = take_next_version(copy, folder)
        tidy(folder, keep)
    return version
