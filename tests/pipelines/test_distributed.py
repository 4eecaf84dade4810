"""The command that starts several workers; in place of the workers a script that does what a test wants."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from elcrec_tf.errors import UserError
from elcrec_tf.run_folder import RunFolder
from pipelines import distributed

# Called as `python -m elcrec_tf.train ARGUMENTS`: writes down its pid, arguments and TF_CONFIG, then acts by its number. It waits
# for the others before it acts, so that no worker is ended for what another did before it has written.
_STAND_IN = """#!{python}
import json, os, pathlib, signal, sys, time
config = json.loads(os.environ["TF_CONFIG"])
index, log = config["task"]["index"], pathlib.Path({log!r})
with (log / str(index)).open("a") as file:
    print(json.dumps([os.getpid(), sys.argv[3:], config, os.environ["TF_NUM_INTRAOP_THREADS"]]), file=file)
life = len((log / str(index)).read_text().splitlines())
others = [log / str(other) for other in range(len(config["cluster"]["worker"]))]
while not all(file.exists() and len(file.read_text().splitlines()) >= life for file in others):
    time.sleep(0.01)
{actions}
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Returns a function that puts a script in the workers' place, and a function that reads what worker n wrote down in each life."""
    log = tmp_path / "log"
    log.mkdir()
    monkeypatch.chdir(tmp_path)

    def install(actions):
        script = tmp_path / "stand-in"
        script.write_text(_STAND_IN.format(python=sys.executable, log=str(log), actions=actions))
        script.chmod(0o755)
        monkeypatch.setattr(distributed.sys, "executable", str(script))

    before = signal.getsignal(signal.SIGTERM)
    yield install, lambda index: [json.loads(line) for line in (log / str(index)).read_text().splitlines()]
    signal.signal(signal.SIGTERM, before)


