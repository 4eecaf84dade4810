import dataclasses

import numpy as np
import pytest

from elcrec_tf.config import resolve
from elcrec_tf.reporting.analysis import Analysis
from elcrec_tf.reporting.breakdown import Grouping, by_activity
from elcrec_tf.reporting.comparison import comparison_view
from elcrec_tf.reporting.loading import Run
from elcrec_tf.reporting.maps import UserMap
from elcrec_tf.reporting.page import _setting
from elcrec_tf.reporting.published import FINGERPRINTS, PUBLISHED
from elcrec_tf.reporting.sections import activity_view, catalogue_view, charts, config_view, examples, intents_view, published_view
from elcrec_tf.run_folder import RunFolder
from tests.toy import sequences_of

# Four users with 3, 4, 5 and 6 events: one in each activity group.
SEQUENCES = sequences_of([1, 2, 3], [2, 3, 4, 1], [3, 4, 1, 2, 5], [1, 3, 2, 4, 6, 5], counts=np.array([4, 3, 2, 1, 0, 0]))
ANALYSIS = Analysis(
    ranks=np.array([0, 4, 1, 9]),
    popularity=np.array([1, 1, 1, 1]),
    items=np.array([[3, 4], [5, 6], [6, 5], [1, 0]]),
    intents=np.array([[0, 2], [0, 1], [2, 0], [2, 1]]),
    cosines=np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]]),
    centers=np.eye(3),
    typical=np.array([[1], [2], [3]]),
)
ACTIVITY = by_activity(np.array([3, 4, 5, 6]))


def run_with(history=(), test=0.0, fingerprint="f", folder="run", **flags):
    metrics = {
        "dataset": "toy",
        "fingerprint": fingerprint,
        "test": {"NDCG@20": test, "HR@5": 1 - test},
        "best_epoch": 1 if history else None,
    }
    return Run(RunFolder(folder), resolve(flags=flags), metrics, list(history), SEQUENCES)


def row(epoch, **values):
    return {"epoch": epoch, "val_NDCG@20": 0.1 * epoch, "seconds": 5.0, "next_item": 3.0, **values}


def test_settings_are_compared_with_the_preset():
    view = config_view(resolve("paper-beauty", flags={"dataset": "beauty", "epochs": 3}))
    assert {field["name"]: (field["value"], field["base"]) for field in view["changes"]} == {
        "dataset": ("beauty", "simulated"),
        "epochs": (3, 300),
    }
    assert "simulator" not in view["groups"]
    score = next(field for field in view["groups"]["model"] if field["name"] == "score")
    assert score == {"name": "score", "value": "dot", "base": "dot", "changed": False}


def test_settings_that_differ_look_different():
    assert _setting(1577836800.0) != _setting(1577840400.0)
    assert [_setting(value) for value in (0.1, 3e-3, None, True, ("a", "b"))] == ["0.1", "0.003", "none", "yes", "a, b"]


def test_a_preset_that_is_no_more_is_compared_with_the_default():
    assert config_view(resolve(flags={"dataset": "beauty"}).with_preset("of an older version"))["preset"] == "default"


def test_published_rows_are_in_order_with_the_gain_over_each():
    beauty = next(fingerprint for fingerprint, name in FINGERPRINTS.items() if name == "beauty")
    rows = published_view(run_with(test=0.0509 * 1.5, fingerprint=beauty))
    scores = [row["metrics"]["NDCG@20"] for row in rows]
    assert scores == sorted(scores)
    assert len(rows) == len(PUBLISHED["beauty"])
    by_method = {row["method"]: row for row in rows}
    assert by_method["ELCRec"]["gain"] == pytest.approx(0.5)
    assert by_method["KERec"]["record"]
    assert not by_method["ELCRec"]["record"]


def test_charts_show_what_the_history_has():
    assert charts(run_with()) == []
    # The first epoch knows no loss of the intents.
    drawn = charts(run_with([row(1), row(2, intent=2.0, sequence=1.0)]))
    assert ["Contrastive losses" in chart for chart in drawn].count(True) == 1
    assert not any("ELCM loss" in chart for chart in drawn)


