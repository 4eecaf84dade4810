"""The embedded data set: simulated users whose latent intents are planted, so that their recovery can be measured.

The generator, in full (`K` intents, `N` items; `Oracle` inverts exactly this):

- A user's first intent is uniform over all `K`. From one event to the next it switches, with probability `sim_switch`, to another
  intent, uniform over the `K - 1` others. Few switches in a life mean that a user holds one or a few intents.
- An intent owns a region of the catalogue: an equal share of all items, plus items shared with another intent. Within a region
  popularity is Zipf, `p(rank) ~ 1 / rank ** sim_zipf`; a shared item has an independent rank in each of its two regions.
- With probability `sim_noise` an event is noise and its item is uniform over the catalogue; otherwise the item follows the intent.
- A user never gets an item twice: the item is drawn again until it is new, while intent and noise decision stay, so that shares stay as
  configured. Where a region has nothing new left for the user, the event is noise.
- With drift, a share of the regions' slots exchange their items over the simulated year: after the fraction `f` of it, such a slot gives
  the item of the end of the year with probability `f`, else the one of the beginning.
"""

from __future__ import annotations

import numpy as np

from elcrec_tf.config import SimulatorConfig
from elcrec_tf.data.catalog import Catalog
from elcrec_tf.data.planted import EXHAUSTED, YEAR_SECONDS, YEAR_START, PlantedIntents, planted, year_fraction
from elcrec_tf.data.sequences import Sequences

MIN_EVENTS = 5
_LONGEST_STAY = 0.25  # of the year
_USER_BLOCK = 32_768  # users simulated together: bounds the memory of their padded histories
_REDRAWS = 16  # cheap redraws before the rest is drawn exactly
_DENSE_CELLS = 1 << 22  # cells of the largest dense table of weights


def simulate(config: SimulatorConfig, population: int = 0) -> Sequences:
    """Simulated sequences with the planted intent of every event, the same for the same `config` and `population`.

    Another `population` has other users of the same world: the items, intents and laws of events stay. Models train on population 0.

    Item ids are `item-0042` (the number is the catalogue index), titles tell the planted intents and ranks (`intent 07 / rank 3`), user
    ids are `user-00017`, timestamps are seconds since 1970 within 2024 and strictly increase within a user. `intents` holds a user's
    latent intent at each event, noise included. `catalog.counts` leaves out each user's last two events.

    Raises:
        UserError: for sizes that do not fit together.
    """
    world = planted(config)
    rng = np.random.default_rng([config.sim_seed, 1, population])
    lengths = _activity(config, rng)
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    intents = _intents(world, offsets, rng)
    timestamps = _timestamps(offsets, rng)
    items = _items(world, offsets, intents, year_fraction(timestamps), rng)

    training = np.ones(len(items), bool)
    training[offsets[1:] - 1] = training[offsets[1:] - 2] = False
    counts = np.bincount(items[training], minlength=config.sim_items + 1)[1:]
    ids = _ids("item", config.sim_items, start=1)
    return Sequences(
        name="simulated",
        user_ids=np.array(_ids("user", config.sim_users, start=0), dtype=object),
        items=items,
        offsets=offsets,
        catalog=Catalog(ids, counts, _titles(world, ids)),
        timestamps=timestamps,
        intents=intents,
    )


