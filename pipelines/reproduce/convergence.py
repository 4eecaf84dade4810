"""`convergence`: training loss and validation metric against epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.benchmark.report import Report, Table, number
from pipelines.reproduce.figures import panels
from pipelines.reproduce.ledger import Row
from pipelines.reproduce.scene import Scene, Variant
from pipelines.reproduce.significance import decimal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NEARLY = 0.95


def variants(scene: Scene) -> list[Variant]:
    return scene.plain()


def report(scene: Scene, variants: Sequence[Variant]) -> Report:
    """A line a run in one table for each data set; two plots for each: losses of different recipes have different scales, so they are
    drawn relative to the first epoch's."""
    tables: list[Table] = []
    result: dict[str, Any] = {}
    shown: dict[str, list[tuple[str, Row, str]]] = {}
    for subject in scene.subjects:
        lines, result[subject.name] = [], []
        for one in (variant for variant in variants if variant.subject is subject):
            metric = f"val_{one.config.train.monitor}"
            rows = scene.rows(one)
            for row in rows:
                summary = _summary(row, metric)
                lines.append((f"{one.recipe}, seed {row['seed']}", *_cells(summary)))
                result[subject.name].append({"recipe": one.recipe, "seed": row["seed"], **summary, "curve": row["curve"]})
                shown.setdefault(subject.name, []).append((one.recipe, row, metric))
            if not rows:
                lines.append((one.recipe, "not run", "", "", "", "", ""))
        columns = ("", "epochs", "best epoch", "validation there", f"first epoch at {_NEARLY:.0%} of it", "seconds until then", "seconds")
        tables.append(Table(f"{subject.name}: convergence", columns, lines))
    return Report(result, tables, lambda figure: _draw(figure, shown))


def _summary(row: Row, metric: str) -> dict[str, Any]:
    values, seconds = row["curve"][metric], row["curve"]["seconds"]
    nearly = next(index for index, value in enumerate(values, 1) if value >= _NEARLY * max(values))
    return {
        "metric": metric,
        "epochs": row["epochs"],
        "best_epoch": row["best_epoch"],
        "best": max(values),
        "nearly_epoch": nearly,
        "nearly_seconds": sum(seconds[:nearly]),
        "seconds": sum(seconds),
    }


def _cells(summary: Mapping[str, Any]) -> tuple[str, ...]:
    counts = (str(summary["epochs"]), str(summary["best_epoch"]), decimal(summary["best"]), str(summary["nearly_epoch"]))
    return (*counts, number(summary["nearly_seconds"]), number(summary["seconds"]))


def _draw(figure: Figure, shown: Mapping[str, Sequence[tuple[str, Row, str]]]) -> None:
    names = [f"{name}: {what}" for name in shown for what in ("loss", "validation")]
    for name, axes in panels(figure, names):
        subject, _, what = name.rpartition(": ")
        recipes = list(dict.fromkeys(recipe for recipe, _, _ in shown[subject]))
        labelled: set[str] = set()
        for recipe, row, metric in shown[subject]:
            curve = row["curve"]["loss" if what == "loss" else metric]
            values = [value / curve[0] for value in curve] if what == "loss" else curve
            label = None if recipe in labelled else recipe
            labelled.add(recipe)
            axes.plot(range(1, len(values) + 1), values, color=f"C{recipes.index(recipe)}", label=label)
        axes.set(xlabel="epoch", ylabel="loss / loss of the first epoch" if what == "loss" else metric.replace("val_", "validation "))
        axes.legend(fontsize="small")
