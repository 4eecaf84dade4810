"""Tables, and the three files that a benchmark leaves: JSON, Markdown and a plot."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elcrec_tf.errors import UserError
from elcrec_tf.files import atomic_path, write_json, write_text

if TYPE_CHECKING:
    import rich.table
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Spread:
    """Median, smallest and largest of repeated measurements."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(values: Iterable[float]) -> Spread:
        values = [float(value) for value in values]
        return Spread(statistics.median(values), min(values), max(values))

    def text(self, factor: float = 1) -> str:
        """The median, and the range where there is one, in units of 1 / `factor`."""
        middle, low, high = (number(value * factor) for value in (self.median, self.low, self.high))
        return middle if low == high else f"{middle} ({low}..{high})"


def number(value: float) -> str:
    """Three significant digits, whole from 100 on."""
    if value and abs(value) < 0.01:
        return f"{value:.2g}"
    digits = 0 if abs(value) >= 99.5 else 1 if abs(value) >= 9.95 else 2
    return f"{value:,.{digits}f}"


@dataclass(frozen=True)
class Table:
    """A table of text: the first column names the rows, the others hold numbers."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        lines = [self.columns, ["---", *["---:"] * (len(self.columns) - 1)], *self.rows]
        return f"{self.title}\n\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in lines)

    def rich(self) -> rich.table.Table:
        from rich.table import Table as RichTable

        table = RichTable(title=self.title)
        for index, column in enumerate(self.columns):
            table.add_column(column, justify="right" if index else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*row)
        return table


@dataclass(frozen=True)
class Report:
    """What a benchmark found.

    Attributes:
        result: summaries, ready for JSON.
        tables: for a reader.
        draw: fills an empty figure.
    """

    result: Mapping[str, Any]
    tables: Sequence[Table]
    draw: Callable[[Figure], None]


def check_plots() -> None:
    """Raise `UserError` without matplotlib: at the start, not after an hour of measuring."""
    if find_spec("matplotlib") is None:
        raise UserError("the plot needs matplotlib: pip install matplotlib, or leave the plot out with --no-plot")


def write_report(
    report: Report,
    about: Mapping[str, Any],
    heading: Sequence[str],
    folder: Path,
    name: str,
    plot: bool,
    endings: Sequence[str] = ("png",),
) -> dict[str, Any]:
    """Write `<name>.json`, `<name>.md` and with `plot` `<name>.png`.

    Args:
        report: what was found.
        about: what the JSON says beside it: command, machine, configuration, raw measurements.
        heading: lines above the Markdown tables.
        folder: where the files go.
        name: of the files, without ending.
        plot: whether to draw.
        endings: of the plot's files.

    Returns:
        The content of the JSON file.
    """
    content = {**about, "result": _plain(report.result)}
    write_json(folder / f"{name}.json", content)
    write_text(folder / f"{name}.md", "\n\n".join([*heading, *(table.markdown() for table in report.tables)]) + "\n")
    if plot:
        from matplotlib import rc_context
        from matplotlib.figure import Figure

        figure = Figure(figsize=(12, 5), layout="constrained")
        report.draw(figure)
        with rc_context({"svg.hashsalt": name}):  # with that and no date, the same plot is the same file
            for ending in endings:
                with atomic_path(folder / f"{name}.{ending}") as temporary:
                    figure.savefig(temporary, dpi=120, metadata={"Date": None} if ending == "svg" else None)
    return content


def plain_numbers(axis: Axis) -> None:
    """Let a logarithmic axis show 1, 2 and 5 of every decade, written as 0.2 and not as 2 x 10^-1."""
    from matplotlib.ticker import LogLocator

    axis.set_minor_locator(LogLocator(subs=(2, 5)))
    axis.set_major_formatter("{x:,g}")
    axis.set_minor_formatter("{x:,g}")


def _plain(value: Any) -> Any:
    """Ready for JSON: a spread becomes an object."""
    if isinstance(value, Spread):
        return dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value
