"""Warm starts of tiny models on grown data."""

import dataclasses
import json
import os

import numpy as np
import pytest

from elcrec_tf import train
from elcrec_tf.config import Config, SimulatorConfig
from elcrec_tf.data.catalog import Catalog
from elcrec_tf.data.sequences import Sequences
from elcrec_tf.data.simulate import simulate
from elcrec_tf.errors import UserError
from elcrec_tf.intents import unit_rows
from elcrec_tf.run_folder import RunFolder
from elcrec_tf.training import train_model
from elcrec_tf.warm_start import take_over
from tests.prepared import sharded
from tests.toy import sequences_of, toy_config, toy_model

SIMULATOR = {"sim_users": 60, "sim_items": 40, "sim_intents": 4, "sim_events": 8.0}
TINY = Config().replace(
    **SIMULATOR,
    **{"hidden_size": 8, "num_layers": 1, "num_clusters": 4, "max_length": 10, "epochs": 0, "batch_size": 16, "eval_batch_size": 32},
    xla="off",
    products="float32",
    activity_features=True,
)


def grown(sequences: Sequences) -> Sequences:
    """The same users in a catalogue in another order, with item 1 under a new id and one item that occurs nowhere."""
    order = np.random.default_rng(0).permutation(sequences.catalog.num_items)
    place = np.concatenate([[0], np.argsort(order) + 1]).astype(np.int32)
    ids = sequences.catalog.ids[order].tolist()
    ids[place[1] - 1] = "new"
    counts = np.concatenate([sequences.catalog.counts[order], [0]])
    return dataclasses.replace(sequences, items=place[sequences.items], catalog=Catalog([*ids, "unseen"], counts))


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    """(data, run folder, model) of a run, whose weights are random: what is taken over need not have been learned."""
    sequences = simulate(SimulatorConfig(**SIMULATOR))
    folder = RunFolder(tmp_path_factory.mktemp("warm") / "parent")
    return sequences, folder, train_model(sequences, TINY, folder)


def warm(parent, **changes):
    return TINY.replace(**{"warm_start": str(parent[1].path), "epochs": 0, **changes})


def table(model):
    return np.asarray(model.item_embedding.table)


def test_items_keep_their_vectors_by_raw_id_and_the_network_its_weights(parent, tmp_path):
    old_data, _, old = parent
    data = grown(old_data)
    folder = RunFolder(tmp_path / "run")
    model = train_model(data, warm(parent), folder)
    for raw in old_data.catalog.ids[1:5]:
        np.testing.assert_array_equal(table(model)[data.catalog.index([raw])], table(old)[old_data.catalog.index([raw])])
    np.testing.assert_allclose(np.asarray(model.cluster_centers.centers), np.asarray(old.cluster_centers.centers), atol=1e-6)
    ids = old_data.catalog.ids[[3, 7, 9]]
    of_old, of_new = (one.predict(catalog.index(ids)[None], verbose=0) for one, catalog in ((old, old_data.catalog), (model, data.catalog)))
    for name in of_old:
        np.testing.assert_allclose(of_new[name], of_old[name], rtol=1e-5, atol=1e-6)
    origin = {"run": str(parent[1].path), "fingerprint": old_data.fingerprint, "items_known": 39, "items_new": 2, "items_gone": 1}
    assert folder.warm_start() == {**origin, "place": os.path.relpath(parent[1].path.resolve(), folder.path.resolve())}
    assert json.loads((folder.path / "config.json").read_text())["train"]["warm_start"] == str(parent[1].path)


def test_a_new_item_starts_as_near_its_neighbours_as_known_items_do():
    rng = np.random.default_rng(0)
    sides = np.repeat(np.eye(8)[:2], 4, axis=0)  # items 1 to 4 lie in one direction, 5 to 8 in another
    vectors = 3 * unit_rows(sides + 0.2 * rng.normal(size=(8, 8)))
    old, model = toy_model(8), toy_model(10)
    old.item_embedding.table.assign(np.concatenate([np.zeros((1, 8)), vectors]))
    # 9 stands among the first four, 10 nowhere; the last two events of a user are held out.
    data = sequences_of([1, 2, 9, 3, 4, 9, 10], [2, 4, 1, 9, 3, 9, 10], [5, 6, 7, 8, 5, 9, 9], [8, 6, 5, 7, 6, 9, 10])
    take_over(model, old, Catalog(data.catalog.ids[:8]), data, neighbors=True)
    cosines = unit_rows(table(model)[9:]) @ np.eye(8)[:2].T
    typical = (unit_rows(vectors) * sides).sum(axis=1)
    assert typical.min() - 0.1 < cosines[0, 0] < 1 and cosines[0, 1] < 0.4
    assert cosines[1].min() > 0.2  # what the items have in common
    np.testing.assert_allclose(np.linalg.norm(table(model)[9:], axis=1), 3, rtol=1e-5)
    take_over(model := toy_model(10), old, Catalog(data.catalog.ids[:8]), data, neighbors=False)
    np.testing.assert_array_equal(table(model)[9:], table(toy_model(10))[9:])


