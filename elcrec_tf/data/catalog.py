"""The catalogue: raw item ids and their indices. Index 0 is padding and belongs to no item."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from elcrec_tf.errors import UserError
from elcrec_tf.files import atomic_path
from elcrec_tf.padding import PADDING


class Catalog:
    """Maps raw item ids (strings) to the indices 1 to `num_items`, and back.

    Args:
        ids: raw ids; the i-th one (from 0) has index i + 1. They should be unique.
        counts: events of each item in the training part, `[num_items]` (the popularity fallback); zeros if None.
        titles: raw id -> title, for any of the items; others are shown by their id.
    """

    def __init__(self, ids: Iterable[str], counts: np.ndarray | None = None, titles: Mapping[str, str] | None = None):
        self.ids = np.asarray(list(ids), dtype=object)
        self.counts = np.zeros(len(self.ids), np.int64) if counts is None else np.asarray(counts, np.int64)
        self.titles = dict(titles or {})
        if len(self.counts) != len(self.ids):
            raise ValueError(f"`counts` should have one entry an item. Received: {len(self.counts)} for {len(self.ids)}")
        if len(self._index) != len(self.ids):
            raise ValueError("`ids` should be unique.")

    @cached_property
    def _index(self) -> dict[str, int]:
        return {raw: index for index, raw in enumerate(self.ids, start=1)}

    @property
    def num_items(self) -> int:
        return len(self.ids)

    def index(self, ids: Iterable[str]) -> np.ndarray:
        """int32 indices of raw ids; an unknown id gives 0 (padding)."""
        return np.fromiter((self._index.get(str(raw), PADDING) for raw in ids), np.int32)

    def raw(self, indices: Iterable[int]) -> list[str]:
        """Raw ids of indices 1 to `num_items`; padding gives the empty string."""
        return [self.ids[index - 1] if index != PADDING else "" for index in indices]

    def save(self, path: str | Path) -> None:
        """Write a Parquet file with the columns id, count, title (null where there is none), one row an item."""
        table = pa.table(
            {
                "id": pa.array(self.ids, pa.string()),
                "count": self.counts,
                "title": pa.array([self.titles.get(raw) for raw in self.ids], pa.string()),
            }
        )
        with atomic_path(path) as temporary:
            pq.write_table(table, temporary)

    @staticmethod
    def load(path: str | Path) -> Catalog:
        """Read what `save` wrote. Raises `UserError` when the file is missing or not a catalogue."""
        try:
            table = pq.read_table(path, columns=["id", "count", "title"])
        except (OSError, pa.ArrowInvalid, KeyError) as error:
            raise UserError(f"{path}: is not a catalogue that elcrec_tf wrote ({error})") from None
        ids = table["id"].to_pylist()
        titles = {raw: title for raw, title in zip(ids, table["title"].to_pylist(), strict=True) if title is not None}
        return Catalog(ids, table["count"].to_numpy(), titles)
