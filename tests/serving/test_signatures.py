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


def spec(name, dtype, rank):
    return tf.TensorSpec([None] * rank, dtype, name)


HISTORY = spec("history", tf.string, 2)
RANKED = {"item_ids": (tf.string, [None, TOP_K]), "scores": (tf.float32, [None, TOP_K]), "fallback": (tf.bool, [None])}
RECOMMENDED = {**RANKED, "intent": (tf.int32, [None])}
CONTRACT = {
    "serving_default": ([HISTORY], RECOMMENDED),
    "recommend": ([HISTORY], RECOMMENDED),
    "recommend_with_history": ([HISTORY], RECOMMENDED),
    "recommend_k": ([HISTORY, spec("k", tf.int32, 1), spec("exclude", tf.string, 2), spec("allow", tf.string, 2)], RECOMMENDED),
    "score": ([HISTORY, spec("candidates", tf.string, 2)], {"scores": (tf.float32, [None, None]), "fallback": (tf.bool, [None])}),
    "encode": ([HISTORY], {"embedding": (tf.float32, [None, 8]), "fallback": (tf.bool, [None])}),
    "intents": (
        [HISTORY],
        {"intents": (tf.int32, [None, 5]), "probabilities": (tf.float32, [None, 5]), "fallback": (tf.bool, [None])},
    ),
    "similar_items": ([spec("item", tf.string, 1)], RANKED),
    "intent_items": ([spec("intent", tf.int32, 1)], RANKED),
}


def test_there_are_no_other_signatures(loaded):
    assert set(loaded) == set(CONTRACT)


@pytest.mark.parametrize("name", CONTRACT)
def test_signatures_name_their_inputs_and_outputs(loaded, name):
    inputs, outputs = CONTRACT[name]
    assert loaded[name].structured_input_signature == ((), {one.name: one for one in inputs})
    assert {key: (one.dtype, one.shape.as_list()) for key, one in loaded[name].structured_outputs.items()} == outputs


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


def ask_k(signatures, history, k=TOP_K, exclude=(), allow=()):
    """ids and scores of `recommend_k` for one history."""
    outputs = signatures["recommend_k"](
        history=tf.constant([history], tf.string),
        k=tf.constant([k]),
        exclude=tf.constant([list(exclude)], tf.string, shape=[1, len(exclude)]),
        allow=tf.constant([list(allow)], tf.string, shape=[1, len(allow)]),
    )
    return [raw.decode() for raw in outputs["item_ids"].numpy()[0]], outputs["scores"].numpy()[0]


@pytest.mark.parametrize("k", [-1, 0, 1, 5, TOP_K, 1000])
def test_recommend_k_leaves_the_cells_behind_k_empty(loaded, k):
    whole, shown = ask(loaded, [["i1", "i2"]]), min(max(k, 0), TOP_K)
    ids, scores = ask_k(loaded, ["i1", "i2"], k)
    assert ids == whole["item_ids"][0][:shown] + [""] * (TOP_K - shown)
    np.testing.assert_allclose(scores, [*whole["scores"][0][:shown], *[-np.inf] * (TOP_K - shown)], **CLOSE)


def test_recommend_k_leaves_out_what_is_excluded_beside_the_history(loaded):
    whole = ask(loaded, [["i1", "i2"]])["item_ids"][0]
    ids, _ = ask_k(loaded, ["i1", "i2"], exclude=["", whole[0], "nobody", whole[2]])
    assert ids[:10] == [raw for raw in whole if raw not in (whole[0], whole[2])]


def test_recommend_k_answers_allowed_items_alone_and_still_no_history(loaded):
    allowed = ["i1", "i7", "", "nobody", "i3", "i7"]
    ids, scores = ask_k(loaded, ["i1", "i2"], allow=allowed)
    assert sorted(ids[:2]) == ["i3", "i7"]
    assert ids[2:] == [""] * (TOP_K - 2)
    assert np.isfinite(scores[:2]).all() and np.all(scores[2:] == -np.inf)
    assert ask_k(loaded, ["i1", "i2"], allow=["", ""])[0] == ask(loaded, [["i1", "i2"]])["item_ids"][0]
    assert ask_k(loaded, ["i1", "i2"], allow=["nobody"])[0] == [""] * TOP_K


