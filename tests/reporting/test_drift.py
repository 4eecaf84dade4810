"""The drift report of tiny runs with weights made by hand."""

import json

import numpy as np
import pytest

from elcrec_tf import drift
from elcrec_tf.config import SimulatorConfig
from elcrec_tf.data.catalog import Catalog
from elcrec_tf.data.simulate import simulate
from elcrec_tf.errors import UserError
from elcrec_tf.intents import unit_rows
from elcrec_tf.model import build_model
from elcrec_tf.reporting.drift import Side, measure_drift
from elcrec_tf.reporting.drift_tables import _items
from elcrec_tf.run_folder import RunFolder
from tests.toy import toy_config

CONFIG = toy_config(dataset="simulated", sim_users=40, sim_items=30, sim_intents=3, sim_events=6.0)


def write_run(path, centers, vectors, warm_start=None, config=CONFIG):
    """A run on the simulated data of its configuration."""
    data, folder = simulate(config.simulator), RunFolder(path)
    folder.create(config, data.catalog, data.fingerprint, warm_start)
    model = build_model(config, data.catalog.num_items)
    model.item_embedding.table.assign(np.concatenate([np.zeros((1, 8)), vectors]))
    model.cluster_centers.assign_centers(centers)
    folder.save_model(model)
    return str(path)


@pytest.fixture(scope="module")
def weights():
    rng = np.random.default_rng(0)
    return unit_rows(rng.normal(size=(4, 8))), rng.normal(size=(30, 8))


@pytest.fixture(scope="module")
def runs(weights, tmp_path_factory):
    """Folders of an old run; one that went on from it with intents 2 and 3 exchanged and intent 0 moved away; and the old one turned."""
    centers, vectors = weights
    folder = tmp_path_factory.mktemp("drift")
    old = write_run(folder / "old", centers, vectors)
    moved = centers[[0, 1, 3, 2]] * np.array([[-1], [1], [1], [1]])
    write_run(folder / "middle", centers, vectors, {"run": old})
    new = write_run(folder / "new", moved, vectors, {"run": str(folder / "middle")})
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))[0]
    apart = write_run(folder / "apart", centers @ turn, vectors @ turn)
    return old, new, apart


def test_a_run_has_not_drifted_from_itself(runs):
    found = measure_drift(Side.load(runs[0]), Side.load(runs[0]), same=0.9, least_share=0.0)
    assert found["aligned_by"] == "warm start" and found["shared_items_cosine"] == pytest.approx(1)
    assert [pair["cosine"] for pair in found["intents"]["kept"]] == pytest.approx([1] * 4)
    assert found["intents"]["died"] == found["intents"]["appeared"] == []
    data = found["data"]
    assert data["popularity_divergence"] == data["events_on_new_items"] == data["users"]["share_new"] == 0
    shares = [pair["old"]["share"] for pair in found["intents"]["kept"]]
    assert sum(shares) == pytest.approx(1)


def test_moved_intents_are_told_over_several_warm_starts(runs):
    found = measure_drift(Side.load(runs[0]), Side.load(runs[1]), same=0.9, least_share=0.0)
    assert found["aligned_by"] == "warm start"
    assert {pair["old"]["intent"]: pair["new"]["intent"] for pair in found["intents"]["kept"]} == {1: 1, 2: 3, 3: 2}
    assert [one["intent"] for one in found["intents"]["died"]] == [0]
    assert [one["intent"] for one in found["intents"]["appeared"]] == [0]
    assert len(found["intents"]["died"][0]["items"]) == 3


def test_the_run_before_is_found_from_every_folder(runs, weights, tmp_path, monkeypatch):
    """Its name was given in another folder than that in which drift is measured."""
    centers, vectors = weights
    (tmp_path / "runs").mkdir()
    write_run(tmp_path / "runs" / "june-1", centers, vectors)
    write_run(tmp_path / "runs" / "june-8", centers, vectors, {"run": "runs/june-1", "place": "../june-1"})
    moved = write_run(tmp_path / "runs" / "moved", centers, vectors, {"run": str(tmp_path / "runs" / "june-1"), "place": "../../gone"})
    assert measure_drift(Side.load(tmp_path / "runs" / "june-1"), Side.load(moved), same=0.9, least_share=0.0)["aligned_by"] == "warm start"
    for folder, names in ((tmp_path, ("runs/june-1", "runs/june-8")), (tmp_path / "runs", ("june-1", "june-8"))):
        monkeypatch.chdir(folder)
        assert measure_drift(*map(Side.load, names), same=0.9, least_share=0.0)["aligned_by"] == "warm start"


def test_another_run_that_came_to_the_parents_place_is_no_parent(weights, tmp_path):
    centers, vectors = weights
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))[0]
    other = CONFIG.replace(sim_seed=1)
    write_run(tmp_path / "here" / "june-1", centers @ turn, vectors @ turn, config=other)
    write_run(tmp_path / "there" / "june-1", centers, vectors)
    origin = {"run": str(tmp_path / "there" / "june-1"), "place": "../june-1", "fingerprint": simulate(CONFIG.simulator).fingerprint}
    write_run(tmp_path / "here" / "june-8", centers, vectors, origin)
    for place, alignment in (("here", "orthogonal Procrustes over shared items"), ("there", "warm start")):
        sides = Side.load(tmp_path / place / "june-1"), Side.load(tmp_path / "here" / "june-8")
        assert measure_drift(*sides, same=0.9, least_share=0.0)["aligned_by"] == alignment


