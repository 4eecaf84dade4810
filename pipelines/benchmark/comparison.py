"""Our training, the whole objective, and RecTools' SASRec side by side: a pass, a ranking, and the way to a validation NDCG@20."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elcrec_tf import cli
from pipelines.benchmark.evaluation import time_rankings
from pipelines.benchmark.peer import PeerSpec, measure_peer
from pipelines.benchmark.report import Report, Spread, Table, number, plain_numbers
from pipelines.benchmark.run import Run
from pipelines.benchmark.subject import config_of, sequences_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRIC = "NDCG@20"
_LABELS = {"ours": "ours", "peer": "RecTools SASRec"}


def measure(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A worker's measurement: `train_model` as users call it, then the test ranking of the model that it returns.

    Args:
        spec: `passes`, rankings of all test users after the first one, which traces.

    Returns:
        `start_seconds`, from the start of the process to the call: imports and data; `curve`, a row an epoch: `epoch`, `seconds` of
        training, the first with compilation, `train_seconds` of all epochs so far, and the validation's `NDCG@20`; `other_seconds`,
        what the call took beside: building the model, validations, health of the intents, checkpoints; `users`, and `ranking_seconds`
        of each ranking.
    """
    cli.import_tensorflow()
    from elcrec_tf.run_folder import RunFolder
    from elcrec_tf.training import train_model

    config = config_of(spec)
    # Every epoch is wanted, and nothing that a run leaves beside its model.
    config = config.replace(patience=config.train.epochs, snapshot_epochs=None)
    sequences = sequences_of(spec, config)
    start = time.time() - spec["started"]
    with tempfile.TemporaryDirectory(prefix="elcrec-training-") as name:
        folder = RunFolder(Path(name, "run"))
        began = time.perf_counter()
        model = train_model(sequences, config, folder)
        seconds = time.perf_counter() - began
        history = folder.read_history()
    totals = list(accumulate(row["seconds"] for row in history))
    curve = [
        {"epoch": int(row["epoch"]), "seconds": row["seconds"], "train_seconds": total, METRIC: row[f"val_{METRIC}"]}
        for row, total in zip(history, totals, strict=True)
    ]
    other = {"start_seconds": start, "other_seconds": seconds - totals[-1]}
    users, rankings = time_rankings(model, sequences, config, spec["passes"])
    return {**other, "curve": curve, "users": users, "ranking_seconds": rankings}


@dataclass(frozen=True)
class Training:
    """One training run with a validation after each pass, and rankings of all test users; ours or the peer's.

    Attributes:
        curve: a row a pass, as `measure` describes it.
        pass_seconds: the passes that stand for one: without ours that compiles.
        ranking_seconds: the rankings that stand for one, likewise.
        start_seconds: from the start of the process until the training clock starts.
        other_seconds: what stood between the passes, validations above all.
    """

    curve: Sequence[Mapping[str, Any]]
    pass_seconds: Sequence[float]
    ranking_seconds: Sequence[float]
    start_seconds: float
    other_seconds: float

    @staticmethod
    def ours(row: Mapping[str, Any]) -> Training:
        """Of a row of `measure`."""
        seconds = [one["seconds"] for one in row["curve"]]
        return Training(row["curve"], seconds[1:], row["ranking_seconds"][1:], row["start_seconds"], row["other_seconds"])

    @staticmethod
    def peer(row: Mapping[str, Any]) -> Training:
        """Of what `measure_peer` returns. A throwaway model has warmed it up: its first pass is like the others."""
        last = row["curve"][-1]
        return Training(
            curve=[{name: one[name] for name in ("epoch", "seconds", "train_seconds", METRIC)} for one in row["curve"]],
            pass_seconds=[one["seconds"] for one in row["curve"]],
            ranking_seconds=row["test"]["all_ranking_seconds"],
            start_seconds=row["seconds_to_first_step"],
            other_seconds=last["wall_seconds"] - last["train_seconds"],
        )

    @property
    def best(self) -> float:
        return max(row[METRIC] for row in self.curve)

    def seconds_to(self, target: float) -> float | None:
        """Training seconds, compilation included, after which a validation first reached the target; None if none did."""
        return next((row["train_seconds"] for row in self.curve if row[METRIC] >= target), None)


def benchmark(run: Run) -> Report:
    """Ours in a fresh process, then the peer in its own, for every repeat."""
    spec, target = _peer_spec(run), run.options.target_ndcg
    trainings: dict[str, list[Training]] = {name: [] for name in _LABELS}
    for repeat in run.repeats:
        ours = run.measure(f"ours/{repeat}", "training", passes=spec.ranking_repeats)
        key = f"peer/{repeat}"
        peer = run.journal.measure(key, partial(_measure_peer, run, key, spec))
        trainings["ours"].append(Training.ours(ours))
        trainings["peer"].append(Training.peer(peer))
    summary: dict[str, Any] = {
        "users": ours["users"],
        "target_ndcg": target,
        **{name: _summary(found, target) for name, found in trainings.items()},
        "peer_over_ours": _ratios(trainings["ours"], trainings["peer"], target),
        "peer_library": peer["library"],
        "peer_versions": peer["versions"],
        "peer_settings": peer["settings"],
    }
    return Report(summary, [_table(summary)], lambda figure: _draw(figure, trainings, target))


