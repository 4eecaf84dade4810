"""Training runs on a tiny simulated data set."""

import dataclasses
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from rich.console import Console

from elcrec_tf import training
from elcrec_tf.callbacks import RunRecorder
from elcrec_tf.config import Config, SimulatorConfig
from elcrec_tf.data.simulate import simulate
from elcrec_tf.data.training_data import training_batches
from elcrec_tf.errors import UserError
from elcrec_tf.model import build_model
from elcrec_tf.optimizer import DenseAdam, FusedAdam
from elcrec_tf.results import evaluate_run
from elcrec_tf.run_folder import RunFolder, load_keras
from elcrec_tf.training import check_resumable, check_trainable, new_model, train_model
from tests.prepared import sharded
from tests.toy import random_sequences, toy_config

SIMULATOR = {"sim_users": 60, "sim_items": 40, "sim_intents": 4, "sim_events": 8.0}
TINY = Config().replace(
    **SIMULATOR,
    hidden_size=8,
    num_layers=1,
    num_clusters=4,
    max_length=10,
    epochs=3,
    batch_size=16,
    eval_batch_size=32,
    xla="off",  # compiling takes seconds
    products="float32",
)


@pytest.fixture(scope="module")
def sequences():
    return simulate(SimulatorConfig(**SIMULATOR))


def weights(model):
    return {variable.path: np.asarray(variable) for variable in model.trainable_variables}


def curve(folder):
    """The history without wall times."""
    return [{key: value for key, value in row.items() if not key.endswith("seconds")} for row in folder.read_history()]


@pytest.fixture(scope="module")
def finished(sequences, tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("run") / "finished")
    return folder, train_model(sequences, TINY, folder)


def test_a_run_folder_holds_what_it_promises(finished, sequences):
    folder, model = finished
    assert folder.config() == TINY
    assert list(folder.catalog().ids) == list(sequences.catalog.ids)
    assert any(folder.tensorboard.rglob("events*"))
    rows = folder.read_history()
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    terms = {"loss", "next_item", "sequence", "intent", "cluster", "seconds", "val_NDCG@20", "val_MRR"}
    health = {"intents_used", "intent_perplexity", "largest_intent", "center_cosine_max", "view_alignment", "view_uniformity"}
    assert terms | health <= set(rows[0])
    assert rows[-1]["loss"] < rows[0]["loss"]
    total = rows[0]["next_item"] + 0.1 * (rows[0]["sequence"] + rows[0]["intent"] + rows[0]["cluster"])
    assert rows[0]["loss"] == pytest.approx(total, rel=1e-3)
    assert not list(folder.path.rglob(".*-*"))  # no temporary file is left


def test_metrics_have_the_promised_keys_and_the_validation_of_the_best_epoch(finished, sequences):
    folder, model = finished
    metrics = evaluate_run(model, sequences, TINY, folder)
    promised = {"dataset", "seed", "best_epoch", "train_seconds", "parameters", "validation", "test", "baselines", "intents"}
    assert promised <= set(metrics)
    names = {"HR@5", "HR@10", "HR@20", "NDCG@5", "NDCG@10", "NDCG@20", "MRR"}
    for values in (metrics["validation"], metrics["test"], *metrics["baselines"].values()):
        assert set(values) == names
    assert set(metrics["baselines"]) == {"popularity", "markov_chain"}
    groups = metrics["by_history_length"].values()
    assert sum(group["users"] for group in groups) == metrics["users"]
    mean = sum(group["users"] * group["NDCG@20"] for group in groups) / metrics["users"]
    assert mean == pytest.approx(metrics["test"]["NDCG@20"])
    best = folder.read_history()[metrics["best_epoch"] - 1]
    assert metrics["validation"]["NDCG@20"] == pytest.approx(best["val_NDCG@20"], abs=1e-9)
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics


