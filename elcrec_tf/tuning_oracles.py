"""keras-tuner's oracles, which choose the trials of a search, so that a search can be killed at any moment and go on.

As they are, they write their state in place (a kill leaves half a file), run a trial again that ended just before a kill, and grid
search forgets where it was.
"""

from __future__ import annotations

import math
import sys
import warnings
from typing import Any

import keras_tuner
from keras_tuner.engine.trial import Trial

from elcrec_tf.files import write_json, write_text
from elcrec_tf.search_folder import SearchFolder, SearchSettings

KILLED = "its process was killed twice (out of memory?)"
_FINISHED = ("COMPLETED", "FAILED")


class _Durable(keras_tuner.Oracle):
    """Goes before one of keras-tuner's oracles.

    A trial whose process died is run once more, and has failed when that process dies, too. The first trial has the values that the
    search starts from: its best is never worse.
    """

    folder: SearchFolder
    trials: dict[str, Trial]
    ongoing_trials: dict[str, Trial]

    def save(self) -> None:
        write_json(self._get_oracle_fname(), self.get_state())

    def _save_trial(self, trial: Trial) -> None:
        write_json(f"{self._get_trial_dir(trial.trial_id)}/trial.json", trial.get_state())

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        # A trial that was written, and not handed out before the kill, is made anew.
        self.trials = {trial_id: self.trials[trial_id] for trial_id in self.start_order}
        for trial in self.ongoing_trials.values():
            self._lost(trial)
        self.ongoing_trials = {}

    @keras_tuner.synchronized
    def create_trial(self, tuner_id: str) -> Trial:
        trial = self.ongoing_trials.pop(tuner_id, None)
        if trial is not None:  # the process that had this name died, and another one took its place
            self._lost(trial)
        return super().create_trial(tuner_id)

    @keras_tuner.synchronized
    def end_trial(self, trial: Trial) -> None:
        # On their way through gRPC the values lose their order and some of their types.
        trial.hyperparameters = self.trials[trial.trial_id].hyperparameters
        if trial.trial_id in self._retry_queue:  # its worker outlived the chief before this one
            self._retry_queue.remove(trial.trial_id)
        super().end_trial(trial)
        self.save()  # the state that was written before still counts the trial as running

    @keras_tuner.synchronized
    def hand_back(self) -> None:
        """The user interrupts the search: its running trials go on with it later, as if nothing had happened."""
        self._retry_queue += [trial.trial_id for trial in self.ongoing_trials.values()]
        self.ongoing_trials = {}
        self.save()

    def _lost(self, trial: Trial) -> None:
        if trial.status in _FINISHED:  # its result was written just before the kill
            if trial.trial_id not in self.end_order:
                self.end_order.append(trial.trial_id)
            return
        self._run_times[trial.trial_id] += 1
        if self._run_times[trial.trial_id] == 1:
            self._retry_queue.append(trial.trial_id)
            return
        trial.status = "FAILED"
        write_text(self.folder.failure_file(trial.trial_id), KILLED + "\n")
        self._save_trial(trial)
        self.end_order.append(trial.trial_id)

    def _random_values(self) -> dict[str, Any] | None:
        if not self.trials:
            return {hp.name: hp.default for hp in self.hyperparameters.space}
        return super()._random_values()


class RandomOracle(_Durable, keras_tuner.oracles.RandomSearchOracle):
    """Random search."""


class BayesianOracle(_Durable, keras_tuner.oracles.BayesianOptimizationOracle):
    """Bayesian optimisation; values that were tried already are replaced by random ones."""

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn's, where a fit ends at a bound
            found = super().populate_space(trial_id)
        if found["values"] is not None and self._duplicate(found["values"]):
            return self._random_populate_space()
        return found


class HyperbandOracle(_Durable, keras_tuner.oracles.HyperbandOracle):
    """Hyperband. Where a space has too few values for a bracket's first round, or trials of it fail, the round is as large as what is left
    of them, the later ones in proportion, and halving goes on. (keras-tuner's ends the search there, or promotes one trial less for each
    that failed.)"""

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        for bracket in self._brackets:
            statuses = [self.trials[one["id"]].status for one in bracket["rounds"][0]]
            whole = len(statuses) >= self._get_size(bracket["bracket_num"], 0)
            if whole and "begun" not in bracket and "FAILED" in statuses and all(status in _FINISHED for status in statuses):
                bracket["begun"] = statuses.count("COMPLETED")
        return super().populate_space(trial_id)

    def _random_trial(self, trial_id: str, bracket: dict[str, Any]) -> dict[str, Any]:
        found = super()._random_trial(trial_id, bracket)
        if found["status"] != "STOPPED":
            return found
        # Part of the state that is saved. Nothing runs any more; trials that failed are not promoted.
        bracket["begun"] = sum(self.trials[one["id"]].status == "COMPLETED" for one in bracket["rounds"][0])
        return self.populate_space(trial_id)

    def _get_size(self, bracket_num: int, round_num: int) -> int:
        begun = next((one.get("begun") for one in self._brackets if one["bracket_num"] == bracket_num), None)
        return super()._get_size(bracket_num, round_num) if begun is None else math.ceil(begun / self.factor**round_num)


class GridOracle(_Durable, keras_tuner.oracles.GridSearchOracle):
    """Grid search over a space that never grows: each combination follows from the one before."""

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        for trial_id in self.start_order:
            self._ordered_ids.insert(trial_id)
        self._populate_next = self.start_order[-1:]

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        found = super().populate_space(trial_id)
        if found["status"] == "RUNNING":
            self._populate_next.append(trial_id)  # other workers need not wait for its end
        return found


def make_oracle(settings: SearchSettings, folder: SearchFolder) -> _Durable:
    """The oracle that the settings name."""
    train = settings.space.base.train
    common: dict[str, Any] = {
        "objective": keras_tuner.Objective(f"val_{settings.objective}", "max"),
        "seed": train.seed + 1,  # 0 means a random one
        "max_consecutive_failed_trials": sys.maxsize,
    }
    if settings.tuner == "hyperband":
        oracle = HyperbandOracle(max_epochs=train.epochs, **common)
        oracle.max_trials = settings.max_trials
    else:
        kinds = {"random": RandomOracle, "bayesian": BayesianOracle, "grid": GridOracle}
        oracle = kinds[settings.tuner](max_trials=settings.max_trials, **common)
    oracle.folder = folder
    oracle.verbose = 0
    return oracle
