"""The results of a run: metrics.json."""

from __future__ import annotations

from typing import Any

import numpy as np

from elcrec_tf import __version__
from elcrec_tf.baselines import markov_chain_ranks
from elcrec_tf.callbacks import best_epoch
from elcrec_tf.config import Config
from elcrec_tf.data.pipeline import ranking_batches
from elcrec_tf.data.sequences import Sequences
from elcrec_tf.data.shards import AnySequences, ShardedSequences
from elcrec_tf.data.splits import training_ranges
from elcrec_tf.evaluation import Ranker, popularity_ranks
from elcrec_tf.intents import assignment_health, center_health
from elcrec_tf.model import ELCRec
from elcrec_tf.ranking import ranking_metrics
from elcrec_tf.run_folder import RunFolder

_LONGEST = (2, 5)  # events of the longest training parts in the groups 1-2 and 3-5


def evaluate_run(model: ELCRec, sequences: AnySequences, config: Config, folder: RunFolder) -> dict[str, Any]:
    """Everything that metrics.json holds, made from a model and the run's history.csv.

    What only training knows (`seed`, `best_epoch`, `epochs`, `train_seconds`) is None for a run without history (imported, say).
    `warm_start` tells what a run by warm start went on from. What needs all users in memory (`by_history_length`, the Markov chain) is
    left out for data in shards.
    """
    ranker = Ranker(model)
    size, length = config.train.eval_batch_size, config.model.max_length
    results = {split: ranker.rank(ranking_batches(sequences, split, size, length)) for split in ("validation", "test")}
    rows = folder.read_history()
    centers = np.asarray(model.cluster_centers.centers)
    metrics: dict[str, Any] = {
        "dataset": sequences.name,
        "seed": config.train.seed if rows else None,
        "best_epoch": best_epoch(rows, f"val_{config.train.monitor}") if rows else None,
        "epochs": len(rows) if rows else None,
        "train_seconds": round(sum(row["seconds"] for row in rows), 2) if rows else None,
        "parameters": int(model.count_params()),
        "users": sequences.num_users,
        "items": sequences.catalog.num_items,
        "events": sequences.num_events,
        "dropped": sequences.dropped,
        "fingerprint": sequences.fingerprint,
        "version": __version__,
        **{split: ranking_metrics(result["rank"]) for split, result in results.items()},
        "baselines": {"popularity": ranking_metrics(popularity_ranks(sequences, "test", size))},
        "intents": {
            "clusters": model.cluster_centers.num_clusters,
            **assignment_health(results["test"]["intent"], model.cluster_centers.num_clusters),
            **center_health(centers),
        },
    }
    if origin := folder.warm_start():
        metrics["warm_start"] = origin
    if not isinstance(sequences, ShardedSequences):
        metrics["by_history_length"] = by_history_length(sequences, results["test"]["rank"])
        metrics["baselines"]["markov_chain"] = ranking_metrics(markov_chain_ranks(sequences, "test", size))
    return metrics


def by_history_length(sequences: Sequences, ranks: np.ndarray) -> dict[str, dict[str, float]]:
    """Metrics of the users with 1-2, 3-5 and more events in their training part (all but the two held out), and `users`, their number.

    Groups without users are left out.

    Args:
        sequences: all users.
        ranks: `[users]`, 0 = best.
    """
    starts, ends = training_ranges(sequences)
    group = np.searchsorted(_LONGEST, ends - starts)
    names = ("1-2", "3-5", "6+")
    found = {name: ranks[group == index] for index, name in enumerate(names)}
    return {name: {"users": len(part), **ranking_metrics(part)} for name, part in found.items() if len(part)}
