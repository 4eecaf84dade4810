"""The training command, as a user types it."""

import json
import signal
import subprocess
import sys
import time

import pytest

from elcrec_tf import cli, evaluate, train
from elcrec_tf.errors import UserError
from elcrec_tf.run_folder import RunFolder

SMALL = ["--sim-users", "60", "--sim-items", "40", "--sim-intents", "4", "--sim-events", "8", "--num-clusters", "4"]
SMALL += ["--hidden-size", "8", "--num-layers", "1", "--max-length", "10", "--batch-size", "16", "--xla", "off", "--epochs", "1"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run by the command in a process of its own: (folder, completed process)."""
    folder = tmp_path_factory.mktemp("cli")
    argv = ["--output-dir", str(folder / "run"), "--export-dir", str(folder / "model"), "--json", *SMALL]
    done = subprocess.run([sys.executable, "-m", "elcrec_tf.train", *argv], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_it_prints_json_alone_on_standard_output(finished):
    folder, done = finished
    assert json.loads(done.stdout) == json.loads((folder / "run" / "metrics.json").read_text())


def test_it_reports_the_recovery_of_planted_intents_for_both_forms(finished):
    recovery = json.loads(finished[1].stdout)["intents"]["recovery"]
    assert [row["clusters"] for row in recovery["rows"]] == [4, 4, 4]
    names = " ".join(row["name"] for row in recovery["rows"])
    assert "clustering form" in names and "Eq. 3" in names and "k-means" in names
    assert all(0 <= row["nmi"] <= 1 for row in recovery["rows"]) and 0 < recovery["oracle_nmi"] <= 1


def test_it_shows_progress_results_and_the_next_command_without_start_up_noise(finished):
    folder, done = finished
    assert "epoch   1/1" in done.stderr and "held-out events" in done.stderr
    assert f"{cli.command('recommend')} {folder / 'model'} --history" in done.stderr
    for noise in ("oneDNN", "cuda", "absl", "Warning", "WARNING"):
        assert noise not in done.stderr


def test_the_export_is_version_1(finished):
    assert (finished[0] / "model" / "1" / "saved_model.pb").is_file()


@pytest.mark.slow
def test_the_config_of_a_run_trains_again(finished, tmp_path, capsys):
    folder, _ = finished
    argv = ["--config", str(folder / "run" / "config.json"), "--output-dir", str(tmp_path / "run"), "--no-export", "--no-recovery"]
    assert train.main(argv) == 0
    before, after = RunFolder(folder / "run").config(), RunFolder(tmp_path / "run").config()
    assert after == before.replace(recovery=False)
    assert "recovery of" not in capsys.readouterr().out


def test_evaluate_gives_the_metrics_of_training_again_and_keeps_what_it_cannot_measure(finished):
    folder, done = finished
    before = json.loads(done.stdout)
    assert evaluate.main([str(folder / "run")]) == 0
    assert json.loads((folder / "run" / "metrics.json").read_text()) == before


def test_evaluate_on_another_data_set_writes_another_file(finished, tmp_path):
    folder, done = finished
    other = tmp_path / "other.txt"
    other.write_text("u item-0001 item-0002 item-0003 unheard-of item-0004 item-0005 item-0006\n" * 1)
    with pytest.raises(UserError, match="k-core|core"):
        evaluate.main([str(folder / "run"), "--dataset", str(other)])
    rows = [f"u{user} " + " ".join(f"item-{item:04d}" for item in range(1, 8)) + " unheard-of" for user in range(6)]
    other.write_text("\n".join(rows) + "\n")
    assert evaluate.main([str(folder / "run"), "--dataset", str(other)]) == 0
    metrics = json.loads((folder / "run" / "metrics-other.json").read_text())
    assert metrics["users"] == 6 and metrics["dropped"]["events of items unknown to the model"] == 6
    assert json.loads((folder / "run" / "metrics.json").read_text()) == json.loads(done.stdout)


def test_an_output_folder_in_use_is_an_error_before_anything_is_read(finished):
    with pytest.raises(UserError, match="--resume"):
        train.main(["--output-dir", str(finished[0] / "run"), "--dataset", "missing.csv"])


def test_resume_takes_the_newest_run_and_no_other_settings(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no run to resume"):
        train.main(["--resume"])
    with pytest.raises(UserError, match="leave out --preset"):
        train.main(["--resume", "--output-dir", str(finished[0] / "run"), "--preset", "default"])
    with pytest.raises(UserError, match="other settings of hidden_size"):
        train.main(["--resume", "--output-dir", str(finished[0] / "run"), "--hidden-size", "16"])


@pytest.mark.slow
def test_a_killed_run_resumes_with_the_command(tmp_path):
    """kill -9 in mid-training, then --resume: every epoch is there once, and the run ends as any other."""
    argv = [sys.executable, "-m", "elcrec_tf.train", "--output-dir", str(tmp_path / "run"), "--no-export", "--no-recovery", *SMALL]
    argv[-1] = "40"
    killed = subprocess.Popen([*argv, "--patience", "40"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    folder = RunFolder(tmp_path / "run")
    deadline = time.monotonic() + 120
    while folder.newest_checkpoint() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert folder.newest_checkpoint() is not None
    begun = len(folder.read_history())
    assert begun < 40
    epochs = str(begun + 2)
    flags = ["--output-dir", str(tmp_path / "run"), "--no-export", "--no-recovery", "--resume", "--epochs", epochs]
    assert train.main(flags) == 0
    assert [row["epoch"] for row in folder.read_history()] == list(range(1, begun + 3))
    assert json.loads(folder.metrics_file.read_text())["epochs"] == begun + 2
