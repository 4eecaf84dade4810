import gzip
import json
import shutil
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf

from elcrec_tf.config import DataConfig
from elcrec_tf.data.catalog import Catalog
from elcrec_tf.data.datasets import load_dataset
from elcrec_tf.data.pipeline import histories, probe_views, ranking_batches
from elcrec_tf.data.records import encode_example
from elcrec_tf.data.shard_plan import ShardPlan
from elcrec_tf.data.shard_stream import users_of
from elcrec_tf.data.shards import load_shards
from elcrec_tf.data.training_data import training_batches
from elcrec_tf.errors import UserError
from tests.data.test_training_data import bare, flat, shown
from tests.prepared import sharded, write_shards
from tests.toy import random_sequences, sequences_of, toy_config

MAX_LENGTH = 8
SEQUENCES = random_sequences(num_users=60, num_items=60, longest=14)
CONFIG = toy_config(max_length=MAX_LENGTH, sequence_weight=0.0, intent_weight=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Shards of SEQUENCES."""
    folder = tmp_path_factory.mktemp("shards") / "toy"
    write_shards(SEQUENCES, folder)
    return folder


@pytest.fixture(scope="module")
def shards(folder):
    return load_shards(folder, "toy")


def users_in(shards, files=None):
    return {user["user"].decode(): user for user in users_of(shards, files or shards.files()).as_numpy_iterator()}


def examples_of(sequences):
    """Every training example as (history, targets), in plain Python."""
    trained = (sequences[user].tolist()[:-2] for user in range(sequences.num_users))
    return Counter((tuple(part[:-1][-MAX_LENGTH:]), tuple(part[1:][-MAX_LENGTH:])) for part in trained if len(part) >= 2)


# --- files ------------------------------------------------------------------------------------------------------------


def test_records_are_what_tensorflow_writes(folder, tmp_path):
    """The same bytes as TensorFlow's own writer makes of its own message."""
    features = {
        "items": tf.train.Feature(int64_list=tf.train.Int64List(value=[3, 1, 300])),
        "user": tf.train.Feature(bytes_list=tf.train.BytesList(value=["ü".encode()])),
    }
    ours = tf.train.Example.FromString(encode_example("ü", [3, 1, 300], None))
    assert ours == tf.train.Example(features=tf.train.Features(feature=features))
    file = next(folder.glob("shard-00000*"))
    records = list(tf.data.TFRecordDataset(str(file), "GZIP").as_numpy_iterator())
    with tf.io.TFRecordWriter(str(tmp_path / "again")) as writer:
        for record in records:
            writer.write(record)
    assert (tmp_path / "again").read_bytes() == gzip.decompress(file.read_bytes())
    assert file.read_bytes()[4:8] == bytes(4)  # no time


def test_shards_hold_every_user_with_the_positions_of_leave_one_out(shards):
    found = users_in(shards)
    assert len(found) == shards.num_users == SEQUENCES.num_users
    for number, raw in enumerate(SEQUENCES.user_ids):
        events = len(SEQUENCES[number])
        assert found[raw]["items"].tolist() == SEQUENCES[number].tolist()
        assert found[raw]["positions"].tolist() == [events - 2, events - 2, events - 1]


def test_the_manifest_says_what_is_in_the_shards(shards):
    lengths = np.diff(SEQUENCES.offsets)
    assert shards.num_events == SEQUENCES.num_events
    assert shards.num_training_users == SEQUENCES.num_training_users
    assert shards.longest == lengths.max()
    for ours, theirs in zip(shards.training_lengths, SEQUENCES.training_lengths, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    trained = Counter((lengths - 2)[lengths >= 4].tolist())
    assert dict(zip(*(column.tolist() for column in shards.training_lengths), strict=True)) == trained
    held_out = np.concatenate([SEQUENCES.items[SEQUENCES.offsets[1:] - back] for back in (1, 2)])
    counts = np.bincount(SEQUENCES.items, minlength=61) - np.bincount(held_out, minlength=61)
    assert shards.catalog.counts.tolist() == counts[1:].tolist()


def test_a_folder_of_shards_is_a_data_set(folder, shards):
    loaded = load_dataset(DataConfig(dataset=str(folder)))
    assert loaded.name == "toy" and loaded.fingerprint == shards.fingerprint
    assert "60 users" in loaded.description and "3 shards" in loaded.description
    with pytest.raises(UserError, match="has no columns"):
        load_dataset(DataConfig(dataset=str(folder), filter_column="rating"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "holds no manifest.json"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "manifest.json").write_text('{"format": "other"}'), "is not of the form"),
        (lambda folder: replace_text(folder / "manifest.json", '"users": 60', '"users": 61'), "was changed after it was written"),
        (lambda folder: next(folder.glob("shard-00001*")).unlink(), "shard-00001-of-00003.tfrecord.gz: cannot be read"),
        (lambda folder: cut(next(folder.glob("shard-00002*"))), "has .* bytes where the manifest says"),
        (lambda folder: flip(next(folder.glob("shard-00000*"))), "shard-00000-of-00003.tfrecord.gz: is damaged"),
        (lambda folder: [flip(file) for file in folder.glob("shard-*")], "is damaged .*and 2 more files"),
        (lambda folder: flip(folder / "catalog.parquet"), "catalog.parquet: is damaged"),
    ],
)
def test_a_damaged_or_partial_data_set_is_refused_with_the_file(folder, tmp_path, spoil, message):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    spoil(copy)
    with pytest.raises(UserError, match=message):
        load_shards(copy, "toy")


