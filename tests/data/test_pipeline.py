from collections import Counter
from functools import cache

import numpy as np
import pytest

from elcrec_tf.data.pipeline import histories, probe_views, ranking_batches, training_batches
from elcrec_tf.errors import UserError
from elcrec_tf.losses import sampled_softmax_loss, softmax_loss
from tests.toy import random_sequences, sequences_of, toy_config

MAX_LENGTH = 8
SEQUENCES = random_sequences(num_users=30, num_items=60, longest=14)
NO_VIEWS = (("sequence_weight", 0.0), ("intent_weight", 0.0))


@cache
def epochs(count, first_epoch=0, fields=(), sequences=SEQUENCES):
    """(TrainingData, batches of each epoch)."""
    data = training_batches(sequences, toy_config(max_length=MAX_LENGTH, **dict(fields)), first_epoch)
    batches = list(data.dataset.take(count * data.steps_per_epoch).as_numpy_iterator())
    return data, [batches[epoch * data.steps_per_epoch :][: data.steps_per_epoch] for epoch in range(count)]


def options(examples, **fields):
    return (("examples", examples), *NO_VIEWS, *fields.items())


def bare(row):
    """The items of a left-padded row; it must have no padding between or behind them."""
    items = row[row != 0]
    np.testing.assert_array_equal(row[len(row) - len(items) :], items)
    return tuple(items.tolist())


def shown(batches, examples):
    """Every non-empty example of an epoch as (history, target)."""
    pairs = []
    for x, y in batches:
        for history, target in zip(x, y["target"], strict=True):
            if examples == "prefixes":
                assert bool(target) == bool(history.any())
                pairs += [(bare(history), int(target))] if target else []
            else:
                np.testing.assert_array_equal(history != 0, target != 0)
                pairs += [(bare(history), bare(target))] if history.any() else []
    return Counter(pairs)


def constructed(examples):
    """The same in plain Python: the last two events of a user are held out."""
    pairs = []
    for user in range(SEQUENCES.num_users):
        train = SEQUENCES[user].tolist()[:-2]
        if examples == "positions" and len(train) >= 2:
            pairs.append((tuple(train[:-1][-MAX_LENGTH:]), tuple(train[1:][-MAX_LENGTH:])))
        if examples == "prefixes":
            pairs += [(tuple(train[:stop][-MAX_LENGTH:]), train[stop]) for stop in range(1, len(train))]
    return Counter(pairs)


def training_users():
    return Counter(tuple(SEQUENCES[user].tolist()[:-3][-MAX_LENGTH:]) for user in range(SEQUENCES.num_users) if len(SEQUENCES[user]) >= 4)


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("examples", ["positions", "prefixes"])
@pytest.mark.parametrize("official_padding", [False, True])
def test_an_epoch_shows_every_example_once(examples, official_padding):
    _, (first, second) = epochs(2, fields=options(examples, official_padding=official_padding))
    assert constructed(examples).total() > 20
    for batches in (first, second):
        assert shown(batches, examples) == constructed(examples)


@pytest.mark.parametrize("official_padding", [False, True])
def test_prefixes_show_every_user_once_beside_them(official_padding):
    _, (first, second) = epochs(2, fields=options("prefixes", official_padding=official_padding))
    for batches in (first, second):
        users = [bare(row) for _, y in batches for row in y["user_history"] if row.any()]
        assert Counter(users) == training_users()


def test_positions_have_no_separate_users():
    _, (batches, _) = epochs(2, fields=options("positions", official_padding=True))
    assert all(y.keys() == {"target"} for _, y in batches)


@pytest.mark.parametrize("examples", ["positions", "prefixes"])
def test_batches_have_few_shapes(examples):
    data, (batches, _) = epochs(2, fields=options(examples, official_padding=False))
    assert data.widths == tuple(sorted(data.widths)) and len(data.widths) <= 3 and data.widths[-1] == MAX_LENGTH
    assert {x.shape for x, _ in batches} == {(4, width) for width in data.widths}
    shapes = {tuple(value.shape for value in (x, *y.values())) for x, y in batches}
    assert len(shapes) == len(data.widths)
    items = sum(np.sum(x != 0) for x, _ in batches)
    assert data.padding_share == pytest.approx(1 - items / sum(x.size for x, _ in batches))


def test_official_padding_has_one_width():
    data, (batches, _) = epochs(2, fields=options("positions", official_padding=True))
    assert data.widths == (MAX_LENGTH,)
    assert {x.shape for x, _ in batches} == {(4, MAX_LENGTH)}


@pytest.mark.parametrize("examples", ["positions", "prefixes"])
def test_only_the_last_batch_of_a_width_is_filled_up(examples):
    data, (batches, _) = epochs(2, fields=options(examples, official_padding=False))
    for width in data.widths:
        empty = sum(int((~x.any(axis=1)).sum()) for x, _ in batches if x.shape[1] == width)
        assert empty < 4


