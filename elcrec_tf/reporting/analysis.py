"""What a run's model does with its data set: ranks, recommendations and intents of every user, and the intents themselves."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from elcrec_tf import cli
from elcrec_tf.data.pipeline import ranking_batches
from elcrec_tf.errors import UserError
from elcrec_tf.evaluation import Ranker, popularity_ranks
from elcrec_tf.model import ELCRec
from elcrec_tf.padding import PADDING
from elcrec_tf.ranking import exclude_items, ranking_metrics, target_ranks
from elcrec_tf.reporting.loading import Run

RECOMMENDATIONS = 10
_TYPICAL_ITEMS = 5
_TOP_INTENTS = 3
_SCORES = 1 << 25  # of a batch
_TOLERANCE = 0.005  # between two machines' ranks of the same model


@dataclass(frozen=True, eq=False)
class Analysis:
    """Arrays of a run on its test split, users in the order of the data set.

    Attributes:
        ranks: `[users]` rank of the target, 0 = best.
        popularity: `[users]` its rank by popularity.
        items: `[users, 10]` recommended item indices, best first; 0 where nothing is left to recommend.
        intents: `[users, m]` the nearest intents, nearest first.
        cosines: `[users, m]` their cosine with the user.
        centers: `[num_clusters, size]` unit vectors.
        typical: `[num_clusters, n]` indices of the items that a user exactly at a centre would be recommended.
    """

    ranks: np.ndarray
    popularity: np.ndarray
    items: np.ndarray
    intents: np.ndarray
    cosines: np.ndarray
    centers: np.ndarray
    typical: np.ndarray

    @property
    def intent_sizes(self) -> np.ndarray:
        """`[num_clusters]` users whose nearest intent each is."""
        return np.bincount(self.intents[:, 0], minlength=len(self.centers))


class Answers(Ranker):
    """A `Ranker` that also gives the best items, and the nearest intents with their cosines."""

    def call(self, inputs: dict[str, Any]) -> dict[str, Any]:
        outputs = self.model.latest(inputs["history"])
        scores = exclude_items(ops.cast(self.model.scores_of(outputs["user"], inputs["history"]), "float32"), inputs["exclude"])
        best, items = ops.top_k(scores, min(RECOMMENDATIONS, self.model.item_embedding.num_items))
        cosines, intents = ops.top_k(outputs["intents"], min(_TOP_INTENTS, self.model.cluster_centers.num_clusters))
        return {
            "rank": target_ranks(scores, inputs["target"]),
            "items": ops.where(best > -float("inf"), items, PADDING),
            "intents": intents,
            "cosines": cosines,
            "target": inputs["target"],
        }


def analyse(run: Run, model: ELCRec) -> Analysis:
    """Ask the run's model for every user of the test split.

    Raises:
        UserError: when the model is not the one that metrics.json tells of.
    """
    config, sequences = run.config, run.sequences
    # Scores of all items at once: fewer users a batch where there are many items.
    size = max(1, min(config.train.eval_batch_size, _SCORES // model.item_embedding.num_items))
    data = ranking_batches(sequences, "test", size, config.model.max_length)
    answers = Answers(model).rank(data)
    check_metrics(run, answers["rank"])
    return Analysis(
        ranks=answers["rank"],
        popularity=popularity_ranks(sequences, "test", config.train.eval_batch_size),
        items=answers["items"],
        intents=answers["intents"],
        cosines=answers["cosines"],
        centers=np.asarray(ops.convert_to_numpy(model.cluster_centers.centers)),
        typical=_typical_items(model),
    )


def check_metrics(run: Run, ranks: np.ndarray) -> None:
    """Raise `UserError` when test ranks differ from those that metrics.json was made of, by more than another machine's rounding."""
    for name, value in ranking_metrics(ranks).items():
        written = run.metrics["test"].get(name)
        if written is None or abs(written - value) > _TOLERANCE:
            evaluate = f"{cli.command('evaluate')} {shlex.quote(run.path)}"
            raise UserError(f"{run.folder.metrics_file}: test {name} is {written}, the model's is {value:.4f}; evaluate again: {evaluate}")


def _typical_items(model: ELCRec) -> np.ndarray:
    """The same items that the signature `intent_items` of an exported model gives first."""
    scores = model.scores_of(ops.convert_to_tensor(model.cluster_centers.centers))
    candidates = ops.cast(scores, "float32")[:, PADDING + 1 :]
    _, index = ops.top_k(candidates, min(_TYPICAL_ITEMS, candidates.shape[1]))
    return ops.convert_to_numpy(index) + PADDING + 1
