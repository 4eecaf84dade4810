"""RecTools' SASRec with its softmax loss, timed: `python rectools_worker.py SEQUENCES SPEC.json RESULT.json`.

`peer.py` runs this file with the python of RecTools' own environment, so it imports nothing of elcrec_tf, and what only that
environment has is imported inside the functions that need it. Progress goes to standard output, one line an epoch.

Users are the lines of the sequence file, counted from 0. The split is leave-one-out as in `elcrec_tf.data.splits`: the last event of a
user is the test target, the one before it the validation target, the rest is trained on.
"""

import importlib.metadata
import json
import logging
import os
import platform
import resource
import sys
import time
import warnings
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

STARTED = time.perf_counter()
CUTOFF = 20
METRIC = f"NDCG@{CUTOFF}"
PACKAGES = ("rectools", "torch", "pytorch-lightning", "numpy", "pandas")


def read_sequences(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """`(items, offsets)` of a file with one user a line, item numbers oldest first: user `u` has `items[offsets[u]:offsets[u + 1]]`."""
    items, offsets = array("q"), array("q", [0])
    with path.open(encoding="ascii") as file:
        for line in file:
            items.extend(map(int, line.split()))
            offsets.append(len(items))
    return np.array(items), np.array(offsets)


def history_mask(offsets: np.ndarray, held_out: int) -> np.ndarray:
    """Which events are among all but the last `held_out` of their user, bool `[events]`."""
    ends = np.repeat(offsets[1:], np.diff(offsets))
    return np.arange(offsets[-1]) < ends - held_out


def target_items(items: np.ndarray, offsets: np.ndarray, held_out: int) -> np.ndarray:
    """Every user's first event after the history that `history_mask` keeps, `[users]`."""
    return items[offsets[1:] - held_out]


def training_size(offsets: np.ndarray, max_length: int) -> tuple[int, int]:
    """`(users, targets)` of one pass: users with at least two training events, and the positions that predict something for them."""
    lengths = np.diff(offsets) - 2
    trained = lengths[lengths >= 2]
    return len(trained), int(np.sum(np.minimum(trained - 1, max_length)))


def ndcg(users: np.ndarray, items: np.ndarray, ranks: np.ndarray, targets: np.ndarray) -> float:
    """NDCG of recommended `(user, item, rank)` rows, rank 1 = best, with one relevant item a user.

    The mean of `1 / log2(rank + 1)` over all users; one whose target is not recommended counts 0.
    """
    hit = items == targets[users]
    return float(np.sum(1 / np.log2(ranks[hit] + 1)) / len(targets))


def check_exclusion(users: np.ndarray, items: np.ndarray, seen_users: np.ndarray, seen_items: np.ndarray) -> None:
    """Refuse recommendations of items that the user's history holds: their ranks could not be compared with ours."""
    base = max(items.max(initial=0), seen_items.max(initial=0)) + 1
    wrong = np.isin(users * base + items, seen_users * base + seen_items)
    if wrong.any():
        raise RuntimeError(f"RecTools recommended items of the history to {len(np.unique(users[wrong]))} users")


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def make_trainer(steps: int | None) -> Any:
    """A quiet Lightning trainer that keeps the time of every pass; at most `steps` batches a pass."""
    import torch
    from pytorch_lightning import Callback, Trainer

    def now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    class Clock(Callback):
        """Seconds from the start to the end of every pass, without Lightning's and RecTools' preparations."""

        def __init__(self) -> None:
            self.seconds: list[float] = []
            self.first_step: float | None = None

        def on_train_epoch_start(self, *arguments: Any) -> None:
            self.started = now()

        def on_train_batch_end(self, *arguments: Any) -> None:
            if self.first_step is None:
                self.first_step = now() - STARTED

        def on_train_epoch_end(self, *arguments: Any) -> None:
            self.seconds.append(now() - self.started)

    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return Trainer(callbacks=[Clock()], limit_train_batches=steps, accelerator="auto", devices=1, **quiet)


def make_model(spec: dict[str, Any], steps: int | None) -> Any:
    from rectools.models import SASRecModel

    return SASRecModel(
        loss="softmax",
        n_blocks=spec["num_layers"],
        n_heads=spec["num_heads"],
        n_factors=spec["hidden_size"],
        dropout_rate=spec["dropout"],
        session_max_len=spec["max_length"],
        batch_size=spec["batch_size"],
        lr=spec["learning_rate"],
        get_trainer_func=make_trainer,
        get_trainer_func_kwargs={"steps": steps},
    )


def clock_of(model: Any) -> Any:
    return next(one for one in model.fit_trainer.callbacks if type(one).__name__ == "Clock")


class Ranking:
    """The task of one split: recommend to all users from their histories, which end before the target.

    Args:
        held_out: events at the end of each history that the model may not see; the first of them is the target.
    """

    def __init__(self, items: np.ndarray, offsets: np.ndarray, held_out: int) -> None:
        import pandas as pd
        from rectools import Columns
        from rectools.dataset import Dataset

        kept = history_mask(offsets, held_out)
        self.targets = target_items(items, offsets, held_out)
        self.users = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))[kept]
        self.items = items[kept]
        frame = {Columns.User: self.users, Columns.Item: self.items, Columns.Weight: 1}
        order = pd.to_datetime(np.arange(len(self.items)), unit="s")  # only the order within a user counts
        self.dataset = Dataset.construct(pd.DataFrame(frame | {Columns.Datetime: order}))

    def run(self, model: Any) -> tuple[float, float]:
        """Seconds of the `recommend` call for all users, and NDCG@20."""
        from rectools import Columns

        everyone = np.arange(len(self.targets))
        started = time.perf_counter()
        frame = model.recommend(everyone, self.dataset, k=CUTOFF, filter_viewed=True, on_unsupported_targets="ignore")
        seconds = time.perf_counter() - started
        users, items, ranks = (frame[name].to_numpy() for name in (Columns.User, Columns.Item, Columns.Rank))
        check_exclusion(users, items, self.users, self.items)
        return seconds, ndcg(users, items, ranks, self.targets)


