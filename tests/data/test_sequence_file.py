import pytest

from elcrec_tf.data.sequence_file import read_sequence_file
from elcrec_tf.errors import UserError


def write(tmp_path, content: str | bytes):
    path = tmp_path / "log.txt"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_items_are_numbered_by_first_appearance(tmp_path):
    sequences = read_sequence_file(write(tmp_path, "9 30 20 10\n007 20 30 007 20\n"), "mine", 1)
    assert sequences.name == "mine"
    assert sequences.user_ids.tolist() == ["9", "007"]
    assert sequences.catalog.ids.tolist() == ["30", "20", "10", "007"]  # not sorted, and 007 stays 007
    assert [sequences[user].tolist() for user in range(2)] == [[1, 2, 3], [2, 1, 4, 2]]
    assert sequences.timestamps is None
    assert sequences.dropped == {}


@pytest.mark.parametrize("content", ["\ufeffu a b c\n", "u\ta  b c\r\n", "\n u a b c", "u a b c\n\n\n"])
def test_white_space_line_ends_and_byte_order_mark_do_not_matter(tmp_path, content):
    sequences = read_sequence_file(write(tmp_path, content), "mine", 1)
    assert (sequences.user_ids.tolist(), sequences.catalog.ids.tolist()) == (["u"], ["a", "b", "c"])


def test_k_core_applies(tmp_path):
    path = write(tmp_path, "A x y x y\nB x y x rare\nC x y\n")
    sequences = read_sequence_file(path, "mine", 2)
    assert sequences.user_ids.tolist() == ["A", "B"]
    assert sequences.dropped == {"k-core": 1, "fewer than 3 events": 2}


def test_benchmark_file_is_a_5_core_already(shared):
    sequences = read_sequence_file(shared / "data" / "Beauty.txt", "beauty", 5)
    assert (sequences.num_users, sequences.catalog.num_items, sequences.num_events) == (22363, 12101, 198502)
    assert sequences.dropped == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "log.txt: is empty; each line should"),
        ("\n \n", "log.txt: is empty; each line should"),
        (b"u a b c\nv a \xff c\n", "log.txt, line 2: is not UTF-8 .*save the file as UTF-8"),
        ("u a b c\n\nv\n", "log.txt, line 3: user 'v' has no item; add items"),
        ("u a b c\nv a b c\nu a\n", "log.txt, lines 1 and 3: both belong to user 'u'; put all items"),
        ("u a a a\n", "log.txt: has one item only"),
        ("u a b\nv a b\n", "log.txt: nothing is left of 4 events of 2 users and 2 items"),
    ],
)
def test_faults_name_file_line_and_remedy(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        read_sequence_file(write(tmp_path, content), "mine", 1)
