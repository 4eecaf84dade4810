import dataclasses
import inspect

import keras
import numpy as np
import pytest

from elcrec_tf.config import LossConfig, ModelConfig
from elcrec_tf.kernels import Kernels
from elcrec_tf.losses import bce_loss, elcm_assign, elcm_paper, nt_xent, sampled_softmax_loss, softmax_loss
from elcrec_tf.masking import masked_mean, valid_mask
from elcrec_tf.model import TERMS, ELCRec, build_model
from tests.toy import NUM_ITEMS, packed, packed_rows, rows_of, toy_config, toy_model

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
HISTORY = np.array([[0, 0, 1, 2, 3], [0, 4, 5, 6, 1], [0, 0, 0, 0, 2], [3, 5, 1, 2, 6]], "int32")
TARGET = np.array([[0, 0, 2, 3, 4], [0, 5, 6, 1, 2], [0, 0, 0, 0, 5], [5, 1, 2, 6, 4]], "int32")
VIEW_A = np.array([[0, 0, 0, 2, 3], [0, 4, 0, 6, 1], [0, 0, 0, 0, 2], [5, 3, 1, 2, 6]], "int32")
VIEW_B = np.array([[0, 0, 2, 1, 3], [0, 0, 5, 6, 1], [0, 0, 0, 0, 2], [0, 0, 5, 1, 2]], "int32")
NEXT_ITEM = ("softmax", "sampled_softmax", "bce")
EXAMPLES = ("positions", "prefixes")


def batch(next_item="softmax", examples="positions", views=True):
    """(x, y) as the pipeline makes them, one history a row; in the prefixes' batch, three examples stand beside four users."""
    x, y = {"examples": packed_rows(HISTORY)}, {"target": TARGET}
    if examples == "prefixes":
        x, y = {"examples": packed_rows(HISTORY[:3]), "users": packed_rows(HISTORY)}, {"target": TARGET[:3, -1]}
    if next_item == "bce":
        y["negative"] = np.where(y["target"] > 0, y["target"] % NUM_ITEMS + 1, 0).astype("int32")
    if next_item == "sampled_softmax":
        y |= {"negatives": np.int32([1, 4, 6]), "negative_log_rates": np.full(3, -np.log(NUM_ITEMS), "float32")}
    if views:
        x |= {"view_a": packed_rows(VIEW_A), "view_b": packed_rows(VIEW_B)}
    return x, y


def with_empty_slots(x, y, count=2):
    """The same batch with `count` more slots of nothing but padding in each part."""
    x = {name: packed_rows(np.pad(part["history"], [(0, count), (0, 0)])) for name, part in x.items()}
    per_slot = {"target", "negative"}
    return x, {name: np.pad(rows, [(0, count)] + [(0, 0)] * (rows.ndim - 1)) if name in per_slot else rows for name, rows in y.items()}


def tensors(values):
    return keras.tree.map_structure(keras.ops.convert_to_tensor, values)


def loss_of(model, x, y):
    """(total, term name -> value)."""
    for mean in model.term_means.values():
        mean.reset_state()
    x, y = tensors((x, y))
    total = float(model.compute_loss(x, y, model(x, training=False), training=False))
    return total, {name: float(mean.result()) for name, mean in model.term_means.items()}


def users_of(x):
    return x.get("users", x["examples"])["history"]


@pytest.fixture(scope="module")
def model():
    return toy_model()


# --- the objective ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("examples", EXAMPLES)
def test_total_is_the_weighted_sum_of_the_terms(examples):
    model = toy_model(sequence_weight=0.3, intent_weight=0.7, cluster_weight=2.0)
    total, terms = loss_of(model, *batch(examples=examples))
    assert tuple(terms) == TERMS
    assert all(abs(value) > 1e-3 for value in terms.values())
    expected = terms["next_item"] + 0.3 * terms["sequence"] + 0.7 * terms["intent"] + 2.0 * terms["cluster"]
    assert total == pytest.approx(expected, rel=1e-5)


