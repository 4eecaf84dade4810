"""The oracle: knows the simulator's generator, and so states the best reachable ranking and intent recovery."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from elcrec_tf.config import SimulatorConfig
from elcrec_tf.data.planted import EXHAUSTED, planted, year_fraction
from elcrec_tf.data.sequences import Sequences
from elcrec_tf.data.splits import holdout_positions
from elcrec_tf.errors import UserError

_CELLS = 1 << 22  # cells of the largest table, [users of a block, items (or intents)]
_Split = Literal["test", "validation"]


@dataclass
class _Beliefs:
    """What the oracle knows of a block of users after some of their events.

    Attributes:
        users: `[n]` places of the users in the data set, the longest history first.
        intents: `[n, K]` probability of each intent at the latest event; of each first intent where there was none.
        seen: `[epochs, n, K]` probability that each intent gives to the items seen, at the beginning (and the end) of the year.
        lengths: `[n]` events seen.
    """

    users: np.ndarray
    intents: np.ndarray
    seen: np.ndarray
    lengths: np.ndarray


class Oracle:
    """Exact inference in the generator of `simulate(config)`.

    The forward recursion over a user's events `i_1 ... i_t`, all of them different, with `z` the intent, `e` the noise and `N` items:

        prior_t(z)  = (1 - switch) post_{t-1}(z) + switch / (K - 1) (1 - post_{t-1}(z)),     prior_1 = 1 / K
        like_t(z)   = (1 - e) p_z(i_t) / (1 - sum_{s<t} p_z(i_s)) + e / (N - t + 1)
        post_t(z)   ~ prior_t(z) like_t(z)

    and `1 / (N - t + 1)` alone where intent `z` has nothing unseen left. With drift, `p_z` is the one at the event's time. The oracle
    knows the time of the event it predicts. It needs memory for `[items, intents]`, twice with drift. `target_ranks` scores the whole
    catalogue for every user, so millions of users are for `intent_posterior` alone.

    Args:
        config: the configuration that the sequences were simulated with.

    Raises:
        UserError: for sizes that do not fit together; by the methods, for sequences that this configuration cannot have made.
    """

    def __init__(self, config: SimulatorConfig):
        self._world = planted(config)
        intents = np.arange(self._world.num_intents)
        epochs = (0.0, 1.0) if self._world.drifts else (0.0,)
        # [epochs, items + 1, K]: rows of one item are contiguous, since the recursion looks up items.
        self._by_item = np.stack([self._world.item_probabilities(intents, np.full(len(intents), epoch)).T for epoch in epochs])

    def intent_posterior(self, sequences: Sequences, split: _Split = "test") -> np.ndarray:
        """float64 `[users, intents]` posterior of the latent intent at the latest event of each user's history.

        The truth it guesses is `sequences.intents[holdout_positions(sequences, split) - 1]`.
        """
        posterior = np.empty((sequences.num_users, self._world.num_intents))
        for beliefs in self._blocks(sequences, holdout_positions(sequences, split), self._world.num_intents):
            posterior[beliefs.users] = beliefs.intents
        return posterior

    def target_ranks(self, sequences: Sequences, split: _Split = "test") -> np.ndarray:
        """int64 `[users]` ranks (0 = best) of the held-out targets by exact predictive probability.

        The history is excluded. Ties count against the target: its rank is the number of other items that score at least as high.
        """
        ends = holdout_positions(sequences, split)
        ranks = np.empty(sequences.num_users, np.int64)
        for beliefs in self._blocks(sequences, ends, self._world.num_items):
            events = ends[beliefs.users]
            scores = self._unseen_scores(sequences, beliefs, self._epoch_weights(sequences, events))
            target = np.take_along_axis(scores, sequences.items[events][:, None], axis=1)
            ranks[beliefs.users] = (scores >= target).sum(axis=1) - 1
        return ranks

    def best_items(self, sequences: Sequences, count: int) -> np.ndarray:
        """int32 `[users, count]` unseen items that are likeliest to follow all events of each user, best first; 0 where none is left.

        Users may have no event at all. Equally likely items are in the catalogue's order.

        Raises:
            UserError: for a world with drift, where the answer depends on the time of the question.
        """
        if self._world.drifts:
            raise UserError("the oracle's recommendations need a world without drift: simulate the data with sim_drift 0")
        best = np.zeros((sequences.num_users, count), np.int32)
        for beliefs in self._blocks(sequences, sequences.offsets[1:], self._world.num_items):
            scores = self._unseen_scores(sequences, beliefs, np.ones((1, len(beliefs.users))))
            order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
            left = np.isfinite(np.take_along_axis(scores, order, axis=1))
            best[beliefs.users, : order.shape[1]] = np.where(left, order, 0)
        return best

    def _blocks(self, sequences: Sequences, ends: np.ndarray, width: int) -> Iterator[_Beliefs]:
        """Beliefs after each user's events before the position `ends`, in blocks of users that keep tables `[users, width]` small."""
        if sequences.catalog.num_items != self._world.num_items or sequences.timestamps is None:
            raise UserError("the oracle needs the sequences of its own simulator configuration, and their timestamps")
        lengths = ends - sequences.offsets[:-1]
        order = np.argsort(-lengths, kind="stable")
        size = max(1, _CELLS // width)
        for first in range(0, len(order), size):
            users = order[first : first + size]
            yield self._filtered(sequences, users, lengths[users])

    def _filtered(self, sequences: Sequences, users: np.ndarray, lengths: np.ndarray) -> _Beliefs:
        """The forward recursion over the first `lengths` (falling) events of `users`, all users at once."""
        count = self._world.num_intents
        beliefs = _Beliefs(
            users, np.full((len(users), count), 1.0 / count), np.zeros((len(self._by_item), len(users), count)), np.zeros_like(lengths)
        )
        for position in range(int(lengths[0])):
            active = int(np.searchsorted(-lengths, -position))  # a prefix, because lengths fall
            now = _Beliefs(users[:active], beliefs.intents[:active], beliefs.seen[:, :active], beliefs.lengths[:active])
            events = sequences.offsets[now.users] + position
            items = self._by_item[:, sequences.items[events]]
            weights = self._epoch_weights(sequences, events)
            factor, exhausted = self._factor(now, weights)
            uniform = 1.0 / (self._world.num_items - position)
            likelihood = factor * np.einsum("en,enk->nk", weights, items) + np.where(exhausted, 1.0, self._world.noise) * uniform
            joint = self._prior(now) * likelihood
            evidence = joint.sum(axis=1, keepdims=True)
            if not (evidence > 0).all():
                raise UserError("these sequences cannot come from the oracle's simulator configuration: an event is impossible in it")
            # `now` holds views: this updates `beliefs`.
            now.intents[:] = joint / evidence
            now.seen += items
            now.lengths += 1
        return beliefs

    def _prior(self, beliefs: _Beliefs) -> np.ndarray:
        """`[n, K]` probability of each intent at the next event. The uniform start is the chain's stationary law, so it needs no case."""
        others = max(self._world.num_intents - 1, 1)
        return (1.0 - self._world.switch) * beliefs.intents + self._world.switch / others * (1.0 - beliefs.intents)

    def _factor(self, beliefs: _Beliefs, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`(1 - e) / unseen probability` of each intent, 0 where it is exhausted, and where it is: both `[n, K]`."""
        unseen = 1.0 - np.einsum("en,enk->nk", weights, beliefs.seen)
        exhausted = unseen <= EXHAUSTED
        return np.where(exhausted, 0.0, (1.0 - self._world.noise) / np.where(exhausted, 1.0, unseen)), exhausted

    def _scores(self, beliefs: _Beliefs, weights: np.ndarray) -> np.ndarray:
        """`[n, items + 1]` predictive probabilities less the noise's share, which is the same for every unseen item."""
        factor, _ = self._factor(beliefs, weights)
        mixture = self._prior(beliefs) * factor
        return sum((mixture * weight[:, None]) @ items.T for weight, items in zip(weights, self._by_item, strict=True))

    def _unseen_scores(self, sequences: Sequences, beliefs: _Beliefs, weights: np.ndarray) -> np.ndarray:
        """`_scores`, with -inf for padding and what the beliefs have seen."""
        scores = self._scores(beliefs, weights)
        scores[:, 0] = -np.inf
        row = np.repeat(np.arange(len(beliefs.users)), beliefs.lengths)
        position = np.arange(len(row)) - np.repeat(np.cumsum(beliefs.lengths) - beliefs.lengths, beliefs.lengths)
        scores[row, sequences.items[sequences.offsets[beliefs.users][row] + position]] = -np.inf
        return scores

    def _epoch_weights(self, sequences: Sequences, events: np.ndarray) -> np.ndarray:
        """`[epochs, n]` weights of the item distributions at the beginning (and the end) of the year at `events`."""
        if len(self._by_item) == 1:
            return np.ones((1, len(events)))
        assert sequences.timestamps is not None  # `_blocks` has checked it
        fraction = year_fraction(sequences.timestamps[events])
        return np.stack((1.0 - fraction, fraction))
