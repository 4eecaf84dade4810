import numpy as np
import pytest

from elcrec_tf.data.catalog import Catalog
from elcrec_tf.data.sequences import Sequences
from elcrec_tf.data.splits import holdout_positions, training_ranges


@pytest.fixture
def sequences() -> Sequences:
    return Sequences(
        name="two",
        user_ids=np.array(["u", "v"], dtype=object),
        items=np.array([1, 2, 3, 4, 5, 3, 2, 1], np.int32),  # u: 1 2 3 4 5, v: 3 2 1
        offsets=np.array([0, 5, 8]),
        catalog=Catalog("abcde"),
    )


def test_training_part_is_all_but_the_last_two_events(sequences):
    starts, ends = training_ranges(sequences)
    assert starts.dtype == ends.dtype == np.int64
    parts = [sequences.items[start:end].tolist() for start, end in zip(starts, ends, strict=True)]
    assert parts == [[1, 2, 3], [3]]


@pytest.mark.parametrize(
    ("split", "targets", "histories"),
    [("validation", [4, 2], [[1, 2, 3], [3]]), ("test", [5, 1], [[1, 2, 3, 4], [3, 2]])],
)
def test_holdout_targets_and_their_histories(sequences, split, targets, histories):
    positions = holdout_positions(sequences, split)
    assert positions.dtype == np.int64
    assert sequences.items[positions].tolist() == targets
    found = [sequences.items[sequences.offsets[user] : positions[user]].tolist() for user in range(2)]
    assert found == histories


def test_unknown_split_is_refused(sequences):
    with pytest.raises(ValueError, match="train"):
        holdout_positions(sequences, "train")