def test_weights_and_temperature_assigned_later_change_the_loss():
    """A schedule assigns them while a compiled step is in use."""
    model = toy_model()
    x, y = batch()
    _, before = loss_of(model, x, y)
    model.weights_of_terms["sequence"].assign(5.0)
    model.weights_of_terms["cluster"].assign(0.0)
    total, terms = loss_of(model, x, y)
    assert terms == before
    assert total == pytest.approx(terms["next_item"] + 5 * terms["sequence"] + 0.1 * terms["intent"], rel=1e-5)
    model.temperature.assign(1.0)
    assert loss_of(model, x, y)[1]["sequence"] != pytest.approx(terms["sequence"], rel=1e-2)


def test_schedule_variables_are_not_trained(model):
    paths = [weight.path for weight in model.trainable_weights]
    assert not [path for path in paths if "weight" in path or path.endswith("/temperature")]
    assert len(model.non_trainable_weights) == 4


@pytest.mark.parametrize("next_item", NEXT_ITEM)
@pytest.mark.parametrize("examples", EXAMPLES)
def test_next_item_term_is_the_loss_of_the_right_states(next_item, examples):
    """Every state predicts the item at its place; of a prefix, the last state alone predicts."""
    model = toy_model(next_item=next_item)
    x, y = batch(next_item, examples, views=False)
    states = np.asarray(model(x["examples"]["history"])["states"])
    queries = model.item_embedding.queries((states if examples == "positions" else states[:, -1]).reshape(-1, 8))
    targets, keys = y["target"].reshape(-1), model.item_embedding.keys()
    if next_item == "softmax":
        expected = softmax_loss(queries, targets, keys)
    elif next_item == "bce":
        expected = bce_loss(queries, targets, y["negative"].reshape(-1), rows_of(keys))
    else:
        expected = sampled_softmax_loss(queries, targets, y["negatives"], y["negative_log_rates"], rows_of(keys))
    assert loss_of(model, x, y)[1]["next_item"] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(("form", "function"), [("paper", elcm_paper), ("assign", elcm_assign)])
@pytest.mark.parametrize("examples", EXAMPLES)
def test_cluster_term_sees_each_user_once(form, function, examples):
    model = toy_model(cluster_form=form)
    x, y = batch(examples=examples)
    expected = sum(function(model(users_of(x))["pooled"], model.cluster_centers.centers))
    assert loss_of(model, x, y)[1]["cluster"] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("fusion", ["shift", "concat", "none"])
@pytest.mark.parametrize("mask_same_intent", [False, True])
def test_contrastive_terms_by_definition(examples, fusion, mask_same_intent):
    """Eq. 4 on the views' fused states, Eq. 6 between the views and the centre that the un-augmented history chooses."""
    model = toy_model(fusion=fusion, mask_same_intent=mask_same_intent, temperature=0.5)
    x, y = batch(examples=examples)
    view_a = np.roll(VIEW_A, 1, axis=0)  # views so far off that they would choose other centres
    x["view_a"] = packed_rows(view_a)
    users = users_of(x)
    model.cluster_centers.assign_centers(np.asarray(model(users)["pooled"])[[0, 1, 3]])
    intents = np.asarray(model(users)["intents"]).argmax(-1)
    assert len(set(intents)) == 3  # two users share one
    labels = intents if mask_same_intent else None
    centers = np.asarray(model.cluster_centers.centers)
    fused, pooled = [], []
    for view in (view_a, VIEW_B):
        output = {name: np.asarray(value) for name, value in model(view).items()}
        nearest = centers[(output["states"] @ centers.T).argmax(-1)]
        states = output["states"]
        both = {"shift": states + nearest, "concat": np.concatenate([states, nearest], axis=-1), "none": states}[fusion]
        fused.append(np.asarray(masked_mean(both, valid_mask(view))))
        pooled.append(output["pooled"])
    assert (pooled[0] @ centers.T).argmax(-1).tolist() != intents.tolist()
    _, terms = loss_of(model, x, y)
    assert terms["sequence"] == pytest.approx(float(nt_xent(*fused, 0.5, "cosine", labels=labels)), rel=1e-4)
    both_views = [float(nt_xent(view, centers[intents], 0.5, "cosine", labels=labels)) for view in pooled]
    assert terms["intent"] == pytest.approx(np.mean(both_views), rel=1e-4)


