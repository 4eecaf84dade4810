"""One searched field of the configuration: its range or choices, and values of it. Imports no TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_GRID_POINTS = 5


@dataclass(frozen=True)
class Parameter:
    """One searched field: a range from `low` to `high`, both included, even in the logarithm if `log`; or the `choices`.

    `kind` is the field's type: int, float, str or bool.
    """

    name: str
    kind: type
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[Any, ...] = ()

    def clean(self, value: Any) -> Any:
        """A sampled value as the config takes it: of the field's type, a number within the range, with four digits if it is no integer."""
        if self.choices or self.kind not in (int, float):
            return self.kind(value)
        # keras-tuner's integers on a logarithmic scale may lie one above the range.
        return min(max(self.kind(value if self.kind is int else float(f"{value:.4g}")), self.low), self.high)

    def nearest(self, value: Any) -> Any:
        """The value of this parameter that is nearest to `value`; the first or lowest where none is nearer than another."""
        if value is None:
            return self.ends()[0]
        if not self.choices:
            return self.kind(min(max(value, self.low), self.high))
        if value in self.choices or self.kind in (str, bool):
            return value if value in self.choices else self.choices[0]
        return min(self.choices, key=lambda choice: abs(choice - value))

    def points(self) -> tuple[Any, ...]:
        """The values that a grid search tries, in order: the choices, or a few of the range, even on its scale."""
        if self.choices:
            return self.choices
        shares = [index / (_GRID_POINTS - 1) for index in range(_GRID_POINTS)]
        if self.log:
            values = [self.low * (self.high / self.low) ** share for share in shares]
        else:
            values = [self.low + (self.high - self.low) * share for share in shares]
        return tuple(dict.fromkeys(self.clean(round(value) if self.kind is int else value) for value in values))

    def ends(self) -> tuple[Any, ...]:
        """The bounds of a range, or all choices."""
        return self.choices or (self.low, self.high)

    def to_dict(self) -> dict[str, Any]:
        """As a space file writes it."""
        if self.choices:
            return {"choices": list(self.choices)}
        return {"low": self.low, "high": self.high, "scale": "log" if self.log else "linear"}

    def __str__(self) -> str:
        if self.choices:
            return f"{self.name} of {', '.join(map(str, self.choices))}"
        return f"{self.name} {self.low:g} to {self.high:g}{' (log)' if self.log else ''}"
