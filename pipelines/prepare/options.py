"""What a preparation was asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass

from elcrec_tf.data.shards import BY_TIME, LEAVE_ONE_OUT
from elcrec_tf.errors import UserError

FORMATS = ("csv", "parquet", "jsonl")


def local_path(path: str) -> str:
    """An absolute path as Spark reads it, whatever its letters and Spark's own file system."""
    return f"file://{without_glob(path)}"


def without_glob(path: str) -> str:
    """A path in which Spark takes no letter for a glob's."""
    return re.sub(r"[\[\]{}*?\\]", r"\\\g<0>", path)


@dataclass(frozen=True)
class PrepareOptions:
    """Checked when made.

    Attributes:
        input: path or glob, as Spark reads it.
        format: csv, parquet or jsonl.
        output: folder that the data set becomes; all workers have to see it under this path.
        columns: names of the user, item and time columns.
        k_core: drop users and items with fewer events, again and again until none is left to drop.
        repeated_rows: keep or drop rows that repeat user, item and time of another.
        split: leave-one-out, or time.
        validation_from, test_from: times in the log's form: events before the first train, those from the second on test.
        max_events: latest events kept of a user; None keeps all.
        shards: number of shards.
        catalog: an earlier output, or its catalog.parquet, whose items keep their indices.
        overwrite: replace a data set that is there.
        files: absolute paths of local files to read alone, out of all that `input` names; none for all of them.
    """

    input: str
    format: str
    output: str
    columns: tuple[str, str, str] = ("user", "item", "timestamp")
    k_core: int = 5
    repeated_rows: str = "drop"
    split: str = LEAVE_ONE_OUT
    validation_from: str | None = None
    test_from: str | None = None
    max_events: int | None = None
    shards: int = 16
    catalog: str | None = None
    overwrite: bool = False
    files: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.columns)) < 3:
            raise UserError(
                f"--user-column, --item-column and --time-column should name three columns. Received: {', '.join(self.columns)}"
            )
        if self.split == BY_TIME and (self.validation_from is None or self.test_from is None):
            raise UserError("--split time needs --validation-from and --test-from, times in the form that the log has")
        if self.split != BY_TIME and (self.validation_from is not None or self.test_from is not None):
            raise UserError("--validation-from and --test-from go with --split time")
        if "://" in self.output:
            raise UserError(
                f"{self.output}: should be a folder that all workers see, such as a network drive; training reads it from there"
            )

    @property
    def paths(self) -> list[str]:
        """What Spark is to read."""
        return [local_path(file) for file in self.files] or [self.input]

    @property
    def fewest_events(self) -> int:
        """Events that a user needs: one each to train on, validate and test, or two under a split by time."""
        return 2 if self.split == BY_TIME else 3
