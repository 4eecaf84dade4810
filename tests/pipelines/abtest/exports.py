"""Folders that say of themselves what an exported model of simulated data says, with nothing in the SavedModel itself."""

import json

from elcrec_tf.config import Config
from elcrec_tf.data.simulate import simulate
from elcrec_tf.serving.layout import CATALOG, METADATA, SAVED_MODEL

SMALL = {"sim_users": 60, "sim_items": 80, "sim_intents": 4, "sim_events": 8}


def config(**fields):
    return Config().replace(**{**SMALL, **fields})


def metadata(settings):
    """What `export_run` adds to an export's own metadata."""
    sequences = simulate(settings.simulator)
    return {"config": settings.to_dict(), "dataset": {"name": "simulated", "fingerprint": sequences.fingerprint}}


def write_export(folder, settings, **changes):
    """Write version 1 into `folder`; `changes` replace what the metadata says."""
    version = folder / "1"
    for name in (METADATA, CATALOG):
        (version / name).parent.mkdir(parents=True, exist_ok=True)
    (version / SAVED_MODEL).touch()
    catalog = simulate(settings.simulator).catalog
    catalog.save(version / CATALOG)
    own = {"elcrec_tf": "0", "top_k": 40, "num_items": catalog.num_items}
    (version / METADATA).write_text(json.dumps({**metadata(settings), **own, **changes}), encoding="utf-8")
    return folder
