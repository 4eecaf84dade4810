"""Which worker of a training on several machines this process is, as TF_CONFIG says. Imports no TensorFlow."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass

from elcrec_tf.errors import UserError


@dataclass(frozen=True)
class Worker:
    """One of the processes that train together: its place `index`, counted from 0, among `count` of them. The first is the chief."""

    index: int
    count: int

    @property
    def chief(self) -> bool:
        """Whether this worker writes the run folder."""
        return self.index == 0


def this_worker(environment: Mapping[str, str] = os.environ) -> Worker | None:
    """The worker that TensorFlow's environment variable TF_CONFIG makes of this process; None where it names no cluster.

    TF_CONFIG is JSON: `{"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": "worker", "index": 0}}`. A cluster may have a
    `"chief"` besides; it then comes first.

    Raises:
        UserError: when TF_CONFIG is something else.
    """
    try:
        values = json.loads(environment.get("TF_CONFIG") or "{}")
        cluster = {kind: list(addresses) for kind, addresses in values.get("cluster", {}).items()}
        if not cluster:
            return None
        kind, index = values["task"]["type"], int(values["task"]["index"])
        if not isinstance(kind, str):
            raise TypeError(kind)
    except (ValueError, TypeError, AttributeError, KeyError):
        example = '{"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": "worker", "index": 0}}'
        raise UserError(f"TF_CONFIG: should be JSON of the form {example}. Received: {environment['TF_CONFIG']}") from None
    strange = sorted({kind, *cluster} - {"chief", "worker"})
    if strange:
        raise UserError(f'TF_CONFIG: tasks should be of the types "chief" and "worker". Received: {", ".join(strange)}')
    if not 0 <= index < len(cluster.get(kind, [])):
        raise UserError(f'TF_CONFIG: this task is "{kind}" {index}, but the cluster lists {len(cluster.get(kind, []))} of that type')
    chiefs = len(cluster.get("chief", []))
    if chiefs > 1:
        raise UserError(f"TF_CONFIG: the cluster should list at most one chief. Received: {chiefs}")
    before = chiefs if kind == "worker" else 0
    return Worker(before + index, chiefs + len(cluster.get("worker", [])))
