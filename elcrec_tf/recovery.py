"""How well a run recovers planted intents (simulated data): beside the oracle, the other ELCM form, and k-means without ELCM."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.console import Console

from elcrec_tf.config import Config
from elcrec_tf.data.oracle import Oracle
from elcrec_tf.data.pipeline import histories
from elcrec_tf.data.sequences import Sequences
from elcrec_tf.data.splits import holdout_positions
from elcrec_tf.evaluation import output_model
from elcrec_tf.intents import kmeans, recovery
from elcrec_tf.model import ELCRec
from elcrec_tf.run_folder import RunFolder
from elcrec_tf.training import train_model

FORMS = {"assign": "ELCM, clustering form", "paper": "ELCM, paper's form (Eq. 3)"}


def measure_recovery(model: ELCRec, sequences: Sequences, config: Config, folder: RunFolder, console: Console) -> dict[str, Any]:
    """Normalised mutual information between the intent assigned to each user's test history and the planted intent of its
    latest event.

    Trains two more models with the same settings and seed, one with the other ELCM form and one without ELCM, as runs in
    `folder/recovery/`; runs that are there already are continued.

    Args:
        model: the run's trained model.
        sequences: simulated data (`sequences.intents` known).
        config: the run's configuration, with ELCM on.
        folder: the run's folder.
        console: where progress goes.

    Returns:
        `planted` (number of planted intents), `oracle_nmi` (exact filter that knows the generator), and `rows`, each with
        `name`, `clusters` and `nmi`.
    """
    users, history = histories(sequences, "test", config.model.max_length)
    assert sequences.intents is not None
    truth = sequences.intents[holdout_positions(sequences, "test") - 1][users]

    def reference(name: str, **changes: Any) -> ELCRec:
        run = RunFolder(folder.path / "recovery" / name)
        console.print(f"reference model for the recovery of planted intents: {name}")
        return train_model(sequences, config.replace(warm_start=None, **changes), run, resume=run.exists, console=console)

    def outputs(one: ELCRec) -> dict[str, np.ndarray]:
        return output_model(one, "pooled", "intents").predict(history, batch_size=256, verbose=0)

    def row(name: str, labels: np.ndarray, clusters: int) -> dict[str, Any]:
        return {"name": name, "clusters": clusters, "nmi": recovery(labels, truth)}

    own = config.loss.cluster_form
    other = next(form for form in FORMS if form != own)
    by_form = {own: model, other: reference(other, cluster_form=other)}
    rows = [
        row(name, outputs(by_form[form])["intents"].argmax(-1), by_form[form].cluster_centers.num_clusters) for form, name in FORMS.items()
    ]
    clusters = min(config.simulator.sim_intents, len(users))
    states = outputs(reference("without-elcm", cluster_weight=0.0, num_clusters=config.model.centers))["pooled"]
    rows.append(row("k-means on the states, no ELCM", kmeans(states, clusters, config.train.seed, tries=10)[1], clusters))
    oracle = Oracle(config.simulator).intent_posterior(sequences, "test")[users].argmax(-1)
    return {"planted": config.simulator.sim_intents, "oracle_nmi": recovery(oracle, truth), "rows": rows}
