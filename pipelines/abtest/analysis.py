"""From what users did to what is reported: metrics of each arm, overall and by activity group, and the lifts between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipelines.abtest.audience import GROUPS
from pipelines.abtest.statistics import Lift, Ratio, holm
from pipelines.abtest.visits import Totals

OVERALL = "all"


@dataclass(frozen=True)
class Metric:
    """A platform's metric: a sum over users divided by another one.

    Attributes:
        name: short name, as on the platform.
        meaning: in words.
        parts: numerator and denominator of each user.
        proportion: whether it is a share of users.
    """

    name: str
    meaning: str
    parts: Callable[[Totals], tuple[np.ndarray, np.ndarray]]
    proportion: bool = False

    def ratio(self, totals: Totals, users: np.ndarray) -> Ratio:
        """The metric over some `users` (a mask)."""
        numerators, denominators = self.parts(totals)
        return Ratio.of(numerators[users], denominators[users])

    def text(self, value: float) -> str:
        """A value as tables have it: rates in per cent."""
        return f"{value:.2%}" if "CTR" in self.name else f"{value:.3f}"


METRICS = (
    Metric("PVCTR", "clicks / items shown", lambda totals: (totals.clicks, totals.impressions)),
    Metric("UVCTR", "users with a click / users", lambda totals: (totals.clicks > 0, np.ones(len(totals.clicks))), proportion=True),
    Metric("VV", "pages viewed / sessions", lambda totals: (totals.pages, totals.sessions)),
    Metric("clicks", "clicks / users", lambda totals: (totals.clicks, np.ones(len(totals.clicks)))),
)


@dataclass(frozen=True)
class Comparison:
    """One metric of one group of users in both arms.

    Attributes:
        group: `OVERALL`, or a name in `GROUPS`.
        metric: which.
        a, b: its value in each arm.
        lift: of B over A; None where it is undefined (no click in an arm).
        p_corrected: of a group's lift, for there being several groups of this metric (Holm); None for `OVERALL` and undefined lifts.
    """

    group: str
    metric: Metric
    a: Ratio
    b: Ratio
    lift: Lift | None
    p_corrected: float | None = None


def compare(totals: Totals, arms: np.ndarray, groups: np.ndarray) -> list[Comparison]:
    """Every metric over all users, then group by group. A group with fewer than two users in an arm is left out.

    Args:
        totals: what each user did.
        arms: `[users]` 0 for A, 1 for B.
        groups: `[users]` index in `GROUPS`.
    """
    masks = {OVERALL: np.ones(len(arms), bool)} | {name: groups == index for index, name in enumerate(GROUPS)}
    masks = {name: mask for name, mask in masks.items() if np.bincount(arms[mask], minlength=2).min() >= 2}
    found = []
    for metric in METRICS:
        values = {name: [metric.ratio(totals, mask & (arms == arm)) for arm in (0, 1)] for name, mask in masks.items()}
        lifts = {name: Lift.between(a, b, metric.proportion) for name, (a, b) in values.items()}
        tested = {name: lift.p for name, lift in lifts.items() if lift and name != OVERALL}
        corrected = dict(zip(tested, holm(list(tested.values())), strict=True))
        found += [Comparison(name, metric, a, b, lifts[name], corrected.get(name)) for name, (a, b) in values.items()]
    return sorted(found, key=lambda one: list(masks).index(one.group))  # stable: the metrics keep their order
