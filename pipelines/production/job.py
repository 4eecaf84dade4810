"""The steps of a run, composed of what the package has: prepare, check, train, evaluate, export, compare, gate, publish."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elcrec_tf.config import Config
from elcrec_tf.data.catalog import Catalog
from elcrec_tf.data.data_drift import catalog_drift
from elcrec_tf.data.datasets import load_dataset
from elcrec_tf.data.shards import AnySequences
from elcrec_tf.drift import LEAST_SHARE, SAME_INTENT
from elcrec_tf.files import write_json
from elcrec_tf.run_folder import RunFolder
from elcrec_tf.serving.layout import CATALOG, read_metadata
from pipelines.production.gate import DATA_LIMITS, MODEL_LIMITS, Limits, data_checks, model_checks, verdict
from pipelines.production.preparing import SPARK, Preparation, prepare
from pipelines.production.publishing import RUN_ID, publish, version_of
from pipelines.production.runs import Run
from pipelines.production.steps import Results, Step

if TYPE_CHECKING:
    from rich.console import Console

    from elcrec_tf.serving.recommender import Recommender


SERVING = "serving"
"""Key in a run's state of the version that is served when the run's own begins to take its place."""


@dataclass(frozen=True)
class Job:
    """A run and all that its steps need to know.

    Attributes:
        run: the run.
        last: the run that was published last before it, if any.
        model: folder of the model's versions.
        serving: the version that is served, if any.
        files: of the log.
        preparation: how they become a data set.
        config: of training, with where the data will be, and with the run that a warm start goes on from.
        limits: of the gate.
        users: most users that the models are compared on.
        top_k: recommendations that the export can answer.
        keep: versions to keep; None keeps all.
    """

    run: Run
    last: Run | None
    model: Path
    serving: Path | None
    files: list[Path]
    preparation: Preparation
    config: Config
    limits: Limits
    users: int
    top_k: int
    keep: int | None

    def steps(self, console: Console) -> list[Step]:
        """The steps in their order. The data is checked before anything is trained on it; the export stands aside until the gate."""
        at = self.run.path
        config = self.config.to_dict()
        # What is published cannot be taken back: the clock is not asked again, and the version that was served may be gone.
        published = self.model.is_dir() and version_of(self.model, self.run.id) is not None
        serving = self.run.state[SERVING] if published and SERVING in self.run.state else self._serves()
        last = self.last.result("prepare") if self.last else None
        prepare_settings = {"inputs": self.run.state["inputs"], **self.preparation.settings(), "earlier": str(self._earlier)}
        check = {**self.limits.of(*DATA_LIMITS), "last": last, "serving": serving}
        return [
            Step("prepare", self._with(self._prepare, console), (), prepare_settings, (at / "data",)),
            Step("check", self._with(self._check, console), ("prepare",), check, always=not published),
            Step("train", self._with(self._train, console), ("prepare",), {"config": config}, (self.training.path,)),
            Step("evaluate", self._with(self._evaluate, console), ("prepare", "train"), {}, (self.training.metrics_file,)),
            Step("export", self._with(self._export, console), ("train", "evaluate"), {"top_k": self.top_k}, (at / "export",)),
            Step("compare", self._with(self._compare, console), ("prepare", "export"), {"serving": serving, "users": self.users}),
            Step("gate", self._with(self._gate, console), ("check", "compare"), self.limits.of(*MODEL_LIMITS)),
            Step("publish", self._with(self._publish, console), ("export", "gate")),
        ]

    @staticmethod
    def _with(work: Callable[[Results, Console], dict[str, Any]], console: Console) -> Callable[[Results], dict[str, Any]]:
        return lambda results: work(results, console)

    def _serves(self) -> list[Any] | None:
        """What tells the version that is served from others, ready for JSON."""
        return None if self.serving is None else [str(self.serving), _written(self.serving)]

    @property
    def training(self) -> RunFolder:
        return RunFolder(self.run.path / "train")

    @property
    def dataset(self) -> Path:
        return Path(self.config.data.dataset)

    @property
    def _earlier(self) -> Path | None:
        """With Spark, the data set of the last run, whose items keep their places in the catalogue."""
        if self.preparation.engine != SPARK or self.last is None:
            return None
        path = self.preparation.output(self.last.path / "data", self.dataset.name)
        return path if path.is_dir() else None

    @cached_property
    def sequences(self) -> AnySequences:
        return load_dataset(self.config.data)

    def _prepare(self, results: Results, console: Console) -> dict[str, Any]:
        return prepare(self.preparation, self.files, self.config.data, self.dataset, self._earlier, console)

    def _check(self, results: Results, console: Console) -> dict[str, Any]:
        moved = None
        if self.serving is not None:
            moved = catalog_drift(Catalog.load(self.serving / CATALOG), self.sequences.catalog)
        last = self.last.result("prepare") if self.last else None
        return verdict(data_checks(results["prepare"], last, moved, self.limits, time.time()))

    def _train(self, results: Results, console: Console) -> dict[str, Any]:
        from elcrec_tf.training import train_model

        train_model(self.sequences, self.config, self.training, resume=self.training.exists, console=console)
        rows = self.training.read_history()
        return {"epochs": len(rows), "seconds": sum(row["seconds"] for row in rows), "warm_start": self.training.warm_start()}

    def _evaluate(self, results: Results, console: Console) -> dict[str, Any]:
        from elcrec_tf.progress import results_table
        from elcrec_tf.results import evaluate_run

        metrics = evaluate_run(self.training.load_model(), self.sequences, self.config, self.training)
        write_json(self.training.metrics_file, metrics)
        console.print(results_table(metrics))
        return {name: metrics[name] for name in ("validation", "test", "baselines", "best_epoch")}

    def _export(self, results: Results, console: Console) -> dict[str, Any]:
        from elcrec_tf.serving.saved_model import export_saved_model

        metadata = {
            "config": self.config.to_dict(),
            "dataset": {"name": self.sequences.name, "fingerprint": self.sequences.fingerprint},
            "test_metrics": results["evaluate"]["test"],
            RUN_ID: self.run.id,
        }
        # Under the model's own name, which the warm-up requests carry.
        folder = self.run.path / "export" / self.model.resolve().name
        shutil.rmtree(folder, ignore_errors=True)  # of a process that was cut off
        return {"export": str(export_saved_model(self.training.load_model(), self.training.catalog(), folder, self.top_k, metadata))}

    def _compare(self, results: Results, console: Console) -> dict[str, Any]:
        from elcrec_tf.serving.recommender import Recommender
        from pipelines.production.comparison import Questions, compare

        serving: Recommender | None = None if self.serving is None else Recommender.load(self.serving)
        export = Recommender.load(results["export"]["export"])
        questions = Questions.of(self.sequences, self.users)
        found = compare(self.training.load_model(), export, serving, questions, self.config.train.monitor)
        return {**found, "serving_version": self.serving and str(self.serving), "drift": self._drift(console)}

    def _drift(self, console: Console) -> dict[str, Any] | None:
        """What moved since the run that this one went on from: the whole report in drift.json, here the counts."""
        if self.config.train.warm_start is None:
            return None
        from elcrec_tf.reporting.drift import Side, measure_drift
        from elcrec_tf.reporting.drift_tables import drift_tables

        old, new = Side.load(self.config.train.warm_start), Side.load(str(self.training.path))
        found = measure_drift(old, new, SAME_INTENT, LEAST_SHARE)
        write_json(self.run.path / "drift.json", found)
        console.print(drift_tables(found)[0])
        return {"intents": {name: len(found["intents"][name]) for name in ("kept", "died", "appeared")}, "items": found["data"]["items"]}

    def _gate(self, results: Results, console: Console) -> dict[str, Any]:
        checks = model_checks(results["compare"], self.config.train.monitor, self.limits)
        if self.serving is None:
            console.print("no model is served yet: the new one is compared with popularity alone")
        return verdict(checks)

    def _publish(self, results: Results, console: Console) -> dict[str, Any]:
        if version_of(self.model, self.run.id) is None:
            self.run.state[SERVING] = self._serves()
            self.run.save()
        version = publish(Path(results["export"]["export"]), self.model, self.run.id, self.keep)
        return {"version": int(version.name), "path": str(version)}


def _written(version: Path) -> Any:
    """The id of the run that made a version, or else its whole description: a version of the same number may be another."""
    metadata = read_metadata(version)
    return metadata.get(RUN_ID) or metadata


def all_checks(run: Run) -> Sequence[dict[str, Any]]:
    """The gate's rows as far as the run has come: after a first half that failed, a second one is that of an earlier attempt."""
    first, second = (run.record(step).get("result", {}) for step in ("check", "gate"))
    return [*first.get("checks", []), *(second.get("checks", []) if first.get("passed") else [])]
