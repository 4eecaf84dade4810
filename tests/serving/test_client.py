"""The gRPC clients against a fake server: every test holds for the one with threads and for the one with asyncio."""

import asyncio
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import numpy as np
import pytest

import elcrec_tf
from elcrec_tf.errors import UserError
from elcrec_tf.serving import connection
from elcrec_tf.serving.client import AsyncClient, Client, ServingError, Tls
from elcrec_tf.serving.connection import PREDICT, STATUS
from elcrec_tf.serving.model_info import Signature, TensorInfo, VersionState
from tests.serving.fake_server import FakeServer

CODES = grpc.StatusCode
ROOT = Path(elcrec_tf.__file__).parents[1]


def ask_sync(call, *arguments, **options):
    with Client(*arguments, **options) as client:
        return call(client)


def ask_async(call, *arguments, **options):
    async def ask():
        async with AsyncClient(*arguments, **options) as client:
            return await call(client)

    return asyncio.run(ask())


@pytest.fixture(params=[ask_sync, ask_async], ids=["sync", "async"])
def ask(request):
    """A function that makes a client, gives it to `call`, and returns what comes out."""
    return request.param


@pytest.fixture
def server():
    with FakeServer() as server:
        yield server


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def python(code, **environment):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)


# What is asked, the signature that answers, and what the toy model makes of it.
CALLS = [
    (
        lambda client: client.recommend([["i0", "i2"], ["new"], []]),
        "recommend",
        {
            "item_ids": [["i1", "i3", "i4"], ["i0", "i1", "i2"], ["i0", "i1", "i2"]],
            "scores": [[-1, -3, -4], [100, 99, 98], [100, 99, 98]],
            "intent": [2, -1, -1],
            "fallback": [False, True, True],
        },
    ),
    (
        lambda client: client.recommend([["i0", "i2"]], include_history=True),
        "recommend_with_history",
        {"item_ids": [["i0", "i1", "i2"]], "scores": [[0, -1, -2]], "intent": [2], "fallback": [False]},
    ),
    (
        lambda client: client.recommend_k([["i0"], ["i0"]], 2),
        "recommend_k",
        {"item_ids": [["i1", "i2"]] * 2, "scores": [[-1, -2]] * 2, "intent": [0, 0], "fallback": [False, False]},
    ),
    (
        lambda client: client.recommend_k([["i0"], ["i0"]], [1, 2], exclude=[[], ["i2"]], allow=[["i5", "i7"], []]),
        "recommend_k",
        {"item_ids": [["i5", ""], ["i1", "i3"]], "scores": [[-5, -np.inf], [-1, -3]], "intent": [0, 0], "fallback": [False, False]},
    ),
    (
        lambda client: client.recommend_k([["i0"]], 100),  # the toy is exported for 3
        "recommend_k",
        {"item_ids": [["i1", "i2", "i3"]], "scores": [[-1, -2, -3]], "intent": [0], "fallback": [False]},
    ),
    (
        lambda client: client.score([["i1"], []], [["i4", "new", "i0"], ["i2"]]),
        "score",
        {"scores": [[-4, -np.inf, 0], [98, -np.inf, -np.inf]], "fallback": [False, True]},
    ),
    (lambda client: client.encode([["i3", "i1"], []]), "encode", {"embedding": [[1, 2], [-1, 0]], "fallback": [False, True]}),
    (
        lambda client: client.intents([["i3"]]),
        "intents",
        {"intents": [[3, 4]], "probabilities": [[0.75, 0.25]], "fallback": [False]},
    ),
    (
        lambda client: client.similar_items(["i1", "new"]),
        "similar_items",
        {"item_ids": [["i0", "i2", "i3"], ["i0", "i1", "i2"]], "scores": [[0, -2, -3], [100, 99, 98]], "fallback": [False, True]},
    ),
    (
        lambda client: client.intent_items([0, 99]),
        "intent_items",
        {"item_ids": [["i1", "i2", "i3"], ["i0", "i1", "i2"]], "scores": [[-1, -2, -3], [100, 99, 98]], "fallback": [False, True]},
    ),
]


