"""Reading data by inherited settings: those of the run that a new one starts from, of a run that is evaluated, or of an export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from elcrec_tf.config import DataConfig


def with_flags(inherited: DataConfig, flags: Mapping[str, Any]) -> DataConfig:
    """Inherited settings with those that are given as flags in their place.

    A condition replaces both inherited ones, which may be for another column.

    Raises:
        UserError: for a value that its field does not take.
    """
    if "min_value" in flags or "keep_values" in flags:
        inherited = replace(inherited, min_value=None, keep_values=None)
    return without_empty_filter(replace(without_empty_filter(inherited), **flags))


def without_empty_filter(config: DataConfig) -> DataConfig:
    """An empty `filter_column` is no filter, whatever the conditions: so an inherited one is turned off."""
    return replace(config, filter_column=None, min_value=None, keep_values=None) if config.filter_column == "" else config
