import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from elcrec_tf.data.catalog import Catalog
from elcrec_tf.errors import UserError


def test_indices_start_at_one_and_unknown_ids_give_padding():
    catalog = Catalog(["b", "007", "a"])
    assert catalog.num_items == 3
    assert catalog.index(["a", "b", "nope", "007"]).tolist() == [3, 1, 0, 2]
    assert catalog.raw([2, 0, 1]) == ["007", "", "b"]
    assert catalog.counts.tolist() == [0, 0, 0]


def test_saved_catalogue_loads_equal(tmp_path):
    Catalog(["b", "007"], [5, 0], {"007": "Bond"}).save(tmp_path / "catalog.parquet")
    loaded = Catalog.load(tmp_path / "catalog.parquet")
    assert (loaded.ids.tolist(), loaded.counts.tolist(), loaded.titles) == (["b", "007"], [5, 0], {"007": "Bond"})


def test_refuses_repeated_ids_and_counts_that_do_not_fit():
    with pytest.raises(ValueError, match="unique"):
        Catalog(["a", "a"])
    with pytest.raises(ValueError, match="one entry an item"):
        Catalog(["a", "b"], [1])


@pytest.mark.parametrize("fault", ["missing", "garbage", "other columns"])
def test_load_refuses_what_is_no_catalogue(tmp_path, fault):
    path = tmp_path / "catalog.parquet"
    if fault == "garbage":
        path.write_bytes(b"\x00\x01garbage")
    if fault == "other columns":
        pq.write_table(pa.table({"id": ["a"]}), path)
    with pytest.raises(UserError, match="catalog.parquet.*not a catalogue"):
        Catalog.load(path)
