from dataclasses import replace

import numpy as np

from elcrec_tf.data.catalog import Catalog
from tests.toy import sequences_of


def test_the_description_is_one_line_of_sizes():
    sequences = sequences_of(*[[1, 2, 3]] * 500, num_items=1234)
    assert sequences.description == "toy: 500 users, 1,234 items, 1,500 events"


def test_the_description_says_what_was_left_out():
    sequences = replace(sequences_of([1, 2, 3]), dropped={"k-core": 1200, "filtered out by stars": 3})
    assert sequences.description == "toy: 1 users, 3 items, 3 events; left out: 1,200 k-core, 3 filtered out by stars"


def test_another_catalogue_keeps_its_counts_unless_items_are_counted_anew():
    """Without item 4 the events before it are held out."""
    sequences = sequences_of([1, 2, 3, 1, 4], [2, 1, 3])
    model = Catalog(["i3", "i2", "i1"], np.array([7, 8, 9]))
    assert sequences.with_catalog(model).catalog is model
    assert sequences.with_catalog(model, recount=True).catalog.counts.tolist() == [0, 2, 1]