def train(model: Any, spec: dict[str, Any], validation: Ranking, say: Callable[[str], None]) -> list[dict[str, float]]:
    """Train pass by pass, ranking the validation users after each, until the target, the last epoch or the time limit.

    Returns:
        The curve, as `peer.measure_peer` describes it.
    """
    curve: list[dict[str, float]] = []
    total, started = 0.0, time.perf_counter()
    for epoch in range(1, spec["epochs"] + 1):
        model.fit_partial(validation.dataset, min_epochs=1, max_epochs=1)
        seconds = clock_of(model).seconds[-1]
        total += seconds
        ranking, value = validation.run(model)
        wall = time.perf_counter() - started
        row = {"epoch": epoch, "seconds": seconds, "train_seconds": total, "validation_seconds": ranking, "wall_seconds": wall}
        curve.append(row | {METRIC: value})
        say(f"epoch {epoch}: {seconds:.1f} s, validation {METRIC} {value:.4f} (ranked in {ranking:.1f} s)")
        if spec["target_ndcg"] is not None and value >= spec["target_ndcg"]:
            break
        if spec["max_seconds"] is not None and total >= spec["max_seconds"]:
            break
    return curve


def time_to_target(curve: list[dict[str, float]], target: float | None) -> dict[str, Any] | None:
    """When the curve reached the target: `reached`, and then `epoch`, `train_seconds` and `wall_seconds`. None without a target."""
    if target is None:
        return None
    for row in curve:
        if row[METRIC] >= target:
            return {METRIC: target, "reached": True, **{name: row[name] for name in ("epoch", "train_seconds", "wall_seconds")}}
    return {METRIC: target, "reached": False}


def measure(items: np.ndarray, offsets: np.ndarray, spec: dict[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    """Everything that `peer.measure_peer` returns."""
    import torch
    from pytorch_lightning import seed_everything

    threads = spec["threads"] or usable_cores()
    torch.set_num_threads(threads)
    validation = Ranking(items, offsets, held_out=2)
    warm_up = make_model(spec, spec["warmup_steps"]).fit_partial(validation.dataset, min_epochs=1, max_epochs=1)
    first_step = clock_of(warm_up).first_step
    say(f"first step after {first_step:.1f} s; {threads} threads")
    del warm_up

    seed_everything(spec["seed"], verbose=False)
    model = make_model(spec, spec["max_steps"])
    curve = train(model, spec, validation, say)
    test = Ranking(items, offsets, held_out=1)
    rankings = [test.run(model) for _ in range(spec["ranking_repeats"])]
    ranking_seconds = [seconds for seconds, _ in rankings]
    say(f"test: {METRIC} {rankings[0][1]:.4f}, ranked in {np.median(ranking_seconds):.1f} s")

    users, targets = training_size(offsets, spec["max_length"])
    return {
        "library": "RecTools SASRec, softmax loss",
        "versions": {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}},
        "settings": spec,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "threads": threads,
        "users": len(offsets) - 1,
        "items_trained": len(model.data_preparator.get_known_item_ids()),
        "users_trained": users,
        "targets_trained": targets,
        "padding_share": 1 - targets / (users * spec["max_length"]),
        "seconds_to_first_step": first_step,
        "epoch_seconds": float(np.median([row["seconds"] for row in curve])),
        "curve": curve,
        "target": time_to_target(curve, spec["target_ndcg"]),
        "test": {METRIC: rankings[0][1], "ranking_seconds": float(np.median(ranking_seconds)), "all_ranking_seconds": ranking_seconds},
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
    }


def main(argv: list[str]) -> None:
    sequences, spec, result = map(Path, argv)
    warnings.simplefilter("ignore")
    # Lightning's hints about workers and loggers; its rank-zero messages come as INFO of these two.
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    items, offsets = read_sequences(sequences)
    measured = measure(items, offsets, json.loads(spec.read_text(encoding="utf-8")), say=lambda line: print(line, flush=True))
    result.write_text(json.dumps(measured, allow_nan=False), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