def test_without_views_there_are_no_contrastive_terms(model):
    total, terms = loss_of(model, *batch(views=False))
    assert terms["sequence"] == terms["intent"] == 0
    assert total == pytest.approx(terms["next_item"] + 0.1 * terms["cluster"], rel=1e-5)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_centres_by_em_are_not_trained_and_have_no_elcm_term(examples):
    learned, em = toy_model(), toy_model(intent_clustering="em")
    x, y = batch(examples=examples)
    expected, (total, terms) = loss_of(learned, x, y)[1], loss_of(em, x, y)
    assert terms == {**expected, "cluster": 0.0}
    assert total == pytest.approx(terms["next_item"] + 0.1 * (terms["sequence"] + terms["intent"]), rel=1e-5)
    for model, moved in ((learned, True), (em, False)):
        before = np.array(model.cluster_centers.centers)
        model.compile(keras.optimizers.SGD(0.1), jit_compile=False, run_eagerly=True)
        model.train_on_batch(x, y)
        assert np.any(np.asarray(model.cluster_centers.centers) != before) == moved


@pytest.mark.parametrize("next_item", NEXT_ITEM)
@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("cluster_form", ["paper", "assign"])
def test_empty_slots_change_nothing(next_item, examples, cluster_form):
    model = toy_model(next_item=next_item, cluster_form=cluster_form)
    x, y = batch(next_item, examples)
    plain, filled = loss_of(model, x, y), loss_of(model, *with_empty_slots(x, y))
    assert filled[0] == pytest.approx(plain[0], rel=1e-5)
    assert filled[1] == pytest.approx(plain[1], rel=1e-5)


@pytest.mark.parametrize("next_item", NEXT_ITEM)
@pytest.mark.parametrize("cluster_form", ["paper", "assign"])
def test_a_batch_of_empty_slots_is_finite_and_trains(next_item, cluster_form):
    model = toy_model(next_item=next_item, cluster_form=cluster_form)
    model.compile("sgd", run_eagerly=True, jit_compile=False)
    x, y = batch(next_item)
    x = {name: packed_rows(part["history"] * 0) for name, part in x.items()}
    y = {name: values * 0 if name != "negative_log_rates" else values for name, values in y.items()}
    assert np.isfinite(model.train_on_batch(x, y, return_dict=True)["loss"])
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


# --- packed batches ---------------------------------------------------------------------------------------------------

HISTORIES = ([2, 3, 1], [4, 5, 6, 1], [2], [3, 5, 1, 2, 6], [6, 1])
FOLLOWING = ([3, 1, 4], [5, 6, 1, 2], [5], [5, 1, 2, 6, 4], [1, 3])
VIEWS = ([2, 0, 1], [5, 6, 1], [2], [3, 5, 2, 1, 6], [0, 1]), ([3, 2, 1], [4, 0, 6, 0], [2], [5, 1, 2], [6, 1])
USERS = ([2, 3], [4, 5, 6], [2], [3, 5, 1, 2, 6], [6, 1])
LENGTH = 6


def rows(histories):
    """One history a row, left-padded."""
    return packed_rows([[0] * (LENGTH - len(history)) + list(history) for history in histories])


def several_a_row(histories):
    part = packed(histories, LENGTH)
    assert len(part["history"]) < len(histories)
    return part


def two_layouts(examples, next_item="softmax"):
    """The same batch with one history a row, and with several; each part in a layout of its own."""
    batches = []
    for lay in (rows, several_a_row):
        x = {"examples": lay(HISTORIES)}
        y = {"target": lay(FOLLOWING)["history"]}
        if examples == "prefixes":
            x["users"] = lay(USERS)
            y = {"target": np.int32([following[-1] for following in FOLLOWING])}
        if next_item == "bce":
            y["negative"] = np.where(y["target"] > 0, y["target"] % NUM_ITEMS + 1, 0).astype("int32")
        x |= {"view_a": lay(VIEWS[0]), "view_b": lay(VIEWS[1])}
        batches.append((x, y))
    return batches


def check_states(model, states, part, histories):
    """Each item's state is what the plain call gives for its history; a hidden item's is never read."""
    assert states.shape == (part["history"].size, 8)
    for history, last in zip(histories, part["last"], strict=True):
        ours, items = np.asarray(states)[last + 1 - len(history) : last + 1], np.array(history)
        np.testing.assert_allclose(ours[items > 0], np.asarray(model(np.int32([history]))["states"])[0][items > 0], **CLOSE)


