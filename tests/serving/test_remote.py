"""`RemoteRecommender` against the toy model on a fake server."""

import numpy as np
import pytest

from elcrec_tf.errors import UserError
from elcrec_tf.serving import connection, remote
from elcrec_tf.serving.connection import METADATA
from elcrec_tf.serving.remote import RemoteRecommender
from tests.serving.fake_server import FakeServer, ToyModel


@pytest.fixture
def server():
    with FakeServer() as server:
        yield server


@pytest.fixture
def recommender(server):
    return RemoteRecommender.connect(server.address, "toy")


def test_it_answers_the_best_k(recommender):
    answers = recommender.answer([["i0"], ["i2", "i1"], []], k=2)
    assert answers.item_ids.tolist() == [["i1", "i2"], ["i0", "i3"], ["i0", "i1"]]
    assert answers.scores.tolist() == [[-1, -2], [0, -3], [100, 99]]
    assert answers.intent.tolist() == [0, 1, -1]
    assert answers.fallback.tolist() == [False, False, True]
    assert recommender.answer([["i0"]], 1, include_history=True).item_ids.tolist() == [["i0"]]
    assert recommender.answer([], 2).item_ids.shape == (0, 2)


def test_each_request_of_a_long_input_has_a_deadline_of_its_own(recommender, monkeypatch):
    """A call's deadline holds for all its requests, so one call is one request."""
    recommend, rows = recommender.client.recommend, []

    def counted(histories, include_history):
        rows.append(len(histories))
        return recommend(histories, include_history)

    monkeypatch.setattr(recommender.client, "recommend", counted)
    histories = [[f"i{row % 8}"] for row in range(600)]
    assert recommender.answer(histories, 1).intent.tolist() == [row % 8 for row in range(600)]
    assert rows == [256, 256, 88]


@pytest.mark.parametrize("candidates", [1, 2, 4096])
def test_unknown_ids_have_no_score(recommender, monkeypatch, candidates):
    monkeypatch.setattr(remote, "_CANDIDATES", candidates)
    assert recommender.known(["i0", "new", "", "i7", 7]).tolist() == [True, False, False, True, False]
    assert recommender.known([]).tolist() == []


def test_the_most_that_can_be_asked_comes_from_the_metadata(recommender, server):
    for k in (0, 4):
        with pytest.raises(UserError, match=f"k should be from 1 to 3, which is what toy at {server.address} answers. Received: {k}"):
            recommender.check_k(k)
    recommender.check_k(3)
    assert [seen.path for seen in server.seen] == [METADATA]


def test_a_version_with_fewer_items_may_take_over(recommender, server):
    recommender.check_k(3)
    server.predict = ToyModel(items=8, top_k=2)
    assert recommender.answer([["i0"]], 3).item_ids.tolist() == [["i1", "i2", ""]]


def test_a_model_of_another_kind_is_refused(recommender, server):
    server.top_k = -1
    with pytest.raises(UserError, match=f"toy at {server.address}: is no model that elcrec_tf exported"):
        recommender.check_k(1)


def test_the_token_is_read_from_its_file(server, tmp_path):
    (tmp_path / "token").write_text(" t0k3n\n")
    RemoteRecommender.connect(server.address, "toy", token_file=tmp_path / "token").check_k(1)
    assert server.seen[0].metadata["authorization"] == "Bearer t0k3n"
    (tmp_path / "token").write_text("\n")
    with pytest.raises(UserError, match="token: is empty"):
        connection.read_token(tmp_path / "token")
    with pytest.raises(UserError, match="nowhere: cannot be read"):
        RemoteRecommender.connect(server.address, "toy", token_file=tmp_path / "nowhere")
    with pytest.raises(UserError, match="root.pem: cannot be read"):
        RemoteRecommender.connect(server.address, "toy", tls_root=tmp_path / "root.pem")


def test_answers_have_the_types_of_a_recommender_in_process(recommender):
    for histories in ([], [["i0"]]):
        answers = recommender.answer(histories, 1)
        types = [answers.item_ids.dtype, answers.scores.dtype, answers.intent.dtype, answers.fallback.dtype]
        assert types == [np.dtype(kind) for kind in (object, np.float32, np.int32, bool)]