@pytest.mark.slow
def test_a_resumed_warm_start_equals_an_uninterrupted_one(parent, tmp_path):
    data = grown(parent[0])
    whole, cut = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "cut")
    model = train_model(data, warm(parent, epochs=2), whole)
    train_model(data, warm(parent, epochs=1), cut)
    again = train_model(data, warm(parent, epochs=2), cut, resume=True)
    np.testing.assert_allclose(table(again), table(model), rtol=1e-4, atol=1e-5)
    assert len(cut.read_history()) == 2
    with pytest.raises(UserError, match="other settings of warm_start"):
        train_model(data, TINY.replace(epochs=2), cut, resume=True)


@pytest.mark.slow
def test_data_in_shards_warm_starts_alike(parent, tmp_path):
    data = grown(parent[0])
    in_memory = train_model(data, warm(parent), RunFolder(tmp_path / "memory"))
    shards = sharded(data, tmp_path / "data")
    np.testing.assert_allclose(table(train_model(shards, warm(parent), RunFolder(tmp_path / "shards"))), table(in_memory), atol=1e-6)


def test_intents_that_training_counted_are_taken_over(parent, tmp_path):
    auto = {"num_clusters": "auto", "most_clusters": 12}
    model = train_model(parent[0], warm(parent, **auto), RunFolder(tmp_path / "to-auto"))
    np.testing.assert_allclose(np.asarray(model.cluster_centers.centers), np.asarray(parent[2].cluster_centers.centers), atol=1e-6)
    assert not model.cluster_centers.retirable
    with pytest.raises(UserError, match="raise --most-clusters to 4"):
        train_model(parent[0], warm(parent, num_clusters="auto", most_clusters=3), RunFolder(tmp_path / "few"))
    with pytest.raises(UserError, match="give --num-clusters 4"):
        train_model(parent[0], warm(parent, num_clusters=6), RunFolder(tmp_path / "other"))
    assert not (tmp_path / "few").exists() and not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"max_length": 12},
        {"hidden_size": 16},
        {"num_layers": 2},
        {"activity_features": False},
        {"score_temperature": 0.2},
        {"centers_start": "kmeans"},
    ],
)
def test_another_architecture_or_start_is_refused_by_name(parent, tmp_path, changes):
    (name,) = changes
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')}"):
        train_model(parent[0], warm(parent, **changes), RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_parent_without_a_model_or_without_common_items_is_refused(parent, tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        train_model(parent[0], TINY.replace(warm_start=str(tmp_path)), RunFolder(tmp_path / "run"))
    empty = RunFolder(tmp_path / "unfinished")
    empty.create(TINY, parent[0].catalog)
    with pytest.raises(UserError, match="has no model.keras"):
        train_model(parent[0], TINY.replace(warm_start=str(empty.path)), RunFolder(tmp_path / "run"))
    empty.model_file.write_bytes(b"broken")
    with pytest.raises(UserError, match="is no model"):
        train_model(parent[0], TINY.replace(warm_start=str(empty.path)), RunFolder(tmp_path / "run"))
    with pytest.raises(UserError, match="knows none of the 6 items"):
        train_model(sequences_of([1, 2, 3, 4, 5, 6]), warm(parent), RunFolder(tmp_path / "run"))


def test_the_command_takes_the_settings_of_the_parent(parent, tmp_path):
    run = tmp_path / "run"
    argv = ["--warm-start", str(parent[1].path), "--output-dir", str(run), "--no-export", "--no-recovery", "--epochs", "0"]
    assert train.main(argv) == 0
    assert RunFolder(run).config() == TINY.replace(warm_start=str(parent[1].path), recovery=False, epochs=0)
    assert json.loads((run / "metrics.json").read_text())["warm_start"]["items_new"] == 0
    with pytest.raises(UserError, match="leave out --preset"):
        train.main(["--warm-start", str(parent[1].path), "--preset", "default"])


def test_a_model_without_a_parent_starts_as_ever(tmp_path):
    data = sequences_of(*[[1, 2, 3, 4, 5, 6]] * 4)
    folder = RunFolder(tmp_path / "run")
    train_model(data, toy_config(epochs=0), folder)
    assert folder.warm_start() is None and folder.fingerprint() == data.fingerprint
