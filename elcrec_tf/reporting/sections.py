"""What the page says of one run, as plain values for the templates: summary, training, groups, catalogue, intents, example users."""

from __future__ import annotations

from typing import Any

import numpy as np

from elcrec_tf.config import Config, resolve
from elcrec_tf.data.sequences import Sequences
from elcrec_tf.data.splits import holdout_positions
from elcrec_tf.presets import PRESETS
from elcrec_tf.reporting.analysis import RECOMMENDATIONS, Analysis
from elcrec_tf.reporting.breakdown import (
    POPULARITY,
    Grouping,
    by_activity,
    by_length,
    by_popularity,
    group_rows,
    intents_by_group,
    item_bias,
)
from elcrec_tf.reporting.figures import COLORS, Curve, center_map, line_chart, size_chart, user_map
from elcrec_tf.reporting.loading import Run
from elcrec_tf.reporting.maps import UserMap, similarity_order
from elcrec_tf.reporting.published import FINGERPRINTS, RECORDS, published_results

_EXAMPLES_A_GROUP = 2
_LATEST = 10  # events of an example's history that are shown
_LISTED_INTENTS = 12  # without unfolding
_CHARTS = (
    # title, columns of history.csv with their labels
    ("Loss", {"loss": "total", "next_item": "next item"}),
    ("Contrastive losses", {"sequence": "sequence", "intent": "intent"}),
    ("ELCM loss", {"cluster": "ELCM"}),
    ("Validation NDCG", {"val_NDCG@5": "NDCG@5", "val_NDCG@20": "NDCG@20"}),
    ("Validation hit rate", {"val_HR@5": "HR@5", "val_HR@20": "HR@20"}),
    ("Seconds of training an epoch", {"seconds": "seconds"}),
    ("Intents in use (perplexity of the assignment)", {"intent_perplexity": "perplexity"}),
    ("Share of users of an intent", {"largest_intent": "largest", "smallest_intent": "smallest"}),
    ("How clearly users belong to one intent (separation)", {"intent_separation": "separation"}),
    ("Number of intents, decided by training", {"clusters": "in use"}),
    ("Cosine between centres", {"center_cosine_max": "largest", "center_cosine_mean": "mean"}),
    ("Agreement of the two views (lower is better)", {"view_alignment": "alignment", "view_uniformity": "uniformity"}),
    ("Centres revived", {"revived": "revived"}),
)


def run_view(run: Run, analysis: Analysis, maps: list[UserMap], number: int) -> dict[str, Any]:
    """All that the template of a run shows. `number` counts the page's runs from 1 and keeps their anchors apart."""
    sequences = run.sequences
    history_lengths = holdout_positions(sequences, "test") - sequences.offsets[:-1]
    targets = sequences.items[holdout_positions(sequences, "test")]
    activity = by_activity(np.diff(sequences.offsets))
    groupings = {
        "User activity": activity,
        "Length of the history": by_length(history_lengths),
        "Popularity of the target item": by_popularity(targets, sequences.catalog.counts),
    }
    return {
        "name": run.name,
        "path": run.path,
        "number": number,
        "metrics": run.metrics,
        "config": config_view(run.config),
        "published": published_view(run),
        "known_file": run.metrics["fingerprint"] in FINGERPRINTS,
        "charts": charts(run),
        "groups": {title: group_rows(grouping, analysis.ranks, analysis.popularity) for title, grouping in groupings.items()},
        "catalogue": catalogue_view(sequences, analysis, targets),
        "intents": intents_view(sequences, analysis, maps, activity),
        "examples": examples(sequences, analysis, activity),
        "recommendations": RECOMMENDATIONS,
    }


def config_view(config: Config) -> dict[str, Any]:
    """The settings by group, each with its `name`, `value`, the `base` value of the preset, and whether the run `changed` it."""
    preset = config.preset if config.preset in PRESETS else "default"
    base = resolve(preset).to_dict()
    groups = {
        group: [
            {"name": name, "value": value, "base": base[group][name], "changed": value != base[group][name]}
            for name, value in fields.items()
        ]
        for group, fields in config.to_dict().items()
        if group != "preset" and (group != "simulator" or config.data.dataset == "simulated")
    }
    return {"preset": preset, "groups": groups, "changes": [field for fields in groups.values() for field in fields if field["changed"]]}


def published_view(run: Run) -> list[dict[str, Any]]:
    """Published rows, the lowest NDCG@20 first: `method`, `record`, `metrics`, and `gain`, by what share the run's NDCG@20 is above."""
    own = run.metrics["test"]["NDCG@20"]
    rows = [
        {"method": method, "record": method in RECORDS, "metrics": metrics, "gain": own / metrics["NDCG@20"] - 1}
        for method, metrics in published_results(run.metrics["dataset"], run.metrics["fingerprint"]).items()
    ]
    return sorted(rows, key=lambda row: row["metrics"]["NDCG@20"])


