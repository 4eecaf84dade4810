"""Run folders from elsewhere (an imported official checkpoint, say) as partners of a paired test."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from elcrec_tf.config import resolve
from elcrec_tf.errors import UserError
from elcrec_tf.run_folder import RunFolder
from pipelines.reproduce import process
from pipelines.reproduce.scene import Scene, Subject


def runs_against(scene: Scene) -> list[tuple[Path, Subject]]:
    """The run folders of `--against`, each with the data set that it was made on.

    Raises:
        UserError: for a folder without a run, and a run on none of the data sets.
    """
    found = []
    for run_dir in scene.options.against:
        folder = RunFolder(run_dir)
        folder.config()  # raises where there is no run
        fingerprint = folder.fingerprint()
        subject = next((one for one in scene.subjects if one.fingerprint == fingerprint), None)
        if subject is None:
            names = ", ".join(one.name for one in scene.subjects)
            raise UserError(f"{run_dir}: was made on other data than {names}; a paired test needs the same users")
        found.append((folder.path, subject))
    return found


def ranks_against(scene: Scene) -> dict[str, dict[str, np.ndarray]]:
    """Their test ranks: data set -> name of the run folder -> `[users]`."""
    ranks: dict[str, dict[str, np.ndarray]] = {}
    for path, subject in runs_against(scene):
        config = resolve("default", flags={**scene.fields, **subject.fields})
        ranks.setdefault(subject.name, {})[path.resolve().name] = process.ranks(path, config)
    return ranks
