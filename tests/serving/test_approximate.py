import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from elcrec_tf import export
from elcrec_tf.config import Config
from elcrec_tf.data.datasets import load_dataset
from elcrec_tf.errors import UserError
from elcrec_tf.model import build_model
from elcrec_tf.run_folder import RunFolder
from elcrec_tf.serving import search as search_module
from elcrec_tf.serving import signatures
from elcrec_tf.serving.approximate import Approximation, approximate_search
from elcrec_tf.serving.layout import METADATA
from elcrec_tf.serving.saved_model import export_saved_model
from elcrec_tf.serving.search import ExactSearch
from elcrec_tf.serving.signatures import ServingModule, item_keys
from tests.serving.conftest import CLOSE, tiny_model

TOP_K = 12
HISTORY = [["i1", "i2", "", ""], ["i4", "i9", "i4", "日本語"], ["nobody", "", "", ""]]
QUESTIONS = {
    "recommend": {"history": HISTORY},
    "recommend_with_history": {"history": HISTORY},
    "recommend_k": {
        "history": HISTORY,
        "k": [12, 5, 9],
        "exclude": [["i7"], ["nobody"], ["i3"]],
        "allow": [["", "", ""], ["i1", "i8", "i8"], ["", "", ""]],
    },
    "score": {"history": HISTORY, "candidates": [["i3"], ["nobody"], ["i4"]]},
    "similar_items": {"item": ["i5", "nobody"]},
    "intent_items": {"intent": [0, 4, 9]},
}


def answers(found, name, **changes):
    outputs = found[name](**{key: tf.constant(value) for key, value in {**QUESTIONS[name], **changes}.items()})
    return {key: value.numpy() for key, value in outputs.items()}


def assert_same_answers(ours, theirs):
    for name in QUESTIONS:
        expected = answers(theirs, name)
        for key, value in answers(ours, name).items():
            if value.dtype == np.float32:
                np.testing.assert_allclose(value, expected[key], **CLOSE)
            else:
                np.testing.assert_array_equal(value, expected[key])


def histories(count=40, num_items=30, length=6):
    return np.random.default_rng(0).integers(1, num_items + 1, (count, length)).astype("int32")


@pytest.fixture(scope="module")
def exact(exported):
    module = tf.saved_model.load(str(exported / "1"))
    yield module.signatures


@pytest.mark.parametrize("score", ["cosine", pytest.param("dot", marks=pytest.mark.slow)])
def test_blocks_answer_as_all_items_at_once(catalog, score, monkeypatch):
    model = tiny_model(catalog.num_items, score=score)
    whole = ServingModule(model, catalog, TOP_K).signatures()
    monkeypatch.setattr(signatures, "BLOCK", 7)
    search = ExactSearch(item_keys(model), 7)
    assert_same_answers(ServingModule(model, catalog, TOP_K, search).signatures(), whole)


@pytest.mark.slow
def test_an_export_that_looks_into_all_lists_answers_as_the_exact_one(model, catalog, exact, tmp_path):
    version = export_saved_model(model, catalog, tmp_path, TOP_K, approximation=Approximation(histories(), lists=6, probes=6))
    reloaded = tf.saved_model.load(str(version))
    assert_same_answers(reloaded.signatures, exact)
    assert b"_XlaMustCompile" not in (version / "saved_model.pb").read_bytes()
    index = json.loads((version / METADATA).read_text())["index"]
    assert index == {
        "kind": "approximate",
        "lists": 6,
        "probes": 6,
        "candidates": 30,
        "recall": {"wanted": 0.95, "measured": 1.0, "at": TOP_K, "users": 20},
    }


def test_exact_exports_say_so(exported):
    assert json.loads((exported / "1" / METADATA).read_text())["index"] == {"kind": "exact"}


