"""Run folders from elsewhere (an imported official checkpoint, say) as partners of a paired test."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from elcrec_tf.config import resolve
from elcrec_tf.errors import UserError
from elcrec_tf.run_folder import RunFolder
from pipelines.reproduce import process
from pipelines.reproduce.scene import Scene, Subject, data_fields


def runs_against(scene: Scene) -> list[tuple[Path, Subject]]:
    """The run folders of `--against`, each with the data set that it was made on.

    Raises:
        UserError: for a folder without a run, a run on none of the data sets, and two things that a table would call the same.
    """
    found: list[tuple[Path, Subject]] = []
    for run_dir in scene.options.against:
        folder = RunFolder(run_dir)
        folder.config()  # raises where there is no run
        fingerprint = folder.fingerprint()
        subject = next((one for one in scene.subjects if one.fingerprint == fingerprint), None)
        if subject is None:
            names = ", ".join(one.name for one in scene.subjects)
            raise UserError(f"{run_dir}: was made on other data than {names}; a paired test needs the same users")
        name = _name(folder.path)
        if name in scene.options.recipes or any(_name(path) == name and other is subject for path, other in found):
            raise UserError(f"--against {run_dir}: the table has a {name!r} already; rename the folder, or give a link to it")
        found.append((folder.path, subject))
    return found


def ranks_against(scene: Scene) -> dict[str, dict[str, np.ndarray]]:
    """Their test ranks: data set -> name of the run folder -> `[users]`."""
    ranks: dict[str, dict[str, np.ndarray]] = {}
    ranking = {name: value for name, value in scene.fields.items() if name == "eval_batch_size"}
    for path, subject in runs_against(scene):
        config = resolve("default", flags={**data_fields(scene.fields), **ranking, **subject.fields})
        ranks.setdefault(subject.name, {})[_name(path)] = process.ranks(path, config)
    return ranks


def _name(path: Path) -> str:
    """What a run folder is called in tables."""
    return path.absolute().name
