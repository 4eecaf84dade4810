"""Lines of tables that show a variant's validation metric and its four test metrics."""

from __future__ import annotations

from pipelines.reproduce.scene import Scene, Variant, spread
from pipelines.reproduce.significance import METRICS, Spread

VALIDATION = "validation NDCG@20"
COLUMNS = ("", VALIDATION, *METRICS)


def summary(scene: Scene, variant: Variant) -> dict[str, Spread]:
    """Spreads over the seeds that are there; empty where none is."""
    rows = scene.rows(variant)
    if not rows:
        return {}
    return {VALIDATION: spread(rows, "validation", "NDCG@20"), **{metric: spread(rows, "test", metric) for metric in METRICS}}


def line(name: str, found: dict[str, Spread]) -> tuple[str, ...]:
    """A line under `COLUMNS`."""
    return (name, *(found[column].text() for column in COLUMNS[1:])) if found else (name, "not run", *[""] * len(METRICS))


def plain(found: dict[str, Spread]) -> dict[str, dict]:
    """Ready for JSON."""
    return {name: one.to_dict() for name, one in found.items()}
