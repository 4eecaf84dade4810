"""Several replicas train as one device does: under MirroredStrategy with `fit`, and as workers under MultiWorkerMirroredStrategy."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from elcrec_tf import replicas, training
from elcrec_tf.errors import UserError
from elcrec_tf.files import write_json
from elcrec_tf.run_folder import RunFolder
from elcrec_tf.training import train_model
from elcrec_tf.worker_training import Team
from elcrec_tf.workers import Worker
from pipelines import distributed as local_workers
from tests.prepared import write_shards
from tests.test_training import TINY, curve, sequences  # noqa: F401 - a fixture
from tests.toy import random_sequences

TERMS = ("loss", "next_item", "sequence", "intent", "cluster")
# Nothing in which replicas differ from one device by design: no dropout, and views that are the histories.
EXACT = TINY.replace(dropout=0.0, augmentations=("mask",), mask_ratio=0.0, contrastive_batch="global", mask_same_intent=True, epochs=2)
VARIANTS = {
    "whole objective": {},
    "no contrastive losses": {
        "examples": "prefixes",
        "next_item": "sampled_softmax",
        "num_negatives": 16,
        "cluster_form": "paper",
        "sequence_weight": 0.0,
        "intent_weight": 0.0,
    },
}
_MIRRORED = """
import json, sys
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
from elcrec_tf.config import Config
from tests.test_training import SIMULATOR, SimulatorConfig, curve, simulate, train_model, RunFolder
from elcrec_tf.replicas import gather, own_seed, weight
from elcrec_tf.training import _strategy
sequences, curves = simulate(SimulatorConfig(**SIMULATOR)), {}
for name, values in json.loads(sys.argv[2]).items():
    folder = RunFolder(f"{sys.argv[1]}/{len(curves)}")
    train_model(sequences, Config.from_dict(values), folder, devices=["CPU:0", "CPU:1"])
    curves[name] = curve(folder)

