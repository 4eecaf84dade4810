"""Small sequences, configurations and models that many tests share."""

import numpy as np

from elcrec_tf.config import Config
from elcrec_tf.data.catalog import Catalog
from elcrec_tf.data.packing import pack
from elcrec_tf.data.sequences import Sequences

NUM_ITEMS = 6


def sequences_of(*users, num_items=None, counts=None) -> Sequences:
    """Sequences of the given lists of item indices."""
    num_items = num_items or max(max(user) for user in users)
    return Sequences(
        name="toy",
        user_ids=np.array([f"u{index}" for index in range(len(users))], dtype=object),
        items=np.concatenate(users).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum([len(user) for user in users])]).astype(np.int64),
        catalog=Catalog([f"i{index}" for index in range(1, num_items + 1)], counts),
    )


def random_sequences(num_users=40, num_items=60, shortest=3, longest=14, seed=0) -> Sequences:
    """Users of many lengths; no item occurs twice in a history."""
    rng = np.random.default_rng(seed)
    users = [rng.permutation(np.arange(1, num_items + 1))[: rng.integers(shortest, longest + 1)] for _ in range(num_users)]
    return sequences_of(*users, num_items=num_items)


def toy_config(**fields) -> Config:
    """A configuration of a tiny model, compiled nowhere; `fields` win."""
    small = {"max_length": 8, "hidden_size": 8, "num_layers": 1, "dropout": 0.0, "num_clusters": 4, "batch_size": 4}
    return Config().replace(**{**small, "xla": "off", "products": "float32", **fields})


def packed_rows(history):
    """Left-padded histories `[rows, length]` as a part of a training batch, one history a row."""
    rows, length = np.shape(history)
    return {
        "history": np.asarray(history, np.int32),
        "slot": np.repeat(np.arange(rows, dtype=np.int32)[:, None], length, axis=1),
        "distance": np.tile(np.arange(length, dtype=np.int32)[::-1], (rows, 1)),
        "last": np.arange(1, rows + 1, dtype=np.int32) * length - 1,
    }


def packed(histories, length, spare=0):
    """Lists of items as a part of a training batch, as many in a row of `length` as fit; each slot has `spare` cells of padding."""
    packing = pack(np.array([len(history) + spare for history in histories]), length)
    cells = np.zeros(packing.slot.size, np.int32)
    for history, last in zip(histories, packing.last, strict=True):
        cells[last + 1 - len(history) : last + 1] = history
    return {"history": cells.reshape(-1, length), "slot": packing.slot, "distance": packing.distance, "last": packing.last}


def rows_of(keys):
    """What gives a loss the rows of `keys`."""
    from keras import ops

    return lambda items: ops.take(keys, items, axis=0)


def toy_model(num_items=NUM_ITEMS, **arguments):
    """A tiny `ELCRec` without dropout, with weights large enough that no two scores are close."""
    import keras

    from elcrec_tf.model import ELCRec

    small = {"max_length": 6, "hidden_size": 8, "num_layers": 1, "num_heads": 2, "dropout": 0.0, "num_clusters": 3}
    keras.utils.set_random_seed(7)
    model = ELCRec(num_items, **{**small, **arguments})
    rng = np.random.default_rng(7)
    for table in (model.item_embedding.table, model.encoder.position_embedding.table):
        table.assign(rng.normal(size=table.shape).astype("float32"))
    return model
