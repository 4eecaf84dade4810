"""Statistics of an experiment whose unit of randomisation is the user: ratios, lifts, sample sizes. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

SIGNIFICANCE, POWER = 0.05, 0.8
_REACH = NormalDist().inv_cdf(1 - SIGNIFICANCE / 2)  # 1.96 standard errors make a 95 % interval
_NEED = _REACH + NormalDist().inv_cdf(POWER)  # an effect of 2.80 standard errors is found with 80 % power


@dataclass(frozen=True)
class Ratio:
    """A ratio of sums over users, such as clicks / impressions, where one user's events are not independent of each other.

    Attributes:
        value: sum of numerators / sum of denominators.
        variance: what a user adds to the estimate's variance: that of `value` is `variance / users`. By the delta method it is the
            variance over users of `(numerator - value * denominator) / mean denominator` (Deng, Knoblich & Lu, KDD 2018).
        users: how many.
    """

    value: float
    variance: float
    users: int

    @staticmethod
    def of(numerators: np.ndarray, denominators: np.ndarray) -> Ratio:
        """Of the sums of each user, `[users]` each; at least two users, and denominators that do not add up to 0."""
        value = float(numerators.sum() / denominators.sum())
        influence = (numerators - value * denominators) / denominators.mean()
        return Ratio(value, float(influence.var(ddof=1)), len(numerators))

    @property
    def relative_variance(self) -> float:
        """`variance` where the ratio itself is the unit."""
        return self.variance / self.value**2


@dataclass(frozen=True)
class Lift:
    """How much larger a ratio is under B than under A.

    Attributes:
        value: B / A - 1.
        low, high: 95 % confidence interval.
        p: two-sided p-value of "no lift".
        detectable: smallest lift that a test with so many users finds with 80 % power at the 5 % level.
        variance: relative variances of a user under A and under B, added up.
    """

    value: float
    low: float
    high: float
    p: float
    detectable: float
    variance: float

    @staticmethod
    def between(a: Ratio, b: Ratio, proportion: bool = False) -> Lift | None:
        """The lift of `b` over `a`; None where one of them is 0, and with it a lift undefined.

        Interval and p-value are those of log(B / A), which is closer to normal than the lift. A `proportion` (of users: its denominators
        are all 1) is tested by the two-proportion z test with the pooled variance.
        """
        if a.value <= 0 or b.value <= 0:
            return None
        log_ratio = math.log(b.value / a.value)
        error = math.sqrt(a.relative_variance / a.users + b.relative_variance / b.users)
        p = two_proportion_p(a, b) if proportion else normal_p(log_ratio, error)
        low, high = (math.expm1(log_ratio + sign * _REACH * error) for sign in (-1, 1))
        return Lift(math.expm1(log_ratio), low, high, p, math.expm1(_NEED * error), a.relative_variance + b.relative_variance)

    def users_needed(self, lift: float) -> int | None:
        """Users an arm with which a test finds `lift` (above -1) with 80 % power at the 5 % level; None for 0, which none can find.

        `(1.96 + 0.84)^2 variance / log(1 + lift)^2`: the textbook's two means, on the scale that is tested.
        """
        return math.ceil(_NEED**2 * self.variance / math.log1p(lift) ** 2) if lift else None


def normal_p(estimate: float, error: float) -> float:
    """Two-sided p-value of a normal estimate with a standard error; 1 for no difference, whatever the error."""
    return math.erfc(abs(estimate) / error / math.sqrt(2)) if estimate and error else float(not estimate)


def two_proportion_p(a: Ratio, b: Ratio) -> float:
    """Two-sided p-value of "both arms have the same share of users"."""
    pooled = (a.value * a.users + b.value * b.users) / (a.users + b.users)
    error = math.sqrt(max(pooled * (1 - pooled), 0.0) * (1 / a.users + 1 / b.users))
    return normal_p(b.value - a.value, error)


def sample_ratio_p(first: int, second: int) -> float:
    """p-value of "users are assigned to two arms with equal chances", by the chi-square test: tiny ones tell of a broken assignment."""
    return normal_p(first - second, math.sqrt(first + second))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979): those below 0.05 are wrong about any of them in at most 5 % of experiments."""
    corrected, largest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(np.argsort(p_values, kind="stable").tolist()):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = largest
    return corrected
