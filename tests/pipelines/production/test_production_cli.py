"""The command: exit statuses, the plan, and (slow) whole runs on a tiny simulated service, killed and resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from elcrec_tf.config import DataConfig
from elcrec_tf.errors import UserError
from pipelines.living.__main__ import main as living
from pipelines.lock import locked
from pipelines.production.__main__ import GATE_REFUSED, IN_USE, _config, _prepared, main
from pipelines.production.flags import make_parser
from pipelines.production.preparing import MEMORY, Preparation

ROOT = Path(__file__).parents[3]
WORLD = ["--users", "60", "--items", "40", "--intents", "4", "--activity", "1"]
TINY = ["--k-core", "1", "--hidden-size", "8", "--num-layers", "1", "--num-clusters", "4", "--batch-size", "16", "--xla", "off"]
TINY += ["--products", "float32", "--max-drop", "0.9"]


def days(folder, first, last, world=WORLD):
    assert living(["log", "--days", str(first), str(last), "--output", str(folder / f"day-{first:02d}.csv"), *world]) == 0


@pytest.fixture
def flags(tmp_path):
    (tmp_path / "logs").mkdir()
    days(tmp_path / "logs", 0, 5)
    places = ["--input", str(tmp_path / "logs"), "--model", str(tmp_path / "saved" / "shop"), "--work-dir", str(tmp_path / "work")]
    return [*places, *TINY, "--epochs", "2", "--update-epochs", "1"]


def versions(tmp_path):
    return sorted(path.name for path in (tmp_path / "saved" / "shop").iterdir() if path.name.isdecimal())


def state(tmp_path, run):
    return json.loads((tmp_path / "work" / run / "pipeline.json").read_text())


@pytest.mark.parametrize("folder", ["work", "saved/shop"])
def test_a_second_run_is_told_so(flags, tmp_path, folder, capsys):
    (tmp_path / "saved" / "shop").mkdir(parents=True)
    # A lock of the system's: another descriptor of the same process is refused as well.
    with locked(tmp_path / folder, wait=False):
        assert main(flags) == IN_USE == 4
    assert "another process is at work there" in capsys.readouterr().err
    assert not list((tmp_path / "work").glob("run-*"))


def test_a_dry_run_tells_the_plan_and_touches_nothing(flags, tmp_path, capsys):
    assert main([*flags, "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "from nothing, at most 2 epochs" in text and "nothing yet" in text
    assert [line for line in text.splitlines() if line.endswith(": to do")] == [
        f"{step}: to do" for step in ("prepare", "check", "train", "evaluate", "export", "compare", "gate", "publish")
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["logs"]


def test_data_that_looks_wrong_is_refused_before_training(flags, tmp_path, capsys):
    log = tmp_path / "logs" / "day-00.csv"
    lines = log.read_text().splitlines()
    log.write_text("\n".join([*lines, *["user-1,,5"] * (len(lines) // 50)]) + "\n")
    assert main(flags) == GATE_REFUSED == 3
    found = state(tmp_path, "run-0001")
    assert found["outcome"] == "refused" and set(found["steps"]) == {"prepare", "check"}
    check, future = found["steps"]["check"]["result"]["checks"]
    assert future["passed"] and not check["passed"] and 0.01 < check["value"] < 0.02
    assert not (tmp_path / "work" / "run-0001" / "train").exists() and versions(tmp_path) == []
    text = (tmp_path / "work" / "run-0001" / "pipeline.log").read_text()
    assert "refused by the gate" in text and "FAILED" in text
    # The gate of an earlier attempt, with whose limits the data passed.
    found["steps"]["gate"] = {
        "key": "",
        "status": "done",
        "result": {"passed": True, "checks": [{**future, "name": "of an earlier attempt"}]},
    }
    (tmp_path / "work" / "run-0001" / "pipeline.json").write_text(json.dumps(found))
    capsys.readouterr()
    assert main(flags) == GATE_REFUSED
    text = capsys.readouterr().out
    assert "prepare: is done" in text and "check: begins" in text, "the clock has gone on"
    assert "FAILED" in text and "of an earlier attempt" not in text


def test_the_settings_file_tells_the_preparation_too(tmp_path):
    file = tmp_path / "settings.json"
    settings = {"data": {"k_core": 20, "repeated_rows": "keep", "user_column": "customer"}, "loss": {"negatives": "official"}}
    file.write_text(json.dumps(settings))
    arguments = make_parser().parse_args(["--input", "logs", "--model", "shop", "--config", str(file), "--preset", "paper-beauty"])
    config = _config(arguments, {}, None)
    assert config.loss.next_item == "bce" and config.loss.negatives == "official"
    data = _prepared(str(file), config, {"user_column": "user"})
    assert (data.k_core, data.repeated_rows, data.user_column) == (20, "drop", "user"), "keep is a default, which a run's file holds, too"
    assert _prepared(str(file), config, {"repeated_rows": "keep"}).repeated_rows == "keep"
    data = _prepared(None, config, {})
    assert (data.k_core, data.repeated_rows, data.user_column) == (5, "drop", "user")


def test_a_filter_of_rows_is_refused_in_the_settings_file_and_left_out_of_a_parents_settings(flags, tmp_path):
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"data": {"filter_column": "rating", "min_value": 3.0, "keep_values": None}}))
    with pytest.raises(UserError, match="settings.json: its data has filter_column and min_value, but rows are not filtered here"):
        main([*flags, "--config", str(file)])
    assert not list((tmp_path / "work").glob("run-*"))
    preparation = Preparation("logs", "csv", MEMORY, ("user", "item", "timestamp"), 5, "drop")
    prepared = preparation.data_config(DataConfig(filter_column="rating", min_value=3.0), tmp_path / "shop.parquet")
    assert (prepared.filter_column, prepared.min_value, prepared.keep_values) == (None, None, None)


def test_logs_that_were_moved_go_on_in_their_run(flags, tmp_path, capsys):
    with pytest.raises(UserError, match="--k-core"):
        main([*flags, "--k-core", "500"])
    (tmp_path / "logs").rename(tmp_path / "moved")
    capsys.readouterr()
    assert main([*flags, "--input", str(tmp_path / "moved"), "--dry-run"]) == 0
    assert "run-0001" in capsys.readouterr().out.splitlines()[0]


@pytest.mark.parametrize("value", ["inf", "nan", "much"])
def test_limits_are_finite(flags, value, capsys):
    with pytest.raises(SystemExit, match="2"):
        make_parser().parse_args([*flags, "--max-change", value])
    assert "--max-change" in capsys.readouterr().err


def test_an_error_is_logged_and_the_same_command_goes_on(flags, tmp_path, capsys):
    with pytest.raises(UserError, match="--k-core"):
        main([*flags, "--k-core", "500"])
    assert "; the same command goes on from here" in (tmp_path / "work" / "run-0001" / "pipeline.log").read_text()
    assert state(tmp_path, "run-0001")["outcome"] is None
    with pytest.raises(UserError, match="--k-core"):
        main([*flags, "--k-core", "500", "--new-run"])
    assert "; the same command without --new-run goes on" in (tmp_path / "work" / "run-0002" / "pipeline.log").read_text()
    with pytest.raises(UserError, match="there is no such file"):
        main([*flags, "--input", str(tmp_path / "none")])


def test_ctrl_c_is_logged_as_such(flags, tmp_path, monkeypatch):
    def interrupted(job, console):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.production.__main__._do", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main(flags)
    assert "stopped: interrupted; the same command goes on" in (tmp_path / "work" / "run-0001" / "pipeline.log").read_text()


def started(flags, until):
    """The command in a process of its own, killed as soon as `until` holds."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", "pipelines.production", *flags]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as process:
        while not until():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    return process.returncode