@pytest.mark.parametrize(("call", "signature", "expected"), CALLS, ids=[f"{number}-{name}" for number, (_, name, _) in enumerate(CALLS)])
def test_every_signature_is_a_typed_call(server, ask, call, signature, expected):
    answer = ask(call, server.address, "toy")
    assert {name: values.tolist() for name, values in vars(answer).items()} == expected
    (seen,) = server.seen
    assert (seen.path, seen.request.model_spec.name, seen.request.model_spec.signature_name) == (PREDICT, "toy", signature)


@pytest.mark.parametrize("call", [call for call, _, _ in CALLS])
def test_both_clients_send_the_same(server, call):
    for ask in (ask_sync, ask_async):
        ask(call, server.address, "toy", label="stable", deadline=9)
    one, other = server.seen
    assert one.request == other.request
    assert one.request.model_spec.version_label == "stable"


def test_more_rows_than_one_request_takes_come_back_in_order(server, ask):
    numbers = np.random.default_rng(0).integers(0, 8, 600)
    histories = [[f"i{number}"] * int(number + 1) for number in numbers]
    answer = ask(lambda client: client.recommend(histories, timeout=60), server.address, "toy")
    assert answer.intent.tolist() == numbers.tolist()
    assert [seen.request.inputs["history"].tensor_shape.dim[0].size for seen in server.seen] == [256, 256, 88]
    assert ask(lambda client: client.similar_items(["i1"] * 600, timeout=60), server.address, "toy").item_ids.shape == (600, 3)


def test_no_rows_need_no_server(ask):
    answer = ask(lambda client: client.recommend([]), f"127.0.0.1:{free_port()}", "toy")
    assert [len(values) for values in vars(answer).values()] == [0, 0, 0, 0]


def test_predict_asks_any_signature(server, ask):
    server.predict = lambda signature, inputs: {
        "echo": inputs["text"],
        "double": 2 * inputs["number"],
        "name": np.array(signature.encode(), object),
    }
    inputs = {"text": np.array([["é", "b"]]), "number": np.array([1.5, 2.0])}
    outputs = ask(lambda client: client.predict("any", inputs, ["echo"]), server.address, "toy")
    assert outputs["echo"].tolist() == [["é".encode(), b"b"]]
    assert outputs["double"].tolist() == [3.0, 4.0]
    assert outputs["name"].item() == b"any"
    assert list(server.seen[0].request.output_filter) == ["echo"]


@pytest.mark.parametrize(("option", "field"), [({"version": 7}, "version"), ({"label": "canary"}, "version_label"), ({}, None)])
def test_a_version_or_a_label_is_asked_for(server, ask, option, field):
    ask(lambda client: client.recommend([[]]), server.address, "toy", **option)
    assert server.seen[0].request.model_spec.WhichOneof("version_choice") == field


def test_status_and_metadata_are_typed(server, ask):
    server.states = [(1, 50, "no space"), (2, 30, ""), (3, 20, ""), (4, 99, "")]
    assert ask(lambda client: client.status(), server.address, "toy") == [
        VersionState(4, "UNKNOWN"),
        VersionState(3, "LOADING"),
        VersionState(2, "AVAILABLE"),
        VersionState(1, "END", "no space"),
    ]
    assert ask(lambda client: client.metadata(), server.address, "toy") == {
        "recommend": Signature({"history": TensorInfo("string", (None, None))}, {"item_ids": TensorInfo("string", (None, 3))})
    }


def test_unavailable_alone_is_tried_again(server, ask):
    server.failures = [(CODES.UNAVAILABLE, "starting")] * 3
    assert ask(lambda client: client.recommend([["i0"]]), server.address, "toy").item_ids[0, 0] == "i1"
    assert len(server.seen) == 4


@pytest.mark.parametrize("code", [code for code in CODES if code not in (CODES.OK, CODES.UNAVAILABLE)])
def test_other_codes_are_final_and_say_what_to_do(server, ask, code):
    server.failures = [(code, "two\nlines")]
    with pytest.raises(ServingError) as error:
        ask(lambda client: client.recommend([["i0"]]), server.address, "toy")
    assert error.value.code is code
    assert str(error.value).startswith(f"{server.address}: {code.name} (two lines); ")
    assert len(server.seen) == 1


def test_tries_end_with_the_deadline(ask):
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(ServingError, match=rf"{address}: UNAVAILABLE \(.*\); is the server running, and does it take plain text") as error:
        ask(lambda client: client.recommend([["i0"]], timeout=0.5), address, "toy")
    assert isinstance(error.value, UserError) and error.value.code is CODES.UNAVAILABLE


