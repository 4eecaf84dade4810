"""The command line of the benchmark. No TensorFlow, no numpy: `--help` should answer at once."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from elcrec_tf import cli
from elcrec_tf.config import (
    AugmentConfig,
    DataConfig,
    LossConfig,
    ModelConfig,
    ScheduleConfig,
    SimulatorConfig,
    TrainConfig,
)
from elcrec_tf.config_fields import Group
from elcrec_tf.presets import PRESETS

PROGRAM = "python -m pipelines.benchmark"
VARIANTS = ("whole", "no-sequence", "no-intent", "no-elcm", "next-item")
SERIES = ("users", "catalogue", "length", "intents")
SAMPLERS = ("uniform", "log-uniform", "in-batch", "mixed")
CATALOGUE_PARTS = ("train", "evaluate", "index")
SIMULATED = ("scaling", "catalogue")  # commands that make their own data, in several sizes
_SIMULATED_DEFAULTS = {name: str(value) for name, value in PRESETS["simulated"].items()}
PEER_ENVIRONMENT = "~/.cache/elcrec_tf/rectools-env"
SETTINGS = (
    "variants",
    "floor_seconds",
    "floor_megabytes",
    "passes",
    "calls",
    "peer_epochs",
    "peer_max_seconds",
    "target_ndcg",
    "clients",
    "seconds",
    "swap_seconds",
    "items",
)
"""Flags that a measurement depends on, beside the configuration: a resume has to repeat them."""

_DATA: tuple[type[Group], ...] = (DataConfig, SimulatorConfig)
_EPOCH: tuple[type[Group], ...] = (ModelConfig, LossConfig, AugmentConfig, TrainConfig)
# As many epochs are trained as were asked for, and nothing is kept of them.
_NO_MATTER = ("patience", "monitor", "snapshot_epochs", "snapshot_users", "recovery")
_BETWEEN_EPOCHS = (*_NO_MATTER, "eval_batch_size")
_RANKING = ("eval_batch_size", "seed")


def make_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser("", "Measure this package on this machine: JSON with every repeat, tables as Markdown, a plot.")
    parser.prog, parser.usage = PROGRAM, None
    parser.epilog = f"{PROGRAM} COMMAND --help lists the flags of a command. Measure on a machine that does nothing else."
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, prog=PROGRAM, title="commands")

    def add(name: str, about: str) -> argparse.ArgumentParser:
        return _command(commands.add_parser(name, help=about, formatter_class=parser.formatter_class, allow_abbrev=False), name, about)

    _add_train(add("train", "training, with each part of the objective switched off in turn, against the floor of a step"))
    _add_evaluate(add("evaluate", "ranking all test users over the whole catalogue"))
    _add_input(add("input", "the training batches alone, without a model"))
    _add_export(add("export", "exporting a model, loading it in a fresh process, and asking it"))
    _add_serve(add("serve", "the local server under load, against the same model in process, and while versions are swapped"))
    _add_scaling(add("scaling", "an epoch against number of users, catalogue size, history length and number of intents"))
    _add_catalogue(add("catalogue", "large catalogues: a step by sampler, ranking, export, and the exact against the approximate index"))
    _add_peer(add("peer", "our training and RecTools' SASRec side by side: a pass, ranking all test users, time to a validation NDCG@20"))
    return parser


def _command(parser: argparse.ArgumentParser, name: str, about: str) -> argparse.ArgumentParser:
    dataset = "" if name in SIMULATED else "[--dataset NAME|PATH] "
    parser.usage = f"{PROGRAM} {name} {dataset}[--preset NAME] [--repeats N] [--output-dir DIR] [--resume] [--json] [options]"
    parser.description = f"Measure {about}. Every repeat is made in a process of its own."
    group = parser.add_argument_group("benchmark")
    folder = f"{name}-simulated" if name in SIMULATED else f"{name}-<dataset>"
    group.add_argument("--output-dir", metavar="DIR", help=f"where the results go (default: benchmarks/{folder})")
    group.add_argument("--resume", action="store_true", help="keep the measurements that are in the output folder, and make the others")
    _add_number(group, "--repeats", 1 if name == "peer" else 3, "how often everything is measured")
    group.add_argument("--preset", choices=PRESETS, help="named settings (default: simulated for the embedded data, else default)")
    group.add_argument("--config", metavar="FILE.json", help="settings from a file, for example a run's config.json")
    group.add_argument("--json", action="store_true", help="print the JSON to standard output; everything else goes to standard error")
    group.add_argument("--no-plot", action="store_true", help="leave no plot, which needs matplotlib")
    return parser


def _add_train(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is measured")
    text = "objectives to measure: the whole, without one part, or with the next item alone (default: all)"
    group.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS, metavar="NAME", help=f"{text}: {', '.join(VARIANTS)}")
    _add_floor(group)
    _add_epochs(parser, 4)


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is measured")
    _add_number(group, "--passes", 3, "rankings of all users after the first one, which traces")
    _add_floor(group)
    cli.add_config_flags(parser, _DATA)
    cli.add_config_flags(parser, (ModelConfig,))
    cli.add_config_flags(parser, (TrainConfig,), only=_RANKING)


def _add_input(parser: argparse.ArgumentParser) -> None:
    _add_epochs(parser, 4)


def _add_export(parser: argparse.ArgumentParser) -> None:
    _add_number(parser.add_argument_group("what is measured"), "--calls", 200, "calls of the loaded model for each batch size")
    cli.add_config_flags(parser, (*_DATA, ModelConfig))
    cli.add_config_flags(parser, (TrainConfig,), only=("seed",))


def _add_serve(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is measured")
    _add_numbers(group, "--clients", (1, 8, 32, 128), "clients that ask at the same time, each again as soon as it has its answer")
    text = "seconds of every measurement (default: 5)"
    group.add_argument("--seconds", type=_above_zero(float, below=600), default=5.0, metavar="X", help=text)
    text = "seconds between new versions (default: 4)"
    group.add_argument("--swap-seconds", type=_above_zero(float, below=600), default=4.0, metavar="X", help=text)
    group.add_argument("--no-swaps", action="store_true", help="publish no versions under load")
    text = "use a catalogue of so many items, without structure, instead of the data set"
    group.add_argument("--items", type=_above_zero(int), metavar="N", help=text)
    cli.add_config_flags(parser, (*_DATA, ModelConfig))
    cli.add_config_flags(parser, (TrainConfig,), only=("seed",))


def _add_scaling(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is measured")
    group.add_argument(
        "--series", nargs="+", choices=SERIES, default=SERIES, metavar="NAME", help=f"what grows (default: all): {', '.join(SERIES)}"
    )
    _add_numbers(group, "--user-factors", (1, 4, 16), "multiples of --sim-users")
    _add_numbers(group, "--catalogue-sizes", (12_000, 100_000, 1_000_000), "items, of unstructured data with --sim-users users")
    _add_numbers(group, "--lengths", (10, 25, 50, 100, 200), "values of --max-length, over histories of about 200 events")
    _add_numbers(group, "--intents", (64, 128, 256, 512, 1024, 2048), "values of --num-clusters")
    _add_epochs(parser, 3, data=(SimulatorConfig,), defaults=_SIMULATED_DEFAULTS)


def _add_catalogue(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is measured")
    _add_numbers(group, "--catalogue-sizes", (100_000, 1_000_000), "items")
    text = f"what to measure (default: all): {', '.join(CATALOGUE_PARTS)}"
    group.add_argument("--parts", nargs="+", choices=CATALOGUE_PARTS, default=CATALOGUE_PARTS, metavar="NAME", help=text)
    text = f"negatives of the training steps (default: all): {', '.join(SAMPLERS)}"
    group.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=SAMPLERS, metavar="NAME", help=text)
    negatives = {"negatives": "uniform; the part train takes --samplers"}
    defaults = _SIMULATED_DEFAULTS | negatives
    _add_epochs(parser, 2, data=(SimulatorConfig,), without=(*_BETWEEN_EPOCHS, "next_item"), defaults=defaults)


def _add_peer(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("RecTools")
    text = "The peer has our hidden size, layers, heads, maximal length, batch, dropout and seed; its learning rate and loss are its own"
    group.description = (
        f"{text} (1e-3, full softmax). It is installed into an environment of its own at the first run, which takes minutes."
    )
    _add_number(group, "--peer-epochs", 3, "most passes of the peer over the training data; it stops where it reaches the target")
    text = "validation NDCG@20 that both are timed to (default: 0.05)"
    group.add_argument("--target-ndcg", type=_above_zero(float, below=1), default=0.05, metavar="X", help=text)
    text = "the peer starts no further pass after this many seconds of training (default: no limit)"
    group.add_argument("--peer-max-seconds", type=_above_zero(float), metavar="X", help=text)
    text = f"RecTools' environment, made if it is not there (default: {PEER_ENVIRONMENT})"
    group.add_argument("--env", default=PEER_ENVIRONMENT, metavar="DIR", help=text)
    _add_epochs(parser, 8, groups=(*_EPOCH, ScheduleConfig), without=_NO_MATTER)


def _add_epochs(
    parser: argparse.ArgumentParser,
    epochs: int,
    data: Sequence[type[Group]] = _DATA,
    groups: Sequence[type[Group]] = _EPOCH,
    without: Collection[str] = _BETWEEN_EPOCHS,
    defaults: Mapping[str, str] | None = None,
) -> None:
    """The flags of what trains; so few epochs by default, since training to the end is not the point."""
    parser.set_defaults(default_epochs=epochs)
    cli.add_config_flags(parser, data)
    only = [field.name for kind in groups for field in dataclasses.fields(kind) if field.name not in without]
    cli.add_config_flags(parser, groups, only, {**(defaults or {}), "epochs": f"{epochs}, of which the first traces"})


def _add_floor(group: Any) -> None:
    text = "seconds spent on each way to do each matrix product"
    group.add_argument("--floor-seconds", type=_above_zero(float), default=0.02, metavar="X", help=f"{text} (default: 0.02)")
    _add_number(group, "--floor-megabytes", 256, "size of the arrays that the memory's bandwidth is measured with, far above any cache")


def _add_number(group: Any, name: str, default: int, text: str) -> None:
    group.add_argument(name, type=_above_zero(int), default=default, metavar="N", help=f"{text} (default: {default})")


def _add_numbers(group: Any, name: str, default: Collection[int], text: str) -> None:
    values = " ".join(map(str, default))
    group.add_argument(name, nargs="+", type=_above_zero(int), default=default, metavar="N", help=f"{text} (default: {values})")


def _above_zero(kind: type, below: float = math.inf) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"should be above 0. Received: {text}")
        if not value < below:
            raise argparse.ArgumentTypeError(f"should be below {below}. Received: {text}")
        return value

    parse.__name__ = kind.__name__  # argparse names it where the text is no number
    return parse
