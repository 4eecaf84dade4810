"""Finished measurements, kept one a line as they come, so that a benchmark that was stopped goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from elcrec_tf.errors import UserError
from elcrec_tf.files import write_text


class Journal:
    """`rows.jsonl` of an output folder: a first line with what was asked for, then a line for each measurement.

    Args:
        path: the file.
        settings: what all its measurements have in common, ready for JSON.
        resume: keep the measurements that are there.

    Raises:
        UserError: for a file that is there without `resume`, or that belongs to other settings.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], resume: bool) -> None:
        self.path = path
        self.rows: dict[str, dict[str, Any]] = {}
        plain = json.loads(json.dumps(settings))  # tuples become lists, as they do in the file
        if path.exists():
            if not resume:
                raise UserError(f"{path.parent}: holds measurements already; go on with --resume, or choose another --output-dir")
            self._read(plain)
        self._write({"settings": plain}, *({"key": key, "row": row} for key, row in self.rows.items()))

    def measure(self, key: str, function: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The measurement of that name: from the file if it is there, else made now and written down."""
        if key not in self.rows:
            row = function()
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "row": row}, allow_nan=False) + "\n")
            self.rows[key] = row
        return self.rows[key]

    def _read(self, settings: dict[str, Any]) -> None:
        lines = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(line))
            except json.JSONDecodeError:  # cut off while it was written
                break
        if not lines or lines[0].get("settings") != settings:
            raise UserError(f"{self.path.parent}: was measured with other settings; choose another --output-dir")
        self.rows = {line["key"]: line["row"] for line in lines[1:]}

    def _write(self, *lines: dict[str, Any]) -> None:
        write_text(self.path, "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines))
