"""Simulated users look at pages of recommendations, click by their planted intents, and stay or leave.

The law of a visit, in full:

- A page has `k` items: the policy's best for the user's history that this session has not shown yet.
- The user examines position `p` of a page (from 1) with probability `1 / p`, each independently: the position-based model.
- An examined item is clicked with `EAGERNESS` times the probability that the simulator gives it as the user's next event, by the user's
  latent intent of the moment and what the history holds (1 at most). The factor makes click-through rates of 2 to 3 % of the items shown
  in the embedded world; a factor of 1 is the simulator's law as it stands.
- Clicked items join the history. The intent has one step of the simulator's chain after a page with a click, or that ends a session.
- After a page with a click the user looks at another one with probability `STAY_AFTER_CLICK`, else with `STAY`. A session ends at the
  latest when the policy's answer is used up.
- With drift the experiment takes place at the end of the simulated year.

Page `n` of a user takes row `user` of random stream `n`, whatever the arm: equal policies give a user equal visits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from elcrec_tf.config import SimulatorConfig
from elcrec_tf.data.planted import EXHAUSTED, planted
from pipelines.abtest.audience import Audience, next_intents
from pipelines.abtest.feed import Feed
from pipelines.abtest.policies import Policy

EAGERNESS = 3.0
STAY_AFTER_CLICK, STAY = 0.9, 0.5


@dataclass(frozen=True, eq=False)
class Totals:
    """What each user did in the whole experiment, int64 `[users]` each: sessions, pages looked at, items shown on them, and clicks."""

    sessions: np.ndarray
    pages: np.ndarray
    impressions: np.ndarray
    clicks: np.ndarray


def visit(
    config: SimulatorConfig, audience: Audience, policies: Sequence[Policy], arms: np.ndarray, k: int, most_pages: int, seed: int
) -> Totals:
    """Let every user of an audience have all sessions.

    Args:
        config: the world.
        audience: the users; they stay as they are.
        policies, arms, k, most_pages: see `Feed`.
        seed: of the users' decisions.
    """
    visitors, feed = _Visitors(config, audience), Feed(policies, arms, k, most_pages)
    left = audience.sessions.copy()
    pages, impressions, clicks = np.zeros((3, len(arms)), np.int64)
    number = 0
    while left.any():
        users = np.flatnonzero(left)
        draws = np.random.default_rng([seed, number]).random((len(arms), 3 + k))[users]
        items = feed.next_page(users, visitors.histories)
        clicked = draws[:, 3:] < np.minimum(1.0, EAGERNESS * visitors.appeal(users, items)) / np.arange(1, k + 1)
        any_click = clicked.any(axis=1)
        pages[users] += 1
        impressions[users] += (items > 0).sum(axis=1)
        clicks[users] += clicked.sum(axis=1)

        stays = (draws[:, 2] < np.where(any_click, STAY_AFTER_CLICK, STAY)) & ~feed.used_up(users)
        visitors.click(users, items, clicked)
        feed.history_changed(users[any_click])
        moves = any_click | ~stays
        visitors.move_on(users[moves], draws[moves, :2])
        feed.end_session(users[~stays])
        left[users[~stays]] -= 1
        number += 1
    return Totals(audience.sessions, pages, impressions, clicks)


class _Visitors:
    """The users' state: histories, and what follows from them and the latent intent for the next click."""

    def __init__(self, config: SimulatorConfig, audience: Audience):
        self._config = config
        self.histories = [list(history) for history in audience.histories]
        self._intents = audience.intents.copy()
        count = config.sim_intents
        # [items + 1, intents]: how likely each intent gives each item, 0 for padding.
        self._likely = planted(config).item_probabilities(np.arange(count), np.ones(count)).T
        self._seen = np.array([self._likely[history].sum(axis=0) for history in self.histories])
        self._lengths = np.array([len(history) for history in self.histories])

    def appeal(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """`[n, k]` probability that each of `items` `[n, k]`, none of them in the history, is the next event; 0 for padding."""
        intents, noise = self._intents[users, None], self._config.sim_noise
        uniform = 1.0 / np.maximum(self._config.sim_items - self._lengths[users, None], 1)
        unseen = 1.0 - self._seen[users[:, None], intents]
        exhausted = unseen <= EXHAUSTED
        by_intent = (1.0 - noise) * self._likely[items, intents] / np.where(exhausted, 1.0, unseen) + noise * uniform
        return np.where(items == 0, 0.0, np.where(exhausted, uniform, by_intent))

    def click(self, users: np.ndarray, items: np.ndarray, clicked: np.ndarray) -> None:
        """Let the clicked of `items` `[n, k]` join the histories in the order of the page."""
        for row, position in np.argwhere(clicked):
            user, item = users[row], items[row, position]
            self.histories[user].append(int(item))
            self._seen[user] += self._likely[item]
            self._lengths[user] += 1

    def move_on(self, users: np.ndarray, draws: np.ndarray) -> None:
        """One step of the intents' chain."""
        self._intents[users] = next_intents(self._intents[users], draws, self._config)
