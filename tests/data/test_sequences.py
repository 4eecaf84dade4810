from dataclasses import replace

from tests.toy import sequences_of


def test_the_description_is_one_line_of_sizes():
    sequences = sequences_of(*[[1, 2, 3]] * 500, num_items=1234)
    assert sequences.description == "toy: 500 users, 1,234 items, 1,500 events"


def test_the_description_says_what_was_left_out():
    sequences = replace(sequences_of([1, 2, 3]), dropped={"k-core": 1200, "filtered out by stars": 3})
    assert sequences.description == "toy: 1 users, 3 items, 3 events; left out: 1,200 k-core, 3 filtered out by stars"
