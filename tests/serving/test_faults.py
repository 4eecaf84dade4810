"""The local server when things go wrong: killed, swapped under load, fed broken versions and malformed requests, left by its clients."""

import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc import StatusCode

import elcrec_tf
from elcrec_tf.serving import wire_pb2 as wire
from elcrec_tf.serving.server import LocalServer
from elcrec_tf.serving.server_options import ServerOptions
from tests.serving import asking
from tests.serving.asking import error, predict, predict_request, raw_call, texts, wait_until
from tests.serving.contract_servers import free_port
from tests.serving.toy_servable import write_toy

ONE = texts([["a", "b"]])
CLIENTS = 8


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "toy"
    folder.mkdir()
    write_toy(folder, 1)
    return folder


@contextmanager
def local_server(folder, lines=None, **options):
    """(server, channel)"""
    report = (lambda _: None) if lines is None else lines.append
    with LocalServer(folder, ServerOptions(port=0, poll_seconds=0.05, **options), report) as server:
        with grpc.insecure_channel(server.address) as channel:
            yield server, channel


class Load:
    """Clients that ask without a pause, each on a connection of its own, and check what they get.

    Attributes:
        tags: version that gave each answer, in order, by client.
        failures: codes of calls that failed; UNAVAILABLE is tried again and is not among them when `retry`.
    """

    def __init__(self, address, retry=False):
        self.tags = [[] for _ in range(CLIENTS)]
        self.failures = []
        self._address, self._retry, self._stop = address, retry, threading.Event()

    def __enter__(self):
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(CLIENTS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for_more(self, answers=5):
        """Until every client has this many answers more."""
        before = [len(tags) for tags in self.tags]
        wait_until(lambda: self.failures or all(len(tags) >= old + answers for tags, old in zip(self.tags, before, strict=True)))

    def _ask(self, number):
        draw = random.Random(number)
        # Without them a channel waits longer and longer before it tries a server again that was away.
        options = [(f"grpc.{which}_reconnect_backoff_ms", 100) for which in ("initial", "min", "max")]
        with grpc.insecure_channel(self._address, options=options) as channel:
            while not self._stop.is_set():
                known = draw.randrange(20)
                try:
                    outputs, spec = predict(channel, "toy", history=texts([["x"] * known], width=known + 1))
                except grpc.RpcError as failure:
                    if not (self._retry and failure.code() == StatusCode.UNAVAILABLE):
                        self.failures.append(failure.code())
                        return
                    self._stop.wait(0.02)
                    continue
                if outputs["known"].tolist() != [known] or outputs["tag"].tolist() != [spec.version.value]:
                    self.failures.append((known, outputs, spec))
                    return
                self.tags[number].append(spec.version.value)


@pytest.mark.parametrize("kills", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_clients_recover_from_a_server_that_is_killed_and_started_again(folder, kills):
    port = free_port()
    command = [sys.executable, "-m", "elcrec_tf.serve", str(folder), "--port", str(port)]
    process = None
    with Load(f"127.0.0.1:{port}", retry=True) as load:
        try:
            for _ in range(kills + 1):
                process = subprocess.Popen(command, cwd=Path(elcrec_tf.__file__).parents[1], stdout=subprocess.DEVNULL)
                load.wait_for_more()
                process.send_signal(signal.SIGKILL)
                process.wait()
        finally:
            process.kill()
    assert load.failures == []


def resident_bytes():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


@pytest.mark.parametrize("last", [6, pytest.param(30, marks=pytest.mark.slow)])
def test_versions_are_swapped_under_load_without_a_failed_request(folder, tmp_path, last):
    ballast = 8 << 20  # floats: 32 MB a version
    ready = tmp_path / "ready"
    ready.mkdir()
    with local_server(folder) as (server, _), Load(server.address) as load:
        for version in range(2, last + 1):
            write_toy(ready, version, ballast).rename(folder / str(version))
            wait_until(lambda version=version: server.versions.available == [version])
            load.wait_for_more()
            if version == 3:
                before = resident_bytes()
        grown = resident_bytes() - before
    assert load.failures == []
    for tags in load.tags:
        assert tags == sorted(tags)
        assert set(tags) == set(range(1, last + 1))
    assert grown < 2 * 4 * ballast, f"{grown >> 20} MB more after {last - 3} swaps"


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BREAKS = {
    "the graph is cut off": lambda version: truncate(version / "saved_model.pb"),
    "the graph is empty": lambda version: (version / "saved_model.pb").write_bytes(b""),
    "the graph is missing": lambda version: (version / "saved_model.pb").unlink(),
    "the graph is noise": lambda version: (version / "saved_model.pb").write_bytes(random.Random(0).randbytes(5000)),
    "the weights are cut off": lambda version: truncate(version / "variables" / "variables.data-00000-of-00001"),
    "the weights are missing": lambda version: shutil.rmtree(version / "variables"),
    "everything is missing": lambda version: (shutil.rmtree(version), version.mkdir()),
    "the warm-up is noise": lambda version: _write(version / "assets.extra" / "tf_serving_warmup_requests", b"noise" * 50),
}


def _write(path, data):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)


def test_broken_versions_are_refused_and_the_old_one_stays(folder, tmp_path):
    """All kinds one after another, on one server; the next whole version is taken."""
    whole, lines = tmp_path / "whole", []
    shutil.copytree(folder / "1", whole)
    with local_server(folder, lines) as (server, channel), Load(server.address) as load:
        for version, harm in enumerate(BREAKS.values(), start=2):
            broken = tmp_path / "broken"
            shutil.copytree(whole, broken)
            harm(broken)
            broken.rename(folder / str(version))
            wait_until(lambda version=version: asking.status(channel, "toy").get(version) == "END")
            assert server.versions.available == [1]
        last = len(BREAKS) + 2
        write_toy(folder, last)
        wait_until(lambda: server.versions.available == [last])
    assert load.failures == []
    assert [line for line in lines if "is refused until its files change" in line] == lines[:-1]
    assert len(lines) == len(BREAKS) + 1


def wrong_dtype(draw):
    values = draw.choice([np.ones((2, 3), np.float32), np.ones((1, 1), np.int64), np.ones((2, 2), bool)])
    return predict_request("toy", history=values), {StatusCode.INVALID_ARGUMENT}


def wrong_rank(draw):
    shape = wire.TensorShape(dim=[{"size": 1}] * draw.choice([0, 1, 3, 200]))
    return predict_request("toy", history=wire.Tensor(dtype=7, tensor_shape=shape, string_val=[b"x"])), {StatusCode.INVALID_ARGUMENT}


def wrong_size(draw):
    sizes = [draw.choice([-1, 0, 1, 2, 1 << 20, 1 << 62, -(1 << 63)]) for _ in range(2)]
    shape = wire.TensorShape(dim=[{"size": size} for size in sizes])
    tensor = wire.Tensor(dtype=7, tensor_shape=shape, string_val=[b"x"] * 3)
    fits = sizes == [2, 2]  # the last value fills what is missing, unless that is very much
    return predict_request("toy", history=tensor), {StatusCode.OK} if fits else {StatusCode.INVALID_ARGUMENT}


def wrong_names(draw):
    name = draw.choice(["", "x", "History", "history\0", "日本語" * 1000])
    allowed = {StatusCode.INVALID_ARGUMENT}
    return wire.PredictRequest(model_spec=asking.spec("toy"), inputs={name: wire.Tensor(dtype=7)}), allowed


def wrong_target(draw):
    code, options = draw.choice(
        [
            (StatusCode.NOT_FOUND, {"version": draw.choice([-1, 0, 2, (1 << 63) - 1])}),
            (StatusCode.INVALID_ARGUMENT, {"label": "x" * draw.randrange(1, 5000)}),
            (StatusCode.FAILED_PRECONDITION, {"signature": "x" * draw.randrange(1, 5000)}),
            (StatusCode.INVALID_ARGUMENT, {"output_filter": ["x"] * draw.randrange(1, 100)}),
        ]
    )
    return predict_request("toy", history=ONE, **options), {code}


def odd_ids(draw):
    ids = [draw.randbytes(draw.randrange(1, 50)) for _ in range(draw.randrange(1, 40))]
    return predict_request("toy", history=texts([ids])), {StatusCode.OK}


def oversize(draw):
    return predict_request("toy", history=texts([["x" * (300_000 + draw.randrange(1000))]])), {StatusCode.RESOURCE_EXHAUSTED}


def noise(draw):
    return draw.randbytes(draw.randrange(1, 200)), {StatusCode.INVALID_ARGUMENT, StatusCode.NOT_FOUND}


def flipped(draw):
    """A good request with some bytes changed."""
    data = bytearray(predict_request("toy", history=ONE).SerializeToString())
    for _ in range(draw.randrange(1, 4)):
        data[draw.randrange(len(data))] = draw.randrange(256)
    return bytes(data), {StatusCode.OK, StatusCode.INVALID_ARGUMENT, StatusCode.NOT_FOUND, StatusCode.FAILED_PRECONDITION}


KINDS = (wrong_dtype, wrong_rank, wrong_size, wrong_names, wrong_target, odd_ids, oversize, noise, flipped)


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_malformed_requests_get_the_right_codes(folder, count):
    with local_server(folder, max_message_mb=0.25) as (server, channel):

        def ask(seed):
            draw = random.Random(seed)
            kind = KINDS[seed % len(KINDS)]
            request, allowed = kind(draw)
            data = request if isinstance(request, bytes) else request.SerializeToString()
            code, details = error(raw_call, channel, asking.PREDICT, data)
            return None if code in allowed else (seed, kind.__name__, code, details)

        with ThreadPoolExecutor(CLIENTS) as pool:
            wrong = [answer for answer in pool.map(ask, range(count)) if answer is not None]
        assert wrong == []
        assert predict(channel, "toy", history=ONE)[0]["known"].tolist() == [2]
        assert server.metrics.registry.get_sample_value("elcrec_serving_requests_in_flight") == 0


def half_open(address, data):
    """A connection that sends a little and then neither speaks nor closes."""
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)))
    connection.sendall(data)
    return connection


