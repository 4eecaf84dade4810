"""Searches on a tiny simulated data set: trials, failures, kills, Hyperband's checkpoints, what a search leaves."""

import dataclasses
import json
import statistics

import pytest
import tensorflow as tf

from elcrec_tf import tuning, tuning_oracles
from elcrec_tf.cli import console
from elcrec_tf.config import resolve
from elcrec_tf.data.simulate import simulate
from elcrec_tf.errors import UserError
from elcrec_tf.run_folder import RunFolder
from elcrec_tf.search_folder import SearchFolder, SearchSettings, best_trial, clearest_trial
from elcrec_tf.search_space import make_space
from elcrec_tf.tuning import SearchTuner, search
from elcrec_tf.tuning_report import refit, trials_table, write_report
from tests.test_training import TINY

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:keras_tuner", "ignore:The use case of calling:DeprecationWarning")
CHOICES = {"num_clusters": {"choices": [2, 3, 4, 6]}, "temperature": 0.2}
RANGES = {"num_clusters": {"low": 2, "high": 30}}


@pytest.fixture(scope="module")
def sequences():
    return simulate(TINY.simulator)


@pytest.fixture
def make(tmp_path, sequences):
    """Makes a search's folder: `make(tuner, entries, ...)` -> (settings, folder)."""

    def start(tuner, entries, max_trials=3, executions=1, name="search", **fields):
        space = make_space(TINY.replace(**{"epochs": 2, **fields}), entries)
        space = space.grid() if tuner == "grid" else space
        settings = SearchSettings(tuner, max_trials, executions, space, sequences.fingerprint)
        folder = SearchFolder(tmp_path / name)
        folder.write_settings(settings)
        return settings, folder

    return start


@pytest.fixture
def trained(monkeypatch, sequences):
    """Training in no time: a score from the configuration, an epoch's row at a time. A list of (folder's name, first epoch)."""
    calls = []

    def train(_, config, folder, resume=False):
        if not resume:
            folder.create(config, sequences.catalog, sequences.fingerprint)
        folder.write_config(config)
        rows = folder.read_history()
        calls.append((folder.path.name, len(rows)))
        score = config.loss.temperature + config.model.num_clusters / 100 + config.train.seed / 50
        for epoch in range(len(rows) + 1, config.train.epochs + 1):
            separation = 1 / (1 + abs(config.model.num_clusters - 8))
            health = {"intent_separation": separation, "intent_perplexity": config.model.num_clusters / 2}
            rows.append({"epoch": epoch, "val_NDCG@20": score + epoch / 1000, "seconds": 1.0, **health})
            folder.write_history(rows)

    monkeypatch.setattr(tuning, "train_model", train)
    monkeypatch.setattr(tuning, "new_model", lambda *_: None)
    monkeypatch.setattr(tuning.keras.backend, "clear_session", lambda: None)  # there is nothing to free, and it takes a while
    return calls


class Kill(BaseException):
    """What kill -9 is: nothing after it runs."""


def run(settings, folder, sequences):
    search(settings, folder, sequences, console())


def test_a_trial_is_a_run_and_scores_its_best_validation(make, sequences):
    settings, folder = make("random", {"fusion": {}}, max_trials=2)
    run(settings, folder, sequences)
    trials = folder.trials(settings)
    assert [result.status for result in trials] == ["completed"] * 2
    assert trials[0].values == {"num_clusters": 8, "temperature": 0.2, "fusion": "shift"}  # the configuration, or what is nearest
    assert trials[1].values != trials[0].values
    for result in trials:
        own = RunFolder(folder.path / result.runs[0])
        assert own.config() == settings.space.config(result.values)
        assert result.score == pytest.approx(max(row["val_NDCG@20"] for row in own.read_history()))
        assert own.load_model().get_config()["num_clusters"] == result.values["num_clusters"]
        assert not own.metrics_file.exists()  # nobody looked at test


