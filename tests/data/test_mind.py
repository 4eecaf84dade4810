import pytest

from elcrec_tf.config import DataConfig
from elcrec_tf.data.datasets import load_dataset
from elcrec_tf.data.mind import read_mind
from elcrec_tf.errors import UserError
from elcrec_tf.serving.batch import read_events

# U1's second line is the earlier one, at 9 in the morning, and its history counts. U3 has clicked nothing.
LINES = (
    "1\tU1\t11/15/2019 1:00:00 PM\tN1 N2 N3\tN5-1 N6-0 N4-0",
    "2\tU1\t11/15/2019 9:55:12 AM\tN1 N2\tN3-1 N4-0",
    "3\tU2\t11/14/2019 12:05:00 AM\t\tN2-1 N5-1",
    "4\tU3\t11/14/2019 8:00:00 AM\t\tN2-0",
    "5\tU2\t11/14/2019 12:05:00 PM\t\tN1-1",
)


def write(tmp_path, *lines):
    path = tmp_path / "behaviors.tsv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_sequence_is_the_earliest_history_then_the_clicks_by_time(tmp_path):
    sequences = read_mind(write(tmp_path, *LINES), "mind", 1)
    assert {user: sequences.catalog.raw(sequences[index]) for index, user in enumerate(sequences.user_ids)} == {
        "U1": ["N1", "N2", "N3", "N5"],
        "U2": ["N2", "N5", "N1"],
    }
    assert sequences.catalog.ids.tolist() == ["N1", "N2", "N3", "N5"]
    assert sequences.timestamps is None
    assert sequences.dropped == {"items shown and not clicked": 4}


def test_clicks_at_the_same_time_stay_in_the_order_of_the_file(tmp_path):
    same = [f"{number}\tU\t1/2/2020 1:00:00 AM\tA\t{news}-1" for number, news in enumerate("CB")]
    sequences = read_mind(write(tmp_path, *same), "mind", 1)
    assert sequences.catalog.raw(sequences[0]) == ["A", "C", "B"]


def test_it_is_read_where_its_format_is_named(tmp_path):
    path = write(tmp_path, *LINES)
    config = DataConfig(dataset=str(path), format="mind", k_core=1)
    assert load_dataset(config).name == "behaviors"
    assert read_events(path, config).user_ids.tolist() == ["U1", "U2"]
    with pytest.raises(UserError, match="has no columns, so --filter-column"):
        load_dataset(DataConfig(dataset=str(path), format="mind", filter_column="x", min_value=1.0))


GOOD = "1\tU1\t11/15/2019 1:00:00 PM\tN1\tN5-1"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2\tU1\t11/15/2019 1:00:00 PM\tN5-1", r"line 2: has 4 fields separated by tabs; MIND has 5: impression id, user, time"),
        ("2\t \t11/15/2019 1:00:00 PM\tN1\tN5-1", r"line 2, field 2 \(user\): is empty"),
        ("2\tU1\t2019-11-15 13:00:00\tN1\tN5-1", r"line 2, field 3 \(time\): holds '2019-11-15 13:00:00'; times look like"),
        ("2\tU1\t11/15/2019 13:00:00 PM\tN1\tN5-1", r"line 2, field 3 \(time\): holds '11/15/2019 13:00:00 PM'"),
        ("2\tU1\t11/15/2019 1:00:00 PM\tN1\tN5-1 N6", r"line 2, field 5 \(impressions\): holds 'N6'; each impression should be"),
        ("2\tU1\t11/15/2019 1:00:00 PM\tN1\t-1", r"line 2, field 5 \(impressions\): holds '-1'"),
    ],
)
def test_faults_name_file_line_and_field(tmp_path, line, message):
    with pytest.raises(UserError, match=f"behaviors.tsv, {message}"):
        read_mind(write(tmp_path, GOOD, line), "mind", 1)


def test_files_without_a_click_or_in_another_encoding(tmp_path):
    with pytest.raises(UserError, match="behaviors.tsv: holds no click; give the behaviors.tsv of MIND"):
        read_mind(write(tmp_path, "1\tU1\t11/15/2019 1:00:00 PM\t\tN5-0"), "mind", 1)
    path = write(tmp_path, GOOD)
    path.write_bytes(path.read_bytes() + b"2\tU\xff\n")
    with pytest.raises(UserError, match="line 2: is not UTF-8"):
        read_mind(path, "mind", 1)
    with pytest.raises(UserError, match="cannot be read"):
        read_mind(tmp_path / "absent.tsv", "mind", 1)