def test_states_of_packed_histories_are_those_of_one_a_row(model):
    """One pass of the encoder over all parts gives what the plain call gives for each history."""
    x, _ = two_layouts("positions")[1]
    states = model(x)
    assert states.keys() == x.keys()
    for name, histories in (("examples", HISTORIES), ("view_a", VIEWS[0]), ("view_b", VIEWS[1])):
        check_states(model, states[name], x[name], histories)


def test_one_pass_over_all_parts_equals_one_for_each(model):
    x, _ = two_layouts("positions")[1]
    together = model(x)
    for name, part in x.items():
        np.testing.assert_allclose(together[name], model({name: part})[name], **CLOSE)


def test_of_prefixes_only_the_last_states_are_computed(model):
    x, _ = two_layouts("prefixes")[1]
    states = model(x)
    expected = [np.asarray(model(np.int32([history]))["user"])[0] for history in HISTORIES]
    np.testing.assert_allclose(states["examples"], expected, **CLOSE)
    check_states(model, states["users"], x["users"], USERS)
    for name, histories in zip(("view_a", "view_b"), VIEWS, strict=True):
        check_states(model, states[name], x[name], histories)


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("intent_pooling", ["mean", "last"])
@pytest.mark.parametrize("fusion", ["shift", "concat"])
@pytest.mark.parametrize("next_item", ["softmax", "bce"])
def test_every_term_is_the_same_however_the_histories_lie(examples, intent_pooling, fusion, next_item):
    model = toy_model(intent_pooling=intent_pooling, fusion=fusion, next_item=next_item)
    one_a_row, several = (loss_of(model, *one) for one in two_layouts(examples, next_item))
    assert several[1] == pytest.approx(one_a_row[1], rel=1e-4)
    assert all(abs(value) > 1e-3 for value in several[1].values())


def test_slots_of_views_may_be_numbered_in_any_order(model):
    """A view lies in the slot of its length; its number is its user's."""
    x, y = two_layouts("positions")[1]
    expected = loss_of(model, x, y)
    order = np.array([3, 0, 4, 1, 2])  # slot i of the new layout holds the view of user order[i]
    part = several_a_row([VIEWS[0][user] for user in order])
    number = np.append(order, len(order)).astype("int32")
    x["view_a"] = part | {"slot": number[part["slot"]], "last": part["last"][np.argsort(order)]}
    ours = loss_of(model, x, y)
    assert ours[1] == pytest.approx(expected[1], rel=1e-4)


def train_losses(model, layout=1, steps=3):
    model.compile(keras.optimizers.SGD(0.1), jit_compile=False)
    return [float(model.train_on_batch(*two_layouts("positions")[layout], return_dict=True)["loss"]) for _ in range(steps)]


def test_gradients_are_the_same_however_the_histories_lie():
    np.testing.assert_allclose(train_losses(toy_model(), layout=0), train_losses(toy_model(), layout=1), rtol=1e-4)


def test_compiled_chains_train_alike_with_dropout_on():
    """The masks are the same, and so are the losses, up to rounding."""
    losses = {}
    for compiled in (False, True):
        model = toy_model(dropout=0.4)
        model.kernels = Kernels(compiled=compiled)
        losses[compiled] = train_losses(model)
    np.testing.assert_allclose(losses[True], losses[False], rtol=1e-4)
    assert losses[True][-1] < losses[True][0]


@pytest.mark.parametrize("options", [pytest.param({}, marks=pytest.mark.slow), {"local_width": 2}], ids=str)
@pytest.mark.parametrize("compiled", [False, True])
def test_products_in_bfloat16_train_alike(compiled, options):
    half, full = toy_model(**options), toy_model(**options)
    half.kernels = Kernels("bfloat16", compiled)
    ours, theirs = train_losses(half), train_losses(full)
    np.testing.assert_allclose(ours, theirs, rtol=0.05)
    assert ours != theirs and ours[-1] < ours[0]


def test_evaluation_never_sees_the_kernels():
    model, other = toy_model(), toy_model()
    other.kernels = Kernels("bfloat16", compiled=True)
    np.testing.assert_array_equal(model.scores(HISTORY), other.scores(HISTORY))
    for name, value in model(HISTORY).items():
        np.testing.assert_array_equal(value, other(HISTORY)[name])