def test_a_slow_server_meets_the_deadline(server, ask):
    server.delay = 1
    with pytest.raises(ServingError, match="longer timeout") as error:
        ask(lambda client: client.recommend([["i0"]]), server.address, "toy", deadline=0.2)
    assert error.value.code is CODES.DEADLINE_EXCEEDED


def test_all_requests_of_a_call_share_its_deadline(server, ask):
    server.delay = 0.4  # three of them are longer than a second
    with pytest.raises(ServingError, match="DEADLINE_EXCEEDED"):
        ask(lambda client: client.recommend([[]] * 600, timeout=1), server.address, "toy")


def test_pauses_grow_up_to_a_bound_and_differ(monkeypatch):
    monkeypatch.setattr(connection.random, "uniform", lambda low, high: (low, high))
    pauses = connection.waits()
    assert [next(pauses) for _ in range(7)][::3] == [(0.025, 0.05), (0.2, 0.4), (0.5, 1.0)]


def test_a_server_that_starts_again_is_found_again(ask):
    address = f"127.0.0.1:{free_port()}"
    restarted = FakeServer(address=address)
    start = threading.Timer(0.5, restarted.__enter__)
    start.start()
    try:
        answer = ask(lambda client: client.recommend([["i0"]], timeout=30), address, "toy")
    finally:
        start.join()
        restarted.__exit__()
    assert answer.item_ids[0, 0] == "i1"


CLOSED = r"CANCELLED \(the client is closed\); make another one"


def test_a_client_that_is_closed_while_it_pauses_says_so(server, monkeypatch):
    server.failures = [(CODES.UNAVAILABLE, "starting")] * 2
    pause = connection.Connection.pause
    client = Client(server.address, "toy")

    def close_first(*arguments):
        client.close()
        return pause(*arguments)

    monkeypatch.setattr(connection.Connection, "pause", close_first)
    with pytest.raises(ServingError, match=CLOSED) as error:
        client.recommend([["i0"]])
    assert error.value.code is CODES.CANCELLED
    assert len(server.seen) == 1


def test_an_asyncio_client_that_is_closed_while_it_pauses_says_so(server, monkeypatch):
    server.failures = [(CODES.UNAVAILABLE, "starting")] * 2
    pause, paused = connection.Connection.pause, []

    def note(*arguments):
        paused.append(pause(*arguments))
        return paused[-1]

    monkeypatch.setattr(connection.Connection, "pause", note)

    async def ask():
        client = AsyncClient(server.address, "toy")
        call = asyncio.create_task(client.recommend([["i0"]], timeout=60))
        while not paused:
            await asyncio.sleep(0)
        await client.close()
        await call

    with pytest.raises(ServingError, match=CLOSED):
        asyncio.run(ask())
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    "call", [lambda client: client.recommend([["i0"]]), lambda client: client.status(), lambda client: client.wait_until_ready(30)]
)
def test_a_closed_client_says_so(server, call):
    client = Client(server.address, "toy")
    client.close()
    with pytest.raises(ServingError, match=CLOSED):
        call(client)

    async def ask():
        client = AsyncClient(server.address, "toy")
        await client.close()
        await call(client)

    with pytest.raises(ServingError, match=CLOSED):
        asyncio.run(ask())
    assert not server.seen


def test_closing_an_asyncio_client_ends_its_calls_but_not_their_tasks(server):
    asked, answer = threading.Event(), threading.Event()

    def predict(signature, inputs):
        asked.set()
        answer.wait(60)
        return {}

    server.predict = predict

    async def ask(end):
        client = AsyncClient(server.address, "toy")
        call = asyncio.create_task(client.recommend([["i0"]], timeout=60))
        await asyncio.to_thread(asked.wait, 60)
        asked.clear()
        if end == "close":
            await client.close()
        else:
            call.cancel()
        try:
            await call
        finally:
            answer.set()
            await client.close()

    with pytest.raises(ServingError, match=CLOSED):
        asyncio.run(ask("close"))
    answer.clear()
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(ask("cancel"))


def test_an_asyncio_client_asks_many_at_a_time(server):
    toy, together = server.predict, threading.Barrier(8, timeout=60)

    def predict(signature, inputs):
        together.wait()
        return toy(signature, inputs)

    server.predict = predict

    async def ask():
        async with AsyncClient(server.address, "toy") as client:
            return await asyncio.gather(*(client.recommend([[f"i{number}"]], timeout=60) for number in range(8)))

    assert [answer.intent[0] for answer in asyncio.run(ask())] == list(range(8))


