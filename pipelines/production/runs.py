"""The work folder: a folder a run, and in each the state that tells a later process what is done.

```
run-0001/
  pipeline.json    what the run was made from, each step's state and result, the gate's checks, the outcome; written after every step
  pipeline.log     what was said, with times
  data/            the prepared data, and the rows that were rejected
  train/           the training run, as elcrec_tf.train leaves it
  export/<model>/  the SavedModel before it is published
  drift.json       what elcrec_tf.drift tells of the run that this one went on from
```
"""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from elcrec_tf.data.records import file_sha256
from elcrec_tf.errors import UserError
from elcrec_tf.files import read_json_object, write_json

STATE = "pipeline.json"
PUBLISHED, REFUSED = "published", "refused"


class Run:
    """One run of the pipeline.

    Args:
        path: its folder.
        state: content of pipeline.json.
    """

    def __init__(self, path: Path, state: dict[str, Any]) -> None:
        self.path = path
        self.state = state

    @property
    def id(self) -> str:
        """What the run's export carries, so that a published version can be told from all others."""
        return self.state["id"]

    @property
    def published(self) -> bool:
        return self.state["outcome"] == PUBLISHED

    @property
    def parent(self) -> str | None:
        """Name of the run that was published last when this one began."""
        return self.state["parent"]

    def record(self, step: str) -> dict[str, Any]:
        """What is known of a step: `key`, `status` (started or done), `seconds` and `result`; empty for one that has not begun."""
        return self.state["steps"].get(step, {})

    def result(self, step: str) -> dict[str, Any]:
        """What a step that is done has found."""
        return self.record(step)["result"]

    def write_step(self, step: str, **values: Any) -> None:
        """Keep what is known of a step."""
        self.state["steps"][step] = values
        self.save()

    def end(self, outcome: str, **values: Any) -> None:
        """Keep how the run ended."""
        self.state |= {"outcome": outcome, "ended": now(), **values}
        self.save()

    def save(self) -> None:
        write_json(self.path / STATE, self.state)


class WorkFolder:
    """All runs for one model. Making the object touches no file.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def runs(self) -> list[Run]:
        """All runs, oldest first. A folder without a state is none: a start that was cut off. Raises `UserError` for a broken state."""
        return [Run(path, _read_state(path / STATE)) for path in self._folders() if (path / STATE).is_file()]

    def run(self, name: str) -> Run:
        """A run by its folder's name. Raises `UserError` where it is gone."""
        return Run(self.path / name, _read_state(self.path / name / STATE))

    def check_model(self, model: Path) -> None:
        """Raise `UserError` where the newest run is for another model: its runs would count as this one's."""
        runs = self.runs()
        theirs = runs[-1].state.get("model") if runs else None  # older runs do not say
        if theirs is not None and theirs != self.place_of(model):
            raise UserError(
                f"{self.path}: its runs are for {self.path / theirs}, not for {model}; give another --work-dir, or, where the folder "
                f'was moved, correct "model" in {runs[-1].path / STATE} to {self.place_of(model)!r}'
            )

    def place_of(self, model: Path) -> str:
        """Where a model's folder lies as seen from the work folder, so that both can be moved together."""
        return os.path.relpath(model.resolve(), self.path.resolve())

    def new(self, inputs: Sequence[Mapping[str, Any]], model: Path) -> Run:
        """A new run for a model, which has written nothing yet."""
        last = max((int(path.name.removeprefix("run-")) for path in self._folders()), default=0)
        published = [run.path.name for run in self.runs() if run.published]
        state = {
            "id": uuid.uuid4().hex,
            "created": now(),
            "model": self.place_of(model),
            "inputs": list(inputs),
            "parent": published[-1] if published else None,
        }
        return Run(self.path / f"run-{last + 1:04d}", {**state, "steps": {}, "outcome": None})

    def _folders(self) -> list[Path]:
        return sorted(path for path in self.path.glob("run-*") if re.fullmatch(r"run-\d+", path.name))


def fingerprints(files: Sequence[Path]) -> list[dict[str, Any]]:
    """What is kept of each file of the input: path, size and SHA-256."""
    return [{"path": str(path), "bytes": path.stat().st_size, "sha256": file_sha256(path)} for path in files]


def same_files(first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]) -> bool:
    """Whether two lists of `fingerprints` are of the same files, wherever these lie: name, size and content."""
    one, other = ([(Path(file["path"]).name, file["bytes"], file["sha256"]) for file in files] for files in (first, second))
    return one == other


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _read_state(path: Path) -> dict[str, Any]:
    state = read_json_object(path, "a run's state")
    if not {"id", "inputs", "parent", "steps", "outcome"} <= state.keys():
        raise UserError(f"{path}: is not a state that this pipeline wrote; move that run out of the work folder")
    return state
