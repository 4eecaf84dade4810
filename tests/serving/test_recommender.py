import shutil

import numpy as np
import pytest

from elcrec_tf.data.catalog import Catalog
from elcrec_tf.errors import UserError
from elcrec_tf.serving import recommender as module
from elcrec_tf.serving.layout import METADATA
from elcrec_tf.serving.recommender import Recommendation, Recommender
from elcrec_tf.serving.saved_model import export_saved_model
from tests.serving.conftest import CLOSE, ODD, TITLES, by_hand, popular, tiny_model

HISTORIES = [["i1"], [], ["i3", "i2"], [f"i{number}" for number in range(1, 19)], ODD, ["nobody"], ["i5"] * 40]


@pytest.fixture(scope="module")
def recommender(exported):
    return Recommender.load(exported)


@pytest.mark.parametrize("include_history", [False, True])
@pytest.mark.parametrize("k", [1, 12])
def test_it_answers_as_the_model_does(recommender, model, catalog, k, include_history):
    for history, items in zip(HISTORIES, recommender.recommend(HISTORIES, k, include_history), strict=True):
        known = [raw for raw in history if raw in catalog.ids]
        ids, scores = by_hand(model, catalog, known, k, include_history) if known else popular(catalog, k)
        assert [item.item_id for item in items] == ids
        np.testing.assert_allclose([item.score for item in items], scores, **CLOSE)
        assert [item.title for item in items] == [TITLES.get(raw) for raw in ids]


def test_batches_of_any_size_give_the_same(recommender, monkeypatch):
    together = recommender.answer(HISTORIES)
    monkeypatch.setattr(module, "_ROWS", 2)
    monkeypatch.setattr(module, "_HISTORY_CELLS", 64)  # the history of 40 goes alone
    apart = recommender.answer(HISTORIES)
    assert apart.item_ids.tolist() == together.item_ids.tolist()
    np.testing.assert_allclose(apart.scores, together.scores, **CLOSE)
    assert apart.intent.tolist() == together.intent.tolist()
    assert apart.fallback.tolist() == together.fallback.tolist() == [False, True, False, False, False, True, False]
    assert (together.intent == -1).tolist() == together.fallback.tolist()


def test_batches_have_few_widths(monkeypatch):
    monkeypatch.setattr(module, "_ROWS", 4)
    widths = {batch.shape[1] for _, batch in module._batches([["i"] * length for length in range(130)])}
    assert widths == {16, 32, 64, 128, 256}


def test_whole_numbers_are_ids(tmp_path):
    export_saved_model(tiny_model(3, num_layers=1), Catalog(["7", "8", "9"]), tmp_path)
    recommender = Recommender.load(tmp_path)
    texts = recommender.recommend([["7", "8"]], k=3)
    assert recommender.recommend([[7, 8]], k=3) == recommender.recommend([np.array([7, 8])], k=3) == texts
    assert texts == [[Recommendation("9", texts[0][0].score, None)]]  # shorter than k: nothing else is left
    assert recommender.known([7, "8", 10]).tolist() == [True, True, False]


def test_no_histories_give_no_answers(recommender):
    assert recommender.recommend([]) == []


def test_broken_text_is_an_unknown_id(recommender):
    assert recommender.recommend([["\udcff", "i1"]]) == recommender.recommend([["i1"]])


@pytest.mark.parametrize("k", [0, -1, 13])
def test_k_out_of_bounds_says_what_goes(recommender, k):
    with pytest.raises(UserError, match=rf"from 1 to 12.*Received: {k}; export the run again with a larger --top-k"):
        recommender.recommend([["i1"]], k)


@pytest.mark.parametrize("raw", [1.0, None, True, b"i1"])
def test_other_types_are_no_ids(recommender, raw):
    with pytest.raises(UserError, match="strings or whole numbers"):
        recommender.recommend([["i1", raw]])


def test_a_text_is_no_history(recommender):
    with pytest.raises(UserError, match="a list of item ids"):
        recommender.recommend(["i1", "i2"])


def test_the_newest_version_answers_unless_one_is_named(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "model")
    for name in ("2", "10", ".export-11", "11-not"):
        shutil.copytree(folder / "1", folder / name)
    assert Recommender.load(folder).folder == folder / "10"
    assert Recommender.load(str(folder / "2")).folder == folder / "2"


def break_nothing_there(version):
    shutil.rmtree(version.parent)


def break_no_version(version):
    shutil.rmtree(version)


def break_no_graph(version):
    (version / "saved_model.pb").unlink()


def break_foreign(version):
    (version / METADATA).unlink()


def break_metadata(version):
    (version / METADATA).write_text("{")


def break_other_metadata(version):
    (version / METADATA).write_text("[]")


def break_catalog(version):
    (version / "assets.extra" / "catalog.parquet").write_text("PAR1")


def break_other_catalog(version):
    Catalog(["a", "b"]).save(version / "assets.extra" / "catalog.parquet")


def break_graph(version):
    path = version / "saved_model.pb"
    path.write_bytes(path.read_bytes()[:1000])


def break_variables(version):
    for path in (version / "variables").iterdir():
        path.write_bytes(b"")


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (break_nothing_there, "there is no such folder"),
        (break_no_version, "holds no exported model"),
        (break_no_graph, "1: has no saved_model.pb"),
        (break_foreign, "not one that elcrec_tf exported"),
        (break_metadata, "metadata.json: cannot be read"),
        (break_other_metadata, "metadata.json: was not written by elcrec_tf"),
        (break_catalog, "is not a catalogue"),
        (break_other_catalog, "is not a whole elcrec_tf export"),
        (break_graph, "is a broken SavedModel"),
        (break_variables, "is a broken SavedModel"),
    ],
)
def test_folders_that_cannot_answer_are_user_errors(exported, tmp_path, broken, message):
    folder = shutil.copytree(exported, tmp_path / "model")
    broken(folder / "1")
    with pytest.raises(UserError, match=message) as error:
        Recommender.load(folder)
    assert "\n" not in str(error.value)


def test_a_file_is_no_model(tmp_path):
    (tmp_path / "model.keras").touch()
    with pytest.raises(UserError, match="model.keras"):
        Recommender.load(tmp_path / "model.keras")