def flat(batches):
    return [array for x, y in batches for array in (x, *(y[name] for name in sorted(y)))]


def equal(ours, theirs):
    pairs = list(zip(flat(ours), flat(theirs), strict=True))
    return all(one.shape == other.shape and np.array_equal(one, other) for one, other in pairs)


STREAMS = {
    "views": (("examples", "positions"),),
    "users": (("examples", "prefixes"), ("next_item", "bce")),
    "sampled": (("examples", "positions"), ("next_item", "sampled_softmax"), ("num_negatives", 5), *NO_VIEWS),
}


@pytest.mark.parametrize("fields", STREAMS.values(), ids=STREAMS)
def test_a_run_that_starts_late_gets_what_an_uninterrupted_one_gets(fields):
    """Shuffling, views and negatives are functions of (seed, epoch, step)."""
    _, (first, second, third) = epochs(3, fields=fields)
    _, (late,) = epochs(1, first_epoch=2, fields=fields)
    assert equal(late, third)
    assert not equal(first, second) and not equal(second, third)


def test_another_seed_another_stream():
    _, (ours, *_) = epochs(3, fields=STREAMS["views"])
    _, (other,) = epochs(1, fields=(*STREAMS["views"], ("seed", 1)))
    assert not equal(ours, other)


def test_order_of_examples_and_of_widths_changes_between_epochs():
    _, (first, second, third) = epochs(3, fields=STREAMS["views"])
    widths = [[x.shape[1] for x, _ in batches] for batches in (first, second, third)]
    assert Counter(widths[0]) == Counter(widths[1]) and len({tuple(order) for order in widths}) > 1
    rows = [[bare(row) for x, _ in batches for row in x if x.shape[1] == MAX_LENGTH] for batches in (first, second)]
    assert sorted(rows[0]) == sorted(rows[1]) and rows[0] != rows[1]


@pytest.mark.parametrize(
    ("weights", "expected"), [((0.0, 0.0), False), ((0.1, 0.0), True), ((0.0, 0.1), True)], ids=["neither", "sequence", "intent"]
)
def test_views_only_where_a_contrastive_weight_is_above_zero(weights, expected):
    fields = (("sequence_weight", weights[0]), ("intent_weight", weights[1]))
    _, (batches,) = epochs(1, fields=fields)
    assert all(("view_a" in y and "view_b" in y) == expected for _, y in batches)


@pytest.mark.parametrize("examples", ["positions", "prefixes"])
def test_views_are_of_the_users_beside_them(examples):
    _, (batches, *_) = epochs(3, fields=STREAMS["views" if examples == "positions" else "users"])
    differ = 0
    for x, y in batches:
        users = y.get("user_history", x)
        for name in ("view_a", "view_b"):
            assert y[name].shape == users.shape
            for view, user in zip(y[name], users, strict=True):
                assert set(view) <= set(user) | {0}
                assert view.any() == user.any()
        differ += np.any(y["view_a"] != y["view_b"], axis=1).sum()
    assert differ > 10


def test_steps_of_a_bucket_draw_different_views():
    """Two users of one full length would otherwise be cropped alike in every step."""
    same = sequences_of(*[list(range(1, 12))] * 40)
    data = training_batches(same, toy_config(batch_size=2, augmentations=("reorder",), reorder_ratio=1.0))
    views = [y["view_a"] for _, y in data.dataset.take(data.steps_per_epoch).as_numpy_iterator()]
    assert len({view.tobytes() for view in views}) == len(views) == 20


# --- negatives --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("examples", ["positions", "prefixes"])
def test_bce_negatives_stay_off_history_and_target(examples):
    """About an eighth of the catalogue is known to a row: one plain draw would hit it that often, three hardly ever (1/500)."""
    _, batches = epochs(4, fields=options(examples, next_item="bce"))
    hits, drawn = 0, Counter()
    for x, y in (batch for epoch in batches for batch in epoch):
        negative, target = y["negative"], y["target"]
        np.testing.assert_array_equal(negative == 0, target == 0)
        for history, targets, negatives in zip(x, target.reshape(4, -1), negative.reshape(4, -1), strict=True):
            known = {*history.tolist(), *targets.tolist()} - {0}
            hits += sum(one in known for one in negatives.tolist())
            drawn.update(negatives[negatives > 0].tolist())
    assert hits / drawn.total() < 0.02
    assert set(drawn) <= set(range(1, 61)) and len(drawn) > 50


def test_sampled_negatives_are_shared_by_a_batch():
    _, batches = epochs(3, fields=STREAMS["sampled"])
    everything = [y for epoch in batches for _, y in epoch]
    assert all(y["negatives"].shape == y["negative_log_rates"].shape == (5,) for y in everything)
    drawn = np.concatenate([y["negatives"] for y in everything])
    assert drawn.min() >= 1 and drawn.max() <= 60 and len(set(drawn.tolist())) > 30


