from collections import Counter, defaultdict
from functools import cache

import numpy as np
import pytest
import tensorflow as tf

from elcrec_tf.data.training_data import training_batches
from elcrec_tf.errors import UserError
from elcrec_tf.losses import sampled_softmax_loss, softmax_loss
from tests.toy import random_sequences, rows_of, sequences_of, toy_config

MAX_LENGTH = 8
SEQUENCES = random_sequences(num_users=30, num_items=60, longest=14)
NO_VIEWS = (("sequence_weight", 0.0), ("intent_weight", 0.0))
STREAMS = {
    "views": (("examples", "positions"),),
    "users": (("examples", "prefixes"), ("next_item", "bce")),
    "sampled": (("examples", "positions"), ("next_item", "sampled_softmax"), ("num_negatives", 5), *NO_VIEWS),
}


@cache
def epochs(count, first_epoch=0, fields=(), sequences=SEQUENCES, replicas=1):
    """(TrainingData, batches of each epoch)."""
    data = training_batches(sequences, toy_config(max_length=MAX_LENGTH, **dict(fields)), first_epoch, replicas)
    batches = list(data.dataset.take(count * data.steps_per_epoch).as_numpy_iterator())
    return data, [batches[epoch * data.steps_per_epoch :][: data.steps_per_epoch] for epoch in range(count)]


def options(examples, **fields):
    return (("examples", examples), *NO_VIEWS, *fields.items())


def in_slots(part, values=None):
    """The cells of each slot, oldest first. They must stand side by side in one row and end where `last` says."""
    values = part["history"] if values is None else values
    slot, distance = part["slot"].reshape(-1), part["distance"].reshape(-1)
    assert part["history"].shape == part["slot"].shape == part["distance"].shape == values.shape
    assert not part["history"].reshape(-1)[slot == len(part["last"])].any()
    found = []
    for number, last in enumerate(part["last"]):
        cells = np.flatnonzero(slot == number)
        np.testing.assert_array_equal(cells + distance[cells], last)
        assert len(cells) and cells[-1] == last and cells[0] // values.shape[1] == last // values.shape[1]
        found.append(values.reshape(-1)[cells])
    return found


def bare(cells):
    """The items of a left-padded slot; it must have no padding between or behind them."""
    items = cells[cells != 0]
    np.testing.assert_array_equal(cells[len(cells) - len(items) :], items)
    return tuple(items.tolist())


def shown(batches, examples):
    """Every non-empty example of an epoch as (history, target)."""
    pairs = []
    for x, y in batches:
        histories = in_slots(x["examples"])
        targets = y["target"] if examples == "prefixes" else in_slots(x["examples"], y["target"])
        for history, target in zip(histories, targets, strict=True):
            if examples == "prefixes":
                assert bool(target) == bool(history.any())
                pairs += [(bare(history), int(target))] if target else []
            else:
                np.testing.assert_array_equal(history != 0, target != 0)
                pairs += [(bare(history), bare(target))] if history.any() else []
    return Counter(pairs)


def constructed(examples):
    """The same in plain Python: the last two events of a user are held out, the latest `MAX_LENGTH` items are kept."""
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


# --- examples ---------------------------------------------------------------------------------------------------------


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
        users = [bare(cells) for x, _ in batches for cells in in_slots(x["users"]) if cells.any()]
        assert Counter(users) == training_users()


def test_positions_have_no_separate_users():
    _, (batches, _) = epochs(2, fields=options("positions", official_padding=True))
    assert all(x.keys() == {"examples"} and y.keys() == {"target"} for x, y in batches)


