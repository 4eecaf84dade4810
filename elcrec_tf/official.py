"""The published PyTorch checkpoints of ELCRec: reading them, and loading their weights into `ELCRec`."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from elcrec_tf.data.catalog import Catalog
from elcrec_tf.errors import UserError
from elcrec_tf.model import ELCRec

_BLOCK = "item_encoder.layer.{}."


def read_checkpoint(path: str | Path) -> dict[str, np.ndarray]:
    """Arrays of a checkpoint under their PyTorch names.

    Args:
        path: an `.npz` file, or a `.pt` file (a state dict; read with `weights_only=True`, which needs torch).

    Raises:
        UserError: for a missing or unreadable file, another ending, or a missing torch.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a published checkpoint (.pt) or its arrays (.npz)")
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile, zlib.error) as error:  # TypeError: one bare array
            raise UserError(f"{path}: is not a readable .npz file ({error}); get it again") from None
    if path.suffix in (".pt", ".pth"):
        return _read_torch(path)
    raise UserError(f"{path}: unknown ending {path.suffix!r}; a checkpoint is a .pt or an .npz file")


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError:
        raise UserError(f"{path}: reading a .pt file needs torch: pip install torch") from None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {name: value.detach().numpy() for name, value in state.items()}
    except Exception as error:  # torch raises many kinds for a file that is no checkpoint
        raise UserError(f"{path}: is not a state dict that torch can read: {str(error).splitlines()[0]}") from None


def architecture(weights: Mapping[str, np.ndarray], where: str = "checkpoint") -> dict[str, int]:
    """What the shapes tell: `max_length`, `hidden_size`, `num_layers`, `num_clusters`, `rows` of the item table.

    Raises:
        UserError: when an array that every checkpoint has is missing.
    """
    for name in ("item_embeddings.weight", "position_embeddings.weight", "LayerNorm.weight", "cluster_centers"):
        if name not in weights:
            raise UserError(f"{where}: is no ELCRec checkpoint: it has no array {name!r}")
    blocks = {int(match[1]) for name in weights if (match := re.match(r"item_encoder\.layer\.(\d+)\.", name))}
    if not blocks:
        raise UserError(f"{where}: is no ELCRec checkpoint: it has no encoder layer")
    rows, hidden_size = weights["item_embeddings.weight"].shape
    return {
        "max_length": weights["position_embeddings.weight"].shape[0],
        "hidden_size": hidden_size,
        "num_layers": max(blocks) + 1,
        "num_clusters": weights["cluster_centers"].shape[0],
        "rows": rows,
    }


def item_rows(catalog: Catalog, rows: int, where: str = "checkpoint") -> np.ndarray:
    """Row of the official item table for each row of ours, `[num_items + 1]`: official ids are the rows' numbers, 0 is padding.

    Raises:
        UserError: when an item id is no number from 1 to `rows - 1`.
    """
    ids = [str(raw) for raw in catalog.ids]
    wrong = next((raw for raw in ids if not (raw.isdecimal() and 0 < int(raw) < rows)), None)
    if wrong is not None:
        raise UserError(
            f"{where}: its item table has {rows} rows, for the ids 1 to {rows - 1}; the data set has the item {wrong!r}. "
            "Give the data set that the checkpoint was trained on with --dataset"
        )
    return np.array([0, *map(int, ids)])


def load_official_weights(
    model: ELCRec, weights: Mapping[str, np.ndarray], where: str = "checkpoint", rows: np.ndarray | None = None
) -> None:
    """Set the model's weights from PyTorch arrays. PyTorch keeps matrices as `[out, in]`, Keras as `[in, out]`.

    Args:
        model: of the checkpoint's architecture.
        weights: arrays under their PyTorch names.
        where: the checkpoint's name, for errors.
        rows: row of the official item table for each row of the model's (`item_rows`); the same rows in order if None.

    Raises:
        UserError: for a missing array or one of another shape.
    """

    def array(name: str) -> np.ndarray:
        if name not in weights:
            raise UserError(f"{where}: it has no array {name!r}")
        return np.asarray(weights[name], np.float32)

    def assign(variable: object, value: np.ndarray, name: str) -> None:
        if tuple(variable.shape) != value.shape:  # type: ignore[attr-defined]
            raise UserError(f"{where}: {name!r} has the shape {value.shape}, the model {tuple(variable.shape)}")  # type: ignore[attr-defined]
        variable.assign(value)  # type: ignore[attr-defined]

    def dense(layer: object, *names: str) -> None:
        kernel = np.concatenate([array(f"{name}.weight").T for name in names], axis=1)
        assign(layer.kernel, kernel, names[0])  # type: ignore[attr-defined]
        assign(layer.bias, np.concatenate([array(f"{name}.bias") for name in names]), names[0])  # type: ignore[attr-defined]

    def norm(layer: object, name: str) -> None:
        assign(layer.gamma, array(f"{name}.weight"), name)  # type: ignore[attr-defined]
        assign(layer.beta, array(f"{name}.bias"), name)  # type: ignore[attr-defined]

    table = model.item_embedding.table
    rows = np.arange(table.shape[0]) if rows is None else rows
    assign(table, array("item_embeddings.weight")[rows], "item_embeddings.weight")
    assign(model.encoder.position_embedding.table, array("position_embeddings.weight"), "position_embeddings.weight")
    norm(model.encoder.embedding_norm, "LayerNorm")
    for index, block in enumerate(model.encoder.blocks):
        attention = _BLOCK.format(index) + "attention."
        feed_forward = _BLOCK.format(index) + "intermediate."
        dense(block.query_key_value, attention + "query", attention + "key", attention + "value")
        dense(block.attention_output, attention + "dense")
        norm(block.attention_norm, attention + "LayerNorm")
        dense(block.expand, feed_forward + "dense_1")
        dense(block.contract, feed_forward + "dense_2")
        norm(block.output_norm, feed_forward + "LayerNorm")
    centers = array("cluster_centers")
    if centers.shape != tuple(model.cluster_centers.centers.shape):
        raise UserError(f"{where}: 'cluster_centers' has the shape {centers.shape}, the model has another")
    model.cluster_centers.assign_centers(centers)
