"""Finding the items whose keys have the largest dot product with a query, in an exported graph: all items, or likely lists of them."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import tensorflow as tf

from elcrec_tf.padding import PADDING
from elcrec_tf.serving.inverted_lists import InvertedLists

BLOCK = 1 << 16
"""Most items scored at a time."""

SPARE = 64
"""Most lists that a question looks into beyond those that the recall needs, until enough items are found."""

_PARALLEL = 4  # blocks or questions under way at the same time


class Search(Protocol):
    """What the signatures ask for items."""

    @property
    def variables(self) -> list[tf.Variable]:
        """What has to be saved with the graph."""

    def keys_of(self, items: tf.Tensor) -> tf.Tensor:
        """Keys of item indices, `[..., size]`; index 0 (padding) has some key too."""

    def best(self, queries: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The `k` best items of each query `[batch, size]`: (scores float32, item indices int32), `[batch, k]`, best first.

        Where fewer were found, scores of -inf fill up, whose items mean nothing.
        """


class ExactSearch:
    """Scores every item, a block at a time.

    The best items of each block are merged: the answers are those of all items at once, in memory for a few blocks. Of equal scores
    the smaller index comes first.

    Args:
        keys: float32 `[num_items + 1, size]`, row 0 = padding.
        block: most items scored at a time.
    """

    def __init__(self, keys: tf.Tensor, block: int = BLOCK) -> None:
        self.num_items = len(keys) - 1
        self._block = min(block, self.num_items)
        self._keys = tf.Variable(keys, trainable=False, name="item_keys")

    @property
    def variables(self) -> list[tf.Variable]:
        return [self._keys]

    def keys_of(self, items: tf.Tensor) -> tf.Tensor:
        return tf.gather(self._keys.read_value(), items)

    def best(self, queries: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        size, keys = self._block, self._keys.read_value()
        of_block = tf.minimum(k, size)
        if size == self.num_items:
            found = self._of_block(queries, keys[1:], of_block, 1)
        else:
            starts = tf.range(1, self.num_items + 1, size)
            # The last block begins where all are of one size; what the one before has scored already counts once.
            parts = tf.map_fn(
                lambda start: self._of_block(queries, keys[tf.minimum(start, self.num_items + 1 - size) :][:size], of_block, start),
                starts,
                fn_output_signature=(tf.float32, tf.int32),
                parallel_iterations=_PARALLEL,
            )
            scores, items = (tf.reshape(tf.transpose(part, [1, 0, 2]), [tf.shape(queries)[0], -1]) for part in parts)
            scores, place = tf.math.top_k(scores, tf.minimum(k, tf.shape(scores)[1]))
            found = scores, tf.gather(items, place, batch_dims=1)
        return _filled(*found, k)

    def _of_block(self, queries: tf.Tensor, keys: tf.Tensor, k: tf.Tensor, start: tf.Tensor | int) -> tuple[tf.Tensor, tf.Tensor]:
        """The best of the items whose `keys` these are; those before item `start` are left out."""
        first = tf.minimum(start, self.num_items + 1 - self._block)
        scores = tf.matmul(queries, keys, transpose_b=True)
        if self._block < self.num_items:
            scores += tf.where(tf.range(self._block) < start - first, np.float32(-np.inf), 0.0)
        best, place = tf.math.top_k(scores, k)
        return best, place + first


class ListSearch:
    """Scores the items of the lists that are likeliest to hold the best ones (an inverted file), exactly; of other items it knows nothing.

    Args:
        keys: float32 `[num_items + 1, size]`, row 0 = padding.
        lists: the items, divided.
        probes: lists looked into, and up to `SPARE` more where these hold fewer items than are asked for; all of them find what
            `ExactSearch` finds.
    """

    def __init__(self, keys: tf.Tensor, lists: InvertedLists, probes: int) -> None:
        self.probes = probes
        # Items of a list stand side by side, so that a list is read in one piece, each list in the order of the catalogue.
        row_of = np.concatenate([[0], np.argsort(lists.items) + 1])
        self._keys = tf.Variable(tf.gather(keys, np.concatenate([[PADDING], lists.items])), trainable=False, name="item_keys")
        self._items = tf.Variable(np.concatenate([[PADDING], lists.items]).astype(np.int32), trainable=False, name="items_of_lists")
        self._row_of = tf.Variable(row_of.astype(np.int32), trainable=False, name="rows_of_items")
        self._centers = tf.Variable(lists.centers, trainable=False, name="list_centers")
        self._starts = tf.Variable(lists.starts.astype(np.int32) + 1, trainable=False, name="list_starts")

    @property
    def variables(self) -> list[tf.Variable]:
        return [self._keys, self._items, self._row_of, self._centers, self._starts]

    def keys_of(self, items: tf.Tensor) -> tf.Tensor:
        return tf.gather(self._keys.read_value(), tf.gather(self._row_of.read_value(), items))

    def best(self, queries: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        keys, items, starts = (one.read_value() for one in (self._keys, self._items, self._starts))
        centers = self._centers.read_value()
        _, near = tf.math.top_k(tf.matmul(queries, centers, transpose_b=True), min(self.probes + SPARE, centers.shape[0]))

        def of_question(question: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
            query, probed = question
            first, behind = tf.gather(starts, probed), tf.gather(starts, probed + 1)
            enough = tf.math.count_nonzero(tf.cumsum(behind - first) < k, dtype=tf.int32) + 1
            wanted = tf.maximum(enough, self.probes)
            rows = tf.ragged.range(first[:wanted], behind[:wanted]).flat_values
            scores = tf.linalg.matvec(tf.gather(keys, rows), query)
            best, place = tf.math.top_k(scores, tf.minimum(k, tf.size(scores)))
            best, found = _filled(best[None], tf.gather(items, tf.gather(rows, place))[None], k)
            return best[0], found[0]

        # One by one: lists differ in length.
        return tf.map_fn(of_question, (queries, near), fn_output_signature=(tf.float32, tf.int32), parallel_iterations=_PARALLEL)


def without(scores: tf.Tensor, items: tf.Tensor, excluded: tf.Tensor, k: tf.Tensor | int) -> tuple[tf.Tensor, tf.Tensor]:
    """The `k` best of found items that are not excluded: (scores, items), `[batch, k]`; -inf where none is left.

    To lose none of the `k` best, as many more have to be found as a row may exclude.

    Args:
        scores, items: `[batch, n]`; of equal scores the first one comes first.
        excluded: int32 `[batch, m]` item indices; 0 = none.
        k: items wanted.
    """
    known = tf.sort(tf.pad(excluded, [[0, 0], [0, 1]], constant_values=PADDING), axis=1)
    place = tf.searchsorted(known, items)
    gone = tf.gather(tf.pad(known, [[0, 0], [0, 1]], constant_values=PADDING), place, batch_dims=1) == items
    gone |= items == PADDING
    scores, items = _filled(tf.where(gone, -np.inf, scores), items, k)
    best, place = tf.math.top_k(scores, k)
    return best, tf.gather(items, place, batch_dims=1)


def _filled(scores: tf.Tensor, items: tf.Tensor, k: tf.Tensor | int) -> tuple[tf.Tensor, tf.Tensor]:
    """Filled up to `k` columns where there are fewer."""
    missing = [[0, 0], [0, tf.maximum(k - tf.shape(scores)[1], 0)]]
    return tf.pad(scores, missing, constant_values=-np.inf), tf.pad(items, missing, constant_values=PADDING)
