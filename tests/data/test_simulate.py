import dataclasses

import numpy as np
import pytest

from elcrec_tf.config import SimulatorConfig
from elcrec_tf.data.planted import YEAR_SECONDS, YEAR_START, PlantedIntents, year_fraction
from elcrec_tf.data.sequences import Sequences
from elcrec_tf.data.simulate import planted, simulate
from elcrec_tf.errors import UserError


@pytest.fixture(scope="module")
def default() -> Sequences:
    return simulate(SimulatorConfig())


def in_region(world: PlantedIntents) -> np.ndarray:
    """`[intents, items + 1]` True where an item belongs to an intent."""
    return world.item_probabilities(np.arange(world.num_intents), np.zeros(world.num_intents)) > 0


def is_first(sequences: Sequences) -> np.ndarray:
    first = np.zeros(sequences.num_events, bool)
    first[sequences.offsets[:-1]] = True
    return first


def test_shapes_types_and_ids(default):
    config = SimulatorConfig()
    assert default.name == "simulated"
    assert default.num_users == config.sim_users
    assert default.catalog.num_items == config.sim_items
    assert (default.items.dtype, default.intents.dtype, default.timestamps.dtype, default.offsets.dtype) == (
        np.int32,
        np.int32,
        np.int64,
        np.int64,
    )
    assert len(default.items) == len(default.intents) == len(default.timestamps) == default.offsets[-1]
    assert default.catalog.raw([1, 42, 1000]) == ["item-0001", "item-0042", "item-1000"]
    assert list(default.user_ids[[0, 17]]) == ["user-00000", "user-00017"]


def test_deterministic_by_seed(default):
    again = simulate(SimulatorConfig())
    assert again.fingerprint == default.fingerprint
    assert np.array_equal(again.intents, default.intents)
    assert np.array_equal(again.timestamps, default.timestamps)
    assert again.catalog.titles == default.catalog.titles
    assert simulate(SimulatorConfig(sim_seed=1)).fingerprint != default.fingerprint


def test_the_catalogue_does_not_depend_on_the_users():
    few, many = planted(SimulatorConfig(sim_users=10)), planted(SimulatorConfig(sim_users=100, sim_events=20))
    assert np.array_equal(few.items, many.items)
    assert not np.array_equal(few.items, planted(SimulatorConfig(sim_seed=1)).items)


@pytest.mark.parametrize("changes", [{}, {"sim_items": 100, "sim_intents": 20, "sim_events": 30.0}, {"sim_drift": 0.5}])
def test_items_and_intents_in_range_and_no_repeats(changes):
    config = SimulatorConfig(sim_users=500, **changes)
    sequences = simulate(config)
    assert sequences.items.min() >= 1 and sequences.items.max() <= config.sim_items
    assert sequences.intents.min() >= 0 and sequences.intents.max() < config.sim_intents
    for user in range(sequences.num_users):
        assert len(np.unique(sequences[user])) == len(sequences[user])


def test_activity_varies_and_nobody_has_too_few_events(default):
    lengths = np.diff(default.offsets)
    assert lengths.min() == 5
    assert lengths.mean() == pytest.approx(16, rel=0.05)
    assert lengths.std() > 8
    assert np.quantile(lengths, 0.99) > 3 * np.median(lengths)  # a heavy tail
    assert abs(np.corrcoef(np.arange(len(lengths)), lengths)[0, 1]) < 0.1  # users are in no order of activity


def test_smallest_activity():
    assert set(np.diff(simulate(SimulatorConfig(sim_users=50, sim_events=5)).offsets)) == {5}


def test_timestamps_increase_within_the_year(default):
    assert (np.diff(default.timestamps)[~is_first(default)[1:]] > 0).all()
    assert YEAR_START <= default.timestamps.min() and default.timestamps.max() < YEAR_START + YEAR_SECONDS
    # All of the year is in use, both halves alike.
    assert np.median(year_fraction(default.timestamps)) == pytest.approx(0.5, abs=0.03)
    assert np.histogram(year_fraction(default.timestamps), bins=10, range=(0, 1))[0].min() > 0.04 * default.num_events


def test_intents_persist_and_switch(default):
    switched = (np.diff(default.intents) != 0) & ~is_first(default)[1:]
    assert switched.sum() / default.num_users >= 1
    assert switched.sum() / (~is_first(default)).sum() == pytest.approx(0.1, abs=0.01)
    held = [len(np.unique(default.intents[a:b])) for a, b in zip(default.offsets[:-1], default.offsets[1:], strict=True)]
    assert np.median(held) <= 3
    assert np.bincount(default.intents, minlength=32).min() > 0.5 * default.num_events / 32


def test_share_of_shared_items(default):
    regions = in_region(planted(SimulatorConfig())).sum(axis=0)[1:]
    assert set(regions) == {1, 2}
    assert (regions == 2).mean() == 0.25


