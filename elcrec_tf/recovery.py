"""How well a run recovers planted intents (simulated data): beside the oracle, the paper's ELCM form, and k-means without ELCM."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from rich.console import Console

from elcrec_tf.config import Config
from elcrec_tf.data.oracle import Oracle
from elcrec_tf.data.pipeline import histories
from elcrec_tf.data.sequences import Sequences
from elcrec_tf.data.splits import holdout_positions
from elcrec_tf.intents import kmeans, recovery
from elcrec_tf.model import ELCRec
from elcrec_tf.run_folder import RunFolder
from elcrec_tf.training import fit_model

FORMS = {"assign": "ELCM, clustering form", "paper": "ELCM, paper's form (Eq. 3)"}


def measure_recovery(model: ELCRec, sequences: Sequences, config: Config, folder: RunFolder, console: Console) -> dict[str, Any]:
    """Normalised mutual information between the intent assigned to each user's test history and the planted intent of its
    latest event.

    Trains two more models with the same settings, one with the other ELCM form and one without ELCM, in
    `folder/recovery/`; what is there already is taken.

    Args:
        model: the run's trained model.
        sequences: simulated data (`sequences.intents` known).
        config: the run's configuration.
        folder: the run's folder.
        console: where progress goes.

    Returns:
        `planted` (number of planted intents), `oracle_nmi` (exact filter that knows the generator), and `rows`, each with
        `name`, `clusters` and `nmi`.
    """
    users, history = histories(sequences, "test", config.model.max_length)
    assert sequences.intents is not None
    truth = sequences.intents[holdout_positions(sequences, "test") - 1][users]
    clusters, planted = config.model.num_clusters, config.simulator.sim_intents

    def outputs(one: ELCRec) -> dict[str, np.ndarray]:
        names = ("pooled", "intents")
        return keras.Model(one.inputs, {name: one.output[name] for name in names}).predict(history, batch_size=256, verbose=0)

    def row(name: str, labels: np.ndarray, count: int) -> dict[str, Any]:
        return {"name": name, "clusters": count, "nmi": recovery(labels, truth)}

    own = config.loss.cluster_form
    other = next(form for form in FORMS if form != own)
    by_form = {own: model, other: _reference(config.replace(cluster_form=other), other, sequences, folder, console)}
    rows = [row(name, outputs(by_form[form])["intents"].argmax(-1), clusters) for form, name in FORMS.items()]
    without = _reference(config.replace(cluster_weight=0.0), "without-elcm", sequences, folder, console)
    states = outputs(without)["pooled"]
    rows.append(row("k-means on the states, no ELCM", kmeans(states, planted, config.train.seed)[1], planted))
    oracle = Oracle(config.simulator).intent_posterior(sequences, "test")[users].argmax(-1)
    return {"planted": planted, "oracle_nmi": recovery(oracle, truth), "rows": rows}


def _reference(config: Config, name: str, sequences: Sequences, folder: RunFolder, console: Console) -> ELCRec:
    run = RunFolder(folder.path / "recovery" / name)
    console.print(f"reference model for the recovery of planted intents: {name}")
    if not run.exists:
        run.create(config, sequences.catalog)
    fit_model(sequences, config, run, console)
    return run.load_model()