def replace_text(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def cut(path):
    path.write_bytes(path.read_bytes()[:-5])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_the_fingerprint_follows_the_content(folder, tmp_path):
    write_shards(SEQUENCES, tmp_path / "same")
    write_shards(random_sequences(num_users=60, num_items=60, longest=14, seed=1), tmp_path / "other")
    first, same, other = (json.loads((one / "manifest.json").read_text()) for one in (folder, tmp_path / "same", tmp_path / "other"))
    assert first == same and first["fingerprint"] != other["fingerprint"]


# --- training ---------------------------------------------------------------------------------------------------------


def epochs_of(data, count):
    batches = list(data.dataset.take(count * data.steps_per_epoch).as_numpy_iterator())
    return [batches[epoch * data.steps_per_epoch :][: data.steps_per_epoch] for epoch in range(count)]


def small_blocks(monkeypatch, steps=3):
    monkeypatch.setattr("elcrec_tf.data.shard_plan._STEPS", steps)


@pytest.mark.parametrize("official_padding", [False, True])
@pytest.mark.parametrize("steps", [3, 64])
def test_an_epoch_of_shards_shows_every_example_once(shards, monkeypatch, steps, official_padding):
    small_blocks(monkeypatch, steps)
    data = training_batches(shards, CONFIG.replace(official_padding=official_padding))
    first, second = epochs_of(data, 2)
    assert len(first) == data.steps_per_epoch
    assert examples_of(SEQUENCES).total() > 40
    for batches in (first, second):
        assert shown(batches, "positions") == examples_of(SEQUENCES)
    assert [x["examples"]["history"].tolist() for x, _ in first] != [x["examples"]["history"].tolist() for x, _ in second]


@pytest.mark.parametrize("replicas", [1, 2])
def test_one_block_has_the_layout_of_training_in_memory(shards, replicas):
    streamed, in_memory = (training_batches(data, CONFIG, replicas=replicas) for data in (shards, SEQUENCES))
    assert streamed.steps_per_epoch == in_memory.steps_per_epoch
    assert streamed.padding_share == in_memory.padding_share
    (x, _), (y, _) = (next(iter(data.dataset.as_numpy_iterator())) for data in (streamed, in_memory))
    np.testing.assert_array_equal(x["examples"]["slot"], y["examples"]["slot"])


@pytest.mark.parametrize("next_item", ["softmax", "sampled_softmax", "bce"])
def test_a_resumed_stream_goes_on_as_an_uninterrupted_one(shards, monkeypatch, next_item):
    small_blocks(monkeypatch)
    config = toy_config(max_length=MAX_LENGTH, next_item=next_item, num_negatives=5)
    whole = epochs_of(training_batches(shards, config), 3)[2]
    resumed = epochs_of(training_batches(shards, config, first_epoch=2), 1)[0]
    for one, other in zip(whole, resumed, strict=True):
        for left, right in zip(flat(one), flat(other), strict=True):
            np.testing.assert_array_equal(left, right)
    other_seed = epochs_of(training_batches(shards, config.replace(seed=1), first_epoch=2), 1)[0]
    assert whole[0][0]["examples"]["history"].tolist() != other_seed[0][0]["examples"]["history"].tolist()


@pytest.mark.parametrize("own", [1, 2])
def test_workers_share_an_epoch_and_have_as_many_steps(shards, monkeypatch, own):
    small_blocks(monkeypatch, 2)
    """Two workers of `own` replicas each."""
    workers = [training_batches(shards, CONFIG, replicas=2 * own, shares=range(first, first + own)) for first in (0, own)]
    epochs = [epochs_of(data, 1)[0] for data in workers]
    assert len(epochs[0]) == len(epochs[1])
    parts = [shown([one for batch in batches for one in of_replicas(batch, own)], "positions") for batches in epochs]
    assert all(part.total() > 5 for part in parts)
    # Two shards of three for the first, one for the second: the second's epoch is filled up with empty slots.
    assert parts[0] + parts[1] == examples_of(SEQUENCES)
    shapes = {str(tf.nest.map_structure(np.shape, batch)) for batches in epochs for batch in batches}
    assert len(shapes) == 1


def of_replicas(batch, replicas):
    """The layouts that stand one below the other."""
    return [tf.nest.map_structure(lambda array, place=place: np.split(array, replicas)[place], batch) for place in range(replicas)]


def test_two_devices_of_one_process_share_what_it_streams(shards, monkeypatch):
    small_blocks(monkeypatch)
    batches = epochs_of(training_batches(shards, CONFIG, replicas=2), 1)[0]
    halves = [shown([of_replicas(batch, 2)[place] for batch in batches], "positions") for place in (0, 1)]
    assert halves[0] + halves[1] == examples_of(SEQUENCES)
    assert abs(halves[0].total() - halves[1].total()) <= len(batches)


def test_workers_draw_views_of_their_own_but_share_the_sampled_softmax_negatives(tmp_path):
    same = sharded(sequences_of(*[list(range(1, 12))] * 8, num_items=500), tmp_path / "same", shards=2)
    config = toy_config(augmentations=("reorder",), reorder_ratio=1.0, next_item="sampled_softmax", num_negatives=20)
    both = [training_batches(same, config, replicas=2, shares=range(worker, worker + 1)) for worker in (0, 1)]
    (x, y), (other, other_y) = (next(iter(data.dataset.as_numpy_iterator())) for data in both)
    np.testing.assert_array_equal(x["examples"]["history"], other["examples"]["history"])
    np.testing.assert_array_equal(y["negatives"], other_y["negatives"])
    assert not np.array_equal(x["view_a"]["history"], other["view_a"]["history"])


def test_more_workers_than_shards(shards):
    with pytest.raises(UserError, match="3 shards for 4 workers; prepare it with --shards 4"):
        training_batches(shards, CONFIG, replicas=4, shares=range(1))


def test_nobody_to_train_on(tmp_path):
    shards = sharded(sequences_of([1, 2, 3], [3, 2, 1]), tmp_path / "short")
    with pytest.raises(UserError, match="no user has two events in the training part"):
        training_batches(shards, CONFIG)


def test_prefixes_are_for_data_in_memory(shards):
    with pytest.raises(UserError, match="is in shards: --examples prefixes needs a data set in memory"):
        training_batches(shards, CONFIG.replace(examples="prefixes"))


def test_official_negatives_are_for_data_in_memory(shards):
    with pytest.raises(UserError, match="is in shards: --negatives official needs a data set in memory"):
        training_batches(shards, CONFIG.replace(next_item="bce", negatives="official"))


def test_a_layout_for_many_blocks_wastes_little_and_cuts_next_to_nothing():
    """From lengths alone: 40,000 users with geometric lengths, blocks of 64 batches of 64."""
    rng = np.random.default_rng(0)
    lengths = 2 + rng.geometric(0.1, 40_000)
    values, counts = np.unique(lengths, return_counts=True)
    plan = ShardPlan.of(Lengths(values, counts), batch_size=64, most=50, workers=1)
    assert plan.blocks * plan.batches * len(plan.longest) - 40_000 < plan.blocks * plan.batches
    exact = np.sort(np.minimum(lengths - 1, 50))
    wanted = exact[: len(exact) // len(plan.longest) * len(plan.longest)].reshape(len(plan.longest), -1).max(axis=1)
    assert plan.longest.sum() < 1.15 * wanted.sum()
    cut = 0
    for _ in range(20):
        block = np.sort(rng.choice(exact, plan.block)).reshape(len(plan.longest), plan.batches)
        cut += int(np.maximum(block - plan.longest[:, None], 0).sum())
    assert cut < 20


class Lengths:
    """As much of a data set in shards as a plan needs."""

    name = "lengths"
    manifest = {"shards": [{}]}

    def __init__(self, values, counts):
        self.training_lengths = values, counts

        self.num_training_users = int(counts.sum())

    def training_users_of(self, worker, workers):
        return [self.num_training_users]


# --- evaluation -------------------------------------------------------------------------------------------------------


def questions(sequences, split, batch_size=4):
    """Every question as (history, items to exclude, target)."""
    found = []
    for batch in ranking_batches(sequences, split, batch_size, MAX_LENGTH).dataset.as_numpy_iterator():
        for history, exclude, target in zip(batch["history"], batch["exclude"], batch["target"], strict=True):
            if target:
                found.append((bare(history), tuple(item for item in exclude.tolist() if item), int(target)))
    return Counter(found)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_ranking_shards_asks_what_ranking_in_memory_asks(shards, split):
    assert questions(shards, split) == questions(SEQUENCES, split)
    assert questions(shards, split).total() == SEQUENCES.num_users


@pytest.mark.parametrize("count", [1, 2, 3])
def test_shares_of_ranking_batches_are_all_questions_once(shards, count):
    whole = ranking_batches(shards, "test", 4, MAX_LENGTH)
    batches = [batch for index in range(count) for batch in whole.share(index, count).dataset.as_numpy_iterator()]
    targets = np.concatenate([batch["target"] for batch in batches])
    assert Counter(targets[targets > 0].tolist()) == Counter(SEQUENCES.items[SEQUENCES.offsets[1:] - 1].tolist())


def test_batches_of_a_width_have_one_shape(shards):
    shapes = Counter(batch["exclude"].shape for batch in ranking_batches(shards, "test", 4, MAX_LENGTH).dataset.as_numpy_iterator())
    assert {rows for rows, _ in shapes} == {4} and len(shapes) <= 3


def test_wide_batches_have_fewer_users(shards, monkeypatch):
    monkeypatch.setattr("elcrec_tf.data.shard_stream.MOST_CELLS", 16)
    batches = list(ranking_batches(shards, "test", 4, MAX_LENGTH).dataset.as_numpy_iterator())
    assert {batch["exclude"].shape for batch in batches} == {(4, 4), (2, 8), (1, 16)}
    assert questions(shards, "test") == questions(SEQUENCES, "test")


@pytest.mark.parametrize("split", ["training", "validation", "test"])
def test_a_sample_of_histories_is_fixed_and_of_the_data(shards, split):
    everyone = {tuple(row) for row in histories(SEQUENCES, split, MAX_LENGTH)[1].tolist()}
    ids, rows = histories(shards, split, MAX_LENGTH, most=10, seed=1)
    assert len(ids) == len(set(ids)) == 10 and set(ids) <= set(SEQUENCES.user_ids)
    assert {tuple(row) for row in rows.tolist()} <= everyone
    np.testing.assert_array_equal(rows, histories(shards, split, MAX_LENGTH, most=10, seed=1)[1])
    assert len(histories(shards, split, MAX_LENGTH, most=1000)[1]) == len(histories(SEQUENCES, split, MAX_LENGTH)[1])
    assert probe_views(shards, CONFIG, 10, 5)["view_a"].shape == (10, 5)


def test_all_histories_at_once_are_refused(shards):
    with pytest.raises(UserError, match="is in shards: what takes every history needs a data set in memory"):
        histories(shards, "training", MAX_LENGTH)


def test_another_catalogue_leaves_out_what_it_does_not_know_as_in_memory(shards):
    known = [raw for index, raw in enumerate(SEQUENCES.catalog.ids) if index % 3]
    model = Catalog(reversed(known))
    ours, theirs = shards.with_catalog(model), SEQUENCES.with_catalog(model)
    for split in ("validation", "test"):
        assert questions(ours, split) == questions(theirs, split)
    with pytest.raises(UserError, match="no item of the model's catalogue"):
        shards.with_catalog(Catalog(["other"]))


def test_items_of_another_catalogue_are_counted_anew(shards):
    ids = [*SEQUENCES.catalog.ids[::-1], "new"]
    ours, theirs = (data.with_catalog(Catalog(ids, titles={"new": "New"}), recount=True).catalog for data in (shards, SEQUENCES))
    assert ours.counts.sum() == SEQUENCES.num_events - 2 * SEQUENCES.num_users and ours.counts[-1] == 0
    assert ours.counts.tolist() == theirs.counts.tolist()
    assert ours.titles == theirs.titles == {"new": "New"}


# --- split by time ----------------------------------------------------------------------------------------------------


def test_a_split_by_time_asks_for_the_first_event_of_each_part(tmp_path):
    users = sequences_of([1, 2, 3, 4, 5], [2, 3], [4, 5, 1], [3, 1, 2], num_items=5)
    parts = np.array([0, 0, 1, 1, 2] + [0, 0] + [1, 1, 2] + [0, 2, 2])
    shards = sharded(users, tmp_path / "time", parts=parts)
    positions = {raw: user["positions"].tolist() for raw, user in users_in(shards).items()}
    # u2 has no history before its validation target, so it is asked in the test alone; u1 is only trained on.
    assert positions == {"u0": [2, 2, 4], "u1": [2, -1, -1], "u2": [0, -1, 2], "u3": [1, -1, 1]}
    assert questions(shards, "validation") == Counter([((1, 2), (1, 2), 3)])
    assert questions(shards, "test") == Counter([((1, 2, 3, 4), (1, 2, 3, 4), 5), ((4, 5), (4, 5), 1), ((3,), (3,), 1)])
    assert shards.num_training_users == 2
    batches = epochs_of(training_batches(shards, CONFIG), 1)[0]
    assert shown(batches, "positions") == Counter([((1,), (2,)), ((2,), (3,))])
    assert shards.catalog.counts.tolist() == [1, 2, 2, 0, 0]


def test_a_split_by_time_over_another_catalogue_moves_the_positions(tmp_path):
    users = sequences_of([1, 2, 3, 4, 5], [5, 1, 4, 2], [5, 5, 1, 2], num_items=5)
    shards = sharded(users, tmp_path / "time", parts=np.array([0, 0, 1, 1, 2] + [0, 0, 1, 2] + [0, 0, 1, 2]))
    other = shards.with_catalog(Catalog(["i2", "i4", "i1", "i3"]))  # i5 is unknown: indices 3, 1, 4, 2
    # u0 loses its test target; u1 loses its first event; u2's validation target has no known history left.
    assert questions(other, "validation") == Counter([((3, 1), (3, 1), 4), ((3,), (3,), 2)])
    assert questions(other, "test") == Counter([((3, 2), (3, 2), 1), ((3,), (3,), 1)])
