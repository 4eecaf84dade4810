"""The gate's checks by hand."""

import dataclasses

import pytest

from pipelines.production.gate import Limits, at_least, at_most, data_checks, model_checks, relative, verdict

HOUR = 3600
DATA = {"rows": 1000, "rejected": {"malformed row": 4, "bad or missing item": 6}, "users": 110, "items": 50, "events": 990}
DATA |= {"newest": 20 * HOUR, "newest_seconds": 20 * HOUR}
LAST = {"users": 100, "items": 50, "events": 900, "newest_seconds": 18 * HOUR}
MOVED = {"items": {"new": 5, "gone": 1}, "events_on_new_items": 0.02, "popularity_divergence": 0.1}
FOUND = {
    "new": {"NDCG@20": 0.19},
    "popularity": {"NDCG@20": 0.1},
    "serving": {
        "all": {"new": 0.19, "old": 0.2, "error": 0.01, "users": 100},
        "known": {"new": 0.2, "old": 0.21, "error": 0.01, "users": 90},
    },
    "parity": {"users": 100, "score_difference": 1e-6, "other_items": 0},
}


def failed(checks):
    return [check.name for check in checks if not check.passed]


def on_data(limits=None, last=LAST, moved=MOVED, clock=21 * HOUR, **changes):
    return data_checks({**DATA, **changes}, last, moved, limits or Limits(), clock)


def on_model(limits=None, **changes):
    return model_checks({**FOUND, **changes}, "NDCG@20", limits or Limits())


def test_good_data_passes_every_check():
    checks = on_data(Limits(max_age=2))
    assert not failed(checks) and len(checks) == 9 and not failed(on_data())
    assert verdict(checks)["passed"]
    values = {check.name: check.value for check in checks}
    assert values["data: share of rejected rows"] == pytest.approx(0.01)
    assert values["data: change of the number of users"] == pytest.approx(0.1)
    assert values["data: hours from the last run's newest event to this one's"] == 2


@pytest.mark.parametrize(
    ("changes", "limits", "name"),
    [
        ({"rejected": {"malformed row": 11}}, {}, "data: share of rejected rows"),
        ({"users": 49}, {}, "data: change of the number of users"),
        ({"items": 76}, {}, "data: change of the number of items"),
        ({"events": 440}, {}, "data: change of the number of events"),
        ({"newest_seconds": 17 * HOUR}, {}, "data: hours from the last run's newest event to this one's"),
        ({}, {"max_unknown": 0.01}, "data: share of events on items unknown to serving"),
        ({}, {"max_divergence": 0.05}, "data: divergence of the items' popularity, bits"),
        ({}, {"max_age": 0.5}, "data: hours since the newest event"),
        ({"newest_seconds": 46 * HOUR}, {}, "data: hours by which the newest event lies in the future"),
        ({"newest_seconds": 23 * HOUR}, {"max_ahead": 1.5}, "data: hours by which the newest event lies in the future"),
    ],
)
def test_each_fault_of_the_data_fails_its_own_check(changes, limits, name):
    checks = on_data(dataclasses.replace(Limits(), **limits), **changes)
    assert failed(checks) == [name]
    assert not verdict(checks)["passed"]


def test_a_last_run_from_the_future_blocks_no_later_one():
    assert not failed(on_data(last={**LAST, "newest_seconds": 1e9 * HOUR}))


def test_the_first_run_has_nothing_to_be_compared_with():
    names = [check.name for check in on_data(last=None, moved=None)]
    assert names == ["data: share of rejected rows", "data: hours by which the newest event lies in the future"]
    names = [check.name for check in on_model(serving=None)]
    assert names[0] == "model: validation NDCG@20 against popularity, relative" and len(names) == 3


def test_a_drop_within_the_limit_passes_and_beyond_fails():
    # .19 is 5 % below .2, .2 is 4.8 % below .21
    assert not failed(on_model(Limits(max_drop=0.0501)))
    assert failed(on_model(Limits(max_drop=0.049))) == ["model: validation NDCG@20 against serving, relative"]
    known = {"all": FOUND["serving"]["all"], "known": {**FOUND["serving"]["known"], "new": 0.15}}
    assert failed(on_model(Limits(max_drop=0.06), serving=known)) == [
        "model: validation NDCG@20 against serving, on items known to it, relative"
    ]


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"popularity": {"NDCG@20": 0.191}}, "model: validation NDCG@20 against popularity, relative"),
        ({"popularity": {"NDCG@20": 0.19}}, "model: validation NDCG@20 against popularity, relative"),
        ({"parity": {"users": 1, "score_difference": 0.002, "other_items": 0}}, "export: largest difference of a score from the model's"),
        ({"parity": {"users": 1, "score_difference": None, "other_items": 0}}, "export: largest difference of a score from the model's"),
        ({"parity": {"users": 1, "score_difference": 0.0, "other_items": 1}}, "export: items that the model would not answer"),
    ],
)
def test_each_fault_of_the_model_fails_its_own_check(changes, name):
    assert failed(on_model(Limits(max_drop=0.1), **changes)) == [name]


def test_a_model_that_hits_nothing_is_not_better_than_popularity_that_hits_nothing_either():
    found = {"new": {"NDCG@20": 0.0}, "popularity": {"NDCG@20": 0.0}, "serving": None}
    assert failed(on_model(**found)) == ["model: validation NDCG@20 against popularity, relative"]
    (check,) = (check for check in on_model(**found) if not check.passed)
    assert (check.bound, check.limit, check.value) == ("more than", 0, 0)


def test_a_floor_is_optional():
    assert failed(on_model(Limits(max_drop=0.1, min_metric=0.2))) == ["model: validation NDCG@20"]
    assert not failed(on_model(Limits(max_drop=0.1, min_metric=0.19)))


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_never_passes(value):
    for check in (at_least("x", value, -1e9), at_most("x", value, 1e9)):
        assert not check.passed and check.value is None


def test_relative_changes():
    assert relative(3, 4) == -0.25
    assert (relative(0, 0), relative(1, 0)) == (0, 1)
