"""What the local server promises beyond the contract."""

import socket
import subprocess
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc

from elcrec_tf.errors import UserError
from elcrec_tf.serving import wire_pb2 as wire
from elcrec_tf.serving.server import LocalServer, to_stderr
from elcrec_tf.serving.server_metrics import ServerMetrics
from elcrec_tf.serving.server_options import ServerOptions, is_loopback, joined
from elcrec_tf.serving.service import Service
from elcrec_tf.serving.tensors import to_tensor
from tests.serving import asking
from tests.serving.asking import error, predict, predict_request, raw_call, texts, wait_until
from tests.serving.toy_servable import write_toy

ONE = texts([["a", "b"]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "toy"
    folder.mkdir()
    write_toy(folder, 1)
    return folder


def local_server(folder, **options):
    # With two threads for batches one can wait while the other opens the gate.
    return LocalServer(folder, ServerOptions(port=0, num_batch_threads=2, **options), report=lambda _: None)


@pytest.fixture(scope="module")
def server(folder):
    with local_server(folder) as server:
        yield server


@pytest.fixture
def channel(server):
    with grpc.insecure_channel(server.address) as channel:
        yield channel


def waiting(channel, **options):
    """The future of a request that is answered when the gate is opened."""
    request = predict_request("toy", "wait", x=np.ones(1, np.int32)).SerializeToString()
    return channel.unary_unary(asking.PREDICT).future(request, **options)


def opener(server):
    """A function that lets one waiting request be answered; it goes past gRPC, where all threads may be taken."""
    with server.versions.use(asking.spec("toy")) as servable:
        signature = servable.signature("open_gate")
    return lambda: signature.answer({"x": to_tensor(np.ones(1, np.int32))})


def open_gate(server):
    opener(server)()


def health(channel, service=""):
    return health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service), timeout=asking.SECONDS).status


def sample(server, name, **labels):
    return server.metrics.registry.get_sample_value(f"elcrec_serving_{name}", labels)


def test_the_model_is_called_like_its_folder(channel):
    outputs, spec = predict(channel, "toy", history=ONE)
    assert {name: values.tolist() for name, values in outputs.items()} == {"tag": [1], "known": [2]}
    assert (spec.name, spec.version.value, spec.signature_name) == ("toy", 1, "serving_default")


def test_answers_are_as_wide_as_the_question(channel):
    left, right = texts([["a", "b", "c"]]), texts([["dd"]])
    outputs, _ = predict(channel, "toy", "widths", left=left, right=right, pair=np.ones((1, 2), np.float32))
    assert outputs["left"].tolist() == left.tolist()
    assert outputs["right"].tolist() == [[2]]


def test_requests_at_the_same_time_are_joined(folder):
    with local_server(folder, max_batch_size=8, batch_timeout_ms=20_000) as server, grpc.insecure_channel(server.address) as channel:
        histories = [texts([["x"] * number]) for number in range(8)]
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda history: predict(channel, "toy", history=history)[0], histories))
        assert [outputs["known"].tolist() for outputs in answers] == [[number] for number in range(8)]
        assert sample(server, "batch_rows_sum") == 8 * 8


def test_an_unknown_method_is_unimplemented(channel):
    assert error(raw_call, channel, "/tensorflow.serving.PredictionService/Classify", b"")[0] == StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (wire.Tensor(dtype=7, tensor_shape=wire.TensorShape(unknown_rank=True)), "the shape is unknown"),
        (wire.Tensor(dtype=7, tensor_shape=wire.TensorShape(dim=[{"size": 1}, {"size": -1}])), "negative"),
        (wire.Tensor(dtype=7, tensor_shape=wire.TensorShape(dim=[{"size": 1 << 40}, {"size": 1}])), "too many values"),
        (wire.Tensor(dtype=7, tensor_shape=wire.TensorShape(dim=[{"size": 1 << 18}, {"size": 0}])), "when it is padded"),
        (wire.Tensor(dtype=7, tensor_shape=wire.TensorShape(dim=[{"size": 1}, {"size": 1}]), string_val=[b"a", b"b"]), "2 values"),
        (wire.Tensor(dtype=7, tensor_shape=wire.TensorShape(dim=[{"size": 1}, {"size": 1 << 14}]), string_val=[b"a"]), "1 are given"),
        (wire.Tensor(dtype=7, tensor_shape=wire.TensorShape(dim=[{"size": 1024}, {"size": 1024}]), string_val=[b"a"]), "1 are given"),
    ],
)
def test_shapes_that_claim_what_is_not_sent(channel, tensor, message):
    code, details = error(predict, channel, "toy", history=tensor)
    assert code == StatusCode.INVALID_ARGUMENT
    assert "input history" in details and message in details


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x05abc", b"\x0a\x02\x0a\xff"])
@pytest.mark.parametrize("path", [asking.PREDICT, asking.METADATA, asking.STATUS])
def test_bytes_that_are_no_message(channel, path, data):
    code, details = error(raw_call, channel, path, data)
    assert code == StatusCode.INVALID_ARGUMENT
    assert details.startswith("the request is no ")


