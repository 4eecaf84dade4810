"""The core on the JAX backend, in a process of its own. Skips where JAX is not installed (pip install jax)."""

import importlib.util
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="needs jax")

_TRAIN = """
import sys
from tests.test_training import TINY, SIMULATOR, SimulatorConfig, simulate, train_model, RunFolder
import keras
assert keras.backend.backend() == "jax"
folder = RunFolder(sys.argv[1])
model = train_model(simulate(SimulatorConfig(**SIMULATOR)), TINY.replace(epochs=2, xla="auto"), folder)
rows = folder.read_history()
assert rows[1]["next_item"] < rows[0]["next_item"], rows
print("trained on jax")
"""


def run_on_jax(*arguments):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env={**os.environ, "KERAS_BACKEND": "jax"})


def test_parity_holds_on_jax(shared):
    done = run_on_jax("-m", "pytest", "-q", "tests/test_parity.py", "tests/test_sequence_encoder.py", "tests/test_ranking.py")
    assert done.returncode == 0, done.stdout[-2000:]


def test_the_model_trains_on_jax(tmp_path):
    done = run_on_jax("-c", _TRAIN, str(tmp_path / "run"))
    assert "trained on jax" in done.stdout, done.stderr[-2000:]
