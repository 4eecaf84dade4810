"""What a person sees of a run: a bar within an epoch, a line an epoch, a table of results."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from elcrec_tf.ranking import ranking_metrics

_METRICS = tuple(ranking_metrics(np.zeros(0)))
_TERMS = (("next", "next_item"), ("seq", "sequence"), ("intent", "intent"), ("elcm", "cluster"))


class ProgressCallback(keras.callbacks.Callback):
    """Prints a line an epoch, and on a terminal a bar within it.

    Args:
        console: where to print.
        epochs: number of epochs, for the line.
        monitor: validation metric shown.
    """

    def __init__(self, console: Console, epochs: int, monitor: str) -> None:
        super().__init__()
        self.console = console
        self.epochs = epochs
        self.monitor = monitor

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
        self._task = self._bar.add_task(f"epoch {epoch + 1}/{self.epochs}", total=self.params.get("steps"))
        self._bar.start()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._bar.update(self._task, completed=batch + 1)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.close()
        logs = logs or {}
        terms = " ".join(f"{name} {logs[key]:.3f}" for name, key in _TERMS if key in logs)
        self.console.print(
            f"epoch {epoch + 1:>3}/{self.epochs}  loss {logs['loss']:.3f} ({terms})  "
            f"{self.monitor} {logs[f'val_{self.monitor}']:.4f}  {logs['seconds']:.1f} s",
            highlight=False,
            soft_wrap=True,
        )
        revived = f", {logs['revived']} revived" if "revived" in logs else ""
        if "clusters" in logs:
            changes = ", ".join(f"{logs[f'clusters_{name}']} {name}" for name in ("retired", "merged", "added"))
            self.console.print(f"               {logs['clusters']} intents from now on ({changes})", style="dim", highlight=False)
        self.console.print(
            f"               intents: {logs['intents_used']:.0%} used, perplexity {logs['intent_perplexity']:.0f}, share of users "
            f"{logs['smallest_intent']:.2%} to {logs['largest_intent']:.2%}{revived}; centres' cosine mean "
            f"{logs['center_cosine_mean']:.2f}, max {logs['center_cosine_max']:.2f}; views' alignment "
            f"{logs['view_alignment']:.2f}, uniformity {logs['view_uniformity']:.2f}",
            style="dim",
            highlight=False,
            soft_wrap=True,
        )

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self.close()

    def close(self) -> None:
        """Take the bar away, also after an error in mid-epoch."""
        if hasattr(self, "_bar"):
            self._bar.stop()


def results_table(metrics: dict[str, Any]) -> Table:
    """The metrics of a run as a table: validation, test, and the baselines on test."""
    table = Table(title=f"{metrics['dataset']}: held-out events over the whole catalogue")
    table.add_column("")
    for name in _METRICS:
        table.add_column(name, justify="right")
    rows = [("validation", metrics["validation"]), ("test", metrics["test"])]
    rows += [(f"{name.replace('_', ' ')} (test)", values) for name, values in metrics["baselines"].items()]
    for label, values in rows:
        table.add_row(label, *(f"{values[name]:.4f}" for name in _METRICS))
    return table


def history_length_table(metrics: dict[str, Any]) -> Table:
    """The test metrics by the number of events that users have in their training part, as a table."""
    table = Table(title="test, by the events in a user's training part")
    table.add_column("")
    for name in _METRICS:
        table.add_column(name, justify="right")
    for name, values in metrics["by_history_length"].items():
        table.add_row(f"{name} ({values['users']:,} users)", *(f"{values[metric]:.4f}" for metric in _METRICS))
    return table


def recovery_table(recovery: dict[str, Any]) -> Table:
    """How well planted intents are recovered, as a table."""
    table = Table(title=f"recovery of {recovery['planted']} planted intents")
    table.add_column("intents from")
    table.add_column("clusters", justify="right")
    table.add_column("NMI", justify="right")
    table.add_column("of the oracle's", justify="right")
    oracle = recovery["oracle_nmi"]
    for row in recovery["rows"]:
        # Where every event is noise, even the oracle knows nothing.
        table.add_row(row["name"], str(row["clusters"]), f"{row['nmi']:.3f}", f"{row['nmi'] / oracle:.2f}" if oracle else "-")
    table.add_row("oracle that knows the generator", "", f"{oracle:.3f}", "1.00")
    return table
