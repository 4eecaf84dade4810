"""Reads the behaviours file of the MIND news data set: a line an impression, with what the user had clicked before and clicks now."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np

from elcrec_tf.data.events import Events, to_sequences
from elcrec_tf.data.sequences import Sequences
from elcrec_tf.data.tables import decode_line
from elcrec_tf.errors import UserError

FIELDS = ("impression id", "user", "time", "history", "impressions")
"""Fields of a line, separated by tabs."""

_TIME = "%m/%d/%Y %I:%M:%S %p"
_CLICKED, _SHOWN = "-1", "-0"


@dataclass
class _User:
    """What the lines of a user say: the history of the earliest impression, and the clicks of all."""

    first: datetime
    history: list[str]
    clicks: list[tuple[datetime, list[str]]] = field(default_factory=list)


def read_mind(path: Path, name: str, k_core: int) -> Sequences:
    """Read a behaviours file: `read_mind_events`, then the k-core. The result has no timestamps.

    Args:
        path: `behaviors.tsv` of MIND, or a file like it.
        name: the name of the result.
        k_core: see `DataConfig.k_core`.

    Raises:
        UserError: as `read_mind_events`, and when nothing is left after the k-core.
    """
    return to_sequences(read_mind_events(path), name, k_core)


def read_mind_events(path: Path) -> Events:
    """Read all clicks of a behaviours file (https://msnews.github.io, Wu et al., ACL 2020).

    A user's sequence is the history of the earliest impression, whose clicks have an order and no times, then the news clicked in
    each impression, by time. Later histories repeat what is known already. News that was shown and not clicked is counted in `dropped`.

    Raises:
        UserError: with line and field, for broken encoding, another number of fields, a user that is missing, a time or an impression
            that cannot be read, and impressions without labels (as in MIND's test part); for a file without a click.
    """
    users: dict[str, _User] = {}
    skipped = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                text = decode_line(path, number, line).rstrip("\r\n")
                if text.strip():
                    skipped += _add_line(users, path, number, text.split("\t"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    histories = {user: _sequence(one) for user, one in users.items()}
    histories = {user: news for user, news in histories.items() if news}
    if not histories:
        raise UserError(f"{path}: holds no click; give the behaviors.tsv of MIND's training or validation part")
    code_of_item: dict[str, int] = {}
    items = [code_of_item.setdefault(news, len(code_of_item)) for history in histories.values() for news in history]
    return Events(
        source=str(path),
        users=np.repeat(np.arange(len(histories)), [len(history) for history in histories.values()]),
        items=np.array(items, np.int32),
        user_ids=np.array(list(histories), dtype=object),
        item_ids=np.array(list(code_of_item), dtype=object),
        dropped={"items shown and not clicked": skipped} if skipped else {},
    )


def _add_line(users: dict[str, _User], path: Path, number: int, fields: list[str]) -> int:
    """Add a line to its user; how many of its impressions are no clicks."""
    if len(fields) != len(FIELDS):
        raise UserError(f"{path}, line {number}: has {len(fields)} fields separated by tabs; MIND has {len(FIELDS)}: {', '.join(FIELDS)}")
    _, user, time, history, impressions = (one.strip() for one in fields)
    if not user:
        raise _fault(path, number, 2, "is empty; each line needs its user")
    try:
        when = datetime.strptime(time, _TIME)
    except ValueError:
        raise _fault(path, number, 3, f"holds {time!r}; times look like 11/15/2019 9:55:12 AM") from None
    shown = impressions.split()
    for one in shown:
        if not one.endswith((_CLICKED, _SHOWN)) or len(one) == len(_CLICKED):
            raise _fault(path, number, 5, f"holds {one!r}; each impression should be a news id and -1 (clicked) or -0, as in N12-1")
    clicked = [one.removesuffix(_CLICKED) for one in shown if one.endswith(_CLICKED)]
    known = users.setdefault(user, _User(when, history.split()))
    if when < known.first:
        known.first, known.history = when, history.split()
    known.clicks.append((when, clicked))
    return len(shown) - len(clicked)


def _sequence(user: _User) -> list[str]:
    ordered = sorted(user.clicks, key=lambda impression: impression[0])  # stable: equal times stay in the order of the file
    return user.history + [news for _, clicked in ordered for news in clicked]


def _fault(path: Path, number: int, position: int, what: str) -> UserError:
    return UserError(f"{path}, line {number}, field {position} ({FIELDS[position - 1]}): {what}")
