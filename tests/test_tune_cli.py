"""The search command, as a user types it."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from elcrec_tf import train, tune
from elcrec_tf.config import resolve
from elcrec_tf.errors import UserError
from elcrec_tf.run_folder import RunFolder
from elcrec_tf.search_folder import SearchFolder, newest_search_folder
from elcrec_tf.tuning_workers import role
from tests.test_cli import FIELDS, ROOT, RUN_AND_TELL, python

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:keras_tuner")
DATA = ["--sim-users", "60", "--sim-items", "40", "--sim-intents", "4", "--sim-events", "8"]
SMALL = [*DATA, "--hidden-size", "8", "--num-layers", "1", "--max-length", "10", "--batch-size", "16", "--xla", "off", "--epochs", "1"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A search by the command in a process of its own: (folder, completed process)."""
    path = tmp_path_factory.mktemp("cli")
    (path / "space.json").write_text('{"num_clusters": {"low": 2, "high": 20}, "dropout": 0.1}')
    argv = [
        "--space",
        str(path / "space.json"),
        "--output-dir",
        str(path / "search"),
        "--max-trials",
        "2",
        "--refit",
        "2",
        "--json",
        *SMALL,
    ]
    done = subprocess.run([sys.executable, "-m", "elcrec_tf.tune", *argv], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return SearchFolder(path / "search"), done


def test_help_is_complete_and_loads_no_tensorflow():
    result = python("-c", RUN_AND_TELL, "elcrec_tf.tune", "--help")
    assert result.stderr == ""
    assert result.stdout.startswith("usage: python -m elcrec_tf.tune")
    assert result.stdout.endswith("exit 0\nheavy []\n")
    wanted = {field.name for field in FIELDS} - {"monitor", "recovery"}
    wanted |= {"tuner", "max_trials", "executions_per_trial", "space", "objective", "refit", "workers", "resume", "json", "output_dir"}
    assert all(f"--{name.replace('_', '-')}" in result.stdout for name in wanted)
    assert "KERASTUNER_ORACLE_IP" in result.stdout


def test_it_prints_json_alone_on_standard_output(finished):
    folder, done = finished
    report = json.loads(done.stdout)
    assert {name: report[name] for name in report if name != "refit"} == json.loads((folder.path / "trials.json").read_text())
    assert report["refit"] == json.loads((folder.path / "refit.json").read_text())
    assert len(report["trials"]) == 2 and len(report["refit"]["runs"]) == 2


def test_it_shows_a_line_for_each_start_and_end_and_no_noise(finished):
    lines = finished[1].stderr.splitlines()
    assert sum(line.startswith("trial ") and " begins: num_clusters " in line for line in lines) == 2
    assert sum(line.startswith("trial ") and " ends: NDCG@20 0." in line for line in lines) == 2
    for noise in ("oneDNN", "cuda", "absl", "Warning", "WARNING", "Reloading", "Traceback", "Search:"):
        assert noise not in finished[1].stderr


@pytest.mark.slow
def test_the_best_configuration_trains(finished, tmp_path):
    folder, done = finished
    report = json.loads(done.stdout)
    best = next(result for result in report["trials"] if result["trial"] == report["best"])
    assert resolve(file=folder.best_config_file).model.num_clusters == best["values"]["num_clusters"]
    argv = ["--config", str(folder.best_config_file), "--output-dir", str(tmp_path / "run"), "--no-export", "--no-recovery"]
    assert train.main(argv) == 0
    rows = RunFolder(tmp_path / "run").read_history()
    assert max(row["val_NDCG@20"] for row in rows) == pytest.approx(best["score"], rel=1e-5)


@pytest.mark.slow
def test_a_finished_search_is_resumed_to_its_report_and_extended(finished, capsys):
    folder, _ = finished
    before = json.loads((folder.path / "trials.json").read_text())
    assert tune.main(["--resume", "--output-dir", str(folder.path)]) == 0
    assert json.loads((folder.path / "trials.json").read_text()) == before
    assert "begins" not in capsys.readouterr().out
    assert tune.main(["--resume", "--output-dir", str(folder.path), "--max-trials", "3"]) == 0
    after = json.loads((folder.path / "trials.json").read_text())
    assert after["trials"][:2] == before["trials"] and len(after["trials"]) == 3
    assert folder.settings().max_trials == 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max-trials", "0"], "--max-trials should be at least 1. Received: 0"),
        (["--executions-per-trial", "-1"], "--executions-per-trial should be at least 1"),
        (["--refit", "-1"], "--refit should be at least 0"),
        (["--workers", "0"], "--workers should be at least 1"),
        (["--epochs", "0"], "train.epochs should be at least 1 in a search"),
        (["--num-clusters", "8", "--temperature", "0.3"], "nothing is left to search"),
        (["--space", "missing.json"], "missing.json: cannot be read"),
        (["--centers-start", "kmeans", *DATA], "60 users, 2048 intents"),
        (["--tuner", "hyperband", "--contrastive-schedule", "cosine", *SMALL], "hyperband goes on with trials for more epochs"),
        (["--tuner", "hyperband", "--final-temperature", "0.1", *SMALL], "hyperband goes on with trials for more epochs"),
        (["--item-updates", "touched", *SMALL], "--item-updates touched needs --xla chains"),
        (["--item-updates", "touched", *SMALL, "--xla", "chains"], "--item-updates touched needs --next-item sampled_softmax or bce"),
        (["--seed", "4294967295", *SMALL], "--seed 4294967295: .* to 4294967296 .*; give --seed 4294967294 or less"),
        (["--seed", "4294967294", "--executions-per-trial", "3", *SMALL], "give --seed 4294967293 or less"),
        (["--seed", "4294967294", "--refit", "4", *SMALL], "give --seed 4294967292 or less"),
        (["--resume"], "searches/: holds no search to resume"),
        (["--resume", "--tuner", "grid", "--epochs", "3"], "leave out --tuner, --epochs"),
        (["--resume", "--output-dir", "."], "holds no search"),
    ],
)
def test_a_wrong_flag_is_one_line(tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        tune.main(flags)
    assert list(tmp_path.iterdir()) == []


def test_a_worker_joins_a_search_and_starts_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, value in zip(("IP", "PORT"), ("127.0.0.1", "1"), strict=True):
        monkeypatch.setenv(f"KERASTUNER_ORACLE_{name}", value)
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "worker-1")
    with pytest.raises(UserError, match="a worker of another one's search; add --output-dir DIR --resume"):
        tune.main(SMALL)
    assert list(tmp_path.iterdir()) == []


