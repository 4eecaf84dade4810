"""The peer measurement, without RecTools: its files, its split and metric, and what happens when pip or the worker fails."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest

from elcrec_tf.data.splits import holdout_positions, training_ranges
from elcrec_tf.errors import UserError
from elcrec_tf.ranking import ranking_metrics
from pipelines.benchmark import peer, rectools_worker
from pipelines.benchmark.peer import PeerSpec, make_environment, measure_peer, write_sequences
from tests.toy import random_sequences, sequences_of

WORKS = 'echo "epoch 1"; echo "epoch 2"; echo "{\\"users\\": $(wc -l < $3)}" > $5'


def fake_python(tmp_path, pip="true", worker=WORKS):
    """An interpreter that only knows `-m venv --clear DIR`, `-I -m pip install ...` and the worker.

    The file `calls` beside it holds their arguments. The environments it makes have itself as their python.
    """
    script = f"""#!/bin/sh
    echo "$@" >> {tmp_path}/calls
    case "$*" in
        "-m venv"*) rm -rf "$4"; mkdir -p "$4/bin"; touch "$4/pyvenv.cfg"; cp "$0" "$4/bin/python" ;;
        "-I -m pip"*) {pip} ;;
        *rectools_worker.py*) {worker} ;;
    esac
    """
    path = tmp_path / "python"
    path.write_text(script)
    path.chmod(0o755)
    return str(path)


def calls(tmp_path):
    return (tmp_path / "calls").read_text().splitlines()


def fake_environment(tmp_path, **commands):
    return make_environment(tmp_path / "env", python=fake_python(tmp_path, **commands))


def test_environment_is_made_once(tmp_path):
    told = []
    python = fake_python(tmp_path)
    for _ in range(2):
        assert make_environment(tmp_path / "env", told.append, python) == tmp_path / "env"
    assert calls(tmp_path) == [f"-m venv --clear {tmp_path}/env", f"-I -m pip install {' '.join(peer.REQUIREMENTS)}"]
    assert len(told) == 1 and "rectools[torch]==" in told[0]


def test_environment_is_made_again_for_other_requirements(tmp_path, monkeypatch):
    fake_environment(tmp_path)
    monkeypatch.setattr(peer, "REQUIREMENTS", ("rectools[torch]==99",))
    fake_environment(tmp_path)
    assert calls(tmp_path)[2:] == [f"-m venv --clear {tmp_path}/env", "-I -m pip install rectools[torch]==99"]


def test_failing_pip_is_one_error_with_its_last_lines_and_is_tried_again(tmp_path):
    noise = "echo Collecting; echo nothing; echo; echo ERROR: no such version >&2; echo ERROR: no distribution; exit 1"
    with pytest.raises(UserError) as caught:
        fake_environment(tmp_path, pip=noise)
    first, *last = str(caught.value).splitlines()
    assert first == f"{tmp_path}/env: pip cannot install {', '.join(peer.REQUIREMENTS)}:"
    assert [line.strip() for line in last] == ["nothing", "ERROR: no such version", "ERROR: no distribution"]
    fake_environment(tmp_path)
    assert (tmp_path / "env" / peer.MARKER).exists()


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path):
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="is no virtual environment; remove it, or name another folder with --env"):
        fake_environment(tmp_path)
    assert (tmp_path / "env" / "thesis.txt").exists()


def test_measure_peer_gives_the_workers_progress_and_result(tmp_path):
    lines = []
    result = measure_peer(random_sequences(num_users=7), PeerSpec(epochs=2), lines.append, fake_environment(tmp_path))
    assert result == {"dataset": "toy", "users": 7}
    assert lines == ["epoch 1", "epoch 2"]
    assert calls(tmp_path)[-1] == f"-I {peer.WORKER} sequences.txt spec.json result.json"


def test_the_worker_is_told_the_whole_spec(tmp_path):
    environment = fake_environment(tmp_path, worker='cp "$4" "$5"')
    result = measure_peer(random_sequences(), PeerSpec(hidden_size=32, max_steps=5), environment=environment)
    assert (result["hidden_size"], result["max_steps"], result["target_ndcg"], result["learning_rate"]) == (32, 5, None, 1e-3)


@pytest.mark.parametrize(
    ("worker", "message"),
    [
        ("echo Traceback >&2; echo 'ValueError: bad  batch' >&2; echo >&2; exit 1", "failed: ValueError: bad  batch$"),
        ("exit 3", "failed: exit status 3$"),
        ("kill -9 $$", "failed: was ended by signal 9$"),
    ],
)
def test_failing_worker_is_one_error_with_its_last_line(tmp_path, worker, message):
    environment = fake_environment(tmp_path, worker=worker)
    with pytest.raises(UserError, match=message):
        measure_peer(random_sequences(), environment=environment)


def test_the_worker_is_ended_when_the_caller_stops(tmp_path):
    environment = fake_environment(tmp_path, worker="echo $$; exec sleep 60")
    workers = []

    def interrupt(line):
        workers.append(int(line))
        os.kill(workers[0], 0)  # it is there
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_peer(random_sequences(), progress=interrupt, environment=environment)
    with pytest.raises(ProcessLookupError):
        os.kill(workers[0], 0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"hidden_size": 10, "num_heads": 4}, "multiple of peer.num_heads"), ({"epochs": 0}, "peer.epochs should be at least 1")],
)
def test_spec_is_checked(fields, message):
    with pytest.raises(UserError, match=message):
        PeerSpec(**fields)


def test_file_of_sequences(tmp_path):
    path = tmp_path / "sequences.txt"
    write_sequences(sequences_of([3, 1, 2], [2, 2, 5, 4]), path)
    assert path.read_text() == "3 1 2\n2 2 5 4\n"


def test_split_is_that_of_the_package(tmp_path):
    sequences = random_sequences()
    write_sequences(sequences, tmp_path / "sequences.txt")
    items, offsets = rectools_worker.read_sequences(tmp_path / "sequences.txt")
    np.testing.assert_array_equal(items, sequences.items)
    np.testing.assert_array_equal(offsets, sequences.offsets)

    starts, ends = training_ranges(sequences)
    training = np.concatenate([np.arange(*one) for one in zip(starts, ends, strict=True)])
    np.testing.assert_array_equal(np.flatnonzero(rectools_worker.history_mask(offsets, 2)), training)
    for split, held_out in (("validation", 2), ("test", 1)):
        targets = sequences.items[holdout_positions(sequences, split)]
        np.testing.assert_array_equal(rectools_worker.target_items(items, offsets, held_out), targets)


def test_test_history_holds_the_validation_target():
    items, offsets = np.array([4, 5, 6, 7, 1, 2, 3]), np.array([0, 4, 7])
    assert items[rectools_worker.history_mask(offsets, 2)].tolist() == [4, 5, 1]
    assert items[rectools_worker.history_mask(offsets, 1)].tolist() == [4, 5, 6, 1, 2]
    assert rectools_worker.target_items(items, offsets, 1).tolist() == [7, 3]


def test_training_size_counts_what_rectools_trains_on():
    # Training events: 1 (nothing to predict), 2 (one target), 5 (four), 9 (eight, of which the latest 4 fit).
    offsets = np.cumsum([0, 3, 4, 7, 11])
    assert rectools_worker.training_size(offsets, max_length=4) == (3, 1 + 4 + 4)


def test_ndcg_by_hand():
    # User 0 finds its target 7 at rank 1 (1), user 1 its 8 at rank 3 (1/log2 4 = 1/2), user 2 not, user 3 got no recommendation.
    users, items, ranks = np.array([0, 0, 1, 1, 1, 2]), np.array([7, 8, 5, 6, 8, 7]), np.array([1, 2, 1, 2, 3, 1])
    assert rectools_worker.ndcg(users, items, ranks, np.array([7, 8, 9, 9])) == pytest.approx((1 + 1 / 2) / 4)


def test_ndcg_is_that_of_the_package():
    ranks = np.array([0, 4, 19, 20, 500])  # counted from 0; RecTools counts from 1 and gives 20
    shown = np.flatnonzero(ranks < 20)
    value = rectools_worker.ndcg(shown, shown + 100, ranks[shown] + 1, np.arange(5) + 100)
    assert value == pytest.approx(ranking_metrics(ranks)["NDCG@20"])
    assert value == pytest.approx((1 + 1 / math.log2(6) + 1 / math.log2(21)) / 5)


def test_recommended_history_is_refused():
    seen_users, seen_items = np.array([0, 0, 1]), np.array([1, 2, 3])
    rectools_worker.check_exclusion(np.array([0, 1, 1]), np.array([3, 1, 2]), seen_users, seen_items)
    with pytest.raises(RuntimeError, match="to 1 users"):
        rectools_worker.check_exclusion(np.array([0, 1, 1]), np.array([3, 1, 3]), seen_users, seen_items)


def test_time_to_target():
    curve = [{"epoch": epoch, "train_seconds": 10.0 * epoch, "wall_seconds": 12.0 * epoch, "NDCG@20": epoch / 100} for epoch in (1, 2, 3)]
    reached = {"NDCG@20": 0.02, "reached": True, "epoch": 2, "train_seconds": 20.0, "wall_seconds": 24.0}
    assert rectools_worker.time_to_target(curve, 0.02) == reached
    assert rectools_worker.time_to_target(curve, 0.05) == {"NDCG@20": 0.05, "reached": False}
    assert rectools_worker.time_to_target(curve, None) is None


class FakeModel:
    """Trains for 10 seconds a pass, by its own clock."""

    def fit_partial(self, dataset, min_epochs, max_epochs):
        assert (min_epochs, max_epochs) == (1, 1)


class FakeRanking:
    dataset = None

    def __init__(self, *values):
        self.values = iter(values)

    def run(self, model):
        return 1.0, next(self.values)


@pytest.mark.parametrize(("limits", "epochs"), [({}, 4), ({"target_ndcg": 0.2}, 2), ({"max_seconds": 25.0}, 3)])
def test_training_stops_at_the_target_the_limit_or_the_last_epoch(monkeypatch, limits, epochs):
    monkeypatch.setattr(rectools_worker, "clock_of", lambda model: type("Clock", (), {"seconds": [10.0]}))
    spec = {"epochs": 4, "target_ndcg": None, "max_seconds": None, **limits}
    lines = []
    curve = rectools_worker.train(FakeModel(), spec, FakeRanking(0.1, 0.2, 0.3, 0.4), lines.append)
    assert [row["epoch"] for row in curve] == list(range(1, epochs + 1))
    assert [row["train_seconds"] for row in curve] == [10.0 * epoch for epoch in range(1, epochs + 1)]
    assert lines[1] == "epoch 2: 10.0 s, validation NDCG@20 0.2000 (ranked in 1.0 s)"


def test_importing_loads_no_framework():
    modules = "pipelines.benchmark.peer, pipelines.benchmark.rectools_worker"
    code = f"import sys, {modules}; print({{'tensorflow', 'torch', 'pandas'}} & {{*sys.modules}})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
