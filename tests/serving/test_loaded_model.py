import ctypes
import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from elcrec_tf.serving import saved_model
from elcrec_tf.serving.batching import BatchOptions
from elcrec_tf.serving.loaded_model import LoadedModel
from elcrec_tf.serving.servable import Servable
from elcrec_tf.serving.tensors import to_tensor
from tests.serving.conftest import tiny_catalog, tiny_model
from tests.serving.toy_servable import write_toy


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return write_toy(tmp_path_factory.mktemp("toy"), 7)


def test_it_has_the_weights_of_the_file(toy):
    model = LoadedModel(toy)
    count = model.signatures["count"]
    ask = model.callable(lambda history: list(count(history=history).values()), [tf.TensorSpec([None, None], tf.string)])
    assert [values.tolist() for values in ask(np.array([[b"a", b""]], object))] in ([[1], [7]], [[7], [1]])


def test_texts_keep_their_last_zero_bytes(toy):
    same = LoadedModel(toy).callable(lambda text: [tf.identity(text)], [tf.TensorSpec([], tf.string)])
    assert same(np.array(b"ab\0\0", object)) == [b"ab\0\0"]


def test_what_is_closed_is_freed(toy):
    servable = Servable(toy, 7, BatchOptions(8, 0, 1), 8)
    session = weakref.ref(servable._model._session)
    servable.signature("count").answer({"history": to_tensor(np.array([[b"a"]], object))})
    servable.close()
    del servable
    gc.collect()
    assert session() is None


def _resident_bytes():
    """What is in use: glibc keeps a part of what was freed unless it is asked."""
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.slow
def test_versions_that_come_and_go_leave_nothing_in_memory(tmp_path):
    """Batched functions of a whole model, most of all: in the eager runtime each version would leave tens of megabytes."""
    catalog = tiny_catalog()
    folder = saved_model.export_saved_model(tiny_model(catalog.num_items), catalog, tmp_path / "model", top_k=10)
    sizes = []
    for version in range(6):
        Servable(folder, version, BatchOptions(8, 0, 1), 8).close()  # its warm-up asks every signature
        gc.collect()
        sizes.append(_resident_bytes())
    assert sizes[-1] - sizes[2] < 30 << 20
