"""The checks that every layer passes."""

import keras
import numpy as np


def check_layer(kind, arguments, inputs, path, trains=True):
    """Check a layer's config, shapes, a train step, mixed precision and saving; returns its output for `inputs`.

    Args:
        kind: the layer's class.
        arguments: of its constructor.
        inputs: tuple of arrays, the call arguments.
        path: a folder for the saved model.
        trains: whether a step towards random targets moves every weight.
    """
    layer = kind(**arguments)
    again = kind.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert all(getattr(layer, name) == value for name, value in arguments.items() if not isinstance(value, keras.layers.Layer))

    symbolic = [keras.Input(array.shape[1:], dtype=str(array.dtype)) for array in inputs]
    model = keras.Model(symbolic, layer(*symbolic))
    output = np.asarray(layer(*inputs))
    assert model.output_shape == (None, *output.shape[1:])
    np.testing.assert_allclose(model.predict(list(inputs), verbose=0), output, rtol=1e-5, atol=1e-5)

    file = path / "layer.keras"
    model.save(file)
    loaded = keras.models.load_model(file)
    assert type(loaded.layers[-1]) is kind
    np.testing.assert_allclose(loaded.predict(list(inputs), verbose=0), output, rtol=1e-5, atol=1e-5)

    before = [keras.ops.convert_to_numpy(weight).copy() for weight in layer.trainable_weights]
    model.compile(keras.optimizers.SGD(0.1), loss="mse", run_eagerly=True)
    loss = model.train_on_batch(list(inputs), np.random.default_rng(0).normal(size=output.shape).astype("float32"))
    assert np.isfinite(loss)
    if trains:
        assert all(np.any(old != np.asarray(new)) for old, new in zip(before, layer.trainable_weights, strict=True))

    mixed = kind(**{**arguments, "dtype": "mixed_bfloat16"})
    half = mixed(*inputs)
    assert keras.backend.standardize_dtype(half.dtype) == "bfloat16"
    assert all(weight.dtype == "float32" for weight in mixed.trainable_weights)
    assert np.isfinite(np.asarray(keras.ops.cast(half, "float32"))).all()
    return output
