"""Leave-one-out evaluation: ranks of the held-out items over the whole catalogue, for the model and for simple scores."""

import warnings
from typing import Any

import keras
import numpy as np
from keras import ops
from scipy import sparse

from elcrec_tf.data.pipeline import RankingData, ranking_batches
from elcrec_tf.data.shards import AnySequences
from elcrec_tf.model import ELCRec
from elcrec_tf.padding import PADDING
from elcrec_tf.ranking import MOST_AT_ONCE, exclude_items, ranking_metrics, ranks_in_blocks, target_ranks


class Ranker(keras.Model):
    """Scores a batch, excludes the whole history and ranks the target, on device (compiled once, by `predict`).

    Large catalogues are scored in blocks of items, so that memory does not grow with them, unless a transition memory adds to the scores.

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
        return {
            "rank": self._ranks(outputs["user"], inputs),
            "intent": ops.cast(ops.argmax(outputs["intents"], axis=-1), "int32"),
            "target": inputs["target"],
        }

    def _ranks(self, user: Any, inputs: dict[str, Any]) -> Any:
        items, exclude, target = self.model.item_embedding, inputs["exclude"], inputs["target"]
        if items.num_items > MOST_AT_ONCE and self.model.transition_memory is None:
            return ranks_in_blocks(items.queries(user), target, exclude, items.keys_of, items.num_items)
        return target_ranks(exclude_items(ops.cast(self.model.scores_of(user, inputs["history"]), "float32"), exclude), target)

    def rank(self, data: RankingData) -> dict[str, np.ndarray]:
        """What `call` gives but for the target, of every user who has one, in the order of the users."""
        if data.empty:  # Keras' `predict` fails without a batch
            return {"rank": np.zeros(0, np.int32), "intent": np.zeros(0, np.int32)}
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
    return count_ranks(sequences, split, np.concatenate([[0], sequences.catalog.counts]), None, batch_size)


def count_ranks(
    sequences: AnySequences, split: str, scores: np.ndarray, after: sparse.csr_array | None = None, batch_size: int = 256
) -> np.ndarray:
    """Ranks under scores that look at no more than a history's latest item, `[users]`, by the protocol of `Ranker`.

    The catalogue is sorted once; a user costs what the history and the latest item's row hold.

    Args:
        sequences: all users.
        split: `"validation"` or `"test"`.
        scores: `[num_items + 1]` of the items (entry 0 means nothing).
        after: adds its row of the latest item to them, `[num_items + 1, num_items + 1]`, row 0 for users without one; above 0 where it
            has an entry. Nothing if None.
        batch_size: users a batch.
    """
    after = sparse.csr_array((len(scores), len(scores))) if after is None else after
    in_order = np.sort(scores[1:])
    data = ranking_batches(sequences, split, batch_size, max_length=1)
    ranks, targets = [np.zeros(0, int)], [np.zeros(0, int)]
    for batch in data.dataset.as_numpy_iterator():
        target, latest = batch["target"], batch["history"][:, -1]
        rows = np.arange(len(target))
        own = scores[target] + after[latest, target]
        follows = after[latest]
        row = np.repeat(rows, np.diff(follows.indptr))
        base, whole = scores[follows.indices], scores[follows.indices] + follows.data
        ahead = len(in_order) - np.searchsorted(in_order, own)
        ahead += np.bincount(row, (whole >= own[row]).astype(int) - (base >= own[row]), len(target)).astype(int)
        excluded = np.sort(batch["exclude"], axis=1)
        repeated = np.concatenate([excluded[:, :1] == PADDING, excluded[:, 1:] == excluded[:, :-1]], axis=1) | (excluded == PADDING)
        theirs = scores[excluded] + after[np.repeat(latest, excluded.shape[1]), excluded.ravel()].reshape(excluded.shape)
        ahead -= np.sum(~repeated & (theirs >= own[:, None]), axis=1)
        lost = (target == PADDING) | np.any(excluded == target[:, None], axis=1)
        ranks.append(np.where(lost, len(in_order), ahead - 1))  # the target itself is not ahead
        targets.append(target)
    return data.in_order(np.concatenate(targets), np.concatenate(ranks))[0]