def request_threads():
    return sum(thread.name.startswith("elcrec-request") for thread in threading.enumerate())


def test_clients_that_are_slow_or_go_away_leave_nothing_behind(folder):
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    settings, half_frame = b"\0\0\0\4\0\0\0\0\0", b"\0\0\x40\1\4\0\0\0\1abc"
    with local_server(folder, max_concurrent=4, max_queued=1000) as (server, channel):
        before = request_threads()
        connections = [
            half_open(server.address, data)
            for data in (b"", b"PRI", b"GET / HTTP/1.1\r\n\r\n", preface, preface + settings, preface + settings + half_frame)
            for _ in range(5)
        ]
        request = predict_request("toy", history=ONE).SerializeToString()
        call = channel.unary_unary(asking.PREDICT)
        hasty = [call.future(request, timeout=0.001) for _ in range(100)]
        gone = [call.future(request) for _ in range(100)]
        for future in gone:
            future.cancel()
        wait_until(lambda: all(future.done() for future in (*hasty, *gone)))
        for connection in connections[::2]:
            connection.close()
        for name in ("requests_in_flight", "requests_queued"):
            wait_until(lambda name=name: server.metrics.registry.get_sample_value(f"elcrec_serving_{name}") == 0)
        assert predict(channel, "toy", history=ONE)[0]["known"].tolist() == [2]
        assert request_threads() <= before + 4
        for connection in connections[1::2]:
            connection.close()
    wait_until(lambda: request_threads() <= before)
