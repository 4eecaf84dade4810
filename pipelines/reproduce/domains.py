"""`domains`: films and news, beside ICLRec and ELCRec as published. A data set that is not at hand has a row that says so."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.benchmark.report import Report
from pipelines.reproduce import comparison
from pipelines.reproduce.scene import Scene, Variant


def variants(scene: Scene) -> list[Variant]:
    return scene.plain()


def report(scene: Scene, variants: Sequence[Variant]) -> Report:
    return comparison.report(scene, variants)
