import numpy as np
import pytest

from elcrec_tf.data.packing import pack


def check(packing, capacities, length):
    """Every slot has its cells side by side in one row, its last one where `last` says; the other cells belong to none."""
    assert packing.slot.shape == packing.distance.shape and packing.slot.shape[1] == length
    assert packing.slot.dtype == packing.distance.dtype == packing.last.dtype == np.int32
    slot, distance = packing.slot.reshape(-1), packing.distance.reshape(-1)
    np.testing.assert_array_equal(np.bincount(slot, minlength=len(capacities) + 1)[:-1], capacities)
    for number, (capacity, last) in enumerate(zip(capacities, packing.last, strict=True)):
        cells = np.flatnonzero(slot == number)
        np.testing.assert_array_equal(cells, np.arange(last - capacity + 1, last + 1))
        np.testing.assert_array_equal(distance[cells], np.arange(capacity)[::-1])
        assert cells[0] // length == last // length
    assert slot.max() <= len(capacities)


def test_by_hand():
    packing = pack(np.array([1, 3, 2]), 4)
    assert packing.slot.tolist() == [[1, 1, 1, 0], [2, 2, 3, 3]]
    assert packing.distance.tolist() == [[2, 1, 0, 0], [1, 0, 0, 0]]
    assert packing.last.tolist() == [3, 2, 5]


def test_slots_of_full_length_have_rows_of_their_own_in_order():
    packing = pack(np.full(5, 3), 3)
    np.testing.assert_array_equal(packing.slot, np.repeat(np.arange(5)[:, None], 3, axis=1))
    assert packing.last.tolist() == [2, 5, 8, 11, 14]


@pytest.mark.parametrize("seed", range(20))
def test_every_slot_has_its_capacity(seed):
    rng = np.random.default_rng(seed)
    length = int(rng.integers(1, 40))
    capacities = rng.integers(1, length + 1, rng.integers(1, 200))
    packing = pack(capacities, length)
    check(packing, capacities, length)
    assert packing.slot.shape[0] <= 11 / 9 * rows_needed(capacities, length) + 1


def rows_needed(capacities, length):
    """A lower bound: as many as the cells fill, and one for each slot that is longer than half a row."""
    return max(-(-capacities.sum() // length), np.sum(capacities > length / 2))


@pytest.mark.parametrize("seed", range(5))
def test_hardly_a_cell_is_wasted_where_many_slots_are_short(seed):
    rng = np.random.default_rng(seed)
    capacities = np.minimum(1 + rng.exponential(8, 256).astype(int), 50)
    packing = pack(capacities, 50)
    check(packing, capacities, 50)
    assert packing.slot.shape[0] <= rows_needed(capacities, 50) + 1


def test_order_of_the_slots_does_not_change_the_number_of_rows():
    capacities = np.random.default_rng(0).integers(1, 20, 100)
    assert pack(capacities, 20).slot.shape == pack(np.sort(capacities), 20).slot.shape == pack(capacities[::-1], 20).slot.shape
