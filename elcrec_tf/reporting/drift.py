"""What changed from one run to a later one: the intents, and the data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from keras import ops

from elcrec_tf.config import Config
from elcrec_tf.data.catalog import Catalog
from elcrec_tf.data.data_drift import catalog_drift, user_drift
from elcrec_tf.data.datasets import load_dataset
from elcrec_tf.data.pipeline import histories
from elcrec_tf.data.shards import AnySequences
from elcrec_tf.errors import UserError
from elcrec_tf.evaluation import output_model
from elcrec_tf.intent_drift import IntentDrift, match_intents, rotation
from elcrec_tf.intents import unit_rows
from elcrec_tf.model import ELCRec
from elcrec_tf.run_folder import RunFolder

_USERS = 20_000  # sampled to see how users divide over the intents
_TYPICAL = 3  # items that are shown of an intent


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two runs. `sequences` is None where its data is no longer there, or has changed; `missing` then says why."""

    folder: RunFolder
    config: Config
    catalog: Catalog
    model: ELCRec
    sequences: AnySequences | None
    missing: str | None

    @staticmethod
    def load(path: str) -> Side:
        """Read a run. Raises `UserError` where there is none, or it has no model."""
        folder = RunFolder(path)
        config = folder.config()
        catalog = folder.catalog()
        sequences, missing = None, None
        try:
            sequences = load_dataset(replace(config.data, item_metadata=None), config.simulator)
            if folder.fingerprint() not in (None, sequences.fingerprint):
                sequences, missing = None, f"the data of {config.data.dataset} has changed since the run was made"
            elif list(sequences.catalog.ids) != list(catalog.ids):  # of a run whose fingerprint is not known
                sequences = sequences.with_catalog(catalog)
        except UserError as error:
            sequences, missing = None, str(error)
        return Side(folder, config, catalog, folder.load_model(), sequences, missing)

    @cached_property
    def item_vectors(self) -> np.ndarray:
        """`[items, size]` unit vectors."""
        return unit_rows(ops.convert_to_numpy(self.model.item_embedding.table)[1:])

    @cached_property
    def item_keys(self) -> np.ndarray:
        """`[items, size]` vectors whose product with a centre is the score that the model gives a user there."""
        return ops.convert_to_numpy(self.model.item_embedding.keys())[1:]

    @cached_property
    def centers(self) -> np.ndarray:
        return ops.convert_to_numpy(self.model.cluster_centers.centers)

    @cached_property
    def shares(self) -> np.ndarray | None:
        """`[intents]` share of the run's own users, by their whole histories but the test item; of a sample where there are many."""
        if self.sequences is None:
            return None
        _, history = histories(self.sequences, "test", self.config.model.max_length, most=_USERS)
        intents = output_model(self.model, "intents").predict(history, batch_size=256, verbose=0)["intents"].argmax(-1)
        return np.bincount(intents, minlength=len(self.centers)) / len(intents)

    def alive(self, least_share: float | None) -> np.ndarray:
        """Which intents stand for users: at least `least_share` of an equal share; all if that is None, or the users are not known."""
        if least_share is None or self.shares is None:
            return np.ones(len(self.centers), bool)
        return self.shares * len(self.centers) >= least_share

    def intent(self, number: int) -> dict[str, Any]:
        """An intent: its number, its share of the users, and the items that are most typical of it, with their titles (None without)."""
        best = np.argsort(-(self.item_keys @ self.centers[number]), kind="stable")[:_TYPICAL]
        share = None if self.shares is None else float(self.shares[number])
        items = self.catalog.raw((best + 1).tolist())
        return {"intent": number, "share": share, "items": items, "titles": [self.catalog.titles.get(raw) for raw in items]}


def measure_drift(old: Side, new: Side, same: float, least_share: float) -> dict[str, Any]:
    """Everything that the report tells, ready for JSON.

    A run that went on from the other by warm start, directly or over others between, has kept its axes. Else the old model is turned
    first, by the items that both know (`elcrec_tf.intent_drift.rotation`).

    Args:
        old, new: the runs.
        same: least cosine of an intent with itself.
        least_share: an intent with less than this fraction of an equal share of the users is taken for dead. Where the users of one run
            are not known, all intents of both count, and `least_share` is None in the result.

    Raises:
        UserError: for models of different sizes, or with too few items in common.
    """
    size, other = old.centers.shape[1], new.centers.shape[1]
    if size != other:
        raise UserError(f"{old.folder.path} has --hidden-size {size}, {new.folder.path} {other}: their intents cannot be compared")
    places = old.catalog.index(new.catalog.ids)
    shared_old, shared_new = old.item_vectors[places[places > 0] - 1], new.item_vectors[places > 0]
    warm = _descends(new.folder, old.folder)
    if not warm and len(shared_old) < size:
        raise UserError(f"the runs have {len(shared_old)} items in common; to compare models that were trained apart takes {size} or more")
    turn = np.eye(size) if warm else rotation(shared_old, shared_new)
    # Filtered on one side alone, an intent that both have would seem to have died or appeared.
    applied = None if old.shares is None or new.shares is None else least_share
    found = match_intents(old.centers @ turn, new.centers, old.alive(applied), new.alive(applied), same)
    items_cosine = float(np.mean(np.sum(shared_old @ turn * shared_new, axis=1))) if len(shared_old) else None
    return {
        "old": str(old.folder.path),
        "new": str(new.folder.path),
        "aligned_by": "warm start" if warm else "orthogonal Procrustes over shared items",
        "shared_items_cosine": items_cosine,
        "least_share": applied,
        "intents": _intents(found, old, new),
        "data": catalog_drift(old.catalog, new.catalog) | _users(old, new),
    }


def _intents(found: IntentDrift, old: Side, new: Side) -> dict[str, Any]:
    return {
        "kept": [{"cosine": match.cosine, "old": old.intent(match.old), "new": new.intent(match.new)} for match in found.kept],
        "died": [old.intent(number) for number in found.died],
        "appeared": [new.intent(number) for number in found.appeared],
    }


def _users(old: Side, new: Side) -> dict[str, Any]:
    missing = {name: side.missing for name, side in (("old", old), ("new", new)) if side.missing}
    if old.sequences is None or new.sequences is None:
        return {"missing": missing}
    return user_drift(old.sequences, new.sequences)


def _descends(run: RunFolder, ancestor: RunFolder) -> bool:
    """Whether a run went on from another by warm starts."""
    goal, seen = ancestor.path.resolve(), set()
    while (path := run.path.resolve()) not in seen:
        if path == goal:
            return True
        seen.add(path)
        origin = run.warm_start()
        if origin is None:
            return False
        # How it was named holds in the folder where that was; its place as seen from this run holds until one of them is moved. Another
        # run may have come to either place since.
        places = [path / origin["place"]] if "place" in origin else []
        parents = [RunFolder(place) for place in (*places, origin["run"])]
        fitting = (parent for parent in parents if parent.exists and origin.get("fingerprint") in (None, parent.fingerprint()))
        parent = next(fitting, None)
        if parent is None:
            return False
        run = parent
    return False
