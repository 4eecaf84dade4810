"""The space of a hyperparameter search: which settings are tried, in what ranges. Imports no TensorFlow.

A file narrows or widens it, field by field:

```
{"num_clusters": {"low": 8, "high": 512}, "fusion": {"choices": ["shift", "concat"]}, "learning_rate": {}, "dropout": 0.3}
```

An empty object searches a field in its known range, a plain value fixes it.
"""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elcrec_tf.config import GROUPS, Config
from elcrec_tf.config_fields import field_types
from elcrec_tf.errors import UserError
from elcrec_tf.files import read_json_object
from elcrec_tf.search_parameter import Parameter

KNOWN: dict[str, dict[str, Any]] = {
    "num_clusters": {"low": 8, "high": 2048, "scale": "log"},
    "temperature": {"low": 0.05, "high": 1.0, "scale": "log"},
    "cluster_weight": {"low": 0.001, "high": 10.0, "scale": "log"},
    "sequence_weight": {"low": 0.01, "high": 1.0, "scale": "log"},
    "intent_weight": {"low": 0.01, "high": 1.0, "scale": "log"},
    "fusion": {"choices": ["shift", "concat"]},
    "learning_rate": {"low": 5e-4, "high": 1e-2, "scale": "log"},
    "dropout": {"low": 0.1, "high": 0.7},
    "num_layers": {"low": 1, "high": 3},
    "hidden_size": {"choices": [32, 64, 128]},
    "score_temperature": {"low": 0.05, "high": 0.5, "scale": "log"},
}
"""Fields with a range that a file need not repeat."""

DEFAULT = ("num_clusters", "temperature")
"""Fields that are searched unless a file or a flag says otherwise, or they have no effect."""

_KEYS = ("low", "high", "scale", "choices")
# The other groups say what the data is, and the other settings of training how long, how often and where a trial runs.
_GROUPS = ("model", "loss", "schedule", "augment")
_OF_TRAINING = ("learning_rate", "batch_size")


@dataclass(frozen=True)
class Space:
    """What a search varies, and the configuration that it starts from, which holds everything else."""

    base: Config
    parameters: tuple[Parameter, ...]

    def start(self) -> dict[str, Any]:
        """The values of the base configuration, or the nearest that the space has."""
        fields = _flat(self.base.replace(num_clusters=self.base.model.centers))
        return {one.name: one.nearest(fields[one.name]) for one in self.parameters}

    def values(self, sampled: Mapping[str, Any]) -> dict[str, Any]:
        """Sampled values as the configuration holds them; other entries of `sampled` are left out."""
        return {one.name: one.clean(sampled[one.name]) for one in self.parameters}

    def config(self, sampled: Mapping[str, Any]) -> Config:
        """The configuration of a trial. Raises `UserError` where the values do not go together."""
        return self.base.replace(**self.values(sampled))

    def grid(self) -> Space:
        """The same space with a few choices in place of each range."""
        return Space(self.base, tuple(Parameter(one.name, one.kind, choices=one.points()) for one in self.parameters))

    def extremes(self) -> list[Config]:
        """The start with each parameter in turn at each of its ends."""
        return [self.config({**self.start(), one.name: value}) for one in self.parameters for value in one.ends()]

    def to_dict(self) -> dict[str, Any]:
        """The searched fields as a space file writes them; `from_dict` reads them back."""
        return {one.name: one.to_dict() for one in self.parameters}

    @staticmethod
    def from_dict(base: Config, entries: Mapping[str, Mapping[str, Any]], where: str = "space") -> Space:
        """The space of exactly these fields. Raises `UserError` for a range or choices that the configuration refuses."""
        return Space(base, tuple(_parameter(base, name, entry, where) for name, entry in entries.items()))

    def __str__(self) -> str:
        return ", ".join(map(str, self.parameters))


def make_space(base: Config, entries: Mapping[str, Any], flags: Collection[str] = (), where: str = "space") -> Space:
    """The default space, changed by the entries of a file and the flags that were given.

    Args:
        base: the configuration of everything that is not searched.
        entries: by field, as in a file: an object with `low`, `high`, `scale`, or `choices`, or a plain value that fixes the field.
        flags: config fields that were given as flags: they are fixed.
        where: the file, for messages.

    Raises:
        UserError: for unknown fields or keys, values that the configuration refuses, a field given twice, or nothing left to search.
    """
    for name in entries:
        _check_searchable(name, where)
        if name in flags:
            raise UserError(f"{where}: {name} is given here and by {_flag(name)}; leave out one of them")
    fixed = {name: value for name, value in entries.items() if not isinstance(value, Mapping)}
    base = _replaced(base, fixed, where)
    ranges = {name: entry for name, entry in entries.items() if name not in fixed}
    left = [name for name in DEFAULT if name not in {*flags, *fixed} and _has_effect(name, base, ranges)]
    searched: dict[str, Any] = {name: {} for name in left} | ranges
    if not searched:
        raise UserError(f"{where}: nothing is left to search; name a field with a range or choices in a --space file")
    return Space.from_dict(base, searched, where)


