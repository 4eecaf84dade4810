import keras
import pytest
import tensorflow as tf

from elcrec_tf import hardware


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("flags\t\t: fpu avx2 avx512f\nbugs\t\t: none\n", False),
        ("flags\t\t: fpu avx2 avx512f avx512_bf16 amx_tile\n", True),
        ("flags\t\t: fpu amx_bf16\n\nflags\t\t: fpu amx_bf16\n", True),
        ("flags\t\t: not_avx512_bf16_at_all\n", False),
        ("", False),
        (FileNotFoundError(), False),
    ],
    ids=["avx2", "avx512_bf16", "amx_bf16", "part of a word", "empty", "not linux"],
)
def test_a_cpu_multiplies_bfloat16_where_it_has_instructions_for_it(monkeypatch, cpuinfo, expected):
    def read_text(path, encoding=None):
        assert str(path) == "/proc/cpuinfo"
        if isinstance(cpuinfo, Exception):
            raise cpuinfo
        return cpuinfo

    monkeypatch.setattr(hardware.Path, "read_text", read_text)
    assert hardware.cpu_multiplies_bfloat16() is expected


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="asks TensorFlow")
@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_gpu_is_one_that_tensorflow_sees(monkeypatch, count):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind] * (count if kind == "GPU" else 1))
    assert hardware.has_gpu() is (count > 0)
