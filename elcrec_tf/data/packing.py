"""Packing: a fixed layout of places for several histories in rows of one length, so that little is padding and shapes are few."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Packing:
    """Where each slot (the place of one history) lies.

    slot: int32 `[rows, length]`, the slot that a cell belongs to; the number of slots where it belongs to none.
    distance: int32 `[rows, length]`, cells from a cell to its slot's last one, where the latest item stands.
    last: int32 `[slots]`, number of each slot's last cell, counted row by row.
    """

    slot: np.ndarray
    distance: np.ndarray
    last: np.ndarray


def pack(capacities: np.ndarray, length: int) -> Packing:
    """Lay out slots of the given capacities (1 to `length` cells each) in as few rows as best-fit decreasing finds."""
    rows_with_room: dict[int, list[int]] = {}  # free cells -> rows
    used: list[int] = []  # cells used in each row
    place = np.zeros((len(capacities), 2), np.int64)  # row and first cell of each slot
    for slot in np.argsort(-capacities, kind="stable"):
        size = int(capacities[slot])
        room = next((free for free in range(size, length) if rows_with_room.get(free)), None)
        if room is None:
            row, room = len(used), length
            used.append(0)
        else:
            row = rows_with_room[room].pop()
        place[slot] = row, used[row]
        used[row] += size
        rows_with_room.setdefault(room - size, []).append(row)
    layout = np.full((len(used), length), len(capacities), np.int32)
    distance = np.zeros_like(layout)
    for slot, (row, start) in enumerate(place):
        size = int(capacities[slot])
        layout[row, start : start + size] = slot
        distance[row, start : start + size] = np.arange(size)[::-1]
    return Packing(layout, distance, (place[:, 0] * length + place[:, 1] + capacities - 1).astype(np.int32))
