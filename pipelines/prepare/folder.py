"""The output folder: written under a temporary name, renamed when it is whole, and leftovers of killed runs removed."""

from __future__ import annotations

import fcntl
import glob
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from elcrec_tf.data.shards import FORMAT, MANIFEST, is_prepared
from elcrec_tf.errors import UserError

_OLD = "-old"


def check_output(output: Path, overwrite: bool) -> None:
    """Raise `UserError` where a data set cannot be written to `output`."""
    if not output.exists():
        return
    if not output.is_dir() or (any(output.iterdir()) and not is_prepared(output)) or _has_foreign_manifest(output):
        raise UserError(f"{output}: is there and holds no prepared data set; choose another --output")
    if is_prepared(output) and not overwrite:
        raise UserError(f"{output}: holds a prepared data set already; replace it with --overwrite, or choose another --output")


def _has_foreign_manifest(output: Path) -> bool:
    """Whether there is a manifest of something else: other programs call theirs so, too."""
    try:
        manifest = json.loads((output / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none, or a broken one
        return False
    return not (isinstance(manifest, dict) and str(manifest.get("format")).startswith(FORMAT.partition(" ")[0]))


@contextmanager
def partial_folder(output: Path, overwrite: bool) -> Iterator[Path]:
    """A folder beside `output`, which becomes `output` on success and is removed on failure.

    What killed runs left is removed first: a run holds a lock on its folder, and the lock goes with its process. A data set that one of
    them had moved aside, and put nothing in its place, is put back.

    Raises:
        UserError: as `check_output` does, at once, and again where another run has written `output` meanwhile.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    pattern = f".{output.name}.partial-"
    _put_back(output, pattern)
    check_output(output, overwrite)
    for left in output.parent.glob(f"{glob.escape(pattern)}*"):
        with _locked(left) as free:
            if free:
                shutil.rmtree(left, ignore_errors=True)
    partial = output.parent / f"{pattern}{uuid.uuid4().hex[:8]}"
    partial.mkdir()
    with _locked(partial):
        try:
            yield partial
            for left in partial.glob(".*"):  # sets that were needed on the way, and files of tasks that were killed while they wrote
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            check_output(output, overwrite)
            _replace(partial, output)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _put_back(output: Path, pattern: str) -> None:
    for old in output.parent.glob(f"{glob.escape(pattern)}*{_OLD}"):
        partial = old.with_name(old.name.removesuffix(_OLD))
        if output.exists() or not partial.exists():  # that run was killed while it removed the old one
            continue
        with _locked(partial) as free:
            if free:
                os.replace(old, output)


def _replace(partial: Path, output: Path) -> None:
    old = partial.with_name(f"{partial.name}{_OLD}")
    if output.exists():
        os.replace(output, old)
    os.replace(partial, output)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Whether this process could lock the folder; it does until the end."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(handle)
