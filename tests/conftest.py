"""What every test needs: quiet TensorFlow, the shared reference folder where there is one."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with reference files and benchmark data beside the project; the test skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("needs the shared reference folder beside the project")
    return SHARED
