import gzip
import json

import numpy as np
import pyarrow as pa
import pytest

from elcrec_tf.data.sequences import Sequences
from elcrec_tf.data.shards import FORMAT
from elcrec_tf.errors import UserError
from pipelines.prepare.folder import check_output, partial_folder
from pipelines.prepare.options import PrepareOptions
from pipelines.prepare.statistics import activity, popularity
from pipelines.prepare.writing import RejectWriter, ShardWriter, User, positions_by_time
from tests.prepared import batches_of, write_shards, written
from tests.toy import random_sequences

SEQUENCES = random_sequences(num_users=20, num_items=30)


@pytest.mark.parametrize("rows", [1, 5, 1000])
def test_where_a_batch_ends_changes_no_byte(tmp_path, rows):
    for name, size in (("one", rows), ("other", 7)):
        (tmp_path / name).mkdir()
        written(ShardWriter(str(tmp_path / name), 3, 30, False, None), batches_of(SEQUENCES, 3, rows=size))
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == [f"shard-{number:05d}-of-00003.tfrecord.gz" for number in range(3)]
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes() for name in files)


def test_a_task_that_dies_leaves_no_shard_under_its_name(tmp_path):
    def dying():
        yield from batches_of(SEQUENCES, 1)[:3]
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        list(ShardWriter(str(tmp_path), 1, 30, False, None)(dying()))
    assert list(tmp_path.iterdir()) == []


def test_shards_are_counted_as_they_are_written(tmp_path):
    shards, counts = written(ShardWriter(str(tmp_path), 2, 30, False, None), batches_of(SEQUENCES, 2))
    lengths = np.diff(SEQUENCES.offsets)
    assert [shard["users"] for shard in shards] == [10, 10]
    assert [shard["events"] for shard in shards] == [int(lengths[start::2].sum()) for start in range(2)]
    assert sum(shard["training_users"] for shard in shards) == int(np.sum(lengths >= 4))
    assert counts.sum() == int((lengths - 2).sum())


def test_only_the_latest_events_of_a_heavy_user_are_held():
    user = User(0, "u", 10)
    for start in range(0, 1000, 4):
        user.add(np.array([range(start, start + 4), [0] * 4]))
        assert sum(piece.shape[1] for piece in user._pieces) <= 24
    assert user.events()[0].tolist() == list(range(990, 1000)) and user.seen == 1000


@pytest.mark.parametrize("batch", [1, 3, 9])
def test_the_latest_events_are_those_up_to_the_first_of_the_test_part(batch):
    parts = np.array([0, 0, 0, 1, 2, 2, 2, 2, 2])
    user = User(0, "u", 3)
    for start in range(0, 9, batch):
        user.add(np.array([range(start, start + batch), parts[start : start + batch]]))
    assert [values.tolist() for values in user.events()] == [[2, 3, 4], [0, 1, 2]]
    assert (user.seen, user.after_test) == (5, 4)


def test_a_user_with_many_events_in_the_test_part_is_trained_on_and_asked_about(tmp_path):
    """And the manifest describes what is written."""
    many = Sequences("many", np.array(["u"], object), np.arange(260) % 30 + 1, np.array([0, 260]), SEQUENCES.catalog)
    manifest = write_shards(many, tmp_path / "data", parts=np.repeat([0, 2], [200, 60]), max_events=50)
    (shard,) = (shard for shard in manifest["shards"] if shard["users"])
    assert (shard["training_users"], shard["test_users"], manifest["events"]) == (1, 1, 50)
    assert manifest["dropped"] == {"after a user's first event of the test part": 59, "beyond a user's latest 50": 151}
    assert manifest["training_lengths"] == [[49, 1]] and manifest["activity"]["most"] == 50
    assert "after_test" not in shard


@pytest.mark.parametrize(
    ("parts", "positions"),
    [
        ([0, 0, 1, 1, 2], [2, 2, 4]),
        ([0, 0, 0], [3, -1, -1]),
        ([0, 2], [1, -1, 1]),
        ([1, 2], [0, -1, 1]),
        ([2, 2], [0, -1, -1]),
        ([0, 1], [1, 1, -1]),
    ],
)
def test_positions_under_a_split_by_time(parts, positions):
    assert positions_by_time(np.array(parts)) == positions


def test_rejects_are_lines_of_json(tmp_path):
    rows = [{"reason": "malformed row", "row": "ü,1", "file": "a.csv"}, {"reason": "malformed row", "row": "x", "file": "b.csv"}]
    path = tmp_path / "rejects.jsonl.gz"
    (result,) = RejectWriter(str(path))(iter([pa.RecordBatch.from_pylist(rows[:1]), pa.RecordBatch.from_pylist(rows[1:])]))
    assert result.to_pylist() == [{"rows": 2}]
    assert [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()] == rows


