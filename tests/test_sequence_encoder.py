import keras
import numpy as np
import pytest

from elcrec_tf.layers.item_embedding import ItemEmbedding
from elcrec_tf.sequence_encoder import SequenceEncoder
from tests.layers.check_layer import check_layer
from tests.toy import packed

MAX_LENGTH = 6
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
HISTORIES = np.array([[0, 0, 3, 1, 4, 2], [5, 9, 2, 6, 5, 3], [0, 0, 0, 0, 0, 7]], "int32")


def make(**arguments):
    items = ItemEmbedding(9, 8, name="items")
    return SequenceEncoder(items, **{"max_length": MAX_LENGTH, "num_layers": 2, "num_heads": 2, "dropout": 0.5, **arguments})


@pytest.fixture(scope="module", params=[{}, {"activity_bounds": [1, 3]}, {"local_width": 2}], ids=["plain", "activity", "local filter"])
def encoder(request):
    keras.utils.set_random_seed(3)
    encoder = make(**request.param)
    encoder(HISTORIES)
    rng = np.random.default_rng(0)
    for weight in encoder.trainable_weights:  # large enough that a leak between positions would show
        if len(weight.shape) == 2:
            weight.assign(rng.normal(size=weight.shape).astype("float32") * 0.5)
    return encoder


def states(encoder, history):
    return np.asarray(encoder(np.asarray(history, "int32"), training=False))


def test_layer(tmp_path):
    items = ItemEmbedding(9, 8, "dot", name="items")
    arguments = {"item_embedding": items, "max_length": MAX_LENGTH, "num_layers": 1, "num_heads": 2, "dropout": 0.1}
    assert check_layer(SequenceEncoder, arguments, (HISTORIES,), tmp_path, trains=False).shape == (3, MAX_LENGTH, 8)


@pytest.mark.parametrize("length", [1, 2, MAX_LENGTH - 1, MAX_LENGTH])
def test_padding_in_front_changes_no_state(encoder, length):
    history = np.arange(1, length + 1)[None]
    bare = states(encoder, history)
    assert bare.shape == (1, length, 8)
    for padding in range(MAX_LENGTH - length + 1):
        padded = states(encoder, np.pad(history, [(0, 0), (padding, 0)]))
        np.testing.assert_allclose(padded[:, padding:], bare, **CLOSE)


def test_no_items_at_all():
    assert states(make(), np.zeros((2, 0), "int32")).shape == (2, 0, 8)


def test_a_too_long_history_is_refused(encoder):
    with pytest.raises(ValueError, match="prepare it first"):
        states(encoder, np.ones((1, MAX_LENGTH + 1)))


@pytest.mark.parametrize("place", range(1, MAX_LENGTH))
def test_a_later_item_changes_no_earlier_state(encoder, place):
    changed = HISTORIES.copy()
    changed[1, place] = 8
    before, after = states(encoder, HISTORIES)[1], states(encoder, changed)[1]
    np.testing.assert_allclose(after[:place], before[:place], **CLOSE)
    assert (np.abs(after[place:] - before[place:]).max(-1) > 1e-3).all()  # every state from there on sees it


def test_rows_do_not_depend_on_their_batch(encoder):
    together = states(encoder, HISTORIES)
    np.testing.assert_allclose(states(encoder, HISTORIES[::-1])[::-1], together, **CLOSE)
    for row in range(len(HISTORIES)):
        np.testing.assert_allclose(states(encoder, HISTORIES[row : row + 1])[0], together[row], **CLOSE)


PACKED = [[3, 1], [5, 9, 2], [7], [4, 4, 8, 6], [2, 6]]  # two in a row of six, one beside two, and two cells of padding


def packed_states(encoder, histories, spare=0, wanted=None):
    """(the part, states of each history) of several histories in a row."""
    part = packed(histories, MAX_LENGTH, spare)
    output = np.asarray(encoder(part["history"], part["slot"], part["distance"], wanted)).reshape(-1, 8)
    assert np.isfinite(output).all()
    if wanted is not None:
        return part, output
    return part, [output[last + 1 - len(history) : last + 1] for history, last in zip(histories, part["last"], strict=True)]


@pytest.mark.parametrize("spare", [0, 1])
def test_histories_that_share_a_row_have_the_states_of_one_a_row(encoder, spare):
    """Padding in front of a history within its slot changes nothing either."""
    part, found = packed_states(encoder, PACKED, spare)
    assert len(part["history"]) < len(PACKED)
    for history, ours in zip(PACKED, found, strict=True):
        np.testing.assert_allclose(ours, states(encoder, [history])[0], **CLOSE)


@pytest.mark.parametrize("changed", range(len(PACKED)))
def test_a_history_changes_no_state_of_another_in_its_row(encoder, changed):
    histories = [[item % 9 + 1 for item in history] if index == changed else history for index, history in enumerate(PACKED)]
    _, before = packed_states(encoder, PACKED)
    _, after = packed_states(encoder, histories)
    for index, (ours, theirs) in enumerate(zip(after, before, strict=True)):
        if index == changed:
            assert np.abs(ours - theirs).max() > 1e-3
        else:
            np.testing.assert_array_equal(ours, theirs)


def test_wanted_states_are_those_of_all(encoder):
    part, found = packed_states(encoder, PACKED)
    _, last = packed_states(encoder, PACKED, wanted=part["last"])
    np.testing.assert_allclose(last, [ours[-1] for ours in found], **CLOSE)


def test_order_of_items_matters(encoder):
    """The last state of the same items in another order differs: positions are read."""
    last = states(encoder, [[1, 2, 3, 4], [2, 1, 3, 4]])[:, -1]
    assert np.abs(last[0] - last[1]).max() > 1e-2


def test_a_row_of_padding_is_finite(encoder):
    assert np.isfinite(states(encoder, np.zeros((2, MAX_LENGTH)))).all()


def test_dropout_is_off_outside_training(encoder):
    np.testing.assert_array_equal(states(encoder, HISTORIES), states(encoder, HISTORIES))
    noisy = [np.asarray(encoder(HISTORIES, training=True)) for _ in range(2)]
    assert np.abs(noisy[0] - noisy[1]).max() > 0.1


def test_the_item_table_is_shared(encoder):
    """The encoder uses the table that scores; it makes no copy."""
    assert sum(weight.path.endswith("items/table") for weight in encoder.weights) == 1
    assert encoder.item_embedding.table.shape == (10, 8)
