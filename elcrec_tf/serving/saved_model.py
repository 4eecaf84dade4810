"""Writes a trained model as a SavedModel that TF Serving and `Recommender` read."""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console

from elcrec_tf import __version__, cli
from elcrec_tf.data.catalog import Catalog
from elcrec_tf.data.datasets import short_name
from elcrec_tf.errors import UserError
from elcrec_tf.files import write_json
from elcrec_tf.model import ELCRec
from elcrec_tf.run_folder import RunFolder
from elcrec_tf.serving.approximate import Approximation, approximate_search
from elcrec_tf.serving.folder_lock import locked, remove, temporary_folder
from elcrec_tf.serving.layout import CATALOG, METADATA, read_metadata, versions
from elcrec_tf.serving.signatures import ServingModule, item_keys
from elcrec_tf.serving.tf_serving_files import stable_version, write_serving_files
from elcrec_tf.serving.warmup import write_warmup

_WARMUP_ITEMS = 64


def export_saved_model(
    model: ELCRec,
    catalog: Catalog,
    directory: str | Path,
    top_k: int = 100,
    metadata: Mapping[str, Any] | None = None,
    keep: int | None = None,
    approximation: Approximation | None = None,
) -> Path:
    """Write `directory/<version>/`, one above the highest version there (1 at first). It appears when it is whole. Several exports may
    go to the same folder at the same time; what a killed one left there is removed by the next one.

    The SavedModel has the signatures of `ServingModule`; it needs TensorFlow alone, neither Keras nor this package. Beside it lie
    `assets/metadata.json`, `assets.extra/catalog.parquet` (ids, training counts, titles) and the warm-up requests of TensorFlow Serving;
    beside the versions, in `directory/tf_serving/`, the files that start it.

    Args:
        model: the trained model.
        catalog: its items.
        directory: the model's folder; made if need be.
        top_k: recommendations a history; a smaller catalogue gives all its items.
        metadata: what else metadata.json should say (config, data set, metrics), ready for JSON.
        keep: remove all but so many of the newest versions, and the one that models.config labels stable; None removes none.
        approximation: of an approximate index that finds the items; exact search if None.

    Returns:
        The version's folder.

    Raises:
        UserError: for a folder that cannot be written, a model with weights that are not finite, another Keras backend than TensorFlow,
            and where `ServingModule` or `approximate_search` refuses what it gets.
    """
    if (backend := keras.backend.backend()) != "tensorflow":
        raise UserError(
            f"an export needs Keras's TensorFlow backend, this is {backend}; "
            f"run KERAS_BACKEND=tensorflow {cli.command('export')} RUN_DIR on the run's folder"
        )
    directory = Path(directory)
    try:
        search, index = None, {"kind": "exact"}
        if approximation is not None:
            search, index = approximate_search(model, item_keys(model), top_k, approximation)
        module = ServingModule(model, catalog, top_k, search)
    except ValueError as error:
        raise UserError(f"the model cannot be exported: {error}") from None
    if not all(tf.reduce_all(tf.math.is_finite(variable)) for variable in module.variables if variable.dtype.is_floating):
        raise UserError("the model cannot be exported: some of its weights are NaN or infinite; train it again")
    try:
        with temporary_folder(directory) as temporary:
            _write(module, catalog, temporary, {**(metadata or {}), "index": index}, directory.resolve().name)
            with locked(directory):
                version = take_next_version(temporary, directory)
                tidy(directory, keep)
        return version
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "message", None) or error
        raise UserError(f"{directory}: cannot be written ({reason}); choose another folder for the export") from None


def export_run(
    folder: RunFolder,
    directory: str | Path | None,
    console: Console,
    top_k: int = 100,
    example: Sequence[str] | None = None,
    keep: int | None = None,
    approximation: Approximation | None = None,
) -> Path:
    """Export the best model of a run with its config, data set and test metrics, and print where it went and how to ask it.

    Args:
        folder: the run.
        directory: the model's folder; `saved_models/<data set>` if None.
        console: where to print.
        top_k, keep, approximation: see `export_saved_model`.
        example: ids for the printed command; the two most popular items if None.

    Returns:
        The version's folder.

    Raises:
        UserError: as `export_saved_model`, and for a folder that holds no run or no model yet.
    """
    config, catalog, metrics = folder.config(), folder.catalog(), folder.read_metrics()
    name = metrics.get("dataset") or short_name(Path(config.data.dataset))
    metadata = {
        "config": config.to_dict(),
        "dataset": {"name": name, "fingerprint": metrics.get("fingerprint")},
        "test_metrics": None if folder.outgrew(metrics) else metrics.get("test"),
    }
    directory = Path("saved_models", name) if directory is None else Path(directory)
    version = export_saved_model(folder.load_model(), catalog, directory, top_k, metadata, keep, approximation)
    example = example or catalog.raw(np.argsort(-catalog.counts, kind="stable")[:2] + 1)
    command = f"{cli.command('recommend')} {shlex.join([str(directory), *_history_flags(example)])}"
    lines = [f"exported {folder.path} to {version}", f"ask it with: {command}"]
    if approximation is not None:
        lines.insert(1, _about_index(read_metadata(version)["index"]))
    for line in lines:
        console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)
    return version


def _history_flags(ids: Sequence[str]) -> list[str]:
    """Ids as the flags of the `recommend` command; one that begins with - would be taken for a flag by itself."""
    return [f"--history={raw}" for raw in ids] if any(raw.startswith("-") for raw in ids) else ["--history", *ids]


def _about_index(index: Mapping[str, Any]) -> str:
    recall = index["recall"]
    return (
        f"approximate index: {index['probes']:,} of {index['lists']:,} lists are looked into, {index['candidates']:,.0f} items; "
        f"recall@{recall['at']} of {recall['users']:,} users: {recall['measured']:.3f} (wanted: {recall['wanted']:g})"
    )


def _write(module: ServingModule, catalog: Catalog, folder: Path, metadata: Mapping[str, Any], name: str) -> None:
    signatures = module.signatures()
    tf.saved_model.save(module, str(folder), signatures=signatures)
    catalog.save(folder / CATALOG)
    write_warmup(folder, name, signatures, catalog.ids[:_WARMUP_ITEMS].tolist())
    own = {
        "elcrec_tf": __version__,
        "tensorflow": tf.__version__,
        "num_items": catalog.num_items,
        "max_length": module.max_length,
        "top_k": module.top_k,
        "signatures": sorted(signatures),
    }
    write_json(folder / METADATA, {**metadata, **own})


def take_next_version(temporary: Path, directory: Path) -> Path:
    """Give a whole export, which stands on the same file system, the next version number.

    The caller holds the folder (`folder_lock.locked`). Whatever takes the number without holding it keeps it.
    """
    while True:
        version = directory / str(max(versions(directory), default=0) + 1)
        try:
            os.rename(temporary, version)  # fails where somebody has just taken the name
            return version
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise


def tidy(directory: Path, keep: int | None) -> None:
    """Write the files for TensorFlow Serving, then remove the versions that are no longer wanted: see `export_saved_model`. The caller
    holds the folder."""
    found = versions(directory)
    kept = set(found) if keep is None else {*sorted(found)[-keep:], stable_version(directory, found)}
    write_serving_files(directory, kept)
    for number in found.keys() - kept:
        remove(found[number])
