"""Finished runs: `rows.jsonl`, a line each, and the test ranks of every user beside it. Small enough to be committed."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import numpy as np

from elcrec_tf.config import Config
from elcrec_tf.errors import UserError
from elcrec_tf.files import atomic_path, write_text
from pipelines.lock import locked
from pipelines.reproduce.job import Job, identity

Row = dict[str, Any]
"""A line of rows.jsonl, see `pipelines.reproduce.training.row`."""


class Ledger:
    """The rows of an output folder. Rows are only ever added; each is written whole or not at all, also by several processes.

    Args:
        folder: holds `rows.jsonl` and `ranks/<run id>.npz`; it need not be there yet.

    Raises:
        UserError: for a line that is no row.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reload()

    @property
    def rows_file(self) -> Path:
        return self.folder / "rows.jsonl"

    def reload(self) -> None:
        """Read what other processes have added."""
        self.rows: list[Row] = []
        self._by_key: dict[Hashable, Row] = {}
        lines = self.rows_file.read_bytes().splitlines() if self.rows_file.is_file() else []
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                key = _key(row)
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{self.rows_file}, line {number}: is no row of a run; restore the file, or remove the line") from None
            self.rows.append(row)
            if key is not None:
                self._by_key[key] = row

    def find(self, job: Job) -> Row | None:
        """The row of a job: same data, configuration, seed and versions."""
        return self._by_key.get(job.key)

    def ranks(self, row: Row) -> np.ndarray:
        """The test rank of every user, `[users]`, 0 = best. Raises `UserError` where the file is missing or belongs to another row."""
        path = self._ranks_file(row["id"])
        try:
            with np.load(path) as file:
                ranks = file["test"]
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"{path}: cannot be read ({error}); restore it, or remove the line {row['id']} of {self.rows_file}") from None
        if len(ranks) != row["users"]:
            raise UserError(f"{path}: holds {len(ranks)} users, its row {row['users']}; restore both files")
        return ranks

    def add(self, row: Row, ranks: np.ndarray) -> None:
        """Keep a finished run. The ranks come first: a row never lacks them."""
        smallest = np.uint16 if ranks.max(initial=0) < 2**16 else np.uint32
        with atomic_path(self._ranks_file(row["id"])) as temporary:
            np.savez_compressed(temporary, test=ranks.astype(smallest))
        with locked(self.folder, wait=True):
            before = self.rows_file.read_text(encoding="utf-8") if self.rows_file.is_file() else ""
            before += "" if before.endswith("\n") or not before else "\n"  # an editor may leave the last line without its end
            write_text(self.rows_file, before + json.dumps(row, allow_nan=False) + "\n")
        self.reload()

    def _ranks_file(self, name: str) -> Path:
        return self.folder / "ranks" / f"{name}.npz"


def _key(row: Row) -> Hashable | None:
    """`Job.key` of a row. A field that is newer than the row has its default; None where the row has a field that is there no more."""
    try:
        config = Config.from_dict(row["config"])
    except UserError:
        return None
    return identity(row["fingerprint"], config, row["train_share"], row["noise"], row.get("seen", 0), row["versions"])
