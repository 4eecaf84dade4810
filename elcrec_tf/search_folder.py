"""A search folder: everything that one hyperparameter search leaves, and what it needs to go on. Imports no TensorFlow.

```
search.json        the settings: tuner, trials, space, configuration, the data set's fingerprint
keras_tuner/       keras-tuner's own state
trials/            a run folder for each trial, or one below for each of several executions
trials.json        the results of all trials
best_config.json   the best configuration, for elcrec_tf.train --config
intents_config.json  where the number of intents is searched: the configuration whose intents fit the users best, with as many as they use
plots/             score against each field, number of intents and temperature, best so far
tensorboard/       the trials for TensorBoard's HParams
refit/             with --refit: runs of the best configuration, one a seed, reported in refit.json
```
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elcrec_tf.config import Config
from elcrec_tf.errors import UserError
from elcrec_tf.files import write_json
from elcrec_tf.run_folder import RunFolder, default_folder
from elcrec_tf.search_space import Space

TUNERS = ("random", "bayesian", "hyperband", "grid")
STORE = "keras_tuner"
TOLERANCE = 0.02
"""Scores this share below the best count as equally good when the number of intents is read off a search."""


@dataclass(frozen=True)
class SearchSettings:
    """What a search does. `max_trials` None: as many as the tuner has."""

    tuner: str
    max_trials: int | None
    executions: int
    space: Space
    fingerprint: str

    @property
    def objective(self) -> str:
        """The validation metric that the search maximises."""
        return self.space.base.train.monitor

    def to_dict(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in ("tuner", "max_trials", "executions", "fingerprint")}
        return {**plain, "space": self.space.to_dict(), "config": self.space.base.to_dict()}


class SearchFolder:
    """Paths and contents of a search folder. Making the object touches no file.

    Args:
        path: the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def settings_file(self) -> Path:
        return self.path / "search.json"

    @property
    def best_config_file(self) -> Path:
        return self.path / "best_config.json"

    @property
    def intents_config_file(self) -> Path:
        return self.path / "intents_config.json"

    def run(self, trial_id: str, execution: int, executions: int) -> RunFolder:
        """The run folder of an execution (from 0) of a trial."""
        trial = self.path / "trials" / trial_id
        return RunFolder(trial if executions == 1 else trial / str(execution))

    def failure_file(self, trial_id: str) -> Path:
        """Holds the line that says why a trial failed."""
        return self.path / STORE / f"trial_{trial_id}" / "failure.txt"

    def check_new(self) -> None:
        """Raise `UserError` when a new search cannot start here."""
        if self.settings_file.is_file():
            raise UserError(f"{self.path}: holds a search already; --resume continues it, another --output-dir starts a new one")
        if self.path.exists() and (not self.path.is_dir() or any(not path.name.startswith(".") for path in self.path.iterdir())):
            raise UserError(f"{self.path}: is not empty and holds no search; choose another --output-dir")

    def write_settings(self, settings: SearchSettings) -> None:
        """Start a search, or change one. Raises `UserError` when the folder cannot be written."""
        try:
            write_json(self.settings_file, settings.to_dict())
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror}); choose another --output-dir") from None

    def settings(self) -> SearchSettings:
        """The search's settings. Raises `UserError` when there is no search or its search.json is broken."""
        try:
            values = json.loads(self.settings_file.read_text(encoding="utf-8"))
        except OSError:
            raise UserError(f"{self.path}: holds no search (no search.json); give a folder that elcrec_tf.tune wrote") from None
        except ValueError as error:
            raise UserError(f"{self.settings_file}: is not valid JSON ({error})") from None
        try:
            where = str(self.settings_file)
            base = Config.from_dict(values["config"], where=where).with_preset(values["config"].get("preset", "default"))
            space = Space.from_dict(base, values["space"], where)
            return SearchSettings(values["tuner"], values["max_trials"], values["executions"], space, values["fingerprint"])
        except (KeyError, TypeError, AttributeError):
            raise UserError(f"{self.settings_file}: was not written by elcrec_tf; restore it, or start a new search") from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Only one process at a time hands out the trials of a search. Raises `UserError` where another one does."""
        folder = os.open(self.path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)  # gone with the process, however it ends
            except BlockingIOError:
                raise UserError(f"{self.path}: another process goes on with this search; stop it, or wait for its end") from None
            yield
        finally:
            os.close(folder)

    def trials(self, settings: SearchSettings) -> list[TrialResult]:
        """All trials that were begun, in their order."""
        found = []
        for path in (self.path / STORE).glob("trial_*/trial.json"):
            state = json.loads(path.read_text(encoding="utf-8"))
            found.append(self._result(state, settings))
        return sorted(found, key=lambda result: int(result.trial))

    def _result(self, state: dict[str, Any], settings: SearchSettings) -> TrialResult:
        trial, sampled = state["trial_id"], state["hyperparameters"]["values"]
        runs = [self.run(trial, execution, settings.executions) for execution in range(settings.executions)]
        histories = [run.read_history() for run in runs if run.exists]
        status = {"COMPLETED": "completed", "FAILED": "failed"}.get(state["status"], "unfinished")
        failure = self.failure_file(trial)
        best_rows = [max(rows, key=lambda row: row[f"val_{settings.objective}"]) for rows in histories if rows]
        return TrialResult(
            trial=trial,
            status=status,
            score=state["score"] if status == "completed" else None,
            separation=_mean([row.get("intent_separation") for row in best_rows]) if status == "completed" else None,
            intents_in_use=_mean([row.get("intent_perplexity") for row in best_rows]) if status == "completed" else None,
            values=settings.space.values(sampled),
            epochs=max((len(rows) for rows in histories), default=0),
            seconds=round(sum(row.get("seconds", 0.0) for rows in histories for row in rows), 2),
            continues=sampled.get("tuner/trial_id"),
            reason=failure.read_text(encoding="utf-8").strip() if status == "failed" and failure.is_file() else None,
            runs=[str(run.path.relative_to(self.path)) for run in runs if run.exists],
        )


def _mean(values: list[float | None]) -> float | None:
    """None where a value is missing, or all are."""
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known and len(known) == len(values) else None


@dataclass(frozen=True)
class TrialResult:
    """A trial as it is reported: `score` is its mean best validation metric, None unless it is completed; `separation` is how clearly
    users belong to one of its intents then (`intents.separation`), and `intents_in_use` over how many they divide (the perplexity), None
    where that was not measured; `values` are those of the
    searched fields; `epochs` and `seconds` are of training, with those of the trial that it `continues`, if any; `reason` says in a
    line why it failed; `runs` are its run folders."""

    trial: str
    status: str
    score: float | None
    separation: float | None
    intents_in_use: float | None
    values: dict[str, Any]
    epochs: int
    seconds: float
    continues: str | None
    reason: str | None
    runs: list[str]

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def best_trial(trials: list[TrialResult]) -> TrialResult | None:
    """The completed trial with the highest score, the first of equals; None where there is none."""
    completed = [result for result in trials if result.score is not None]
    return max(completed, key=lambda result: result.score or 0.0, default=None)


def clearest_trial(trials: list[TrialResult]) -> TrialResult | None:
    """What a search says of the number of intents: of the trials that score as well as the best one (see `TOLERANCE`), the one whose
    users belong most clearly to one intent. Its `intents_in_use` are the number: where there are too many centres, some stay unused.
    The score alone hardly tells, with too many intents it is as high as with the right number.
    """
    best = best_trial(trials)
    if best is None:
        return None
    good = [result for result in trials if result.score is not None and result.score >= (1 - TOLERANCE) * (best.score or 0.0)]
    return max(good, key=lambda result: result.separation or 0.0)


def default_search_folder(dataset: str, parent: str | Path = "searches") -> SearchFolder:
    """A new folder `searches/<dataset>-<time>`; a number is appended where that is taken."""
    return SearchFolder(default_folder(dataset, parent).path)


def newest_search_folder(parent: str | Path = "searches") -> SearchFolder:
    """The search under `parent` that was started or resumed last. Raises `UserError` when there is none."""
    found = [path.parent for path in Path(parent).glob("*/search.json")]
    if not found:
        raise UserError(f"{parent}/: holds no search to resume; give the search with --output-dir, or start one without --resume")
    return SearchFolder(max(found, key=lambda path: (path / "search.json").stat().st_mtime))
