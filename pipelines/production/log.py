"""What a run says: on the console, and with times in its log file."""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, TextIO, cast

if TYPE_CHECKING:
    from rich.console import Console


class Log(io.TextIOBase):
    """A stream that writes to standard output as it is, and line by line with the time to a file.

    Args:
        path: the log file, which is added to.
    """

    def __init__(self, path: Path) -> None:
        self._file: TextIO = path.open("a", encoding="utf-8")
        self._line = ""

    def write(self, text: str) -> int:
        sys.stdout.write(text)
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
        return len(text)

    def flush(self) -> None:
        sys.stdout.flush()
        if not self._file.closed:
            self._file.flush()

    def close(self) -> None:
        self.flush()
        self._file.close()
        super().close()

    def console(self) -> Console:
        """A console over the stream: plain lines, since a scheduler keeps them."""
        from rich.console import Console

        return Console(file=cast(IO[str], self), markup=False, emoji=False, highlight=False, width=140)