def test_sampled_softmax_estimates_the_full_one():
    """A draw is a given item at rate 1/4 in a catalogue of four. With many draws the loss approaches the full softmax.

    With the rate 1/3 of the three items that are no target, the sum over negatives would come out at 3/4 of what it should.
    """
    sequences = sequences_of([1, 2, 3, 4, 1, 2])
    data = training_batches(sequences, toy_config(next_item="sampled_softmax", num_negatives=4000, sequence_weight=0.0, intent_weight=0.0))
    _, y = next(data.dataset.as_numpy_iterator())
    keys, queries = np.float32([[0], [1], [2], [3], [4]]) / 4, np.ones((2, 1), "float32")
    targets = np.int32([1, 4])
    sampled = float(sampled_softmax_loss(queries, targets, y["negatives"], y["negative_log_rates"], keys))
    assert sampled == pytest.approx(float(softmax_loss(queries, targets, keys)), abs=0.03)


def test_no_user_to_train_on():
    with pytest.raises(UserError, match="'toy': no user has the 4 events"):
        training_batches(sequences_of([1, 2, 3], [3, 2, 1]), toy_config())


def test_one_user_is_enough():
    data = training_batches(sequences_of([1, 2, 3, 4]), toy_config())
    x, y = next(data.dataset.as_numpy_iterator())
    assert data.steps_per_epoch == 1
    assert sorted(zip(x.tolist(), y["target"].tolist(), strict=True)) == [([0], [0])] * 3 + [([1], [2])]


# --- ranking ----------------------------------------------------------------------------------------------------------

LONG = random_sequences(num_users=21, num_items=80, longest=70, seed=1)


@pytest.mark.parametrize(("split", "back"), [("validation", 2), ("test", 1)])
@pytest.mark.parametrize("batch_size", [1, 4, 50])
def test_ranking_batches_cover_every_user_once(split, back, batch_size):
    data = ranking_batches(LONG, split, batch_size, MAX_LENGTH)
    columns = ("history", "exclude", "target")
    batches = data.dataset.as_numpy_iterator()
    rows = [row for batch in batches for row in zip(*(batch[name] for name in columns), strict=True)]
    assert len(rows) == len(data.users)
    assert len(rows) % batch_size == 0
    assert sorted(data.users[data.users >= 0].tolist()) == list(range(LONG.num_users))
    for user, (history, exclude, target) in zip(data.users, rows, strict=True):
        if user < 0:
            assert not history.any() and not exclude.any() and target == 0
            continue
        seen = LONG[user].tolist()[:-back]
        assert bare(history) == tuple(seen[-MAX_LENGTH:])
        assert bare(exclude) == tuple(seen)
        assert target == LONG[user][-back]
        assert len(exclude) == 16 or len(exclude) < 2 * len(seen)  # a long history does not widen all


def test_unknown_split():
    with pytest.raises(ValueError, match="should be 'validation' or 'test'"):
        ranking_batches(LONG, "training", 4, MAX_LENGTH)


@pytest.mark.parametrize(("split", "back"), [("training", 3), ("validation", 2), ("test", 1)])
def test_histories_are_what_comes_before_the_target(split, back):
    users, history = histories(LONG, split, MAX_LENGTH)
    expected = {user: tuple(LONG[user].tolist()[:-back][-MAX_LENGTH:]) for user in range(LONG.num_users) if len(LONG[user]) > back}
    assert history.shape == (len(users), MAX_LENGTH)
    assert {int(user): bare(row) for user, row in zip(users, history, strict=True)} == expected
    assert users.tolist() == sorted(users.tolist())


def test_a_sample_of_histories_is_reproducible():
    users, history = histories(LONG, "test", MAX_LENGTH, most=5, seed=3)
    again, other = histories(LONG, "test", MAX_LENGTH, most=5, seed=3)[0], histories(LONG, "test", MAX_LENGTH, most=5, seed=4)[0]
    assert len(users) == len(set(users.tolist())) == 5
    np.testing.assert_array_equal(users, again)
    assert users.tolist() != other.tolist()
    np.testing.assert_array_equal(history, histories(LONG, "test", MAX_LENGTH)[1][users])
    assert len(histories(LONG, "test", MAX_LENGTH, most=1000)[0]) == LONG.num_users


def test_probe_views_are_fixed_and_of_their_histories():
    config = toy_config(max_length=6)
    views = probe_views(LONG, config, users=10, max_length=50)
    assert {name: array.shape for name, array in views.items()} == dict.fromkeys(("history", "view_a", "view_b"), (10, 6))
    for row, *both in zip(views["history"], views["view_a"], views["view_b"], strict=True):
        assert all(set(view) <= set(row) | {0} and view.any() for view in both)
    assert (views["view_a"] != views["view_b"]).any()
    for name, array in probe_views(LONG, config, users=10, max_length=50).items():
        np.testing.assert_array_equal(array, views[name])
    assert probe_views(LONG, config, users=10, max_length=4)["history"].shape == (10, 4)
