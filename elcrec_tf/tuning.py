"""keras-tuner over ELCRec: the hypermodel, and a tuner whose trials are ordinary training runs."""

from __future__ import annotations

import contextlib
import io
import shutil
import time
import traceback
from typing import Any

import grpc
import keras
import keras_tuner
from keras_tuner.engine.trial import Trial
from rich.console import Console

from elcrec_tf.config import Config
from elcrec_tf.data.shards import AnySequences
from elcrec_tf.errors import UserError
from elcrec_tf.files import atomic_path, write_text
from elcrec_tf.model import ELCRec
from elcrec_tf.run_folder import RunFolder
from elcrec_tf.search_folder import STORE, SearchFolder, SearchSettings
from elcrec_tf.search_parameter import Parameter
from elcrec_tf.search_space import Space
from elcrec_tf.training import check_trainable, new_model, train_model
from elcrec_tf.tuning_oracles import make_oracle

_HOPELESS = 3
_IDLE_SECONDS = 0.5


class ELCRecHyperModel(keras_tuner.HyperModel):
    """Hyperparameters -> configuration -> compiled model.

    Args:
        sequences: the data set.
        space: what is searched.
    """

    def __init__(self, sequences: AnySequences, space: Space) -> None:
        super().__init__(name="elcrec")
        self.sequences = sequences
        self.space = space

    def config(self, hp: keras_tuner.HyperParameters) -> Config:
        """The configuration of a trial; declares the space where `hp` does not know it yet."""
        start = self.space.start()
        return self.space.config({one.name: _declared(hp, one, start[one.name]) for one in self.space.parameters})

    def build(self, hp: keras_tuner.HyperParameters) -> ELCRec:
        return new_model(self.sequences, self.config(hp))


def _declared(hp: keras_tuner.HyperParameters, parameter: Parameter, default: Any) -> Any:
    if parameter.kind is bool:
        return hp.Boolean(parameter.name, default)
    if parameter.choices:
        return hp.Choice(parameter.name, list(parameter.choices), default=default)
    declare = hp.Int if parameter.kind is int else hp.Float
    return declare(parameter.name, parameter.low, parameter.high, sampling="log" if parameter.log else "linear", default=default)