# --- pooling ----------------------------------------------------------------------------------------------------------


def test_the_last_state_pooled_is_that_of_the_last_item_not_of_padding():
    """A masked view may hide the latest item: the column before it then stands for the history."""
    model = toy_model(intent_pooling="last")
    history = np.array([[0, 1, 2, 3], [0, 1, 2, 0], [1, 0, 0, 0], [0, 0, 0, 0]], np.int32)
    outputs = model(history)
    states = np.asarray(outputs["states"])
    expected = np.stack([states[0, 3], states[1, 2], states[2, 0], states[3, 0]])
    np.testing.assert_array_equal(np.asarray(outputs["pooled"]), expected)


def test_model_defaults_are_the_configs():
    """The defaults stand in two signatures; they must not drift apart."""
    parameters = inspect.signature(ELCRec.__init__).parameters
    for group in (ModelConfig(), LossConfig()):
        for field in dataclasses.fields(group):
            if field.name in parameters:
                assert parameters[field.name].default == getattr(group, field.name), field.name


def test_evaluation_widens_histories_under_official_padding_only():
    history = np.array([[1, 2]], np.int32)
    ours, official = toy_model(), toy_model(official_padding=True)
    np.testing.assert_array_equal(np.asarray(ours.widened(history)), history)
    length = official.encoder.max_length
    np.testing.assert_array_equal(np.asarray(official.widened(history)), [[0] * (length - 2) + [1, 2]])


def test_official_padding_pools_over_all_positions():
    ours, official = (toy_model(intent_pooling="mean", official_padding=padding) for padding in (False, True))
    states = np.asarray(official(HISTORY)["states"])
    np.testing.assert_allclose(official(HISTORY)["pooled"], states.mean(1), **CLOSE)
    valid = HISTORY > 0
    expected = np.stack([row[mask].mean(0) for row, mask in zip(states, valid, strict=True)])
    np.testing.assert_allclose(ours(HISTORY)["pooled"], expected, **CLOSE)


def test_flattened_states_are_compared_side_by_side():
    model = toy_model(sequence_pooling="flatten", official_padding=True, temperature=1.0, similarity="dot")
    centers = np.asarray(model.cluster_centers.centers)
    fused = []
    for view in (VIEW_A, VIEW_B):
        states = np.asarray(model(view)["states"])
        fused.append((states + centers[(states @ centers.T).argmax(-1)]).reshape(len(view), -1))
    assert loss_of(model, *batch())[1]["sequence"] == pytest.approx(float(nt_xent(*fused, 1.0)), rel=1e-4)


# --- outputs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_outputs(pooling):
    model = toy_model(intent_pooling=pooling)
    outputs = {name: np.asarray(value) for name, value in model(HISTORY).items()}
    np.testing.assert_array_equal(outputs["user"], outputs["states"][:, -1])
    if pooling == "last":
        np.testing.assert_array_equal(outputs["pooled"], outputs["user"])
    lengths = np.linalg.norm(outputs["pooled"], axis=-1, keepdims=True)
    np.testing.assert_allclose(outputs["intents"], outputs["pooled"] / lengths @ np.asarray(model.cluster_centers.centers).T, **CLOSE)


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("official_padding", [False, True])
def test_what_ranking_needs_is_what_the_whole_model_gives(pooling, official_padding):
    model = toy_model(intent_pooling=pooling, official_padding=official_padding, num_layers=2)
    outputs, latest = model(model.widened(HISTORY)), model.latest(HISTORY)
    for name in ("user", "intents"):
        np.testing.assert_allclose(latest[name], outputs[name], **CLOSE)


def test_scores_are_those_of_the_last_state(model):
    """Cosines times 1/temperature; padding in front changes none."""
    user, table = np.asarray(model(HISTORY)["user"]), np.asarray(model.item_embedding.table)
    cosines = user @ table.T / np.linalg.norm(user, axis=1)[:, None] / np.linalg.norm(table, axis=1)
    np.testing.assert_allclose(model.scores(HISTORY), cosines / 0.1, **CLOSE)
    np.testing.assert_allclose(model.scores(np.pad(HISTORY, [(0, 0), (1, 0)])), model.scores(HISTORY), **CLOSE)


