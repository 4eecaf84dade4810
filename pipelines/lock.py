"""Keeps two processes from writing to the same folder at the same time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from elcrec_tf.errors import UserError


class FolderInUse(UserError):
    """Another process holds the folder."""


@contextmanager
def locked(folder: Path, wait: bool) -> Iterator[None]:
    """Hold a folder, which is made where it is not there. The lock is the system's: it ends with the process, however that ends.

    Raises:
        FolderInUse: when another process holds it, unless `wait` says to wait for its end.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock(descriptor, folder, wait)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path, wait: bool) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FolderInUse(f"{folder}: another process is at work there; wait for its end, or choose another folder") from None