def test_typical_items_are_those_that_the_model_scores_highest(weights, tmp_path):
    """By the dot product a long vector is ahead of one that points to the centre."""
    centers, vectors = weights
    vectors = unit_rows(vectors)
    vectors[0] = centers[0]
    vectors[1] = 10 * unit_rows(centers[:1] + 0.5 * vectors[1:2])[0]
    for score, best in (("dot", 1), ("cosine", 0)):
        side = Side.load(write_run(tmp_path / score, centers, vectors, config=CONFIG.replace(score=score)))
        assert side.intent(0)["items"][0] == side.catalog.ids[best]


def test_runs_trained_apart_are_turned_onto_each_other(runs):
    found = measure_drift(Side.load(runs[0]), Side.load(runs[2]), same=0.9, least_share=0.0)
    assert "Procrustes" in found["aligned_by"] and found["shared_items_cosine"] == pytest.approx(1, abs=1e-5)
    assert all(pair["old"]["intent"] == pair["new"]["intent"] for pair in found["intents"]["kept"]) and len(found["intents"]["kept"]) == 4


def test_intents_without_users_are_taken_for_dead(runs):
    side = Side.load(runs[0])
    found = measure_drift(side, Side.load(runs[0]), same=0.9, least_share=1.0)
    large = int(np.sum(side.shares * 4 >= 1))
    assert len(found["intents"]["kept"]) == large < 4


def test_without_the_users_of_one_run_no_intent_is_left_out(runs, weights, tmp_path, capsys):
    """The old run's few-user intents would else seem to have appeared."""
    other = write_run(tmp_path / "changed", *weights)
    data = json.loads((tmp_path / "changed" / "data.json").read_text())
    (tmp_path / "changed" / "data.json").write_text(json.dumps({**data, "fingerprint": "another"}))
    for sides in ((runs[0], other), (other, runs[0])):
        found = measure_drift(*map(Side.load, sides), same=0.9, least_share=1.0)
        assert len(found["intents"]["kept"]) == 4 and found["intents"]["died"] == found["intents"]["appeared"] == []
        assert found["least_share"] is None
    assert measure_drift(Side.load(runs[0]), Side.load(runs[0]), same=0.9, least_share=1.0)["least_share"] == 1.0
    assert drift.main([runs[0], other, "--least-share", "1", "--output", str(tmp_path / "drift.json")]) == 0
    assert "--least-share needs the users of both" in capsys.readouterr().out
    assert json.loads((tmp_path / "drift.json").read_text())["least_share"] is None


def test_data_of_an_unknown_fingerprint_is_not_checked(weights, tmp_path):
    path = write_run(tmp_path / "run", *weights)
    (tmp_path / "run" / "data.json").unlink()
    side = Side.load(path)
    assert side.missing is None and side.sequences is not None
    catalog = side.catalog
    Catalog(catalog.ids[::-1], catalog.counts[::-1]).save(tmp_path / "run" / "catalog.parquet")
    assert list(Side.load(path).sequences.catalog.ids) == list(catalog.ids[::-1])


def test_typical_items_have_their_titles(runs):
    found = measure_drift(Side.load(runs[0]), Side.load(runs[1]), same=0.9, least_share=0.0)
    died = found["intents"]["died"][0]
    assert [len(died[name]) for name in ("items", "titles")] == [3, 3]
    assert _items(died).startswith(f"{died['items'][0]} ({died['titles'][0]}), ")
    assert _items({"items": ["a", "b"], "titles": [None, "The B"]}) == "a, b (The B)"


def test_titles_whose_file_has_moved_are_not_needed(weights, tmp_path):
    folder = RunFolder(write_run(tmp_path / "run", *weights))
    folder.write_config(CONFIG.replace(item_metadata=str(tmp_path / "moved.csv")))
    side = Side.load(folder.path)
    assert side.missing is None and side.intent(0)["titles"][0]


def test_the_command_writes_json_and_says_what_it_could_not_compare(runs, weights, tmp_path, capsys):
    other = write_run(tmp_path / "changed", *weights)
    data = json.loads((tmp_path / "changed" / "data.json").read_text())
    (tmp_path / "changed" / "data.json").write_text(json.dumps({**data, "fingerprint": "another"}))
    assert drift.main([runs[0], other, "--output", str(tmp_path / "drift.json")]) == 0
    found = json.loads((tmp_path / "drift.json").read_text())
    assert "users" not in found["data"] and "changed" in found["data"]["missing"]["new"]
    assert found["intents"]["kept"][0]["new"]["share"] is None
    assert "users are not compared" in capsys.readouterr().out


def test_errors(runs, weights, tmp_path):
    with pytest.raises(UserError, match=r"\.json"):
        drift.main([runs[0], runs[1], "--output", "drift.txt"])
    with pytest.raises(UserError, match="--same-intent"):
        drift.main([runs[0], runs[1], "--same-intent", "2"])
    with pytest.raises(UserError, match="holds no run"):
        drift.main([str(tmp_path), runs[1]])
    few = CONFIG.replace(sim_items=14)
    config = few.replace(hidden_size=16)
    folder = RunFolder(tmp_path / "wide")
    folder.create(config, simulate(SimulatorConfig(**vars(config.simulator))).catalog)
    folder.save_model(build_model(config, 14))
    with pytest.raises(UserError, match="--hidden-size 8"):
        drift.main([runs[0], str(tmp_path / "wide")])
