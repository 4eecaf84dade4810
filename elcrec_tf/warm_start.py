"""Warm start: a new run goes on from another run's model, on newer data with other users and more items.

The network's weights and the intents' centres are taken over. Items are matched by raw id, since their indices may differ: a known item
keeps its vector, a new one starts near the known items that it stands next to. The catalogue is that of the new data: an item that it
lacks is gone (`pipelines.prepare --catalog` keeps old items in it). The optimizer starts afresh: Adam's momenta belong to the
rows of the old table, and to the gradients of old data.
"""

from __future__ import annotations

import json
import os
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
from keras import ops

from elcrec_tf.config import Config
from elcrec_tf.data.catalog import Catalog
from elcrec_tf.data.item_neighbors import item_neighbors
from elcrec_tf.data.shards import AnySequences
from elcrec_tf.errors import UserError
from elcrec_tf.intents import unit_rows
from elcrec_tf.model import ELCRec
from elcrec_tf.padding import PADDING
from elcrec_tf.run_folder import RunFolder

ARCHITECTURE = (
    *("max_length", "hidden_size", "num_layers", "num_heads", "local_width"),
    *("score", "activity_features", "intent_clustering", "intent_pooling"),
    *("score_temperature", "centers_start"),
)
"""Settings of the model that both runs need to have in common: the weights, or what they mean, depend on them. The last two say where
weights start that a warm start takes over: another value would have no effect."""
_COMPARED = 1000  # known items that tell how near an item is to its neighbours


def parent_of(config: Config) -> RunFolder | None:
    """The run that a configuration starts from.

    Raises:
        UserError: when there is none there, it has no model, or its architecture, what its weights started from or its number of
            intents does not fit.
    """
    if config.train.warm_start is None:
        return None
    parent = RunFolder(config.train.warm_start)
    theirs = parent.config().model
    for name in ARCHITECTURE:
        mine, old = getattr(config.model, name), getattr(theirs, name)
        if mine != old:
            flag = f"--{name.replace('_', '-')}"
            raise UserError(
                f"--warm-start {parent.path}: the run has {flag} {old}, this one {mine}; a warm start keeps that, leave out {flag}"
            )
    if not parent.model_file.is_file():
        raise UserError(f"--warm-start {parent.path}: has no model.keras; the run has not finished an epoch (continue it with --resume)")
    _check_intents(config, _intents_of(parent))
    return parent


def _intents_of(parent: RunFolder) -> int:
    """How many intents a run's model has, which training may have decided; read without loading the model."""
    try:
        with ZipFile(parent.model_file) as file:
            return json.loads(file.read("config.json"))["config"]["num_clusters"]
    except (BadZipFile, KeyError, ValueError) as error:
        raise UserError(f"{parent.model_file}: is no model that elcrec_tf wrote ({error})") from None


def _check_intents(config: Config, count: int) -> None:
    start = f"--warm-start {config.train.warm_start}: the run has {count} intents"
    if config.model.auto_clusters and count > config.model.most_clusters:
        raise UserError(f"{start}; raise --most-clusters to {count} or more")
    if not config.model.auto_clusters and count != config.model.num_clusters:
        raise UserError(f"{start}, this one {config.model.num_clusters}; give --num-clusters {count}")


def lineage(parent: RunFolder, catalog: Catalog, folder: RunFolder) -> dict[str, Any]:
    """What data.json and metrics.json say of a warm start: the parent as it was named, where it lies as seen from the new run's `folder`,
    its data's fingerprint, and how many items were known to it.

    Raises:
        UserError: when no item is known, so that nothing can be taken over.
    """
    old = parent.catalog()
    known = int(np.count_nonzero(old.index(catalog.ids)))
    if not known:
        raise UserError(
            f"--warm-start {parent.path}: knows none of the {catalog.num_items} items of the data; its ids look like {old.ids[0]!r}, the "
            f"data's like {catalog.ids[0]!r}"
        )
    counts = {"items_known": known, "items_new": catalog.num_items - known, "items_gone": old.num_items - known}
    place = os.path.relpath(parent.path.resolve(), folder.path.resolve())
    return {"run": str(parent.path), "place": place, "fingerprint": parent.fingerprint(), **counts}


def describe(origin: dict[str, Any]) -> str:
    """One line of what `lineage` gives."""
    counts = f"{origin['items_known']:,} items known to it, {origin['items_new']:,} new, {origin['items_gone']:,} of its items gone"
    return f"warm start from {origin['run']}: {counts}"


def take_over(model: ELCRec, old: ELCRec, old_catalog: Catalog, sequences: AnySequences, neighbors: bool) -> None:
    """Start a new model from another one's weights.

    Args:
        model: untrained, for the catalogue of `sequences`; of the same architecture as `old`, with room for its intents.
        old: the trained model.
        old_catalog: its items.
        sequences: the new data, whose training part tells where new items belong.
        neighbors: place new items near known ones; else they start at random.
    """
    apart = {model.item_embedding.table.path, model.cluster_centers.centers.path}
    source = {variable.path: variable for variable in old.trainable_variables}
    for variable in model.trainable_variables:
        if variable.path not in apart:
            variable.assign(source[variable.path])
    known = np.concatenate([[PADDING], old_catalog.index(sequences.catalog.ids)])  # old index by new index
    table = ops.convert_to_numpy(model.item_embedding.table).copy()
    table[known != PADDING] = ops.convert_to_numpy(old.item_embedding.table)[known[known != PADDING]]
    if neighbors:
        _place_new_items(table, known, sequences)
    model.item_embedding.table.assign(table)
    centers = ops.convert_to_numpy(old.cluster_centers.centers)
    if model.cluster_centers.retirable:
        model.cluster_centers.keep(centers)
    else:
        model.cluster_centers.assign_centers(centers)


def _place_new_items(table: np.ndarray, known: np.ndarray, sequences: AnySequences) -> None:
    """Move the rows of new items from their random start towards the known items that they stand next to.

    Not all the way: the mean of many vectors is nearer to every user than any single one, and would outrank them all. A new item gets
    the cosine with its neighbours' mean that known items have with theirs. One that stands next to none gets what all items have in
    common, and its random start.
    """
    is_known = known != PADDING
    is_new = ~is_known
    is_new[PADDING] = False
    if not is_new.any():
        return
    old = np.flatnonzero(is_known)
    compared = np.random.default_rng(0).permutation(old)[:_COMPARED]
    wanted = is_new.copy()
    wanted[compared] = True
    near = item_neighbors(sequences, wanted, is_known)
    means = unit_rows(near @ np.where(is_known[:, None], table, 0))
    vectors = unit_rows(table)
    cosine = float(np.clip(np.mean(np.sum(means * vectors, axis=1)[compared]), 0, 1))
    means[is_new & (near.sum(axis=1) == 0)] = unit_rows(table[old].mean(axis=0, keepdims=True))
    length = np.median(np.linalg.norm(table[old], axis=1))
    table[is_new] = length * unit_rows(cosine * means + np.sqrt(1 - cosine**2) * vectors)[is_new]