def _peer_spec(run: Run) -> PeerSpec:
    model, train, options = run.config.model, run.config.train, run.options
    return PeerSpec(
        hidden_size=model.hidden_size,
        num_layers=model.num_layers,
        num_heads=model.num_heads,
        dropout=model.dropout,
        max_length=model.max_length,
        batch_size=train.batch_size,
        seed=train.seed,
        epochs=options.peer_epochs,
        target_ndcg=options.target_ndcg,
        max_seconds=options.peer_max_seconds,
    )


def _measure_peer(run: Run, key: str, spec: PeerSpec) -> dict[str, Any]:
    run.console.print(f"measuring {key}")
    return measure_peer(run.sequences, spec, run.console.print, run.options.env)


def _summary(trainings: Sequence[Training], target: float) -> dict[str, Any]:
    return {
        "passes": [len(one.curve) for one in trainings],
        "pass_seconds": Spread.of(seconds for one in trainings for seconds in one.pass_seconds),
        "first_pass_seconds": Spread.of(one.curve[0]["seconds"] for one in trainings),
        "ranking_seconds": Spread.of(seconds for one in trainings for seconds in one.ranking_seconds),
        "target_seconds": _spread_of_all([one.seconds_to(target) for one in trainings]),
        "reached": sum(one.seconds_to(target) is not None for one in trainings),
        "best_ndcg": Spread.of(one.best for one in trainings),
        "start_seconds": Spread.of(one.start_seconds for one in trainings),
        "other_seconds_a_pass": Spread.of(one.other_seconds / len(one.curve) for one in trainings),
        "curves": [list(one.curve) for one in trainings],
    }


def _ratios(ours: Sequence[Training], peer: Sequence[Training], target: float) -> dict[str, Spread | None]:
    """Peer / ours, repeat by repeat: what was measured together is compared."""
    pairs = list(zip(ours, peer, strict=True))
    times = [(one.seconds_to(target), other.seconds_to(target)) for one, other in pairs]
    return {
        "pass_seconds": Spread.of(statistics.median(other.pass_seconds) / statistics.median(one.pass_seconds) for one, other in pairs),
        "ranking_seconds": Spread.of(
            statistics.median(other.ranking_seconds) / statistics.median(one.ranking_seconds) for one, other in pairs
        ),
        "target_seconds": _spread_of_all([other / one if one and other else None for one, other in times]),
    }


def _spread_of_all(values: Sequence[float | None]) -> Spread | None:
    """None unless every repeat has a value."""
    known = [value for value in values if value is not None]
    return Spread.of(known) if len(known) == len(values) else None


def _table(summary: Mapping[str, Any]) -> Table:
    sides = [summary[name] for name in _LABELS]

    def line(label: str, key: str) -> tuple[str, ...]:
        ratio = summary["peer_over_ours"].get(key)
        return label, *(side[key].text() for side in sides), ratio.text() if ratio else ""

    ratio = summary["peer_over_ours"]["target_seconds"]
    to_target = f"training seconds until validation {METRIC} reaches {summary['target_ndcg']:g}"
    lines = [
        line("seconds a pass over the training data", "pass_seconds"),
        line("seconds of the first pass, ours with compilation", "first_pass_seconds"),
        line(f"seconds to rank all {summary['users']:,} test users", "ranking_seconds"),
        (to_target, *(_to_target(side) for side in sides), ratio.text() if ratio else ""),
        (f"best validation {METRIC}", *(f"{side['best_ndcg'].median:.4f} in {_passes(side)}" for side in sides), ""),
        line("seconds before the training clock starts", "start_seconds"),
        line("validation and what else stands between passes, seconds a pass", "other_seconds_a_pass"),
    ]
    versions = ", ".join(f"{name} {summary['peer_versions'][name]}" for name in ("rectools", "torch"))
    title = f"Ours (ELCRec) and {summary['peer_library']} ({versions}): median (smallest..largest)"
    return Table(title, ("", *_LABELS.values(), "peer / ours"), lines)


def _to_target(side: Mapping[str, Any]) -> str:
    if side["target_seconds"]:
        return side["target_seconds"].text()
    if side["reached"]:
        return f"reached in {side['reached']} of {len(side['passes'])} repeats"
    return f"not reached in {_passes(side)} (best {side['best_ndcg'].high:.4f})"


def _passes(side: Mapping[str, Any]) -> str:
    most = max(side["passes"])
    return f"{most} pass{'es' if most > 1 else ''}"


def _draw(figure: Figure, trainings: Mapping[str, Sequence[Training]], target: float) -> None:
    axes = figure.subplots()
    for index, (name, found) in enumerate(trainings.items()):
        for repeat, one in enumerate(found):
            seconds, values = [row["train_seconds"] for row in one.curve], [row[METRIC] for row in one.curve]
            axes.semilogx(seconds, values, marker="o", color=f"C{index}", label=None if repeat else _LABELS[name])
    axes.axhline(target, linestyle="--", color="grey", label=f"target, {number(target)}")
    plain_numbers(axes.xaxis)
    axes.set(title="Validation after each pass", xlabel="seconds of training", ylabel=f"validation {METRIC}", ylim=(0, None))
    axes.legend()