def test_a_long_name_does_not_break_the_error(channel):
    code, details = error(predict, channel, "toy", "x" * 100_000, history=ONE)
    assert code == StatusCode.FAILED_PRECONDITION
    assert len(details) < 400


def test_a_message_that_is_too_large_is_refused(folder):
    with local_server(folder, max_message_mb=0.01) as server, grpc.insecure_channel(server.address) as channel:
        code, _ = error(predict, channel, "toy", history=texts([["x" * 20_000]]))
        assert code == StatusCode.RESOURCE_EXHAUSTED
        assert predict(channel, "toy", history=texts([["x" * 8_000]]))


def test_more_requests_than_may_wait_are_refused(folder):
    with local_server(folder, max_concurrent=1, max_queued=2) as server, grpc.insecure_channel(server.address) as channel:
        accepted = [waiting(channel) for _ in range(3)]
        # The queue is shorter a moment before the call counts as in flight.
        wait_until(lambda: (sample(server, "requests_queued"), sample(server, "requests_in_flight")) == (2, 1))
        assert error(predict, channel, "toy", history=ONE)[0] == StatusCode.RESOURCE_EXHAUSTED
        for _ in accepted:
            open_gate(server)
        assert all(future.result() for future in accepted)
        wait_until(lambda: error(predict, channel, "toy", history=ONE)[0] == StatusCode.OK)


@pytest.mark.parametrize("how", ["deadline", "cancelled"])
def test_a_request_that_nobody_waits_for_is_not_computed(folder, how):
    with local_server(folder, max_concurrent=1) as server, grpc.insecure_channel(server.address) as channel:
        first = waiting(channel)
        wait_until(lambda: sample(server, "requests_in_flight") == 1)
        second = waiting(channel, timeout=0.2 if how == "deadline" else None)
        wait_until(lambda: sample(server, "requests_queued") == 1)
        if how == "cancelled":
            second.cancel()
        wait_until(second.done)
        open_gate(server)
        assert first.result()
        predict(channel, "toy", history=ONE)  # the only thread has had the second one before
        assert sample(server, "requests_total", signature="wait", code="OK") == 1


class LateContext:
    """What gRPC tells of a request whose client stopped waiting."""

    def __init__(self, remaining, active):
        self._remaining, self._active = remaining, active

    def time_remaining(self):
        return self._remaining

    def is_active(self):
        return self._active

    def abort(self, code, details):
        raise RuntimeError(code)


@pytest.mark.parametrize(
    ("remaining", "active", "code"), [(-0.1, True, "DEADLINE_EXCEEDED"), (0, False, "DEADLINE_EXCEEDED"), (None, False, "CANCELLED")]
)
def test_a_request_that_is_late_is_not_even_read(remaining, active, code):
    service = Service(None, ServerMetrics(), 1)
    for method in (service.predict, service.model_metadata, service.model_status):
        with pytest.raises(RuntimeError, match=code):
            method(b"", LateContext(remaining, active))


def test_stopping_lets_requests_in_flight_finish(folder):
    server = local_server(folder)
    server.start()
    with grpc.insecure_channel(server.address) as channel:
        future = waiting(channel)
        wait_until(lambda: sample(server, "requests_in_flight") == 1)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        wait_until(lambda: error(predict, channel, "toy", history=ONE)[0] == StatusCode.UNAVAILABLE)
        assert not future.done()
        open_gate(server)
        assert future.result()
        stopping.join(asking.SECONDS)
        assert not stopping.is_alive()


def test_the_grace_period_bounds_the_stop(folder):
    server = local_server(folder, grace_seconds=0.2)
    server.start()
    open_again = opener(server)
    with grpc.insecure_channel(server.address) as channel:
        future = waiting(channel)
        wait_until(lambda: sample(server, "requests_in_flight") == 1)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        assert error(future.result)[0] in (StatusCode.CANCELLED, StatusCode.UNAVAILABLE)
        stopping.join(asking.SECONDS)
        assert not stopping.is_alive()
        open_again()


def test_a_version_that_is_being_loaded_does_not_hold_up_the_stop(tmp_path, monkeypatch):
    folder, loading, loaded = tmp_path / "toy", threading.Event(), threading.Event()
    folder.mkdir()
    write_toy(folder, 1)
    server = local_server(folder, poll_seconds=0.05, grace_seconds=0)
    server.start()

    def slow(*_):
        loading.set()
        loaded.wait(asking.SECONDS)
        raise ValueError("too late")

    monkeypatch.setattr(server.versions, "_load_version", slow)
    write_toy(folder, 2)
    assert loading.wait(asking.SECONDS)
    assert not server.stop(), "it says that something goes on"
    loaded.set()