def test_a_memory_adds_to_the_scores_of_its_histories(tmp_path):
    """And to nothing else; it is saved with the model, and no step changes it."""
    plain, remembering = toy_model(), toy_model(memory_weight=0.5)
    rng = np.random.default_rng(0)
    memory = remembering.transition_memory
    memory.remember(rng.integers(0, NUM_ITEMS + 1, memory.successors.shape), rng.random(memory.shares.shape))
    added = np.asarray(memory(HISTORY))
    assert (added > 0).any()
    np.testing.assert_allclose(remembering.scores(HISTORY), plain.scores(HISTORY) + added, **CLOSE)
    for name, value in plain(HISTORY).items():
        np.testing.assert_array_equal(remembering(HISTORY)[name], value)
    assert len(remembering.trainable_variables) == len(plain.trainable_variables)
    remembering.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "model.keras").scores(HISTORY), remembering.scores(HISTORY))


# --- activity features ------------------------------------------------------------------------------------------------


def active_model(bounds=(2,), **arguments):
    """Features by power of two and group as large as the states."""
    model = toy_model(activity_bounds=list(bounds), **arguments)
    rng = np.random.default_rng(1)
    for table in (model.encoder.activity.powers, model.encoder.activity.groups):
        table.assign(rng.normal(size=table.shape) * 3)
    return model


def test_the_state_that_predicts_tells_a_users_activity():
    """Histories of 1 to 6 items: the vectors of 1, 2-3, 4-6 items, and of the groups of up to 2 items and of more."""
    plain, model = toy_model(), active_model()
    powers, groups = (np.asarray(table) for table in (model.encoder.activity.powers, model.encoder.activity.groups))
    for length, power in ((1, 1), (2, 2), (3, 2), (4, 3), (6, 3)):
        history = np.int32([[0, *range(1, length + 1)]])[:, -6:]
        added = np.asarray(model(history)["user"]) - np.asarray(plain(history)["user"])
        np.testing.assert_allclose(added[0], powers[power] + groups[int(length > 2)], **CLOSE)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_activity_is_the_same_however_the_histories_lie(examples):
    one_a_row, several = (loss_of(active_model(), *one) for one in two_layouts(examples))
    assert several[1] == pytest.approx(one_a_row[1], rel=1e-4)
    assert several[1] != pytest.approx(loss_of(toy_model(), *two_layouts(examples)[1])[1], rel=1e-2)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_ranking_sees_activity_too(pooling):
    model = active_model(intent_pooling=pooling)
    outputs, latest = model(HISTORY), model.latest(HISTORY)
    for name in ("user", "intents"):
        np.testing.assert_allclose(latest[name], outputs[name], **CLOSE)


def test_activity_features_are_trained_with_compiled_chains():
    model = toy_model(activity_bounds=[2])
    model.kernels = Kernels(compiled=True)
    train_losses(model)
    assert np.asarray(model.encoder.activity.powers)[1:].any(axis=1).all()
    assert np.asarray(model.encoder.activity.groups).any(axis=1).all()


# --- saving, compiling, precision -------------------------------------------------------------------------------------


def test_config_round_trip():
    arguments = {"fusion": "concat", "next_item": "bce", "score": "dot", "official_padding": True, "temperature": 0.7}
    model = toy_model(**arguments)
    again = ELCRec.from_config(model.get_config())
    assert again.get_config() == model.get_config()
    assert {name: model.get_config()[name] for name in arguments} == arguments
    assert [weight.shape for weight in again.weights] == [weight.shape for weight in model.weights]


