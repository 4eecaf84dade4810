"""What the machine can do."""

from pathlib import Path

import keras

_CPU_FLAGS = {"avx512_bf16", "amx_bf16"}


def has_gpu() -> bool:
    """Whether the active Keras backend computes on a GPU."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.default_backend() == "gpu"
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def cpu_multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for matrix products in bfloat16 (which TensorFlow uses, XLA does not)."""
    try:
        return bool(_CPU_FLAGS & set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split()))
    except OSError:  # not Linux
        return False