def test_the_same_seed_gives_the_same_run_and_another_seed_another(finished, sequences, tmp_path):
    folder, model = finished
    again = RunFolder(tmp_path / "again")
    other = RunFolder(tmp_path / "other")
    for name, value in weights(train_model(sequences, TINY, again)).items():
        np.testing.assert_allclose(value, weights(model)[name], rtol=1e-5, atol=1e-6, err_msg=name)
    assert curve(again)[-1] == pytest.approx(curve(folder)[-1], rel=1e-5)
    metrics = [[row[key] for row in one.read_history() for key in row if key.startswith("val_")] for one in (again, folder)]
    assert metrics[0] == metrics[1]  # to the last digit
    train_model(sequences, TINY.replace(seed=1, epochs=1), other)
    assert curve(other)[0]["loss"] != pytest.approx(curve(folder)[0]["loss"], rel=1e-5)


def test_a_resumed_run_equals_an_uninterrupted_one(finished, sequences, tmp_path):
    folder, model = finished
    resumed = RunFolder(tmp_path / "resumed")
    train_model(sequences, TINY.replace(epochs=1), resumed)
    # Killed after the row of epoch 2 was written, before its checkpoint was.
    resumed.write_history([*resumed.read_history(), {"epoch": 2, "val_NDCG@20": 0.99}])
    after = train_model(sequences, TINY, resumed, resume=True)
    for ours, theirs in zip(curve(resumed), curve(folder), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    for name, value in weights(after).items():
        np.testing.assert_allclose(value, weights(model)[name], rtol=1e-4, atol=1e-5, err_msg=name)
    assert resumed.config() == TINY


def whole_and_resumed(config, sequences, tmp_path):
    """(folder, model) of a run of two epochs, and the model of one that was resumed after the first, whose history is the same."""
    whole, resumed = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "resumed")
    model = train_model(sequences, config.replace(epochs=2), whole)
    train_model(sequences, config.replace(epochs=1), resumed)
    after = train_model(sequences, config.replace(epochs=2), resumed, resume=True)
    for ours, theirs in zip(curve(resumed), curve(whole), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    return whole, model, after


@pytest.mark.slow
def test_a_resumed_run_with_centres_by_em_equals_an_uninterrupted_one(sequences, tmp_path):
    whole, model, after = whole_and_resumed(TINY.replace(intent_clustering="em", fusion="none"), sequences, tmp_path)
    np.testing.assert_allclose(after.cluster_centers.centers, model.cluster_centers.centers, rtol=1e-4, atol=1e-5)
    rows = whole.read_history()
    assert all(0 < row["clustering_seconds"] < row["seconds"] for row in rows)
    assert rows[0]["cluster"] == 0


@pytest.mark.slow
def test_a_resumed_run_with_averaged_weights_and_a_memory_equals_an_uninterrupted_one(sequences, tmp_path):
    _, model, after = whole_and_resumed(TINY.replace(average_momentum=0.9, memory_weight=1.0), sequences, tmp_path)
    history = np.int32([[0, 0, 3, 1]])
    np.testing.assert_allclose(after.scores(history), model.scores(history), rtol=1e-4, atol=1e-4)
    assert np.asarray(after.transition_memory.shares).any()
    centers = np.asarray(model.cluster_centers.centers)
    np.testing.assert_allclose(np.linalg.norm(centers, axis=1), 1, rtol=1e-5, err_msg="a mean of unit vectors is shorter")


def test_xla_is_chosen_anew_for_the_machine_that_resumes(sequences, tmp_path):
    folder = RunFolder(tmp_path / "run")
    train_model(sequences, TINY.replace(epochs=1), folder)
    path = folder.newest_checkpoint()[1]
    model = load_keras(path)
    model.compile(optimizer=model.optimizer, jit_compile=True)  # as on a GPU
    model.save(path)
    assert load_keras(path).jit_compile
    assert not training._model_to_go_on_with(sequences, TINY, folder, None)[1].jit_compile


def test_a_snapshot_is_written_before_the_checkpoint_that_ends_its_epoch(sequences, tmp_path):
    folder = RunFolder(tmp_path / "run")
    config = TINY.replace(snapshot_epochs=(1,), num_clusters="auto", most_clusters=8)
    folder.create(config, sequences.catalog)
    model = new_model(sequences, config)
    recorder = RunRecorder(folder, "NDCG@20", 1)
    names = [type(one).__name__ for one in training._callbacks(model, sequences, config, folder, recorder, None)]
    assert names.index("Snapshots") < names.index("RunRecorder")
    assert names.index("NanGuard") < names.index("ClusterCount") < names.index("Validation")


def test_resuming_a_finished_run_trains_no_more(finished, sequences):
    folder, _ = finished
    before = folder.history_file.read_bytes()
    train_model(sequences, TINY, folder, resume=True)
    assert folder.history_file.read_bytes() == before


def test_resume_refuses_other_settings_and_other_data(finished, sequences):
    folder, _ = finished
    with pytest.raises(UserError, match="other settings of dropout"):
        train_model(sequences, TINY.replace(dropout=0.1), folder, resume=True)
    other = simulate(SimulatorConfig(**{**SIMULATOR, "sim_items": 50}))
    with pytest.raises(UserError, match="other data than"):
        train_model(other, TINY, folder, resume=True)


def test_a_schedule_that_runs_to_the_last_epoch_keeps_its_number_of_epochs(sequences, tmp_path):
    for name, fields in {"linear": {"contrastive_schedule": "linear"}, "temperature": {"final_temperature": 0.1}}.items():
        config, folder = TINY.replace(epochs=1, **fields), RunFolder(tmp_path / name)
        folder.create(config, sequences.catalog, sequences.fingerprint)
        with pytest.raises(UserError, match="other settings of epochs"):
            train_model(sequences, config.replace(epochs=2), folder, resume=True)


def test_a_run_that_is_stopped_in_its_first_epoch_has_no_model(sequences, tmp_path, monkeypatch):
    class Stopped(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            raise KeyboardInterrupt

    folder = RunFolder(tmp_path / "run")
    with monkeypatch.context() as patched:
        patched.setattr(training, "NanGuard", Stopped)
        with pytest.raises(KeyboardInterrupt):
            train_model(sequences, TINY, folder)
    with pytest.raises(UserError, match="has not finished an epoch"):
        folder.load_model()
    check_resumable(folder, sequences, TINY)


def test_resume_refuses_data_that_changed_under_the_same_items(finished, sequences):
    swapped = dataclasses.replace(sequences, items=sequences.items[::-1].copy())
    with pytest.raises(UserError, match="other data than 'simulated' holds now"):
        train_model(swapped, TINY, finished[0], resume=True)


def test_resume_never_overwrites_a_model_that_was_not_trained_here(sequences, tmp_path):
    folder = RunFolder(tmp_path / "imported")
    folder.create(TINY, sequences.catalog)
    folder.save_model(build_model(TINY, sequences.catalog.num_items))
    folder.metrics_file.write_text("{}")
    before = folder.model_file.read_bytes()
    with pytest.raises(UserError, match="no checkpoint to resume from"):
        train_model(sequences, TINY, folder, resume=True)
    assert folder.model_file.read_bytes() == before


def test_resume_does_not_take_the_newest_epoch_for_a_lost_best_one(sequences, tmp_path):
    folder, model = RunFolder(tmp_path / "run"), build_model(TINY, sequences.catalog.num_items)
    folder.create(TINY, sequences.catalog, sequences.fingerprint)
    folder.save_checkpoint(model, 2, best=False)
    metric = f"val_{TINY.train.monitor}"
    for best, other in ((1, 2), (2, 1)):
        folder.write_history([{"epoch": best, metric: 0.2}, {"epoch": other, metric: 0.1}])
        if best == 1:
            with pytest.raises(UserError, match="model.keras: is missing, and held epoch 1, the checkpoint 2"):
                check_resumable(folder, sequences, TINY)
        else:
            check_resumable(folder, sequences, TINY)


def test_settings_that_cannot_be_trained_use_up_no_folder(sequences, tmp_path):
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(UserError, match="60 users, 64 intents"):
        train_model(sequences, TINY.replace(centers_start="kmeans", num_clusters=64), folder)
    with pytest.raises(UserError, match="--intent-clustering em needs .* 60 users, 64 intents"):
        train_model(sequences, TINY.replace(intent_clustering="em", num_clusters=64), folder)
    with pytest.raises(UserError, match="--item-updates touched needs --xla chains"):
        train_model(sequences, TINY.replace(item_updates="touched"), folder)
    with pytest.raises(UserError, match="--item-updates touched needs --next-item sampled_softmax or bce"):
        train_model(sequences, TINY.replace(item_updates="touched", xla="chains"), folder)
    with pytest.raises(UserError, match="--negatives official"):
        train_model(sharded(sequences, tmp_path / "shards"), TINY.replace(next_item="bce", negatives="official"), folder)
    assert not folder.path.exists()


def test_a_start_by_kmeans_has_as_many_users_as_it_clusters(sequences, monkeypatch):
    config = TINY.replace(centers_start="kmeans", num_clusters=31)
    check_trainable(sequences, config)
    monkeypatch.setattr(training, "_CLUSTERED_USERS", 30)
    with pytest.raises(UserError, match="--centers-start kmeans needs .*: a sample of 30 users, 31 intents"):
        check_trainable(sequences, config)
    check_trainable(sequences, config.replace(warm_start="runs/old"))  # whose centres are taken over
    with pytest.raises(UserError, match="--intent-clustering em needs .*: 60 users, 61 intents"):
        check_trainable(sequences, config.replace(warm_start="runs/old", intent_clustering="em", num_clusters=61))


def test_the_sample_that_decides_the_number_of_intents_has_room_for_all_of_them(sequences, monkeypatch):
    asked = []
    monkeypatch.setattr(training, "histories", lambda *_, most, **__: (asked.append(most), None))
    for centers in (256, 266, 1000):
        training._cluster_count(sequences, TINY.replace(num_clusters="auto", most_clusters=centers))
    assert asked == [4000, 4000, 15000]


def test_shards_without_a_question_are_refused_before_training(sequences, tmp_path):
    shards = sharded(sequences, tmp_path / "shards")
    for entry in shards.manifest["shards"]:
        entry["test_users"] = 0
    with pytest.raises(UserError, match="shards: no user has an event to hold out for test; prepare it with another split"):
        train_model(shards, TINY, RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_folder_in_use_is_refused(finished, sequences):
    with pytest.raises(UserError, match="--resume"):
        train_model(sequences, TINY, finished[0])


def test_snapshots_are_written_when_asked_for(sequences, tmp_path):
    folder = RunFolder(tmp_path / "run")
    train_model(sequences, TINY.replace(epochs=1, snapshot_epochs=(0, 1), snapshot_users=10), folder)
    with np.load(folder.snapshots / "epoch-00001.npz") as snapshot:
        assert snapshot["embeddings"].shape == (10, 8)
        assert set(snapshot["user_ids"]) <= set(sequences.user_ids)


def test_early_stopping_keeps_patience(sequences, tmp_path):
    folder = RunFolder(tmp_path / "run")
    train_model(sequences, TINY.replace(learning_rate=1e-9, epochs=10, patience=2), folder)
    rows = folder.read_history()
    scores = [row["val_NDCG@20"] for row in rows]
    assert len(rows) == 2 + int(np.argmax(scores)) + 1 < 10


@pytest.mark.parametrize(
    "options",
    [
        {"examples": "prefixes", "mask_same_intent": True, "intent_pooling": "last", "augmentations": ("mask",)},
        {
            "next_item": "bce",
            "cluster_form": "paper",
            "centers_start": "kmeans",
            "fusion": "concat",
            "official_padding": True,
            "sequence_pooling": "flatten",
            "similarity": "dot",
            "temperature": 1.0,
        },
        {"next_item": "sampled_softmax", "num_negatives": 16, "score": "dot", "products": "bfloat16", "revive_below": 0.5},
        pytest.param({"sequence_weight": 0.0, "intent_weight": 0.0, "cluster_weight": 0.0, "xla": "on"}, marks=pytest.mark.slow),
        pytest.param(
            {"activity_features": True, "dropout": 0.1, "augmentations": ("substitute", "insert", "dropout")}, marks=pytest.mark.slow
        ),
        pytest.param({"xla": "chains", "products": "bfloat16"}, marks=pytest.mark.slow),
        pytest.param({"xla": "chains", "examples": "prefixes", "score": "dot"}, marks=pytest.mark.slow),
    ],
    ids=[
        "prefixes",
        "paper",
        "sampled softmax in bfloat16",
        "next item alone under XLA",
        "activity features, views by similarity",
        "chains in bfloat16",
        "prefixes in chains",
    ],
)
def test_every_option_trains_and_improves(sequences, tmp_path, options):
    folder = RunFolder(tmp_path / "run")
    train_model(sequences, TINY.replace(**{"epochs": 2, "learning_rate": 0.01, **options}), folder)
    rows = folder.read_history()
    assert rows[1]["next_item"] < rows[0]["next_item"]
    assert folder.load_model() is not None


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    """A run that decides on its number of intents: more users, so that a sample tells something."""
    simulator = {**SIMULATOR, "sim_users": 300}
    config = TINY.replace(**simulator, num_clusters="auto", most_clusters=24, epochs=4, learning_rate=0.01)
    folder = RunFolder(tmp_path_factory.mktemp("counted") / "run")
    data = simulate(SimulatorConfig(**simulator))
    return data, config, folder, train_model(data, config, folder)


def test_an_automatic_number_of_intents_is_recorded_and_kept(counted):
    _, _, folder, model = counted
    rows = folder.read_history()
    number = 24
    for row in rows:
        number += row["clusters_added"] - row["clusters_retired"] - row["clusters_merged"]
        assert row["clusters"] == number
        assert row["intent_perplexity"] <= number
    best = max(rows, key=lambda row: row["val_NDCG@20"])
    assert model.cluster_centers.num_clusters == best["clusters"] < 24  # the best model holds those in use, and no others
    assert model.output["intents"].shape[-1] == best["clusters"]


@pytest.mark.slow
def test_a_run_with_an_automatic_number_of_intents_can_be_resumed(counted, tmp_path):
    data, config, folder, model = counted
    resumed = RunFolder(tmp_path / "resumed")
    train_model(data, config.replace(epochs=2), resumed)
    after = train_model(data, config, resumed, resume=True)
    for ours, theirs in zip(curve(resumed), curve(folder), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    assert after.cluster_centers.num_clusters == model.cluster_centers.num_clusters


def test_without_retired_centres_a_model_says_the_same(counted):
    data, _, folder, _ = counted
    whole = load_keras(folder.newest_checkpoint()[1])
    history = np.zeros((3, 10), np.int32)
    history[:, 4:] = data.items[:18].reshape(3, 6)
    ours, theirs = whole.without_retired()(history), whole(history)
    np.testing.assert_allclose(ours["user"], theirs["user"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours["intents"], np.asarray(theirs["intents"])[:, whole.cluster_centers.in_use()], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_compiled_chains_give_the_same_run(finished, sequences, tmp_path):
    """Dropout is on: its masks are the same."""
    folder = RunFolder(tmp_path / "run")
    train_model(sequences, TINY.replace(xla="chains", epochs=2), folder)
    for ours, theirs in zip(curve(folder), curve(finished[0]), strict=False):
        for term in ("loss", "next_item", "sequence", "intent", "cluster"):
            assert ours[term] == pytest.approx(theirs[term], rel=1e-4), term
    # Another process, which has imported nothing but what reads a run, loads the model.
    code = f"from elcrec_tf.run_folder import RunFolder; print('read', type(RunFolder({str(folder.path)!r}).load_model()).__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "read ELCRec" in done.stdout, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("xla", "products", "gpu", "cpu", "expected"),
    [
        ("auto", "auto", False, False, ("float32", True, False)),
        ("auto", "auto", False, True, ("bfloat16", True, False)),
        ("auto", "auto", True, False, ("bfloat16", False, True)),
        ("on", "auto", False, True, ("float32", False, True)),  # XLA has no fast products in bfloat16 on a CPU
        ("off", "auto", False, True, ("bfloat16", False, False)),
        ("chains", "float32", True, True, ("float32", True, False)),
        ("off", "bfloat16", False, False, ("bfloat16", False, False)),
    ],
)
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="JAX compiles the whole step")
def test_what_is_compiled_goes_by_the_hardware_unless_it_is_said(sequences, monkeypatch, xla, products, gpu, cpu, expected):
    monkeypatch.setattr(training, "has_gpu", lambda: gpu)
    monkeypatch.setattr(training, "cpu_multiplies_bfloat16", lambda: cpu)
    config = TINY.replace(xla=xla, products=products)
    model = training.new_model(sequences, config)
    assert (model.kernels.product_dtype, model.kernels.compiled, model.jit_compile) == expected
    assert type(model.optimizer) is (FusedAdam if model.kernels.compiled else DenseAdam)


def test_a_run_of_no_epochs_leaves_a_model(sequences, tmp_path):
    folder = RunFolder(tmp_path / "run")
    model = train_model(sequences, TINY.replace(epochs=0), folder)
    metrics = evaluate_run(model, sequences, TINY, folder)
    assert metrics["best_epoch"] is None and metrics["train_seconds"] is None


def test_a_run_of_no_epochs_writes_the_snapshot_before_training_and_goes_on(finished, sequences, tmp_path):
    folder, config = RunFolder(tmp_path / "run"), TINY.replace(epochs=0, snapshot_epochs=(0,), snapshot_users=5)
    train_model(sequences, config, folder)
    assert [path.name for path in folder.snapshots.iterdir()] == ["epoch-00000.npz"]
    folder.metrics_file.write_text("{}")
    more = config.replace(epochs=1)
    training._write_start(sequences, more, folder, True, Console(quiet=True))
    assert not folder.metrics_file.exists() and not folder.model_file.exists()  # of the untrained model
    train_model(sequences, more, folder, resume=True)  # that was cut off there
    assert curve(folder)[0] == pytest.approx(curve(finished[0])[0], rel=1e-4)
    assert folder.config().train.epochs == 1 and folder.model_file.is_file()


def test_a_diverging_run_stops_with_a_message(sequences, tmp_path):
    config = TINY.replace(learning_rate=1e30, score="dot")
    with pytest.raises(UserError, match="diverged"):
        train_model(sequences, config, RunFolder(tmp_path / "run"))


def test_a_run_that_diverges_in_its_last_step_records_nothing(sequences, tmp_path):
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(UserError, match="training diverged"):
        train_model(sequences, TINY.replace(learning_rate=1e30, score="dot", epochs=1, batch_size=256), folder)
    assert folder.read_history() == [] and folder.newest_checkpoint() is None and not folder.model_file.exists()


_TWO_DEVICES = """
import json, sys
import numpy as np
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
from elcrec_tf import optimizer
from elcrec_tf.data.training_data import training_batches
from tests.test_training import TINY, SIMULATOR, SimulatorConfig, simulate, train_model, RunFolder
optimizer._LARGE = 100  # most variables in a kernel of their own
folder = RunFolder(sys.argv[1])
config = TINY.replace(epochs=2, **json.loads(sys.argv[2]))
sequences, devices = simulate(SimulatorConfig(**SIMULATOR)), ["CPU:0", "CPU:1"]
model = train_model(sequences, config, folder, devices=devices)
rows = folder.read_history()
assert rows[1]["next_item"] < rows[0]["next_item"], rows
assert all(np.isfinite(weight).all() for weight in model.get_weights())

# Each device gets its half of every array: the layout that its slots are counted in.
strategy, batches = tf.distribute.MirroredStrategy(devices), training_batches(sequences, config, replicas=2).dataset
shares = next(iter(strategy.experimental_distribute_dataset(batches)))
for whole, share in zip(tf.nest.flatten(next(iter(batches))), tf.nest.flatten(shares), strict=True):
    for half, got in zip(np.split(whole, 2), strategy.experimental_local_results(share), strict=True):
        np.testing.assert_array_equal(half, got)
print("replicas trained", len(rows))
"""


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"xla": "chains"}, marks=pytest.mark.slow),  # what replicas share is tested by default elsewhere
        pytest.param({"examples": "prefixes", "next_item": "bce"}, marks=pytest.mark.slow),
        pytest.param({"next_item": "sampled_softmax", "num_negatives": 16}, marks=pytest.mark.slow),
        pytest.param({"xla": "chains", "examples": "prefixes"}, marks=pytest.mark.slow),
    ],
    ids=["positions in chains", "prefixes", "sampled softmax", "prefixes in chains"],
)
def test_mirrored_training_on_two_logical_devices(tmp_path, options):
    done = subprocess.run(
        [sys.executable, "-c", _TWO_DEVICES, str(tmp_path / "run"), json.dumps(options)],
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert "replicas trained 2" in done.stdout, done.stderr[-2000:]


def test_keras_reads_the_best_model_without_this_package_naming_its_classes(finished):
    folder, model = finished
    loaded = keras.models.load_model(folder.model_file)
    assert type(loaded).__name__ == "ELCRec"
    history = np.array([[0, 0, 1, 2, 3]], np.int32)
    np.testing.assert_array_equal(np.asarray(loaded.scores(history)), np.asarray(model.scores(history)))


# --- shards -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_on_shards_resumes_to_the_result_of_an_uninterrupted_one(tmp_path, monkeypatch):
    monkeypatch.setattr("elcrec_tf.data.shard_plan._STEPS", 3)
    shards = sharded(random_sequences(num_users=60, num_items=60), tmp_path / "shards")
    config = toy_config(epochs=2, dropout=0.2, centers_start="kmeans", snapshot_epochs=(1,), snapshot_users=5)
    whole = train_model(shards, config, RunFolder(tmp_path / "whole"))
    train_model(shards, config.replace(epochs=1), RunFolder(tmp_path / "parts"))
    parts = train_model(shards, config, RunFolder(tmp_path / "parts"), resume=True)
    for one, other in zip(whole.get_weights(), parts.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    snapshot = np.load(tmp_path / "whole" / "snapshots" / "epoch-00001.npz")
    assert len(set(snapshot["user_ids"])) == 5 and snapshot["embeddings"].shape == (5, 8)
    other = sharded(random_sequences(num_users=60, num_items=60, seed=1), tmp_path / "other")
    with pytest.raises(UserError, match="made on other data"):
        train_model(other, config, RunFolder(tmp_path / "parts"), resume=True)


def test_shards_are_evaluated_as_the_same_users_in_memory(tmp_path):
    sequences = random_sequences(num_users=30, num_items=60)
    shards = sharded(sequences, tmp_path / "shards")
    folder = RunFolder(tmp_path / "run")
    config = toy_config(epochs=1)
    model = train_model(sequences, config, folder)
    streamed, in_memory = (
        evaluate_run(model, data, config, folder) for data in (shards, dataclasses.replace(sequences, catalog=shards.catalog))
    )
    for part in ("validation", "test"):
        assert streamed[part] == pytest.approx(in_memory[part])
    assert streamed["baselines"]["popularity"] == pytest.approx(in_memory["baselines"]["popularity"])
    assert [streamed[name] for name in ("users", "items", "events")] == [in_memory[name] for name in ("users", "items", "events")]
    assert streamed["fingerprint"] == shards.fingerprint
    # These take all users at once.
    assert "by_history_length" in in_memory and "by_history_length" not in streamed
    assert set(streamed["baselines"]) == {"popularity"}


def test_a_model_for_shards_has_the_activity_groups_of_the_same_users_in_memory(tmp_path):
    sequences = random_sequences(num_users=60, num_items=60, longest=20)
    config = toy_config(activity_features=True)
    bounds = [new_model(data, config).get_config()["activity_bounds"] for data in (sequences, sharded(sequences, tmp_path / "shards"))]
    seen = np.sort(np.minimum(np.diff(sequences.offsets) - 3, 8))
    assert bounds[0] == bounds[1] == np.unique(np.quantile(seen[seen > 0], [0.25, 0.5, 0.75], method="lower")).tolist()


@pytest.mark.slow
def test_the_number_of_intents_is_decided_on_a_sample_of_shards(tmp_path):
    shards = sharded(random_sequences(num_users=60, num_items=60), tmp_path / "shards")
    folder = RunFolder(tmp_path / "run")
    train_model(shards, toy_config(epochs=1, num_clusters="auto", most_clusters=8), folder)
    assert 2 <= folder.read_history()[0]["clusters"] <= 8


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"examples": "prefixes"}, "--examples prefixes"),
        ({"memory_weight": 1.0}, "--memory-weight"),
        ({"intent_clustering": "em", "cluster_weight": 0.0}, "--intent-clustering em"),
        ({"augmentations": ("crop", "insert")}, "--augmentations substitute and insert"),
    ],
)
def test_what_needs_all_users_at_once_is_refused_for_shards_before_anything_is_written(tmp_path, fields, named):
    shards = sharded(random_sequences(), tmp_path / "shards")
    with pytest.raises(UserError, match=f"'toy' is in shards: {named} needs a data set in memory"):
        train_model(shards, toy_config(**fields), RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_sampled_loss_over_many_items_updates_the_rows_it_touches(sequences, monkeypatch):
    def touched(**fields):
        return new_model(sequences, TINY.replace(xla="chains", **fields)).optimizer.touched_rows

    assert touched(next_item="sampled_softmax", item_updates="touched")
    assert not touched(next_item="sampled_softmax")
    monkeypatch.setattr(training, "_MANY_ITEMS", 39)
    assert touched(next_item="sampled_softmax") and touched(next_item="bce")
    assert not touched(next_item="softmax") and not touched(next_item="sampled_softmax", item_updates="all")
    with pytest.raises(UserError, match="--item-updates touched needs --xla chains"):
        new_model(sequences, TINY.replace(item_updates="touched"))
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(UserError, match="touched needs Keras's TensorFlow backend"):
        training._updates_touched_rows(TINY.replace(item_updates="touched", next_item="sampled_softmax"), 10, "chains")


@pytest.mark.slow
def test_a_step_that_updates_touched_rows_leaves_the_others_alone(sequences):
    """Through the model, its losses and its views: only items of the batch and the negatives move."""
    config = TINY.replace(xla="chains", item_updates="touched", next_item="sampled_softmax", num_negatives=3, batch_size=4)
    model = new_model(sequences, config)
    before = np.asarray(model.item_embedding.table)
    x, y = next(iter(training_batches(sequences, config).dataset))
    model.train_on_batch(x, y)
    moved = np.flatnonzero(np.abs(np.asarray(model.item_embedding.table) - before).max(axis=1))
    parts = [part["history"].numpy() for part in x.values()] + [y["target"].numpy(), y["negatives"].numpy()]
    touched = set(np.concatenate([part.reshape(-1) for part in parts]).tolist())
    assert 0 < len(touched) < 40
    assert touched - {0} <= set(moved.tolist()) <= touched | {0}