def running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_each_worker_gets_its_place_and_all_lines_are_prefixed(stand_in, capsys):
    install, lives = stand_in
    install('print("hello", flush=True)\nprint("oops", file=sys.stderr)')
    assert distributed.main(["--workers", "3", "--", "--epochs", "2", "--output-dir", "run"]) == 0
    printed = capsys.readouterr()
    assert sorted(printed.out.splitlines()) == [f"worker {index}: hello" for index in range(3)]
    assert sorted(printed.err.splitlines()) == [f"worker {index}: oops" for index in range(3)]
    configs = [lives(index)[0][2] for index in range(3)]
    assert [config["task"] for config in configs] == [{"type": "worker", "index": index} for index in range(3)]
    assert configs[0]["cluster"] == configs[2]["cluster"] and len(set(configs[0]["cluster"]["worker"])) == 3
    assert all(address.startswith("127.0.0.1:") for address in configs[0]["cluster"]["worker"])
    assert lives(1)[0][1] == ["--epochs", "2", "--output-dir", "run"]
    assert int(lives(0)[0][3]) == max(os.cpu_count() // 3, 1)


def test_json_is_passed_on_as_it_is(stand_in, capsys):
    install, _ = stand_in
    install('print(json.dumps({"index": config["task"]["index"]}))\nprint("note", file=sys.stderr)')
    assert distributed.main(["--workers", "1", "--", "--output-dir", "run", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"index": 0} and printed.err == "worker 0: note\n"


def test_a_failing_worker_ends_the_others_and_gives_the_exit_status(stand_in):
    install, lives = stand_in
    install("time.sleep(0.5 if index else 60)\nsys.exit(3)")
    assert distributed.main(["--workers", "2", "--restarts", "5", "--", "--output-dir", "run"]) == 3
    assert len(lives(0)) == len(lives(1)) == 1  # an error would only come again
    assert not running(lives(0)[0][0])


def test_the_chiefs_error_counts_after_the_others_are_done(stand_in):
    install, _ = stand_in
    install("time.sleep(0.1 if index else 0.6)\nsys.exit(0 if index else 1)")
    assert distributed.main(["--workers", "2", "--", "--output-dir", "run"]) == 1


def test_when_nobody_reads_the_workers_are_ended(stand_in, monkeypatch):
    install, lives = stand_in
    install('while True:\n    print("line " * 100, flush=True)')

    class Closed:
        def write(self, _):
            raise BrokenPipeError

        flush = write

    monkeypatch.setattr(distributed.sys, "stdout", Closed())
    with pytest.raises(BrokenPipeError):
        distributed.main(["--workers", "2", "--", "--output-dir", "run"])
    assert not running(lives(0)[0][0]) and not running(lives(1)[0][0])


def test_a_worker_that_ignores_the_end_is_killed(stand_in, monkeypatch):
    install, lives = stand_in
    monkeypatch.setattr(distributed, "_GRACE_SECONDS", 0.3)
    install("signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(0.5 if index else 60)\nsys.exit(3)")
    assert distributed.main(["--workers", "2", "--", "--output-dir", "run"]) == 3
    assert not running(lives(0)[0][0])


@pytest.mark.parametrize(("restarts", "status"), [(0, 128 + 9), (1, 128 + 9), (2, 0)])
def test_a_kill_starts_all_again_as_often_as_allowed(stand_in, capsys, restarts, status):
    install, lives = stand_in
    run = "pathlib.Path('run').mkdir(exist_ok=True)\npathlib.Path('run/config.json').touch()\n"
    install(run + "if life <= 2:\n    time.sleep(0.3 if index else 60)\n    os.kill(os.getpid(), signal.SIGKILL)")
    flags = ["--output-dir", "run", "--preset", "simulated", "--epochs", "4", "--export-dir", "models", "--no-export", "--json"]
    assert distributed.main(["--workers", "2", "--restarts", str(restarts), "--", *flags]) == status
    calls = [arguments for _, arguments, _, _ in lives(1)]
    # The settings are in the folder by then; what is no setting is said again.
    again = ["--output-dir", "run", "--resume", "--export-dir", "models", "--no-export", "--json"]
    assert calls == [flags, again, again][: restarts + 1]
    assert capsys.readouterr().err.count("killed by signal 9; all workers start again") == restarts


def test_a_kill_before_the_run_folder_is_there_starts_the_same_command_again(stand_in):
    install, lives = stand_in
    install("if life == 1:\n    os.kill(os.getpid(), signal.SIGKILL)")
    assert distributed.main(["--workers", "1", "--restarts", "1", "--", "--output-dir", "run"]) == 0
    assert [arguments for _, arguments, _, _ in lives(0)] == [["--output-dir", "run"]] * 2


def test_the_cause_is_the_kill_not_what_the_others_make_of_it(stand_in, monkeypatch):
    """Both have ended when they are looked at: worker 1 was killed, worker 0 could not go on."""
    install, _ = stand_in
    install("if index:\n    os.kill(os.getpid(), signal.SIGKILL)\nsys.exit(1)")
    start, started = distributed._start, []

    def start_and_wait(*arguments):
        started.append(start(*arguments))
        if len(started) == 2:
            for process in started:
                process.wait()
        return started[-1]

    monkeypatch.setattr(distributed, "_start", start_and_wait)
    assert distributed.main(["--workers", "2", "--", "--output-dir", "run"]) == 128 + 9


def test_without_an_output_folder_all_workers_get_the_same_new_one(stand_in, tmp_path):
    install, lives = stand_in
    install("")
    assert distributed.main(["--", "--dataset", "logs/purchases.csv"]) == 0
    first, second = (lives(index)[0][1] for index in range(2))
    assert first == second and first[:3] == ["--dataset", "logs/purchases.csv", "--output-dir"]
    assert first[3].startswith("runs/purchases-")


def test_a_termination_ends_the_workers(stand_in):
    install, lives = stand_in
    install("time.sleep(60)")

    def terminate():
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            time.sleep(0.1)
            try:
                if lives(0) and lives(1):
                    break
            except FileNotFoundError:
                pass
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=terminate)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        distributed.main(["--workers", "2", "--", "--output-dir", "run"])
    thread.join()
    assert not running(lives(0)[0][0]) and not running(lives(1)[0][0])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--workers", "0"], "--workers should be at least 1"),
        (["--restarts", "-1"], "--restarts at least 0"),
        (["--", "--resume"], "no run to resume"),
        (["--", "--hidden-size", "7"], "multiple of model.num_heads"),
    ],
)
def test_wrong_values_are_one_line(stand_in, flags, message):
    with pytest.raises(UserError, match=message):
        distributed.main(flags)


def test_a_folder_in_use_and_wrong_flags_end_before_any_worker_starts(stand_in, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").touch()
    assert RunFolder(tmp_path / "run").exists
    with pytest.raises(UserError, match="--resume continues it"):
        distributed.main(["--", "--output-dir", "run"])
    with pytest.raises(SystemExit) as stop:
        distributed.main(["--", "--epoch", "3"])
    assert stop.value.code == 2


def test_help_loads_no_tensorflow():
    code = (
        "import runpy, sys\nsys.argv = ['x', '--help']\n"
        "try:\n    runpy.run_module('pipelines.distributed', run_name='__main__')\n"
        "except SystemExit as error:\n    print('exit', error.code, {'tensorflow', 'keras'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == "" and done.stdout.startswith("usage: python -m pipelines.distributed")
    assert done.stdout.endswith("exit 0 set()\n")
