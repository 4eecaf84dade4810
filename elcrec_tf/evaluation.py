"""Leave-one-out evaluation: ranks of the held-out items over the whole catalogue, for the model and for simple scores."""

import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from elcrec_tf.data.pipeline import RankingData, ranking_batches
from elcrec_tf.data.shards import AnySequences
from elcrec_tf.model import ELCRec
from elcrec_tf.ranking import exclude_items, ranking_metrics, target_ranks


class Ranker(keras.Model):
    """Scores a batch, excludes the whole history and ranks the target, on device (compiled once, by `predict`).

    Call arguments:
        inputs: dict of `history` (prepared), `exclude` (whole history) and `target`, as `ranking_batches` makes them.

    Returns:
        dict of `rank`, `intent` (the nearest centre) and `target`, `[batch]` int32 each.
    """

    def __init__(self, model: ELCRec, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = model

    def call(self, inputs: dict[str, Any]) -> dict[str, Any]:
        outputs = self.model.latest(inputs["history"])
        scores = exclude_items(ops.cast(self.model.scores_of(outputs["user"], inputs["history"]), "float32"), inputs["exclude"])
        return {
            "rank": target_ranks(scores, inputs["target"]),
            "intent": ops.cast(ops.argmax(outputs["intents"], axis=-1), "int32"),
            "target": inputs["target"],
        }

    def rank(self, data: RankingData) -> dict[str, np.ndarray]:
        """What `call` gives but for the target, of every user who has one, in the order of the users."""
        with warnings.catch_warnings():
            # How many batches the users of shards make is known when they have been read.
            warnings.filterwarnings("ignore", "Your input ran out of data")
            outputs = self.predict(data.dataset, verbose=0)
        target = outputs.pop("target")
        return dict(zip(outputs, data.in_order(target, *outputs.values()), strict=True))


def output_model(model: ELCRec, *names: str) -> keras.Model:
    """A model with only the named outputs of `model`, to `predict` with."""
    return keras.Model(model.inputs, {name: model.output[name] for name in names})


def evaluate_model(model: ELCRec, sequences: AnySequences, split: str, batch_size: int = 256) -> dict[str, float]:
    """HR@K, NDCG@K and MRR of a split, `"validation"` or `"test"`."""
    data = ranking_batches(sequences, split, batch_size, model.encoder.max_length)
    return ranking_metrics(Ranker(model).rank(data)["rank"])


def popularity_ranks(sequences: AnySequences, split: str, batch_size: int = 256) -> np.ndarray:
    """Ranks when items are ordered by their number of events in the training part, `[users]`."""
    counts = np.concatenate([[0], sequences.catalog.counts]).astype(np.float32)
    return score_ranks(sequences, split, lambda latest: np.broadcast_to(counts, (len(latest), len(counts))), batch_size)


def score_ranks(sequences: AnySequences, split: str, scores: Callable[[np.ndarray], np.ndarray], batch_size: int = 256) -> np.ndarray:
    """Ranks under scores that look at no more than a history's latest item, `[users]`, by the protocol of `Ranker`.

    Args:
        sequences: all users.
        split: `"validation"` or `"test"`.
        scores: gives the scores `[batch, num_items + 1]` (column 0 means nothing) of latest items `[batch]`; 0 where there is none.
        batch_size: users a batch.
    """
    data = ranking_batches(sequences, split, batch_size, max_length=1)
    ranks, targets = [], []
    for batch in data.dataset.as_numpy_iterator():
        rest = exclude_items(scores(batch["history"][:, -1]), batch["exclude"])
        ranks.append(ops.convert_to_numpy(target_ranks(rest, batch["target"])))
        targets.append(batch["target"])
    return data.in_order(np.concatenate(targets), np.concatenate(ranks))[0]
