import numpy as np
import pytest
import tensorflow as tf

from elcrec_tf.data.catalog import Catalog
from elcrec_tf.serving.signatures import NO_INTENT, ServingModule
from tests.serving.conftest import CLOSE, ODD, by_hand, padded, popular, tiny_model

TOP_K = 12
HISTORIES = (
    ["i1"],
    ["i3", "i2"],
    ["i4", "i4", "i5", "i4"],
    ["i9", "i8", "i7", "i6", "i5"],
    ["i9", "i8", "i7", "i6", "i5", "i4"],
    ["i9", "i8", "i7", "i6", "i5", "i4", "i3"],
    [*ODD, "i1"],
)
SIGNATURES = {"recommend": False, "recommend_with_history": True}


def ask(signatures, histories, name="recommend", side="left", width=None):
    """Outputs of a signature as arrays; histories are padded with "" on one side."""
    width = max(map(len, histories)) if width is None else width
    padding = [[""] * (width - len(history)) for history in histories]
    rows = [[*pad, *history] if side == "left" else [*history, *pad] for pad, history in zip(padding, histories, strict=True)]
    outputs = signatures[name](history=tf.reshape(tf.constant(rows, tf.string), [len(rows), width]))
    arrays = {key: value.numpy() for key, value in outputs.items()}
    arrays["item_ids"] = [[raw.decode() for raw in row] for row in arrays["item_ids"]]
    return arrays


def assert_same(a, b):
    assert a["item_ids"] == b["item_ids"]
    np.testing.assert_allclose(a["scores"], b["scores"], **CLOSE)
    assert a["intent"].tolist() == b["intent"].tolist()
    assert a["fallback"].tolist() == b["fallback"].tolist()


@pytest.fixture(scope="module")
def loaded(exported):
    """Signatures of the export. What holds them keeps the variables alive."""
    module = tf.saved_model.load(str(exported / "1"))
    yield module.signatures


def test_signatures_name_their_inputs_and_outputs(loaded):
    assert set(loaded) == {"serving_default", "recommend", "recommend_with_history"}
    for signature in loaded.values():
        assert signature.structured_input_signature == ((), {"history": tf.TensorSpec([None, None], tf.string, "history")})
        outputs = signature.structured_outputs
        assert {name: (spec.dtype, spec.shape.as_list()) for name, spec in outputs.items()} == {
            "item_ids": (tf.string, [None, TOP_K]),
            "scores": (tf.float32, [None, TOP_K]),
            "intent": (tf.int32, [None]),
            "fallback": (tf.bool, [None]),
        }


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_batch_equals_the_model(loaded, model, catalog, name):
    outputs = ask(loaded, HISTORIES, name)
    for row, history in enumerate(HISTORIES):
        ids, scores = by_hand(model, catalog, history, TOP_K, SIGNATURES[name])
        assert outputs["item_ids"][row] == ids
        np.testing.assert_allclose(outputs["scores"][row], scores, **CLOSE)
    assert outputs["scores"].dtype == np.float32
    assert not outputs["fallback"].any()


@pytest.mark.parametrize("name", SIGNATURES)
def test_one_row_equals_the_same_row_in_a_batch(loaded, name):
    together = ask(loaded, HISTORIES, name)
    for row, history in enumerate(HISTORIES):
        assert_same(ask(loaded, [history], name), {key: value[row : row + 1] for key, value in together.items()})


def test_intent_is_the_nearest_centre(loaded, model, catalog):
    outputs = ask(loaded, HISTORIES)
    for row, history in enumerate(HISTORIES):
        items = padded(catalog.index(history), model.encoder.max_length)
        assert outputs["intent"][row] == np.argmax(model(items, training=False)["intents"])


def test_the_default_is_recommend(loaded):
    assert_same(ask(loaded, HISTORIES, "serving_default"), ask(loaded, HISTORIES, "recommend"))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", SIGNATURES)
def test_padding_on_either_side_changes_nothing(loaded, name, side):
    assert_same(ask(loaded, HISTORIES, name, side, width=40), ask(loaded, HISTORIES, name))


def test_padding_and_unknown_ids_in_between_change_nothing(loaded):
    history = ["i1", "i2", "i3", "i4", "i5", "i6", "i7"]
    spread = [part for item in history for part in ("nobody", item, "", "I1")]
    assert_same(ask(loaded, [spread]), ask(loaded, [history]))


def test_the_whole_history_is_excluded_not_only_what_the_model_reads(loaded):
    history = [f"i{number}" for number in range(1, 19)]
    ids = ask(loaded, [history])["item_ids"][0]
    assert set(ids) == set(ODD)
    assert set(ask(loaded, [history], "recommend_with_history")["item_ids"][0]) & set(history)


