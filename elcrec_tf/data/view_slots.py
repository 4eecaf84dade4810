"""Which augmentation a view gets, and the slot that it is packed into."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from elcrec_tf.augment import view_length
from elcrec_tf.config import AugmentConfig


@dataclass(frozen=True)
class ViewSlots:
    """Draws an augmentation for every user of a batch so that the lengths of the views are the same in each batch.

    Users stand in the order of their slots' capacities. As many neighbours as there are augmentations get one each, in random order,
    and for each augmentation there is a slot as long as the longest of them needs. So a crop does not leave a third of a slot empty.

    capacities: `[slots]`; users: how many there are; kinds: how many augmentations; own_rows: every view in the slot of its user
    (all slots have one length).
    """

    capacities: np.ndarray
    users: int
    kinds: int
    own_rows: bool

    @staticmethod
    def of(longest: np.ndarray, augment: AugmentConfig, own_rows: bool, most: int) -> ViewSlots:
        """For users whose histories have at most `longest` `[users]` items, ascending; no view has more than `most`."""
        kinds = len(augment.augmentations)
        if own_rows:
            return ViewSlots(longest, len(longest), kinds, own_rows)
        # Groups are filled from the longest down, so the last of each is its longest.
        group_longest = longest[::-1][::kinds][::-1]
        kept = [view_length(name, group_longest, ratio, most) for name, ratio in augment.ratios]
        return ViewSlots(np.maximum(np.stack(kept, axis=1).reshape(-1), 1), len(longest), kinds, own_rows)

    def draw(self, key: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """(augmentation, slot) of each user's view, int32 `[users]`."""
        groups = -(-self.users // self.kinds)
        order = tf.argsort(tf.random.stateless_uniform([groups, self.kinds], key), axis=1)
        choice = tf.reshape(order, [-1])[groups * self.kinds - self.users :]
        if self.own_rows:
            return choice, tf.range(self.users)
        group = (tf.range(self.users) + (groups * self.kinds - self.users)) // self.kinds
        return choice, group * self.kinds + choice