@pytest.mark.parametrize(("name", "replicas"), [("views", 1), ("users", 1), ("users", 2)])
def test_batches_have_one_shape_and_layout(name, replicas):
    data, several = epochs(3, fields=STREAMS[name], replicas=replicas)
    batches = [batch for epoch in several for batch in epoch]
    assert len({str(tf.nest.map_structure(np.shape, batch)) for batch in batches}) == 1
    assert str(tf.nest.map_structure(lambda spec: tuple(spec.shape), data.dataset.element_spec)) == str(
        tf.nest.map_structure(np.shape, batches[0])
    )
    assert {array.dtype for array in flat(batches)} == {np.dtype("int32")}
    assert len(batches[0][0]["examples"]["last"]) <= 4
    assert len({x["examples"]["slot"].tobytes() for x, _ in batches}) == 1


def test_examples_are_dealt_by_length():
    """Each batch gets one of each stratum of about the same length, so all batches are about equally full."""
    _, (batches, _) = epochs(2, fields=options("positions", official_padding=False))
    lengths = [sorted(int(np.sum(cells != 0)) for cells in in_slots(x["examples"])) for x, _ in batches]
    strata = np.array(lengths).T
    assert all(earlier.max() <= later.min() for earlier, later in zip(strata, strata[1:], strict=False))
    assert Counter(strata[0].tolist())[0] < len(batches)  # only the shortest stratum is filled up


def test_official_padding_gives_every_history_a_row_of_full_length():
    """The paper's objective compares whole rows: row i of both views has to be that of user i."""
    for fields in (("examples", "positions"), ("examples", "prefixes")):
        _, (batches,) = epochs(1, fields=(fields, ("official_padding", True)))
        for x, _ in batches:
            for part in x.values():
                rows = len(part["last"])
                np.testing.assert_array_equal(part["slot"], np.repeat(np.arange(rows)[:, None], MAX_LENGTH, axis=1))
                np.testing.assert_array_equal(part["distance"], np.tile(np.arange(MAX_LENGTH)[::-1], (rows, 1)))
            assert x.get("users", x["examples"])["history"].shape == x["view_a"]["history"].shape


def items_of(x):
    """Cells of a batch that hold an item; those that a view's mask hides are not seen here."""
    return sum(int(np.sum(part["history"] != 0)) for part in x.values())


@pytest.mark.parametrize("examples", ["positions", "prefixes"])
@pytest.mark.parametrize("official_padding", [False, True])
@pytest.mark.parametrize("augmentation", [None, "reorder", "crop"])
def test_padding_share_is_counted_over_all_cells(examples, official_padding, augmentation):
    views = NO_VIEWS if augmentation is None else (("augmentations", (augmentation,)),)
    data, (batches,) = epochs(1, fields=(("examples", examples), ("official_padding", official_padding), *views))
    cells = sum(part["history"].size for x, _ in batches for part in x.values())
    assert data.padding_share == pytest.approx(1 - sum(items_of(x) for x, _ in batches) / cells)


def test_padding_share_counts_hidden_items_and_means_over_the_augmentations():
    shares = {}
    for names in (("mask",), ("reorder",), ("crop",), ("crop", "reorder")):
        data, all_epochs = epochs(6, fields=(("augmentations", names),))
        shares[names] = data.padding_share
    assert shares["mask",] == shares["reorder",]
    batches = [x for epoch in all_epochs for x, _ in epoch]  # of crop and reorder
    cells = sum(part["history"].size for x in batches for part in x.values())
    assert data.padding_share == pytest.approx(1 - sum(map(items_of, batches)) / cells, abs=0.01)


@pytest.mark.parametrize(("examples", "most"), [("positions", 0.12), ("prefixes", 0.25)])
def test_little_is_padding_where_lengths_differ_widely(examples, most):
    """As in a real log: most histories are short, a few fill the model's length. One history a row would leave 3/4 empty.

    Beside prefixes stand few users a batch (9 here), so their strata are coarse.
    """
    rng = np.random.default_rng(0)
    users = [rng.integers(1, 50, min(4 + int(length), 33)) for length in rng.exponential(6, 300)]
    config = toy_config(max_length=30, batch_size=64, examples=examples)
    assert training_batches(sequences_of(*users, num_items=50), config).padding_share < most


# --- a function of seed, epoch and step -------------------------------------------------------------------------------