def read_space_file(file: str | Path) -> dict[str, Any]:
    """The entries of a space file, to be checked by `make_space`. Raises `UserError` when it is no JSON object."""
    return read_json_object(file, 'fields, as in {"dropout": {"low": 0.1, "high": 0.5}}')


def _has_effect(name: str, base: Config, searched: Collection[str]) -> bool:
    """Whether a default field does something in the base configuration, or may do in a trial by another field that is searched."""
    loss, model = base.loss, base.model
    contrastive = {term for term in ("sequence", "intent") if getattr(loss, f"{term}_weight") or f"{term}_weight" in searched}
    if name == "temperature":
        return bool(contrastive)
    elcm = base.elcm or (not {"cluster_weight", "intent_clustering"}.isdisjoint(searched))
    of_sequence = model.fusion != "none" or loss.mask_same_intent or not {"fusion", "mask_same_intent"}.isdisjoint(searched)
    return elcm or "intent" in contrastive or ("sequence" in contrastive and of_sequence)


def _parameter(base: Config, name: str, entry: Mapping[str, Any], where: str) -> Parameter:
    kind = next(kind for kind in _field_kinds(name) if kind is not type(None))
    for key in entry:
        if key not in _KEYS:
            raise UserError(f"{where}: {name} has the unknown key {key!r}{_closest(key, _KEYS)}")
    if "choices" not in entry:
        known = KNOWN.get(name, {})
        entry = {**({} if "choices" in known and entry else known), **entry}
    if "choices" in entry:
        return _choice(base, name, kind, entry, where)
    return _range(base, name, kind, entry, where)


def _choice(base: Config, name: str, kind: type, entry: Mapping[str, Any], where: str) -> Parameter:
    if len(entry) > 1:
        raise UserError(f"{where}: {name} has choices and a range; leave out one of them")
    choices = entry["choices"]
    if not isinstance(choices, list) or len(choices) < 2:
        raise UserError(f"{where}: {name}: choices should be a list of two or more values. Received: {choices!r}")
    # A group checks a value, and makes 1 a float where the field is one.
    values = tuple(_flat(_replaced(base, {name: value}, where))[name] for value in choices)
    if any(not isinstance(value, kind) for value in values):
        raise UserError(f"{where}: {name}: choices should be of type {kind.__name__}. Received: {choices!r}")
    if len(set(values)) < len(values):
        raise UserError(f"{where}: {name}: choices should differ. Received: {choices!r}")
    return Parameter(name, kind, choices=values)


def _range(base: Config, name: str, kind: type, entry: Mapping[str, Any], where: str) -> Parameter:
    if kind not in (int, float):
        raise UserError(f'{where}: {name} takes no range; give it as {{"choices": [...]}}, or as a plain value')
    for key in ("low", "high"):
        if key not in entry:
            raise UserError(f'{where}: {name} needs {key!r}, as in {{"low": 0.1, "high": 0.5}}')
    low, high = (_flat(_replaced(base, {name: entry[key]}, where))[name] for key in ("low", "high"))
    if low is None or high is None or low >= high:
        raise UserError(f"{where}: {name}: low should be below high. Received: {entry['low']!r} and {entry['high']!r}")
    scale = entry.get("scale", "linear")
    if scale not in ("linear", "log"):
        raise UserError(f'{where}: {name}: scale should be "linear" or "log". Received: {scale!r}')
    if scale == "log" and low <= 0:
        raise UserError(f'{where}: {name}: low should be above 0 on a "log" scale. Received: {low!r}')
    if kind is int:
        try:
            base.replace(**{name: low + 1})
        except UserError as error:  # only multiples of something will do
            raise UserError(f'{where}: {name} takes no range ({error}); give it as {{"choices": [...]}}') from None
    return Parameter(name, kind, low, high, scale == "log")


def _replaced(base: Config, fields: Mapping[str, Any], where: str) -> Config:
    try:
        return base.replace(**fields)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _check_searchable(name: str, where: str) -> None:
    known = [field.name for kind in GROUPS for field in dataclasses.fields(kind)]
    if name not in known:
        raise UserError(f"{where}: unknown field {name!r}{_closest(name, known)}")
    owner = next(kind.GROUP for kind in GROUPS if name in {field.name for field in dataclasses.fields(kind)})
    if (owner not in _GROUPS and name not in _OF_TRAINING) or tuple in _field_kinds(name):
        raise UserError(f"{where}: {name} is no part of a search; set it with {_flag(name)}")


def _field_kinds(name: str) -> tuple[type, ...]:
    kind = next(kind for kind in GROUPS if name in {field.name for field in dataclasses.fields(kind)})
    return field_types(typing.get_type_hints(kind)[name])


def _flat(config: Config) -> dict[str, Any]:
    """All fields by name, without their groups."""
    return {name: value for group in config.to_dict().values() if isinstance(group, dict) for name, value in group.items()}


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _closest(word: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"
