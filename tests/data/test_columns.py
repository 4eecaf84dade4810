from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from elcrec_tf.data.columns import at_least, text_column
from elcrec_tf.data.tables import Table
from elcrec_tf.errors import UserError


def table_of(values):
    return Table("log.parquet", "parquet", pa.table({"item": values}))


def test_ids_as_text():
    assert text_column(table_of([12.0, 7.0]), "item").to_pylist() == ["12", "7"]
    assert text_column(table_of([Decimal("1.50"), Decimal("2.00")]), "item").to_pylist() == ["1.50", "2.00"]
    with pytest.raises(UserError, match="row 2: column 'item' holds 2.5; ids should be"):
        text_column(table_of([12.0, 2.5]), "item")


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_a_value_equal_to_the_smallest_passes_whatever_the_width(kind):
    """4.1 as a narrow float is another number than 4.1, less in one width and more in the other."""
    table = table_of(np.array([4.0, 4.1, np.nextafter(kind(4.1), kind(0)), np.inf], kind))
    assert at_least(table, "item", 4.1).tolist() == [False, True, False, True]
    assert at_least(table, "item", 1e300).tolist() == [False, False, False, True]