@pytest.mark.slow
def test_day_by_day_killed_in_training_resumed_and_refused(flags, tmp_path):
    # Large enough for a model to be better than popularity.
    world = ["--users", "200", "--items", "80", "--intents", "4", "--activity", "1"]
    days(tmp_path / "logs", 0, 13, world)
    flags += ["--hidden-size", "16", "--update-epochs", "3"]
    loose = [*flags, "--epochs", "40"]
    checkpoints = tmp_path / "work" / "run-0001" / "train" / "checkpoint"
    assert started(loose, lambda: any(checkpoints.glob("epoch-*.keras"))) == -signal.SIGKILL
    assert state(tmp_path, "run-0001")["steps"]["train"]["status"] == "started" and versions(tmp_path) == []
    assert main(loose) == 0
    assert versions(tmp_path) == ["1"]
    log = (tmp_path / "work" / "run-0001" / "pipeline.log").read_text()
    assert log.count("train: goes on where it was cut off") == 1 and log.count("prepare: begins") == 1
    epochs = [line.split()[3] for line in log.splitlines() if "  loss " in line]
    # The kill may come before the line of the epoch whose checkpoint is there; one epoch at most is done twice.
    assert epochs[0] in ("1/40", "2/40") and len(set(epochs)) >= len(epochs) - 1
    assert main(loose) == 0 and versions(tmp_path) == ["1"]

    days(tmp_path / "logs", 14, 14, world)
    strict = [*flags, "--min-metric", "0.99"]
    assert main(strict) == GATE_REFUSED
    assert versions(tmp_path) == ["1"] and state(tmp_path, "run-0002")["outcome"] == "refused"
    assert main(flags) == 0  # the gate alone is asked again
    found = state(tmp_path, "run-0002")
    assert versions(tmp_path) == ["1", "2"] and found["parent"] == "run-0001" and found["version"] == 2
    assert found["steps"]["train"]["result"]["warm_start"]["run"].endswith("run-0001/train")
    assert found["steps"]["compare"]["result"]["serving"]["all"]["users"] > 0
    assert (tmp_path / "work" / "run-0002" / "pipeline.log").read_text().count("train: begins") == 1
    assert json.loads((tmp_path / "work" / "run-0002" / "drift.json").read_text())["aligned_by"] == "warm start"
