import json

import pytest

from elcrec_tf.errors import UserError
from elcrec_tf.workers import Worker, this_worker


def environment(cluster, kind="worker", index=0):
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})}


@pytest.mark.parametrize("variables", [{}, {"TF_CONFIG": ""}, {"TF_CONFIG": "{}"}, {"TF_CONFIG": '{"cluster": {}}'}])
def test_without_a_cluster_a_process_trains_alone(variables):
    assert this_worker(variables) is None


@pytest.mark.parametrize(
    ("cluster", "kind", "index", "expected"),
    [
        ({"worker": ["a:1"]}, "worker", 0, Worker(0, 1)),
        ({"worker": ["a:1", "b:1"]}, "worker", 1, Worker(1, 2)),
        ({"worker": ["a:1", "b:1"]}, "worker", "1", Worker(1, 2)),
        ({"chief": ["a:1"], "worker": ["b:1", "c:1"]}, "chief", 0, Worker(0, 3)),
        ({"chief": ["a:1"], "worker": ["b:1", "c:1"]}, "worker", 1, Worker(2, 3)),
        ({"chief": ["a:1"]}, "chief", 0, Worker(0, 1)),
    ],
)
def test_place_among_the_workers(cluster, kind, index, expected):
    assert this_worker(environment(cluster, kind, index)) == expected
    assert expected.chief == (expected.index == 0)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"TF_CONFIG": "worker 1"}, "JSON of the form.*Received: worker 1"),
        ({"TF_CONFIG": "[1]"}, "JSON of the form"),
        ({"TF_CONFIG": '{"cluster": ["a:1"]}'}, "JSON of the form"),
        ({"TF_CONFIG": '{"cluster": {"worker": ["a:1"]}}'}, "JSON of the form"),
        (environment({"worker": ["a:1"]}, kind=None), "JSON of the form"),
        (environment({"worker": ["a:1"]}, kind=["worker"]), "JSON of the form"),
        (environment({"worker": ["a:1"], "ps": ["b:1"]}), '"chief" and "worker". Received: ps'),
        (environment({"worker": ["a:1"]}, "evaluator"), "Received: evaluator"),
        (environment({"worker": ["a:1"]}, index=1), '"worker" 1, but the cluster lists 1 of that type'),
        (environment({"worker": ["a:1"]}, "chief"), '"chief" 0, but the cluster lists 0'),
        (environment({"worker": ["a:1"]}, index=-1), '"worker" -1'),
        (environment({"chief": ["a:1", "b:1"]}, "chief"), "at most one chief. Received: 2"),
    ],
)
def test_a_wrong_tf_config_is_named(variables, message):
    with pytest.raises(UserError, match=f"TF_CONFIG.*{message}"):
        this_worker(variables)