def test_executions_are_seeds_and_the_score_is_their_mean(make, sequences, trained):
    settings, folder = make("grid", CHOICES, max_trials=1, executions=2)
    run(settings, folder, sequences)
    (result,) = folder.trials(settings)
    runs = [RunFolder(folder.path / name) for name in result.runs]
    assert [one.config().train.seed for one in runs] == [0, 1]
    best = [max(row["val_NDCG@20"] for row in one.read_history()) for one in runs]
    assert result.score == pytest.approx(statistics.mean(best)) and best[0] != best[1]


@pytest.mark.slow
def test_a_diverging_trial_is_recorded_and_the_search_goes_on(make, sequences, capsys):
    settings, folder = make("grid", {**CHOICES, "num_clusters": 4, "learning_rate": {"choices": [1e30, 1e-3]}}, score="dot", epochs=1)
    run(settings, folder, sequences)
    trials = folder.trials(settings)
    assert sorted((result.status, result.values["learning_rate"]) for result in trials) == [("completed", 1e-3), ("failed", 1e30)]
    (reason,) = [result.reason for result in trials if result.status == "failed"]
    assert reason.startswith("training diverged") and "\n" not in reason
    report = write_report(folder, settings)
    console().print(trials_table(report))
    captured = capsys.readouterr()
    assert "training diverged" in captured.out
    assert "Traceback" not in captured.out + captured.err


def test_a_trial_without_memory_is_recorded_and_the_search_goes_on(make, sequences, trained, monkeypatch):
    train = tuning.train_model

    def limited(sequences, config, *arguments, **options):
        if config.model.num_clusters == 3:
            raise MemoryError("Unable to allocate 3 TiB\nmore")
        train(sequences, config, *arguments, **options)

    monkeypatch.setattr(tuning, "train_model", limited)
    settings, folder = make("grid", CHOICES, max_trials=None)
    run(settings, folder, sequences)
    trials = folder.trials(settings)
    assert [result.reason for result in trials if result.status == "failed"] == ["MemoryError: Unable to allocate 3 TiB"]
    assert best_trial(trials).values == {"num_clusters": 6}


def test_a_search_whose_first_trials_all_fail_alike_stops(make, sequences, monkeypatch):
    def broken(*_, **__):
        raise UserError("the data is broken")

    monkeypatch.setattr(tuning, "train_model", broken)
    settings, folder = make("random", RANGES, max_trials=9)
    with pytest.raises(UserError, match="first 3 trials all failed for the same reason: the data is broken"):
        run(settings, folder, sequences)
    assert len(folder.trials(settings)) == 3


def test_a_search_with_good_trials_goes_on_through_bad_ones(make, sequences, trained, monkeypatch):
    """Also where the bad ones are the first after a resume."""
    settings, folder = make("grid", {"num_clusters": {"choices": [2, 3, 4, 6, 8]}, "temperature": 0.2}, max_trials=1)
    run(settings, folder, sequences)

    def broken(*_, **__):
        raise UserError("does not fit")

    monkeypatch.setattr(tuning, "train_model", broken)
    run(dataclasses.replace(settings, max_trials=None), folder, sequences)
    assert [result.status for result in folder.trials(settings)] == ["completed"] + ["failed"] * 4


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full disk", "Ctrl-C"])
def test_an_interrupted_trial_goes_on_however_often(make, sequences, trained, monkeypatch, error):
    settings, folder = make("grid", CHOICES, max_trials=None)

    def interrupted(*_, **__):
        raise error

    for _ in range(3):
        with monkeypatch.context() as context:
            context.setattr(tuning, "train_model", interrupted)
            with pytest.raises(type(error)):
                run(settings, folder, sequences)
    run(settings, folder, sequences)
    assert [result.status for result in folder.trials(settings)] == ["completed"] * 4


def test_other_data_and_impossible_settings_are_refused_before_the_first_trial(make, sequences):
    settings, folder = make("random", RANGES)
    other = dataclasses.replace(sequences, items=sequences.items[::-1].copy())
    with pytest.raises(UserError, match="other data than 'simulated' holds now"):
        run(settings, folder, other)
    settings, _ = make("random", {"num_clusters": {"low": 2, "high": 64}}, centers_start="kmeans")
    with pytest.raises(UserError, match="60 users, 64 intents"):
        run(settings, folder, sequences)
    assert folder.trials(settings) == []


