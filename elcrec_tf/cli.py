"""What all entry points share: parsers made from the config, one-line errors, the console, quiet TensorFlow. Imports no TensorFlow."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import platform
import shlex
import shutil
import sys
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elcrec_tf import __version__
from elcrec_tf.config import GROUPS
from elcrec_tf.config_fields import Group, element_type, field_types
from elcrec_tf.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

_TITLES = {
    "data": "data",
    "simulator": "simulated data (--dataset simulated)",
    "model": "model",
    "loss": "training objective",
    "schedule": "schedule of the contrastive losses",
    "augment": "augmented views",
    "train": "training",
    "drifting": "simulated service",
}
_X86 = ("x86_64", "AMD64")


def make_parser(module: str, description: str, usage: str | None = None) -> argparse.ArgumentParser:
    """A parser for `python -m elcrec_tf.<module>`; `usage` replaces the arguments of the usage line where they are many."""
    program = f"python -m elcrec_tf.{module}"
    parser = argparse.ArgumentParser(
        prog=program,
        usage=f"{program} {usage}" if usage else None,
        description=description,
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"elcrec_tf {__version__}")
    return parser


class _Formatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=min(120, shutil.get_terminal_size((120, 24)).columns))


def add_config_flags(
    parser: argparse.ArgumentParser,
    groups: Sequence[type[Group]] = GROUPS,
    only: Collection[str] | None = None,
    defaults: Mapping[str, str] | None = None,
) -> None:
    """One flag for every field (or for the fields named by `only`), grouped.

    A flag that is not given leaves no attribute, so presets and files show through. `defaults` says in words, by field, where the
    default comes from when it is not the config's.
    """
    for kind in groups:
        section = parser.add_argument_group(_TITLES[kind.GROUP])
        hints = typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            if only is None or field.name in only:
                _add_flag(section, field, hints[field.name], (defaults or {}).get(field.name))


def _add_flag(section: Any, field: dataclasses.Field[Any], hint: Any, default: str | None) -> None:
    name, meta = "--" + field.name.replace("_", "-"), field.metadata
    if default is None and field.default is not None:
        default = ",".join(map(str, field.default)) if isinstance(field.default, tuple) else str(field.default)
    text = meta["help"].replace("%", "%%")
    text += "" if default is None else f" (default: {default})"
    options: dict[str, Any] = {"dest": field.name, "default": argparse.SUPPRESS, "help": text}
    kinds = field_types(hint)
    if bool in kinds:
        section.add_argument(name, action=argparse.BooleanOptionalAction, **options)
    elif tuple in kinds:
        element = element_type(hint)
        section.add_argument(name, nargs="+", type=element, choices=meta["choices"], metavar=_metavar(meta, element), **options)
    else:
        element = next(kind for kind in kinds if kind is not type(None))
        read = element if meta["word"] is None else functools.partial(_number_or_word, element, meta["word"])
        section.add_argument(name, type=read, choices=meta["choices"], metavar=_metavar(meta, element), **options)


def _number_or_word(kind: type, word: str, text: str) -> Any:
    try:
        return word if text == word else kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"should be a number or {word}. Received: {text!r}") from None


def _metavar(meta: Any, element: type) -> str | None:
    return None if meta["choices"] else meta["metavar"] or {int: "N", float: "X", str: "TEXT"}[element]


def config_flags(arguments: argparse.Namespace, groups: Sequence[type[Group]] = GROUPS) -> dict[str, Any]:
    """The fields of some groups that were given as flags."""
    names = {field.name for kind in groups for field in dataclasses.fields(kind)}
    return {name: value for name, value in vars(arguments).items() if name in names}


def command(module: str) -> str:
    """`python -m elcrec_tf.<module>` with the interpreter that runs now, ready to be pasted into a shell in the current folder."""
    return f"{shlex.quote(_interpreter())} -m elcrec_tf.{module}"


def _interpreter() -> str:
    """`python` where that is this one, else its path, relative where it lies below the current folder."""
    # Links stay: those of a virtual environment all end at the interpreter that it was made with.
    own, found = Path(os.path.abspath(sys.executable)), shutil.which("python")
    if found and os.path.samefile(found, own) and os.path.samefile(Path(found).parent, own.parent):
        return "python"
    if not own.is_relative_to(Path.cwd()):
        return str(own)
    relative = own.relative_to(Path.cwd())
    return str(relative) if len(relative.parts) > 1 else f"./{relative}"


def console(stderr: bool = False) -> Console:
    """A rich console that prints text as it is: `[v2]` and `:a:` in a path are no markup. It imports rich, which takes a while."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def run(main: Callable[[list[str]], int | None]) -> typing.NoReturn:
    """Run an entry point and exit.

    The status is 0 when it worked, 1 with one line for a user's error or a failing file (full disk, no permission), 2 for wrong flags,
    130 for Ctrl-C.
    """
    try:
        sys.exit(main(sys.argv[1:]) or 0)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output (head, less) is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        reason = error.strerror or error
        print(f"error: {reason}" if error.filename is None else f"error: {error.filename}: {reason}", file=sys.stderr)
        sys.exit(1)


def import_tensorflow() -> None:
    """Import TensorFlow without its start-up messages and with oneDNN's operations, unless the environment says otherwise.

    Entry points call this after parsing, before anything that needs it.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if platform.machine() in _X86:
        # TensorFlow itself has them on only for CPUs with instructions for neural networks; README, "Speed", has what others gain.
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    try:
        with _silent_stderr():
            import tensorflow as tf
    except ImportError as error:
        raise UserError(f"TensorFlow cannot be imported ({error}); pip install -r requirements.txt") from None
    tf.get_logger().setLevel("ERROR")


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Some messages of TensorFlow's C++ code come before its log level is read: only the file descriptor stops them."""
    sys.stderr.flush()
    saved = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(null)
        os.close(saved)
