"""tf.data batches for training: histories and their views, packed in rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from elcrec_tf.augment import kept_length, random_view
from elcrec_tf.config import Config
from elcrec_tf.data.history import latest_items, prepare_history
from elcrec_tf.data.packing import Packing, pack
from elcrec_tf.data.sequences import Sequences
from elcrec_tf.data.shard_plan import ShardPlan
from elcrec_tf.data.shard_stream import training_blocks
from elcrec_tf.data.shards import AnySequences, ShardedSequences
from elcrec_tf.data.splits import training_ranges
from elcrec_tf.data.view_slots import ViewSlots
from elcrec_tf.errors import UserError
from elcrec_tf.padding import PADDING

_MANY_EPOCHS = 1_000_000


@dataclass(frozen=True)
class TrainingData:
    """Batches without end, `steps_per_epoch` of them an epoch, all of one shape; `padding_share` of their cells hold no item."""

    dataset: tf.data.Dataset
    steps_per_epoch: int
    padding_share: float


def training_batches(sequences: AnySequences, config: Config, first_epoch: int = 0, replicas: int = 1) -> TrainingData:
    """Training batches `(x, y)` for `ELCRec.compute_loss`.

    An epoch shows every example once, shuffled. Several histories share a row, in a layout that is the same for every batch (see
    `elcrec_tf.data.packing`): sorted by length, the examples are cut into as many strata as a batch has slots, and each batch gets
    one of each stratum at random, so slot i never needs more cells than the longest example of stratum i. Shuffling, views and
    negatives are functions of (seed, epoch, step): a run that starts at `first_epoch` gets what an uninterrupted one gets there.

    x: `examples`, and `users` beside prefixes, and `view_a`, `view_b` of the users where a contrastive weight is above 0. Each is a
    dict of int32 `history`, `slot`, `distance` `[rows, length]` and `last` `[slots]`.
    y: `target` (`[rows, length]`, or `[slots]` for prefixes); `negative` or `negatives` and `negative_log_rates`, by the loss.

    Args:
        sequences: all users; those in shards are streamed, see `streamed_batches`.
        config: the configuration.
        first_epoch: counted from 0.
        replicas: devices that share a batch: it consists of so many layouts, one below the other.

    Raises:
        UserError: when no user has two events in the training part.
    """
    if isinstance(sequences, ShardedSequences):
        return streamed_batches(sequences, config, first_epoch, replicas)
    windows = _windows(sequences, config.loss.examples)
    if not len(windows["examples"]):
        raise UserError(f"data set {sequences.name!r}: no user has the 4 events that training needs (2, and 2 held out)")
    steps = -(-len(windows["examples"]) // config.train.batch_size)
    deals = {name: _Deal.of(part, steps * replicas, salt) for salt, (name, part) in enumerate(windows.items())}
    batches = _Batches(sequences, config, deals)
    items = tf.constant(sequences.items, tf.int32)

    def epoch_of(epoch: tf.Tensor) -> tf.data.Dataset:
        dealt = {name: deal.epoch(config.train.seed, epoch) for name, deal in deals.items()}
        return _steps(items, epoch, tf.range(steps, dtype=tf.int64), dealt, replicas)

    dataset = tf.data.Dataset.range(first_epoch, _MANY_EPOCHS).flat_map(epoch_of)
    return TrainingData(batches.of_steps(dataset, replicas), steps, batches.padding_share)


def streamed_batches(
    shards: ShardedSequences, config: Config, first_epoch: int = 0, replicas: int = 1, worker: int = 0, workers: int = 1
) -> TrainingData:
    """`training_batches` of users in shards, in memory that does not grow with the data.

    Users are read in blocks of a few thousand, and each block is dealt to its batches as all users in memory are: the layout is made
    for the lengths that the manifest tells, with some room for what differs between blocks. Where even that is too little, a history
    loses its oldest items.

    Args:
        shards: the data set.
        config: the configuration; `batch_size` is that of all workers together.
        first_epoch, replicas: see `training_batches`.
        worker, workers: read every `workers`-th shard from the `worker`-th on (from 0). All workers have the same number of steps.

    Raises:
        UserError: for prefixes as examples, or fewer shards than workers.
    """
    if config.loss.examples == "prefixes":
        raise UserError(f"data set {shards.name!r} is in shards, which are trained on with --examples positions only")
    plan = ShardPlan.of(shards, config.train.batch_size, config.model.max_length, replicas, workers)
    deal = _Deal(plan.windows, plan.longest, plan.batches, salt=0)
    batches = _Batches(shards, config, {"examples": deal})
    steps, seed, files = plan.batches // replicas, config.train.seed, tf.constant(shards.files(worker, workers))

    def block_of(epoch: tf.Tensor, block: tf.Tensor, users: tf.RaggedTensor) -> tf.data.Dataset:
        items = tf.concat([[PADDING], users.flat_values], axis=0)  # never without an item, where all windows are empty
        starts, ends = users.row_splits[:-1] + 1, users.row_splits[1:] + 1
        windows = tf.stack([starts, tf.maximum(ends - 1, starts)], axis=1)
        dealt = {"examples": deal.deal(windows, tf.stack([tf.cast(seed * 1009, tf.int64), epoch * 1_000_003 + block * 2]))}
        return _steps(items, epoch, block * steps + tf.range(steps, dtype=tf.int64), dealt, replicas)

    def epoch_of(epoch: tf.Tensor) -> tf.data.Dataset:
        key = tf.stack([tf.cast(seed, tf.int64), epoch])
        users = training_blocks(shards, files, key, config.model.max_length, plan.block, plan.blocks)
        return tf.data.Dataset.zip((tf.data.Dataset.range(plan.blocks), users)).flat_map(lambda *block: block_of(epoch, *block))

    dataset = tf.data.Dataset.range(first_epoch, _MANY_EPOCHS).flat_map(epoch_of)
    return TrainingData(batches.of_steps(dataset, replicas), steps * plan.blocks, batches.padding_share)


def _steps(items: tf.Tensor, epoch: tf.Tensor, steps: tf.Tensor, dealt: dict[str, tf.Tensor], replicas: int) -> tf.data.Dataset:
    """What `_Batches.of_steps` takes: (items, epoch, step, windows dealt to each replica's batch)."""
    by_step = {name: tf.reshape(part, [-1, replicas, *part.shape[1:]]) for name, part in dealt.items()}
    # Each element refers to the same items: nothing is copied.
    return tf.data.Dataset.from_tensor_slices((steps, by_step)).map(lambda step, part: (items, epoch, step, part))


def _windows(sequences: Sequences, examples: str) -> dict[str, np.ndarray]:
    """Windows `[n, 2]` of input positions (start, stop) in `sequences.items`, the target following at stop: the `examples`, and the
    `users` where those are other ones."""
    starts, ends = training_ranges(sequences)
    users = np.stack([starts, ends - 1], axis=1)[ends - starts >= 2]
    if examples == "positions":
        return {"examples": users}
    counts = users[:, 1] - users[:, 0]
    start = np.repeat(users[:, 0], counts)
    within = np.arange(len(start)) - np.repeat(np.cumsum(counts) - counts, counts)
    return {"examples": np.stack([start, start + within + 1], axis=1), "users": users}


@dataclass(frozen=True)
class _Deal:
    """Windows dealt to `batches` of equal make-up: to each one of every stratum of about the same length. Missing ones are empty.

    windows: `[n, 2]`; longest: `[slots]`, the longest window of each stratum, ascending.
    """

    windows: np.ndarray
    longest: np.ndarray
    batches: int
    salt: int

    @staticmethod
    def of(windows: np.ndarray, batches: int, salt: int) -> _Deal:
        empty = -len(windows) % batches
        windows = np.concatenate([np.zeros((empty, 2), windows.dtype), windows])
        lengths = np.sort(windows[:, 1] - windows[:, 0])
        return _Deal(windows, lengths.reshape(-1, batches).max(axis=1), batches, salt)

    def epoch(self, seed: int, epoch: tf.Tensor) -> tf.Tensor:
        """int64 `[batches, slots, 2]`."""
        return self.deal(tf.constant(self.windows, tf.int64), tf.stack([tf.cast(seed * 1009 + self.salt, tf.int64), epoch]))

    def deal(self, windows: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        """The same for any int64 `windows` `[batches * slots, 2]`."""
        windows = tf.random.experimental.stateless_shuffle(windows, key)
        # Sorted after the shuffle, windows of one length come in any order; then each stratum is dealt to the batches in any order.
        windows = tf.gather(windows, tf.argsort(windows[:, 1] - windows[:, 0], stable=True))
        slots = len(self.longest)
        order = tf.argsort(tf.random.stateless_uniform([slots, self.batches], key + 1), axis=1)
        dealt = tf.gather(tf.reshape(windows, [slots, self.batches, 2]), order, batch_dims=1)
        return tf.transpose(dealt, [1, 0, 2])


class _Batches:
    """Makes one device's batch from the windows dealt to it."""

    def __init__(self, sequences: AnySequences, config: Config, deals: dict[str, _Deal]) -> None:
        loss, most = config.loss, config.model.max_length
        self.config = config
        self.num_items = sequences.catalog.num_items
        self.users = "users" if "users" in deals else "examples"
        longest = {name: np.clip(deal.longest, 1, most) for name, deal in deals.items()}
        self.width = most if loss.official_padding else max(int(lengths[-1]) for lengths in longest.values())
        if loss.official_padding:  # pooled states see the padding: every history has a row of full length
            longest = {name: np.full_like(lengths, most) for name, lengths in longest.items()}
        self.packings = {name: pack(lengths, self.width) for name, lengths in longest.items()}
        self.view_slots: ViewSlots | None = None
        if loss.sequence_weight or loss.intent_weight:
            self.view_slots = ViewSlots.of(longest[self.users], config.augment, own_rows=loss.official_padding)
            self.packings["view"] = pack(self.view_slots.capacities, self.width)
        self.padding_share = self._padding_share(deals)

    def _padding_share(self, deals: dict[str, _Deal]) -> float:
        augment = self.config.augment
        lengths = {name: np.minimum(deal.windows[:, 1] - deal.windows[:, 0], self.width) for name, deal in deals.items()}
        real = sum(float(part.sum()) for part in lengths.values())
        layouts = [self.packings[name].slot for name in deals]
        if self.view_slots is not None:
            kept = [kept_length(name, lengths[self.users], augment.crop_ratio) for name in augment.augmentations]
            real += 2 * float(np.mean(kept, axis=0).sum())
            layouts += [self.packings["view"].slot] * 2
        batches = next(iter(deals.values())).batches
        return 1 - real / (batches * sum(layout.size for layout in layouts))

    def of_steps(self, dataset: tf.data.Dataset, replicas: int) -> tf.data.Dataset:
        """Batches from what `_steps` makes: each replica's layout, one below the other."""

        def make(items: tf.Tensor, epoch: tf.Tensor, step: tf.Tensor, dealt: dict[str, tf.Tensor]) -> tuple[Any, Any]:
            shares = []
            for replica in range(replicas):
                key = tf.stack([self.config.train.seed * 1_000_003 + epoch, (step * replicas + replica) * 100])
                shares.append(self.make(items, {name: part[replica] for name, part in dealt.items()}, key))
            return tf.nest.map_structure(lambda *share: tf.concat(share, axis=0), *shares)

        return dataset.map(make, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(tf.data.AUTOTUNE)

    def make(self, items: tf.Tensor, dealt: dict[str, tf.Tensor], key: tf.Tensor) -> tuple[dict[str, Any], dict[str, tf.Tensor]]:
        """(x, y) from the windows `[slots, 2]` of each part in `items`."""
        most = self.config.model.max_length
        rows = {name: prepare_history(latest_items(items, part, self.width), most) for name, part in dealt.items()}
        x = {name: _part(part, self.packings[name]) for name, part in rows.items()}
        windows = dealt["examples"]
        if self.users == "examples":
            after = latest_items(items, windows + tf.constant([1, 1], tf.int64), self.width)
            target = _packed(after, x["examples"]["slot"], x["examples"]["distance"])
        else:
            target = tf.where(windows[:, 0] == windows[:, 1], PADDING, tf.gather(items, windows[:, 1]))
            after = target[:, None]
        if self.view_slots is not None:
            x["view_a"] = self._view(rows[self.users], key)
            x["view_b"] = self._view(rows[self.users], key + 50)
        known = tf.concat([rows["examples"], after], axis=1)
        return x, {"target": target} | self._negatives(x["examples"], target, known, key + 99)

    def _view(self, rows: tf.Tensor, key: tf.Tensor) -> dict[str, tf.Tensor]:
        """A view of each history, packed; its slots are numbered by user."""
        assert self.view_slots is not None
        options, packing = self.config.augment, self.packings["view"]
        choice, slot = self.view_slots.draw(key)
        view = random_view(rows, key, options.augmentations, options.crop_ratio, options.mask_ratio, options.reorder_ratio, choice)
        users = rows.shape[0]
        user_of = tf.tensor_scatter_nd_update(tf.fill([len(packing.last) + 1], users), slot[:, None], tf.range(users))
        part = _part(view, Packing(tf.gather(user_of, packing.slot), packing.distance, packing.last))
        return part | {"last": tf.gather(part["last"], slot)}

    def _negatives(self, examples: dict[str, tf.Tensor], target: tf.Tensor, known: tf.Tensor, key: tf.Tensor) -> dict[str, tf.Tensor]:
        """Sampled negatives for the losses that need them, uniform over the catalogue. `known` `[slots, n]` are items of each history."""
        loss = self.config.loss
        if loss.next_item == "sampled_softmax":
            negatives = tf.random.stateless_uniform([loss.num_negatives], key, 1, self.num_items + 1, tf.int32)
            return {"negatives": negatives, "negative_log_rates": tf.fill([loss.num_negatives], -np.log(self.num_items).astype(np.float32))}
        if loss.next_item != "bce":
            return {}
        # The official code draws outside the user's whole sequence, held-out items included, which tells a little about them.
        # Here a draw is only kept off the history and the target; after three draws it is taken as it comes.
        if self.users == "examples":
            known = tf.gather(tf.pad(known, [[0, 1], [0, 0]]), examples["slot"])
        draws = tf.random.stateless_uniform([3, *target.shape], key, 1, self.num_items + 1, tf.int32)
        negative = draws[0]
        for other in (draws[1], draws[2]):
            negative = tf.where(tf.reduce_any(negative[..., None] == known, axis=-1), other, negative)
        return {"negative": tf.where(target == PADDING, PADDING, negative)}


def _part(rows: tf.Tensor, packing: Packing) -> dict[str, tf.Tensor]:
    """Left-padded rows `[slots, width]` in a layout, with what tells the cells apart."""
    slot, distance = tf.convert_to_tensor(packing.slot), tf.constant(packing.distance)
    return {"history": _packed(rows, slot, distance), "slot": slot, "distance": distance, "last": tf.constant(packing.last)}


def _packed(rows: tf.Tensor, slot: tf.Tensor, distance: tf.Tensor) -> tf.Tensor:
    """Left-padded rows `[slots, width]` laid out in cells; cells of no slot are padding."""
    width = rows.shape[1]
    flat = tf.reshape(tf.pad(rows, [[0, 1], [0, 0]]), [-1])
    return tf.gather(flat, slot * width + (width - 1 - distance))
