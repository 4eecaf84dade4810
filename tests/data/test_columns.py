from decimal import Decimal

import pyarrow as pa
import pytest

from elcrec_tf.data.columns import text_column
from elcrec_tf.data.tables import Table
from elcrec_tf.errors import UserError


def table_of(values):
    return Table("log.parquet", "parquet", pa.table({"item": values}))


def test_ids_as_text():
    assert text_column(table_of([12.0, 7.0]), "item").to_pylist() == ["12", "7"]
    assert text_column(table_of([Decimal("1.50"), Decimal("2.00")]), "item").to_pylist() == ["1.50", "2.00"]
    with pytest.raises(UserError, match="row 2: column 'item' holds 2.5; ids should be"):
        text_column(table_of([12.0, 2.5]), "item")
