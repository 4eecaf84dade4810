"""A simulated service that lives: day by day items and users come and go, tastes move, intents die and new ones appear.

What the embedded data set (`elcrec_tf.data.simulate`) is for training, this is for updating: the law of a day's events is nearly that of
the day before. In full:

- An item belongs to one intent, in which it is chosen in proportion to its popularity. That starts as Zipf by a random rank and makes a
  random walk, so yesterday's hit fades. Each day a share of the items moves to another intent, and new items join living ones.
- Every so many days one intent dies, another appears. The dead one's items go out of fashion: only noise still brings them. The new one
  brings new items of its own.
- Users come and go; a user has a level of activity (log-normal), holds an intent, and leaves it with a small probability from one event to
  the next, or when it dies. A share of events is noise: any item.
- Nobody gets an item twice. A user who has seen an intent's items gets noise instead.
"""

from __future__ import annotations

import typing
from dataclasses import dataclass

import numpy as np

from elcrec_tf.config_fields import Group, field
from elcrec_tf.data.events import Events, to_sequences
from elcrec_tf.data.planted import YEAR_START
from elcrec_tf.data.sequences import Sequences
from elcrec_tf.errors import UserError

DAY_SECONDS = 86_400
_REDRAWS = 16
_MOST_A_DAY = 20  # events of a user


@dataclass(frozen=True)
class DriftingConfig(Group):
    """The drifting simulation."""

    GROUP: typing.ClassVar[str] = "drifting"

    users: int = field(1000, "users on the first day; as many come as go", low=1)
    user_days: float = field(60.0, "mean number of days that a user stays", low=1)
    activity: float = field(0.7, "mean number of events of a user a day", above=0, high=10)
    items: int = field(600, "items on the first day; at least two an intent", low=10)
    items_a_day: int = field(8, "items that join living intents each day", low=0)
    intents: int = field(24, "living intents", low=2)
    turnover_days: int = field(3, "days after which one intent dies and another appears; 0 never", low=0)
    moving_items: float = field(0.01, "share of the items that move to another intent each day", low=0, high=1)
    trend: float = field(0.1, "standard deviation of the daily change of an item's log popularity", low=0)
    switch: float = field(0.1, "probability that a user's intent switches from one event to the next", low=0, high=1)
    noise: float = field(0.1, "share of events that follow no intent", low=0, high=1)
    zipf: float = field(1.0, "Zipf exponent of the items' popularity within an intent at their start", low=0, high=3)
    world_seed: int = field(0, "seed of the simulation (not of training)", low=0)


@dataclass(frozen=True, eq=False)
class DailyLog:
    """Events in the order of time.

    Attributes:
        users, items: `[events]` int64 numbers from 0, in the order in which they came into the world.
        days: `[events]` int64, from 0; times: `[events]` int64 seconds since 1970.
        intents: `[events]` int64 planted intent of the user at each event, noise included.
        lives: `[intents, 2]` int64: the first day of each intent, and the first one without it (-1 = it lives).
    """

    users: np.ndarray
    items: np.ndarray
    days: np.ndarray
    times: np.ndarray
    intents: np.ndarray
    lives: np.ndarray

    def between(self, first: int, last: int) -> DailyLog:
        """The events of the days from `first` to `last`, both included. Raises `UserError` where there are none."""
        if not ((self.days >= first) & (self.days <= last)).any():
            raise UserError(f"no event from day {first} to day {last}; days count from 0")
        keep = (self.days >= first) & (self.days <= last)
        return DailyLog(self.users[keep], self.items[keep], self.days[keep], self.times[keep], self.intents[keep], self.lives)

    def user_names(self) -> np.ndarray:
        """`[events]` raw ids, as a log has them."""
        return _names("user", self.users)

    def item_names(self) -> np.ndarray:
        return _names("item", self.items)

    def sequences(self, name: str) -> Sequences:
        """What a model trains on: `to_sequences` of all events, without a k-core (a new item has few events)."""
        order = np.lexsort((self.times, self.users))
        users, items = (_names(kind, np.arange(codes.max() + 1)) for kind, codes in (("user", self.users), ("item", self.items)))
        return to_sequences(Events(name, self.users[order], self.items[order], users, items, self.times[order]), name, k=1)


def _names(kind: str, numbers: np.ndarray) -> np.ndarray:
    return np.array([f"{kind}-{number:05d}" for number in numbers.tolist()], dtype=object)


def simulate_days(config: DriftingConfig, days: int) -> DailyLog:
    """The first `days` days: the same for the same `config`, whatever is asked for beyond them.

    Raises:
        UserError: for sizes that do not fit together.
    """
    if config.items < 2 * config.intents:
        raise UserError(f"drifting.items should be at least twice drifting.intents. Received: {config.items} and {config.intents}")
    world = _World(config)
    columns = [world.next_day() for _ in range(days)]
    users, items, of_days, times, intents = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    return DailyLog(users, items, of_days, times, intents, np.array(world.lives, np.int64))


