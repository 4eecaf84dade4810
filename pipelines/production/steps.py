"""Does steps one after the other, and each of them once: what is done is kept, what was cut off goes on, what has changed is done anew."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.production.runs import Run

STARTED, DONE = "started", "done"
Results = Mapping[str, dict[str, Any]]


@dataclass(frozen=True)
class Step:
    """A step. It has to bear being cut off anywhere and called again.

    Attributes:
        name: unique among the steps.
        work: takes the results of the steps before, and gives its own, ready for JSON. One with `passed` False ends the run.
        needs: names of steps before whose results this one depends on.
        settings: what else its result depends on, ready for JSON.
        outputs: files and folders that go when the step begins anew, since they belong to other inputs.
    """

    name: str
    work: Callable[[Results], dict[str, Any]]
    needs: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    outputs: tuple[Path, ...] = ()

    def key(self, run: Run) -> str:
        """What tells one use of the step from another. The steps that it needs are done."""
        needed = {name: [run.record(name)["key"], run.result(name)] for name in self.needs}
        return hashlib.sha256(json.dumps([self.name, self.settings, needed], sort_keys=True).encode()).hexdigest()


def do_steps(run: Run, steps: Sequence[Step], say: Callable[[str], None]) -> bool:
    """Do what is left of a run; whether all steps passed. After one that did not, no more are done."""
    results: dict[str, dict[str, Any]] = {}
    for number, step in enumerate(steps, 1):
        key, record = step.key(run), run.record(step.name)
        same = record.get("key") == key
        title = f"step {number} of {len(steps)}, {step.name}"
        if same and record["status"] == DONE:
            say(f"{title}: is done")
        else:
            say(f"{title}: {'goes on where it was cut off' if same else 'begins'}")
            _do(run, step, key, results, fresh=not same)
            say(f"{title}: took {run.record(step.name)['seconds']:.1f} s")
        results[step.name] = run.result(step.name)
        if not results[step.name].get("passed", True):
            return False
    return True


def _do(run: Run, step: Step, key: str, results: Results, fresh: bool) -> None:
    if fresh:
        for path in step.outputs:
            _remove(path)
        run.write_step(step.name, key=key, status=STARTED)
    began = time.monotonic()
    result = step.work(results)
    run.write_step(step.name, key=key, status=DONE, seconds=round(time.monotonic() - began, 3), result=result)


def plan(run: Run, steps: Sequence[Step]) -> dict[str, str]:
    """What `do_steps` would do with each step: nothing (it is done), go on with it, or do it."""
    found: dict[str, str] = {}
    for step in steps:
        known = all(found[name] == "done" for name in step.needs)
        same = known and run.record(step.name).get("key") == step.key(run)
        found[step.name] = "to do" if not same else "done" if run.record(step.name)["status"] == DONE else "to go on with"
    return found


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
