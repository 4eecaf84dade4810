"""tf.data batches for training: histories and their views, packed in rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from elcrec_tf.augment import random_view, view_length
from elcrec_tf.config import Config
from elcrec_tf.data.history import latest_items, prepare_history
from elcrec_tf.data.item_similarity import similar_items
from elcrec_tf.data.negatives import NegativeSampler, one_negative
from elcrec_tf.data.packing import Packing, pack
from elcrec_tf.data.sequences import Sequences
from elcrec_tf.data.shard_plan import ShardPlan
from elcrec_tf.data.shard_stream import training_blocks
from elcrec_tf.data.shards import AnySequences, ShardedSequences, in_memory
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


def training_batches(
    sequences: AnySequences, config: Config, first_epoch: int = 0, replicas: int = 1, shares: range | None = None
) -> TrainingData:
    """Training batches `(x, y)` for `ELCRec.compute_loss`.

    An epoch shows every example once, shuffled. Several histories share a row, in a layout that is the same for every batch (see
    `elcrec_tf.data.packing`): sorted by length, the examples are cut into as many strata as a batch has slots, and each batch gets
    one of each stratum at random, so slot i never needs more cells than the longest example of stratum i. Shuffling, views and
    negatives are functions of (seed, epoch, step): a run that starts at `first_epoch` gets what an uninterrupted one gets there.

    Several replicas share a batch: its examples are those that one would get, neighbours by length in one replica each. So is the sample
    of uniform or log-uniform negatives that the sampled softmax shares; in-batch and mixed ones are drawn from each replica's own targets,
    and views and BCE's negatives are each replica's own.

    x: `examples`, and `users` beside prefixes, and `view_a`, `view_b` of the users where a contrastive weight is above 0. Each is a
    dict of int32 `history`, `slot`, `distance` `[rows, length]` and `last` `[slots]`.
    y: `target` (`[rows, length]`, or `[slots]` for prefixes); `negative` or `negatives` and `negative_log_rates`, by the loss.

    Args:
        sequences: all users; those in shards are streamed, see `streamed_batches`.
        config: the configuration.
        first_epoch: counted from 0.
        replicas: devices that share a batch.
        shares: which replicas' shares of each batch to make, one layout below the other; all of them if None.

    Raises:
        UserError: when no user has two events in the training part.
    """
    shares = range(replicas) if shares is None else shares
    if isinstance(sequences, ShardedSequences):
        return streamed_batches(sequences, config, first_epoch, replicas, shares)
    windows = _windows(sequences, config.loss.examples)
    if not len(windows["examples"]):
        raise UserError(f"data set {sequences.name!r}: no user has the 4 events that training needs (2, and 2 held out)")
    steps = -(-len(windows["examples"]) // config.train.batch_size)
    deals = {name: _Deal.of(part, steps, salt) for salt, (name, part) in enumerate(windows.items())}
    batches = _Batches(sequences, config, deals, range(replicas))
    items = tf.constant(sequences.items, tf.int32)

    def epoch_of(epoch: tf.Tensor) -> tf.data.Dataset:
        dealt = {name: deal.epoch(config.train.seed, epoch) for name, deal in deals.items()}
        return _steps(items, epoch, tf.range(steps, dtype=tf.int64), dealt)

    dataset = tf.data.Dataset.range(first_epoch, _MANY_EPOCHS).flat_map(epoch_of)
    return TrainingData(batches.of_steps(dataset, replicas, shares), steps, batches.padding_share)


def streamed_batches(shards: ShardedSequences, config: Config, first_epoch: int, replicas: int, shares: range) -> TrainingData:
    """`training_batches` of users in shards, in memory that does not grow with the data.

    Users are read in blocks of a few thousand, and each block is dealt to its batches as all users in memory are: the layout is made
    for the lengths that the manifest tells, with some room for what differs between blocks. Where even that is too little, a history
    loses its oldest items.

    A worker reads its own shards: of n workers with as many replicas each, every n-th one. All have the same number of steps.

    Args:
        shards: the data set.
        config: the configuration; `batch_size` is that of all workers together.
        first_epoch, replicas: see `training_batches`.
        shares: the replicas of this worker.

    Raises:
        UserError: for prefixes as examples, the official negatives, or fewer shards than workers.
    """
    if config.loss.examples == "prefixes":
        in_memory(shards, "--examples prefixes")
    worker, workers = shares.start // len(shares), replicas // len(shares)
    plan = ShardPlan.of(shards, config.train.batch_size, config.model.max_length, workers)
    deal = _Deal(plan.windows, plan.longest, plan.batches, salt=0)
    batches = _Batches(shards, config, {"examples": deal}, shares)
    seed, files = config.train.seed, tf.constant(shards.files(worker, workers))

    def block_of(epoch: tf.Tensor, block: tf.Tensor, users: tf.RaggedTensor) -> tf.data.Dataset:
        items = tf.concat([[PADDING], users.flat_values], axis=0)  # never without an item, where all windows are empty
        starts, ends = users.row_splits[:-1] + 1, users.row_splits[1:] + 1
        windows = tf.stack([starts, tf.maximum(ends - 1, starts)], axis=1)
        dealt = {"examples": deal.deal(windows, tf.stack([tf.cast(seed * 1009, tf.int64), epoch * 1_000_003 + block * 2]))}
        return _steps(items, epoch, block * plan.batches + tf.range(plan.batches, dtype=tf.int64), dealt)

    def epoch_of(epoch: tf.Tensor) -> tf.data.Dataset:
        key = tf.stack([tf.cast(seed, tf.int64), epoch])
        users = training_blocks(shards, files, key, config.model.max_length, plan.block, plan.blocks)
        return tf.data.Dataset.zip((tf.data.Dataset.range(plan.blocks), users)).flat_map(lambda *block: block_of(epoch, *block))

    dataset = tf.data.Dataset.range(first_epoch, _MANY_EPOCHS).flat_map(epoch_of)
    return TrainingData(batches.of_steps(dataset, replicas, shares), plan.batches * plan.blocks, batches.padding_share)


def _steps(items: tf.Tensor, epoch: tf.Tensor, steps: tf.Tensor, dealt: dict[str, tf.Tensor]) -> tf.data.Dataset:
    """What `_Batches.of_steps` takes: (items, epoch, step, windows dealt to the step's batch)."""
    # Each element refers to the same items: nothing is copied.
    return tf.data.Dataset.from_tensor_slices((steps, dealt)).map(lambda step, part: (items, epoch, step, part))


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


def _share(dealt: tf.Tensor, replica: int, replicas: int) -> tf.Tensor:
    """A replica's windows of those dealt to a batch: the strata go round. Empty ones fill up in front, where the shortest stand."""
    return tf.pad(dealt, [[-dealt.shape[0] % replicas, 0], [0, 0]])[replica::replicas]


class _Batches:
    """Makes each replica's batch from the windows dealt to the `holders`, the replicas that share them."""

    def __init__(self, sequences: AnySequences, config: Config, deals: dict[str, _Deal], holders: range) -> None:
        loss, most = config.loss, config.model.max_length
        self.config = config
        self.holders = holders
        self.num_items = sequences.catalog.num_items
        self.sampler = (
            NegativeSampler(loss.negatives, loss.num_negatives, sequences.catalog) if loss.next_item == "sampled_softmax" else None
        )
        # The official negatives are kept off whole sequences; others need no more than the example. A stream holds no held-out items.
        self.longest_sequence = 0
        if loss.negatives == "official":
            self.longest_sequence = int(np.diff(in_memory(sequences, "--negatives official").offsets).max())
        self.users = "users" if "users" in deals else "examples"
        # One layout serves all holders: a slot holds the longest of what goes round.
        longest = {name: np.clip(deal.longest[::-1][:: len(holders)][::-1], 1, most) for name, deal in deals.items()}
        if loss.official_padding:  # pooled states see the padding: every history has a row of full length
            longest = {name: np.full_like(lengths, most) for name, lengths in longest.items()}
        capacities = dict(longest)
        self.view_slots: ViewSlots | None = None
        if loss.sequence_weight or loss.intent_weight:
            self.view_slots = ViewSlots.of(longest[self.users], config.augment, own_rows=loss.official_padding, most=most)
            self.similar = similar_items(sequences, config.augment)
            capacities["view"] = self.view_slots.capacities
        # An insert may make a view longer than any history.
        self.width = max(int(one.max()) for one in capacities.values())
        self.packings = {name: pack(one, self.width) for name, one in capacities.items()}
        self.padding_share = self._padding_share(deals)

    def _padding_share(self, deals: dict[str, _Deal]) -> float:
        lengths = {name: np.minimum(deal.windows[:, 1] - deal.windows[:, 0], self.width) for name, deal in deals.items()}
        real = sum(float(part.sum()) for part in lengths.values())
        layouts = [self.packings[name].slot for name in deals]
        if self.view_slots is not None:
            ratios = self.config.augment.ratios
            kept = [view_length(name, lengths[self.users], ratio, self.config.model.max_length) for name, ratio in ratios]
            real += 2 * float(np.mean(kept, axis=0).sum())
            layouts += [self.packings["view"].slot] * 2
        batches = next(iter(deals.values())).batches
        return 1 - real / (batches * len(self.holders) * sum(layout.size for layout in layouts))

    def of_steps(self, dataset: tf.data.Dataset, replicas: int, shares: range) -> tf.data.Dataset:
        """Batches from what `_steps` makes: the layouts of the `shares` out of all `replicas`, one below the other."""

        def make(items: tf.Tensor, epoch: tf.Tensor, step: tf.Tensor, dealt: dict[str, tf.Tensor]) -> tuple[Any, Any]:
            made = []
            for replica in shares:
                key = tf.stack([self.config.train.seed * 1_000_003 + epoch, (step * replicas + replica) * 100])
                shared_key = tf.stack([key[0], step * 100 + 99])
                place = self.holders.index(replica)
                own = {name: _share(part, place, len(self.holders)) for name, part in dealt.items()}
                made.append(self.make(items, own, key, shared_key))
            return tf.nest.map_structure(lambda *share: tf.concat(share, axis=0), *made)

        return dataset.map(make, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(tf.data.AUTOTUNE)

    def make(
        self, items: tf.Tensor, dealt: dict[str, tf.Tensor], key: tf.Tensor, shared_key: tf.Tensor
    ) -> tuple[dict[str, Any], dict[str, tf.Tensor]]:
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
        if self.longest_sequence:  # the last target and the two held-out items follow a window
            known = latest_items(items, windows + tf.constant([0, 3], tf.int64), self.longest_sequence)
        shared = self.sampler is not None and self.sampler.of_catalogue
        return x, {"target": target} | self._negatives(x["examples"], target, known, shared_key if shared else key + 99)

    def _view(self, rows: tf.Tensor, key: tf.Tensor) -> dict[str, tf.Tensor]:
        """A view of each history, packed; its slots are numbered by user."""
        assert self.view_slots is not None
        packing = self.packings["view"]
        choice, slot = self.view_slots.draw(key)
        view = random_view(rows, key, self.config.augment.ratios, choice, self.similar)
        users = rows.shape[0]
        user_of = tf.tensor_scatter_nd_update(tf.fill([len(packing.last) + 1], users), slot[:, None], tf.range(users))
        part = _part(view, Packing(tf.gather(user_of, packing.slot), packing.distance, packing.last))
        return part | {"last": tf.gather(part["last"], slot)}

    def _negatives(self, examples: dict[str, tf.Tensor], target: tf.Tensor, known: tf.Tensor, key: tf.Tensor) -> dict[str, tf.Tensor]:
        """Sampled negatives for the losses that need them. `known` `[slots, n]` are items of each history."""
        if self.sampler is not None:
            return self.sampler.draw(target, key)
        if self.config.loss.next_item != "bce":
            return {}
        if self.users == "examples":
            known = tf.gather(tf.pad(known, [[0, 1], [0, 0]]), examples["slot"])
        return {"negative": one_negative(target, known, self.num_items, key)}


def _part(rows: tf.Tensor, packing: Packing) -> dict[str, tf.Tensor]:
    """Left-padded rows `[slots, width]` in a layout, with what tells the cells apart."""
    slot, distance = tf.convert_to_tensor(packing.slot), tf.constant(packing.distance)
    return {"history": _packed(rows, slot, distance), "slot": slot, "distance": distance, "last": tf.constant(packing.last)}


def _packed(rows: tf.Tensor, slot: tf.Tensor, distance: tf.Tensor) -> tf.Tensor:
    """Left-padded rows `[slots, width]` laid out in cells; cells of no slot are padding."""
    width = rows.shape[1]
    flat = tf.reshape(tf.pad(rows, [[0, 1], [0, 0]]), [-1])
    return tf.gather(flat, slot * width + (width - 1 - distance))