def test_share_of_noise(default):
    # An event whose item is not its intent's is noise for certain; noise that lands in the region by chance is not even counted.
    noise = ~in_region(planted(SimulatorConfig()))[default.intents, default.items]
    assert noise.mean() >= 0.1
    assert noise.mean() == pytest.approx(0.12, abs=0.01)


def test_zipf_popularity():
    # First events only, without noise: untouched by the no-repeat rule. 4 regions of 20 items, p(rank) ~ 1 / rank.
    config = SimulatorConfig(sim_users=40_000, sim_items=80, sim_intents=4, sim_events=5, sim_shared=0, sim_noise=0)
    sequences, world = simulate(config), planted(config)
    rank = np.zeros(81, int)
    rank[world.items] = np.arange(1, 21)
    counts = np.bincount(rank[sequences.items[sequences.offsets[:-1]]], minlength=21)[1:]
    expected = 1 / np.arange(1, 21)
    assert counts / counts.sum() == pytest.approx(expected / expected.sum(), abs=0.01)
    slope, _ = np.polyfit(np.log(np.arange(1, 21)), np.log(counts), 1)
    assert slope == pytest.approx(-1, abs=0.05)


def test_an_exhausted_region_gives_noise():
    # One intent for life, in a region of 5 items: events 6 to 10 have to come from elsewhere.
    config = SimulatorConfig(sim_users=50, sim_items=40, sim_intents=8, sim_events=20, sim_switch=0, sim_shared=0, sim_noise=0)
    sequences, regions = simulate(config), in_region(planted(config))
    for user in range(sequences.num_users):
        own = regions[sequences.intents[sequences.offsets[user]], sequences[user]]
        assert own[:5].all() and not own[5:].any()


def test_counts_leave_out_the_last_two_events(default):
    counts = np.zeros(1001, int)
    for user in range(default.num_users):
        counts[default[user][:-2]] += 1
    assert np.array_equal(default.catalog.counts, counts[1:])


def test_titles_tell_the_intents(default):
    world, regions = planted(SimulatorConfig()), in_region(planted(SimulatorConfig()))
    assert default.catalog.titles[default.catalog.ids[world.items[7, 2] - 1]].count("intent 07 / rank 3") == 1
    shared = 1 + int(np.argmax(regions[:, 1:].sum(axis=0)))
    first, second = np.flatnonzero(regions[:, shared])
    title = default.catalog.titles[default.catalog.ids[shared - 1]]
    assert title.startswith(f"intent {first:02d} / rank ") and f", intent {second:02d} / rank " in title


def distance_over_the_year(sequences: Sequences, intents: np.ndarray | int) -> float:
    """Total variation between the frequencies of (intent, item) in the first and in the last tenth of the year."""
    fractions = year_fraction(sequences.timestamps)
    pairs = intents * (sequences.catalog.num_items + 1) + sequences.items
    early, late = (np.bincount(pairs[part], minlength=pairs.max() + 1) / part.sum() for part in (fractions < 0.1, fractions > 0.9))
    return 0.5 * np.abs(early - late).sum()


def test_drift_moves_items_and_is_off_by_default():
    still = SimulatorConfig(sim_users=8000, sim_items=200, sim_intents=8)
    moving = dataclasses.replace(still, sim_drift=0.8)
    assert not planted(still).drifts and planted(moving).drifts
    before, after = simulate(still), simulate(moving)
    # Not 0 without drift: few events, and a user's later items are less popular.
    assert distance_over_the_year(before, 0) < 0.15
    assert distance_over_the_year(after, 0) > 0.2
    assert distance_over_the_year(before, before.intents) < 0.25
    assert distance_over_the_year(after, after.intents) > 0.5
    moved = planted(moving).items != planted(moving).end_items
    assert moved.sum() / (planted(moving).items > 0).sum() == pytest.approx(0.8, abs=0.05)
    assert np.array_equal(np.sort(planted(moving).items.ravel()), np.sort(planted(moving).end_items.ravel()))


def test_a_single_intent():
    sequences = simulate(SimulatorConfig(sim_users=20, sim_items=50, sim_intents=1, sim_shared=0))
    assert not sequences.intents.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sim_items": 60}, r"sim_items should be at least twice simulator\.sim_intents.*60 items and 32 intents"),
        ({"sim_intents": 1}, r"sim_shared should be 0 with a single intent"),
        ({"sim_events": 501}, r"sim_events should be at most half of simulator\.sim_items.*501 events and 1000 items"),
    ],
)
def test_sizes_that_do_not_fit(changes, message):
    with pytest.raises(UserError, match=message):
        simulate(SimulatorConfig(**changes))


def test_another_population_has_other_users_of_the_same_world():
    config = SimulatorConfig(sim_users=50, sim_items=60, sim_intents=4)
    first, other = simulate(config), simulate(config, population=1)
    assert simulate(config, population=0).fingerprint == first.fingerprint != other.fingerprint
    assert other.catalog.titles == first.catalog.titles
    assert simulate(config, population=2).fingerprint != other.fingerprint
