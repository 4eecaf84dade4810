"""What a worker measures: the configuration, the data set and the model of its spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from elcrec_tf.config import Config
from elcrec_tf.data.datasets import load_dataset
from elcrec_tf.data.sequences import Sequences
from pipelines.benchmark.synthetic import zipf_sequences

if TYPE_CHECKING:
    from elcrec_tf.model import ELCRec


def config_of(spec: Mapping[str, Any]) -> Config:
    return Config.from_dict(spec["config"])


def sequences_of(spec: Mapping[str, Any], config: Config) -> Sequences:
    """The data set of the configuration, or the one that `spec["synthetic"]` describes."""
    return zipf_sequences(**spec["synthetic"]) if spec.get("synthetic") else load_dataset(config.data, config.simulator)


def training_batches(sequences: Sequences, config: Config) -> Any:
    """The batches of a training run: `dataset`, without end; `steps_per_epoch`; `padding_share`."""
    from elcrec_tf import training

    return training.training_batches(sequences, config)


def new_model(sequences: Sequences, config: Config) -> ELCRec:
    """The untrained, compiled model."""
    from elcrec_tf.training import _new_model

    return _new_model(sequences, config)


def trainable_model(sequences: Sequences, config: Config) -> ELCRec:
    """The same with the kernels that a training run chooses for the machine."""
    from elcrec_tf.training import _choose_kernels

    model = new_model(sequences, config)
    _choose_kernels(model, config)
    return model
