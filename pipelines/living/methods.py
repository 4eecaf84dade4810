"""The ways to have a model for tomorrow."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
from rich.console import Console

from elcrec_tf.callbacks import best_epoch
from elcrec_tf.config import Config
from elcrec_tf.data.drifting import DailyLog
from elcrec_tf.run_folder import RunFolder
from elcrec_tf.training import train_model
from pipelines.living.questions import Questions

WEEK = 7


@dataclass(frozen=True, eq=False)
class World:
    """What the methods share: the log, the first day that is not in the first model's data, the runs' folder, and the settings. The days
    are to be measured one after the other: a warm start goes on from the one before.

    Updates come `every` so many days; `update_epochs` are those of an update, and `update_learning_rate` that of a warm start;
    `config.train` has those of training from nothing.
    """

    log: DailyLog
    first_update: int
    folder: Path
    config: Config
    every: int
    update_epochs: int
    update_learning_rate: float
    console: Console

    def run(self, method: str, day: int) -> RunFolder:
        """A method's run on the data before a day."""
        return RunFolder(self.folder / f"day-{day:02d}-{method}")

    @property
    def first_run(self) -> RunFolder:
        """Where everything starts: the model that "stale" keeps, and the warm starts go on from."""
        return self.run("first", self.first_update)

    def measure_first(self) -> dict[str, Any]:
        """Train the first model."""
        return self._train(self.first_run, 0, self.first_update)

    def measure(self, method: str, day: int) -> dict[str, Any]:
        """Train by a method on the data before `day`, unless it is "stale", and ask for the events until the next update. An update
        that was cut off begins anew: it is short, and its processor seconds are to be those of all of it."""
        folder = self.first_run if method == "stale" else self.run(method, day)
        training = {"seconds": 0.0, "processor_seconds": 0.0, "epochs": 0, "best_epoch": 0}
        if method != "stale":
            first = max(day - WEEK, 0) if method == "warm-week" else 0
            shutil.rmtree(folder.path, ignore_errors=True)  # of a process that was cut off
            training = self._train(folder, first, day, **self._changes(method, day))
        questions = Questions.of(self.log, day, day + self.every - 1, self.first_update)
        metrics = questions.metrics(questions.ranks(folder.load_model(), folder.catalog()))
        keras.backend.clear_session()
        return {**training, "cold": questions.cold, "first_events": questions.first, "metrics": metrics}

    def _changes(self, method: str, day: int) -> dict[str, Any]:
        """What a method changes in the settings."""
        if method == "scratch":
            return {}
        if method == "short":
            return {"epochs": self.update_epochs}
        before = day - self.every
        parent = self.run(method, before) if before > self.first_update else self.first_run
        return {"epochs": self.update_epochs, "learning_rate": self.update_learning_rate, "warm_start": str(parent.path)}

    def _train(self, folder: RunFolder, first: int, day: int, **changes: Any) -> dict[str, Any]:
        """A run on the days from `first` on, before `day`; one that is there, as the first model's may be, goes on. Seconds are those of
        its epochs, processor seconds those of everything in this process, which other work on the machine disturbs less."""
        self.console.print(f"{folder.path.parent.name}/{folder.path.name}", soft_wrap=True)
        sequences = self.log.between(first, day - 1).sequences("log")
        if first:  # the catalogue holds what it held before, as it does with pipelines.prepare --catalog
            sequences = sequences.with_catalog(self.log.between(0, day - 1).sequences("log").catalog)
        began = time.process_time()
        train_model(sequences, self.config.replace(**changes), folder, resume=folder.exists, console=self.console)
        rows = folder.read_history()
        best = best_epoch(rows, f"val_{self.config.train.monitor}")
        seconds = {"seconds": sum(row["seconds"] for row in rows), "processor_seconds": time.process_time() - began}
        return {**seconds, "epochs": len(rows), "best_epoch": best}
