"""What a training step must do, against numbers derived by hand.

The toy data: users with 5, 6 and 3 events. Without the two held-out events and the last training event, which is only a target, their
inputs have 2, 3 and 0 items; the third user is not trained on.
"""

import numpy as np
import pytest

from elcrec_tf.config import AugmentConfig
from pipelines.benchmark.counts import Encoding, count_step, kept_items
from pipelines.benchmark.floor import PARTS, Rates, floor_seconds, step_bytes
from pipelines.benchmark.products import Product, Shape, dense, step_products
from tests.toy import sequences_of, toy_config

ITEMS = 10  # the whole catalogue
SIZE, CLUSTERS = 8, 4  # of `toy_config`, which has one layer and two heads


@pytest.fixture
def toy():
    return sequences_of([1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6], [1, 2, 3], num_items=ITEMS)


def flops(products):
    return {part: sum(product.flops for product in products if product.part == part) for part in PARTS if part != "memory"}


def test_a_step_of_positions(toy):
    # Items 2 + 3, pairs 2·3/2 + 3·4/2. A view crops to floor(0.6 n) = 1 and 1 items, masks floor(0.3 n) = 0 and 0 of them, or reorders:
    # items 2, 5, 5 and pairs 2, 9, 9 by augmentation, so two views have 2·12/3 items and 2·20/3 pairs in the mean.
    step = count_step(toy, toy_config(), steps=1)
    history, views = step.encodings
    assert history == Encoding(2, 5, 9, last_only=False)
    assert (views.sequences, views.tokens, views.pairs) == pytest.approx((4, 8, 40 / 3))
    assert not views.last_only
    assert (step.users, step.targets, step.view_tokens) == pytest.approx((2, 5, 8))


def test_numbers_are_means_over_the_steps(toy):
    step = count_step(toy, toy_config(), steps=2)
    assert (step.users, step.targets, step.tokens) == pytest.approx((1, 2.5, 6.5))


def test_a_step_of_prefixes(toy):
    # Prefixes of 1, 2 and of 1, 2, 3 items. Users' histories are pooled by their last state, the views by all of them.
    step = count_step(toy, toy_config(examples="prefixes"), steps=1)
    prefixes, users, views = step.encodings
    assert prefixes == Encoding(5, 9, 14, last_only=True)
    assert users == Encoding(2, 5, 9, last_only=True)
    assert not views.last_only
    assert step.targets == 5
    assert step.outputs == pytest.approx(5 + 2 + 8)


def test_histories_are_cut_to_the_longest(toy):
    step = count_step(toy, toy_config(max_length=2, examples="prefixes", sequence_weight=0, intent_weight=0), steps=1)
    prefixes, users = step.encodings
    assert (prefixes.tokens, users.tokens) == (1 + 2 + 1 + 2 + 2, 2 + 2)
    assert step.targets == 5


def test_padding_is_work_where_it_enters_pooled_states(toy):
    step = count_step(toy, toy_config(official_padding=True), steps=1)
    assert [encoding.tokens for encoding in step.encodings] == pytest.approx([2 * 8, 4 * 8])
    assert step.targets == 5


@pytest.mark.parametrize(("name", "kept"), [("crop", [1, 1, 6]), ("mask", [1, 3, 7]), ("insert", [2, 4, 12]), ("dropout", [1, 3, 10])])
def test_views_keep_what_the_augmentations_keep(name, kept):
    assert kept_items(np.array([1, 3, 10]), name, AugmentConfig(), longest=12).tolist() == kept


