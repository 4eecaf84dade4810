import pytest

from elcrec_tf.config import DataConfig
from elcrec_tf.data.inherited import with_flags, without_empty_filter

STARS = DataConfig(dataset="log.csv", user_column="who", filter_column="stars", min_value=4.0)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, ("stars", 4.0, None)),
        ({"filter_column": "rating"}, ("rating", 4.0, None)),  # another name for the same column
        ({"keep_values": ("buy",), "filter_column": "event"}, ("event", None, ("buy",))),
        ({"filter_column": ""}, (None, None, None)),
        ({"filter_column": "", "min_value": 3.0}, (None, None, None)),
    ],
)
def test_flags_win_over_inherited_settings(flags, expected):
    config = with_flags(STARS, {**flags, "dataset": "new.csv"})
    assert (config.filter_column, config.min_value, config.keep_values) == expected
    assert (config.dataset, config.user_column) == ("new.csv", "who")


def test_a_filter_that_was_turned_off_stays_so():
    off = DataConfig(filter_column="", min_value=4.0)
    assert without_empty_filter(off) == with_flags(off, {}) == DataConfig()
    assert with_flags(off, {"min_value": 3.0}) == DataConfig(min_value=3.0)  # which the reader refuses: of which column?
