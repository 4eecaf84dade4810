"""Asks an exported model in this process. Imports TensorFlow, and no Keras."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from elcrec_tf.data.catalog import Catalog
from elcrec_tf.errors import UserError
from elcrec_tf.serving.answers import Answers
from elcrec_tf.serving.histories import ItemId, batches, decode, encode, texts
from elcrec_tf.serving.layout import CATALOG, read_metadata, version_folder

# Bounds on a batch: rows, cells of the padded histories (strings of 24 bytes).
_ROWS = 256
_HISTORY_CELLS = 1 << 18


@dataclass(frozen=True)
class Recommendation:
    """One recommended item.

    Attributes:
        item_id: raw id.
        score: the model's score, comparable within one history only; under the popularity fallback the item's training events.
        title: its title, or None where the catalogue has none.
    """

    item_id: str
    score: float
    title: str | None = None


class Recommender:
    """An exported model, ready to be asked. Make it with `Recommender.load`; threads may share it.

    Attributes:
        folder: the version's folder.
        metadata: what the export says of itself (package version, config, data set, metrics).
        catalog: the items with their titles.
        top_k: the most recommendations that a question can have.

    Example:
        ```python
        recommender = Recommender.load("saved_models/beauty")
        for item in recommender.recommend([["12", "7"]], k=5)[0]:
            print(item.item_id, item.title, item.score)
        ```
    """

    def __init__(self, folder: Path, metadata: dict[str, Any], catalog: Catalog, loaded: Any) -> None:
        self.folder = folder
        self.metadata = metadata
        self.catalog = catalog
        self.top_k = int(metadata["top_k"])
        self._loaded = loaded  # holds the variables that the signatures read

    @property
    def titles(self) -> Mapping[str, str]:
        """The catalogue's titles by item id."""
        return self.catalog.titles

    @staticmethod
    def load(directory: str | Path) -> Recommender:
        """Load an exported model.

        Args:
            directory: the model's folder, whose newest version is loaded, or the folder of one version.

        Raises:
            UserError: for a missing folder, one without a version, a SavedModel of another kind, or a broken one.
        """
        folder = version_folder(directory)
        metadata = read_metadata(folder)
        catalog = Catalog.load(folder / CATALOG)
        try:
            loaded = tf.saved_model.load(str(folder))
            missing = {"recommend", "recommend_with_history"} - set(loaded.signatures)
        except Exception as error:  # TensorFlow raises many kinds for a broken file
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"{folder}: is a broken SavedModel ({reason}); export the run again") from None
        if missing or catalog.num_items != metadata["num_items"]:
            raise UserError(f"{folder}: is not a whole elcrec_tf export; export the run again")
        return Recommender(folder, metadata, catalog, loaded)

    def recommend(self, histories: Sequence[Sequence[ItemId]], k: int = 10, include_history: bool = False) -> list[list[Recommendation]]:
        """The best items for each history.

        Args:
            histories: item ids, oldest first, whole numbers or strings; of any length. Unknown ids are ignored. A history without a
                known id gets the most popular items.
            k: recommendations a history, at most `top_k`.
            include_history: whether items of the history may be recommended again.

        Returns:
            A list a history, best first; shorter than `k` where fewer items are left.

        Raises:
            UserError: for `k` out of bounds, or ids of another type.
        """
        answers = self.answer(histories, k, include_history)
        titles = self.titles
        return [
            [Recommendation(raw, float(score), titles.get(raw)) for raw, score in zip(ids, scores, strict=True) if raw]
            for ids, scores in zip(answers.item_ids, answers.scores, strict=True)
        ]

    def answer(self, histories: Sequence[Sequence[ItemId]], k: int = 10, include_history: bool = False) -> Answers:
        """As `recommend`, as arrays, with each history's intent and whether the fallback answered."""
        self.check_k(k)
        checked = [texts(history) for history in histories]
        signature = self._loaded.signatures["recommend_with_history" if include_history else "recommend"]
        answers = Answers.blank(len(checked), k)
        for positions, batch in _batches(checked):
            outputs = {name: value.numpy() for name, value in signature(history=tf.constant(batch, tf.string)).items()}
            answers.item_ids[positions] = decode(outputs["item_ids"][:, :k])
            answers.scores[positions] = outputs["scores"][:, :k]
            answers.intent[positions] = outputs["intent"]
            answers.fallback[positions] = outputs["fallback"]
        return answers

    def check_k(self, k: int) -> None:
        """Raise `UserError` unless `k` is between 1 and `top_k`."""
        if not 1 <= k <= self.top_k:
            more = "" if self.top_k == self.catalog.num_items else "; export the run again with a larger --top-k for more"
            raise UserError(f"k should be from 1 to {self.top_k}, which is what {self.folder} answers. Received: {k}{more}")

    def known(self, ids: Iterable[ItemId]) -> np.ndarray:
        """`[ids]` bool: which ids are in the catalogue."""
        return self.catalog.index(texts(ids)) > 0


def _batches(histories: list[list[str]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (positions, `[batch, width]` bytes objects), longest histories first."""
    for positions, (batch,) in batches([[encode(history) for history in histories]], _ROWS, _HISTORY_CELLS):
        yield positions, batch
