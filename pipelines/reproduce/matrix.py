"""Runs what a table lacks, one run after the other; or says what that would be."""

from __future__ import annotations

import json
import statistics
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elcrec_tf.errors import UserError
from pipelines.lock import FolderInUse
from pipelines.reproduce import process
from pipelines.reproduce.job import Job, settings
from pipelines.reproduce.ledger import Row

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from pipelines.reproduce.scene import Scene, Variant

_USERS_PER_SECOND = 3600.0  # of the preset default on 2 cores; see "Speed" in the README


def missing_jobs(scene: Scene, variants: Sequence[Variant]) -> list[tuple[Job, Variant]]:
    """The runs without a row, each once, seed by seed: every variant has its first seed before any has its second."""
    seeds = scene.options.seeds
    found: dict = {}
    for seed in range(seeds):
        for variant in variants:
            for job in variant.jobs(seeds)[seed : seed + 1]:
                if scene.ledger.find(job) is None:
                    found.setdefault(job.key, (job, variant))
    return list(found.values())


def run_missing(scene: Scene, variants: Sequence[Variant], console: Console) -> list[str]:
    """Run them. A run that fails is left out with those that need its model, and the others go on; one that another process is at work on
    comes again at the end, and waits there. The ids of those that have no row after all."""
    turns = [(job, variant, False) for job, variant in missing_jobs(scene, variants)]
    failed: list[Job] = []
    untrained: set[Hashable] = set()
    for number, (job, variant, wait) in enumerate(turns, 1):
        scene.ledger.reload()  # another process may have made it meanwhile
        if scene.ledger.find(job) is not None:
            continue
        console.print(f"run {number} of {len(turns)}: {job.dataset}, {job.recipe}, {job.variant}, seed {job.seed}", soft_wrap=True)
        if job.training.key in untrained:
            console.print(f"left out: the training of {job.training.id} has failed", soft_wrap=True)
            failed.append(job)
            continue
        try:
            process.train(job, Path(scene.options.runs_dir), scene.ledger.folder, wait, variant.afresh)
        except FolderInUse as error:
            console.print(f"put off to the end: {error}", soft_wrap=True)
            turns.append((job, variant, True))  # which this loop comes to
        except UserError as error:
            console.print(f"failed: {error}", soft_wrap=True)
            failed.append(job)
            if not _is_trained(job, scene):
                untrained.add(job.training.key)
    scene.ledger.reload()
    return [job.id for job in failed if scene.ledger.find(job) is None]


def dry_run_table(scene: Scene, variants: Sequence[Variant]) -> Table:
    """What `run_missing` would run, with an estimate of the time; a run may stop early."""
    from rich.table import Table

    guess = "no run is finished yet: the hours are a guess, from the preset default on 2 cores"
    caption = "hours from the finished runs that are most alike" if scene.ledger.rows else guess
    table = Table(title="runs without a row", caption=caption)
    for column in ("data set", "recipe", "variant"):
        table.add_column(column)
    for column in ("seed", "epochs, at most", "hours"):
        table.add_column(column, justify="right")
    total = 0.0
    jobs = missing_jobs(scene, variants)
    trained = {job.key for job, _ in jobs if job == job.training}
    for job, variant in jobs:
        seconds = 0.0  # of one that only ranks, with a model that is there or that another line trains
        if job == job.training or not (job.training.key in trained or _is_trained(job, scene)):
            seconds = estimated_seconds(job.training, variant.subject.users, scene.ledger.rows)
            trained.add(job.training.key)
        total += seconds
        table.add_row(job.dataset, job.recipe, job.variant, str(job.seed), str(job.config.train.epochs), f"{seconds / 3600:.2f}")
    table.add_row("all", f"{len(jobs)} runs", "", "", "", f"{total / 3600:.2f}", style="bold")
    return table


def _is_trained(job: Job, scene: Scene) -> bool:
    return job.run_folder(Path(scene.options.runs_dir)).metrics_file.is_file()


def estimated_seconds(job: Job, users: int, rows: Sequence[Row]) -> float:
    """Seconds of training, by the finished runs that differ in the fewest fields of the configuration.

    Those on the same data with as many epochs tell how long a run takes. Without any, they tell the time of a user in an epoch, and the
    run may take all its epochs. Without rows a guess stands for them. A run with contrastive losses encodes two views beside the
    histories: it counts three times as long as one without.
    """
    epochs, share = job.config.train.epochs, job.train_share
    if not rows:
        return epochs * users * share / _USERS_PER_SECOND
    own = _fields(settings(job.config))
    passes = _passes(own)
    distances = [sum(other.get(name, value) != value for name, value in own.items()) for other in (_fields(row["config"]) for row in rows)]
    fewest = min(distances)
    nearest = [row for row, distance in zip(rows, distances, strict=True) if distance == fewest]
    size = (job.fingerprint, share, epochs)
    same = [row for row in nearest if (row["fingerprint"], row["train_share"], row["config"]["train"]["epochs"]) == size]
    if same:
        return passes * statistics.median(_pass_seconds(row) for row in same)
    rates = [_pass_seconds(row) / (row["epochs"] * row["users"] * row["train_share"]) for row in nearest]
    return passes * statistics.median(rates) * epochs * users * share


def _pass_seconds(row: Row) -> float:
    """Seconds that the run would have taken had its steps encoded a batch once."""
    return row["train_seconds"] / _passes(_fields(row["config"]))


def _passes(fields: Mapping[str, Any]) -> int:
    """How often a training step encodes a batch."""
    return 3 if fields["sequence_weight"] or fields["intent_weight"] else 1


def _fields(groups: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a configuration by name, all groups together, as JSON has them; without the seed."""
    plain = json.loads(json.dumps(groups))
    return {name: value for group in plain.values() if isinstance(group, dict) for name, value in group.items() if name != "seed"}
