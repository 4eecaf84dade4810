import json

import pytest

from pipelines.benchmark.report import Report, Spread, Table, number, write_report


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0.00"),
        (0.00123, "0.0012"),
        (0.0456, "0.05"),
        (1.234, "1.23"),
        (9.949, "9.95"),
        (9.96, "10.0"),
        (12.34, "12.3"),
        (99.6, "100"),
        (12345.6, "12,346"),
    ],
)
def test_numbers_show_about_three_digits(value, text):
    assert number(value) == text


def test_a_spread_is_the_median_and_the_range():
    assert Spread.of([3, 1, 2]) == Spread(2, 1, 3)
    assert Spread.of([3, 1, 2]).text() == "2.00 (1.00..3.00)"
    assert Spread.of([0.5]).text(1000) == "500"


def test_a_table_as_markdown():
    table = Table("Times", ("", "a", "b"), [("seconds", "1", "2")])
    assert table.markdown() == "Times\n\n|  | a | b |\n| --- | ---: | ---: |\n| seconds | 1 | 2 |"


def test_a_report_is_three_files(tmp_path):
    report = Report({"seconds": Spread.of([1, 2]), "rows": [Spread(1, 1, 1)]}, [Table("T", ("", "a"), [("x", "1")])], lambda figure: None)
    content = write_report(report, {"benchmark": "toy"}, ["`command`"], tmp_path, "toy", plot=True)
    assert json.loads((tmp_path / "toy.json").read_text()) == content
    assert content["result"] == {"seconds": {"median": 1.5, "low": 1.0, "high": 2.0}, "rows": [{"median": 1, "low": 1, "high": 1}]}
    assert (tmp_path / "toy.md").read_text().startswith("`command`\n\nT\n\n|  | a |")
    assert (tmp_path / "toy.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy.json", "toy.md", "toy.png"]