def test_activity_counts_users_by_events():
    result = activity({3: 2, 4: 1, 9: 1})
    assert result["mean"] == 19 / 4 and result["most"] == 9
    assert (result["quantile_0.5"], result["quantile_0.9"]) == (3, 9)
    assert result["users_by_events"] == {"2-3": 2, "4-7": 1, "8-15": 1}


def test_popularity_of_items():
    even = popularity(np.array([5, 5, 5, 5]))
    assert even["gini"] == pytest.approx(0) and even["share_of_top_1_percent"] == 0.25
    # One of n items has all events: Gini 1 - 1/n.
    assert popularity(np.array([0, 8, 0, 0]))["gini"] == pytest.approx(0.75)
    assert popularity(np.array([0, 8, 0, 0]))["items_in_training"] == 1
    assert popularity(np.array([0, 0]))["gini"] == 0


# --- the output folder ------------------------------------------------------------------------------------------------


def test_a_folder_appears_when_it_is_whole(tmp_path):
    output = tmp_path / "data"
    with partial_folder(output, overwrite=False) as folder:
        (folder / "file").write_text("whole")
        (folder / ".1234-file").write_text("cut off")
        (folder / ".work" / "users-0").mkdir(parents=True)
        assert not output.exists()
    assert [path.name for path in output.iterdir()] == ["file"]
    assert list(tmp_path.iterdir()) == [output]


def test_a_failure_keeps_what_was_there(tmp_path):
    output = tmp_path / "data"
    output.mkdir()
    (output / "manifest.json").write_text(json.dumps({"format": FORMAT}))
    with pytest.raises(RuntimeError), partial_folder(output, overwrite=True) as folder:
        (folder / "file").write_text("new")
        raise RuntimeError
    assert [path.name for path in output.iterdir()] == ["manifest.json"] and list(tmp_path.iterdir()) == [output]


def test_leftovers_of_dead_runs_go_and_those_of_living_ones_stay(tmp_path):
    dead = tmp_path / ".data.partial-dead"
    dead.mkdir()
    (dead / "shard").write_text("part")
    with partial_folder(tmp_path / "data", overwrite=True) as alive, partial_folder(tmp_path / "other", overwrite=True):
        with partial_folder(tmp_path / "data", overwrite=True):
            assert alive.is_dir() and not dead.exists()


def test_leftovers_go_whatever_letters_the_name_has(tmp_path):
    (tmp_path / ".d[1].partial-dead").mkdir()
    (tmp_path / ".d1.partial-other").mkdir()
    with partial_folder(tmp_path / "d[1]", overwrite=True):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".d1.partial-other", "d[1]"]


def test_of_two_runs_with_one_output_the_first_to_end_wins(tmp_path):
    output = tmp_path / "data"
    with pytest.raises(UserError, match="holds a prepared data set already"):
        with partial_folder(output, overwrite=False):
            with partial_folder(output, overwrite=False) as first:
                (first / "manifest.json").write_text(json.dumps({"format": FORMAT}))
    assert json.loads((output / "manifest.json").read_text()) == {"format": FORMAT} and list(tmp_path.iterdir()) == [output]


def test_what_a_killed_run_had_moved_aside_is_put_back(tmp_path):
    output, old, new = (tmp_path / name for name in ("data", ".data.partial-1234-old", ".data.partial-1234"))
    for folder in (old, new):
        folder.mkdir()
        (folder / "manifest.json").write_text(json.dumps({"format": FORMAT, "of": folder.name}))
    with pytest.raises(UserError, match="holds a prepared data set already"), partial_folder(output, overwrite=False):
        raise RuntimeError("all the work")
    assert json.loads((output / "manifest.json").read_text())["of"] == old.name and not old.exists()
    with pytest.raises(RuntimeError), partial_folder(output, overwrite=True):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == [output]


def test_an_output_in_use_is_refused(tmp_path):
    check_output(tmp_path / "new", overwrite=False)
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(UserError, match="holds no prepared data set"):
            check_output(path, overwrite=True)
    for text in ('{"name": "an app"}', "[]"):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(UserError, match="holds no prepared data set"):
            check_output(tmp_path, overwrite=True)
    (tmp_path / "manifest.json").write_text(json.dumps({"format": FORMAT}))
    with pytest.raises(UserError, match="--overwrite"):
        check_output(tmp_path, overwrite=False)
    check_output(tmp_path, overwrite=True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"columns": ("user", "user", "timestamp")}, "should name three columns"),
        ({"split": "time"}, "needs --validation-from and --test-from"),
        ({"validation_from": "5"}, "go with --split time"),
        ({"output": "s3://bucket/data"}, "all workers see"),
    ],
)
def test_options_that_do_not_fit(fields, message):
    with pytest.raises(UserError, match=message):
        PrepareOptions(**{"input": "log.csv", "format": "csv", "output": "data", **fields})
