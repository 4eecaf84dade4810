"""The least time that a training step can take here: its matrix products at measured rates, its memory traffic at measured bandwidth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from elcrec_tf.config import Config
from pipelines.benchmark.counts import Step
from pipelines.benchmark.products import Product, Shape

PARTS = ("softmax", "encoder", "contrastive", "cluster", "memory")
FORMATS = ("float32", "bfloat16")
_FLOAT = 4
_ADAM_ACCESSES = 7  # reads the gradient; reads and writes the weight and both moments


@dataclass(frozen=True)
class Rates:
    """What this machine reached in this run.

    Attributes:
        gflops: shape -> number format -> GFLOP/s, the best way to do that product.
        bandwidth: GB/s of memory far larger than any cache.
    """

    gflops: Mapping[Shape, Mapping[str, float]]
    bandwidth: float

    @staticmethod
    def from_row(row: Mapping[str, Any]) -> Rates:
        """From what `rates.measure` returned, possibly by way of JSON."""
        gflops = {Shape(*one["shape"]): {name: one[name]["gflops"] for name in FORMATS if name in one} for one in row["products"]}
        return Rates(gflops, row["bandwidth"])


def step_bytes(step: Step, config: Config, num_items: int, parameters: int) -> float:
    """Bytes that a step must move: Adam over all `parameters`, the embeddings in, the item table's gradient out.

    Logits count nothing: in blocks they never leave the cache. Where only a sequence's last state counts, its attention in the top layer
    is one query over all keys and values: they are read twice, and their gradients written.
    """
    size, loss = config.model.hidden_size, config.loss
    sparse = step.tokens + {"softmax": 0, "sampled_softmax": step.targets + loss.num_negatives, "bce": 2 * step.targets}[loss.next_item]
    gradient_rows = num_items + 1 if loss.next_item == "softmax" else min(sparse, num_items + 1)
    last_only = sum(encoding.tokens for encoding in step.encodings if encoding.last_only)
    rows = step.tokens + gradient_rows + 6 * last_only
    return _FLOAT * (_ADAM_ACCESSES * parameters + rows * size)


def floor_seconds(products: Sequence[Product], memory_bytes: float, rates: Rates, formats: Sequence[str] = FORMATS) -> dict[str, float]:
    """Seconds of each of `PARTS`; a product is done in the faster of the `formats`. The floor is their sum."""
    seconds = dict.fromkeys(PARTS, 0.0)
    for product in products:
        measured = rates.gflops[product.shape]
        seconds[product.part] += product.flops / (1e9 * max(measured[name] for name in formats))
    seconds["memory"] = memory_bytes / (1e9 * rates.bandwidth)
    return seconds
