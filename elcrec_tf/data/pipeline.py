"""tf.data batches and arrays of histories for evaluation and for measuring."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from elcrec_tf.augment import random_view
from elcrec_tf.config import Config
from elcrec_tf.data.history import latest_items, prepare_history
from elcrec_tf.data.item_similarity import similar_items
from elcrec_tf.data.shard_stream import MOST_CELLS, ranking_dataset, sampled_histories
from elcrec_tf.data.shards import AnySequences, ShardedSequences, in_memory
from elcrec_tf.data.splits import holdout_positions, training_ranges
from elcrec_tf.padding import PADDING


@dataclass(frozen=True)
class RankingData:
    """Batches of users to rank for. Row i of all batches, one after the other, belongs to user `users[i]`, -1 = an empty row.

    Users of shards have no numbers: `users` is None, and a row is empty where its target is 0. `rows` are then None, too, else how many
    rows each batch has.
    """

    dataset: tf.data.Dataset
    users: np.ndarray | None
    rows: np.ndarray | None = None

    @property
    def empty(self) -> bool:
        """Whether there is no batch."""
        if self.users is None:
            return next(iter(self.dataset.take(1)), None) is None
        return not len(self.users)

    def in_order(self, targets: np.ndarray, *columns: np.ndarray) -> list[np.ndarray]:
        """Columns of values, a value a row of the batches, without the empty rows and in the order of the users."""
        if self.users is None:
            return [values[targets != PADDING] for values in columns]
        real = self.users >= 0
        order = np.argsort(self.users[real])
        return [values[real][order] for values in columns]

    def share(self, index: int, count: int) -> RankingData:
        """One of `count` shares: every `count`-th batch, from batch `index` on."""
        batches = self.dataset.shard(count, index)
        if self.users is None or self.rows is None:
            return RankingData(batches, None)
        by_batch = np.split(self.users, np.cumsum(self.rows)[:-1])[index::count]
        return RankingData(batches, np.concatenate([self.users[:0], *by_batch]), self.rows[index::count])


def ranking_batches(sequences: AnySequences, split: str, batch_size: int, max_length: int) -> RankingData:
    """Batches for leave-one-out ranking: dicts of `history` (prepared), `exclude` (the whole history, padded) and `target`.

    Users with histories of about the same length share a batch, so that a few long histories do not widen all.

    Args:
        sequences: all users.
        split: `"validation"` or `"test"`.
        batch_size: users a batch, fewer where histories are very long; the last batch of a width is filled up with empty rows (target 0).
        max_length: most items of a history that the model sees.
    """
    if isinstance(sequences, ShardedSequences):
        return RankingData(ranking_dataset(sequences, split, batch_size, max_length), None)
    targets = holdout_positions(sequences, split)
    windows = np.stack([sequences.offsets[:-1], targets], axis=1)
    # Powers of two: few shapes, and never more than half of a batch is padding.
    widths = np.maximum(4, 2 ** np.ceil(np.log2(np.maximum(targets - windows[:, 0], 1))).astype(np.int64))
    items = tf.constant(sequences.items, tf.int32)
    dataset, in_batches, rows = None, [], []
    for width in np.unique(widths):
        users, size = np.flatnonzero(widths == width), max(1, min(batch_size, MOST_CELLS // int(width)))
        users = np.concatenate([users, np.full(-len(users) % size, -1)])
        in_batches.append(users)
        rows.append(np.full(len(users) // size, size))

        def make(batch: tf.Tensor, width: int = int(width)) -> dict[str, tf.Tensor]:
            seen = latest_items(items, batch, width)
            target = tf.where(batch[:, 0] == batch[:, 1], PADDING, tf.gather(items, batch[:, 1]))
            return {"history": prepare_history(seen, max_length), "exclude": seen, "target": target}

        # User -1 picks the last row of the padded windows: an empty one.
        batches = np.concatenate([windows, [[0, 0]]])[users].reshape(-1, size, 2)
        part = tf.data.Dataset.from_tensor_slices(batches).map(make, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        dataset = part if dataset is None else dataset.concatenate(part)
    assert dataset is not None
    return RankingData(dataset.prefetch(tf.data.AUTOTUNE), np.concatenate(in_batches), np.concatenate(rows))


def histories(
    sequences: AnySequences, split: str, max_length: int, most: int | None = None, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Prepared histories of all users, or of a random sample of them, in one array.

    Args:
        sequences: all users.
        split: `"training"` (the inputs of training), `"validation"` or `"test"` (what comes before the held-out item).
        max_length: most items kept.
        most: size of the sample.

    Returns:
        (users, history): int64 `[n]` ascending (raw ids for users in shards), int32 `[n, max_length]` left-padded.

    Raises:
        UserError: for all users where they are in shards, which need not fit the memory.
    """
    if isinstance(sequences, ShardedSequences) and most is not None:
        return sampled_histories(sequences, split, max_length, most, seed)
    sequences = in_memory(sequences, "what takes every history")
    stops = training_ranges(sequences)[1] - 1 if split == "training" else holdout_positions(sequences, split)
    users = np.flatnonzero(stops > sequences.offsets[:-1])
    if most is not None and len(users) > most:
        users = np.sort(np.random.default_rng(seed).choice(users, most, replace=False))
    windows = np.stack([sequences.offsets[users], stops[users]], axis=1)
    return users, latest_items(tf.constant(sequences.items, tf.int32), tf.constant(windows), max_length).numpy()


def probe_views(sequences: AnySequences, config: Config, users: int, max_length: int) -> dict[str, np.ndarray]:
    """`history`, `view_a` and `view_b` of a fixed random sample of users, for measuring (see `ContrastiveLossCallback`)."""
    longest = config.model.max_length
    # Under official_padding pooled states depend on the padding, so the width has to be training's.
    length = longest if config.loss.official_padding else min(max_length, longest)
    _, history = histories(sequences, "training", length, most=users, seed=config.train.seed)
    keys = {name: tf.constant([config.train.seed, salt], tf.int64) for name, salt in (("view_a", 1), ("view_b", 2))}
    rows, ratios, similar = tf.constant(history), config.augment.ratios, similar_items(sequences, config.augment)
    views = {name: random_view(rows, key, ratios, similar=similar).numpy() for name, key in keys.items()}
    return {"history": history, **views}