def test_few_candidates_leave_cells_empty_and_allow_lists_stay_exact(model, catalog, exact, monkeypatch):
    """One list of ten holds fewer than twelve items that may be recommended, and no other one may be looked into."""
    monkeypatch.setattr(search_module, "SPARE", 0)
    search, about = approximate_search(model, item_keys(model), TOP_K, Approximation(histories(), lists=10, probes=1))
    ours = ServingModule(model, catalog, TOP_K, search).signatures()
    found, whole = (answers(one, "recommend") for one in (ours, exact))
    assert about["recall"]["measured"] < 1
    for row in range(2):
        ids = [raw for raw in found["item_ids"][row].tolist() if raw]
        assert 0 < len(ids) < TOP_K and len(set(ids)) == len(ids)
        assert found["item_ids"][row, len(ids) :].tolist() == [b""] * (TOP_K - len(ids))
        assert np.isfinite(found["scores"][row, : len(ids)]).all() and np.all(found["scores"][row, len(ids) :] == -np.inf)
        assert not {raw.encode() for raw in HISTORY[row]} & set(ids)
    for key in ("item_ids", "scores"):  # popularity needs no list
        np.testing.assert_array_equal(found[key][2], whole[key][2])
    allow = [["i3", "i17", "i1"], ["i30", "i18", ""], ["i2", "nobody", ""]]
    listed, exactly = (answers(one, "recommend_k", allow=allow) for one in (ours, exact))
    np.testing.assert_array_equal(listed["item_ids"], exactly["item_ids"])


def test_probes_are_the_fewest_that_reach_the_recall(model):
    keys = item_keys(model)
    for recall in (0.3, 0.7, 1.0):
        _, about = approximate_search(model, keys, 5, Approximation(histories(400), recall, lists=10))
        assert about["recall"]["measured"] == pytest.approx(recall, abs=0.1) or about["recall"]["measured"] > recall
        _, fewer = approximate_search(model, keys, 5, Approximation(histories(400), recall, 10, max(1, about["probes"] - 1)))
        assert about["probes"] == 1 or fewer["recall"]["measured"] < recall + 0.05


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recall": 1.5}, "--index-recall should be above 0 and at most 1"),
        ({"lists": 31}, "--index-lists should be at most the 30 items"),
        ({"lists": 5, "probes": 6}, "--index-probes should be at most the 5 lists"),
        ({"histories": histories(1)}, "at least 2 users"),
    ],
)
def test_what_makes_no_index_is_refused(model, changes, message):
    with pytest.raises(UserError, match=message):
        approximate_search(model, item_keys(model), 5, Approximation(**{"histories": histories(), **changes}))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = Config().replace(sim_users=60, sim_items=40, sim_intents=4, hidden_size=8, num_layers=1, num_clusters=4, max_length=5)
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "run")
    folder.create(config, load_dataset(config.data, config.simulator).catalog)
    folder.save_model(build_model(config, 40))
    return folder.path


@pytest.mark.slow
def test_the_command_measures_the_recall_on_the_run_s_users(run, tmp_path, capsys):
    flags = ["--index", "approximate", "--index-lists", "8", "--index-recall", "0.8", "--index-users", "50", "--top-k", "10"]
    assert export.main([str(run), "--export-dir", str(tmp_path / "m"), *flags]) == 0
    index = json.loads((tmp_path / "m" / "1" / METADATA).read_text())["index"]
    assert (index["kind"], index["lists"], index["recall"]["users"]) == ("approximate", 8, 25)
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("approximate index: "))
    assert f"{index['probes']} of 8 lists" in line and f"recall@10 of 25 users: {index['recall']['measured']:.3f} (wanted: 0.8)" in line


def test_users_are_sampled_without_the_file_of_titles(run, tmp_path):
    """It may have moved since the training."""
    folder = RunFolder(shutil.copytree(run, tmp_path / "run"))
    folder.write_config(folder.config().replace(item_metadata=str(tmp_path / "moved.csv")))
    asked = SimpleNamespace(index_users=50, index_recall=0.8, index_lists=8, index_probes=None)
    assert len(export._approximation(asked, folder).histories) == 50


@pytest.mark.parametrize("flags", [["--index", "hnsw"], ["--index-users", "0"], ["--index-probes", "-1"]])
def test_wrong_flags_exit_2(run, flags, capsys):
    with pytest.raises(SystemExit) as stop:
        export.main([str(run), *flags])
    assert stop.value.code == 2
