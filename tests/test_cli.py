import dataclasses
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

import elcrec_tf
from elcrec_tf import cli
from elcrec_tf.config import GROUPS, resolve
from elcrec_tf.errors import UserError
from elcrec_tf.train import make_parser

ROOT = Path(elcrec_tf.__file__).parents[1]
FIELDS = [field for kind in GROUPS for field in dataclasses.fields(kind)]
# Runs a module as `python -m` does and then says whether TensorFlow or Keras came in.
RUN_AND_TELL = """
import runpy, sys
module, *sys.argv[1:] = sys.argv[1:]
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
except SystemExit as error:
    print("exit", error.code)
print("heavy", sorted({"tensorflow", "keras", "jax", "torch"} & set(sys.modules)))
"""


def python(*arguments, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, timeout=120, **options)


def parse(*flags):
    return cli.config_flags(make_parser().parse_args(list(flags)))


@pytest.mark.parametrize("columns", ["", "wide", "0"])
def test_a_terminal_of_no_known_width(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    assert "--hidden-size" in make_parser().format_help()


@pytest.mark.parametrize("module", ["train", "evaluate", "report"])
def test_help_loads_no_tensorflow(module):
    result = python("-c", RUN_AND_TELL, f"elcrec_tf.{module}", "--help")
    assert result.stderr == ""
    assert result.stdout.startswith(f"usage: python -m elcrec_tf.{module}")
    assert result.stdout.endswith("exit 0\nheavy []\n")


def test_importing_the_package_loads_no_tensorflow():
    code = "import sys, elcrec_tf; elcrec_tf.Config, elcrec_tf.UserError, dir(elcrec_tf); print(*sys.modules)"
    loaded = python("-c", code).stdout.split()
    assert "elcrec_tf.config" in loaded
    assert not {"tensorflow", "keras", "numpy"} & set(loaded)


def test_train_help_lists_every_field_and_its_choices():
    text = make_parser().format_help()
    for field in FIELDS:
        assert f"--{field.name.replace('_', '-')}" in text
        for choice in field.metadata["choices"] or ():
            assert choice in text


def test_evaluate_help_names_its_flags():
    from elcrec_tf.evaluate import make_parser as evaluate_parser

    text = evaluate_parser().format_help()
    assert all(word in text for word in ("RUN_DIR", "--dataset", "--data-dir", "--json"))


def test_only_given_flags_are_returned():
    assert parse() == {}
    assert parse("--epochs", "3", "--output-dir", "x", "--no-export") == {"epochs": 3}


def test_a_flag_with_its_default_value_still_wins_over_a_preset():
    assert resolve("paper-beauty", flags=parse("--num-layers", "2")).model.num_layers == 2


@pytest.mark.parametrize(
    ("flags", "values"),
    [
        (["--augmentations", "crop", "mask"], {"augmentations": ["crop", "mask"]}),
        (["--snapshot-epochs", "1", "5"], {"snapshot_epochs": [1, 5]}),
        (["--final-temperature", "0.05"], {"final_temperature": 0.05}),
        (["--mask-same-intent"], {"mask_same_intent": True}),
        (["--products", "bfloat16", "--xla", "chains"], {"products": "bfloat16", "xla": "chains"}),
        (["--no-recovery"], {"recovery": False}),
        (["--dataset", "beauty"], {"dataset": "beauty"}),
        (["--learning-rate=1e-4"], {"learning_rate": 1e-4}),
    ],
)
def test_values_parse_to_what_the_config_takes(flags, values):
    assert parse(*flags) == values
    resolved = resolve(flags=parse(*flags)).to_dict()
    found = {name: value for group in resolved.values() if isinstance(group, dict) for name, value in group.items() if name in values}
    assert {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()} == values


@pytest.mark.parametrize(
    "flags", [["--epoch", "3"], ["--epochs", "many"], ["--fusion", "sum"], ["--augmentations"], ["--augmentations", "flip"], ["stray"]]
)
def test_wrong_flags_exit_2(flags, capsys):
    """`--epoch`: abbreviations are off, so a new field never changes what an old command means."""
    with pytest.raises(SystemExit) as stop:
        make_parser().parse_args(flags)
    assert stop.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_version_flag(capsys):
    with pytest.raises(SystemExit) as stop:
        make_parser().parse_args(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"elcrec_tf {elcrec_tf.__version__}\n"


def test_a_users_error_is_one_line_without_traceback(tmp_path):
    result = python("-m", "elcrec_tf.train", "--hidden-size", "7", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr == "error: model.hidden_size should be a multiple of model.num_heads. Received: 7 and 2\n"
    assert list(tmp_path.iterdir()) == []


def raises(error):
    def main(_):
        raise error

    return main


@pytest.mark.parametrize(
    ("main", "status", "message"),
    [
        (lambda _: None, 0, ""),
        (lambda _: 0, 0, ""),
        (lambda _: 3, 3, ""),
        (raises(UserError("file x: line 3")), 1, "error: file x: line 3\n"),
        (raises(KeyboardInterrupt()), 130, "interrupted\n"),
        (raises(OSError(errno.ENOSPC, "No space left on device", "/runs/a")), 1, "error: /runs/a: No space left on device\n"),
        (raises(OSError(errno.EIO, "Input/output error")), 1, "error: Input/output error\n"),
        (raises(OSError("odd")), 1, "error: odd\n"),
    ],
)
def test_exit_status(main, status, message, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.run(main)
    assert stop.value.code == status
    assert capsys.readouterr().err == message


def test_a_reader_that_is_gone_is_no_error(monkeypatch):
    """`| head` closes the pipe: status 141 as for other programs, no message."""
    code = "from elcrec_tf import cli\ndef main(_):\n    raise BrokenPipeError(32, 'Broken pipe')\ncli.run(main)"
    result = python("-c", code)
    assert (result.returncode, result.stdout, result.stderr) == (141, "", "")


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        cli.run(raises(ZeroDivisionError()))


@pytest.mark.parametrize(("version", "works"), [((3, 10), False), ((3, 11), True), ((3, 13), True), ((3, 14), False), ((4, 0), False)])
def test_unsupported_python_is_refused_in_one_line(version, works):
    code = f"""
import sys
sys.version_info = ({version[0]}, {version[1]}, 0, "final", 0)
try:
    import elcrec_tf
except ImportError as error:
    print(error)
"""
    result = python("-c", code)
    assert result.stderr == ""
    if works:
        assert result.stdout == ""
    else:
        assert result.stdout.count("\n") == 1
        assert f"needs Python 3.11, 3.12 or 3.13, this is Python {version[0]}.{version[1]}" in result.stdout


@pytest.mark.parametrize("module", ["train", "recommend"])
def test_a_command_under_an_unsupported_python_ends_with_one_line(module, tmp_path):
    """`sitecustomize` is imported before the package: it stands in for another interpreter."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.version_info = (3, 10, 0, 'final', 0)\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", f"elcrec_tf.{module}", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("error: elcrec_tf needs Python 3.11, 3.12 or 3.13, this is Python 3.10; ")
    assert result.stderr.count("\n") == 1


@pytest.fixture
def interpreter(tmp_path, monkeypatch):
    """Two environments `a` and `b` below `tmp_path` whose interpreters are links to the same one, as venv makes them.

    Returns a function that makes one of them run this process and finds another, or None, on the PATH.
    """
    (tmp_path / "real").touch(mode=0o755)
    for name in ("a", "b", "with space"):
        folder = tmp_path / name / "bin"
        folder.mkdir(parents=True)
        for link in ("python", "python3"):
            (folder / link).symlink_to(tmp_path / "real")

    def choose(running, on_path):
        monkeypatch.setattr(sys, "executable", str(tmp_path / running))
        monkeypatch.setenv("PATH", str(tmp_path / on_path / "bin") if on_path else str(tmp_path))

    monkeypatch.chdir(tmp_path / "b")
    return choose


@pytest.mark.parametrize(
    ("running", "on_path", "expected"),
    [
        ("a/bin/python", "a", "python"),
        ("a/bin/python3", "a", "python"),
        ("b/bin/python", "a", "bin/python"),  # the same real file, another environment
        ("b/bin/python3", None, "bin/python3"),
        ("a/bin/python", "b", "{}/a/bin/python"),
        ("with space/bin/python", None, "'{}/with space/bin/python'"),
    ],
)
def test_a_printed_command_runs_this_interpreter(interpreter, tmp_path, running, on_path, expected):
    interpreter(running, on_path)
    assert cli.command("train") == f"{expected.format(tmp_path)} -m elcrec_tf.train"


def test_a_printed_command_never_leaves_the_interpreter_to_the_path(interpreter, tmp_path, monkeypatch):
    interpreter("b/bin/python", None)
    monkeypatch.chdir(tmp_path / "b" / "bin")
    assert cli.command("export") == "./python -m elcrec_tf.export"


def test_the_console_prints_text_as_it_is(capsys):
    from rich.table import Table

    table = Table(title="runs/[v2]/:a:")
    table.add_column("[red]head")
    table.add_row("[bold]cell[/bold]")
    console = cli.console()
    console.print("written to runs/[v2]/:fire:/metrics.json", soft_wrap=True)
    console.print(table)
    out = capsys.readouterr().out
    assert all(text in out for text in ("runs/[v2]/:fire:/metrics.json\n", "runs/[v2]/:a:", "[red]head", "[bold]cell[/bold]"))
    cli.console(stderr=True).print("[x]")
    assert capsys.readouterr() == ("", "[x]\n")


def test_unknown_public_name():
    with pytest.raises(AttributeError, match="no attribute 'Confgi'"):
        elcrec_tf.Confgi  # noqa: B018 - the access is the test


@pytest.mark.parametrize(
    ("processor", "users", "expected"),
    [("x86_64", None, "1"), ("AMD64", None, "1"), ("x86_64", "0", "0"), ("aarch64", None, None), ("aarch64", "1", "1")],
)
def test_tensorflow_comes_with_onednn_on_x86_unless_the_user_says_otherwise(monkeypatch, processor, users, expected):
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    if users is not None:
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", users)
    monkeypatch.setattr(cli.platform, "machine", lambda: processor)
    cli.import_tensorflow()
    assert os.environ.get("TF_ENABLE_ONEDNN_OPTS") == expected
