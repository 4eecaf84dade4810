"""tf.data batches for training and for ranking evaluation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from elcrec_tf.augment import random_view
from elcrec_tf.config import Config
from elcrec_tf.data.buckets import bucket_widths
from elcrec_tf.data.history import prepare_history
from elcrec_tf.data.sequences import Sequences
from elcrec_tf.data.splits import holdout_positions, training_ranges
from elcrec_tf.errors import UserError
from elcrec_tf.padding import PADDING

_MANY_EPOCHS = 1_000_000


@dataclass(frozen=True)
class TrainingData:
    """Batches without end, `steps_per_epoch` of them an epoch; `widths` are the lengths that batches are padded to."""

    dataset: tf.data.Dataset
    steps_per_epoch: int
    widths: tuple[int, ...]
    padding_share: float


def training_batches(sequences: Sequences, config: Config, first_epoch: int = 0) -> TrainingData:
    """Training batches `(x, y)` for `ELCRec.compute_loss`.

    An epoch shows every example once, shuffled. Examples of about the same length share a batch, padded to the bucket's width
    and filled up with empty rows, so there are only as many shapes as buckets. Shuffling, views and negatives are functions of
    (seed, epoch, step): a run that starts at `first_epoch` gets what an uninterrupted one gets there.

    x: int32 `[batch, width]` histories, left-padded.
    y: `target` (`[batch, width]`, or `[batch]` for prefixes); `view_a`, `view_b` `[users, width]` where a contrastive weight is
    above 0; `user_history` `[users, width]` for prefixes; `negative` or `negatives` and `negative_log_rates`, by the loss.

    Raises:
        UserError: when no user has two events in the training part.
    """
    examples, users = _windows(sequences, config.loss.examples)
    if not len(examples):
        raise UserError(f"data set {sequences.name!r}: no user has the 4 events that training needs (2, and 2 held out)")
    longest = config.model.max_length
    lengths = np.minimum(examples[:, 1] - examples[:, 0], longest)
    user_lengths = np.minimum(users[:, 1] - users[:, 0], longest)
    widths = (longest,) if config.loss.official_padding else bucket_widths(lengths, config.train.buckets)
    bucket, user_bucket = np.searchsorted(widths, lengths), np.searchsorted(widths, user_lengths)
    datasets, steps = [], []
    for index, width in enumerate(widths):
        members = examples[bucket == index]
        steps.append(-(-len(members) // config.train.batch_size))
        stream = _Stream(members, config.train.batch_size, steps[-1], index)
        user_stream = None
        if config.loss.examples == "prefixes":
            of_users = users[user_bucket == index]
            user_stream = _Stream(of_users, max(1, -(-len(of_users) // steps[-1])), steps[-1], index + len(widths))
        datasets.append(_bucket_batches(sequences, config, width, stream, user_stream, first_epoch))
    seed = config.train.seed
    choices = np.repeat(np.arange(len(widths)), steps)
    order = tf.data.Dataset.range(first_epoch, _MANY_EPOCHS).flat_map(
        lambda epoch: tf.data.Dataset.from_tensor_slices(
            tf.random.experimental.stateless_shuffle(tf.constant(choices), tf.stack([tf.cast(seed, tf.int64), epoch]))
        )
    )
    dataset = tf.data.Dataset.choose_from_datasets(datasets, order, stop_on_empty_dataset=False)
    positions = sum(count * config.train.batch_size * width for count, width in zip(steps, widths, strict=True))
    return TrainingData(dataset.prefetch(tf.data.AUTOTUNE), int(sum(steps)), tuple(widths), 1 - float(lengths.sum()) / positions)


def _windows(sequences: Sequences, examples: str) -> tuple[np.ndarray, np.ndarray]:
    """(examples, users): windows `[n, 2]` of input positions (start, stop) in `sequences.items`; the target follows at stop."""
    starts, ends = training_ranges(sequences)
    users = np.stack([starts, ends - 1], axis=1)[ends - starts >= 2]
    if examples == "positions":
        return users, users
    counts = users[:, 1] - users[:, 0]
    start = np.repeat(users[:, 0], counts)
    within = np.arange(len(start)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.stack([start, start + within + 1], axis=1), users


@dataclass(frozen=True)
class _Stream:
    """Windows to be shuffled each epoch and dealt in `steps` batches of `size` rows, the missing ones empty."""

    windows: np.ndarray
    size: int
    steps: int
    salt: int

    def epoch(self, seed: int, epoch: tf.Tensor) -> tf.Tensor:
        """int64 `[steps, size, 2]`. Empty rows are spread over all batches: together, they could leave a replica without work."""
        key = tf.stack([tf.cast(seed * 1009 + self.salt, tf.int64), epoch])
        empty = self.steps * self.size - len(self.windows)
        rows = tf.pad(tf.constant(self.windows, tf.int64), [[0, empty], [0, 0]])
        return tf.reshape(tf.random.experimental.stateless_shuffle(rows, key), [self.steps, self.size, 2])


def _bucket_batches(
    sequences: Sequences, config: Config, width: int, stream: _Stream, user_stream: _Stream | None, first_epoch: int
) -> tf.data.Dataset:
    items = tf.constant(sequences.items, tf.int32)
    seed = config.train.seed

    def deal(epoch: tf.Tensor) -> tf.data.Dataset:
        parts = {"examples": stream.epoch(seed, epoch), "step": tf.range(stream.steps, dtype=tf.int64)}
        if user_stream is not None:
            parts["users"] = user_stream.epoch(seed, epoch)
        return tf.data.Dataset.from_tensor_slices(parts).map(lambda part: part | {"epoch": epoch})

    def make(part: dict[str, tf.Tensor]) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        key = tf.stack([(seed * 1009 + stream.salt) * 1_000_003 + part["epoch"], part["step"] * 100])
        history = prepare_history(_rows(items, part["examples"], width), config.model.max_length)
        if user_stream is None:
            y = {"target": _rows(items, part["examples"] + tf.constant([1, 1], tf.int64), width)}
            of_users = history
        else:
            stops = part["examples"][:, 1]
            empty = part["examples"][:, 0] == stops
            y = {"target": tf.where(empty, PADDING, tf.gather(items, stops))}
            of_users = prepare_history(_rows(items, part["users"], width), config.model.max_length)
            y["user_history"] = of_users
        if config.loss.sequence_weight or config.loss.intent_weight:
            y |= {"view_a": _view(of_users, key, config), "view_b": _view(of_users, key + 50, config)}
        return history, y | _negatives(history, y["target"], config, sequences.catalog.num_items, key + 99)

    dataset = tf.data.Dataset.range(first_epoch, _MANY_EPOCHS).flat_map(deal)
    return dataset.map(make, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _view(history: tf.Tensor, key: tf.Tensor, config: Config) -> tf.Tensor:
    options = config.augment
    return random_view(history, key, options.augmentations, options.crop_ratio, options.mask_ratio, options.reorder_ratio)


def _rows(items: tf.Tensor, windows: tf.Tensor, width: int) -> tf.Tensor:
    """The latest `width` items of each window (start, stop), left-padded, int32 `[batch, width]`."""
    index = windows[:, 1:] - width + tf.range(width, dtype=tf.int64)
    inside = index >= windows[:, :1]
    return tf.where(inside, tf.gather(items, tf.where(inside, index, 0)), PADDING)


def _negatives(history: tf.Tensor, target: tf.Tensor, config: Config, num_items: int, key: tf.Tensor) -> dict[str, tf.Tensor]:
    """Sampled negatives for the losses that need them, uniform over the catalogue."""
    if config.loss.next_item == "sampled_softmax":
        count = config.loss.num_negatives
        negatives = tf.random.stateless_uniform([count], key, 1, num_items + 1, tf.int32)
        return {"negatives": negatives, "negative_log_rates": tf.fill([count], -np.log(num_items).astype(np.float32))}
    if config.loss.next_item == "bce":
        # The official code draws outside the user's whole sequence, held-out items included, which tells a little about them.
        # Here a draw is only kept off the history and the target; after three draws it is taken as it comes.
        known = tf.concat([history, tf.reshape(target, [tf.shape(history)[0], -1])], axis=1)
        draws = tf.random.stateless_uniform([3, *tf.unstack(tf.shape(target))], key, 1, num_items + 1, tf.int32)
        negative = draws[0]
        for other in (draws[1], draws[2]):
            flat = tf.reshape(negative, [tf.shape(history)[0], -1])
            taken = tf.reduce_any(flat[:, :, None] == known[:, None, :], axis=-1)
            negative = tf.where(tf.reshape(taken, tf.shape(negative)), other, negative)
        return {"negative": tf.where(target == PADDING, PADDING, negative)}
    return {}


@dataclass(frozen=True)
class RankingData:
    """Batches of users to rank for. Row i of all batches, one after the other, belongs to user `users[i]`, -1 = an empty row."""

    dataset: tf.data.Dataset
    users: np.ndarray


def ranking_batches(sequences: Sequences, split: str, batch_size: int, max_length: int) -> RankingData:
    """Batches for leave-one-out ranking: dicts of `history` (prepared), `exclude` (the whole history, padded) and `target`.

    Users with histories of about the same length share a batch, so that a few long histories do not widen all.

    Args:
        sequences: all users.
        split: `"validation"` or `"test"`.
        batch_size: users a batch; the last batch of a width is filled up with empty rows (target 0).
        max_length: most items of a history that the model sees.
    """
    targets = holdout_positions(sequences, split)
    windows = np.stack([sequences.offsets[:-1], targets], axis=1)
    # Powers of two: few shapes, and never more than half of a batch is padding.
    widths = np.maximum(16, 2 ** np.ceil(np.log2(np.maximum(targets - windows[:, 0], 1))).astype(np.int64))
    items = tf.constant(sequences.items, tf.int32)
    dataset, rows = None, []
    for width in np.unique(widths):
        users = np.flatnonzero(widths == width)
        users = np.concatenate([users, np.full(-len(users) % batch_size, -1)])
        rows.append(users)

        def make(batch: tf.Tensor, width: int = int(width)) -> dict[str, tf.Tensor]:
            seen = _rows(items, batch, width)
            target = tf.where(batch[:, 0] == batch[:, 1], PADDING, tf.gather(items, batch[:, 1]))
            return {"history": prepare_history(seen, max_length), "exclude": seen, "target": target}

        # User -1 picks the last row of the padded windows: an empty one.
        batches = np.concatenate([windows, [[0, 0]]])[users].reshape(-1, batch_size, 2)
        part = tf.data.Dataset.from_tensor_slices(batches).map(make, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        dataset = part if dataset is None else dataset.concatenate(part)
    assert dataset is not None
    return RankingData(dataset.prefetch(tf.data.AUTOTUNE), np.concatenate(rows))


def histories(sequences: Sequences, split: str, max_length: int, most: int | None = None, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Prepared histories of all users, or of a random sample of them, in one array.

    Args:
        sequences: all users.
        split: `"training"` (the inputs of training), `"validation"` or `"test"` (what comes before the held-out item).
        max_length: most items kept.
        most: size of the sample.

    Returns:
        (users, history): int64 `[n]` ascending, int32 `[n, max_length]` left-padded.
    """
    stops = training_ranges(sequences)[1] - 1 if split == "training" else holdout_positions(sequences, split)
    users = np.flatnonzero(stops > sequences.offsets[:-1])
    if most is not None and len(users) > most:
        users = np.sort(np.random.default_rng(seed).choice(users, most, replace=False))
    windows = np.stack([sequences.offsets[users], stops[users]], axis=1)
    return users, _rows(tf.constant(sequences.items, tf.int32), tf.constant(windows), max_length).numpy()


def probe_views(sequences: Sequences, config: Config, users: int, max_length: int) -> dict[str, np.ndarray]:
    """`history`, `view_a` and `view_b` of a fixed random sample of users, for measuring (see `ContrastiveLossCallback`)."""
    longest = config.model.max_length
    # Under official_padding pooled states depend on the padding, so the width has to be training's.
    length = longest if config.loss.official_padding else min(max_length, longest)
    _, history = histories(sequences, "training", length, most=users, seed=config.train.seed)
    keys = {name: tf.constant([config.train.seed, salt], tf.int64) for name, salt in (("view_a", 1), ("view_b", 2))}
    views = {name: _view(tf.constant(history), key, config).numpy() for name, key in keys.items()}
    return {"history": history, **views}
