"""The data sets of a table."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from elcrec_tf.config import SimulatorConfig
from elcrec_tf.data.movielens import MOVIELENS
from elcrec_tf.errors import UserError
from pipelines.reproduce.flags import PROGRAM
from pipelines.reproduce.scene import Subject

MIND = "mind-small"


def subjects_of(options: argparse.Namespace, fields: Mapping[str, Any]) -> list[Subject]:
    """The data sets that were asked for, loaded once to learn their fingerprints.

    Args:
        options: flags of the table.
        fields: fields of the configuration that were given as flags.

    Raises:
        UserError: where one cannot be loaded; in `domains` a MovieLens that cannot be fetched is absent instead.
    """
    found = []
    for name in options.datasets:
        if options.table == "cost" and name == "simulated":
            found += _growing(options.user_factors, fields)
        elif options.table == "domains" and name in MOVIELENS:
            found.append(_or_absent(name, fields))
        else:
            found.append(Subject.load(fields, dataset=name))
    if options.table == "domains":
        found.append(_mind(options.mind, fields))
    repeated = [one.name for index, one in enumerate(found) if one.name in [other.name for other in found[:index]]]
    if repeated:
        raise UserError(f"--datasets: two data sets are called {repeated[0]!r} in tables; rename one of the files")
    return found


def _growing(factors: list[int], fields: Mapping[str, Any]) -> list[Subject]:
    base = fields.get("sim_users", SimulatorConfig().sim_users)
    return [Subject.load(fields, f"simulated x{factor}", dataset="simulated", sim_users=factor * base) for factor in factors]


def _or_absent(name: str, fields: Mapping[str, Any]) -> Subject:
    try:
        return Subject.load(fields, dataset=name)
    except UserError as error:
        return Subject(name, {"dataset": name}, absent=f"not run: `{PROGRAM} domains` needs the data set: {error}")


def _mind(path: str | None, fields: Mapping[str, Any]) -> Subject:
    if path is None:
        return Subject(MIND, {}, absent=f"not run: `{PROGRAM} domains --mind MINDsmall_train/behaviors.tsv`")
    return Subject.load(fields, MIND, dataset=path, format="mind")