def flat(batches):
    return [array for batch in batches for array in tf.nest.flatten(batch) if array.dtype != np.float32]


def equal(ours, theirs):
    pairs = list(zip(flat(ours), flat(theirs), strict=True))
    return all(one.shape == other.shape and np.array_equal(one, other) for one, other in pairs)


@pytest.mark.parametrize(("name", "replicas"), [("views", 1), ("users", 1), ("sampled", 1), ("users", 2)])
def test_a_run_that_starts_late_gets_what_an_uninterrupted_one_gets(name, replicas):
    """Shuffling, views and negatives are functions of (seed, epoch, step)."""
    fields = STREAMS[name]
    _, (first, second, third) = epochs(3, fields=fields, replicas=replicas)
    _, (late,) = epochs(1, first_epoch=2, fields=fields, replicas=replicas)
    assert equal(late, third)
    assert not equal(first, second) and not equal(second, third)


def test_another_seed_another_stream():
    _, (ours, *_) = epochs(3, fields=STREAMS["views"])
    _, (other,) = epochs(1, fields=(*STREAMS["views"], ("seed", 1)))
    assert not equal(ours, other)


def test_order_and_make_up_of_batches_change_between_epochs():
    _, (first, second, _) = epochs(3, fields=STREAMS["views"])
    orders, companions = [], []
    for batches in (first, second):
        histories = [[bare(cells) for cells in in_slots(x["examples"])] for x, _ in batches]
        orders.append([history for batch in histories for history in batch if history])
        companions.append({frozenset(batch) for batch in histories})
    assert sorted(orders[0]) == sorted(orders[1]) and orders[0] != orders[1]
    assert len(companions[0] & companions[1]) < len(first) / 2


# --- replicas ---------------------------------------------------------------------------------------------------------


def halves(batches):
    """The batches of each of two devices: every array is cut in two along its first axis."""
    return [tf.nest.map_structure(lambda array, index=index: np.split(array, 2)[index], batches) for index in range(2)]


@pytest.mark.parametrize("examples", ["positions", "prefixes"])
def test_two_devices_share_the_examples_and_each_counts_its_slots_from_zero(examples):
    fields = STREAMS["users" if examples == "prefixes" else "views"]
    data, (batches, *_) = epochs(3, fields=fields, replicas=2)
    assert data.steps_per_epoch == epochs(3, fields=fields)[0].steps_per_epoch
    ours, theirs = halves(batches)
    shares = [shown(share, examples) for share in (ours, theirs)]
    assert shares[0] + shares[1] == constructed(examples)
    assert abs(shares[0].total() - shares[1].total()) <= data.steps_per_epoch
    for (x, _), (other, _) in zip(ours, theirs, strict=True):
        for name in x:
            assert len(in_slots(x[name])) == len(in_slots(other[name])) == len(x[name]["last"])
        np.testing.assert_array_equal(x["examples"]["last"], other["examples"]["last"])


@pytest.mark.parametrize("replicas", [2, 3])
@pytest.mark.parametrize("examples", ["positions", "prefixes"])
def test_replicas_get_together_what_one_device_gets(examples, replicas):
    """Step by step: the same examples and targets, and the same negatives of the sampled softmax."""
    fields = (("examples", examples), ("next_item", "sampled_softmax"), ("num_negatives", 5), ("batch_size", 7), *NO_VIEWS)
    _, alone = epochs(2, fields=fields)
    _, together = epochs(2, fields=fields, replicas=replicas)
    for one, several in zip(sum(alone, []), sum(together, []), strict=True):
        shares = [tf.nest.map_structure(lambda array, index=index: np.split(array, replicas)[index], several) for index in range(replicas)]
        assert shown(shares, examples) == shown([one], examples)
        for _, y in shares:
            np.testing.assert_array_equal(y["negatives"], one[1]["negatives"])


