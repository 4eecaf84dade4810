"""Reads "user item item ..." text: one user a line, the items oldest first, separated by white space."""

from __future__ import annotations

from array import array
from pathlib import Path

import numpy as np

from elcrec_tf.data.events import Events, to_sequences
from elcrec_tf.data.sequences import Sequences
from elcrec_tf.data.tables import decode_line
from elcrec_tf.errors import UserError


def read_sequence_file(path: Path, name: str, k_core: int) -> Sequences:
    """Read a sequence file: `read_sequence_events`, then the k-core. The result has no timestamps.

    Args:
        path: an existing UTF-8 file.
        name: the name of the result.
        k_core: see `DataConfig.k_core`.

    Raises:
        UserError: as `read_sequence_events`, and when nothing is left after the k-core.
    """
    return to_sequences(read_sequence_events(path), name, k_core)


def read_sequence_events(path: Path) -> Events:
    """Read all events of a sequence file.

    Items are numbered by their first appearance in the file, also where the ids are integers. Blank lines are skipped.

    Raises:
        UserError: with the line, for broken encoding, a user without items, a user who has two lines; for an empty file.
    """
    line_of_user: dict[str, int] = {}
    code_of_item: dict[str, int] = {}
    items, lengths = array("i"), array("q")  # 4 bytes an event while the file streams by
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                user, *history = decode_line(path, number, line).split() or [""]
                if not user:
                    continue
                _check_line(path, number, user, history, line_of_user)
                line_of_user[user] = number
                items.extend([code_of_item.setdefault(raw, len(code_of_item)) for raw in history])
                lengths.append(len(history))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if not lengths:
        raise UserError(f"{path}: is empty; each line should hold a user and the items of that user")
    return Events(
        source=str(path),
        users=np.repeat(np.arange(len(lengths)), np.frombuffer(lengths, np.int64)),
        items=np.frombuffer(items, np.int32),
        user_ids=np.array(list(line_of_user), dtype=object),
        item_ids=np.array(list(code_of_item), dtype=object),
    )


def _check_line(path: Path, number: int, user: str, history: list[str], line_of_user: dict[str, int]) -> None:
    if not history:
        raise UserError(f"{path}, line {number}: user {user!r} has no item; add items after the user, or remove the line")
    if user in line_of_user:
        lines = f"lines {line_of_user[user]} and {number}"
        raise UserError(f"{path}, {lines}: both belong to user {user!r}; put all items of a user on one line, oldest first")