@pytest.mark.parametrize("name", ["crop", "mask", "reorder", "substitute", "insert"])
def test_kept_items_agree_with_the_augmentations(name):
    import tensorflow as tf

    from elcrec_tf import augment

    lengths = np.arange(1, 21)
    history = tf.constant([[0] * (20 - n) + list(range(1, n + 1)) for n in lengths])
    similar = (tf.range(100, 121) * tf.cast(tf.range(21) > 0, tf.int32),) if name in augment.BY_SIMILARITY else ()
    view = getattr(augment, name)(history, tf.constant([1, 2]), getattr(AugmentConfig(), f"{name}_ratio"), *similar)
    assert tf.math.count_nonzero(view, axis=1).numpy().tolist() == kept_items(lengths, name, AugmentConfig(), longest=20).tolist()


def test_flops_of_positions(toy):
    config = toy_config()
    found = flops(step_products(count_step(toy, config, 1), config, ITEMS))
    # 5 targets: forward and two backward products of 2·n·V·d each.
    assert found["softmax"] == 6 * 5 * ITEMS * SIZE
    # 13 tokens through d·3d + d·d + d·4d + 4d·d weights, three products each; six products over 9 + 40/3 pairs.
    assert found["encoder"] == pytest.approx(6 * 13 * 12 * SIZE**2 + 12 * (9 + 40 / 3) * SIZE)
    # [4, d] x [d, 4] and its gradient, once for the sequences and twice for the intents; 8 view states against 4 centres.
    assert found["contrastive"] == pytest.approx(3 * 2 * (2 * 4 * 4 * SIZE) + 2 * 8 * SIZE * CLUSTERS)
    # 2 users against 4 centres, three products; the centres against each other and the gradient.
    assert found["cluster"] == 3 * (2 * 2 * SIZE * CLUSTERS) + 2 * (2 * CLUSTERS * CLUSTERS * SIZE)


def test_flops_of_prefixes(toy):
    config = toy_config(examples="prefixes")
    found = flops(step_products(count_step(toy, config, 1), config, ITEMS))
    assert found["softmax"] == 6 * 5 * ITEMS * SIZE
    # The only layer is the top one. Keys and values: 9 + 5 + 8 tokens, d·2d weights. Queries and all behind the attention: 5 prefixes,
    # 2 users and 8 view tokens, d·d + d·d + d·4d + 4d·d weights. Attention as matrix products: the views' 40/3 pairs.
    assert found["encoder"] == pytest.approx(6 * 22 * 2 * SIZE**2 + 6 * 15 * 10 * SIZE**2 + 12 * 40 / 3 * SIZE)


def test_lower_layers_make_every_state(toy):
    one, two = (toy_config(examples="prefixes", num_layers=layers) for layers in (1, 2))
    first, second = (flops(step_products(count_step(toy, config, 1), config, ITEMS))["encoder"] for config in (one, two))
    pairs = 14 + 9 + 40 / 3
    assert second - first == pytest.approx(6 * 22 * 12 * SIZE**2 + 12 * pairs * SIZE)


@pytest.mark.parametrize(("loss", "candidates"), [("softmax", ITEMS), ("sampled_softmax", 6), ("bce", 0)])
def test_candidates_of_the_next_item_losses(toy, loss, candidates):
    config = toy_config(next_item=loss, num_negatives=6)
    products = step_products(count_step(toy, config, 1), config, ITEMS)
    assert flops(products)["softmax"] == 6 * 5 * candidates * SIZE


def names(toy, **fields):
    config = toy_config(**fields)
    products = step_products(count_step(toy, config, 1), config, ITEMS)
    return {product.name for product in products if product.part != "encoder"}


def test_a_part_that_is_off_needs_no_products(toy):
    sequence = {"sequence similarities", "sequence similarities, gradient", "nearest intent of the views' states"}
    intent = {"intent similarities", "intent similarities, gradient"}
    gradients = {"assignment, gradient of the input", "assignment, gradient of the weights"}
    cluster = {"assignment", "centres' similarities", "centres' similarities, gradient"} | gradients
    whole = names(toy)
    assert sequence | intent | cluster <= whole
    assert whole - names(toy, sequence_weight=0) == sequence
    assert whole - names(toy, intent_weight=0) == intent
    # The intent loss needs to know the nearest centres even where nothing trains them.
    without = names(toy, cluster_weight=0)
    assert (whole - without, without - whole) == (cluster, {"nearest intent of the users"})
    assert names(toy, cluster_form="paper") == without
    alone = {"sequence_weight": 0, "intent_weight": 0, "cluster_weight": 0}
    assert whole - names(toy, **alone) == sequence | intent | cluster
    assert len(count_step(toy, toy_config(**alone), 1).encodings) == 1


