"""A tiny model with random weights, its catalogue, and one export of both."""

import keras
import numpy as np
import pytest

from elcrec_tf.data.catalog import Catalog
from elcrec_tf.model import ELCRec
from elcrec_tf.serving.saved_model import export_saved_model

# Ids that text formats, shells and padding could trip over.
ODD = ["new\nline", "tab\tid", " ", "  two  ", "日本語", "😀", 'quo"te', "comma,id", "\\n", "[red]", "é", "e\u0301"]
CLOSE = {"rtol": 1e-5, "atol": 1e-5}  # scores reach 10, so those near 0 have an error of that scale
TITLES = {"i1": "The [bold] title", "日本語": "タイトル", "new\nline": "two\nlines"}


def tiny_model(num_items, **options):
    keras.utils.set_random_seed(3)
    options = {"max_length": 6, "hidden_size": 8, "num_layers": 2, "num_heads": 2, "num_clusters": 5, **options}
    return ELCRec(num_items, **options)


def tiny_catalog():
    ids = [f"i{number}" for number in range(1, 19)] + ODD
    return Catalog(ids, counts=np.arange(len(ids)) * 7 % 5, titles=TITLES)


def padded(items, length):
    """The latest `length` item indices, left-padded, int32 `[1, length]`."""
    return np.array([[0] * (length - len(items)) + list(items[-length:])], np.int32)


def by_hand(model, catalog, history, k, include_history=False):
    """What the model recommends for one history, from `ELCRec.scores` alone: (ids, scores)."""
    items = [index for index in catalog.index(history) if index]
    scores = np.array(model.scores(padded(items, model.encoder.max_length)), np.float32)[0]
    scores[[0] if include_history else [0, *items]] = -np.inf
    best = np.argsort(-scores, kind="stable")[:k]
    return [raw if score > -np.inf else "" for raw, score in zip(catalog.raw(best), scores[best], strict=True)], scores[best]


def popular(catalog, k):
    """The most popular items, ties in the order of the catalogue: (ids, counts)."""
    best = sorted(range(catalog.num_items), key=lambda item: (-catalog.counts[item], item))[:k]
    return [catalog.ids[item] for item in best], [catalog.counts[item] for item in best]


@pytest.fixture(scope="session")
def catalog():
    return tiny_catalog()


@pytest.fixture(scope="session")
def model(catalog):
    return tiny_model(catalog.num_items)


@pytest.fixture(scope="session")
def exported(model, catalog, tmp_path_factory):
    """The model's folder with one version; read only."""
    folder = tmp_path_factory.mktemp("exported") / "tiny"
    export_saved_model(model, catalog, folder, top_k=12, metadata={"config": {"preset": "default"}, "test_metrics": {"HR@10": 0.5}})
    return folder