def charts(run: Run) -> list[Any]:
    """Charts of history.csv; none where the run has no history, and none of columns that it lacks."""
    best = run.metrics.get("best_epoch")
    result = []
    for title, columns in _CHARTS:
        curves = [history_curve(run, column, label, index) for index, (column, label) in enumerate(columns.items())]
        curves = [curve for curve in curves if curve.x]
        if curves:
            result.append(line_chart(title, curves, mark=best))
    return result


def history_curve(run: Run, column: str, label: str, color: int) -> Curve:
    """A column of history.csv over the epochs; rows that lack it are left out."""
    rows = [row for row in run.history if column in row]
    return Curve(label, [row["epoch"] for row in rows], [row[column] for row in rows], color)


def catalogue_view(sequences: Sequences, analysis: Analysis, targets: np.ndarray) -> dict[str, Any]:
    """How recommendations spread over the catalogue, beside the data's own spread."""
    counts = sequences.catalog.counts
    training = np.repeat(np.arange(1, len(counts) + 1), counts)
    piles = {
        f"the model's top {RECOMMENDATIONS}": analysis.items,
        "what users took next (test targets)": targets,
        "training events": training,
    }
    return {
        "items": len(counts),
        "tiers": POPULARITY,
        "rows": [{"label": label, **item_bias(items, counts)} for label, items in piles.items()],
    }


def intents_view(sequences: Sequences, analysis: Analysis, maps: list[UserMap], activity: Grouping) -> dict[str, Any]:
    """Sizes, maps, similarity and typical items of the intents, and how they divide over the activity groups."""
    sizes = analysis.intent_sizes
    by_size = np.argsort(-sizes, kind="stable")
    shown = [int(intent) for intent in by_size[: len(COLORS)] if sizes[intent]]
    rows = [
        {
            "intent": int(intent),
            "users": int(sizes[intent]),
            "share": float(sizes[intent] / max(sizes.sum(), 1)),
            "color": COLORS[place] if place < len(shown) else None,
            "items": [item_view(sequences, item) for item in analysis.typical[intent]],
        }
        for place, intent in enumerate(by_size)
    ]
    return {
        "rows": rows,
        "listed": _LISTED_INTENTS,
        "sizes": size_chart(sizes),
        "centers": center_map(analysis.centers, similarity_order(analysis.centers)),
        "maps": [user_map(one, shown) for one in maps],
        "plain_maps": any(one.intents is None for one in maps),
        "mapped_users": max((len(one.points) for one in maps), default=0),
        "activity": activity_view(analysis, activity, shown),
        "shown": shown,
    }


def activity_view(analysis: Analysis, activity: Grouping, shown: list[int]) -> list[dict[str, Any]]:
    """A row an activity group with users: shares of its users in the `shown` intents and in all `others`, and `perplexity`."""
    table = intents_by_group(analysis.intents[:, 0], activity, len(analysis.centers))
    rows = []
    for group, shares in enumerate(table):
        used = shares[shares > 0]
        if len(used):
            rows.append(
                {
                    "label": activity.labels[group],
                    "note": activity.notes[group],
                    "shares": shares[shown].tolist(),
                    "others": max(0.0, float(1 - shares[shown].sum())),  # rounding may leave less than nothing
                    "perplexity": float(np.exp(-np.sum(used * np.log(used)))),
                }
            )
    return rows


def examples(sequences: Sequences, analysis: Analysis, activity: Grouping) -> list[dict[str, Any]]:
    """Users drawn at random (the same each time), two of each activity group, with history, intents, recommendations and target."""
    rng = np.random.default_rng(0)
    result = []
    for group, label in enumerate(activity.labels):
        members = np.flatnonzero(activity.index == group)
        chosen = np.sort(rng.choice(members, min(_EXAMPLES_A_GROUP, len(members)), replace=False))
        result += [{"activity": label, **_example(sequences, analysis, int(user))} for user in chosen]
    return result


def _example(sequences: Sequences, analysis: Analysis, user: int) -> dict[str, Any]:
    history, target = sequences[user][:-1], int(sequences[user][-1])
    return {
        "user": sequences.user_ids[user],
        "events": len(history),
        "history": [item_view(sequences, item) for item in history[-_LATEST:]],
        "left_out": max(len(history) - _LATEST, 0),
        "intents": list(zip(analysis.intents[user].tolist(), analysis.cosines[user].tolist(), strict=True)),
        "recommended": [{**item_view(sequences, item), "hit": int(item) == target} for item in analysis.items[user] if item],
        "target": item_view(sequences, target),
        "rank": int(analysis.ranks[user]) + 1,
    }


def item_view(sequences: Sequences, item: int) -> dict[str, str]:
    """`id` of an item by its index, and its `title`, empty where there is none."""
    raw = sequences.catalog.ids[item - 1]
    return {"id": raw, "title": sequences.catalog.titles.get(raw, "")}
