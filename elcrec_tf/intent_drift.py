"""How latent intents moved between two models: one space for both, and which centre of one is which of the other. NumPy and SciPy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from elcrec_tf.intents import unit_rows


@dataclass(frozen=True)
class Match:
    """The same intent in two models, by its numbers there, and the cosine of its two centres."""

    old: int
    new: int
    cosine: float


@dataclass(frozen=True)
class IntentDrift:
    """What became of the intents: those that both models have, the old one's that are gone, and those that only the new one has."""

    kept: list[Match]
    died: list[int]
    appeared: list[int]


def rotation(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """The orthogonal matrix R that turns the old vectors' directions best onto the new ones' (orthogonal Procrustes): least ‖old R - new‖.

    Scores are cosines or dot products, so a model that is turned as a whole scores as before: two models that were trained apart share no
    axes, and only after this can their vectors be compared.

    Args:
        old, new: `[n, size]` vectors of the same n items in both models, n at least the size.
    """
    if len(old) < old.shape[1]:
        raise ValueError(f"There should be as many vectors as dimensions or more. Received: {len(old)} of size {old.shape[1]}")
    left, _, right = np.linalg.svd(unit_rows(old).T @ unit_rows(new))
    return left @ right


def match_intents(old: np.ndarray, new: np.ndarray, old_alive: np.ndarray, new_alive: np.ndarray, same: float) -> IntentDrift:
    """Pair the centres so that the sum of the cosines is the largest (the Hungarian method), where only pairs with a cosine of `same` or
    more are pairs and count: those are the same intent.

    Args:
        old, new: `[k, size]` and `[l, size]` unit vectors in one space.
        old_alive, new_alive: bool `[k]`, `[l]`: centres that stand for users; the others are no intents.
        same: least cosine of an intent with itself.
    """
    olds, news = np.flatnonzero(old_alive), np.flatnonzero(new_alive)
    cosines = old[olds] @ new[news].T
    pairs = zip(*linear_sum_assignment(-np.where(cosines >= same, cosines, 0)), strict=True)
    kept = [Match(int(olds[row]), int(news[column]), float(cosines[row, column])) for row, column in pairs if cosines[row, column] >= same]
    kept.sort(key=lambda match: match.cosine)
    died = sorted(set(olds.tolist()) - {match.old for match in kept})
    appeared = sorted(set(news.tolist()) - {match.new for match in kept})
    return IntentDrift(kept, died, appeared)
