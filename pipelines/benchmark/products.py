"""The matrix products of one training step: those that no implementation can do without, forward and backward."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from elcrec_tf.config import Config, ModelConfig
from pipelines.benchmark.counts import Encoding, Step


class Shape(NamedTuple):
    """A product `[rows, inner] x [inner, columns]` as it is measured, `batch` of them at once.

    `cut` says how it may be worked off: in blocks of its `"rows"` or of its `"inner"` side; or, where it belongs to the attention within
    a sequence, by itself or as one block of the diagonal of a larger product: `"scores"` is `[n, head] x [head, n]`, `"mixing"` is
    `[n, n] x [n, head]`.
    """

    rows: int
    inner: int
    columns: int
    batch: int
    cut: str


@dataclass(frozen=True)
class Product:
    """A matrix product of a step. Sizes are means over the steps, so they need not be whole.

    Attributes:
        part: `softmax`, `encoder`, `contrastive` or `cluster`.
        name: what it computes.
        rows, inner, columns: `[rows, inner] x [inner, columns]`.
        count: how often a step does it.
        cut: see `Shape`.
        batch: of `count`, those that can be done at once.
    """

    part: str
    name: str
    rows: float
    inner: float
    columns: float
    count: float = 1
    cut: str = "rows"
    batch: float = 1

    @property
    def flops(self) -> float:
        return 2 * self.rows * self.inner * self.columns * self.count

    @property
    def shape(self) -> Shape:
        rows, inner, columns, batch = (math.ceil(size) for size in (self.rows, self.inner, self.columns, self.batch))
        return Shape(rows, inner, columns, batch, self.cut)


def step_products(step: Step, config: Config, num_items: int) -> list[Product]:
    """Every product of a training step over a catalogue of `num_items` items. A second computation of something is not counted."""
    return [*_next_item(step, config, num_items), *_encoder(step, config.model), *_contrastive(step, config), *_cluster(step, config)]


def dense(part: str, name: str, rows: float, inner: float, columns: float, count: float = 1) -> list[Product]:
    """`x W` with `x` `[rows, inner]`, and the two products of its gradient: `dy Wᵀ` and `xᵀ dy`."""
    return [
        Product(part, name, rows, inner, columns, count),
        Product(part, f"{name}, gradient of the input", rows, columns, inner, count),
        Product(part, f"{name}, gradient of the weights", inner, rows, columns, count, cut="inner"),
    ]


def _next_item(step: Step, config: Config, num_items: int) -> list[Product]:
    """Queries times keys. BCE, like the positive logit of the others, needs a dot product a target: no matrix product."""
    if config.loss.next_item == "bce":
        return []
    candidates = num_items if config.loss.next_item == "softmax" else config.loss.num_negatives
    return dense("softmax", "logits", step.targets, config.model.hidden_size, candidates)


def _encoder(step: Step, model: ModelConfig) -> list[Product]:
    size, tokens, outputs = model.hidden_size, step.tokens, step.outputs
    whole = model.num_layers if outputs == tokens else model.num_layers - 1
    products = dense("encoder", "queries, keys, values", tokens, size, 3 * size, whole)
    products += _behind_attention(tokens, size, whole)
    if whole < model.num_layers:
        products += dense("encoder", "top layer, keys and values", tokens, size, 2 * size)
        products += dense("encoder", "top layer, queries", outputs, size, size)
        products += _behind_attention(outputs, size, 1, "top layer, ")
    for encoding in step.encodings:
        products += _attention(encoding, model)
    return [product for product in products if product.count]


def _behind_attention(rows: float, size: int, count: float, where: str = "") -> list[Product]:
    return [
        *dense("encoder", f"{where}attention output", rows, size, size, count),
        *dense("encoder", f"{where}expand", rows, size, 4 * size, count),
        *dense("encoder", f"{where}contract", rows, 4 * size, size, count),
    ]


def _attention(encoding: Encoding, model: ModelConfig) -> list[Product]:
    """Scores and mixing of every sequence and head, at the mean length, as many as give the real number of pairs.

    A pass of which only the last state counts needs one query a sequence in the top layer: no matrix product, see `floor.step_bytes`.
    """
    length, head = encoding.mean_length, model.hidden_size // model.num_heads
    layers = model.num_layers - encoding.last_only
    count = layers * model.num_heads * encoding.pairs / length**2
    batch = encoding.sequences * model.num_heads
    return [
        # [n, head] x [head, n]: the scores, and the gradient of the weights; [n, n] x [n, head]: the mixing, and three more gradients.
        Product("encoder", "attention scores", length, head, length, 2 * count, "scores", batch),
        Product("encoder", "attention mixing", length, length, head, 4 * count, "mixing", batch),
    ]


def _contrastive(step: Step, config: Config) -> list[Product]:
    model, loss, rows = config.model, config.loss, 2 * step.users
    products = []
    if loss.sequence_weight:
        width = model.hidden_size * (2 if model.fusion == "concat" else 1)
        width *= model.max_length if loss.sequence_pooling == "flatten" else 1
        products += _similarities("contrastive", "sequence similarities", rows, width)
        if model.fusion != "none":  # the choice of the nearest has no gradient
            products.append(
                Product("contrastive", "nearest intent of the views' states", step.view_tokens, model.hidden_size, model.centers)
            )
    if loss.intent_weight:
        products += _similarities("contrastive", "intent similarities", rows, model.hidden_size, 2)
        if not (config.elcm and loss.cluster_form == "assign"):  # ELCM computes it anyway
            products.append(Product("contrastive", "nearest intent of the users", step.users, model.hidden_size, model.centers))
    return products


def _cluster(step: Step, config: Config) -> list[Product]:
    """Eq. 3 of the paper needs means alone: no matrix product."""
    model, loss = config.model, config.loss
    if not config.elcm or loss.cluster_form == "paper":
        return []
    products = dense("cluster", "assignment", step.users, model.hidden_size, model.centers)
    return products + _similarities("cluster", "centres' similarities", model.centers, model.hidden_size)


def _similarities(part: str, name: str, rows: float, width: float, count: float = 1) -> list[Product]:
    """`x xᵀ`, and its gradient `(g + gᵀ) x`: one product, since both sides are the same matrix."""
    return [Product(part, name, rows, width, rows, count), Product(part, f"{name}, gradient", rows, rows, width, count)]