def _activity(config: SimulatorConfig, rng: np.random.Generator) -> np.ndarray:
    """int64 `[users]` numbers of events: 5 + a log-normal (sigma 1) number, of mean `sim_events` before the cap.

    The cap (ten times the mean excess, at most half the catalogue) bounds the memory, and the redraws of a user's last events.
    """
    excess = config.sim_events - MIN_EVENTS
    drawn = excess * rng.lognormal(-0.5, 1.0, config.sim_users)
    cap = min(10 * excess, config.sim_items // 2 - MIN_EVENTS)
    # Rounding up by chance keeps the mean.
    return MIN_EVENTS + np.floor(np.minimum(drawn, cap) + rng.random(config.sim_users)).astype(np.int64)


def _intents(world: PlantedIntents, offsets: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """int32 `[events]` latent intents: a running sum, modulo the number of intents, of steps that are 0 where the intent stays."""
    events, count = int(offsets[-1]), world.num_intents
    if count == 1:
        return np.zeros(events, np.int32)
    steps = np.where(rng.random(events) < world.switch, rng.integers(1, count, events), 0)
    steps[offsets[:-1]] = rng.integers(0, count, len(offsets) - 1)
    walk = np.cumsum(steps)
    before = walk[offsets[:-1]] - steps[offsets[:-1]]
    return ((walk - np.repeat(before, np.diff(offsets))) % count).astype(np.int32)


def _timestamps(offsets: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """int64 `[events]` seconds: users stay for up to a quarter of the year, with log-normal gaps (bursts and pauses) between events.

    They come and go all year, so that an early date does not mean an early position, where the popular items are.
    """
    lengths = np.diff(offsets)
    user = np.repeat(np.arange(len(lengths)), lengths)
    position = np.arange(offsets[-1]) - offsets[user]
    passed = np.concatenate(([0.0], np.cumsum(rng.lognormal(0.0, 1.5, offsets[-1]))))
    share_of_stay = (passed[1:] - passed[offsets[user]]) / np.diff(passed[offsets])[user]
    stay = _LONGEST_STAY * rng.random(len(lengths))
    arrival = (1.0 - stay) * rng.random(len(lengths))
    fraction = arrival[user] + stay[user] * share_of_stay
    # One second a position makes the times strictly increase.
    return YEAR_START + np.floor(fraction * (YEAR_SECONDS - lengths[user])).astype(np.int64) + position


def _items(world: PlantedIntents, offsets: np.ndarray, intents: np.ndarray, fractions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """int32 `[events]` item indices: position by position, all users of a block at once."""
    draw = _ItemDraw(world, rng)
    noise = rng.random(len(intents)) < world.noise
    items = np.empty(len(intents), np.int32)
    for first in range(0, len(offsets) - 1, _USER_BLOCK):
        bounds = offsets[first : first + _USER_BLOCK + 1]
        order = np.argsort(-np.diff(bounds), kind="stable")  # the most active first: those with a further event are a prefix
        starts, lengths = bounds[:-1][order], np.diff(bounds)[order]
        history = np.zeros((len(starts), lengths[0]), np.int32)
        for position in range(lengths[0]):
            active = int(np.searchsorted(-lengths, -position))
            events = starts[:active] + position
            drawn = draw.unseen(history[:active, :position], intents[events], noise[events], fractions[events])
            history[:active, position] = items[events] = drawn
    return items


class _ItemDraw:
    """Draws items that a user has not seen, for many users at once."""

    def __init__(self, world: PlantedIntents, rng: np.random.Generator):
        self._world, self._rng = world, rng
        self._drifts = world.drifts
        self._slots = world.items.shape[1]
        self._last_slot = np.arange(world.num_intents) * self._slots + (world.items > 0).sum(axis=1) - 1
        # Intent k's cumulative probabilities run from k to k + 1, so one sorted table serves all intents.
        self._cumulative = (np.cumsum(world.probabilities, axis=1) + np.arange(world.num_intents)[:, None]).ravel()

    def unseen(self, history: np.ndarray, intents: np.ndarray, noise: np.ndarray, fractions: np.ndarray) -> np.ndarray:
        """int32 `[n]` items that are not in `history` `[n, seen]`, for `intents`, `noise` decisions and year `fractions`, all `[n]`."""
        drawn = self._any(intents, noise, fractions)
        again = np.flatnonzero((history == drawn[:, None]).any(axis=1))
        for _ in range(_REDRAWS):
            if not len(again):
                return drawn
            drawn[again] = self._any(intents[again], noise[again], fractions[again])
            again = again[(history[again] == drawn[again, None]).any(axis=1)]
        # Few are left, but redrawing might take them forever.
        for part in np.array_split(again, len(again) * (self._world.num_items + 1) // _DENSE_CELLS + 1):
            drawn[part] = self._exact(history[part], intents[part], noise[part], fractions[part])
        return drawn

    def _any(self, intents: np.ndarray, noise: np.ndarray, fractions: np.ndarray) -> np.ndarray:
        """int32 `[n]` items, seen or not."""
        slot = np.searchsorted(self._cumulative, intents + self._rng.random(len(intents)), side="right")
        slot = np.minimum(slot, self._last_slot[intents])  # rounding may step over a region's end
        items = self._world.items.ravel()[slot]
        if self._drifts:
            ended = self._rng.random(len(intents)) < fractions
            items[ended] = self._world.end_items.ravel()[slot[ended]]
        items[noise] = self._rng.integers(1, self._world.num_items + 1, int(noise.sum()), dtype=np.int32)
        return items

    def _exact(self, history: np.ndarray, intents: np.ndarray, noise: np.ndarray, fractions: np.ndarray) -> np.ndarray:
        """int32 `[n]` unseen items by inverting the cumulative distribution over the whole catalogue."""
        unseen = np.ones((len(intents), self._world.num_items + 1), bool)
        np.put_along_axis(unseen, history, False, axis=1)
        unseen[:, 0] = False
        weights = self._world.item_probabilities(intents, fractions) * unseen
        uniform = noise | (weights.sum(axis=1) <= EXHAUSTED)
        weights[uniform] = unseen[uniform]
        cumulative = np.cumsum(weights, axis=1)
        # The first cell above the threshold has weight: `cumulative` rises only there. The factor is below 1.
        threshold = self._rng.random((len(intents), 1)) * cumulative[:, -1:]
        return np.argmax(cumulative > threshold, axis=1).astype(np.int32)


def _ids(kind: str, count: int, *, start: int) -> list[str]:
    width = max(len(str(start + count - 1)), 4 if kind == "item" else 5)
    return [f"{kind}-{number:0{width}d}" for number in range(start, start + count)]


def _titles(world: PlantedIntents, ids: list[str]) -> dict[str, str]:
    """Item id -> its intents and its popularity ranks (from 1) in their regions, at the beginning of the year."""
    width = max(2, len(str(world.num_intents - 1)))
    titles: dict[str, str] = {}
    for intent, rank in np.argwhere(world.items > 0).tolist():
        raw = ids[world.items[intent, rank] - 1]
        text = f"intent {intent:0{width}d} / rank {rank + 1}"
        titles[raw] = f"{titles[raw]}, {text}" if raw in titles else text
    return titles
