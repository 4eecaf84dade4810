import keras
import numpy as np
import pytest
import tensorflow as tf

from elcrec_tf import optimizer as module
from elcrec_tf.kernels import lookup
from elcrec_tf.optimizer import DenseAdam, FusedAdam

# The first is large enough for a kernel of its own; the scalar is the score's temperature.
SHAPES = ((400, 300), (7, 3), ())
RNG = np.random.default_rng(0)
STARTS = [RNG.normal(size=shape).astype("float32") for shape in SHAPES]


def variables():
    return [keras.Variable(start) for start in STARTS]


def stepped(optimizer, gradients):
    """The variables after one step for each list of gradients."""
    weights = variables()
    optimizer.build(weights)
    for step in gradients:
        optimizer.apply_gradients(list(zip(step, weights, strict=True)))
    return [np.asarray(weight) for weight in weights]


def dense_gradients(steps=5):
    rng = np.random.default_rng(1)
    return [[tf.constant(rng.normal(size=shape) * 10.0**-step, tf.float32) for shape in SHAPES] for step in range(steps)]


def test_the_first_variable_is_large():
    assert np.prod(SHAPES[0]) > module._LARGE > np.prod(SHAPES[1])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"learning_rate": 0.1, "beta_1": 0.5, "beta_2": 0.9, "epsilon": 0.01},
        {"learning_rate": keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)},
        {"global_clipnorm": 1.0, "weight_decay": 0.01},
    ],
    ids=["defaults", "other constants", "schedule", "clipped and decayed"],
)
def test_steps_are_those_of_keras_adam(options):
    ours, theirs = (stepped(kind(**options), dense_gradients()) for kind in (FusedAdam, keras.optimizers.Adam))
    for one, other, start in zip(ours, theirs, STARTS, strict=True):
        assert np.abs(one - start).max() > 1e-4
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_the_gradient_of_a_lookup_counts_as_the_dense_one():
    """A row that is looked up twice gets the sum; momentum moves rows of earlier steps on.

    (Keras's Adam squares the two gradients of such a row one by one.)
    """
    lookups = [np.int32([3, 5, 3]), np.int32([0, 399]), np.int32([7])]

    def run(optimizer, dense):
        table = keras.Variable(STARTS[0])
        optimizer.build([table])
        for rows in lookups:
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(tf.square(tf.gather(table.value, rows)))
            gradient = tape.gradient(loss, table.value)
            assert isinstance(gradient, tf.IndexedSlices)
            optimizer.apply_gradients([(tf.convert_to_tensor(gradient) if dense else gradient, table)])
        return np.asarray(table)

    ours, theirs = run(FusedAdam(0.1), dense=False), run(keras.optimizers.Adam(0.1), dense=True)
    assert {3, 5, 0, 399, 7} == set(np.flatnonzero(np.abs(ours - STARTS[0]).max(axis=1) > 1e-3))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_inside_a_compiled_train_step(monkeypatch):
    """With every variable in a kernel of its own."""
    monkeypatch.setattr(module, "_LARGE", 0)
    x, y = RNG.normal(size=(16, 4)).astype("float32"), RNG.normal(size=(16, 2)).astype("float32")
    losses = []
    for kind in (FusedAdam, keras.optimizers.Adam):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(2)])
        model.compile(kind(0.05), "mse", jit_compile=False)
        losses.append([model.train_on_batch(x, y) for _ in range(5)])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    assert losses[0][-1] < losses[0][0]


def test_config_round_trip():
    optimizer = FusedAdam(0.03, touched_rows=True, beta_1=0.8, beta_2=0.99, epsilon=1e-5, weight_decay=0.1)
    again = FusedAdam.from_config(optimizer.get_config())
    assert again.get_config() == optimizer.get_config()
    assert type(keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))) is FusedAdam


def test_a_saved_model_goes_on_with_its_moments(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_LARGE", 0)
    x, y = RNG.normal(size=(16, 4)).astype("float32"), RNG.normal(size=(16, 2)).astype("float32")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile(FusedAdam(0.05), "mse", jit_compile=False)
    for _ in range(3):
        model.train_on_batch(x, y)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is FusedAdam and int(loaded.optimizer.iterations) == 3
    assert loaded.train_on_batch(x, y) == pytest.approx(model.train_on_batch(x, y), rel=1e-6)
    for ours, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_touched_rows_alone_move_and_count_once():
    """Rows 3 and 5, of which 3 is looked up twice: they move as under dense Adam's first step; moments of others do not decay."""
    table = keras.Variable(STARTS[0])
    dense = keras.Variable(STARTS[0])
    lazy, usual = FusedAdam(0.1, touched_rows=True), keras.optimizers.Adam(0.1)
    for optimizer, variable in ((lazy, table), (usual, dense)):
        optimizer.build([variable])
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(lookup(variable, np.int32([3, 5, 3]))))
        gradient = tape.gradient(loss, variable.value)
        assert isinstance(gradient, tf.IndexedSlices)
        optimizer.apply_gradients([(gradient if optimizer is lazy else tf.convert_to_tensor(gradient), variable)])
    np.testing.assert_allclose(np.asarray(table), np.asarray(dense), rtol=1e-5, atol=1e-6)

    before, moments = np.asarray(table), [np.asarray(one) for one in (lazy._momentums[0], lazy._velocities[0])]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(lookup(table, np.int32([7])))
    lazy.apply_gradients([(tape.gradient(loss, table.value), table)])
    assert np.flatnonzero(np.abs(np.asarray(table) - before).max(axis=1)).tolist() == [7]
    for now, then in zip((lazy._momentums[0], lazy._velocities[0]), moments, strict=True):
        assert np.flatnonzero(np.abs(np.asarray(now) - then).max(axis=1)).tolist() == [7]
        np.testing.assert_array_equal(np.asarray(now)[[3, 5]], then[[3, 5]])


def test_dense_gradients_are_the_same_with_touched_rows():
    ours, theirs = (stepped(optimizer, dense_gradients()) for optimizer in (FusedAdam(touched_rows=True), keras.optimizers.Adam()))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_rows_that_were_looked_up_twice_have_one_gradient():
    """Row 1 was looked up twice: the step is that of the sum, 3, and its second moment 0.001 x 9."""
    variable, optimizer = keras.Variable(np.zeros((3, 1), "float32")), DenseAdam(0.1)
    optimizer.build([variable])
    optimizer.apply([tf.IndexedSlices(tf.constant([[1.0], [2.0]]), tf.constant([1, 1]), tf.constant([3, 1]))], [variable])
    np.testing.assert_allclose(np.ravel(optimizer._velocities[0]), [0, 0.009, 0], rtol=1e-5)
    np.testing.assert_allclose(np.ravel(variable), [0, -0.1, 0], atol=1e-5)
