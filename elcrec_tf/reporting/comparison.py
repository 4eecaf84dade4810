"""What the page says of several runs side by side."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

from elcrec_tf.reporting.figures import Curve, line_chart
from elcrec_tf.reporting.loading import Run
from elcrec_tf.reporting.sections import history_curve

_CHARTS = (
    ("Validation NDCG@20", "val_NDCG@20"),
    ("Validation HR@20", "val_HR@20"),
    ("Next-item loss", "next_item"),
    ("Intents in use (perplexity of the assignment)", "intent_perplexity"),
)


def comparison_view(runs: list[Run]) -> dict[str, Any]:
    """Metrics, differing settings and overlaid curves of runs, numbered from 1 in their order.

    Returns:
        `same_data`, whether all runs share a data set, so that `best` (metric -> highest test value) means something; `settings`, the
        fields in which the runs differ, with a value each; `charts`.
    """
    same_data = len({run.metrics["fingerprint"] for run in runs}) == 1
    names = runs[0].metrics["test"]
    return {
        "runs": [
            {"number": number, "path": run.path, "metrics": run.metrics, "preset": run.config.preset} for number, run in enumerate(runs, 1)
        ],
        "same_data": same_data,
        "best": {name: max(run.metrics["test"][name] for run in runs) for name in names} if same_data else {},
        "settings": _differing_settings(runs),
        "charts": _charts(runs),
    }


def _differing_settings(runs: list[Run]) -> list[dict[str, Any]]:
    first, *others = (run.config.to_dict() for run in runs)
    return [
        {"name": f"{group}.{name}", "values": [value, *(other[group][name] for other in others)]}
        for group, fields in first.items()
        if group != "preset"
        for name, value in fields.items()
        if any(other[group][name] != value for other in others)
    ]


def _charts(runs: list[Run]) -> list[Any]:
    charts = [(title, "epoch", _curves(runs, column)) for title, column in _CHARTS]
    by_time = [
        Curve(curve.label, _seconds(run), curve.y, curve.color) for run, curve in zip(runs, _curves(runs, "val_NDCG@20"), strict=True)
    ]
    charts.insert(1, ("Validation NDCG@20 over training time", "seconds", by_time))
    drawn = ((title, x_label, [curve for curve in curves if curve.x]) for title, x_label, curves in charts)
    return [line_chart(title, curves, x_label) for title, x_label, curves in drawn if curves]


def _curves(runs: list[Run], column: str) -> list[Curve]:
    return [history_curve(run, column, f"run {number}", number - 1) for number, run in enumerate(runs, 1)]


def _seconds(run: Run) -> list[float]:
    """Training time at the end of each epoch that was validated."""
    passed = accumulate(row.get("seconds", 0.0) for row in run.history)
    return [seconds for seconds, row in zip(passed, run.history, strict=True) if "val_NDCG@20" in row]