def share():
    number = tf.distribute.get_replica_context().replica_id_in_sync_group
    own = tf.cast(tf.range(6) + 6 * number, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(own)
        rows, flags = gather(tf.reshape(own, [2, 3]), tf.fill([2], tf.cast(number, tf.float32)))
        loss = tf.reduce_sum(rows * tf.reshape(tf.range(12.0), [4, 3])) / 2  # as each replica has it, divided by their number
    count = tf.cast(1 + 2 * number, tf.float32)
    return {
        "rows": rows, "flags": flags, "gradient": tape.gradient(loss, own), "weight": weight(count), "seed": own_seed(tf.constant([3, 5]))
    }

strategy = _strategy(("CPU:0", "CPU:1"))
shares = tf.function(lambda: strategy.run(share))()
curves["shares"] = {name: [one.numpy().tolist() for one in strategy.experimental_local_results(value)] for name, value in shares.items()}
print("curves", json.dumps(curves))
"""


def assert_same_curve(ours, theirs, rel=1e-4):
    assert len(ours) == len(theirs)
    for row, other in zip(ours, theirs, strict=True):
        for term in TERMS:
            if term in other:
                assert row[term] == pytest.approx(other[term], rel=rel), (term, row["epoch"])
        assert row["val_NDCG@20"] == pytest.approx(other["val_NDCG@20"], abs=0.01)


@pytest.fixture(scope="module")
def alone(sequences, tmp_path_factory):  # noqa: F811
    """Curves of one device, by variant."""
    folder = tmp_path_factory.mktemp("alone")

    def train(name):
        run = RunFolder(folder / name)
        if not run.exists:
            train_model(sequences, EXACT.replace(**VARIANTS[name]), run)
        return curve(run)

    return train


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory):
    configs = {name: EXACT.replace(**fields).to_dict() for name, fields in VARIANTS.items()}
    configs["local"] = EXACT.replace(contrastive_batch="local", epochs=1).to_dict()
    argv = [sys.executable, "-c", _MIRRORED, str(tmp_path_factory.mktemp("mirrored")), json.dumps(configs)]
    done = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})
    assert "curves" in done.stdout, done.stderr[-3000:]
    return json.loads(done.stdout.partition("curves ")[2])


def test_what_replicas_share(mirrored):
    shares = mirrored["shares"]
    assert shares["rows"] == [[[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]] * 2
    assert shares["flags"] == [[0, 0, 1, 1]] * 2
    # Both replicas hold half of the loss sum(i * row_i): a row's gradient is the whole i, at the replica that it came from.
    assert shares["gradient"] == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
    assert shares["weight"] == [1 / 2, 3 / 2]  # counts 1 and 3, their mean is 2
    assert shares["seed"] == [[3, 5], [4, 5]]  # the second word counts the steps


def test_one_device_shares_nothing():
    values = (object(), object())
    assert replicas.gather(*values) == values
    assert replicas.weight(5) == 1.0
    assert replicas.own_seed(values[0]) is values[0]


@pytest.mark.parametrize(("index", "epoch"), [(0, 0), (1, 0), (1, 3)])
def test_workers_that_do_not_agree_all_say_so(index, epoch):
    """Worker 0 starts at epoch 0, worker 1 at `epoch`; their data is the same."""

    def team_of(number):
        team = object.__new__(Team)
        team.worker = Worker(number, 2)
        return team

    tables = []
    for number, start in enumerate((0, epoch)):
        team = team_of(number)
        team.sum = lambda table: tables.append(table.copy()) or np.zeros_like(table)
        team.check_agreement(data="a", checkpoint=start)
    team = team_of(index)
    team.sum = lambda table: tables[0] + tables[1]
    if epoch == 0:
        team.check_agreement(data="a", checkpoint=0)
    else:
        with pytest.raises(UserError, match="worker 1 has another checkpoint than worker 0"):
            team.check_agreement(data="a", checkpoint=epoch)


@pytest.fixture
def chief():
    """The first of two workers, on whom nobody waits."""
    team = object.__new__(Team)
    team.worker, team.strategy = Worker(0, 2), object()
    team.check_agreement = lambda **_: None
    return team


@pytest.mark.parametrize("fields", [{}, {"intent_clustering": "em", "num_clusters": 64}], ids=["trainable", "not trainable"])
def test_workers_that_do_not_agree_say_so_before_one_of_them_writes_or_makes_a_model(chief, sequences, tmp_path, monkeypatch, fields):  # noqa: F811
    asked = {}

    def check(**facts):
        asked.update(facts)
        raise UserError("worker 1 has another data than worker 0")

    chief.check_agreement = check
    monkeypatch.setattr(training, "_model_to_go_on_with", None)
    config, folder = TINY.replace(**fields), RunFolder(tmp_path / "run")
    with pytest.raises(UserError, match="worker 1 has another data"):
        train_model(sequences, config, folder, team=chief)
    assert (asked["data"], asked["checkpoint"], asked["history"]) == (sequences.fingerprint, 0, [])
    assert not folder.path.exists()
    folder.create(config, sequences.catalog)
    folder.write_history([{"epoch": epoch, "val_NDCG@20": 0.1} for epoch in (1, 2, 3)])
    (folder.path / "checkpoint").mkdir()
    (folder.path / "checkpoint" / "epoch-00002.keras").touch()
    with pytest.raises(UserError, match="worker 1 has another data"):
        train_model(sequences, config.replace(epochs=9), folder, resume=True, team=chief)
    assert asked["checkpoint"] == 2 and [row["epoch"] for row in asked["history"]] == [1, 2]
    assert folder.config() == config


@pytest.mark.parametrize("where", ["check_agreement", "new_model"])
def test_a_worker_that_is_gone_before_the_first_step_is_one_line(chief, sequences, tmp_path, monkeypatch, where):  # noqa: F811
    def gone(*_, **__):
        raise tf.errors.UnavailableError(None, None, "{{function_node x}} Connection reset by peer\nmore")

    if where == "new_model":
        monkeypatch.setattr(training, "new_model", gone)
    else:
        chief.check_agreement = gone
    with pytest.raises(UserError, match=r"^another worker is gone \(Connection reset by peer\); start all of them again"):
        train_model(sequences, TINY, RunFolder(tmp_path / "run"), team=chief)


@pytest.mark.parametrize("name", VARIANTS)
def test_two_devices_train_as_one_does(alone, mirrored, name):
    """Devices have different numbers of targets and users: means of means would be off."""
    assert_same_curve(mirrored[name], alone(name))


def test_local_contrastive_losses_compare_fewer_histories(alone, mirrored):
    """With half as many negatives, the sequence contrastive loss of views that are equal is about log 2 lower."""
    local, whole = mirrored["local"][0], alone("whole objective")[0]
    assert local["next_item"] == pytest.approx(whole["next_item"], rel=0.01)
    assert 0.3 < whole["sequence"] - local["sequence"] < 1.0


@pytest.mark.parametrize(("xla", "expected"), [("auto", "chains"), ("on", "chains"), ("chains", "chains"), ("off", "off")])
def test_a_shared_step_is_never_compiled_as_a_whole(monkeypatch, xla, expected):
    monkeypatch.setattr(training, "has_gpu", lambda: True)
    assert training._xla(TINY.replace(xla=xla), object()) == expected


def distributed(folder, config, *flags, **options):
    """Start two workers; `config` is written beside the run folder."""
    write_json(folder / "config.json", config.to_dict())
    run = ["--config", str(folder / "config.json"), "--output-dir", str(folder / "run"), "--no-export", "--no-recovery"]
    argv = [sys.executable, "-m", "pipelines.distributed", "--workers", "2", *flags, "--", *run]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "first", "second"),
    [
        (["--hidden-size", "16"], "worker 1 has another settings than worker 0", "worker 1 has another settings than worker 0"),
        (["--dataset", "missing.csv"], "another worker is gone", "missing.csv: "),
    ],
    ids=["other settings", "no data"],
)
def test_workers_that_begin_unlike_end_with_a_line_each(tmp_path, flags, first, second):
    write_json(tmp_path / "config.json", TINY.replace(epochs=1).to_dict())
    arguments = ["--config", str(tmp_path / "config.json"), "--output-dir", str(tmp_path / "run"), "--no-export", "--no-recovery"]
    addresses = local_workers._free_addresses(2)
    team = [local_workers._start(index, addresses, arguments + flags * index) for index in range(2)]
    for worker, message in zip(team, (first, second), strict=True):
        _, errors = worker.communicate(timeout=280)
        assert worker.returncode == 1 and f"error: {message}" in errors and "Traceback" not in errors, errors[-3000:]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_workers_train_as_one_does(alone, tmp_path):
    job = distributed(tmp_path, EXACT)
    output, errors = job.communicate(timeout=560)
    assert job.returncode == 0, errors[-3000:]
    assert_same_curve(curve(RunFolder(tmp_path / "run")), alone("whole objective"))
    assert "worker 0: epoch   2/2" in output and "worker 1: epoch" not in output
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    best = RunFolder(tmp_path / "run").read_history()[metrics["best_epoch"] - 1]
    assert metrics["validation"]["NDCG@20"] == pytest.approx(best["val_NDCG@20"], abs=1e-9)
    assert not list(tmp_path.rglob(".*-*"))


@pytest.mark.slow
def test_two_workers_train_on_shards(tmp_path):
    """Each reads its own; what both rank between them is what the first one ranks alone at the end."""
    write_shards(random_sequences(num_users=60, num_items=60), tmp_path / "shards")
    job = distributed(tmp_path, EXACT.replace(dataset=str(tmp_path / "shards"), epochs=1, eval_batch_size=8))
    _, errors = job.communicate(timeout=560)
    assert job.returncode == 0, errors[-3000:]
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    (row,) = RunFolder(tmp_path / "run").read_history()
    assert row["val_NDCG@20"] == pytest.approx(metrics["validation"]["NDCG@20"], abs=1e-9)


@pytest.mark.slow
def test_with_dropout_and_views_two_workers_follow_the_same_curve(sequences, tmp_path):  # noqa: F811
    """Masks and views are drawn anew for each replica, which changes an epoch's loss by up to 8 %, now up, now down (seeds 0 to 2).

    Compiled chains and the fused optimizer are on.
    """
    config = TINY.replace(epochs=6, patience=6, contrastive_batch="global", xla="chains")
    job = distributed(tmp_path, config)
    assert job.wait(560) == 0, job.stderr.read()[-3000:]
    train_model(sequences, config, RunFolder(tmp_path / "alone"))
    shared, whole = curve(RunFolder(tmp_path / "run")), curve(RunFolder(tmp_path / "alone"))
    for ours, theirs in zip(shared, whole, strict=True):
        assert ours["next_item"] == pytest.approx(theirs["next_item"], rel=0.12)
        assert ours["cluster"] == pytest.approx(theirs["cluster"], rel=0.3)
    means = [np.mean([row["next_item"] for row in rows]) for rows in (shared, whole)]
    assert means[0] == pytest.approx(means[1], rel=0.05)


@pytest.mark.slow
def test_a_killed_worker_costs_at_most_an_epoch(sequences, tmp_path):  # noqa: F811
    """kill -9 in mid-training: all start again from the last whole epoch, and the run is that of workers that nobody killed."""
    config = EXACT.replace(epochs=40, patience=40, dropout=0.3)
    job = distributed(tmp_path, config, "--restarts", "1")
    folder = RunFolder(tmp_path / "run")
    deadline = time.monotonic() + 300
    while folder.newest_checkpoint() is None and job.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(job.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(children[1]), signal.SIGKILL)
    begun = folder.newest_checkpoint()[0]
    _, errors = job.communicate(timeout=560)
    assert job.returncode == 0, errors[-3000:]
    assert begun < 40 and "killed by signal 9; all workers start again (0 restarts left)" in errors
    whole = distributed(tmp_path / "whole", config)
    assert whole.wait(560) == 0
    assert_same_curve(curve(folder), curve(RunFolder(tmp_path / "whole" / "run")), rel=1e-3)