def test_recommend_k_decides_row_by_row(loaded):
    outputs = loaded["recommend_k"](
        history=tf.constant([["i1"], ["i1"], ["nobody"]]),
        k=tf.constant([2, 1, 3]),
        exclude=tf.constant([["i2"], [""], [""]]),
        allow=tf.constant([[""], ["i9"], ["i4"]]),
    )
    ids = [[raw.decode() for raw in row if raw] for row in outputs["item_ids"].numpy()]
    assert ids[0] == ask_k(loaded, ["i1"], 2, exclude=["i2"])[0][:2]
    assert ids[1:] == [["i9"], ["i4"]]
    assert outputs["fallback"].numpy().tolist() == [False, False, True]


def test_score_gives_each_candidate_the_model_s_score(loaded, model, catalog):
    history, candidates = ["i3", "i2"], ["i9", "i3", "", "nobody", ODD[0]]
    outputs = loaded["score"](history=tf.constant([history]), candidates=tf.constant([candidates]))
    expected = np.array(model.scores(padded(catalog.index(history), 6)), np.float32)[0][catalog.index(candidates)]
    expected[catalog.index(candidates) == 0] = -np.inf
    np.testing.assert_allclose(outputs["scores"].numpy()[0], expected, **CLOSE)


def test_a_transition_memory_answers_too(catalog):
    """What came after the latest items moves up in every signature that scores; histories without a known item are popularity's."""
    model = tiny_model(catalog.num_items, memory_weight=2.0)
    rng = np.random.default_rng(0)
    memory = model.transition_memory
    memory.remember(rng.integers(0, catalog.num_items + 1, memory.successors.shape), rng.random(memory.shares.shape) / 8)
    signatures = ServingModule(model, catalog, TOP_K).signatures()
    outputs = ask(signatures, HISTORIES)
    for history, ids, scores in zip(HISTORIES, outputs["item_ids"], outputs["scores"], strict=True):
        expected_ids, expected = by_hand(model, catalog, history, TOP_K)
        assert ids == expected_ids
        np.testing.assert_allclose(scores, expected, **CLOSE)
    candidates = ["i9", "i3", "i1"]
    scored = signatures["score"](history=tf.constant([["i3", "i2"], ["", "nobody"]]), candidates=tf.constant([candidates] * 2))
    index = catalog.index(candidates)
    np.testing.assert_allclose(scored["scores"][0], np.array(model.scores(padded(catalog.index(["i3", "i2"]), 6)))[0][index], **CLOSE)
    assert scored["scores"][1].numpy().tolist() == [catalog.counts[item - 1] for item in index]


def test_score_falls_back_to_popularity(loaded, catalog):
    outputs = loaded["score"](history=tf.constant([["nobody"]]), candidates=tf.constant([["i4", "nobody", "i2"]]))
    assert outputs["scores"].numpy().tolist() == [[catalog.counts[3], -np.inf, catalog.counts[1]]]
    assert outputs["fallback"].numpy().tolist() == [True]


def test_the_embedding_times_an_item_s_key_is_the_score(loaded, model, catalog):
    outputs = loaded["encode"](history=tf.constant([["i3", "i2"], ["nobody", ""]]))
    keys = np.array(model.item_embedding.keys())
    scores = np.array(model.scores(padded(catalog.index(["i3", "i2"]), 6)))[0]
    np.testing.assert_allclose(keys @ outputs["embedding"].numpy()[0], scores, **CLOSE)
    assert not outputs["embedding"].numpy()[1].any()
    assert outputs["fallback"].numpy().tolist() == [False, True]


def test_intents_are_the_soft_assignment_likeliest_first(loaded, model, catalog):
    outputs = loaded["intents"](history=tf.constant([["i3", "i2"], ["", ""]]))
    cosines = np.array(model(padded(catalog.index(["i3", "i2"]), 6), training=False)["intents"])[0]
    expected = np.exp(10 * cosines) / np.exp(10 * cosines).sum()
    order = np.argsort(-expected)
    assert outputs["intents"].numpy()[0].tolist() == order.tolist()
    np.testing.assert_allclose(outputs["probabilities"].numpy()[0], expected[order], rtol=1e-4)
    assert outputs["intents"].numpy()[1].tolist() == [NO_INTENT] * 5
    assert outputs["probabilities"].numpy()[1].tolist() == [0] * 5