def test_recommendations_stand_beside_the_datas_own_spread():
    view = catalogue_view(SEQUENCES, ANALYSIS, np.array([3, 1, 5, 5]))
    own, targets, training = view["rows"]
    assert own["coverage"] == 5 / 6
    assert targets["coverage"] == 3 / 6
    # Ranks by 4, 3, 2, 1, 0, 0 events are 1, 2, 3, 4, 5.5, 5.5.
    assert training["mean_rank"] == (4 * 1 + 3 * 2 + 2 * 3 + 1 * 4) / 10
    assert targets["mean_rank"] == (3 + 1 + 5.5 + 5.5) / 4


def test_intents_are_listed_by_size_and_those_with_users_have_colours():
    view = intents_view(SEQUENCES, ANALYSIS, [], ACTIVITY)
    assert [(row["intent"], row["users"], row["share"]) for row in view["rows"]] == [(0, 2, 0.5), (2, 2, 0.5), (1, 0, 0)]
    assert view["shown"] == [0, 2]
    assert [row["color"] is None for row in view["rows"]] == [False, False, True]
    assert [row["items"][0]["id"] for row in view["rows"]] == ["i1", "i3", "i2"]
    assert view["maps"] == []


@pytest.mark.parametrize("intents", [None, np.zeros(2, int)])
def test_maps_without_colours_are_told(intents):
    view = intents_view(SEQUENCES, ANALYSIS, [UserMap("after epoch 1", np.eye(2), intents)], ACTIVITY)
    assert view["plain_maps"] == (intents is None)


def test_intents_of_an_activity_group():
    rows = activity_view(ANALYSIS, ACTIVITY, shown=[2, 1])
    assert [row["label"] for row in rows] == ["new", "low", "medium", "high"]
    assert [row["shares"] for row in rows] == [[0, 0], [0, 0], [1, 0], [1, 0]]
    assert [row["others"] for row in rows] == [1, 1, 0, 0]
    assert [row["perplexity"] for row in rows] == [1, 1, 1, 1]


def test_no_other_intent_has_less_than_no_users():
    """Shares of 1/13 and four of 3/13 add up to more than 1 in floating point."""
    intents = np.repeat(np.arange(5), [1, 3, 3, 3, 3])[:, None]
    everyone = Grouping(("all",), ("",), np.zeros(13, int))
    (row,) = activity_view(dataclasses.replace(ANALYSIS, intents=intents, centers=np.eye(5)), everyone, shown=[0, 1, 2, 3, 4])
    assert 1 - np.sum(row["shares"]) < 0.0 == row["others"]


def test_example_users_show_history_recommendations_and_target():
    shown = examples(SEQUENCES, ANALYSIS, ACTIVITY)
    assert shown == examples(SEQUENCES, ANALYSIS, ACTIVITY)
    assert [(one["activity"], one["user"]) for one in shown] == [("new", "u0"), ("low", "u1"), ("medium", "u2"), ("high", "u3")]
    first, last = shown[0], shown[3]
    assert [item["id"] for item in first["history"]] == ["i1", "i2"]
    assert first["target"]["id"] == "i3"
    assert first["rank"] == 1
    assert [(item["id"], item["hit"]) for item in first["recommended"]] == [("i3", True), ("i4", False)]
    assert first["intents"] == [(0, 0.9), (2, 0.1)]
    assert [item["id"] for item in last["recommended"]] == ["i1"]  # nothing else was left


def test_runs_on_the_same_data_have_a_best_one():
    runs = [run_with([row(1), row(2)], 0.3, seed=0), run_with([row(1)], 0.4, seed=1, dropout=0.1)]
    view = comparison_view(runs)
    assert view["same_data"]
    assert view["best"] == {"NDCG@20": 0.4, "HR@5": 0.7}
    assert view["settings"] == [{"name": "model.dropout", "values": [0.3, 0.1]}, {"name": "train.seed", "values": [0, 1]}]
    assert "Validation NDCG@20 over training time over seconds: run 1 from 0.1 to 0.2; run 2 from 0.1 to 0.1" in "".join(view["charts"])


def test_runs_on_different_data_do_not_compare():
    view = comparison_view([run_with(fingerprint="a"), run_with(fingerprint="b")])
    assert not view["same_data"]
    assert view["best"] == {}
    assert view["charts"] == []
