"""Processes below one of ours, as Linux tells them: to sum their memory, and to kill one of them."""

from __future__ import annotations

import os
import signal
from pathlib import Path


def descendants(pid: int) -> dict[int, str]:
    """Command lines of the processes below `pid`, by process id; what ends meanwhile is left out."""
    found: dict[int, str] = {}
    queue = [pid]
    while queue:
        parent = queue.pop()
        children = [int(child) for thread in _tasks(parent) for child in _read(thread / "children").split()]
        for child in children:
            found[child] = _read(Path(f"/proc/{child}/cmdline")).replace("\0", " ")
        queue += children
    return found


def resident(pid: int) -> int:
    """Bytes of memory that are the process's share: pages that n processes have in common count 1 / n for each. 0 if it has ended."""
    lines = _read(Path(f"/proc/{pid}/smaps_rollup")).splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def kill(pid: int) -> None:
    """Kill a process, as `kill -9` does, if it is still there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _tasks(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
