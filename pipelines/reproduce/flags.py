"""The command line of the reproduction. No TensorFlow, no numpy: `--help` should answer at once."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from elcrec_tf import cli
from elcrec_tf.config import GROUPS

PROGRAM = "python -m pipelines.reproduce"
AUGMENTATIONS = ("none", "crop", "mask", "reorder", "random", "substitute", "insert", "dropout")
"""What `augmentation` compares: none has no contrastive losses, random draws one of crop, mask and reorder for each view."""

PARTS = ("B", "B+ICL", "B+ELCM", "ELCRec")
"""The paper's names for ELCRec without some of its parts, and for the whole."""

_OURS = ("paper", "default", "best")
_FOUR = ("beauty", "sports", "toys", "yelp")
# A run's data set and seed are the table's affair, recovery is the training command's. A run that goes on from another is told from
# others by more than its configuration.
_NOT_HERE = {"dataset", "seed", "recovery", "warm_start", "new_items"}
# Fields that a table is about: it sets them.
_PARTS = {"sequence_weight", "intent_weight", "intent_clustering"}
_OWN = {
    "ablation": _PARTS,
    "robustness": _PARTS,
    "negatives": {"negatives", *_PARTS},
    "newcomers": {"activity_features"},
    "augmentation": {"augmentations"},
    "cost": {"intent_clustering", "patience"},
}


@dataclass(frozen=True)
class TableDefaults:
    """A table, and what it is made of unless flags say otherwise."""

    about: str
    datasets: tuple[str, ...]
    recipes: tuple[str, ...]
    seeds: int


TABLES: dict[str, TableDefaults] = {
    "comparison": TableDefaults("recipes beside the published results, with tests over users", _FOUR, _OURS, 3),
    "ablation": TableDefaults("B, B+ICL, B+ELCM and ELCRec", ("beauty", "toys"), _OURS, 3),
    "negatives": TableDefaults(
        "the BCE's negatives off what the encoder sees, and off the held-out items as well", ("beauty",), ("paper",), 3
    ),
    "cost": TableDefaults("time and memory against the alternating scheme of ICLRec, as users grow", ("simulated",), ("default",), 1),
    "sensitivity": TableDefaults("number of intents and weight of the clustering loss", ("beauty",), ("default",), 1),
    "convergence": TableDefaults("loss and validation metric against epoch", ("beauty",), _OURS, 1),
    "robustness": TableDefaults("wrong items in the test histories, fewer users to learn from", ("beauty",), ("default",), 1),
    "newcomers": TableDefaults("users with few events, with and without activity features", ("simulated", "beauty"), ("default",), 3),
    "augmentation": TableDefaults("the ways to make two views of a history", ("beauty",), ("default",), 1),
    "domains": TableDefaults("films and news: MovieLens-1M and MIND-small", ("movielens-1m",), ("default", "best"), 3),
}


def make_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser("", "Make the paper's experiments again, and ours: runs, rows, tables, plots.")
    parser.prog, parser.usage = PROGRAM, None
    parser.epilog = (
        f"{PROGRAM} TABLE --help lists the flags of a table. A command that was stopped or killed goes on where it was when it is given "
        "again; runs that several tables need are made once."
    )
    tables = parser.add_subparsers(dest="table", metavar="TABLE", required=True, prog=PROGRAM, title="tables")
    for name, defaults in TABLES.items():
        _add_common(tables.add_parser(name, help=defaults.about, formatter_class=parser.formatter_class, allow_abbrev=False), name)
    choices = tables.choices
    _add_against(choices["comparison"])
    text = "what of ELCRec there is, which sets the weights of the losses"
    _add_names(choices["ablation"], "--parts", PARTS, PARTS, text)
    _add_names(choices["negatives"], "--parts", PARTS, ("B", "ELCRec"), text)
    text = "multiples of --sim-users, for the simulated data set"
    _add_values(choices["cost"], "--user-factors", (1, 4, 16), _number(int, 1), text)
    _add_values(choices["sensitivity"], "--clusters", (32, 64, 128, 256, 512, 1024), _number(int, 2), "numbers of intents")
    _add_values(choices["sensitivity"], "--alphas", (0.01, 0.1, 1.0, 10.0, 100.0), _number(float, 0), "weights of the clustering loss")
    _add_values(choices["robustness"], "--noise", (0.1, 0.2, 0.3, 0.5), _share, "shares of the test histories' items replaced")
    _add_values(choices["robustness"], "--shares", (0.25, 0.5, 0.75), _share, "shares of the users to train on")
    _add_values(choices["newcomers"], "--seen", (1, 2, 5), _number(int, 1), "latest items of a test history that the model ranks by")
    _add_names(choices["augmentation"], "--views", AUGMENTATIONS, AUGMENTATIONS, "augmentations")
    choices["domains"].add_argument("--mind", metavar="FILE", help="behaviors.tsv of MIND-small's training part")
    for name, table in choices.items():
        fields = {field.name for kind in GROUPS for field in dataclasses.fields(kind)}
        cli.add_config_flags(table, only=fields - _NOT_HERE - _OWN.get(name, set()))
    return parser


