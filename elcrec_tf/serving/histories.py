"""Lists of raw ids as the signatures take them: checked, cut into batches, padded. Imports no TensorFlow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from numbers import Integral

import numpy as np

from elcrec_tf.errors import UserError

ItemId = str | int
Histories = Sequence[Iterable[ItemId]]

NARROWEST = 16
"""Fewest columns of a padded batch; wider ones have a power of two, so that a server sees few shapes."""


def texts(history: Iterable[ItemId]) -> list[str]:
    """Item ids as strings.

    Raises:
        UserError: for a text in place of a list, and for ids that are neither strings nor whole numbers.
    """
    if isinstance(history, str | bytes):
        raise UserError(f"a history should be a list of item ids. Received: {history!r}")
    history = list(history)
    for raw in history:
        if not isinstance(raw, str | Integral) or isinstance(raw, bool):
            raise UserError(f"item ids should be strings or whole numbers. Received: {raw!r}")
    return [str(raw) for raw in history]


def encode(ids: Iterable[str]) -> list[bytes]:
    """Ids as the signatures take them. Half a surrogate pair (a shell's broken bytes) has no UTF-8; this keeps it an unknown id."""
    return [raw.encode("utf-8", "surrogatepass") for raw in ids]


def decode(ids: np.ndarray) -> np.ndarray:
    """`[n, k]` bytes objects as str objects; each distinct id is decoded once.

    Raises:
        UnicodeDecodeError: for bytes that are not UTF-8; no catalogue has such an id.
    """
    decoded = {raw: raw.decode() for raw in set(ids.flat)}
    return np.array([decoded[raw] for raw in ids.flat], object).reshape(ids.shape)


def pad(lists: Sequence[Sequence[bytes]]) -> np.ndarray:
    """`[n, width]` bytes objects, padded on the right with `b""` to `padded_width` of the longest list."""
    batch = np.full((len(lists), padded_width(max(map(len, lists), default=0))), b"", object)
    for row, ids in zip(batch, lists, strict=True):
        row[: len(ids)] = ids
    return batch


def padded_width(longest: int) -> int:
    """The power of two, at least `NARROWEST`, that holds `longest` ids."""
    return max(NARROWEST, 1 << max(longest - 1, 0).bit_length())


def batches(columns: Sequence[Sequence[Sequence[bytes]]], most_rows: int, most_cells: int) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """Cut questions into padded batches, longest questions first.

    Neighbours in that order are about as long, so little is padding, and only a handful of widths occur.

    Args:
        columns: a list of encoded ids for each question, once for every input of the signature.
        most_rows: of a batch.
        most_cells: of a batch, all inputs together; a single question may have more.

    Yields:
        Positions of the batch's questions, and its inputs, `[rows, width]` bytes objects each.
    """
    lengths = np.array([[len(ids) for ids in column] for column in columns], int)
    order = np.argsort(-lengths.sum(axis=0), kind="stable")
    start = 0
    while start < len(order):
        positions = order[start : start + most_rows]
        width = sum(padded_width(int(longest)) for longest in lengths[:, positions].max(axis=1))
        positions = positions[: max(1, most_cells // width)]
        yield positions, [pad([column[position] for position in positions]) for column in columns]
        start += len(positions)
