"""`python -m pipelines.abtest MODEL_A MODEL_B`: an A/B test on simulated users. Wiring only; TensorFlow comes after the cheap checks."""

from __future__ import annotations

import argparse
import dataclasses
import math
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from elcrec_tf import cli
from elcrec_tf.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from rich.console import Console

    from pipelines.abtest.audience import Audience
    from pipelines.abtest.policies import Policy
    from pipelines.abtest.visits import Totals
    from pipelines.abtest.world import World

_PROGRAM = "python -m pipelines.abtest"
_ANSWER = 100  # items asked for at once: what an export gives by default
_BROKEN = 0.001  # a p-value of the sample ratio below this tells of a broken assignment


def make_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser("abtest", "Compare two exported models of simulated data by an A/B test on simulated users.")
    parser.prog, parser.usage = _PROGRAM, f"{_PROGRAM} MODEL_A MODEL_B [options]"
    parser.epilog = "The same model twice is an A/A test: its lifts are chance."
    for arm, role in (("A", "control"), ("B", "challenger")):
        parser.add_argument(f"model_{arm.lower()}", metavar=f"MODEL_{arm}", help=f"{role}: an exported model's folder, or one version's")
    test = parser.add_argument_group("experiment")
    test.add_argument("--users", type=_number(int, 100), default=40_000, metavar="N", help="users of both arms (default: 40000)")
    test.add_argument("--k", type=_number(int, 1), default=10, metavar="N", help="items a page (default: 10)")
    test.add_argument("--seed", type=_number(int, 0), default=0, metavar="N", help="of users, arms and decisions (default: 0)")
    test.add_argument(
        "--detect", type=_number(float, 1e-6), default=0.02, metavar="X", help="tell the users needed to detect this lift (default: 0.02)"
    )
    test.add_argument("--with-bounds", action="store_true", help="let popularity and the simulator's own law answer all users, too")
    files = parser.add_argument_group("files")
    files.add_argument("--output-dir", metavar="DIR", help="write abtest.json, .md and .png there (default: nothing is written)")
    files.add_argument("--no-plot", action="store_true", help="leave the plot out")
    return parser


def main(argv: list[str]) -> int:
    options = make_parser().parse_args(argv)
    from pipelines.abtest.analysis import compare
    from pipelines.abtest.audience import assigned, recruit
    from pipelines.abtest.report import make_report
    from pipelines.abtest.visits import visit
    from pipelines.abtest.world import shared_world
    from pipelines.benchmark.report import check_plots, write_report

    if options.output_dir and not options.no_plot:
        check_plots()
    console = cli.console()
    world = shared_world([options.model_a, options.model_b])
    if options.with_bounds and world.config.sim_drift:
        raise UserError(
            f"--with-bounds knows no drift, and these models' world has sim_drift {world.config.sim_drift:g}; leave the flag out"
        )
    if options.with_bounds and world.config.sim_switch == 1 and not world.config.sim_noise:
        raise UserError(
            "--with-bounds follows the world's law, by which with sim_switch 1 and sim_noise 0 no two events in a row have one intent; a "
            "page's clicks have: leave the flag out"
        )
    models, width, names = _load(options)
    audience = recruit(world.config, options.users, options.seed)
    arms = assigned(audience.user_ids, f"seed {options.seed}")
    console.print(f"A: {names[0]}\nB: {names[1]}{' (the same: an A/A test)' if names[0] == names[1] else ''}", soft_wrap=True)
    ratio_p = _announce(console, audience, arms)

    def visits(policies: list[Policy], arms: np.ndarray) -> Totals:
        return visit(world.config, audience, policies, arms, options.k, width // options.k, options.seed)

    with console.status("users visit"):
        totals = visits(models, arms)
        bounds = {name: visits([policy], 0 * arms) for name, policy in _bounds(options, world, width)}
    report = make_report(compare(totals, arms, audience.groups), audience, bounds, options.detect)
    for table in report.tables:
        console.print(table.rich())
    if options.output_dir:
        settings = {name: getattr(options, name) for name in ("users", "k", "seed")}
        simulator = dataclasses.asdict(world.config)
        about = {"models": dict(zip("ab", names, strict=True)), **settings, "simulator": simulator, "sample_ratio_p": ratio_p}
        heading = [f"`{shlex.join([*_PROGRAM.split(), *argv])}`", f"A: `{names[0]}`, B: `{names[1]}`, {options.users:,} users"]
        write_report(report, about, heading, Path(options.output_dir), "abtest", not options.no_plot)
        console.print(f"written to {options.output_dir}", soft_wrap=True)
    return 0


def _load(options: argparse.Namespace) -> tuple[list[Policy], int, list[str]]:
    """(the two models' policies, items of an answer, the versions' folders)."""
    cli.import_tensorflow()
    from elcrec_tf.serving.recommender import Recommender
    from pipelines.abtest.policies import saved_model

    models = [Recommender.load(folder) for folder in (options.model_a, options.model_b)]
    for model in models:
        model.check_k(options.k)
    # Both arms' sessions have room for as many pages.
    width = min(_ANSWER if options.k <= _ANSWER else options.k, *(model.top_k for model in models))
    return [saved_model(model, width) for model in models], width, [str(model.folder) for model in models]


def _announce(console: Console, audience: Audience, arms: np.ndarray) -> float:
    """Print who takes part, and whether the assignment is in order. Returns the p-value of that."""
    from pipelines.abtest.statistics import sample_ratio_p

    in_b = int(arms.sum())
    in_a, new = len(arms) - in_b, sum(not history for history in audience.histories)
    p = sample_ratio_p(in_a, in_b)
    verdict = "as equal chances give them" if p >= _BROKEN else "NOT as equal chances give them: trust no result"
    console.print(f"{len(arms):,} users, {new:,} of them new, {audience.sessions.sum():,} sessions", soft_wrap=True)
    console.print(f"sample ratio: {in_a:,} in A, {in_b:,} in B, {verdict} (p {p:.2g})", soft_wrap=True)
    return p


def _bounds(options: argparse.Namespace, world: World, width: int) -> list[tuple[str, Policy]]:
    if not options.with_bounds:
        return []
    from pipelines.abtest.policies import oracle, popularity

    return [("popularity", popularity(world, width)), ("oracle", oracle(world, width))]


def _number(kind: type, low: float) -> Callable[[str], int | float]:
    def read(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value < math.inf:
            raise argparse.ArgumentTypeError(f"should be a{' whole' if kind is int else ''} number of at least {low}. Received: {text}")
        return value

    return read


if __name__ == "__main__":
    cli.run(main)