def _add_common(parser: argparse.ArgumentParser, name: str) -> None:
    defaults = TABLES[name]
    parser.usage = f"{PROGRAM} {name} [--datasets NAME|PATH ...] [--recipes NAME ...] [--seeds N] [--output-dir DIR] [--dry-run] [options]"
    parser.description = f"{name}: {defaults.about}. Fields of the configuration that are given as flags win over every recipe."
    parser.set_defaults(against=[], mind=None)
    group = parser.add_argument_group("runs")
    text = f"data sets by name or path (default: {' '.join(defaults.datasets)})"
    group.add_argument("--datasets", nargs="+", default=defaults.datasets, metavar="NAME|PATH", help=text)
    text = "presets, a data set's own where there is one: paper is paper-beauty for beauty; those that there are not are left out"
    help_text = f"{text} (default: {' '.join(defaults.recipes)})"
    group.add_argument("--recipes", nargs="+", default=defaults.recipes, metavar="NAME", help=help_text)
    text = f"seeds of every run, from 0 on (default: {defaults.seeds})"
    group.add_argument("--seeds", type=_number(int, 1), default=defaults.seeds, metavar="N", help=text)
    text = "where rows, ranks and tables go (default: pipelines/reproduce/results)"
    group.add_argument("--output-dir", default="pipelines/reproduce/results", metavar="DIR", help=text)
    group.add_argument("--runs-dir", default="runs/reproduce", metavar="DIR", help="where run folders go (default: runs/reproduce)")
    group.add_argument("--dry-run", action="store_true", help="list the runs that are missing, with an estimate of their time")
    text = "run nothing: make the table of the runs that are there, the others are marked as not run"
    group.add_argument("--no-runs", action="store_true", help=text)
    group.add_argument("--no-plot", action="store_true", help="leave no plot, which needs matplotlib")


def _add_against(parser: argparse.ArgumentParser) -> None:
    text = "other run folders on the same data, such as import_official makes, for paired tests over users"
    parser.add_argument_group("tests").add_argument("--against", nargs="+", default=[], metavar="RUN_DIR", help=text)


def _add_values(parser: argparse.ArgumentParser, name: str, default: tuple[Any, ...], kind: Callable[[str], Any], text: str) -> None:
    values = " ".join(map(str, default))
    parser.add_argument(name, nargs="+", type=kind, default=default, metavar="N", help=f"{text} (default: {values})")


def _add_names(parser: argparse.ArgumentParser, name: str, known: Sequence[str], default: Sequence[str], text: str) -> None:
    usual = "all" if default == known else " ".join(default)
    help_text = f"{text} (default: {usual}): {', '.join(known)}"
    parser.add_argument(name, nargs="+", choices=known, default=default, metavar="NAME", help=help_text)


def _number(kind: type, low: float) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        value = kind(text)
        if not value >= low:
            raise argparse.ArgumentTypeError(f"should be at least {low}. Received: {text}")
        return value

    parse.__name__ = kind.__name__  # argparse names it where the text is no number
    return parse


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"should be between 0 and 1. Received: {text}")
    return value


_share.__name__ = "float"
