import math

import keras
import numpy as np
import pytest

from elcrec_tf.callbacks import ContrastiveLossCallback, EpochSeeds, NanGuard, RunRecorder, Snapshots, WeightAverage, best_epoch
from elcrec_tf.errors import UserError
from elcrec_tf.kernels import Kernels
from elcrec_tf.model import ELCRec
from elcrec_tf.run_folder import RunFolder
from tests.toy import packed_rows

HISTORY = np.array([[0, 1, 2], [3, 4, 5], [0, 0, 6], [7, 8, 9]], np.int32)


def tiny_model(**options):
    model = ELCRec(9, max_length=3, hidden_size=8, num_layers=1, num_clusters=4, dropout=0.0, **options)
    model.compile(optimizer=keras.optimizers.SGD(0.0))
    return model


def probe():
    return {"history": HISTORY, "view_a": HISTORY, "view_b": HISTORY[:, ::-1].copy()}


def batch(history):
    x = {"examples": packed_rows(history), "view_a": packed_rows(history), "view_b": packed_rows(history[:, ::-1])}
    return x, {"target": np.roll(history, -1, axis=1)}


def fit(model, callbacks, epochs=1):
    return model.fit(*batch(HISTORY), batch_size=4, epochs=epochs, verbose=0, shuffle=False, callbacks=callbacks).history


def test_warmup_rises_linearly_and_a_constant_schedule_stays():
    callback = ContrastiveLossCallback(10, probe(), warmup=3)
    # (e + 1) / (warmup + 1): 1/4, 2/4, 3/4, then 1.
    assert [callback.factor(epoch) for epoch in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


@pytest.mark.parametrize(("epochs", "warmup"), [(1, 0), (5, 4)])
def test_a_single_epoch_of_a_schedule_is_its_last(epochs, warmup):
    callback = ContrastiveLossCallback(epochs, probe(), warmup, schedule="linear", final=0.2, final_temperature=0.1)
    assert callback.factor(epochs - 1) == pytest.approx(0.2)
    model = tiny_model()
    callback.set_model(model)
    callback.on_train_begin()
    callback.on_epoch_begin(epochs - 1)
    assert float(model.temperature.value) == pytest.approx(0.1)


def test_linear_and_cosine_schedules_end_at_the_final_factor():
    linear = ContrastiveLossCallback(5, probe(), schedule="linear", final=0.2)
    np.testing.assert_allclose([linear.factor(epoch) for epoch in range(5)], [1.0, 0.8, 0.6, 0.4, 0.2])
    cosine = ContrastiveLossCallback(5, probe(), schedule="cosine", final=0.0)
    np.testing.assert_allclose([cosine.factor(epoch) for epoch in (0, 2, 4)], [1.0, 0.5, 0.0], atol=1e-12)
    assert cosine.factor(1) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)


def test_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="schedule"):
        ContrastiveLossCallback(5, probe(), schedule="sudden")


def test_a_schedule_moves_the_loss_of_the_compiled_step():
    """The learning rate is 0: only the scheduled weight can move the loss. Weight w_e gives next + w_e * contrastive."""
    model = tiny_model(cluster_weight=0.0, sequence_weight=0.5, intent_weight=0.0)
    history = fit(model, [ContrastiveLossCallback(3, probe(), schedule="linear", final=0.0)], epochs=3)
    expected = [n + 0.5 * f * s for n, s, f in zip(history["next_item"], history["sequence"], (1, 0.5, 0), strict=True)]
    np.testing.assert_allclose(history["loss"], expected, rtol=1e-5)
    assert history["loss"][0] > history["loss"][1] > history["loss"][2]


def test_the_temperature_ends_where_it_should_and_moves_the_loss():
    model = tiny_model(temperature=0.4)
    callback = ContrastiveLossCallback(3, probe(), final_temperature=0.1)
    history = fit(model, [callback], epochs=3)
    np.testing.assert_allclose(history["temperature"], [0.4, 0.2, 0.1], rtol=1e-6)  # geometric
    assert history["sequence"][0] != history["sequence"][2]


def test_health_is_recorded_each_epoch():
    history = fit(tiny_model(), [ContrastiveLossCallback(2, probe())], epochs=2)
    names = ("intents_used", "intent_perplexity", "largest_intent", "smallest_intent")
    names += ("center_cosine_mean", "center_cosine_max", "view_alignment", "view_uniformity")
    for name in names:
        assert len(history[name]) == 2 and np.isfinite(history[name]).all()
    assert "revived" not in history


def test_dead_centers_are_revived_onto_lonely_users():
    model = tiny_model()
    centers = np.zeros((4, 8), np.float32)
    centers[:, 0] = 1.0  # all the same: argmax gives centre 0 to everybody
    model.cluster_centers.assign_centers(centers)
    history = fit(model, [ContrastiveLossCallback(1, probe(), revive_below=0.5)])
    assert history["revived"] == [3]
    nearest = np.sort(np.asarray(model(HISTORY)["intents"]).max(-1))
    np.testing.assert_allclose(nearest[1:], 1.0, rtol=1e-5)  # three of the four users have a centre right on them