class _World:
    """The state of the world at the end of a day."""

    def __init__(self, config: DriftingConfig) -> None:
        self.config = config
        self.day = -1
        self.lives: list[list[int]] = []
        self.home = np.zeros(0, np.int64)  # [items] intent of each; of a dead one, too
        self.popularity = np.zeros(0)  # [items] logarithm
        self.intent = np.zeros(0, np.int64)  # [users]
        self.activity = np.zeros(0)
        self.here = np.zeros(0, bool)
        self.seen = np.zeros((0, 0), bool)  # [users, items]

    def next_day(self) -> tuple[np.ndarray, ...]:
        """Columns of the day's events, in the order of time: user, item, day, time, intent."""
        self.day += 1
        # A generator a day: what happens tomorrow changes nothing today.
        self.rng = np.random.default_rng([self.config.world_seed, self.day])
        if self.day == 0:
            self.lives = [[0, -1] for _ in range(self.config.intents)]
            self._add_items(np.arange(self.config.items) % self.config.intents)
            self._add_users(self.config.users)
        else:
            self._drift()
        return self._events()

    def _living(self) -> np.ndarray:
        return np.flatnonzero(np.array(self.lives)[:, 1] < 0)

    def _add_items(self, homes: np.ndarray) -> None:
        share = max(self.config.items // self.config.intents, 2)  # of an intent: a new item's rank is any
        ranks = self.rng.integers(1, share + 1, len(homes))
        self.home = np.concatenate([self.home, homes])
        self.popularity = np.concatenate([self.popularity, -self.config.zipf * np.log(ranks)])
        self.seen = np.pad(self.seen, ((0, 0), (0, len(homes))))

    def _add_users(self, count: int) -> None:
        self.intent = np.concatenate([self.intent, self.rng.choice(self._living(), count)])
        activity = self.config.activity * self.rng.lognormal(-0.5, 1.0, count)
        self.activity = np.concatenate([self.activity, np.minimum(activity, _MOST_A_DAY / 2)])
        self.here = np.concatenate([self.here, np.ones(count, bool)])
        self.seen = np.pad(self.seen, ((0, count), (0, 0)))

    def _drift(self) -> None:
        config, rng = self.config, self.rng
        self.popularity += config.trend * rng.standard_normal(len(self.popularity))
        if config.turnover_days and self.day % config.turnover_days == 0:
            self.lives[rng.choice(self._living())][1] = self.day
            self.lives.append([self.day, -1])
            self._add_items(np.full(config.items // config.intents, len(self.lives) - 1))
        living = self._living()
        moving = (rng.random(len(self.home)) < config.moving_items) & np.isin(self.home, living)
        self.home[moving] = rng.choice(living, int(moving.sum()))
        self._add_items(rng.choice(living, config.items_a_day))
        self.here &= rng.random(len(self.here)) >= 1 / config.user_days
        self._add_users(int(rng.poisson(config.users / config.user_days)))

    def _events(self) -> tuple[np.ndarray, ...]:
        counts = np.minimum(self.rng.poisson(self.activity * self.here), _MOST_A_DAY)
        draw = _Draw(self.home, self.popularity, len(self.lives))
        parts = []
        for place in range(int(counts.max(initial=0))):
            users = np.flatnonzero(counts > place)
            items, happened = self._items(users, draw)
            users, items = users[happened], items[happened]
            self.seen[users, items] = True
            # The place-th event of as many falls into the place-th part of the day.
            within = (place + self.rng.random(len(users))) / counts[users]
            times = YEAR_START + self.day * DAY_SECONDS + (within * (DAY_SECONDS - 1)).astype(np.int64)
            parts.append((users, items, np.full(len(users), self.day), times, self.intent[users]))
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)] if parts else [np.zeros(0, np.int64)] * 5
        order = np.argsort(columns[3], kind="stable")
        return tuple(column[order] for column in columns)

    def _items(self, users: np.ndarray, draw: _Draw) -> tuple[np.ndarray, np.ndarray]:
        """(`[users]` items, whether there is an unseen one); the users' intents move on."""
        rng, living = self.rng, self._living()
        leaves = (rng.random(len(users)) < self.config.switch) | ~np.isin(self.intent[users], living)
        self.intent[users[leaves]] = rng.choice(living, int(leaves.sum()))
        noise = rng.random(len(users)) < self.config.noise
        items = np.where(noise, rng.integers(0, len(self.home), len(users)), draw(self.intent[users], rng))
        for turn in range(2 * _REDRAWS):
            again = np.flatnonzero(self.seen[users, items])
            anything = noise[again] | (turn >= _REDRAWS)
            drawn = draw(self.intent[users[again]], rng)
            items[again] = np.where(anything, rng.integers(0, len(self.home), len(again)), drawn)
        return items, ~self.seen[users, items]


class _Draw:
    """Draws items of intents by a day's popularity."""

    def __init__(self, home: np.ndarray, popularity: np.ndarray, intents: int) -> None:
        self.order = np.argsort(home, kind="stable")
        homes, weights = home[self.order], np.exp(popularity[self.order])
        totals = np.bincount(homes, weights, intents)
        before = np.concatenate([[0.0], np.cumsum(totals)])[homes]
        # Intent k's cumulative shares run from k to k + 1, so one sorted table serves all intents.
        self.cumulative = homes + (np.cumsum(weights) - before) / totals[homes]
        self.last = np.searchsorted(homes, np.arange(intents), side="right") - 1

    def __call__(self, intents: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        place = np.searchsorted(self.cumulative, intents + rng.random(len(intents)), side="right")
        return self.order[np.minimum(place, self.last[intents])]  # rounding may step over an intent's end
