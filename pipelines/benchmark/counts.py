"""What one training step has to encode and to compare, in real items: padding is no work that must be done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from elcrec_tf.config import AugmentConfig, Config
from elcrec_tf.data.sequences import Sequences
from elcrec_tf.data.splits import training_ranges

_VIEWS = 2


@dataclass(frozen=True)
class Encoding:
    """One pass of the encoder. All numbers are means over the steps of an epoch.

    Attributes:
        sequences: sequences encoded.
        tokens: their items.
        pairs: (position, position that it sees) pairs, itself included: `n (n + 1) / 2` of a sequence of n items.
        last_only: only the last state of each sequence is used, so the top layer has to make no other.
    """

    sequences: float
    tokens: float
    pairs: float
    last_only: bool

    @property
    def outputs(self) -> float:
        """Positions whose final state is used."""
        return self.sequences if self.last_only else self.tokens

    @property
    def mean_length(self) -> int:
        return max(1, round(self.tokens / self.sequences))


@dataclass(frozen=True)
class Step:
    """The work of a mean training step.

    Attributes:
        users: users that the contrastive terms and ELCM see.
        targets: next items that are predicted.
        encodings: passes of the encoder.
        view_tokens: items in the two views together, 0 where there are no views.
    """

    users: float
    targets: float
    encodings: tuple[Encoding, ...]
    view_tokens: float

    @property
    def tokens(self) -> float:
        return sum(encoding.tokens for encoding in self.encodings)

    @property
    def outputs(self) -> float:
        return sum(encoding.outputs for encoding in self.encodings)


def training_inputs(sequences: Sequences) -> np.ndarray:
    """Input items of every user that is trained on: the training part without its last item, which is only a target."""
    starts, ends = training_ranges(sequences)
    return (ends - starts - 1)[ends - starts >= 2]


def count_step(sequences: Sequences, config: Config, steps: int) -> Step:
    """The mean step of an epoch of `steps` steps."""
    loss, longest = config.loss, config.model.max_length
    inputs = training_inputs(sequences)
    lengths = np.minimum(inputs, longest)
    pools_all = config.model.intent_pooling == "mean"

    def encoding(groups: Sequence[np.ndarray], last_only: bool, weight: float = 1.0) -> Encoding:
        rows = np.concatenate(groups)
        # official_padding means that padding positions enter pooled states: there they are work.
        rows = np.full(len(rows), longest) if loss.official_padding else rows
        share = weight / steps
        return Encoding(len(rows) * share, float(rows.sum()) * share, float((rows * (rows + 1) / 2).sum()) * share, last_only)

    contrasts = loss.sequence_weight > 0 or loss.intent_weight > 0
    if loss.examples == "positions":
        encodings, targets = [encoding([lengths], False)], lengths.sum()
    else:
        encodings, targets = [encoding([np.minimum(_prefix_lengths(inputs), longest)], True)], inputs.sum()
        if contrasts or config.elcm:
            encodings.append(encoding([lengths], not pools_all))
    view_tokens = 0.0
    if contrasts:
        groups = [kept_items(lengths, name, config.augment, longest) for name in config.augment.augmentations]
        encodings.append(encoding(groups, not (pools_all or loss.sequence_weight > 0), _VIEWS / len(groups)))
        view_tokens = encodings[-1].tokens
    return Step(len(lengths) / steps, float(targets) / steps, tuple(encodings), view_tokens)


def kept_items(lengths: np.ndarray, augmentation: str, augment: AugmentConfig, longest: int) -> np.ndarray:
    """Items of a view of histories of these lengths, see `elcrec_tf.augment`."""
    part = np.floor(lengths * getattr(augment, f"{augmentation}_ratio", 0.0) + 1e-9).astype(np.int64)
    at_least_one = np.minimum(np.maximum(part, 1), lengths)
    kept = {"crop": at_least_one, "mask": lengths - part, "insert": np.minimum(lengths + at_least_one, longest)}
    return kept.get(augmentation, lengths)


def _prefix_lengths(inputs: np.ndarray) -> np.ndarray:
    """1, 2, ..., n for every n of `inputs`, one after the other."""
    first = np.cumsum(inputs) - inputs
    return np.arange(inputs.sum()) - np.repeat(first, inputs) + 1