class SearchTuner(keras_tuner.Tuner):
    """Runs the trials that an oracle chooses, each as an ordinary run folder, and records what they reach.

    A trial that was cut off goes on from its last whole epoch. One that continues an earlier trial (Hyperband) starts with a copy of
    its run. One that fails is recorded with a line that says why, and the search goes on.

    Args:
        settings: what the search does.
        folder: where it leaves it.
        sequences: the data set.
        console: where a line for each trial's start and end goes.
    """

    def __init__(self, settings: SearchSettings, folder: SearchFolder, sequences: AnySequences, console: Console) -> None:
        self.folder = folder
        self.sequences = sequences
        self.console = console
        self._metric = settings.objective
        self._asked = False
        self._reasons: list[str | None] = []
        with contextlib.redirect_stdout(io.StringIO()):  # it says that it reloads
            super().__init__(
                make_oracle(settings, folder),
                ELCRecHyperModel(sequences, settings.space),
                directory=str(folder.path),
                project_name=STORE,
                executions_per_trial=settings.executions,
            )

    def run_trial(self, trial: Trial, *args: Any, **kwargs: Any) -> list[float]:
        """The best validation metric of each execution."""
        config = self.hypermodel.config(trial.hyperparameters)
        epochs = trial.hyperparameters.values.get("tuner/epochs", config.train.epochs)
        return [self._execute(trial, config.replace(epochs=epochs), execution) for execution in range(self.executions_per_trial)]

    def _execute(self, trial: Trial, config: Config, execution: int) -> float:
        keras.backend.clear_session()  # frees the last trial's model and graphs
        run = self._run_folder(trial.trial_id, execution)
        past = trial.hyperparameters.values.get("tuner/trial_id")
        if past is not None and not run.exists:
            with atomic_path(run.path) as temporary:
                shutil.copytree(self._run_folder(past, execution).path, temporary)
        train_model(self.sequences, config.replace(seed=config.train.seed + execution), run, resume=run.exists)
        return max(row[f"val_{self._metric}"] for row in run.read_history())

    def _run_folder(self, trial_id: str, execution: int) -> RunFolder:
        return self.folder.run(trial_id, execution, self.executions_per_trial)

    def load_model(self, trial: Trial) -> ELCRec:
        """The best model of a trial's first execution."""
        return self._run_folder(trial.trial_id, 0).load_model()

    def _try_run_and_update_trial(self, trial: Trial, *args: Any, **kwargs: Any) -> None:
        try:
            self._run_and_update_trial(trial, *args, **kwargs)
            trial.status = "COMPLETED"
        except (OSError, grpc.RpcError, keras_tuner.errors.FatalError):  # the next trial would fare no better
            raise
        except Exception as error:
            trial.status, trial.message = "FAILED", traceback.format_exc()
            write_text(self.folder.failure_file(trial.trial_id), _one_line(error) + "\n")

    def pre_create_trial(self) -> None:
        if self._asked:  # and got no trial: the oracle waits for others to end
            time.sleep(_IDLE_SECONDS)
        self._asked = True

    def on_trial_begin(self, trial: Trial) -> None:
        self._asked = False
        self._began = time.perf_counter()
        sampled = trial.hyperparameters.values
        values = ", ".join(f"{name} {value}" for name, value in self.hypermodel.space.values(sampled).items())
        past = f", continues trial {sampled['tuner/trial_id']}" if "tuner/trial_id" in sampled else ""
        self._say(f"trial {trial.trial_id} begins: {values}{past}")

    def on_trial_end(self, trial: Trial) -> None:
        super().on_trial_end(trial)
        seconds = time.perf_counter() - self._began
        if trial.status == "FAILED":
            reason = self.folder.failure_file(trial.trial_id).read_text(encoding="utf-8").strip()
            self._say(f"trial {trial.trial_id} failed after {seconds:.0f} s: {reason}")
        else:
            reason = None
            score, best = self.oracle.get_trial(trial.trial_id).score, self.oracle.get_best_trials(1)[0]
            done = f"trial {trial.trial_id} ends: {self._metric} {score:.4f} after {seconds:.0f} s"
            self._say(f"{done}; best so far {best.score:.4f} (trial {best.trial_id})")
        self._reasons.append(reason)
        if reason is None or self._reasons != [reason] * _HOPELESS:
            return
        # What these are the first of: a search that goes on, or another worker, may have trials that are done.
        if all(one.status != "COMPLETED" for one in self.oracle.get_best_trials(1)):
            raise UserError(f"the first {_HOPELESS} trials all failed for the same reason: {reason}")

    def _say(self, line: str) -> None:
        self.console.print(line, soft_wrap=True)

    # A search has one state, that of its oracle, whether one process goes on with it or a chief with workers.
    def _get_tuner_fname(self) -> str:
        return str(self.folder.path / STORE / "oracle.json")

    def save(self) -> None:
        if not self._is_worker():
            self.oracle.save()

    def reload(self) -> None:
        if not self._is_worker():
            self.oracle.reload()


def search(settings: SearchSettings, folder: SearchFolder, sequences: AnySequences, console: Console, worker: bool = False) -> None:
    """Run a search to its end, or go on with it.

    Where keras-tuner's environment variables make this process the chief, it hands the trials out and returns when all workers are
    done.

    Args:
        settings: what the search does.
        folder: a folder that holds these settings.
        sequences: the data set.
        console: where a line for each trial's start and end goes.
        worker: run trials of the chief that the environment variables name, until it has no more.

    Raises:
        UserError: for other data than the search was made on, settings that it cannot be trained with, a search that another process
            goes on with, a chief that cannot be reached, or when the first trials all fail for the same reason.
    """
    if sequences.fingerprint != settings.fingerprint:
        raise UserError(
            f"{folder.path}: the search was made on other data than {settings.space.base.data.dataset!r} holds now; start a new one"
        )
    for config in settings.space.extremes():
        check_trainable(sequences, config)
    if worker:
        _work(settings, folder, sequences, console)
        return
    with folder.locked():
        tuner = SearchTuner(settings, folder, sequences, console)
        tuner.save()
        try:
            tuner.search()
        except BaseException:
            tuner.oracle.hand_back()
            raise


def _work(settings: SearchSettings, folder: SearchFolder, sequences: AnySequences, console: Console) -> None:
    try:
        SearchTuner(settings, folder, sequences, console).search()
    except grpc.RpcError as error:
        code = error.code().name if isinstance(error, grpc.Call) else type(error).__name__
        raise UserError(f"the search's chief does not answer ({code}); start it again with --resume, then the workers") from None


def _one_line(error: Exception) -> str:
    text = next(iter(str(error).splitlines()), "")[:300]
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
