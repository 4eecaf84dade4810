"""The events of the next days as questions to a model, and the ranks that it gives their items."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from elcrec_tf.data.catalog import Catalog
from elcrec_tf.data.drifting import DailyLog
from elcrec_tf.data.pipeline import ranking_batches
from elcrec_tf.data.sequences import Sequences
from elcrec_tf.evaluation import Ranker
from elcrec_tf.model import ELCRec
from elcrec_tf.padding import PADDING
from elcrec_tf.ranking import ranking_metrics

GROUPS = ("all", "old users", "new users", "old items", "new items")


@dataclass(frozen=True, eq=False)
class Questions:
    """Some days' events of users who have a history: which item comes, after all that the user did before, these days included?

    Attributes:
        items: `[n]` raw ids of all events of these users, each user's in the order of time.
        windows: int64 `[questions, 2]`: the history is `items[start:stop]`, the target `items[stop]`.
        groups: bool `[questions]` by name of `GROUPS`. Old users and items have events in the first model's data. Cold targets, which have
            no event before these days, are in none of the groups.
        cold, first: how many events have a cold target, and how many are a user's first (no question).
    """

    items: np.ndarray
    windows: np.ndarray
    groups: dict[str, np.ndarray]
    cold: int
    first: int

    @staticmethod
    def of(log: DailyLog, day: int, last: int, first_update: int) -> Questions:
        """The questions of the days from `day` to `last`; the first model's data ends before the day `first_update`."""
        log = log.between(0, last)
        order = np.lexsort((log.times, log.users))
        users, items, days = log.users[order], log.items[order], log.days[order]
        starts = np.searchsorted(users, users)
        events = np.flatnonzero(days >= day)
        asked = events[starts[events] < events]
        before, beginning = days < day, days < first_update
        warm = np.isin(items[asked], items[before])
        old_user = np.isin(users[asked], users[beginning])
        old_item = np.isin(items[asked], items[beginning])
        groups = (warm, warm & old_user, warm & ~old_user, old_item, warm & ~old_item)
        windows = np.stack([starts[asked], asked], axis=1)
        names = log.item_names()[order]
        return Questions(names, windows, dict(zip(GROUPS, groups, strict=True)), int(np.sum(~warm)), len(events) - len(asked))

    def ranks(self, model: ELCRec, catalog: Catalog) -> np.ndarray:
        """`[questions]` rank of each target over the model's catalogue without the history, 0 = best; infinite for an item that the model
        does not know, and where it knows nothing of the history."""
        index = catalog.index(self.items)
        known = index != PADDING
        before = np.concatenate([[0], np.cumsum(known)])
        lengths = before[self.windows[:, 1]] - before[self.windows[:, 0]]
        askable = known[self.windows[:, 1]] & (lengths > 0)
        ranks = np.full(len(self.windows), np.inf)
        if askable.any():
            histories = [index[start : stop + 1][known[start : stop + 1]] for start, stop in self.windows[askable]]
            ranks[askable] = _ranks(model, catalog, histories)
        return ranks

    def metrics(self, ranks: np.ndarray) -> dict[str, dict[str, Any]]:
        """The metrics of each group, and `questions`, their number."""
        return {name: {"questions": int(group.sum()), **ranking_metrics(ranks[group])} for name, group in self.groups.items()}


def _ranks(model: ELCRec, catalog: Catalog, histories: list[np.ndarray]) -> np.ndarray:
    """Ranks of the last item of each history."""
    offsets = np.concatenate([[0], np.cumsum([len(history) for history in histories])])
    numbers = np.arange(len(histories)).astype(str).astype(object)
    sequences = Sequences("questions", numbers, np.concatenate(histories), offsets, catalog)
    return Ranker(model).rank(ranking_batches(sequences, "test", 256, model.encoder.max_length))["rank"]