def test_two_processes_do_not_go_on_with_one_search(make, sequences):
    settings, folder = make("random", RANGES)
    with folder.locked(), pytest.raises(UserError, match="another process goes on with this search"):
        run(settings, folder, sequences)


@pytest.mark.parametrize(
    ("tuner", "max_trials", "expected"), [("random", 3, 3), ("bayesian", 5, 5), ("hyperband", None, 6), ("grid", None, 4)]
)
def test_a_search_killed_at_any_write_goes_on(make, sequences, trained, monkeypatch, tuner, max_trials, expected):
    """Whichever write was the last before the kill: every trial ends, and none that had ended is trained again."""
    write = tuning_oracles.write_json
    for writes in range(100):
        left = [writes]

        def limited(path, value, left=left):
            if not left[0]:
                raise Kill
            left[0] -= 1
            write(path, value)

        settings, folder = make(tuner, CHOICES if tuner == "grid" else RANGES, max_trials, name=f"killed-{writes}", epochs=3)
        with monkeypatch.context() as context:
            context.setattr(tuning_oracles, "write_json", limited)
            killed = attempt(settings, folder, sequences)
        ended = {result.trial for result in folder.trials(settings) if result.status != "unfinished"}
        del trained[:]
        assert not attempt(settings, folder, sequences)
        assert not ended & {name for name, _ in trained}
        trials = folder.trials(settings)
        assert [result.status for result in trials] == ["completed"] * expected
        assert len({(*result.values.values(), result.continues) for result in trials}) == expected
        if not killed:
            break
    assert writes > 2 * expected  # it was killed before, within and after each trial


def attempt(settings, folder, sequences):
    """Search until the end or a kill; whether it was killed."""
    try:
        SearchTuner(settings, folder, sequences, console()).search()
    except Kill:
        return True
    return False


@pytest.mark.parametrize(("kills", "status"), [(1, "completed"), (2, "failed")])
def test_a_trial_that_is_killed_goes_on_once(make, sequences, trained, monkeypatch, kills, status):
    train, left = tuning.train_model, [kills]

    def killed(sequences, config, folder, resume=False):
        if folder.path.name == "1" and left[0]:
            left[0] -= 1
            train(sequences, config.replace(epochs=1), folder, resume)
            raise Kill
        train(sequences, config, folder, resume)

    monkeypatch.setattr(tuning, "train_model", killed)
    settings, folder = make("random", RANGES)
    assert sum(attempt(settings, folder, sequences) for _ in range(3)) == kills
    assert [result.status for result in folder.trials(settings)] == ["completed", status, "completed"]
    assert [first for name, first in trained if name == "1"] == [0, 1]
    reason = folder.trials(settings)[1].reason
    assert reason == (tuning_oracles.KILLED if status == "failed" else None)


def test_a_worker_that_comes_back_gets_its_trial_once_more(make, sequences, trained):
    settings, folder = make("random", RANGES)
    oracle = SearchTuner(settings, folder, sequences, console()).oracle
    first, second = oracle.create_trial("worker-1"), oracle.create_trial("worker-2")
    assert first.trial_id != second.trial_id
    assert oracle.create_trial("worker-1").trial_id == first.trial_id
    assert oracle.create_trial("worker-1").trial_id not in (first.trial_id, second.trial_id)
    assert [result.status for result in folder.trials(settings)] == ["failed", "unfinished", "unfinished"]


def test_a_grid_is_shared_by_workers_that_do_not_wait_for_each_other(make, sequences, trained):
    settings, folder = make("grid", CHOICES, max_trials=None)
    oracle = SearchTuner(settings, folder, sequences, console()).oracle
    trials = [oracle.create_trial(f"worker-{number}") for number in range(4)]
    assert sorted(trial.hyperparameters.values["num_clusters"] for trial in trials) == [2, 3, 4, 6]
    assert oracle.create_trial("worker-4").status == "IDLE"


@pytest.mark.parametrize("tuner", ["random", "bayesian"])
def test_no_values_are_tried_twice_and_a_space_that_is_used_up_ends_the_search(make, sequences, trained, tuner):
    settings, folder = make(tuner, CHOICES, max_trials=20)
    run(settings, folder, sequences)
    assert sorted(result.values["num_clusters"] for result in folder.trials(settings)) == [2, 3, 4, 6]


