"""The machinery of a configuration group: fields with help and bounds, checked when a group is made. Imports no TensorFlow."""

from __future__ import annotations

import dataclasses
import math
import operator
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from elcrec_tf.errors import UserError


def field(
    default: Any,
    help: str,  # noqa: A002 - the word that argparse uses
    *,
    choices: tuple[str, ...] | None = None,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    metavar: str | None = None,
    word: str | None = None,
) -> Any:
    """A dataclass field with its help text, its `choices` and its bounds (`low`, `high` inclusive; `above`, `below` exclusive), which hold
    for each element of a tuple.

    `word` is what a field of numbers takes besides numbers.
    """
    bounds = {"low": low, "high": high, "above": above, "below": below}
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices, **bounds, "metavar": metavar, "word": word})


def element_type(hint: Any) -> type:
    """The type of the elements of a field that admits a tuple: `tuple[str, ...] | None` gives `str`."""
    return next(typing.get_args(part)[0] for part in (hint, *typing.get_args(hint)) if typing.get_origin(part) is tuple)


def field_types(hint: Any) -> tuple[type, ...]:
    """The plain types a field's annotation admits: `int | None` gives `(int, NoneType)`, `tuple[str, ...]` gives `(tuple,)`."""
    if isinstance(hint, types.UnionType):
        return tuple(kind for part in typing.get_args(hint) for kind in field_types(part))
    return (typing.get_origin(hint) or hint,)


_BOUNDS: tuple[tuple[str, str, Callable[[float, float], bool]], ...] = (
    ("low", "at least", operator.ge),
    ("high", "at most", operator.le),
    ("above", "above", operator.gt),
    ("below", "below", operator.lt),
)


@dataclass(frozen=True)
class Group:
    """Base of the groups: checks types, choices and bounds of every field, and raises `UserError` for the first that is off."""

    GROUP: typing.ClassVar[str] = ""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for one in dataclasses.fields(self):
            self._check_field(one, hints[one.name])

    def _check_field(self, field: dataclasses.Field[Any], hint: Any) -> None:
        kinds = field_types(hint)
        name, meta, value = f"{self.GROUP}.{field.name}", field.metadata, getattr(self, field.name)
        if float in kinds and type(value) is int:  # JSON and people write 1 for 1.0
            value = float(value)
        if isinstance(value, list):
            value = tuple(value)
        object.__setattr__(self, field.name, value)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            known = {type(None): "null", str: meta["word"] or "str"}
            names = " or ".join(known.get(kind, kind.__name__) for kind in kinds)
            raise UserError(f"{name} should be of type {names}. Received: {value!r}")
        if meta["word"] is not None and isinstance(value, str) and value != meta["word"]:
            raise UserError(f"{name} should be a number or {meta['word']}. Received: {value!r}")
        if isinstance(value, tuple) and any(type(one) is not element_type(hint) for one in value):
            raise UserError(f"{name} should be of type tuple of {element_type(hint).__name__}. Received: {value!r}")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{name} should be a finite number. Received: {value!r}")
        if meta["choices"] is not None:
            if value == ():
                raise UserError(f"{name} should name at least one of {', '.join(meta['choices'])}.")
            for one in value if isinstance(value, tuple) else (value,):
                if one not in meta["choices"]:
                    raise UserError(f"{name} should be one of {', '.join(meta['choices'])}. Received: {one!r}")
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, int | float) and not isinstance(one, bool):
                for key, words, holds in _BOUNDS:
                    if meta[key] is not None and not holds(one, meta[key]):
                        raise UserError(f"{name} should be {words} {meta[key]}. Received: {one!r}")
