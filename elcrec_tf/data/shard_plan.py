"""How the users of shards are cut into blocks and batches, from what the manifest says of their lengths."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from elcrec_tf.data.shards import ShardedSequences
from elcrec_tf.errors import UserError

_STEPS = 64  # most steps a block: some thousands of users, few enough to hold, enough to have everyone's mixture of lengths
_DEVIATIONS = 5  # room for a block's mixture to differ from everyone's: a history is cut about once in a million


@dataclass(frozen=True)
class ShardPlan:
    """An epoch is `blocks` blocks of `batches` batches of as many users as `longest` has slots.

    longest: `[slots]`, inputs of the longest history that each slot expects, ascending.
    windows: `[batches * slots, 2]`, (0, inputs) of users whose lengths are like a block's, ascending; empty ones come first.
    """

    blocks: int
    batches: int
    longest: np.ndarray
    windows: np.ndarray

    @property
    def block(self) -> int:
        """Users a block."""
        return len(self.windows)

    @staticmethod
    def of(shards: ShardedSequences, batch_size: int, most: int, workers: int) -> ShardPlan:
        """The plan of each of `workers` workers, made for the one with the most users.

        Raises:
            UserError: when there are fewer shards than workers, or no user has two events in the training part.
        """
        if not shards.num_training_users:
            raise UserError(f"data set {shards.name!r}: no user has two events in the training part")
        if len(shards.manifest["shards"]) < workers:
            count = len(shards.manifest["shards"])
            raise UserError(
                f"data set {shards.name!r} has {count} shards for {workers} workers; prepare it with --shards {workers} or more"
            )
        users = max(sum(shards.training_users_of(worker, workers)) for worker in range(workers))
        steps = -(-users // -(-batch_size // workers))
        blocks = -(-steps // _STEPS)
        batches = -(-steps // blocks)
        slots = -(-users // (blocks * batches))
        block = slots * batches
        lengths, counts = shards.training_lengths
        reached = np.cumsum(counts) / counts.sum()
        inputs = np.minimum(lengths - 1, most)
        empty = blocks * block - users
        if blocks == workers == 1:  # the block is everyone: its lengths are known
            longest = np.concatenate([np.zeros(empty, np.int64), np.repeat(inputs, counts)])
            return ShardPlan(1, batches, longest.reshape(slots, batches).max(axis=1), _windows(longest))
        share = np.arange(1, slots + 1) / slots
        room = _DEVIATIONS * np.sqrt(share * (1 - share) / block)
        expected = inputs[np.searchsorted(reached, np.minimum(share + room, 1) - 1e-12)]
        return ShardPlan(blocks, batches, expected, _windows(inputs[np.searchsorted(reached, (np.arange(block) + 0.5) / block)]))


def _windows(lengths: np.ndarray) -> np.ndarray:
    return np.stack([np.zeros_like(lengths), lengths], axis=1)
