"""Where things stand in an exported model: `MODEL/<integer version>/`, and what lies beside the SavedModel in a version.

Imports neither TensorFlow nor Keras.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from elcrec_tf import cli
from elcrec_tf.errors import UserError

METADATA = "assets/metadata.json"
CATALOG = "assets.extra/catalog.parquet"
WARMUP = "assets.extra/tf_serving_warmup_requests"
SAVED_MODEL = "saved_model.pb"
SERVING_FILES = "tf_serving"
"""Folder beside the versions that holds what starts TensorFlow Serving."""

ALLOWED_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
"""Sizes that a server pads its batches to."""


def _export_again() -> str:
    return f"export the run again with {cli.command('export')}"


def versions(directory: Path) -> dict[int, Path]:
    """The versions in a model's folder. Other names, an export under way among them, are none."""
    try:
        return {int(path.name): path for path in directory.iterdir() if re.fullmatch(r"[0-9]+", path.name)}
    except OSError as error:
        raise UserError(f"{directory}: cannot be read ({error.strerror}); give an exported model's folder") from None


def version_folder(directory: str | Path) -> Path:
    """The folder of the newest version in a model's folder; a version's own folder stands for itself.

    Raises:
        UserError: when there is no such folder, or no version in it.
    """
    directory = Path(directory)
    if not directory.exists():
        raise UserError(f"{directory}: there is no such folder; give an exported model's folder ({cli.command('export')} makes one)")
    if (directory / SAVED_MODEL).is_file():
        return directory
    found = versions(directory)
    if not found:
        raise UserError(f"{directory}: holds no exported model (no saved_model.pb, no folder named 1, 2, ...); {_export_again()}")
    return found[max(found)]


def read_metadata(version: Path) -> dict[str, Any]:
    """What an export says of itself.

    Raises:
        UserError: when the folder was not written by elcrec_tf, or is not whole.
    """
    if not (version / SAVED_MODEL).is_file():
        raise UserError(f"{version}: has no {SAVED_MODEL}; remove this version, or {_export_again()}")
    try:
        metadata = json.loads((version / METADATA).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{version}: is a SavedModel, but not one that elcrec_tf exported (no {METADATA})") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{version / METADATA}: cannot be read ({error}); {_export_again()}") from None
    if not isinstance(metadata, dict) or not {"elcrec_tf", "top_k", "num_items"} <= metadata.keys():
        raise UserError(f"{version / METADATA}: was not written by elcrec_tf; {_export_again()}")
    return metadata
