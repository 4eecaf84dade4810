import re

import pytest

from elcrec_tf.config import DataConfig
from elcrec_tf.data.datasets import BENCHMARKS, load_dataset
from elcrec_tf.reporting.published import FINGERPRINTS, PUBLISHED, RECORDS, published_results

METRICS = ("HR@5", "HR@20", "NDCG@5", "NDCG@20")
BEAUTY = next(fingerprint for fingerprint, name in FINGERPRINTS.items() if name == "beauty")


def table_rows(text):
    """(data set, method, four numbers) of the Markdown tables whose columns are data sets."""
    columns = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if not cells:
            columns = []
        elif {"Beauty", "Yelp"} <= set(cells):
            columns = cells
        for column, cell in zip(columns[1:], cells[1:], strict=False):
            if re.fullmatch(r"\.\d{4}(/\.\d{4}){3}", cell):
                yield column.lower(), re.sub(r" \(.*", "", cells[0].strip("*")), [float(number) for number in cell.split("/")]


def test_the_numbers_are_those_of_the_reference(shared):
    rows = list(table_rows((shared / "reference" / "elcrec.md").read_text(encoding="utf-8")))
    benchmarks = {name: methods for name, methods in PUBLISHED.items() if name in BENCHMARKS}
    assert len(rows) == sum(map(len, benchmarks.values()))
    for name, method, numbers in rows:
        assert list(PUBLISHED[name][method].values()) == numbers


def test_every_row_has_the_four_metrics():
    for methods in PUBLISHED.values():
        assert all(tuple(row) == METRICS for row in methods.values())
        assert all(row["NDCG@20"] < row["HR@20"] < 1 and row["NDCG@5"] < row["HR@5"] < row["HR@20"] for row in methods.values())


def test_the_records_are_above_the_papers_rows():
    for name in BENCHMARKS:
        records = [row["NDCG@20"] for method, row in PUBLISHED[name].items() if method in RECORDS]
        others = [row["NDCG@20"] for method, row in PUBLISHED[name].items() if method not in RECORDS]
        assert min(records) > max(others)


@pytest.mark.parametrize(
    ("name", "fingerprint", "expected"),
    [
        ("beauty", BEAUTY, "beauty"),
        ("renamed", BEAUTY, "beauty"),
        ("beauty", "of a file that was edited", None),
        ("beauty", None, None),
        ("movielens-1m", "whatever it is", "movielens-1m"),
        ("simulated", None, None),
    ],
)
def test_a_benchmark_file_is_known_by_its_content(name, fingerprint, expected):
    assert published_results(name, fingerprint) == PUBLISHED.get(expected, {})


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_fingerprints_are_those_of_the_files(shared, name):
    sequences = load_dataset(DataConfig(dataset=name, data_dir=str(shared / "data")))
    assert FINGERPRINTS[sequences.fingerprint] == name