def test_more_trials_can_be_asked_for_later(make, sequences, trained):
    settings, folder = make("random", RANGES, max_trials=9)
    run(settings, folder, sequences)
    before = folder.trials(settings)
    run(dataclasses.replace(settings, max_trials=11), folder, sequences)
    assert folder.trials(settings)[:9] == before
    assert len(folder.trials(settings)) == 11


@pytest.mark.slow
def test_hyperband_goes_on_from_the_checkpoint_of_the_trial_that_it_continues(make, sequences):
    settings, folder = make("hyperband", RANGES, max_trials=4, epochs=3)
    run(settings, folder, sequences)
    trials = folder.trials(settings)
    assert [result.epochs for result in trials] == [1, 1, 1, 3]
    continued = trials[3]
    past = next(result for result in trials if result.trial == continued.continues)
    assert past == best_trial(trials[:3]) and past.values == continued.values
    history = RunFolder(folder.path / continued.runs[0]).read_history()
    assert history[0] == RunFolder(folder.path / past.runs[0]).read_history()[0]
    assert [row["epoch"] for row in history] == [1, 2, 3]
    # The state that it starts from is the checkpoint's: the loss goes on falling from there.
    assert history[1]["loss"] < history[0]["loss"]


def test_hyperband_goes_on_with_a_space_that_has_fewer_values_than_it_begins_with(make, sequences, trained):
    """Of 20 epochs it makes 12 trials of 3 epochs, and of a third of them 7. Here there are 4 values: then 2 are left, then 1."""
    settings, folder = make("hyperband", CHOICES, max_trials=5, epochs=20)
    run(settings, folder, sequences)
    assert len(folder.trials(settings)) == 5
    run(dataclasses.replace(settings, max_trials=None), folder, sequences)  # the same search after a stop
    trials = folder.trials(settings)
    assert [result.epochs for result in trials] == [3, 3, 3, 3, 7, 7, 20]
    assert sorted(result.values["num_clusters"] for result in trials[:4]) == [2, 3, 4, 6]
    assert [result.values["num_clusters"] for result in trials[4:]] == [6, 4, 6]


def test_hyperband_goes_on_without_the_trials_that_failed(make, sequences, trained, monkeypatch):
    settings, folder = make("hyperband", CHOICES, max_trials=None, epochs=20)
    train = tuning.train_model

    def fails_once(data, config, *arguments, **options):
        if config.model.num_clusters == 6:
            raise UserError("training diverged")
        return train(data, config, *arguments, **options)

    monkeypatch.setattr(tuning, "train_model", fails_once)
    run(settings, folder, sequences)
    assert [result.epochs for result in folder.trials(settings) if result.score is not None][-1] == 20


def test_trials_that_failed_take_no_promotion_away(make, sequences, trained, monkeypatch):
    """Of 12 trials of 3 epochs that all end, 4 go on to 7 and 2 of them to 20. So it is with the 10 that are left where two fail."""
    settings, folder = make("hyperband", {"learning_rate": {"low": 1e-5, "high": 1e-1, "scale": "log"}}, max_trials=18, epochs=20)
    train, failing = tuning.train_model, []

    def fails_twice(data, config, *arguments, **options):
        if config.train.epochs == 3 and len(failing) < 2:
            failing.append(config)
            raise UserError(f"training diverged with {config.train.learning_rate}")
        return train(data, config, *arguments, **options)

    monkeypatch.setattr(tuning, "train_model", fails_twice)
    run(settings, folder, sequences)
    done = [result for result in folder.trials(settings) if result.score is not None]
    assert [result.epochs for result in done] == [3] * 10 + [7] * 4 + [20] * 2


