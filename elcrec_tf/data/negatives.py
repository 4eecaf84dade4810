"""Negatives of the next-item losses: what the sampled softmax draws for a batch and at what rates, and BCE's one for each target."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from elcrec_tf.data.catalog import Catalog
from elcrec_tf.padding import PADDING

_TRIES = 3


class NegativeSampler:
    """Draws the negatives that the rows of a batch share, and tells the rate of each: the probability that one draw is that item.

    - `"uniform"`: every item alike, `1 / n`.
    - `"log-uniform"`: by popularity rank `r` (0 = most events in the training part), `log((r + 2) / (r + 1)) / log(n + 1)`.
    - `"in-batch"`: the batch's own targets, all of them; an item is a target at its share of the training part's events.
    - `"mixed"`: half of the draws uniform (one more where they are odd) and half out of the batch's targets; the rate is the mean over the
      draws.

    Args:
        kind: one of these.
        count: draws; `"in-batch"` has as many as there are targets.
        catalog: the items with their events in the training part.
    """

    def __init__(self, kind: str, count: int, catalog: Catalog) -> None:
        self.kind = kind
        self.count = count
        self.num_items = catalog.num_items
        uniform = np.full(self.num_items, 1 / self.num_items)
        events = np.maximum(catalog.counts, 1)  # a target has been seen, whatever the catalogue says
        share = events / events.sum()
        self._by_rank: tf.Tensor | None = None
        if kind == "log-uniform":
            order = np.argsort(-catalog.counts, kind="stable")
            self._by_rank = tf.constant(order + 1, tf.int32)
            rank = np.empty(self.num_items)
            rank[order] = np.arange(self.num_items)
            rates = np.log1p(1 / (rank + 1)) / np.log(self.num_items + 1)
        else:
            of_targets = count // 2 / count  # of the draws of "mixed"
            rates = {"uniform": uniform, "in-batch": share, "mixed": (1 - of_targets) * uniform + of_targets * share}[kind]
        self._log_rates = tf.constant(np.concatenate([[0], np.log(rates)]), tf.float32)

    @property
    def of_catalogue(self) -> bool:
        """Whether draws depend on the catalogue alone, not on the batch."""
        return self.kind in ("uniform", "log-uniform")

    def draw(self, targets: tf.Tensor, key: tf.Tensor) -> dict[str, tf.Tensor]:
        """`negatives` int32 `[m]` (0 = none) and their `negative_log_rates` float32 `[m]`; a function of the arguments.

        Args:
            targets: int32 of any shape, the batch's targets, 0 = none.
            key: int64 `[2]`, the random seed.
        """
        if self.kind == "in-batch":
            negatives = tf.reshape(targets, [-1])
        elif self.kind == "mixed":
            half = self.count // 2
            negatives = tf.concat([self._uniform(self.count - half, key), self._out_of(targets, half, key + 1)], axis=0)
        elif self._by_rank is not None:
            negatives = tf.gather(self._by_rank, self._log_uniform_rank(key))
        else:
            negatives = self._uniform(self.count, key)
        return {"negatives": negatives, "negative_log_rates": tf.gather(self._log_rates, negatives)}

    def _uniform(self, count: int, key: tf.Tensor) -> tf.Tensor:
        return tf.random.stateless_uniform([count], key, 1, self.num_items + 1, tf.int32)

    def _log_uniform_rank(self, key: tf.Tensor) -> tf.Tensor:
        """Ranks: the whole part of `(n + 1) ** u - 1` is r where u lies between log(r + 1) and log(r + 2), over log(n + 1)."""
        uniform = tf.random.stateless_uniform([self.count], key, dtype=tf.float64)  # float32 would not reach every rank of a large n
        rank = tf.cast(tf.exp(uniform * np.log(self.num_items + 1)), tf.int32) - 1
        return tf.clip_by_value(rank, 0, self.num_items - 1)

    def _out_of(self, targets: tf.Tensor, count: int, key: tf.Tensor) -> tf.Tensor:
        """Draws with replacement; none (0) where the batch has no target."""
        real = tf.boolean_mask(targets, targets != PADDING)
        place = tf.random.stateless_uniform([count], key, 0, tf.maximum(tf.size(real), 1), tf.int32)
        return tf.gather(tf.concat([real, [PADDING]], axis=0), place)


def one_negative(target: tf.Tensor, known: tf.Tensor, num_items: int, key: tf.Tensor) -> tf.Tensor:
    """A negative for each target, uniform over the catalogue, 0 where there is no target; int32 of the targets' shape.

    A draw is only kept off the `known` items of its row; after three draws it is taken as it comes. Those are the history and the
    target, unless held-out items are among them, as in the official code, which tells the model a little about them.

    Args:
        target: int32 of any shape.
        known: int32, the target's shape and one axis more.
        num_items: of the catalogue.
        key: int64 `[2]`, the random seed.
    """
    draws = tf.random.stateless_uniform([_TRIES, *target.shape], key, 1, num_items + 1, tf.int32)
    negative = draws[0]
    for other in (draws[1], draws[2]):
        negative = tf.where(tf.reduce_any(negative[..., None] == known, axis=-1), other, negative)
    return tf.where(target == PADDING, PADDING, negative)
