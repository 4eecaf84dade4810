"""What a worker measures: the configuration and the data set of its spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from elcrec_tf.config import Config
from elcrec_tf.data.datasets import load_dataset
from elcrec_tf.data.sequences import Sequences
from elcrec_tf.data.shards import in_memory
from pipelines.benchmark.synthetic import zipf_sequences


def config_of(spec: Mapping[str, Any]) -> Config:
    return Config.from_dict(spec["config"])


def sequences_of(spec: Mapping[str, Any], config: Config) -> Sequences:
    """The data set of the configuration, or the one that `spec["synthetic"]` describes. Raises `UserError` for one in shards."""
    if spec.get("synthetic"):
        return zipf_sequences(**spec["synthetic"])
    return in_memory(load_dataset(config.data, config.simulator), "this benchmark")


def catalogue_spec(items: int | None) -> dict[str, Any] | None:
    """`spec["synthetic"]` of a catalogue of so many items without structure; None without a number."""
    return None if items is None else {"users": 4000, "items": items, "events": 20.0}