def test_views_need_their_last_states_alone_without_the_sequence_loss(toy):
    assert count_step(toy, toy_config(sequence_weight=0), 1).encodings[-1].last_only
    assert not count_step(toy, toy_config(sequence_weight=0, intent_pooling="mean"), 1).encodings[-1].last_only


def test_width_of_the_sequence_representation(toy):
    def width(**fields):
        config = toy_config(**fields)
        products = step_products(count_step(toy, config, 1), config, ITEMS)
        return next(product.inner for product in products if product.name == "sequence similarities")

    assert width() == SIZE
    assert width(fusion="concat") == 2 * SIZE
    assert width(fusion="concat", sequence_pooling="flatten", official_padding=True) == 2 * SIZE * 8


def test_a_dense_layer_is_three_products_of_equal_work():
    products = dense("encoder", "expand", 10, 4, 16, count=2)
    assert [product.flops for product in products] == [2 * 2 * 10 * 4 * 16] * 3
    assert [(product.rows, product.inner, product.columns, product.cut) for product in products] == [
        (10, 4, 16, "rows"),
        (10, 16, 4, "rows"),
        (4, 10, 16, "inner"),
    ]


def test_bytes_of_a_step(toy):
    config = toy_config()
    step = count_step(toy, config, 1)
    # Adam touches seven numbers a parameter; 13 embeddings come in; the gradient of 10 items and the padding row goes out.
    assert step_bytes(step, config, ITEMS, parameters=1000) == pytest.approx(4 * (7 * 1000 + (13 + 11) * SIZE))
    # Sampled: the gradient has rows only for what was looked up, here more than there are.
    sampled = toy_config(next_item="sampled_softmax", num_negatives=2)
    assert step_bytes(step, sampled, 100, 1000) == pytest.approx(4 * (7 * 1000 + (13 + 13 + 5 + 2) * SIZE))
    prefixes = toy_config(examples="prefixes")
    # 9 + 5 tokens whose keys and values the last position reads twice and whose gradients it writes.
    expected = 4 * (7 * 1000 + (22 + 11 + 6 * 14) * SIZE)
    assert step_bytes(count_step(toy, prefixes, 1), prefixes, ITEMS, 1000) == pytest.approx(expected)


def test_floor_takes_the_faster_number_format():
    products = [Product("softmax", "a", 10, 10, 10), Product("encoder", "b", 5, 10, 10, count=4)]
    rates = Rates({products[0].shape: {"float32": 2, "bfloat16": 4}, products[1].shape: {"float32": 2, "bfloat16": 1}}, bandwidth=10)
    # 2000 flop at 4 GFLOP/s, 4000 flop at 2 GFLOP/s, 30 bytes at 10 GB/s.
    assert floor_seconds(products, 30, rates) == pytest.approx(
        {"softmax": 0.5e-6, "encoder": 2e-6, "contrastive": 0, "cluster": 0, "memory": 3e-9}
    )
    assert floor_seconds(products, 30, rates, ("float32",))["softmax"] == pytest.approx(1e-6)


def test_rates_survive_json():
    row = {"products": [{"shape": [1, 2, 3, 1, "rows"], "float32": {"gflops": 5.0}, "bfloat16": {"gflops": 6.0}}], "bandwidth": 7.0}
    assert Rates.from_row(row).gflops == {Shape(1, 2, 3, 1, "rows"): {"float32": 5.0, "bfloat16": 6.0}}
