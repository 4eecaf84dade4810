"""The intents that the simulator plants: regions of the catalogue, their popularity and their drift. Which law of events they serve
is told in `elcrec_tf.data.simulate`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from elcrec_tf.config import SimulatorConfig
from elcrec_tf.errors import UserError

YEAR_START, YEAR_SECONDS = 1_704_067_200, 366 * 86_400  # the simulated year is 2024, UTC
EXHAUSTED = 1e-12
"""A region whose unseen probability is at most this has nothing new left for the user."""


@dataclass(frozen=True, eq=False)
class PlantedIntents:
    """What the generator knows before any user is born: the intents, their regions and the laws of events.

    Attributes:
        num_items: size of the catalogue.
        items: `[intents, slots]` int32 catalogue indices of each region by popularity rank, padded with 0.
        end_items: `[intents, slots]` int32, the same at the end of the simulated year; equal to `items` without drift.
        probabilities: `[intents, slots]` float64 Zipf probabilities of the slots, 0 for padding; rows sum to 1.
        switch: probability that the intent switches from one event to the next.
        noise: probability that an event is noise.
    """

    num_items: int
    items: np.ndarray
    end_items: np.ndarray
    probabilities: np.ndarray
    switch: float
    noise: float

    @property
    def num_intents(self) -> int:
        return len(self.items)

    @property
    def drifts(self) -> bool:
        return not np.array_equal(self.items, self.end_items)

    def item_probabilities(self, intents: np.ndarray, fractions: np.ndarray) -> np.ndarray:
        """Item distributions of `intents` `[n]` at the year's `fractions` `[n]`: float64 `[n, num_items + 1]`, column 0 for padding."""
        dense = np.zeros((len(intents), self.num_items + 1))
        rows = np.arange(len(intents))[:, None]
        for items, share in ((self.items, 1.0 - fractions), (self.end_items, fractions)):
            # `add.at`, because drift may give one item two slots of a region.
            np.add.at(dense, (rows, items[intents]), self.probabilities[intents] * share[:, None])
        return dense


def year_fraction(timestamps: np.ndarray) -> np.ndarray:
    """float64 fraction of the simulated year that has passed, in [0, 1), for `timestamps` in seconds."""
    return (np.asarray(timestamps) - YEAR_START) / YEAR_SECONDS


def planted(config: SimulatorConfig) -> PlantedIntents:
    """The planted intents of a configuration: they depend on its seed and its catalogue, not on the number of users or events.

    Raises:
        UserError: for sizes that do not fit together.
    """
    _check_sizes(config)
    rng = np.random.default_rng([config.sim_seed, 0])
    owner, item = _memberships(config, rng)
    order = np.lexsort((rng.random(len(owner)), owner))  # random ranks within each region
    owner, item = owner[order], item[order]
    sizes = np.bincount(owner, minlength=config.sim_intents)
    rank = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)

    items = np.zeros((config.sim_intents, sizes.max()), np.int32)
    items[owner, rank] = item
    weights = np.where(items > 0, np.arange(1.0, items.shape[1] + 1) ** -config.sim_zipf, 0.0)
    return PlantedIntents(
        num_items=config.sim_items,
        items=items,
        end_items=_drifted(items, config.sim_drift, rng),
        probabilities=weights / weights.sum(axis=1, keepdims=True),
        switch=config.sim_switch if config.sim_intents > 1 else 0.0,
        noise=config.sim_noise,
    )


def _check_sizes(config: SimulatorConfig) -> None:
    if config.sim_items < 2 * config.sim_intents:
        raise UserError(
            "simulator.sim_items should be at least twice simulator.sim_intents, to give every intent a region: raise sim_items or "
            f"lower sim_intents. Received: {config.sim_items} items and {config.sim_intents} intents"
        )
    if config.sim_intents == 1 and config.sim_shared > 0:
        raise UserError(
            "simulator.sim_shared should be 0 with a single intent, which has none to share items with: set sim_shared to 0 or raise "
            f"simulator.sim_intents. Received: sim_shared={config.sim_shared}"
        )
    if 2 * config.sim_events > config.sim_items:
        raise UserError(
            "simulator.sim_events should be at most half of simulator.sim_items, since a user gets no item twice: raise sim_items or "
            f"lower sim_events. Received: {config.sim_events:g} events and {config.sim_items} items"
        )


def _memberships(config: SimulatorConfig, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (intent, item index): every item in its first intent's region, shared items also in a second one's."""
    items = rng.permutation(config.sim_items) + 1
    first = np.arange(config.sim_items) % config.sim_intents  # equal regions
    shared = np.sort(rng.permutation(config.sim_items)[: int(np.ceil(config.sim_shared * config.sim_items))])
    if not len(shared):
        return first, items
    second = (first[shared] + rng.integers(1, config.sim_intents, len(shared))) % config.sim_intents
    return np.concatenate((first, second)), np.concatenate((items, items[shared]))


def _drifted(items: np.ndarray, drift: float, rng: np.random.Generator) -> np.ndarray:
    """`items` after a random share `drift` of each region's slots has exchanged items, across all intents and ranks."""
    place = np.argsort(np.argsort(np.where(items > 0, rng.random(items.shape), np.inf), axis=1), axis=1)
    moving = place < np.ceil(drift * (items > 0).sum(axis=1, keepdims=True))
    end = items.copy()
    end[moving] = rng.permutation(items[moving])
    return end
