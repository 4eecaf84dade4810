"""The step that makes raw logs a data set: on this machine, or on Spark."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elcrec_tf.config import DataConfig
from elcrec_tf.data.datasets import load_dataset
from elcrec_tf.data.tables import FORMATS
from elcrec_tf.errors import UserError
from elcrec_tf.files import expanded
from pipelines.production.memory_log import clean_log

if TYPE_CHECKING:
    from rich.console import Console

MEMORY, SPARK = "memory", "spark"
_KINDS = ("csv", "parquet", "jsonl")
FILTERS = ("filter_column", "min_value", "keep_values")
"""Fields of the data by which `train` filters rows. Nothing is filtered here."""
REJECTS = "rejects.jsonl.gz"


@dataclass(frozen=True)
class Preparation:
    """How logs become a data set.

    Attributes:
        source: file, folder or glob.
        form: csv, parquet or jsonl.
        engine: `memory` or `spark`.
        columns: names of the user, item and time columns.
        k_core: fewest events of a user and an item.
        repeated_rows: keep or drop them.
        master, memory: of Spark.
    """

    source: str
    form: str
    engine: str
    columns: tuple[str, str, str]
    k_core: int
    repeated_rows: str
    master: str = "local[*]"
    memory: str = "1g"

    def settings(self) -> dict[str, Any]:
        """What the result depends on beside the files' content."""
        own = asdict(self)
        return {name: own[name] for name in ("form", "engine", "columns", "k_core", "repeated_rows")}

    def data_config(self, config: DataConfig, output: Path) -> DataConfig:
        """How `train` reads what `prepare` wrote to `output`."""
        columns = {"user_column": "user", "item_column": "item", "time_column": "timestamp"}
        read: dict[str, Any] = {"k_core": self.k_core, "repeated_rows": self.repeated_rows, "ties": "item"} if self.engine == MEMORY else {}
        # What is prepared has no other column: the filter of a run that a warm start goes on from is not for these logs.
        return replace(config, dataset=str(output), format="auto", **{**columns, **read, **dict.fromkeys(FILTERS)})

    def output(self, folder: Path, name: str) -> Path:
        """Where the data set goes: a file, or a folder of shards."""
        return folder / (f"{name}.parquet" if self.engine == MEMORY else name)


def input_files(source: str) -> list[Path]:
    """The files of a file, folder or glob, in the order of their names. Raises `UserError` where there are none."""
    path = expanded(source)
    if path.is_dir():
        found = list(path.iterdir())
    else:  # a name that is there is no glob, whatever letters it has
        found = [path] if path.exists() else [Path(name) for name in glob(str(path))]
    files = sorted(file for file in found if file.is_file() and not file.name.startswith((".", "_")))
    if not files:
        raise UserError(f"--input {source}: there is no such file; give a log file, a folder of them, or a glob in quotes")
    return files


def log_format(files: list[Path], wanted: str | None) -> str:
    """The one format of all files, by their endings unless it is given. Raises `UserError` where it is not clear."""
    if wanted is not None:
        return wanted
    found = {FORMATS.get(Path(file.name.lower().removesuffix(".gz")).suffix) for file in files}
    if len(found) != 1 or not found <= set(_KINDS):
        raise UserError(f"--input: the endings of {files[0]} and the others name no single format; give --format {'|'.join(_KINDS)}")
    return str(found.pop())


def prepare(
    preparation: Preparation, files: list[Path], config: DataConfig, output: Path, earlier: Path | None, console: Console
) -> dict[str, Any]:
    """Write the data set, and load it once to see that it can be.

    Args:
        preparation: how.
        files: of the log.
        config: how the result is read.
        output: where it goes; nothing is there.
        earlier: with Spark, a data set whose items keep their places.
        console: where to print.

    Returns:
        What `gate.data_checks` takes: `rows`, `rejected`, `users`, `items`, `events`, `newest`, `newest_seconds`; and `fingerprint`.

    Raises:
        UserError: for logs that cannot be read, or of which nothing is left.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    if preparation.engine == MEMORY:
        found = clean_log(files, preparation.form, preparation.columns, output, output.parent / REJECTS)
    else:
        found = _on_spark(preparation, files, output, earlier, console)
    sequences = load_dataset(config)
    console.print(f"{found['rows']:,} rows, {sum(found['rejected'].values()):,} of them no events; {sequences.description}")
    seconds = since_1970(found["newest"], found.pop("unit"))
    size = {"users": sequences.num_users, "items": sequences.catalog.num_items, "events": sequences.num_events}
    return {**found, "newest_seconds": seconds, **size, "fingerprint": sequences.fingerprint}


def _on_spark(preparation: Preparation, files: list[Path], output: Path, earlier: Path | None, console: Console) -> dict[str, Any]:
    from pipelines.prepare.session import spark_session

    with spark_session(preparation.master, preparation.memory) as spark:
        from pipelines.prepare.job import prepare as prepare_on_spark
        from pipelines.prepare.options import PrepareOptions

        own = {name: getattr(preparation, name) for name in ("columns", "k_core", "repeated_rows")}
        # One by one: Spark would also read files in folders that a glob names, whose content no run knows.
        own["files"] = tuple(str(file.absolute()) for file in files)
        catalog = None if earlier is None else str(earlier)
        options = PrepareOptions(preparation.source, preparation.form, str(output), catalog=catalog, overwrite=output.exists(), **own)
        manifest = prepare_on_spark(spark, options, console)
    rejected: Mapping[str, int] = (manifest["rejects"] or {}).get("reasons", {})
    rows = manifest["events"] + sum(manifest["dropped"].values())
    return {"rows": rows, "rejected": dict(rejected), "newest": manifest["times"]["newest"], "unit": manifest["times"]["unit"]}


def since_1970(time: float, unit: str) -> float:
    """A log's time in seconds. Of a log's own numbers the size tells what they count: seconds, or thousandths, millionths, billionths."""
    if unit.startswith(("nano", "micro")):
        return time / (1e9 if unit.startswith("nano") else 1e6)
    power = 3 * max(0, math.ceil((math.log10(max(abs(time), 1)) - 11) / 3))
    return time / 10.0**power
