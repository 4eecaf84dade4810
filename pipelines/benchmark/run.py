"""One invocation of the benchmark: what was asked for, and the measurements made so far."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from elcrec_tf.config import Config
from elcrec_tf.data.sequences import Sequences
from pipelines.benchmark import process
from pipelines.benchmark.floor import Rates
from pipelines.benchmark.journal import Journal
from pipelines.benchmark.products import Product

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Run:
    """What a sub-command gets.

    Attributes:
        options: its flags.
        config: the configuration.
        sequences: the data set.
        journal: finished measurements.
        console: where progress goes.
    """

    options: argparse.Namespace
    config: Config
    sequences: Sequences
    journal: Journal
    console: Console

    @property
    def repeats(self) -> range:
        return range(self.options.repeats)

    def fresh(self, name: str, kind: str, config: Config | None = None, **spec: Any) -> dict[str, Any]:
        """A measurement in a fresh process, see `process.measure`; `config` is that of the run if None."""
        self.console.print(f"measuring {name}")
        return process.measure(kind, config=(config or self.config).to_dict(), **spec)

    def measure(self, key: str, kind: str, config: Config | None = None, **spec: Any) -> dict[str, Any]:
        """The same, unless the journal has it."""
        return self.journal.measure(key, lambda: self.fresh(key, kind, config, **spec))

    def rates(self, key: str, products: Sequence[Product]) -> Rates:
        """The rates of these products on this machine, now."""
        shapes = sorted({product.shape for product in products})
        options = {"seconds": self.options.floor_seconds, "megabytes": self.options.floor_megabytes}
        return Rates.from_row(self.measure(key, "rates", shapes=[list(shape) for shape in shapes], **options))

    def devices(self) -> list[str]:
        """Accelerators that the measurements ran on."""
        return next((row["devices"] for row in self.journal.rows.values() if "devices" in row), [])
