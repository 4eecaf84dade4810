"""Keeps exports to the same model's folder apart, and removes what killed ones left there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from elcrec_tf.errors import UserError
from elcrec_tf.serving.layout import SAVED_MODEL

_LOCK = ".lock"
_LEFT = re.compile(r"(\.(?:export|removed)-[0-9a-f]{8})(\.lock)?")


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a model's folder while its versions change; wait for whoever holds it.

    A hidden file in the folder is locked, not the folder itself: a pipeline holds that for the whole of its run, in which it publishes.

    Raises:
        OSError: where the folder cannot be written.
    """
    with _held(directory / _LOCK):
        yield


@contextmanager
def temporary_folder(directory: Path) -> Iterator[Path]:
    """A new folder in `directory` whose name is no version, safe from `_remove_left` as long as this process lives. On failure it goes
    again, and so does `directory` where it was not there.

    Raises:
        OSError: where `directory` cannot be written.
        UserError: when `directory` is itself a version.
    """
    new = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    if (directory / SAVED_MODEL).exists():
        raise UserError(f"{directory}: is itself a version of an exported model; give the folder above it")
    try:
        with locked(directory):
            _remove_left(directory)
        temporary = directory / _name("export")
        with _held(_lock_of(temporary)):
            try:
                temporary.mkdir()
                yield temporary
            finally:
                shutil.rmtree(temporary, ignore_errors=True)  # nothing is there any more when it has become a version
    except BaseException:
        if new:
            with contextlib.suppress(OSError):  # someone else has put something there
                directory.rmdir()
        raise


def remove(version: Path) -> None:
    """Remove a version that may have gone already. The caller holds the model's folder."""
    removed = version.with_name(_name("removed"))
    with contextlib.suppress(FileNotFoundError):
        os.rename(version, removed)  # first: a server never sees half of a version
        shutil.rmtree(removed)


def _remove_left(directory: Path) -> None:
    """Remove the temporary folders of exports that were killed: those whose own lock nobody holds."""
    found = (_LEFT.fullmatch(path.name) for path in directory.iterdir())
    for folder in {directory / match[1] for match in found if match}:
        with contextlib.suppress(BlockingIOError), _held(_lock_of(folder), wait=False):
            shutil.rmtree(folder, ignore_errors=True)


def _name(kind: str) -> str:
    return f".{kind}-{uuid.uuid4().hex[:8]}"


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}{_LOCK}")


@contextmanager
def _held(file: Path, wait: bool = True) -> Iterator[None]:
    """Make a file, lock it, and remove it in the end. The lock is the system's: it ends with the process, however that ends.

    Raises:
        BlockingIOError: when another holds it, unless `wait`.
    """
    descriptor = _lock(file, wait)
    try:
        yield
    finally:
        try:
            file.unlink(missing_ok=True)  # still locked: who waits for it finds another file of this name, or none, and makes its own
        finally:
            os.close(descriptor)


def _lock(file: Path, wait: bool) -> int:
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(file)):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # of a file that the one before us has removed