def test_cells_without_an_item_are_empty(loaded, catalog):
    everything = list(catalog.ids)
    outputs = ask(loaded, [everything, everything[3:]])
    assert outputs["item_ids"][0] == [""] * TOP_K
    assert np.all(outputs["scores"][0] == -np.inf)
    assert set(outputs["item_ids"][1][:3]) == set(everything[:3])
    assert outputs["item_ids"][1][3:] == [""] * (TOP_K - 3)
    assert np.isfinite(outputs["scores"][1][:3]).all()
    assert not outputs["fallback"].any()


@pytest.mark.parametrize("name", SIGNATURES)
@pytest.mark.parametrize("history", [[], [""], ["", "", ""], ["nobody", "I1", "i1 "]])
def test_without_a_known_item_popularity_answers(loaded, catalog, name, history):
    outputs = ask(loaded, [history, history], name)
    ids, counts = popular(catalog, TOP_K)
    assert outputs["item_ids"] == [ids, ids]
    assert outputs["scores"].tolist() == [counts, counts]
    assert outputs["fallback"].tolist() == [True, True]
    assert outputs["intent"].tolist() == [NO_INTENT, NO_INTENT]


def test_the_fallback_does_not_touch_its_neighbours(loaded):
    outputs = ask(loaded, [["i1", "i2"], ["nobody"]])
    assert outputs["fallback"].tolist() == [False, True]
    assert_same({key: value[:1] for key, value in outputs.items()}, ask(loaded, [["i1", "i2"]]))


def test_an_empty_batch_is_answered(loaded):
    outputs = loaded["recommend"](history=tf.zeros([0, 3], tf.string))
    assert outputs["item_ids"].shape == [0, TOP_K]


@pytest.mark.parametrize(
    "options",
    [{"score": "dot"}, {"intent_pooling": "last"}, {"official_padding": True, "score": "dot"}, {"fusion": "concat", "num_layers": 1}],
    ids=str,
)
def test_other_models_equal_their_signatures(catalog, options):
    model = tiny_model(catalog.num_items, **options)
    module = ServingModule(model, catalog, TOP_K)
    signatures = module.signatures()
    narrow, wide = ask(signatures, HISTORIES), ask(signatures, HISTORIES, side="right", width=30)
    assert_same(narrow, wide)
    for row, history in enumerate(HISTORIES):
        ids, scores = by_hand(model, catalog, history, TOP_K)
        assert narrow["item_ids"][row] == ids
        np.testing.assert_allclose(narrow["scores"][row], scores, **CLOSE)


def test_padding_that_counts_as_history_does_so_at_the_full_length(catalog):
    # The official code's pooled states include padding up to max_length, so an intent is that of the history padded so far.
    model = tiny_model(catalog.num_items, official_padding=True, score="dot")
    module = ServingModule(model, catalog, TOP_K)
    intent = module.recommend(tf.constant([["i3", "i2"]]))["intent"].numpy()
    assert intent == np.argmax(model(padded([3, 2], 6), training=False)["intents"], axis=-1)


def test_a_bfloat16_model_scores_in_float32(catalog, tmp_path):
    model = tiny_model(catalog.num_items, dtype="mixed_bfloat16")
    module = ServingModule(model, catalog, catalog.num_items)
    tf.saved_model.save(module, str(tmp_path), signatures=module.signatures())
    reloaded = tf.saved_model.load(str(tmp_path))
    outputs = ask(reloaded.signatures, HISTORIES, "recommend_with_history")
    assert outputs["scores"].dtype == np.float32
    for row, history in enumerate(HISTORIES):
        ids, scores = by_hand(model, catalog, history, catalog.num_items, include_history=True)
        order = np.argsort(ids)
        # bfloat16 has 8 bits; graph and eager mode may round a state differently. Scores go up to 10.
        np.testing.assert_allclose(outputs["scores"][row][np.argsort(outputs["item_ids"][row])], scores[order], atol=0.15)


def test_later_training_does_not_reach_the_item_keys(catalog):
    model = tiny_model(catalog.num_items)
    module = ServingModule(model, catalog, 3)
    before = module._keys.numpy()
    model.item_embedding.table.assign(model.item_embedding.table * 2 + 1)
    np.testing.assert_array_equal(module._keys.numpy(), before)


def test_top_k_is_at_most_the_catalogue():
    module = ServingModule(tiny_model(3), Catalog(["a", "b", "c"]), top_k=100)
    assert module.top_k == 3
    assert module.recommend(tf.constant([["b"]]))["item_ids"].numpy()[0].tolist()[2] == b""


@pytest.mark.parametrize(
    ("ids", "top_k", "message"),
    [(["a", "b"], 5, "2 items, the model 3"), (["a", "", "c"], 5, "means padding"), (["a", "b", "c"], 0, "at least 1")],
)
def test_what_does_not_fit_is_refused(ids, top_k, message):
    with pytest.raises(ValueError, match=message):
        ServingModule(tiny_model(3), Catalog(ids), top_k)
