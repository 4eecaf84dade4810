import numpy as np

from elcrec_tf.data.transitions import likeliest_successors, transition_counts
from tests.toy import random_sequences, sequences_of


def test_transitions_by_hand():
    """The last two events of each user count nowhere, and users do not run into each other."""
    sequences = sequences_of([1, 2, 3, 1, 2, 3, 4], [2, 3, 2, 9, 9], [4, 1, 1])
    expected = np.zeros((10, 10))
    expected[1, 2], expected[2, 3], expected[3, 1], expected[3, 2] = 2, 2, 1, 1
    np.testing.assert_array_equal(transition_counts(sequences).toarray(), expected)


def test_transitions_over_several_places_by_hand():
    """Of 1, 2, 3, 2: one place apart 12, 23, 32, two apart 13, 22; three apart is too far."""
    counts = transition_counts(sequences_of([1, 2, 3, 2, 9, 9]), steps=2, decay=0.5).toarray()
    expected = np.zeros((10, 10))
    expected[1, 2], expected[2, 3], expected[3, 2], expected[1, 3], expected[2, 2] = 1, 1, 1, 0.5, 0.5
    np.testing.assert_array_equal(counts, expected)


def test_successors_by_hand():
    """After 1 came 3 twice, then 2 and 4 once: of equals the smaller index, and its share is of all four. 2 came after itself alone."""
    sequences = sequences_of([1, 3, 1, 3, 9, 9], [1, 2, 2, 9, 9], [1, 4, 9, 9])
    successors, shares = likeliest_successors(sequences, width=2, steps=1, decay=1.0)
    assert successors.dtype == np.int32 and shares.dtype == np.float32
    assert successors[[0, 1, 2, 3]].tolist() == [[0, 0], [3, 2], [0, 0], [1, 0]]
    assert shares[[0, 1, 2, 3]].tolist() == [[0, 0], [0.5, 0.25], [0, 0], [1, 0]]


def test_held_out_events_count_nowhere():
    sequences = random_sequences(num_users=30, num_items=20, longest=12)
    before = likeliest_successors(sequences, 4, 3, 0.5)
    for back in (1, 2):
        sequences.items[sequences.offsets[1:] - back] = 7
    for one, other in zip(before, likeliest_successors(sequences, 4, 3, 0.5), strict=True):
        np.testing.assert_array_equal(one, other)