@pytest.mark.parametrize(
    "options", [{}, {"dtype": "mixed_bfloat16"}, {"intent_clustering": "em"}, {"activity_bounds": [2, 4]}, {"activity_bounds": []}], ids=str
)
def test_saved_file_gives_the_same_model(tmp_path, options):
    """The schedule's variables are saved, too: a resumed run goes on where it was."""
    model = toy_model(fusion="concat", **options)
    if model.encoder.activity is not None:
        table = model.encoder.activity.powers
        table.assign(np.random.default_rng(0).normal(size=table.shape))
    model.weights_of_terms["intent"].assign(0.033)
    model.temperature.assign(0.123)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded) is ELCRec
    assert loaded.get_config() == model.get_config()
    assert [weight.path for weight in loaded.trainable_weights] == [weight.path for weight in model.trainable_weights]
    for ours, theirs in zip(model.weights, loaded.weights, strict=True):
        assert ours.path == theirs.path
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(ours), keras.ops.convert_to_numpy(theirs))
    assert float(loaded.weights_of_terms["intent"]) == pytest.approx(0.033)
    assert float(loaded.temperature) == pytest.approx(0.123)
    as_float = [np.asarray(keras.ops.cast(one.scores(HISTORY), "float32")) for one in (model, loaded)]
    np.testing.assert_array_equal(*as_float)


@pytest.mark.slow
def test_xla_gives_the_same_losses():
    losses = {}
    for jit in (False, True):
        model = toy_model()
        model.compile(keras.optimizers.SGD(0.1), jit_compile=jit)
        losses[jit] = [float(model.train_on_batch(*batch(), return_dict=True)["loss"]) for _ in range(3)]
    np.testing.assert_allclose(losses[True], losses[False], rtol=1e-4)
    assert losses[False][-1] < losses[False][0]


@pytest.mark.parametrize("next_item", NEXT_ITEM)
def test_bfloat16_is_close_to_float32(next_item):
    half = toy_model(next_item=next_item, dtype="mixed_bfloat16")
    total, terms = loss_of(half, *batch(next_item))
    full = loss_of(toy_model(next_item=next_item), *batch(next_item))[1]
    assert np.isfinite(total)
    assert terms["next_item"] == pytest.approx(full["next_item"], rel=0.1)
    assert half.item_embedding.table.dtype == "float32"


def test_float16_is_refused():
    with pytest.raises(ValueError, match="float16, where exponentials of scores overflow.*mixed_float16"):
        toy_model(dtype="mixed_float16")


@pytest.mark.parametrize("next_item", NEXT_ITEM)
def test_a_bfloat16_train_step(next_item):
    model = toy_model(next_item=next_item, dtype="mixed_bfloat16")
    model.compile(keras.optimizers.Adam(0.01), jit_compile=False, run_eagerly=True)
    losses = [float(model.train_on_batch(*batch(next_item), return_dict=True)["loss"]) for _ in range(3)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    "name", ["intent_clustering", "intent_pooling", "fusion", "next_item", "cluster_form", "similarity", "sequence_pooling", "score"]
)
def test_invalid_choices(name):
    with pytest.raises(ValueError, match=f"`{name}` should be .* Received: {name}='nothing'"):
        toy_model(**{name: "nothing"})


def test_build_model_takes_everything_from_the_configuration():
    """Each argument that the configuration also knows differs from its default and arrives."""
    changed = {"max_length": 7, "hidden_size": 12, "num_layers": 1, "num_heads": 3, "dropout": 0.25, "local_width": 4, "score": "dot"}
    changed |= {
        "score_temperature": 0.3,
        "memory_weight": 0.75,
        "num_clusters": 5,
        "intent_clustering": "em",
        "intent_pooling": "last",
        "fusion": "concat",
        "next_item": "bce",
        "sequence_weight": 0.4,
    }
    changed |= {"intent_weight": 0.5, "cluster_weight": 0.6, "cluster_form": "paper", "temperature": 0.7, "similarity": "dot"}
    changed |= {"sequence_pooling": "flatten", "mask_same_intent": True, "official_padding": True, "contrastive_batch": "global"}
    built = build_model(toy_config(**changed), num_items=11).get_config()
    assert {name: built[name] for name in changed} == changed
    assert built["num_items"] == 11
    assert built["dtype"] is None  # number formats are the kernels' business
    assert built["activity_bounds"] is None
    assert built["retirable_clusters"] is False
    assert set(built) == {*changed, "retirable_clusters", "activity_bounds", "num_items", "dtype", "name"}
    automatic = build_model(toy_config(num_clusters="auto", most_clusters=6), 11).get_config()
    assert (automatic["num_clusters"], automatic["retirable_clusters"]) == (6, True)
    for bounds in ((), (2, 5)):
        assert build_model(toy_config(activity_features=True), 11, bounds).get_config()["activity_bounds"] == list(bounds)
