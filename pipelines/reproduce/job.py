"""A training run that a table needs, and what tells it from others: its data, its configuration with the seed, and the code's versions."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import re
from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from elcrec_tf import __version__
from elcrec_tf.config import Config, DataConfig, SimulatorConfig, resolve
from elcrec_tf.presets import PRESETS
from elcrec_tf.run_folder import RunFolder

# What a run leaves behind for a reader moves no result.
_FREE: dict[str, Any] = {"recovery": False, "snapshot_epochs": None, "snapshot_users": 1}
_DATA_GROUPS = ("data", "simulator")


@dataclass(frozen=True)
class Job:
    """One run: train, validate, test. Tables that need the same run share it, whatever they call it.

    Attributes:
        dataset: its name in tables.
        fingerprint: of the data set, whole.
        recipe, variant: what the table that asked first calls it.
        config: the configuration, with where the data is and with the seed.
        train_share: share of the users that are trained on; all are tested.
        noise: share of the items in the test histories that are replaced by random ones.
        seen: latest items of a test history that the model ranks by; 0 = all.
    """

    dataset: str
    fingerprint: str
    recipe: str
    variant: str
    config: Config
    train_share: float = 1.0
    noise: float = 0.0
    seen: int = 0

    @property
    def seed(self) -> int:
        return self.config.train.seed

    @property
    def key(self) -> Hashable:
        """Equal for runs that give the same result."""
        return identity(self.fingerprint, self.config, self.train_share, self.noise, self.seen, versions())

    @property
    def id(self) -> str:
        """`beauty-default-seed0-0123456789`: a name for files."""
        name = re.sub(r"[^a-z0-9.]+", "-", f"{self.dataset}-{self.recipe}".lower())
        return f"{name}-{self._mark}"

    @property
    def _mark(self) -> str:
        """The end of the id, which runs with the same `key` share, whatever they are called."""
        content = [self.fingerprint, settings(self.config), self.train_share, self.noise, _relevant(versions())]
        content += [self.seen] if self.seen else []  # ids of whole histories are older than this field
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return f"seed{self.seed}-{digest[:10]}"

    @property
    def training(self) -> Job:
        """The job whose run folder this one uses: what is done to the test histories comes after training."""
        return replace(self, noise=0.0, seen=0)

    def run_folder(self, runs_dir: Path) -> RunFolder:
        """Where the training is, or is to be: a finished one if there is any, else one that was begun, whatever recipe's name they have."""
        own = runs_dir / self.training.id
        found = [own, *sorted(runs_dir.glob(f"*-{self.training._mark}"))]
        return min(map(RunFolder, found), key=lambda one: (not one.metrics_file.is_file(), not one.path.is_dir(), one.path != own))

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; `from_dict` reads it back."""
        return {**asdict(self), "config": self.config.to_dict()}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Job:
        config = Config.from_dict(values["config"]).with_preset(values["config"]["preset"])
        return Job(**{**values, "config": config})


def identity(fingerprint: str, config: Config, train_share: float, noise: float, seen: int, software: Mapping[str, str]) -> Hashable:
    """What a result depends on. The fingerprint stands for where the data is and how it is read."""
    same = replace(config.replace(**_FREE), preset="", data=DataConfig(), simulator=SimulatorConfig())
    return fingerprint, same, train_share, noise, seen, _relevant(software)


def settings(config: Config) -> dict[str, Any]:
    """The groups of a configuration that a result depends on, ready for JSON: no path, no name of the data."""
    return {name: value for name, value in config.replace(**_FREE).to_dict().items() if name not in ("preset", *_DATA_GROUPS)}


def differences(config: Config) -> dict[str, Any]:
    """The fields of `settings` in which a configuration differs from its preset, the seed aside."""
    preset = settings(resolve(config.preset if config.preset in PRESETS else "default", flags={"seed": config.train.seed}))
    own = settings(config)
    return {name: value for group in own for name, value in own[group].items() if value != preset[group][name]}


def versions() -> dict[str, str]:
    """Versions of what computes a result."""
    packages = {name: importlib.metadata.version(name) for name in ("tensorflow", "keras")}
    return {"elcrec_tf": __version__, **packages, "python": platform.python_version()}


def _relevant(software: Mapping[str, str]) -> tuple[str, ...]:
    """Versions that may change a result: ours whole, of the frameworks the first two numbers."""
    return (software["elcrec_tf"], *(".".join(software[name].split(".")[:2]) for name in ("tensorflow", "keras")))