def test_nothing_that_goes_wrong_ends_the_watch_over_the_folder(tmp_path, monkeypatch, capsys):
    """Neither a report that nobody can take, nor an error that nobody thought of."""

    class Full:
        def write(self, _):
            raise OSError(28, "No space left on device")

        flush = write

    with monkeypatch.context() as patched:
        patched.setattr("sys.stderr", Full())
        to_stderr("version 2 takes over")
    folder = tmp_path / "toy"
    folder.mkdir()
    write_toy(folder, 1)
    server = LocalServer(folder, ServerOptions(port=0, poll_seconds=0.05))
    whole, failed = server.versions.poll, threading.Event()

    def fails_once():
        if server.versions.available and not failed.is_set():
            failed.set()
            raise RuntimeError("who would have thought")
        whole()

    monkeypatch.setattr(server.versions, "poll", fails_once)
    with server:
        assert failed.wait(asking.SECONDS)
        write_toy(folder, 2)
        wait_until(lambda: server.versions.available == [2])
    assert "toy: could not be looked at (who would have thought); the versions in memory stay" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [{"poll_seconds": float("inf")}, {"grace_seconds": float("nan")}, {"batch_timeout_ms": 1e9}, {"max_rows": 0}, {"max_width": 0}],
)
def test_options_that_no_timer_can_take(options):
    with pytest.raises(UserError, match=f"--{next(iter(options)).replace('_', '-')} should be"):
        ServerOptions(**options)


def test_a_request_has_so_many_rows_at_most(folder):
    """A message of a few bytes can claim many: the last value given fills the rest."""
    with local_server(folder, max_rows=3) as server, grpc.insecure_channel(server.address) as channel:
        few, many = (wire.Tensor(dtype=7, tensor_shape={"dim": [{"size": rows}, {"size": 1}]}, string_val=[b"a"]) for rows in (3, 4))
        assert predict(channel, "toy", history=few)
        code, details = error(predict, channel, "toy", history=many)
        assert code == StatusCode.INVALID_ARGUMENT and "at most 3 rows (--max-rows of the server). Received: 4" in details


def test_a_row_has_so_many_values_at_most(folder):
    """All rows of a batch are as wide as its widest, so that one wide row costs as many times its memory as there are rows."""
    for batching in (True, False):
        with local_server(folder, max_width=20, batching=batching) as server, grpc.insecure_channel(server.address) as channel:
            assert predict(channel, "toy", history=texts([["a"] * 20]))[0]["known"].tolist() == [20]
            code, details = error(predict, channel, "toy", history=texts([["a"] * 21]))
            assert code == StatusCode.INVALID_ARGUMENT
            assert details == "input history should have at most 20 values a row (--max-width of the server). Received: 21"
            pairs = {"left": texts([["a"]]), "right": texts([["b"]])}
            assert predict(channel, "toy", "widths", **pairs, pair=np.ones((1, 2), np.float32))


def test_histories_of_thousands_of_items_are_answered(channel):
    assert predict(channel, "toy", history=texts([["a"] * 10_000]))[0]["known"].tolist() == [10_000]


def test_health_follows_the_versions(tmp_path):
    folder = tmp_path / "toy"
    folder.mkdir()
    with local_server(folder, poll_seconds=0.05) as server, grpc.insecure_channel(server.address) as channel:
        assert health(channel) == health_pb2.HealthCheckResponse.NOT_SERVING
        write_toy(folder, 1)
        wait_until(lambda: health(channel) == health_pb2.HealthCheckResponse.SERVING)
        assert health(channel, "tensorflow.serving.PredictionService") == health_pb2.HealthCheckResponse.SERVING
        assert error(health, channel, "other")[0] == StatusCode.NOT_FOUND


def test_the_warmup_requests_go_through_the_signatures(folder, monkeypatch):
    """A version whose warm-up fails is refused."""
    import elcrec_tf.serving.servable as module

    good, bad = predict_request("any", history=ONE), predict_request("any", "fail", x=np.array([1], np.int32))
    for requests, states in (([good], {1: "AVAILABLE"}), ([good, bad], {1: "END"})):
        monkeypatch.setattr(module, "read_warmup", lambda _, requests=requests: iter(requests))
        with local_server(folder) as server, grpc.insecure_channel(server.address) as channel:
            assert asking.status(channel, "toy") == states


