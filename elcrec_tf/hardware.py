"""What the machine can do."""

from pathlib import Path

_CPU_FLAGS = {"avx512_bf16", "amx_bf16"}


def multiplies_bfloat16() -> bool:
    """Whether matrix products in bfloat16 are faster than in float32: on a GPU, or a CPU with instructions for them."""
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        return True
    try:
        return bool(_CPU_FLAGS & set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split()))
    except OSError:  # not Linux
        return False
