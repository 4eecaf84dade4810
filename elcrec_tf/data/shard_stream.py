"""Streams users out of shards with tf.data. What is in memory does not grow with the data."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from elcrec_tf.data.history import prepare_history
from elcrec_tf.data.shards import ShardedSequences
from elcrec_tf.padding import PADDING

_OPEN_FILES = 4  # few, so that the order of the files decides who shares a block
_BUFFER_BYTES = 1 << 18
MOST_CELLS = 1 << 22
"""Of a batch of whole histories."""
_POSITIONS = {"training": 0, "validation": 1, "test": 2}


def users_of(shards: ShardedSequences, files: tf.Tensor | list[str]) -> tf.data.Dataset:
    """Users, file after file and interleaved: dicts of `user` (raw id), `items` int32 `[n]` and `positions` int64 `[3]`.

    The positions are the number of events in the training part, and the places of the validation and the test target in `items`
    (-1 = none). An order of files gives one order of users.
    """
    records = tf.data.Dataset.from_tensor_slices(files).interleave(
        lambda file: tf.data.TFRecordDataset(file, "GZIP", _BUFFER_BYTES),
        cycle_length=_OPEN_FILES,
        block_length=16,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    return _parsed(shards, records)


def _parsed(shards: ShardedSequences, records: tf.data.Dataset) -> tf.data.Dataset:
    features = {
        "user": tf.io.FixedLenFeature([], tf.string),
        "items": tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True),
    }
    if shards.by_time:
        features["positions"] = tf.io.FixedLenFeature([3], tf.int64)

    def parse(record: tf.Tensor) -> dict[str, tf.Tensor]:
        user = tf.io.parse_single_example(record, features)
        items = tf.cast(user["items"], tf.int32)
        known = tf.ones_like(items, tf.bool)
        if shards.translation is not None:
            items = tf.gather(tf.constant(shards.translation), items)
            known = items != PADDING
        return {"user": user["user"], "items": items[known], "positions": _positions(user.get("positions"), known)}

    return records.map(parse, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _positions(stored: tf.Tensor | None, known: tf.Tensor) -> tf.Tensor:
    """Positions among the events whose item is known: leave-one-out takes the last two, a split by time those that it took before."""
    count = tf.reduce_sum(tf.cast(known, tf.int64))
    if stored is None:
        return tf.where(count < 3, tf.constant([0, -1, -1], tf.int64), tf.stack([count - 2, count - 2, count - 1]))
    before = tf.gather(tf.concat([[0], tf.cumsum(tf.cast(known, tf.int64))], axis=0), tf.maximum(stored, 0))
    there = (stored >= 0) & tf.gather(tf.concat([known, [True]], axis=0), tf.maximum(stored, 0))
    there = tf.concat([[True], there[1:] & (before[1:] > 0)], axis=0)  # without a history there is no question
    return tf.where(there, before, tf.constant(-1, tf.int64))


def training_blocks(shards: ShardedSequences, files: tf.Tensor, seed: tf.Tensor, most: int, block: int, blocks: int) -> tf.data.Dataset:
    """The training parts of one epoch: `blocks` ragged int32 `[block, None]`, their latest `most + 1` events (inputs and targets).

    Which users share a block is a function of the seed, by the order of the files. Users stand in their files by hash, so any block is
    a random sample of them, and the users of a block are shuffled later, when they are dealt to its batches. Where the users end before
    the last block does, users without events fill it up.

    Args:
        shards: the data set.
        files: string `[n]` paths of the worker's shards.
        seed: int64 `[2]`.
        most: most inputs of a history.
        block, blocks: users a block, and how many blocks.
    """
    files = tf.random.experimental.stateless_shuffle(files, seed)
    users = users_of(shards, files).map(lambda user: user["items"][: user["positions"][0]], num_parallel_calls=tf.data.AUTOTUNE)
    users = users.filter(lambda items: tf.size(items) >= 2).map(lambda items: items[-(most + 1) :])
    empty = tf.data.Dataset.from_tensors(tf.zeros([0], tf.int32)).repeat()
    return users.concatenate(empty).take(block * blocks).ragged_batch(block, drop_remainder=True)


def ranking_dataset(shards: ShardedSequences, split: str, batch_size: int, max_length: int) -> tf.data.Dataset:
    """Batches as `elcrec_tf.data.pipeline.ranking_batches` makes them, of the users who have a target in the split.

    Users wait in one batch a width (powers of two) until it is full. A batch of long histories has fewer users, which bounds its memory.
    """
    widths = 2 ** np.arange(2, max(int(np.ceil(np.log2(max(shards.longest, 1)))), 2) + 1)
    sizes = [max(1, min(batch_size, MOST_CELLS // width)) for width in widths.tolist()]
    which = _POSITIONS[split]

    def question(user: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        position = user["positions"][which]
        return {"exclude": user["items"][:position], "target": user["items"][position]}

    def full(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        # Empty rows keep the number of shapes small: one a width.
        width = tf.shape(batch["exclude"])[1]
        size = tf.gather(sizes, tf.argmax(tf.constant(widths) == tf.cast(width, tf.int64), output_type=tf.int32))
        exclude = tf.pad(batch["exclude"], [[0, size - tf.shape(batch["exclude"])[0]], [0, 0]])
        target = tf.pad(batch["target"], [[0, size - tf.shape(batch["target"])[0]]])
        return {"history": prepare_history(exclude, max_length), "exclude": exclude, "target": target}

    users = users_of(shards, shards.files()).filter(lambda user: user["positions"][which] > 0)
    users = users.map(question, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    batches = users.bucket_by_sequence_length(
        lambda user: tf.size(user["exclude"]),
        bucket_boundaries=[int(width) + 1 for width in widths],
        bucket_batch_sizes=[*sizes, 1],
        pad_to_bucket_boundary=True,
    )
    return batches.map(full, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(2)


def sampled_histories(shards: ShardedSequences, split: str, max_length: int, most: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(raw user ids, history) of at most `most` users, `[n]` and int32 `[n, max_length]` left-padded.

    Which shard a user is in, and where, is a matter of hashing: the first users from some shard on are a random sample.
    """
    files = shards.files()
    files = files[seed % len(files) :] + files[: seed % len(files)]
    which = _POSITIONS[split]

    def history(user: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        stop = user["positions"][which] - (split == "training")
        return user["user"], user["items"][: tf.maximum(stop, 0)][-max_length:]

    users = _parsed(shards, tf.data.TFRecordDataset(files, "GZIP", _BUFFER_BYTES)).map(history)
    found = list(users.filter(lambda user, items: tf.size(items) > 0).take(most).as_numpy_iterator())
    rows = np.full((len(found), max_length), PADDING, np.int32)
    for row, (_, items) in zip(rows, found, strict=True):
        row[max_length - len(items) :] = items
    return np.array([user.decode() for user, _ in found], dtype=object), rows