def test_similar_items_are_the_nearest_by_cosine_without_the_item_itself(loaded, model, catalog):
    outputs = loaded["similar_items"](item=tf.constant(["i5", "nobody", ODD[0]]))
    table = np.array(model.item_embedding.table)[1:]
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    for row, raw in ((0, "i5"), (2, ODD[0])):
        own = catalog.index([raw])[0] - 1
        cosine = table @ table[own]
        cosine[own] = -np.inf
        best = np.argsort(-cosine, kind="stable")[:TOP_K]
        assert [one.decode() for one in outputs["item_ids"].numpy()[row]] == list(catalog.ids[best])
        np.testing.assert_allclose(outputs["scores"].numpy()[row], cosine[best], **CLOSE)
    assert [one.decode() for one in outputs["item_ids"].numpy()[1]] == popular(catalog, TOP_K)[0]
    assert outputs["fallback"].numpy().tolist() == [False, True, False]


def test_typical_items_of_an_intent_are_those_scored_best_at_its_centre(loaded, model, catalog):
    outputs = loaded["intent_items"](intent=tf.constant([2, -1, 5]))
    scores = np.array(model.scores_of(np.array(model.cluster_centers.centers)[2:3]))[0]
    scores[0] = -np.inf
    best = np.argsort(-scores, kind="stable")[:TOP_K]
    assert [one.decode() for one in outputs["item_ids"].numpy()[0]] == catalog.raw(best)
    np.testing.assert_allclose(outputs["scores"].numpy()[0], scores[best], **CLOSE)
    for row in (1, 2):
        assert [one.decode() for one in outputs["item_ids"].numpy()[row]] == popular(catalog, TOP_K)[0]
    assert outputs["fallback"].numpy().tolist() == [False, True, True]


@pytest.mark.parametrize("name", CONTRACT)
def test_rows_without_anything_get_an_answer_without_nan(loaded, name):
    inputs = {one.name: tf.zeros([3] * len(one.shape), one.dtype) for one in CONTRACT[name][0]}
    for value in loaded[name](**inputs).values():
        assert value.shape[0] == 3
        assert value.dtype != tf.float32 or not np.isnan(value.numpy()).any()


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


def test_activity_features_are_exported(catalog, tmp_path):
    """Items that the model no longer sees count nowhere, as in the model itself."""
    model = tiny_model(catalog.num_items, activity_bounds=[1, 3])
    for table in (model.encoder.activity.powers, model.encoder.activity.groups):
        table.assign(np.random.default_rng(0).normal(size=table.shape))
    module = ServingModule(model, catalog, TOP_K)
    tf.saved_model.save(module, str(tmp_path), signatures=module.signatures())
    reloaded = tf.saved_model.load(str(tmp_path))
    answers = ask(reloaded.signatures, HISTORIES)
    for row, history in enumerate(HISTORIES):
        ids, scores = by_hand(model, catalog, history, TOP_K)
        assert answers["item_ids"][row] == ids
        np.testing.assert_allclose(answers["scores"][row], scores, **CLOSE)


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
    before = module._search.keys_of(tf.range(5)).numpy()
    model.item_embedding.table.assign(model.item_embedding.table * 2 + 1)
    np.testing.assert_array_equal(module._search.keys_of(tf.range(5)).numpy(), before)


def test_top_k_is_at_most_the_catalogue():
    module = ServingModule(tiny_model(3), Catalog(["a", "b", "c"]), top_k=100)
    assert module.top_k == 3
    assert module.recommend(tf.constant([["b"]]))["item_ids"].numpy()[0].tolist()[2] == b""
    assert sorted(module.similar_items(tf.constant(["b"]))["item_ids"].numpy()[0].tolist()) == [b"", b"a", b"c"]


@pytest.mark.parametrize(
    ("ids", "top_k", "message"),
    [(["a", "b"], 5, "2 items, the model 3"), (["a", "", "c"], 5, "means padding"), (["a", "b", "c"], 0, "at least 1")],
)
def test_what_does_not_fit_is_refused(ids, top_k, message):
    with pytest.raises(ValueError, match=message):
        ServingModule(tiny_model(3), Catalog(ids), top_k)