def test_what_a_search_leaves(make, sequences, trained):
    settings, folder = make("random", {**RANGES, "fusion": {}}, max_trials=5)
    run(settings, folder, sequences)
    report = write_report(folder, settings)
    assert json.loads((folder.path / "trials.json").read_text()) == report
    best = max(report["trials"], key=lambda result: result["score"])
    assert report["best"] == best["trial"]
    assert resolve(file=folder.best_config_file) == settings.space.config(best["values"])
    clearest = report["trials"][int(report["clearest"])]
    assert clearest["separation"] == 1 / (1 + abs(clearest["values"]["num_clusters"] - 8))
    half = {**clearest["values"], "num_clusters": max(2, round(clearest["values"]["num_clusters"] / 2))}
    assert resolve(file=folder.intents_config_file) == settings.space.config(half)
    for name in ("parameters", "best_so_far", "num_clusters", "num_clusters_temperature"):
        assert (folder.path / "plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    # A second report takes the place of the first.
    files = len(list((folder.path / "tensorboard").rglob("events*")))
    write_report(folder, settings)
    assert len(list((folder.path / "tensorboard").rglob("events*"))) == files == 6


def test_the_number_of_intents_is_read_off_the_trials_that_score_as_well_as_the_best(make, sequences, trained):
    settings, folder = make("grid", {"num_clusters": {"choices": [8, 20, 198, 200]}, "temperature": 0.2}, max_trials=None)
    run(settings, folder, sequences)
    trials = folder.trials(settings)
    # Scores rise with the number: only 198 is within 2 % of 200, and it is nearer to 8, where the separation is highest.
    assert best_trial(trials).values == {"num_clusters": 200}
    assert clearest_trial(trials).values == {"num_clusters": 198}


def test_the_number_of_intents_in_use_may_be_below_what_was_searched(make, sequences, trained):
    settings, folder = make("random", {"num_clusters": {"low": 100, "high": 200}, "temperature": 0.2}, max_trials=2)
    run(settings, folder, sequences)
    clearest = clearest_trial(folder.trials(settings))
    write_report(folder, settings)
    assert resolve(file=folder.intents_config_file).model.num_clusters == round(clearest.values["num_clusters"] / 2) <= 100


def test_other_fields_say_nothing_of_the_number_of_intents(make, sequences, trained):
    settings, folder = make("grid", {"num_clusters": 5, "temperature": {"choices": [0.1, 0.2]}}, max_trials=None)
    run(settings, folder, sequences)
    assert write_report(folder, settings)["clearest"] is None
    assert not folder.intents_config_file.exists()


def test_the_trials_are_read_back_by_tensorboards_hparams(make, sequences, trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    settings, folder = make("random", RANGES, max_trials=2)
    run(settings, folder, sequences)
    write_report(folder, settings)
    result = folder.trials(settings)[1]
    events = EventAccumulator(str(folder.path / "tensorboard" / result.trial)).Reload()
    (content,) = events.PluginTagToContent("hparams").values()
    values = HParamsPluginData.FromString(content).session_start_info.hparams
    assert {name: value.number_value for name, value in values.items()} == result.values
    (score,) = events.Tensors("val_NDCG@20")
    assert tf.make_ndarray(score.tensor_proto) == pytest.approx(result.score)


def test_a_search_without_a_completed_trial_leaves_no_configuration(make, sequences, trained, monkeypatch):
    settings, folder = make("random", RANGES)
    report = write_report(folder, settings)
    assert (report["best"], report["trials"]) == (None, [])
    assert not folder.best_config_file.exists()


@pytest.mark.slow
def test_a_refit_reports_the_best_configuration_on_test_and_is_continued(make, sequences):
    settings, folder = make("random", RANGES, epochs=1)
    best = {"trial": "2", "values": {"num_clusters": 5, "temperature": 0.3}}
    result = refit(folder, settings, best, sequences, 2, console(stderr=True))
    assert [one["seed"] for one in result["runs"]] == [0, 1]
    tests = [one["test"]["NDCG@20"] for one in result["runs"]]
    assert result["mean"]["test"]["NDCG@20"] == pytest.approx(statistics.mean(tests))
    assert result["spread"]["test"]["NDCG@20"] == pytest.approx(statistics.stdev(tests))
    histories = [RunFolder(one["run"]).history_file for one in result["runs"]]
    before = [history.stat().st_mtime_ns for history in histories]
    assert refit(folder, settings, best, sequences, 2, console(stderr=True)) == result
    assert [history.stat().st_mtime_ns for history in histories] == before
