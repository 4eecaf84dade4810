"""Statistics of ranks: what each user gains, spread over seeds, and whether a difference is more than chance. Pure functions.

Two kinds of chance are kept apart. `Spread` is over seeds: another run of the same training. The tests are over users: another sample of
people. Where a recipe has several seeds, a user's gain is the mean over them, so a test sees users, not lucky seeds.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

METRICS = ("HR@5", "HR@20", "NDCG@5", "NDCG@20")
"""The metrics of the published tables, in their order."""

RESAMPLES = 10_000
_BLOCK = 500  # resamples made at a time: bounds the memory
_NO_DIFFERENCE = 1e-12


@dataclass(frozen=True)
class Spread:
    """Mean over seeds, and the sample standard deviation (None for one seed)."""

    mean: float
    deviation: float | None
    seeds: int

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))

    def text(self) -> str:
        """`.0672 ± .0010`, without the second part for one seed."""
        return decimal(self.mean) + ("" if self.deviation is None else f" ± {decimal(self.deviation)}")

    def holds(self, value: float) -> bool | None:
        """Whether a value lies within two standard deviations of the mean; None for one seed."""
        return None if self.deviation is None else abs(value - self.mean) <= 2 * self.deviation

    def to_dict(self) -> dict[str, Any]:
        return {"mean": self.mean, "deviation": self.deviation, "seeds": self.seeds}


def gains(ranks: np.ndarray, metric: str) -> np.ndarray:
    """What each user adds to a metric, whose value is the mean, float64 `[users]`.

    Args:
        ranks: `[users]`, 0 = best, or `[seeds, users]`, whose seeds are averaged.
        metric: `HR@K`: 1 within the first K, else 0; `NDCG@K`: `1 / log2(rank + 2)` there; `sum`: of `METRICS`.
    """
    if metric == "sum":
        return np.sum([gains(ranks, one) for one in METRICS], axis=0)
    name, _, cutoff = metric.partition("@")
    ranks = np.atleast_2d(np.asarray(ranks, np.float64))
    found = ranks < int(cutoff)
    return np.mean(found if name == "HR" else found / np.log2(ranks + 2), axis=0)


def bootstrap_means(values: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Means over users drawn with replacement, `[resamples]`.

    Args:
        values: `[users]`, see `gains`.
        resamples: how often as many users are drawn.
        seed: of the draws.
    """
    rng, users = np.random.default_rng(seed), len(values)
    gaining = values[values != 0]
    # Most users gain nothing: how many of a sample do gain is drawn first, then which.
    draws = rng.binomial(users, len(gaining) / users, resamples)
    sums = np.zeros(resamples)
    for start in range(0, resamples, _BLOCK):
        block = draws[start : start + _BLOCK]
        drawn = gaining[rng.integers(max(len(gaining), 1), size=block.sum())]
        sums[start : start + _BLOCK] = np.bincount(np.repeat(np.arange(len(block)), block), drawn, len(block))
    return sums / users


def bootstrap_p(means: np.ndarray, published: float) -> float:
    """Two-sided p-value of "the mean over all users there could be is `published`", by the percentile bootstrap.

    Twice the smaller share of resampled means on one side of the published value, itself counted on both sides; never 0, since the
    sample as it is counts as a resample (Davison & Hinkley, Bootstrap Methods and Their Application, section 4.2).

    Args:
        means: see `bootstrap_means`.
        published: the value to test against, which has no spread of its own.
    """
    below = int(np.sum(means <= published + _NO_DIFFERENCE))
    above = int(np.sum(means >= published - _NO_DIFFERENCE))
    return min(1.0, 2 * (1 + min(below, above)) / (1 + len(means)))


def paired_p(first: np.ndarray, second: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> float:
    """Two-sided p-value of "both rank equally well for every user", by a paired permutation test on the mean difference.

    Under that hypothesis each user's difference may as well have the other sign: p is the share of random signs that give a mean at least
    as far from 0, the true signs among them. The test is about the very number that tables show, the mean, and assumes no distribution.
    Wilcoxon's is about the ranks of the differences, most of which are ties at zero here, and the t test leans on the central limit
    theorem (Smucker, Allan & Carterette, CIKM 2007, find the permutation test the one to use for rankings).

    Args:
        first, second: `[users]` each, of the same users in the same order, see `gains`.
        resamples: random signs drawn.
        seed: of the signs.
    """
    differences = first - second
    differences = differences[np.abs(differences) > _NO_DIFFERENCE]  # a zero has no sign
    rng, observed, far = np.random.default_rng(seed), abs(differences.sum()), 0
    for start in range(0, resamples, _BLOCK):
        signs = rng.integers(0, 256, (min(_BLOCK, resamples - start), -(-len(differences) // 8)), np.uint8)
        positive = np.unpackbits(signs, axis=1)[:, : len(differences)]
        sums = 2 * (positive.astype(np.float64) @ differences) - differences.sum()
        far += int(np.sum(np.abs(sums) >= observed - _NO_DIFFERENCE * max(len(differences), 1)))
    return (1 + far) / (1 + resamples)


def paired(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """By metric, how far the mean of the first is above that of the second, and `paired_p`; both hold `gains` by metric."""
    return {
        metric: {"difference": float(np.mean(first[metric] - second[metric])), "p": paired_p(first[metric], second[metric])}
        for metric in METRICS
    }


def paired_text(found: Mapping[str, float]) -> str:
    """A metric of `paired`: `+.0012 (p .031)`."""
    return f"{decimal(found['difference'], signed=True)} (p {p_text(found['p'])})"


def decimal(value: float, signed: bool = False) -> str:
    """Four digits after the point and none before it, as the tables of this field have them: `.0672`, signed `+.0012`."""
    text = f"{value:+.4f}" if signed else f"{value:.4f}"
    return text.replace("0.", ".", 1) if abs(value) < 0.99995 else text


def p_text(p: float) -> str:
    """A p-value with as many digits as it deserves: `<.001`, `.012`, `.43`."""
    return "<.001" if p < 0.001 else f"{p:.3f}"[1:] if p < 0.0995 else f"{p:.2f}".removeprefix("0")
