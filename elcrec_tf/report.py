"""`python -m elcrec_tf.report`: one HTML file that shows one or several runs. Wiring only."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

from elcrec_tf import cli
from elcrec_tf.errors import UserError
from elcrec_tf.files import write_text

_NEEDED = ("jinja2", "matplotlib", "scipy", "threadpoolctl")


def make_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(
        "report",
        "Write one HTML file, which needs no network, about one run or several side by side: results beside popularity and published "
        "numbers, training curves, metrics by groups of users and items, coverage and popularity bias, the intents, example users.",
    )
    parser.add_argument("run_dirs", nargs="+", metavar="RUN_DIR", help="run folder that elcrec_tf.train or import_official wrote")
    parser.add_argument("--output", type=Path, metavar="FILE.html", help="default: report.html in RUN_DIR, of several runs here")
    parser.add_argument("--data-dir", metavar="DIR", help="folder of named data sets (default: the runs')")
    return parser


def main(argv: list[str]) -> int:
    arguments = make_parser().parse_args(argv)
    output = _output(arguments)
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"the report needs {', '.join(missing)}: pip install '.[report]' in the project's folder")

    from elcrec_tf.reporting.loading import load_run

    runs = [load_run(path, arguments.data_dir) for path in arguments.run_dirs]
    cli.import_tensorflow()

    from elcrec_tf.reporting.analysis import analyse
    from elcrec_tf.reporting.comparison import comparison_view
    from elcrec_tf.reporting.maps import user_maps
    from elcrec_tf.reporting.page import render
    from elcrec_tf.reporting.sections import run_view

    console = cli.console()
    views = []
    for number, run in enumerate(runs, start=1):
        console.print(f"{run.path}: {run.sequences.description}", soft_wrap=True)
        model = run.folder.load_model()
        views.append(run_view(run, analyse(run, model), user_maps(run, model), number))
    text = render(views, comparison_view(runs) if len(runs) > 1 else None)
    write_text(output, text)
    console.print(f"written to {output} ({len(text.encode()) / 1e6:.1f} MB)", soft_wrap=True)
    return 0


def _output(arguments: argparse.Namespace) -> Path:
    """Where the report goes. A wrong place should not have to wait for the work."""
    if arguments.output is None:
        return Path(arguments.run_dirs[0] if len(arguments.run_dirs) == 1 else ".") / "report.html"
    if arguments.output.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--output should name an .html file. Received: {arguments.output}")
    if arguments.output.is_dir():
        raise UserError(f"--output {arguments.output}: is a folder; name a file in it")
    return arguments.output


if __name__ == "__main__":
    cli.run(main)