def test_a_warm_start_keeps_the_settings_and_the_intents_of_its_run(finished, tmp_path):
    run = str(next((finished[0].path / "refit").glob("*-seed-0")))
    config = RunFolder(run).config()
    search = tmp_path / "search"
    assert tune.main(["--warm-start", run, "--output-dir", str(search), "--max-trials", "1"]) == 0
    settings = SearchFolder(search).settings()
    assert [one.name for one in settings.space.parameters] == ["temperature"]
    assert settings.space.base.model == config.model
    with pytest.raises(UserError, match="leave out --preset"):
        tune.main(["--warm-start", run, "--preset", "default"])
    (tmp_path / "space.json").write_text('{"num_clusters": {"low": 2, "high": 300}}')
    with pytest.raises(UserError, match="the run has .* intents, this one .*; give --num-clusters"):
        tune.main(["--warm-start", run, "--space", str(tmp_path / "space.json"), "--output-dir", str(tmp_path / "other")])
    assert not (tmp_path / "other").exists()


def test_a_folder_in_use_is_an_error_before_anything_is_read(finished, tmp_path):
    with pytest.raises(UserError, match="holds a search already; --resume continues it"):
        tune.main(["--output-dir", str(finished[0].path), "--dataset", "missing.csv"])
    (tmp_path / "note.txt").touch()
    with pytest.raises(UserError, match="is not empty and holds no search"):
        tune.main(["--output-dir", str(tmp_path)])


