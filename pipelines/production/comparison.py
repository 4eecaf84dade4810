"""The new model's export against the model that is served, against popularity, and against the new model itself.

Both exports are asked as users ask them: raw ids in, the best items out, for the same users' histories up to their validation event.
An item that a model does not know is one that it cannot recommend: a miss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops

from elcrec_tf.data.catalog import Catalog
from elcrec_tf.data.history import prepare_history
from elcrec_tf.data.sequences import Sequences
from elcrec_tf.data.shard_stream import users_of
from elcrec_tf.data.shards import AnySequences
from elcrec_tf.data.splits import holdout_positions
from elcrec_tf.model import ELCRec
from elcrec_tf.ranking import exclude_items, ranking_metrics
from elcrec_tf.serving.recommender import Recommender

ANSWERS = 20
"""Items asked for: as many as the metrics look at."""
_PARITY_USERS = 200
_CELLS = 1 << 24  # scores that are held at a time
_VALIDATION = 1  # place of the validation target among the positions of a user in shards


@dataclass(frozen=True, eq=False)
class Questions:
    """Users' histories before their validation event, and the item of that event: raw ids."""

    histories: list[list[str]]
    targets: np.ndarray

    @staticmethod
    def of(sequences: AnySequences, most: int, seed: int = 0) -> Questions:
        """The users' questions, or those of a random sample."""
        rows = _of_memory(sequences, most, seed) if isinstance(sequences, Sequences) else _of_shards(sequences, most)
        raw = sequences.catalog.raw
        return Questions([raw(history) for history, _ in rows], np.array(raw(target for _, target in rows), object))

    def first(self, count: int) -> Questions:
        return Questions(self.histories[:count], self.targets[:count])


def _of_memory(sequences: Sequences, most: int, seed: int) -> list[tuple[np.ndarray, int]]:
    stops = holdout_positions(sequences, "validation")
    users = np.random.default_rng(seed).permutation(len(stops))[:most]
    starts = sequences.offsets
    return [(sequences.items[starts[user] : stops[user]], sequences.items[stops[user]]) for user in users]


def _of_shards(sequences: Any, most: int) -> list[tuple[np.ndarray, int]]:
    """Users stand in their files by hash, so the first ones are a random sample."""
    users = users_of(sequences, sequences.files()).filter(lambda user: user["positions"][_VALIDATION] > 0).take(most)
    found = ((user["items"], int(user["positions"][_VALIDATION])) for user in users.as_numpy_iterator())
    return [(items[:stop], items[stop]) for items, stop in found]


def compare(model: ELCRec, export: Recommender, serving: Recommender | None, questions: Questions, metric: str) -> dict[str, Any]:
    """What `gate.model_checks` takes.

    Args:
        model: the new model.
        export: its export.
        serving: the model that is served, if any.
        questions: of the new data.
        metric: of which differences are told.

    Returns:
        `users`: number of questions. `new`, `popularity`: metrics. `serving`: None, or for `all` questions, and for those whose item the
        serving model knows (`known`): `new` and `old`, the metric of both, `error`, the standard error of the difference over the users,
        and `users`. `parity`: see `parity`.
    """
    k = min(ANSWERS, *(one.top_k for one in (export, serving) if one))
    new = served_ranks(export, questions, k)
    popular = popular_ranks(export.catalog, questions)
    found: dict[str, Any] = {
        "users": len(questions.targets),
        "new": ranking_metrics(new),
        "popularity": ranking_metrics(np.where(popular < k, popular, np.inf)),  # as far down as the models answer
        "serving": None,
        "parity": parity(model, export, questions.first(_PARITY_USERS), k),
    }
    if serving is not None:
        old, known = served_ranks(serving, questions, k), serving.known(questions.targets)
        everyone = np.ones(len(known), bool)
        parts = (("all", everyone), ("known", known))
        found["serving"] = {name: _difference(new[part], old[part], metric) for name, part in parts}
    return found


def served_ranks(recommender: Recommender, questions: Questions, k: int) -> np.ndarray:
    """`[users]` place of each target among the `k` items that an export answers, 0 = best; infinite where it is not among them."""
    hits = recommender.answer(questions.histories, k).item_ids == questions.targets[:, None]
    return np.where(hits.any(axis=1), hits.argmax(axis=1), np.inf)


def popular_ranks(catalog: Catalog, questions: Questions) -> np.ndarray:
    """`[users]` place of each target among all items by their number of events, without the history; ties count against it."""
    rising = np.sort(catalog.counts)
    counts = np.concatenate([[0], catalog.counts])
    ranks = []
    for history, target in zip(questions.histories, questions.targets, strict=True):
        own = counts[catalog.index([target])[0]]
        as_popular = len(rising) - np.searchsorted(rising, own) - 1
        seen = int(np.sum(counts[catalog.index(set(history))] >= own))
        ranks.append(np.inf if target in history else as_popular - seen)
    return np.array(ranks, np.float64)


def parity(model: ELCRec, export: Recommender, questions: Questions, k: int) -> dict[str, Any]:
    """Whether an export answers what its model would.

    Returns:
        `users`, their number; `score_difference`, the largest one between an answered score and the model's own, for the same item and
        for the same place (None where one is missing); `other_items`, how many answered items are not the model's own choice and no tie
        with it either.
    """
    rows = max(1, _CELLS // (export.catalog.num_items + 1))
    gaps, others = [np.zeros(1)], 0
    for start in range(0, len(questions.targets), rows):
        histories = questions.histories[start : start + rows]
        answers = export.answer(histories, k)
        scores = _own_scores(model, export.catalog, histories)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        answered = np.array([export.catalog.index(row) for row in answers.item_ids])
        own, expected = (np.take_along_axis(scores, items, axis=1) for items in (answered, best))
        there = answered > 0
        gaps += [np.abs(answers.scores[there] - model_scores[there]) for model_scores in (own, expected)]
        ties = np.isclose(own, expected, rtol=1e-5, atol=1e-5)
        others += int(np.sum(there & (answered != best) & ~ties) + np.sum(~there & np.isfinite(expected)))
    largest = float(np.concatenate(gaps).max())
    return {
        "users": len(questions.targets),
        "score_difference": largest if np.isfinite(largest) else None,
        "other_items": others,
    }


def _own_scores(model: ELCRec, catalog: Catalog, histories: list[list[str]]) -> np.ndarray:
    """`[users, items + 1]` the model's scores; -inf for padding and the items of the histories."""
    index = [catalog.index(history) for history in histories]
    width = max(map(len, index))
    padded = np.stack([np.pad(row, (width - len(row), 0)) for row in index]).astype(np.int32)
    history = prepare_history(tf.constant(padded), model.encoder.max_length)
    scores = model.scores_of(model.latest(history)["user"], history)
    return ops.convert_to_numpy(exclude_items(ops.cast(scores, "float32"), padded))


def _difference(new: np.ndarray, old: np.ndarray, metric: str) -> dict[str, Any]:
    gains = [_gains(ranks, metric) for ranks in (new, old)]
    error = float(np.std(gains[0] - gains[1]) / np.sqrt(len(new))) if len(new) else 0.0
    means = {name: ranking_metrics(ranks)[metric] for name, ranks in (("new", new), ("old", old))}
    return {**means, "error": error, "users": len(new)}


def _gains(ranks: np.ndarray, metric: str) -> np.ndarray:
    """`[users]` what each user brings to a metric: the metric of that user alone."""
    distinct, place = np.unique(ranks, return_inverse=True)
    return np.array([ranking_metrics(rank)[metric] for rank in distinct[:, None]])[place]
