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
_IS_DONE, _TO_GO_ON, _ANEW, _TO_DO = "done", "to go on with", "to do anew, as always", "to do"
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
        always: done anew each time, because its result depends on the clock, too.
    """

    name: str
    work: Callable[[Results], dict[str, Any]]
    needs: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    outputs: tuple[Path, ...] = ()
    always: bool = False

    def key(self, run: Run) -> str:
        """What tells one use of the step from another. The steps that it needs are done."""
        needed = {name: [run.record(name)["key"], run.result(name)] for name in self.needs}
        return hashlib.sha256(json.dumps([self.name, self.settings, needed], sort_keys=True).encode()).hexdigest()


def do_steps(run: Run, steps: Sequence[Step], say: Callable[[str], None]) -> bool:
    """Do what is left of a run; whether all steps passed. After one that did not, no more are done."""
    results: dict[str, dict[str, Any]] = {}
    for number, step in enumerate(steps, 1):
        key, state = step.key(run), _state(run, step)
        title = f"step {number} of {len(steps)}, {step.name}"
        if state == _IS_DONE:
            say(f"{title}: is done")
        else:
            say(f"{title}: {'goes on where it was cut off' if state == _TO_GO_ON else 'begins'}")
            _do(run, step, key, results, fresh=state != _TO_GO_ON)
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
    """What `do_steps` would do with each step: nothing (it is done), go on with it, do it anew as it does always, or do it. One whose
    inputs are done anew is to do: they may be others."""
    found: dict[str, str] = {}
    for step in steps:
        known = all(found[name] == _IS_DONE for name in step.needs)
        found[step.name] = _state(run, step) if known else _TO_DO
    return found


def _state(run: Run, step: Step) -> str:
    """How far a step is, whose needs are done."""
    record = run.record(step.name)
    if record.get("key") != step.key(run):
        return _TO_DO
    if record["status"] != DONE:
        return _TO_GO_ON
    return _ANEW if step.always else _IS_DONE


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
