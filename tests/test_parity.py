"""Parity with the official PyTorch code: golden files made with its modules on small random weights.

Padded rows: at positions that are padding the official encoder attends to everything, and so does ours; the losses there pool
over them only under `official_padding`, which these tests switch on.
"""

import keras
import numpy as np
import pytest

from elcrec_tf.losses import bce_loss, elcm_paper, nt_xent
from elcrec_tf.masking import valid_mask
from elcrec_tf.model import ELCRec
from elcrec_tf.official import architecture, load_official_weights
from tests.toy import packed_rows

FILES = ("concat_full", "concat_padded", "shift_full")
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module", params=FILES)
def golden(request, shared):
    with np.load(shared / "reference" / f"golden_{request.param}.npz") as arrays:
        return request.param, {name: arrays[name] for name in arrays.files}


def official_model(name, golden, **options):
    weights = {key[2:]: value for key, value in golden.items() if key.startswith("w/")}
    shapes = architecture(weights)
    model = ELCRec(
        shapes["rows"] - 1,
        max_length=shapes["max_length"],
        hidden_size=shapes["hidden_size"],
        num_layers=shapes["num_layers"],
        num_clusters=shapes["num_clusters"],
        score="dot",
        next_item="bce",
        fusion=name.split("_")[0],
        intent_pooling="mean",
        cluster_form="paper",
        temperature=1.0,
        similarity="dot",
        sequence_pooling="flatten",
        official_padding=True,
        **options,
    )
    load_official_weights(model, weights)
    return model


def batch(golden):
    histories = {"examples": "input_ids", "view_a": "view_a", "view_b": "view_b"}
    x = {part: packed_rows(golden[name]) for part, name in histories.items()}
    y = {"target": golden["target_ids"].astype("int32"), "negative": golden["negative_ids"].astype("int32")}
    return keras.tree.map_structure(keras.ops.convert_to_tensor, (x, y))


def terms(model, golden):
    x, y = batch(golden)
    model.compute_loss(x, y, model(x, training=False), training=False)
    return {name: float(mean.result()) for name, mean in model.term_means.items()}


def test_encoder_states_and_scores(golden):
    """Valid positions match closely. Padding positions add -10000 to every attention score in float32, which rounds to 0.001."""
    name, arrays = golden
    model = official_model(name, arrays)
    for ids, states in (("input_ids", "hidden"), ("view_a", "hidden_view_a"), ("view_b", "hidden_view_b")):
        history = arrays[ids].astype("int32")
        ours, valid = np.asarray(model(history)["states"]), np.asarray(valid_mask(history))
        np.testing.assert_allclose(ours[valid], arrays[states][valid], **CLOSE)
        np.testing.assert_allclose(ours, arrays[states], atol=1e-3)
    np.testing.assert_allclose(model.scores(arrays["input_ids"].astype("int32")), arrays["scores_last"], **CLOSE)


def test_intent_index_and_pooled_embedding(golden):
    name, arrays = golden
    model = official_model(name, arrays)
    intents = np.asarray(model(arrays["input_ids"].astype("int32"))["intents"])
    np.testing.assert_array_equal(intents.argmax(-1), arrays["intent_index"])
    np.testing.assert_allclose(intents, arrays["user_embedding"] @ arrays["w/cluster_centers"].T, **CLOSE)


def test_nt_xent(golden):
    _, arrays = golden
    np.testing.assert_allclose(float(nt_xent(arrays["nce_a"], arrays["nce_b"], 1.0)), arrays["nce_loss"], **CLOSE)


def test_bce(golden):
    _, arrays = golden
    size = arrays["hidden"].shape[-1]
    ours = bce_loss(
        arrays["hidden"].reshape(-1, size),
        arrays["target_ids"].reshape(-1),
        arrays["negative_ids"].reshape(-1),
        arrays["w/item_embeddings.weight"].__getitem__,
    )
    np.testing.assert_allclose(float(ours), arrays["loss_next_item_bce"], **CLOSE)


def test_elcm_terms(golden):
    """Eq. 3's terms. The official code averages its first one over k^2 pairs, diagonal included: a factor (k-1)/k."""
    _, arrays = golden
    push, pull = elcm_paper(arrays["user_embedding"], arrays["w/cluster_centers"])
    k = len(arrays["w/cluster_centers"])
    np.testing.assert_allclose(float(pull), arrays["elcm_pull"], **CLOSE)
    np.testing.assert_allclose(float(push), arrays["elcm_push_paper"], **CLOSE)
    np.testing.assert_allclose(float(push) * (k - 1) / k, arrays["elcm_push_code"], **CLOSE)


@pytest.mark.parametrize("mask_same_intent", [False, True])
def test_whole_objective(golden, mask_same_intent):
    name, arrays = golden
    ours = terms(official_model(name, arrays, mask_same_intent=mask_same_intent), arrays)
    suffix = "_denoised" if mask_same_intent else ""
    np.testing.assert_allclose(ours["next_item"], arrays["loss_next_item_bce"], **CLOSE)
    np.testing.assert_allclose(ours["sequence"], arrays[f"loss_sequence_contrastive{suffix}"], **CLOSE)
    np.testing.assert_allclose(ours["intent"], arrays[f"loss_intent_contrastive{suffix}"], **CLOSE)
    np.testing.assert_allclose(ours["cluster"], arrays["elcm_pull"] + arrays["elcm_push_paper"], **CLOSE)
