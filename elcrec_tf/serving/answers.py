"""What an exported model answers, as arrays. Each class has the outputs of a signature as its fields. Imports no TensorFlow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from elcrec_tf.serving.histories import ItemId


@dataclass(frozen=True, eq=False)
class Answers:
    """The exported model's answers to `n` histories, as arrays.

    Attributes:
        item_ids: `[n, k]` str objects, best first; `""` where nothing is left to recommend.
        scores: `[n, k]` float32; -inf where there is no item.
        intent: `[n]` int32 index of the history's latent intent; -1 under the fallback.
        fallback: `[n]` bool, True where no item of the history is known and popularity answers.
    """

    item_ids: np.ndarray
    scores: np.ndarray
    intent: np.ndarray
    fallback: np.ndarray

    @staticmethod
    def blank(rows: int, k: int) -> Answers:
        """Answers without any item, to be filled."""
        return Answers(
            item_ids=np.full((rows, k), "", object),
            scores=np.full((rows, k), -np.inf, np.float32),
            intent=np.full(rows, -1, np.int32),
            fallback=np.ones(rows, bool),
        )


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of given candidates for `n` histories.

    Attributes:
        scores: `[n, c]` float32, a column a candidate in the order given; -inf for an unknown one, and beyond the end of a shorter list.
        fallback: `[n]` bool, True where no item of the history is known and the scores are popularity.
    """

    scores: np.ndarray
    fallback: np.ndarray


@dataclass(frozen=True, eq=False)
class Embeddings:
    """The model's states after `n` histories.

    Attributes:
        embedding: `[n, d]` float32.
        fallback: `[n]` bool, True where no item of the history is known.
    """

    embedding: np.ndarray
    fallback: np.ndarray


@dataclass(frozen=True, eq=False)
class Intents:
    """The most probable latent intents of `n` histories.

    Attributes:
        intents: `[n, m]` int32 indices, most probable first.
        probabilities: `[n, m]` float32.
        fallback: `[n]` bool, True where no item of the history is known.
    """

    intents: np.ndarray
    probabilities: np.ndarray
    fallback: np.ndarray


@dataclass(frozen=True, eq=False)
class Items:
    """Items that go with `n` items or intents.

    Attributes:
        item_ids: `[n, k]` str objects, best first; `""` where nothing is left.
        scores: `[n, k]` float32; -inf where there is no item.
        fallback: `[n]` bool, True where the item or intent is unknown and popularity answers.
    """

    item_ids: np.ndarray
    scores: np.ndarray
    fallback: np.ndarray


class AnyRecommender(Protocol):
    """What the `recommend` command needs of an exported model, in this process (`Recommender`) or on a server (`RemoteRecommender`)."""

    @property
    def top_k(self) -> int:
        """The most recommendations that a question can have."""

    @property
    def titles(self) -> Mapping[str, str]:
        """Titles by item id, where they are known."""

    def check_k(self, k: int) -> None:
        """Raise `UserError` unless `k` is between 1 and `top_k`."""

    def answer(self, histories: Sequence[Sequence[ItemId]], k: int = 10, include_history: bool = False) -> Answers:
        """The `k` best items for each history."""

    def known(self, ids: Iterable[ItemId]) -> np.ndarray:
        """`[ids]` bool: which ids are in the catalogue."""
