"""What a table is about: data sets, recipes on them, the variants that it compares, and the rows that are there."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from elcrec_tf.config import Config, DataConfig, SimulatorConfig, resolve
from elcrec_tf.data.datasets import load_dataset
from elcrec_tf.data.shards import in_memory
from elcrec_tf.presets import PRESETS
from elcrec_tf.reporting.published import published_results
from pipelines.reproduce.job import Job
from pipelines.reproduce.ledger import Ledger, Row
from pipelines.reproduce.significance import METRICS, Spread


@dataclass(frozen=True)
class Subject:
    """A data set.

    Attributes:
        name: in tables.
        fields: of the configuration, those that name it.
        fingerprint: of its content; empty where it is not at hand.
        users: how many.
        absent: why it is not at hand.
    """

    name: str
    fields: Mapping[str, Any]
    fingerprint: str = ""
    users: int = 0
    absent: str = ""

    @property
    def published(self) -> dict[str, dict[str, float]]:
        """Published test metrics on it: method -> metric -> value. Another file of the same name has none."""
        return published_results(self.name, self.fingerprint)

    @staticmethod
    def load(flags: Mapping[str, Any], name: str | None = None, **fields: Any) -> Subject:
        """The data set that the configuration's `fields` name, over `flags`; raises `UserError` as `load_dataset` does."""
        config = resolve("default", flags={**data_fields(flags), **fields})
        sequences = in_memory(load_dataset(config.data, config.simulator), "a table")
        return Subject(name or sequences.name, fields, sequences.fingerprint, sequences.num_users)


def data_fields(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Those of some fields of the configuration that say what the data is. The others are for recipes: `default` may not bear them."""
    names = {field.name for kind in (DataConfig, SimulatorConfig) for field in dataclasses.fields(kind)}
    return {name: value for name, value in flags.items() if name in names}


@dataclass(frozen=True)
class Variant:
    """A training that a table has a line for, whatever the seed.

    Attributes:
        subject: its data set.
        recipe: the name that was asked for (paper, say).
        name: what the table calls it.
        config: the configuration without its seed.
        train_share, noise, seen: see `Job`.
        afresh: a training that was cut off begins anew: what it is measured for would not be the same otherwise.
    """

    subject: Subject
    recipe: str
    name: str
    config: Config
    train_share: float = 1.0
    noise: float = 0.0
    seen: int = 0
    afresh: bool = False

    def jobs(self, seeds: int) -> list[Job]:
        """A job a seed, from 0 on."""
        if self.subject.absent:
            return []
        about = (self.subject.name, self.subject.fingerprint, self.recipe, self.name)
        return [Job(*about, self.config.replace(seed=seed), self.train_share, self.noise, self.seen) for seed in range(seeds)]


def preset_of(recipe: str, dataset: str) -> str | None:
    """The preset that a recipe means for a data set: its own where it has one (`paper-beauty`), else the general one (`best`), if any."""
    return next((name for name in (f"{recipe}-{dataset}", recipe) if name in PRESETS), None)


@dataclass(frozen=True)
class Scene:
    """One invocation.

    Attributes:
        options: its flags.
        fields: fields of the configuration that were given as flags: they win over every recipe.
        subjects: the data sets.
        ledger: finished runs.
    """

    options: argparse.Namespace
    fields: Mapping[str, Any]
    subjects: Sequence[Subject]
    ledger: Ledger

    def recipes(self, subject: Subject) -> list[tuple[str, Config]]:
        """The recipes asked for that there are for this data set, by name."""
        found = [(recipe, preset_of(recipe, subject.name)) for recipe in self.options.recipes]
        return [(recipe, resolve(preset, flags={**self.fields, **subject.fields})) for recipe, preset in found if preset is not None]

    def plain(self) -> list[Variant]:
        """Every recipe as it is, on every data set."""
        return [Variant(subject, recipe, "ELCRec", config) for subject in self.subjects for recipe, config in self.recipes(subject)]

    def rows(self, variant: Variant) -> list[Row]:
        """The finished runs of a variant, by seed."""
        found = (self.ledger.find(job) for job in variant.jobs(self.options.seeds))
        return [row for row in found if row is not None]

    def ranks(self, variant: Variant) -> np.ndarray:
        """Test ranks of its finished runs, `[seeds, users]`."""
        return np.stack([self.ledger.ranks(row) for row in self.rows(variant)])

    def shared_ranks(self, first: Variant, second: Variant) -> tuple[np.ndarray, np.ndarray] | None:
        """`ranks` of both, of the seeds that both were run with; None where there is none."""
        by_seed = [{row["seed"]: row for row in self.rows(variant)} for variant in (first, second)]
        seeds = sorted(by_seed[0].keys() & by_seed[1].keys())
        if not seeds:
            return None
        ranks = [np.stack([self.ledger.ranks(rows[seed]) for seed in seeds]) for rows in by_seed]
        return ranks[0], ranks[1]


def spread(rows: Sequence[Row], split: str, metric: str) -> Spread:
    """A metric of some rows; `sum` is that of the four published ones."""
    names = METRICS if metric == "sum" else (metric,)
    return Spread.of([sum(row[split][name] for name in names) for row in rows])