def test_seeds_of_a_refit_are_checked_on_resume_too(tmp_path):
    config, space = resolve(flags={"seed": 4294967294}), {"dropout": {"low": 0.1, "high": 0.5}}
    settings = {"tuner": "random", "max_trials": 1, "executions": 1, "fingerprint": "", "space": space, "config": config.to_dict()}
    (tmp_path / "search.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="give --seed 4294967293 or less"):
        tune.main(["--resume", "--output-dir", str(tmp_path), "--refit", "3", "--max-trials", "2"])
    assert SearchFolder(tmp_path).settings().max_trials == 1


@pytest.mark.parametrize("text", ["{", "{}", '{"config": {}, "space": []}'])
def test_a_broken_search_file_is_one_line(tmp_path, text):
    (tmp_path / "search.json").write_text(text)
    with pytest.raises(UserError, match="search.json"):
        SearchFolder(tmp_path).settings()


def test_the_newest_search_is_resumed(tmp_path):
    for number, name in enumerate(["b", "c", "a"]):
        (tmp_path / name).mkdir()
        (tmp_path / name / "search.json").touch()
        os.utime(tmp_path / name / "search.json", (number, number))
    assert newest_search_folder(tmp_path).path.name == "a"


@pytest.mark.parametrize("missing", ["keras_tuner", "scipy", "sklearn", "tensorboard", "matplotlib"])
def test_a_missing_package_is_one_line(monkeypatch, missing):
    find = tune.importlib.util.find_spec
    monkeypatch.setattr(tune.importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    with pytest.raises(UserError, match=rf'a search needs {missing}, not installed here; pip install "\.\[tune\]"'):
        tune.main([])


def test_the_role_of_a_process_is_in_keras_tuners_variables(monkeypatch):
    address = {"KERASTUNER_ORACLE_IP": "127.0.0.1", "KERASTUNER_ORACLE_PORT": "1"}
    assert role({}) == role({"KERASTUNER_ORACLE_PORT": "1"}) == "alone"
    assert role({**address, "KERASTUNER_TUNER_ID": "chief"}) == "chief"
    assert role({**address, "KERASTUNER_TUNER_ID": "worker-1"}) == "worker"
    with pytest.raises(UserError, match="KERASTUNER_ORACLE_IP is set, KERASTUNER_TUNER_ID not"):
        role(address)
    for name, value in {**address, "KERASTUNER_TUNER_ID": "chief"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="leave out one of them"):
        tune.main(["--workers", "2"])


def start(path, *flags):
    argv = ["--output-dir", str(path), *flags, *SMALL[:-1], "400", "--patience", "400"]
    return subprocess.Popen(
        [sys.executable, "-m", "elcrec_tf.tune", *argv], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for(condition, process):
    deadline = time.monotonic() + 120
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert condition(), process.stdout.read()


@pytest.mark.slow
def test_a_killed_search_goes_on_with_the_command(tmp_path):
    """kill -9 within the first trial: `--resume` lets it go on from its checkpoint."""
    folder = SearchFolder(tmp_path / "search")
    killed = start(folder.path, "--max-trials", "1", "--num-clusters", "4")
    trial = folder.run("0", 0, 1)
    wait_for(lambda: trial.newest_checkpoint() is not None, killed)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    before = trial.read_history()
    assert 0 < len(before) < 400
    shorten(folder, epochs=len(before) + 2)
    assert tune.main(["--resume", "--output-dir", str(folder.path)]) == 0
    assert trial.read_history()[: len(before) - 1] == before[:-1]  # the last one may have had no checkpoint yet
    (result,) = json.loads((folder.path / "trials.json").read_text())["trials"]
    assert (result["status"], result["epochs"]) == ("completed", len(before) + 2)


def shorten(folder, epochs):
    """Let a search's trials end soon."""
    settings = json.loads(folder.settings_file.read_text())
    settings["config"]["train"]["epochs"] = epochs
    folder.settings_file.write_text(json.dumps(settings))


@pytest.mark.slow
def test_two_workers_share_a_search_and_a_killed_one_is_replaced(tmp_path):
    folder = SearchFolder(tmp_path / "search")
    argv = ["--output-dir", str(folder.path), "--workers", "2", "--max-trials", "6", "--tuner", "random", *SMALL[:-1], "30"]
    process = subprocess.Popen(
        [sys.executable, "-m", "elcrec_tf.tune", *argv], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    wait_for(lambda: folder.run("1", 0, 1).newest_checkpoint() is not None, process)
    workers = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    assert len(workers) == 3  # and the chief
    os.kill(int(workers[-1]), signal.SIGKILL)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    trials = json.loads((folder.path / "trials.json").read_text())["trials"]
    assert [result["status"] for result in trials] == ["completed"] * 6
    assert len({tuple(result["values"].values()) for result in trials}) == 6
    begun = [line.split(" begins:")[0] for line in output.splitlines() if " begins: " in line]
    assert len(begun) == 7 and len({line.split(": ")[1] for line in begun}) == 6  # one of them twice
    assert {line.split(":")[0] for line in begun} == {"worker-1", "worker-2"}
    assert "worker-2 was killed (signal 9) and is started again" in output


@pytest.mark.slow
def test_the_processes_of_a_killed_search_end_and_it_goes_on(tmp_path):
    folder = SearchFolder(tmp_path / "search")
    process = start(folder.path, "--workers", "2", "--max-trials", "2", "--tuner", "random")
    wait_for(lambda: folder.run("1", 0, 1).newest_checkpoint() is not None, process)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)  # the output ends when nobody holds it any more
    deadline = time.monotonic() + 30
    while any(os.path.exists(f"/proc/{child}") for child in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(children) == 3 and not any(os.path.exists(f"/proc/{child}") for child in children)
    shorten(folder, epochs=3)
    assert tune.main(["--resume", "--output-dir", str(folder.path)]) == 0
    trials = json.loads((folder.path / "trials.json").read_text())["trials"]
    assert [result["status"] for result in trials] == ["completed"] * 2
