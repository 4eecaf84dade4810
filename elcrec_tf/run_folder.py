"""A run folder: everything that one training run leaves, and what it needs to go on.

```
config.json        the resolved configuration, written before training starts
history.csv        a row an epoch
metrics.json       the results
model.keras        the best model
catalog.parquet    raw item ids, their training counts and titles
data.json          what the data set was: name and fingerprint; of a warm start also the run that it went on from
checkpoint/        the newest epoch's model with its optimizer state, for --resume
tensorboard/       logs
snapshots/         sampled user embeddings and intents, with --snapshot-epochs
report.html        what elcrec_tf.report writes
```
"""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elcrec_tf.config import GROUPS, Config, DataConfig, resolve
from elcrec_tf.data.catalog import Catalog
from elcrec_tf.data.inherited import with_flags, without_empty_filter
from elcrec_tf.errors import UserError
from elcrec_tf.files import atomic_path, read_json_object, write_json, write_text

if TYPE_CHECKING:
    from elcrec_tf.model import ELCRec


class RunFolder:
    """Paths and contents of a run folder. Making the object touches no file.

    Args:
        path: the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def history_file(self) -> Path:
        return self.path / "history.csv"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.json"

    @property
    def model_file(self) -> Path:
        return self.path / "model.keras"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def snapshots(self) -> Path:
        return self.path / "snapshots"

    @property
    def exists(self) -> bool:
        """Whether the folder holds a run."""
        return (self.path / "config.json").is_file()

    def check_new(self) -> None:
        """Raise `UserError` when a new run cannot start here: the folder holds a run, or something else."""
        if self.exists:
            raise UserError(f"{self.path}: holds a run already; --resume continues it, another --output-dir starts a new one")
        # A start that was cut off may have left these behind.
        own = {"catalog.parquet", "data.json"}
        if self.path.is_dir() and any(path.name not in own and not path.name.startswith(".") for path in self.path.iterdir()):
            raise UserError(f"{self.path}: is not empty and holds no run; choose another --output-dir")
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path}: is a file; choose another --output-dir")

    def create(self, config: Config, catalog: Catalog, fingerprint: str | None = None, warm_start: Mapping[str, Any] | None = None) -> None:
        """Start a run: make the folder, write catalogue, the data set's fingerprint, what a warm start went on from, and last the
        configuration.

        Raises:
            UserError: when it holds a run already, holds something else, or cannot be written.
        """
        self.check_new()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            catalog.save(self.path / "catalog.parquet")
            data = {"dataset": config.data.dataset, "fingerprint": fingerprint}
            write_json(self.path / "data.json", data | ({"warm_start": warm_start} if warm_start else {}))
            self.write_config(config)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror}); choose another --output-dir") from None

    def write_config(self, config: Config) -> None:
        write_json(self.path / "config.json", config.to_dict())

    def config(self) -> Config:
        """The run's configuration. Raises `UserError` when there is no run or its config.json is broken."""
        path = self.path / "config.json"
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except OSError:
            raise UserError(f"{self.path}: holds no run (no config.json); give a folder that elcrec_tf.train wrote") from None
        except ValueError as error:
            raise UserError(f"{path}: is not valid JSON ({error})") from None
        config = Config.from_dict(values, where=str(path))
        return config.with_preset(values.get("preset", "default"))

    def fingerprint(self) -> str | None:
        """Fingerprint of the data set that the run was made with; None where it is not known."""
        return self._data()["fingerprint"]

    def warm_start(self) -> dict[str, Any] | None:
        """What the run went on from (`elcrec_tf.warm_start.lineage`); None for a run that started from nothing."""
        return self._data().get("warm_start")

    def _data(self) -> dict[str, Any]:
        path = self.path / "data.json"
        if not path.is_file():
            return {"fingerprint": None}
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            data = None
        if not isinstance(data, dict) or "fingerprint" not in data:
            raise UserError(f"{path}: is broken; remove it to go on without the check that the data is the same")
        return data

    def catalog(self) -> Catalog:
        return Catalog.load(self.path / "catalog.parquet")

    def read_metrics(self) -> dict[str, Any]:
        """metrics.json, or an empty dict where there is none. Raises `UserError` when it is broken."""
        try:
            metrics = json.loads(self.metrics_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise UserError(f"{self.metrics_file}: is not valid JSON ({error}); remove it and evaluate the run again") from None
        if not isinstance(metrics, dict) or not isinstance(metrics.get("intents", {}), dict):
            raise UserError(f"{self.metrics_file}: was not written by elcrec_tf; remove it and evaluate the run again")
        return metrics

    def outgrew(self, metrics: Mapping[str, Any]) -> bool:
        """Whether epochs were trained after `metrics` were measured: a resumed run that was stopped, whose model may be a better one."""
        epochs = metrics.get("epochs")
        return epochs is not None and len(self.read_history()) > epochs

    def load_model(self) -> ELCRec:
        """The best model. Raises `UserError` when the run has none yet."""
        if not self.model_file.is_file():
            raise UserError(f"{self.path}: has no model.keras; the run has not finished an epoch (continue it with --resume)")
        return load_keras(self.model_file)

    def read_history(self) -> list[dict[str, float]]:
        """Rows of history.csv; an empty cell is left out."""
        if not self.history_file.is_file():
            return []
        with self.history_file.open(newline="", encoding="utf-8") as file:
            try:
                rows = [{key: float(cell) for key, cell in row.items() if cell} for row in csv.DictReader(file)]
            except (ValueError, TypeError):
                raise UserError(f"{self.history_file}: has a cell that is no number; restore it, or start a new run") from None
        if any("epoch" not in row for row in rows):
            raise UserError(f"{self.history_file}: has a row without an epoch; restore it, or start a new run")
        return rows

    def write_history(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Write all rows again (atomically); the columns are the union of the rows' keys, in order of appearance."""
        columns = list(dict.fromkeys(key for row in rows for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: int(value) if key == "epoch" else repr(float(value)) for key, value in row.items()} for row in rows)
        write_text(self.history_file, text.getvalue())

    def save_model(self, model: ELCRec) -> None:
        """Write model.keras, with the intents in use alone."""
        with atomic_path(self.model_file) as temporary:
            model.without_retired().save(temporary)

    def save_checkpoint(self, model: ELCRec, epoch: int, best: bool) -> None:
        """Keep the model with its optimizer state as of the end of `epoch` (counted from 1), and drop older ones.

        The best model is replaced before the checkpoint appears: a kill in between repeats the epoch, and loses nothing.
        """
        with atomic_path(self.path / "checkpoint" / f"epoch-{epoch:05d}.keras") as temporary:
            model.save(temporary)
            if best and model.cluster_centers.retirable:
                self.save_model(model)
            elif best:  # the same file: copying is faster than saving
                with atomic_path(self.model_file) as copy:
                    shutil.copyfile(temporary, copy)
        for number, path in self._checkpoints():
            if number != epoch:
                path.unlink()

    def newest_checkpoint(self) -> tuple[int, Path] | None:
        """(epoch, file) of the newest whole checkpoint, or None."""
        return max(self._checkpoints(), default=None)

    def _checkpoints(self) -> list[tuple[int, Path]]:
        found = ((re.fullmatch(r"epoch-(\d+)\.keras", path.name), path) for path in (self.path / "checkpoint").glob("*.keras"))
        return [(int(match[1]), path) for match, path in found if match]


def load_keras(path: Path) -> ELCRec:
    """Load a `.keras` file that holds an `ELCRec`. Raises `UserError` when it is broken or holds something else."""
    import keras

    import elcrec_tf.optimizer  # noqa: F401 - registers a class that models are saved with
    from elcrec_tf.model import ELCRec

    try:
        model = keras.models.load_model(path)
    except Exception as error:  # Keras raises many kinds for a broken file
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{path}: cannot be loaded ({reason})") from None
    if not isinstance(model, ELCRec):
        raise UserError(f"{path}: holds no ELCRec model but {type(model).__name__}")
    return model


def resolve_run(preset: str | None, file: str | None, flags: Mapping[str, Any]) -> Config:
    """The configuration of a new run: `config.resolve`, with the settings of the run that it starts from for a preset, be that named by
    the flag `warm_start` or by the file.

    Raises:
        UserError: as `resolve` does, and for a preset beside a warm start. A whole config.json may name its own: it has every setting.
    """
    values = read_json_object(file, "groups, as a run's config.json does") if file else {}
    train = values.get("train")
    parent = flags.get("warm_start", train.get("warm_start") if isinstance(train, dict) else None)
    if not parent or not isinstance(parent, str):
        return _without_empty_filter(resolve(preset, file, flags))
    whole = all(kind.GROUP in values for kind in GROUPS)
    if preset or (values.get("preset") and not whole):
        start = "--warm-start" if "warm_start" in flags else f"{file}: train.warm_start"
        where = "--preset" if preset else f"the preset in {file}"
        raise UserError(f"{start} takes the settings of the run that it goes on from; leave out {where}")
    theirs = RunFolder(parent).config()
    given = {one.name: flags[one.name] for one in fields(DataConfig) if one.name in flags}
    return _without_empty_filter(resolve(None, file, flags, replace(theirs, data=with_flags(theirs.data, given))))


def _without_empty_filter(config: Config) -> Config:
    return replace(config, data=without_empty_filter(config.data))


def default_folder(dataset: str, parent: str | Path = "runs") -> RunFolder:
    """A new folder `runs/<dataset>-<time>`; a number is appended where that is taken."""
    stem = f"{dataset}-{time.strftime('%Y%m%d-%H%M%S')}"
    names = [stem, *(f"{stem}-{number}" for number in range(2, 1000))]
    return RunFolder(next(Path(parent) / name for name in names if not (Path(parent) / name).exists()))


def newest_folder(parent: str | Path = "runs") -> RunFolder:
    """The run under `parent` that was started or resumed last. Raises `UserError` when there is none."""
    runs = [path.parent for path in Path(parent).glob("*/config.json")]
    if not runs:
        raise UserError(f"{parent}/: holds no run to resume; give the run with --output-dir, or start one without --resume")
    return RunFolder(max(runs, key=lambda path: (path / "config.json").stat().st_mtime))