def test_best_epoch_is_the_first_of_equals():
    rows = [{"epoch": 1, "m": 0.1}, {"epoch": 2, "m": 0.3}, {"epoch": 3, "m": 0.3}]
    assert best_epoch(rows, "m") == 2
    assert best_epoch([], "m") == 0


class Metric(keras.callbacks.Callback):
    """Feeds a scripted validation metric."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def on_epoch_end(self, epoch, logs=None):
        logs["val_NDCG@20"] = self.values[epoch]


def test_recorder_keeps_the_best_model_and_stops_when_patience_ends(tmp_path):
    folder, model = RunFolder(tmp_path), tiny_model()
    seen = []

    class Mark(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            seen.append(epoch)
            table = np.zeros((10, 8), np.float32) + epoch
            self.model.item_embedding.table.assign(table)

    recorder = RunRecorder(folder, "NDCG@20", patience=2)
    fit(model, [Mark(), Metric([0.1, 0.5, 0.4, 0.5, 0.9]), recorder], epochs=5)
    assert seen == [0, 1, 2, 3]  # epochs 3 and 4 (from 1) are no better than 2: equal is not better
    assert recorder.best_epoch == 2
    assert float(folder.load_model().item_embedding.table[0, 0]) == 1.0
    assert folder.newest_checkpoint()[0] == 4
    assert [row["epoch"] for row in folder.read_history()] == [1, 2, 3, 4]


def test_nan_loss_stops_the_run_with_a_clear_message():
    model = tiny_model()
    model.item_embedding.table.assign(np.full((10, 8), np.nan, np.float32))
    with pytest.raises(UserError, match=r"diverged.*step 1 of epoch 1.*--learning-rate"):
        fit(model, [NanGuard()])


def test_a_last_step_that_breaks_the_states_is_noticed_before_the_epoch_is_recorded(tmp_path):
    class Break(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.item_embedding.table.assign(np.full((10, 8), np.nan, np.float32))

    recorder = RunRecorder(RunFolder(tmp_path), "NDCG@20", patience=2)
    with pytest.raises(UserError, match="training diverged: the states are no finite numbers after epoch 1; try a lower --learning-rate"):
        fit(tiny_model(), [Break(), NanGuard(), ContrastiveLossCallback(1, probe()), recorder])
    assert recorder.rows == [] and not any(tmp_path.iterdir())


@pytest.mark.parametrize("compiled", [False, True])
def test_epoch_seeds_make_dropout_a_function_of_seed_and_epoch(compiled):
    model = ELCRec(9, max_length=3, hidden_size=8, num_layers=1, num_clusters=4, dropout=0.5)
    model.kernels = Kernels(compiled=compiled)
    seeds = EpochSeeds(seed=1)
    seeds.set_model(model)

    def draw(epoch):
        seeds.on_epoch_begin(epoch)
        return np.asarray(model({"examples": packed_rows(HISTORY)}, training=True)["examples"])

    first = draw(0)
    assert not np.array_equal(first, draw(1))
    np.testing.assert_array_equal(first, draw(0))


def test_snapshots_hold_users_embeddings_and_intents(tmp_path):
    folder, model = RunFolder(tmp_path), tiny_model()
    users = np.array(["a", "b", "c", "d"], dtype=object)
    fit(model, [Snapshots(folder, (0, 2), users, HISTORY)], epochs=2)
    assert sorted(path.name for path in folder.snapshots.iterdir()) == ["epoch-00000.npz", "epoch-00002.npz"]
    with np.load(folder.snapshots / "epoch-00002.npz") as snapshot:
        assert list(snapshot["user_ids"]) == ["a", "b", "c", "d"]
        np.testing.assert_allclose(snapshot["embeddings"], np.asarray(model(HISTORY)["user"]), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(snapshot["intents"], np.asarray(model(HISTORY)["intents"]).argmax(-1))


def test_the_average_of_the_weights_is_in_the_model_between_epochs_alone():
    """`a <- 0.9 a + 0.1 w` after each step, from the weights of the first one. Training goes on from the weights."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")])
    model.compile(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9), loss="mse")
    weights, shown = [], []
    look = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda *_, **__: weights.append(model.layers[0].kernel.numpy().item()),
        on_epoch_end=lambda *_, **__: shown.append(model.layers[0].kernel.numpy().item()),
    )
    ones = np.ones((4, 1), "float32")
    model.fit(ones, 3 * ones, batch_size=2, epochs=2, verbose=0, callbacks=[WeightAverage(averaged=False), look])
    steps = [1.0]
    for _ in range(4):
        steps.append(steps[-1] + 0.2 * (3 - steps[-1]))
    np.testing.assert_allclose(weights, steps[1:], rtol=1e-5)
    averages = [steps[1]]
    for step in steps[2:]:
        averages.append(0.9 * averages[-1] + 0.1 * step)
    np.testing.assert_allclose(shown, averages[1::2], rtol=1e-5)
