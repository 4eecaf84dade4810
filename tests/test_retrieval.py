import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from elcrec_tf.ranking import ranking_metrics, target_ranks
from elcrec_tf.retrieval import ItemIndex, tensorflow_recommenders

EVERY_MODULE = """
import importlib, pkgutil
import elcrec_tf
for module in pkgutil.walk_packages(elcrec_tf.__path__, "elcrec_tf."):
    importlib.import_module(module.name)
from elcrec_tf.retrieval import tensorflow_recommenders
tensorflow_recommenders()
print("loaded")
"""
TOO_LATE = """
import tensorflow as tf
tf.keras.layers.Dense
from elcrec_tf.errors import UserError
from elcrec_tf.retrieval import tensorflow_recommenders
try:
    tensorflow_recommenders()
except UserError as error:
    print(error)
"""


def embeddings(items=7, size=4):
    return np.random.default_rng(0).normal(size=(items, size)).astype(np.float32)


@pytest.mark.parametrize("kind", ["brute_force", "streaming"])
def test_an_index_finds_the_largest_dot_products(kind, tmp_path):
    vectors, ids = embeddings(), [f"i{number}" for number in range(7)]
    index = ItemIndex(ids, vectors, k=3, kind=kind)
    queries = embeddings(2)
    expected = np.argsort(-queries @ vectors.T, axis=1)[:, :3]
    tf.saved_model.save(index, str(tmp_path), signatures={"serving_default": index.query.get_concrete_function()})
    reloaded = tf.saved_model.load(str(tmp_path))
    for query in (index.query, reloaded.signatures["serving_default"]):
        found = query(embedding=tf.constant(queries))
        assert found["item_ids"].numpy().astype(str).tolist() == np.array(ids)[expected].tolist()
        np.testing.assert_allclose(found["scores"], np.take_along_axis(queries @ vectors.T, expected, 1), rtol=1e-5)


def test_a_rebuilt_index_knows_new_items_without_a_new_model():
    vectors = embeddings()
    new = np.concatenate([vectors, 10 * vectors[:1]])
    index = ItemIndex([*map(str, range(7)), "new"], new, k=1)
    assert index.query(tf.constant(vectors[:1]))["item_ids"].numpy().tolist() == [[b"new"]]


@pytest.mark.parametrize(("options", "message"), [({"kind": "tree"}, "kind='tree'"), ({"k": 8}, "k=8"), ({"k": 0}, "k=0")])
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ItemIndex(list("abcdefg"), embeddings(), **options)


def test_factorized_top_k_agrees_with_our_hit_rates():
    # Multiples of 1/16: products and sums of so few are exact, so no rank depends on the order of an addition.
    queries, keys = (np.round(16 * embeddings(rows, 4)) / 16 for rows in (50, 61))
    targets = np.random.default_rng(1).integers(1, 61, 50)
    candidates = tf.data.Dataset.from_tensor_slices(keys[1:]).batch(16)
    metric = tensorflow_recommenders().metrics.FactorizedTopK(candidates, ks=(5, 10, 20))
    metric.update_state(queries, keys[targets])
    scores = queries @ keys.T
    scores[:, 0] = -np.inf
    ours = ranking_metrics(np.array(target_ranks(scores, targets)))
    np.testing.assert_allclose([float(value) for value in metric.result()], [ours[f"HR@{k}"] for k in (5, 10, 20)], rtol=1e-6)


def test_too_late_for_the_legacy_switch_is_one_clear_line():
    environment = {name: value for name, value in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
    answer = subprocess.run([sys.executable, "-c", TOO_LATE], capture_output=True, text=True, env=environment)
    assert answer.stdout.startswith("tensorflow-recommenders needs tf.keras to be Keras 2"), answer.stderr
    assert answer.stdout.count("\n") == 1


def test_no_module_of_the_package_uses_tf_keras_first():
    environment = {name: value for name, value in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
    answer = subprocess.run([sys.executable, "-c", EVERY_MODULE], capture_output=True, text=True, env=environment)
    assert answer.stdout == "loaded\n", answer.stderr