def test_metrics_are_offered_over_http(folder):
    with local_server(folder, metrics_port=0) as server, grpc.insecure_channel(server.address) as channel:
        predict(channel, "toy", history=ONE)
        error(predict, channel, "toy", "nothing", history=ONE)
        error(predict, channel, "toy", "scalar", x=ONE)
        text = urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=asking.SECONDS).read().decode()
    for line in (
        'elcrec_serving_requests_total{code="OK",signature="serving_default"} 1.0',
        'elcrec_serving_requests_total{code="FAILED_PRECONDITION",signature=""} 1.0',
        'elcrec_serving_requests_total{code="INVALID_ARGUMENT",signature="scalar"} 1.0',
        'elcrec_serving_request_seconds_count{signature="serving_default"} 1.0',
        "elcrec_serving_batch_rows_count 1.0",
        "elcrec_serving_requests_in_flight 0.0",
        'elcrec_serving_version_state{version="1"} 30.0',
    ):
        assert f"\n{line}\n" in text


def test_a_taken_port_is_a_users_error(folder, server):
    with pytest.raises(UserError, match="is the port taken"):
        LocalServer(folder, ServerOptions(port=int(server.address.rpartition(":")[2])))
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match="--metrics-port"):
        local_server(folder, metrics_port=taken.getsockname()[1])


@pytest.mark.parametrize(
    ("host", "loopback"), [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("example.org", False)]
)
def test_loopback_addresses(host, loopback):
    assert is_loopback(host) == loopback
    assert joined(host, 1) == ("[::1]:1" if host == "::1" else f"{host}:1")


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "token"
    path.write_text("sesame\n")
    return path


@pytest.mark.parametrize(
    ("metadata", "code"),
    [
        ([("authorization", "Bearer sesame")], StatusCode.OK),
        ([("authorization", "Bearer open")], StatusCode.UNAUTHENTICATED),
        ([("authorization", "sesame")], StatusCode.UNAUTHENTICATED),
        ([("authorization", "Bearer sesame"), ("authorization", "Bearer open")], StatusCode.UNAUTHENTICATED),
        ([], StatusCode.UNAUTHENTICATED),
    ],
)
def test_a_token_is_asked_for(folder, token_file, metadata, code):
    with local_server(folder, token_file=token_file) as server, grpc.insecure_channel(server.address) as channel:
        assert error(predict, channel, "toy", history=ONE, metadata=metadata)[0] == code
        assert health(channel) == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("text", ["", "\n", "two words"])
def test_a_file_without_one_token_is_a_users_error(folder, token_file, text):
    token_file.write_text(text)
    with pytest.raises(UserError, match="should hold one token"):
        local_server(folder, token_file=token_file)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """A certificate for 127.0.0.1 and its key, which is also its own authority, and another key."""
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("server", "other"):
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-days", "2"]
        command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.crt"]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except FileNotFoundError:
            pytest.skip("needs openssl")
    return folder


def test_tls_with_client_certificates(folder, certificates):
    cert, key = certificates / "server.crt", certificates / "server.key"
    with local_server(folder, tls_cert=cert, tls_key=key, tls_client_ca=cert) as server:
        root = cert.read_bytes()
        known = grpc.ssl_channel_credentials(root, key.read_bytes(), root)
        for credentials, code in ((known, StatusCode.OK), (grpc.ssl_channel_credentials(root), StatusCode.UNAVAILABLE)):
            with grpc.secure_channel(server.address, credentials) as channel:
                assert error(predict, channel, "toy", history=ONE)[0] == code
        with grpc.insecure_channel(server.address) as channel:
            assert error(predict, channel, "toy", history=ONE)[0] == StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tls_cert": "server.crt", "tls_key": "other.key"}, "are not a PEM certificate with its unencrypted key"),
        ({"tls_cert": "server.key", "tls_key": "server.key"}, "are not a PEM certificate with its unencrypted key"),
        ({"tls_cert": "none.crt", "tls_key": "server.key"}, "none.crt: cannot be read"),
        ({"tls_cert": "server.crt", "tls_key": "server.key", "tls_client_ca": "server.key"}, "holds no PEM certificates"),
    ],
)
def test_files_that_are_no_certificates_are_users_errors(folder, certificates, files, message):
    with pytest.raises(UserError, match=message):
        local_server(folder, **{name: certificates / file for name, file in files.items()})


def test_an_export_is_warm_in_every_queue_before_it_answers(exported):
    with local_server(exported) as server, server.versions.use(asking.spec("tiny")) as servable:
        queues = {name: signature._batched.keys() for name, signature in servable._signatures.items()}
        assert queues["recommend"] == queues["serving_default"] == {((16,),), ((64,),)}
        assert queues["recommend_k"] == {((16,), (16,), (16,), ()), ((64,), (64,), (64,), ())}  # allow, exclude, history, k
        assert queues["similar_items"] == {((),)}
