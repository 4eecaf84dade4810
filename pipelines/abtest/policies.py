"""Who recommends: an exported model, and the two that need none and bound what a model can reach."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from elcrec_tf.data.oracle import Oracle
from elcrec_tf.data.sequences import Sequences
from elcrec_tf.padding import PADDING
from pipelines.abtest.world import World

if TYPE_CHECKING:
    from elcrec_tf.serving.recommender import Recommender

Policy = Callable[[Sequence[Sequence[int]]], np.ndarray]
"""Histories (item indices, oldest first) -> int32 `[n, width]` item indices that they do not hold, best first; 0 where none is left."""


def saved_model(recommender: Recommender, width: int) -> Policy:
    """The answers of an exported model's signature `recommend`."""
    catalog = recommender.catalog

    def policy(histories: Sequence[Sequence[int]]) -> np.ndarray:
        answers = recommender.answer([catalog.raw(history) for history in histories], width)
        return catalog.index(answers.item_ids.ravel()).reshape(answers.item_ids.shape)

    return policy


def popularity(world: World, width: int) -> Policy:
    """The most popular items of the training data, the same for all but for what they have."""
    ranked = np.argsort(-world.catalog.counts, kind="stable").astype(np.int32) + 1

    def policy(histories: Sequence[Sequence[int]]) -> np.ndarray:
        best = np.full((len(histories), width), PADDING, np.int32)
        for row, history in zip(best, histories, strict=True):
            first = ranked[: width + len(history)]
            unseen = first[~np.isin(first, history)][:width]
            row[: len(unseen)] = unseen
        return best

    return policy


def oracle(world: World, width: int) -> Policy:
    """What is likeliest to come next by the simulator's own law, given the history: no model can know more."""
    generator = Oracle(world.config)

    def policy(histories: Sequence[Sequence[int]]) -> np.ndarray:
        offsets = np.concatenate([[0], np.cumsum([len(history) for history in histories])]).astype(np.int64)
        items = np.array([item for history in histories for item in history], np.int32)
        users = np.array([""] * len(histories), object)
        # Without drift, which the oracle demands, times mean nothing.
        return generator.best_items(Sequences("visitors", users, items, offsets, world.catalog, np.zeros(len(items))), width)

    return policy