def test_a_client_waits_until_a_version_is_available(server, ask):
    server.states = [(1, 20, "")]
    server.failures = [(CODES.UNAVAILABLE, "starting"), (CODES.NOT_FOUND, "no such model")]
    change = threading.Timer(0.3, lambda: setattr(server, "states", [(1, 30, "")]))
    change.start()
    ask(lambda client: client.wait_until_ready(30), server.address, "toy")
    change.join()
    assert len(server.seen) > 3 and {seen.path for seen in server.seen} == {STATUS}


@pytest.mark.parametrize(
    ("states", "options", "seen"),
    [
        ([], {}, "no versions"),
        ([(3, 50, "truncated file")], {}, "version 3 END truncated file"),
        ([(1, 30, ""), (2, 20, "")], {"version": 2}, "version 2 LOADING, version 1 AVAILABLE"),
    ],
)
def test_waiting_ends_with_what_was_seen(server, ask, states, options, seen):
    server.states = states
    with pytest.raises(ServingError, match=f"model 'toy' is not ready after 0.2 s; last seen: {seen}") as error:
        ask(lambda client: client.wait_until_ready(0.2), server.address, "toy", **options)
    assert error.value.code is CODES.DEADLINE_EXCEEDED


def test_waiting_for_nothing_says_so(ask):
    with FakeServer() as slow:
        slow.delay = 0.5
        with pytest.raises(ServingError, match="not ready after 0.2 s; last seen: no answer"):
            ask(lambda client: client.wait_until_ready(0.2), slow.address, "toy")
    with pytest.raises(ServingError, match="not ready after 0.2 s; last seen: UNAVAILABLE"):
        ask(lambda client: client.wait_until_ready(0.2), f"127.0.0.1:{free_port()}", "toy")


def test_waiting_ends_with_an_error_that_it_does_not_mend(server, ask):
    server.failures = [(CODES.UNAUTHENTICATED, "who?")]
    with pytest.raises(ServingError, match="UNAUTHENTICATED"):
        ask(lambda client: client.wait_until_ready(30), server.address, "toy")


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({}, "output 'item_ids' is missing"),
        ({"scores": np.zeros((1, 3))}, r"output 'scores' is float64 \[1, 3\] for 1 rows"),
        ({"scores": np.zeros((2, 3), np.float32)}, r"output 'scores' is float32 \[2, 3\] for 1 rows"),
        ({"fallback": np.zeros((1, 1), bool)}, "output 'fallback' is bool"),
        ({"item_ids": np.array([[b"\xff"]], object)}, "invalid start byte"),
    ],
)
def test_outputs_of_another_model_are_an_error(server, ask, outputs, message):
    toy = server.predict
    server.predict = lambda signature, inputs: {**toy(signature, inputs), **outputs} if outputs else {}
    with pytest.raises(ServingError, match=f"INTERNAL .*{message}.*is this an elcrec_tf export"):
        ask(lambda client: client.recommend([["i0"]]), server.address, "toy")


def test_metadata_of_another_kind_is_an_error(server, ask, monkeypatch):
    monkeypatch.setattr(server, "_metadata", lambda request: connection.wire.GetModelMetadataResponse())
    with pytest.raises(ServingError, match="holds no signatures"):
        ask(lambda client: client.metadata(), server.address, "toy")


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("localhost", "m"), {}, "should be HOST:PORT.*'localhost'"),
        (("http://localhost:8500", "m"), {}, "should be HOST:PORT"),
        (("localhost:1", ""), {}, "localhost:1: give the name of the model"),
        (("localhost:1", "m"), {"version": 1, "label": "stable"}, "a version or a label"),
        (("localhost:1", "m"), {"deadline": 0}, "above 0. Received: 0"),
        (("localhost:1", "m"), {"deadline": float("inf")}, "above 0"),
        (("localhost:1", "m"), {"token": "two words"}, "one word"),
        (("shop.example:1", "m"), {"token": "secret"}, "shop.example:1: is another machine.*give TLS"),
        (("10.0.0.1:1", "m"), {"token": "secret"}, "another machine"),
        (("localhost:1", "m"), {"tls": Tls("nowhere.pem")}, "nowhere.pem: cannot be read"),
        (("localhost:1", "m"), {"tls": Tls(__file__)}, "test_client.py: holds no certificate"),
        (("localhost:1", "m"), {"tls": Tls(certificate="c.pem")}, "certificate and its key go together"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, options, message):
    with pytest.raises(UserError, match=message) as error:
        Client(*arguments, **options)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.3.2.1", "[::1]"])
