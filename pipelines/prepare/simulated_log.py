"""A raw log as services write it: simulated events in CSV files, out of order, with repeated and bad rows. For measuring."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from elcrec_tf.config import SimulatorConfig
from elcrec_tf.data.simulate import simulate
from elcrec_tf.files import atomic_path

_USERS = 50_000  # simulated at a time: bounds the memory
_EVENTS_A_USER = 16.0
_FILES = 8
_REPEATED, _BAD = 0.01, 0.005


def write_log(folder: Path, events: int, items: int = 20_000, seed: int = 0) -> int:
    """Write about `events` rows to `part-0.csv` ... in a new folder; the number of rows.

    Users come in groups of their own worlds (each with its own simulated intents over the same items). A group's rows are shuffled and
    spread over all files, so that the events of a user lie in many places; one in a hundred rows is there twice, one in two hundred is
    bad: no user, or a word for a time.
    """
    rows, group = 0, 0
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        files = [(temporary / f"part-{number}.csv").open("wb") for number in range(_FILES)]
        try:
            for file in files:
                file.write(b"user,item,timestamp\n")
            while rows < events:
                users = min(_USERS, int((events - rows) / _EVENTS_A_USER) + 1)
                lines = _lines(SimulatorConfig(sim_users=users, sim_items=items, sim_events=_EVENTS_A_USER, sim_seed=seed + group), group)
                for number, file in enumerate(files):
                    _write(file, lines.take(np.arange(number, len(lines), _FILES)))
                rows, group = rows + len(lines), group + 1
        finally:
            for file in files:
                file.close()
    return rows


def _lines(config: SimulatorConfig, group: int) -> pa.Table:
    """The rows of one group of users, in any order."""
    rng = np.random.default_rng([config.sim_seed, 7])
    sequences = simulate(config)
    events = np.arange(sequences.num_events)
    events = rng.permutation(np.concatenate([events, rng.choice(events, int(_REPEATED * len(events)))]))
    user = np.repeat(np.arange(sequences.num_users), np.diff(sequences.offsets))[events]
    assert sequences.timestamps is not None
    times = sequences.timestamps[events].astype(str).astype(object)
    bad = rng.random(len(events))
    names = np.array([f"{group}-{number}" for number in range(sequences.num_users)], dtype=object)[user]
    names[bad < _BAD / 2] = ""
    times[(bad >= _BAD / 2) & (bad < _BAD)] = "unknown"
    return pa.table({"user": names, "item": sequences.catalog.ids[sequences.items[events] - 1], "timestamp": times})


def _write(file: object, lines: pa.Table) -> None:
    options = pyarrow.csv.WriteOptions(include_header=False, quoting_style="none")
    pyarrow.csv.write_csv(lines, file, options)
