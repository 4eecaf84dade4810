import itertools

import numpy as np
import pytest

from elcrec_tf.data.buckets import bucket_widths


def positions(lengths, widths):
    """Padded positions: every example takes the smallest width that holds it."""
    return sum(min(width for width in widths if width >= length) for length in lengths)


@pytest.mark.parametrize(
    ("lengths", "count", "widths"),
    [
        ([5], 1, (5,)),
        ([5, 5, 5], 4, (5,)),
        ([1, 9], 1, (9,)),
        ([1, 9], 2, (1, 9)),
        # With widths (2, 9): 3 * 2 + 9 = 15 positions; with (1, 9): 1 + 3 * 9 = 28.
        ([1, 2, 2, 9], 2, (2, 9)),
        # Ten of length 8 are better off alone, though 9 is near: (8, 9) takes 11 * 8 + 9 = 97, (1, 9) takes 1 + 99.
        ([1, *[8] * 10, 9], 2, (8, 9)),
    ],
)
def test_by_hand(lengths, count, widths):
    assert bucket_widths(np.array(lengths), count) == widths


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [1, 2, 3, 4, 20])
def test_as_good_as_brute_force(seed, count):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 10, rng.integers(1, 30)) ** rng.integers(1, 3)
    widths = bucket_widths(lengths, count)
    distinct = sorted(set(lengths.tolist()))
    assert list(widths) == sorted(set(widths)) and set(widths) <= set(distinct)
    assert len(widths) <= count and widths[-1] == distinct[-1]
    assert all(type(width) is int for width in widths)
    choices = ((*inner, distinct[-1]) for size in range(min(count, len(distinct))) for inner in itertools.combinations(distinct[:-1], size))
    assert positions(lengths, widths) == min(positions(lengths, choice) for choice in choices)
