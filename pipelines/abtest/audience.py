"""The people of an experiment: fresh users of the simulated world, how active they are, and which arm each of them gets."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from elcrec_tf.config import SimulatorConfig
from elcrec_tf.data.simulate import simulate

GROUPS = ("new", "low", "medium", "high")
"""Activity groups: users without a history, and the thirds of the others by its length."""

NEW_SHARE = 0.1
_MORE_SESSIONS = 2.0


@dataclass(frozen=True, eq=False)
class Audience:
    """Users at the start of an experiment.

    Attributes:
        user_ids: `[users]` ids, by which arms are assigned.
        histories: item indices of each user, oldest first; empty for new users.
        intents: `[users]` the latent intent that each user comes with.
        sessions: `[users]` visits of each user during the experiment.
        groups: `[users]` index in `GROUPS`.
    """

    user_ids: list[str]
    histories: list[list[int]]
    intents: np.ndarray
    sessions: np.ndarray
    groups: np.ndarray


def recruit(config: SimulatorConfig, users: int, seed: int) -> Audience:
    """Fresh users of the world of `config`: of a population that no model was trained on, one for each `seed`.

    A tenth of the users are new. The others come with the whole history that the simulator gave them, and their intent has had one more
    chance to switch since. All have at least one session, and `Poisson(2 * activity)` more, where activity is the number of events in
    their simulated life (for new users one that is still to come) over the mean.
    """
    lives = simulate(dataclasses.replace(config, sim_users=users), population=1 + seed)
    assert lives.intents is not None
    rng = np.random.default_rng([config.sim_seed, 2, seed])
    lengths, starts, ends = np.diff(lives.offsets), lives.offsets[:-1], lives.offsets[1:]
    new = rng.random(users) < NEW_SHARE
    returning = next_intents(lives.intents[ends - 1], rng.random((users, 2)), config)
    known = np.where(new, 0, lengths)
    return Audience(
        user_ids=[f"visitor-{number}" for number in range(users)],
        histories=[lives.items[start : start + count].tolist() for start, count in zip(starts, known, strict=True)],
        intents=np.where(new, lives.intents[starts], returning),
        sessions=1 + rng.poisson(_MORE_SESSIONS * lengths / lengths.mean()),
        groups=activity_groups(known),
    )


def activity_groups(lengths: np.ndarray) -> np.ndarray:
    """Index in `GROUPS` for histories of `lengths` `[users]`. Equal lengths are in one group, so thirds are as equal as ties allow."""
    if not lengths.any():
        return np.zeros(len(lengths), int)
    bounds = np.quantile(lengths[lengths > 0], (1 / 3, 2 / 3))
    return np.where(lengths == 0, 0, 1 + np.searchsorted(bounds, lengths, side="left"))


def next_intents(intents: np.ndarray, draws: np.ndarray, config: SimulatorConfig) -> np.ndarray:
    """`[n]` intents after one step of the simulator's chain, by uniform `draws` `[n, 2]`: whether it switches, and where to."""
    others = config.sim_intents - 1
    if not others:
        return intents
    elsewhere = (intents + 1 + (draws[:, 1] * others).astype(int)) % config.sim_intents
    return np.where(draws[:, 0] < config.sim_switch, elsewhere, intents)


def assigned(user_ids: Sequence[str], salt: str) -> np.ndarray:
    """`[users]` 0 (arm A) or 1 (arm B) by a hash of salt and id: a user's arm depends on nothing else. Another salt splits anew."""
    return np.array([hashlib.sha256(f"{salt}/{user}".encode()).digest()[0] & 1 for user in user_ids])