def test_a_worker_makes_its_shares_only():
    fields = toy_config(max_length=MAX_LENGTH, **dict(STREAMS["users"]))
    _, (batches, *_) = epochs(3, fields=STREAMS["users"], replicas=3)
    own = training_batches(SEQUENCES, fields, replicas=3, shares=range(1, 3))
    assert own.steps_per_epoch == len(batches)
    for whole, part in zip(batches, own.dataset.as_numpy_iterator(), strict=False):
        for ours, theirs in zip(flat(part), flat(whole), strict=True):
            np.testing.assert_array_equal(ours, theirs[len(theirs) // 3 :])


@pytest.mark.parametrize("loss", ["bce", "sampled_softmax"])
def test_two_devices_draw_views_and_negatives_of_their_own_but_share_the_sampled_softmax_ones(loss):
    same = sequences_of(*[list(range(1, 12))] * 8, num_items=500)
    fields = (("augmentations", ("reorder",)), ("reorder_ratio", 1.0), ("next_item", loss), ("num_negatives", 20))
    _, (batches,) = epochs(1, fields=fields, sequences=same, replicas=2)
    for (x, y), (other, other_y) in zip(*halves(batches), strict=True):
        if loss == "bce":
            assert not np.array_equal(y["negative"], other_y["negative"])
        else:
            assert y["negatives"].shape == y["negative_log_rates"].shape == (20,)
            np.testing.assert_array_equal(y["negatives"], other_y["negatives"])
        assert not np.array_equal(x["view_a"]["history"], other["view_a"]["history"])


# --- views ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "expected"), [((0.0, 0.0), False), ((0.1, 0.0), True), ((0.0, 0.1), True)], ids=["neither", "sequence", "intent"]
)
def test_views_only_where_a_contrastive_weight_is_above_zero(weights, expected):
    fields = (("sequence_weight", weights[0]), ("intent_weight", weights[1]))
    _, (batches,) = epochs(1, fields=fields)
    assert all(("view_a" in x and "view_b" in x) == expected for x, _ in batches)


@pytest.mark.parametrize("examples", ["positions", "prefixes"])
@pytest.mark.parametrize("official_padding", [False, True])
def test_views_are_of_the_users_beside_them(examples, official_padding):
    """Slot i of a view holds user i, wherever it lies."""
    fields = STREAMS["views" if examples == "positions" else "users"] + (("official_padding", True),) * official_padding
    _, (batches, *_) = epochs(3, fields=fields)
    differ = 0
    for x, _ in batches:
        users = in_slots(x.get("users", x["examples"]))
        views = [in_slots(x[name]) for name in ("view_a", "view_b")]
        for view in views:
            for cells, user in zip(view, users, strict=True):
                assert set(cells) <= set(user) | {0}
                assert cells.any() == user.any()
        differ += sum(a[a > 0].tolist() != b[b > 0].tolist() for a, b in zip(*views, strict=True))
    assert differ > 10


@pytest.mark.parametrize(("name", "kept"), [("crop", [1, 1, 2]), ("mask", [1, 1, 2]), ("reorder", [1, 2, 4])])
def test_a_view_is_that_of_the_augmentation(name, kept):
    """Of histories of 1, 2 and 4 items, crop keeps half but at least one, mask hides half (of one: none), reorder keeps all."""
    fields = (("augmentations", (name,)), ("crop_ratio", 0.5), ("mask_ratio", 0.5), ("batch_size", 2))
    sequences = sequences_of([1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12, 13, 14, 15, 16])
    _, (batches,) = epochs(1, fields=fields, sequences=sequences)
    views = [cells for x, _ in batches for cells in in_slots(x["view_a"]) if cells.any()]
    assert sorted(int(np.sum(cells != 0)) for cells in views) == kept


@pytest.mark.parametrize("examples", ["positions", "prefixes"])
@pytest.mark.parametrize(("max_length", "kept"), [(8, 7), (6, 6), (5, 5), (4, 4)])
def test_an_insert_makes_views_longer_than_any_history_up_to_the_models_length(examples, max_length, kept):
    """Of five items two get another before them."""
    sequences = random_sequences(num_users=12, num_items=40, shortest=8, longest=8)
    data = training_batches(sequences, toy_config(max_length=max_length, examples=examples, augmentations=("insert",), insert_ratio=0.4))
    batches = [x for x, _ in data.dataset.take(data.steps_per_epoch).as_numpy_iterator()]
    views = [cells for x in batches for name in ("view_a", "view_b") for cells in in_slots(x[name]) if cells.any()]
    assert len(views) == 24 and {len(bare(cells)) for cells in views} == {kept}
    assert {cells[-1] for cells in views} == {sequences[user][4] for user in range(12)}


@pytest.mark.parametrize("official_padding", [False, True])
def test_no_held_out_item_gets_into_a_view(official_padding):
    rng = np.random.default_rng(0)
    users = [[*rng.permutation(np.arange(1, 21))[:6], *rng.integers(21, 41, 2)] for _ in range(20)]
    names = ("substitute", "insert")
    config = toy_config(augmentations=names, substitute_ratio=1.0, insert_ratio=1.0, official_padding=official_padding)
    data = training_batches(sequences_of(*users, num_items=40), config)
    batches = [x for x, _ in data.dataset.take(data.steps_per_epoch).as_numpy_iterator()]
    assert max(int(part["history"].max()) for x in batches for part in x.values()) <= 20
    changed = [set(cells) - set(user) for x in batches for cells, user in zip(*map(in_slots, (x["view_a"], x["examples"])), strict=True)]
    assert any(changed)


def test_dropout_views_are_the_histories():
    _, (batches,) = epochs(1, fields=(("augmentations", ("dropout",)),))
    for x, _ in batches:
        for name in ("view_a", "view_b"):
            assert list(map(bare, in_slots(x[name]))) == list(map(bare, in_slots(x["examples"])))


def test_each_user_gets_each_augmentation_about_equally_often():
    """Of eight items crop keeps 2 and mask 4; reorder keeps all. In a batch, each is as frequent as the others."""
    sequences = random_sequences(num_users=12, num_items=40, shortest=11, longest=11)
    fields = (("crop_ratio", 0.25), ("mask_ratio", 0.5), ("batch_size", 6))
    _, all_epochs = epochs(40, fields=fields, sequences=sequences)
    kinds, counts = {2: "crop", 4: "mask", 8: "reorder"}, defaultdict(Counter)
    for x, _ in (batch for epoch in all_epochs for batch in epoch):
        for name in ("view_a", "view_b"):
            drawn = [kinds[int(np.sum(cells != 0))] for cells in in_slots(x[name])]
            assert Counter(drawn) == {"crop": 2, "mask": 2, "reorder": 2}
            for user, kind in zip(in_slots(x["examples"]), drawn, strict=True):
                counts[bare(user)][kind] += 1
    assert len(counts) == 12
    # 80 views of a user, a third of each kind: 27, with a standard deviation of 4.2.
    assert all(7 < count[kind] < 47 for count in counts.values() for kind in kinds.values())


def test_both_views_draw_their_augmentations_apart():
    sequences = random_sequences(num_users=12, num_items=40, shortest=11, longest=11)
    _, all_epochs = epochs(40, fields=(("crop_ratio", 0.25), ("mask_ratio", 0.5), ("batch_size", 6)), sequences=sequences)
    same = []
    for x, _ in (batch for epoch in all_epochs for batch in epoch):
        pairs = zip(in_slots(x["view_a"]), in_slots(x["view_b"]), strict=True)
        same += [np.sum(a != 0) == np.sum(b != 0) for a, b in pairs]
    assert np.mean(same) == pytest.approx(1 / 3, abs=0.1)


def test_steps_draw_different_views():
    """Users of one full length would otherwise be reordered alike in every step."""
    same = sequences_of(*[list(range(1, 12))] * 40)
    data = training_batches(same, toy_config(batch_size=2, augmentations=("reorder",), reorder_ratio=1.0))
    views = [x["view_a"]["history"] for x, _ in data.dataset.take(data.steps_per_epoch).as_numpy_iterator()]
    assert len({view.tobytes() for view in views}) == len(views) == 20


# --- negatives --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("examples", ["positions", "prefixes"])
def test_bce_negatives_stay_off_history_and_target(examples):
    """About an eighth of the catalogue is known to a history: one plain draw would hit it that often, three hardly ever (1/500)."""
    _, batches = epochs(4, fields=options(examples, next_item="bce"))
    hits, drawn = 0, Counter()
    for x, y in (batch for epoch in batches for batch in epoch):
        np.testing.assert_array_equal(y["negative"] == 0, y["target"] == 0)
        part = x["examples"]
        of_slots = [y[name] if examples == "prefixes" else in_slots(part, y[name]) for name in ("target", "negative")]
        for history, targets, negatives in zip(in_slots(part), *of_slots, strict=True):
            known = {*history.tolist(), *np.ravel(targets).tolist()} - {0}
            negatives = np.ravel(negatives)
            hits += sum(one in known for one in negatives.tolist())
            drawn.update(negatives[negatives > 0].tolist())
    assert hits / drawn.total() < 0.02
    assert set(drawn) <= set(range(1, 61)) and len(drawn) > 50


def test_official_negatives_stay_off_the_held_out_items_too():
    """Users with 13 of 200 items, of which the encoder sees 8: the oldest two and the two held out are spared as well."""
    sequences = random_sequences(num_users=6, num_items=200, shortest=13, longest=13)
    whole = {tuple(sequences[user][:-3][-MAX_LENGTH:]): sequences[user] for user in range(sequences.num_users)}

    def share_of_hits(negatives):
        _, batches = epochs(200, fields=options("positions", next_item="bce", negatives=negatives), sequences=sequences)
        drawn = hits = 0
        for x, y in (batch for epoch in batches for batch in epoch):
            part = x["examples"]
            for history, own in zip(in_slots(part), in_slots(part, y["negative"]), strict=True):
                if history.any():
                    drawn += int(np.sum(own > 0))
                    hits += int(np.isin(own[own > 0], whole[bare(history)]).sum())
        return hits / drawn

    assert share_of_hits("uniform") == pytest.approx(4 / 200, rel=0.2)
    assert share_of_hits("official") < 0.002, "three draws in a row"


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
    sampled = float(sampled_softmax_loss(queries, targets, y["negatives"], y["negative_log_rates"], rows_of(keys)))
    assert sampled == pytest.approx(float(softmax_loss(queries, targets, keys)), abs=0.03)


# --- edges ------------------------------------------------------------------------------------------------------------


def test_no_user_to_train_on():
    with pytest.raises(UserError, match="'toy': no user has the 4 events"):
        training_batches(sequences_of([1, 2, 3], [3, 2, 1]), toy_config())


def test_one_user_is_enough():
    data = training_batches(sequences_of([1, 2, 3, 4]), toy_config(**dict(NO_VIEWS)))
    x, y = next(data.dataset.as_numpy_iterator())
    assert data.steps_per_epoch == 1 and data.padding_share == 0
    assert {name: array.tolist() for name, array in x["examples"].items()} == {
        "history": [[1]],
        "slot": [[0]],
        "distance": [[0]],
        "last": [0],
    }
    assert y["target"].tolist() == [[2]]


def test_one_user_on_two_devices_leaves_one_empty_slot():
    data = training_batches(sequences_of([1, 2, 3, 4, 5]), toy_config(examples="positions"), replicas=2)
    x, y = next(data.dataset.as_numpy_iterator())
    assert sorted(x["examples"]["history"].tolist()) == [[0, 0], [1, 2]]
    assert sorted(y["target"].tolist()) == [[0, 0], [2, 3]]
    assert data.padding_share == pytest.approx(1 - (2 + 2 * (1 + 2 + 2) / 3) / (4 + 2 * x["view_a"]["history"].size))
