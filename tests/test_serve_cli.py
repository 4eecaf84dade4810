import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import grpc
import numpy as np
import pytest

from elcrec_tf.errors import UserError
from elcrec_tf.serve import Stop, _parser, main
from elcrec_tf.serving.server_options import ServerOptions
from tests.serving import asking
from tests.serving.toy_servable import write_toy
from tests.test_cli import ROOT, RUN_AND_TELL, python

SERVE = [sys.executable, "-m", "elcrec_tf.serve"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "toy"
    folder.mkdir()
    write_toy(folder, 3)
    return folder


@contextmanager
def serving(folder, *flags):
    """A server's process; killed in the end if it still runs."""
    with subprocess.Popen([*SERVE, str(folder), *flags], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def address(process):
    return re.fullmatch(r"serving toy version 3 on (127\.0\.0\.1:\d+)\n", process.stdout.readline())[1]


def test_help_loads_no_tensorflow():
    result = python("-c", RUN_AND_TELL, "elcrec_tf.serve", "--help")
    assert result.stderr == ""
    assert result.stdout.startswith("usage: python -m elcrec_tf.serve")
    assert result.stdout.endswith("exit 0\nheavy []\n")


def test_the_flags_default_to_the_options():
    arguments = vars(_parser().parse_args(["folder"]))
    assert arguments.pop("saved_model").name == "folder"
    assert ServerOptions(**arguments) == ServerOptions()


def test_labels_are_collected():
    assert _parser().parse_args(["folder", "--label", "stable=3", "--label", "canary=12"]).labels == {"stable": 3, "canary": 12}


@pytest.mark.parametrize("label", ["stable", "stable=", "=3", "stable=x", "stable=-1", "stable=³"])
def test_wrong_labels_exit_2(label, capsys):
    with pytest.raises(SystemExit) as stop:
        _parser().parse_args(["folder", "--label", label])
    assert stop.value.code == 2
    assert "NAME=VERSION" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--port", "70000"], "--port should be a number from 0 to 65535. Received: 70000"),
        (["--max-batch-size", "0"], "--max-batch-size should be at least 1. Received: 0"),
        (["--poll-seconds", "nan"], "--poll-seconds should be more than 0 and at most 1000000. Received: nan"),
        (["--max-message-mb", "0"], "--max-message-mb should be more than 0 and at most 1024. Received: 0.0"),
        (["--tls-cert", "cert.pem"], "--tls-cert and --tls-key go together"),
        (["--tls-client-ca", "ca.pem"], "--tls-client-ca needs --tls-cert and --tls-key"),
        (
            ["--token-file", "t", "--host", "0.0.0.0"],
            "--token-file on 0.0.0.0 needs --tls-cert and --tls-key: a token must not travel in plain",
        ),
    ],
)
def test_options_that_cannot_be_are_one_line(folder, flags, message):
    result = python("-m", "elcrec_tf.serve", str(folder), *flags)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: {message}") and result.stderr.count("\n") == 1


@pytest.mark.parametrize(("path", "message"), [("nowhere", "there is no such folder"), ("3", "is itself a version")])
def test_a_wrong_folder_is_one_line(folder, path, message):
    result = python("-m", "elcrec_tf.serve", str(folder / path))
    assert (result.returncode, result.stdout) == (1, "")
    assert message in result.stderr and result.stderr.count("\n") == 1


def test_a_port_that_is_taken_is_one_line(folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = python("-m", "elcrec_tf.serve", str(folder), "--port", str(port))
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        f"error: 127.0.0.1:{port}: cannot listen there; is the port taken? Choose another --port (0 takes a free one)\n"
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_answers_until_a_signal_and_exits_0(folder, number):
    with serving(folder, "--port", "0", "--metrics-port", "0") as process:
        with grpc.insecure_channel(address(process)) as channel:
            outputs, spec = asking.predict(channel, "toy", history=asking.texts([["a", "b"]]))
        assert (outputs["known"].tolist(), spec.version.value) == ([2], 3)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "")
    assert re.fullmatch(r"metrics on http://127\.0\.0\.1:\d+/metrics\n", err)


def waiting(channel):
    """The future of a request that the server has, and answers when the gate is opened."""
    request = asking.predict_request("toy", "wait", x=np.ones(1, np.int32)).SerializeToString()
    future = channel.unary_unary(asking.PREDICT).future(request, timeout=asking.SECONDS)
    _ask(channel)  # on the same connection, so it comes later
    return future


def _ask(channel, **options):
    return asking.predict(channel, "toy", history=asking.texts([["a"]]), **options)


def test_the_grace_period_bounds_the_end(folder):
    with (
        serving(folder, "--port", "0", "--num-batch-threads", "2", "--grace-seconds", "0.5") as process,
        grpc.insecure_channel(address(process)) as channel,
    ):
        future = waiting(channel)
        process.send_signal(signal.SIGTERM)
        assert asking.error(future.result)[0] in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
        assert process.wait(60) == 0


def test_a_signal_is_heard_at_every_moment():
    before = signal.getsignal(signal.SIGALRM)
    try:
        for tenth_of_a_microsecond in range(10, 2000, 100):
            stop = Stop()
            signal.signal(signal.SIGALRM, lambda *_, stop=stop: stop.set())
            signal.setitimer(signal.ITIMER_REAL, tenth_of_a_microsecond * 1e-7)
            assert stop.wait(60) and stop.wait()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not Stop().wait(0)


def test_a_second_signal_ends_it_at_once(folder):
    with (
        serving(folder, "--port", "0", "--num-batch-threads", "2", "--grace-seconds", "600") as process,
        grpc.insecure_channel(address(process)) as channel,
    ):
        future = waiting(channel)
        process.send_signal(signal.SIGTERM)
        # A question that comes in while the server closes its ears may wait for its end: it has a short deadline.
        asking.wait_until(lambda: asking.error(_ask, channel, timeout=2)[0] == grpc.StatusCode.UNAVAILABLE)
        assert not future.done()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == -signal.SIGTERM


def test_it_waits_for_the_first_version(tmp_path):
    folder = tmp_path / "toy"
    folder.mkdir()
    with serving(folder, "--port", "0", "--poll-seconds", "0.1") as process:
        line = process.stderr.readline()
        waiting = re.fullmatch(rf"{re.escape(str(folder))}: has no version that can be served yet; waiting for one on (.*)\n", line)[1]
        with grpc.insecure_channel(waiting) as channel:
            code, text = asking.error(asking.predict, channel, "toy", history=asking.texts([["a"]]))
            assert (code, text) == (grpc.StatusCode.NOT_FOUND, "Servable not found for request: Latest(toy)")
            write_toy(folder, 3)
            assert address(process) == waiting
            assert asking.status(channel, "toy") == {3: "AVAILABLE"}


def test_without_grpc_it_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "grpc", None)
    monkeypatch.delitem(sys.modules, "elcrec_tf.serving.server", raising=False)
    with pytest.raises(UserError, match=r'the server needs gRPC .*pip install "\.\[serve\]"'):
        main([str(folder)])