def test_a_token_may_go_to_this_machine_in_plain_text(host):
    with Client(f"{host}:1", "m", token="secret") as client:
        assert "secret" not in repr(client.connection)


def test_a_socket_file_is_an_address(tmp_path, ask):
    with FakeServer(address=f"unix:{tmp_path}/s") as server:
        assert ask(lambda client: client.recommend([["i0"]]), server.address, "toy", token="t0k3n").item_ids[0, 0] == "i1"


def test_the_token_goes_with_every_call(server, ask):
    for call in (lambda client: client.recommend([[]]), lambda client: client.status(), lambda client: client.metadata()):
        ask(call, server.address, "toy", token="t0k3n")
        ask(call, server.address, "toy")
    assert [seen.metadata.get("authorization") for seen in server.seen] == ["Bearer t0k3n", None] * 3


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """A folder with server.pem and client.pem, each signed by itself, and their keys."""
    folder = tmp_path_factory.mktemp("tls")
    for name in ("server", "client"):
        files = ["-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem")]
        subject = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", *files, *subject]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except FileNotFoundError:
            pytest.skip("needs openssl")
    return folder


@pytest.mark.parametrize("mutual", [False, True], ids=["server", "mutual"])
def test_tls_reaches_a_server_that_it_knows(certificates, ask, mutual):
    own = ((certificates / "server.key").read_bytes(), (certificates / "server.pem").read_bytes())
    asked = (certificates / "client.pem").read_bytes() if mutual else None
    credentials = grpc.ssl_server_credentials([own], asked, mutual)
    known = Tls(certificates / "server.pem", *((certificates / "client.pem", certificates / "client.key") if mutual else ()))
    with FakeServer(credentials=credentials) as server:
        answer = ask(lambda client: client.recommend([["i0"]]), server.address, "toy", tls=known, token="t0k3n")
        assert answer.item_ids[0, 0] == "i1"
        for stranger in (Tls(certificates / "client.pem"), None, *([Tls(certificates / "server.pem")] if mutual else [])):
            with pytest.raises(ServingError, match="UNAVAILABLE.*speak TLS" if stranger else "UNAVAILABLE.*plain text"):
                ask(lambda client: client.recommend([["i0"]], timeout=0.5), server.address, "toy", tls=stranger)
        assert len(server.seen) == 1


def test_importing_the_client_loads_no_framework():
    result = python("import sys, elcrec_tf.serving.client; print(*sys.modules)")
    loaded = {name.partition(".")[0] for name in result.stdout.split()}
    assert {"grpc", "numpy"} <= loaded
    assert not {"tensorflow", "keras", "pyarrow", "rich", "sklearn"} & loaded


def test_without_grpcio_one_line_says_what_to_install():
    code = (
        "import sys\nsys.modules['grpc'] = None\nfrom elcrec_tf import UserError\n"
        "try:\n    import elcrec_tf.serving.client\nexcept UserError as error:\n    print(error)"
    )
    result = python(code)
    assert result.stdout.startswith("the client needs grpcio and protobuf")
    assert result.stdout.endswith('; pip install ".[serve]" in the project\'s folder\n') and result.stdout.count("\n") == 1


@pytest.mark.parametrize("first", ["client", "stubs"])
def test_it_lives_beside_tensorflow_and_its_serving_api(server, first):
    pytest.importorskip("tensorflow_serving")
    imports = {
        "client": "from elcrec_tf.serving.client import Client",
        "stubs": "import tensorflow as tf\nfrom tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc",
    }
    order = [imports.pop(first), *imports.values()]
    ask = (
        f"print(Client({server.address!r}, 'toy').recommend([['i0']]).item_ids[0, 0])\n"
        "print(predict_pb2.PredictRequest(inputs={'x': tf.make_tensor_proto(['a'])}).inputs['x'].string_val[0])"
    )
    result = python("\n".join([*order, ask]))
    assert result.stdout.splitlines() == ["i1", "b'a'"], result.stderr
