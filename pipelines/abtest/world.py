"""The simulated world that models were trained in, read and checked from what their exports say of themselves. Loads no TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from elcrec_tf import cli
from elcrec_tf.config import Config, SimulatorConfig
from elcrec_tf.data.catalog import Catalog
from elcrec_tf.data.simulate import simulate
from elcrec_tf.errors import UserError
from elcrec_tf.serving.layout import CATALOG, read_metadata, version_folder

# What decides over items, intents and the law of events. How many users a model was trained on, and how active ones, may differ.
_LAWS = ("sim_items", "sim_intents", "sim_switch", "sim_noise", "sim_shared", "sim_zipf", "sim_drift", "sim_seed")


@dataclass(frozen=True, eq=False)
class World:
    """Where an experiment takes place.

    Attributes:
        config: the simulator's settings, those of the first model.
        catalog: the items, with their events in the first model's training data.
    """

    config: SimulatorConfig
    catalog: Catalog


def shared_world(models: Sequence[str | Path]) -> World:
    """The world of all `models` (exported models' folders).

    Raises:
        UserError: for a folder without a model, a model of other data than the simulator's, one whose data this version does not make
            again, and models of different worlds.
    """
    worlds = [_world(version_folder(model)) for model in models]
    for model, other in zip(models[1:], worlds[1:], strict=True):
        for name in _LAWS:
            first, second = getattr(worlds[0].config, name), getattr(other.config, name)
            if first != second:
                raise UserError(
                    f"{models[0]} and {model}: were trained in different worlds ({name} {first} and {second}); "
                    "train both on the same simulated data"
                )
    return worlds[0]


def _world(version: Path) -> World:
    metadata = read_metadata(version)
    data = metadata.get("dataset") or {}
    if data.get("name") != "simulated" or "config" not in metadata:
        raise UserError(
            f"{version}: was trained on {data.get('name') or 'unknown data'}, whose users cannot answer; an A/B test needs models of "
            f"simulated data: {cli.command('train')} --dataset simulated"
        )
    simulator = {"simulator": metadata["config"].get("simulator", {})}
    config = Config.from_dict(simulator, where=f"{version}").simulator
    trained_on, catalog = simulate(config), Catalog.load(version / CATALOG)
    if data.get("fingerprint") != trained_on.fingerprint or not np.array_equal(catalog.ids, trained_on.catalog.ids):
        raise UserError(f"{version}: its training data is not what the simulator makes of its settings; train it again with this version")
    return World(config, catalog)
