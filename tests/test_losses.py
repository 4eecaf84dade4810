import math

import numpy as np
import pytest
import tensorflow as tf

from elcrec_tf import losses
from elcrec_tf.kernels import Kernels, using
from elcrec_tf.losses import bce_loss, elcm_assign, elcm_paper, nt_xent, sampled_softmax_loss, softmax_loss
from tests.toy import rows_of

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
NUM_ITEMS = 9
KERNELS = {"plain": Kernels(), "chains": Kernels(compiled=True)}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def scored(rng):
    """Queries, targets (one row has none) and keys of 9 items; padding's key would dominate every softmax if it were a candidate."""
    keys = rng.normal(size=(NUM_ITEMS + 1, 4))
    keys[0] = 50
    return rng.normal(size=(5, 4)).astype("float32"), np.int32([3, 0, 9, 1, 3]), keys.astype("float32")


def naive_softmax(queries, targets, keys):
    losses = []
    for query, target in zip(queries.astype(np.float64), targets, strict=True):
        if target:
            scores = keys[1:].astype(np.float64) @ query
            losses.append(math.log(np.exp(scores).sum()) - scores[target - 1])
    return np.mean(losses)


def gradients(function, *inputs):
    inputs = [tf.constant(values, tf.float32) for values in inputs]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        loss = function(*inputs)
    return [tf.convert_to_tensor(gradient).numpy() for gradient in tape.gradient(loss, inputs)]


# --- next item --------------------------------------------------------------------------------------------------------


def test_softmax_by_hand():
    """Scores (ln 2, 0, 0) give probabilities (1/2, 1/4, 1/4): losses ln 2 and ln 4, mean 3/2 ln 2."""
    keys = np.float32([[9, 9], [math.log(2), 0], [0, 0], [0, 0]])
    loss = softmax_loss(np.float32([[1, 0], [1, 0]]), np.int32([1, 3]), keys)
    assert float(loss) == pytest.approx(1.5 * math.log(2), rel=1e-5)


def test_softmax_equals_plain_numpy(scored):
    np.testing.assert_allclose(float(softmax_loss(*scored)), naive_softmax(*scored), **CLOSE)


def test_softmax_gradient_equals_the_analytic_one(scored):
    """dL/dq = mean(p - onehot) K, dL/dK = mean (p - onehot) outer q; nothing for the row without target and for padding's key."""
    queries, targets, keys = scored
    probabilities = np.exp(queries @ keys[1:].T)
    probabilities /= probabilities.sum(-1, keepdims=True)
    error = (probabilities - (np.arange(1, NUM_ITEMS + 1) == targets[:, None])) * (targets > 0)[:, None] / 4
    to_queries, to_keys = gradients(lambda q, k: softmax_loss(q, targets, k), queries, keys)
    np.testing.assert_allclose(to_queries, error @ keys[1:], **CLOSE)
    np.testing.assert_allclose(to_keys[1:], error.T @ queries, **CLOSE)
    np.testing.assert_array_equal(to_keys[0], 0)


def plain_softmax(queries, targets, keys):
    """The loss by TensorFlow's own cross entropy, for its gradients."""
    logits = tf.matmul(queries, keys[1:], transpose_b=True)
    weights = tf.cast(targets > 0, tf.float32)
    each = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(targets - 1, 0), logits)
    return tf.reduce_sum(weights * each) / tf.maximum(tf.reduce_sum(weights), 1)


@pytest.fixture
def blocks(monkeypatch):
    """64 rows a block, the fewest."""
    monkeypatch.setattr(losses, "_CACHED_LOGITS", 1)


def many_rows(rng, rows, targets="some"):
    """Queries, targets (a third of them none, or all) and keys of 9 items."""
    drawn = rng.integers(1, NUM_ITEMS + 1, rows) * (rng.random(rows) < 2 / 3) * (targets == "some")
    return rng.normal(size=(rows, 4)).astype("float32"), drawn.astype("int32"), rng.normal(size=(NUM_ITEMS + 1, 4)).astype("float32")


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("rows", [1, 64, 65, 150])
def test_softmax_by_blocks_equals_plain_autodiff(blocks, rng, rows, bounded, kernels):
    queries, targets, keys = many_rows(rng, rows)
    expected = float(plain_softmax(queries, targets, keys)), *gradients(lambda q, k: plain_softmax(q, targets, k), queries, keys)
    with using(KERNELS[kernels]):
        ours = (
            float(softmax_loss(queries, targets, keys, bounded)),
            *gradients(lambda q, k: softmax_loss(q, targets, k, bounded), queries, keys),
        )
    for one, other in zip(ours, expected, strict=True):
        np.testing.assert_allclose(one, other, **CLOSE)


def test_blocks_are_of_about_the_same_size_and_cover_every_row_once(blocks):
    items = tf.zeros((NUM_ITEMS, 4))
    for rows in (1, 63, 64, 65, 128, 129, 1000):
        sizes = [len(range(rows)[part]) for part in losses._blocks(rows, items)]
        assert np.concatenate([np.arange(rows)[part] for part in losses._blocks(rows, items)]).tolist() == list(range(rows))
        assert max(sizes) <= 64 and max(sizes) - min(sizes) < len(sizes) + 1


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("bounded", [False, True])
def test_softmax_of_a_batch_of_padding_is_zero(blocks, rng, bounded, kernels):
    queries, targets, keys = many_rows(rng, 100, targets="none")
    with using(KERNELS[kernels]):
        assert float(softmax_loss(queries, targets, keys, bounded)) == 0
        for gradient in gradients(lambda q, k: softmax_loss(q, targets, k, bounded), queries, keys):
            np.testing.assert_array_equal(gradient, 0)


def test_softmax_gradient_scales_with_what_is_made_of_the_loss(rng):
    queries, targets, keys = many_rows(rng, 20)
    once = gradients(lambda q, k: softmax_loss(q, targets, k), queries, keys)
    thrice = gradients(lambda q, k: 3 * softmax_loss(q, targets, k) + tf.reduce_sum(q), queries, keys)
    np.testing.assert_allclose(thrice[0], 3 * once[0] + 1, **CLOSE)
    np.testing.assert_allclose(thrice[1], 3 * once[1], **CLOSE)


@pytest.mark.parametrize("bounded", [False, True])
def test_softmax_of_an_unknown_number_of_rows(rng, bounded):
    queries, targets, keys = many_rows(rng, 20)
    signature = [tf.TensorSpec([None, 4]), tf.TensorSpec([None], tf.int32), tf.TensorSpec([NUM_ITEMS + 1, 4])]
    loss = tf.function(lambda q, t, k: softmax_loss(q, t, k, bounded), input_signature=signature)
    np.testing.assert_allclose(float(loss(queries, targets, keys)), naive_softmax(queries, targets, keys), **CLOSE)
    ours = gradients(lambda q, k: loss(q, targets, k), queries, keys)
    for one, other in zip(ours, gradients(lambda q, k: plain_softmax(q, targets, k), queries, keys), strict=True):
        np.testing.assert_allclose(one, other, **CLOSE)


ROUNDED = {"plain": Kernels("bfloat16"), "chains": Kernels("bfloat16", compiled=True)}


@pytest.mark.parametrize("kernels", ROUNDED)
@pytest.mark.parametrize("bounded", [False, True])
def test_softmax_of_products_in_bfloat16_is_close(blocks, rng, bounded, kernels):
    queries, targets, keys = many_rows(rng, 150)
    with using(ROUNDED[kernels]):
        loss = softmax_loss(queries, targets, keys, bounded)
        ours = gradients(lambda q, k: softmax_loss(q, targets, k, bounded), queries, keys)
    assert loss.dtype == tf.float32
    assert float(loss) == pytest.approx(naive_softmax(queries, targets, keys), rel=0.01)
    for one, other in zip(ours, gradients(lambda q, k: plain_softmax(q, targets, k), queries, keys), strict=True):
        assert np.abs(one - other).max() < 0.02 * np.abs(other).max()


@pytest.mark.parametrize("kernels", [*KERNELS.values(), *ROUNDED.values()], ids=str)
@pytest.mark.parametrize(("size", "bounded"), [(64, True), (300, False)])
def test_softmax_of_large_scores_is_finite(kernels, size, bounded):
    """Two items at the far ends, and one in the middle. A row that is certain of its target costs nothing, one that errs the distance."""
    keys, queries = np.float32([[9], [1], [-1], [0]]), np.float32([[size], [size], [-size]])
    with using(kernels):
        loss = softmax_loss(queries, np.int32([1, 2, 2]), keys, bounded)
        to_queries, to_keys = gradients(lambda q, k: softmax_loss(q, np.int32([1, 2, 2]), k, bounded), queries, keys)
    assert float(loss) == pytest.approx(2 * size / 3, rel=1e-2)
    np.testing.assert_allclose(to_queries, [[0], [2 / 3], [0]], atol=0.01)
    np.testing.assert_allclose(to_keys, [[0], [size / 3], [-size / 3], [0]], atol=0.01 * size)


NEXT_ITEM = {
    "softmax": softmax_loss,
    "sampled_softmax": lambda q, t, k: sampled_softmax_loss(q, t, np.int32([1, 2, 5]), np.float32([-2, -2, -2]), rows_of(k)),
    "bce": lambda q, t, k: bce_loss(q, t, np.where(t, 5, 0).astype("int32"), rows_of(k)),
}


@pytest.mark.parametrize("name", NEXT_ITEM)
def test_rows_without_target_do_not_count(name, scored):
    queries, targets, keys = scored
    kept = targets > 0
    np.testing.assert_allclose(
        float(NEXT_ITEM[name](queries, targets, keys)), float(NEXT_ITEM[name](queries[kept], targets[kept], keys)), rtol=1e-5
    )


@pytest.mark.parametrize("name", NEXT_ITEM)
def test_no_target_at_all_gives_zero_and_no_gradient(name, scored):
    queries, targets, keys = scored
    none = np.zeros_like(targets)
    assert float(NEXT_ITEM[name](queries, none, keys)) == 0
    for gradient in gradients(lambda q, k: NEXT_ITEM[name](q, none, k), queries, keys):
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("name", NEXT_ITEM)
def test_paddings_key_plays_no_part(name, scored):
    queries, targets, keys = scored
    other = keys.copy()
    other[0] = -50
    assert float(NEXT_ITEM[name](queries, targets, keys)) == pytest.approx(float(NEXT_ITEM[name](queries, targets, other)), rel=1e-6)


@pytest.mark.parametrize("name", NEXT_ITEM)
def test_bfloat16_scores_are_summed_in_float32(name, scored):
    queries, targets, keys = scored
    half = NEXT_ITEM[name](tf.cast(queries, tf.bfloat16), targets, tf.cast(keys, tf.bfloat16))
    assert half.dtype == tf.float32
    assert float(half) == pytest.approx(float(NEXT_ITEM[name](queries, targets, keys)), rel=0.05)


def test_sampled_softmax_over_all_items_is_the_full_softmax(scored):
    """Each item once in n draws of rate 1/n: an expected count of 1, so no correction; the row's own target is left out."""
    queries, targets, keys = scored
    everything = np.arange(1, NUM_ITEMS + 1, dtype="int32")
    rates = np.full(NUM_ITEMS, -math.log(NUM_ITEMS), "float32")
    np.testing.assert_allclose(
        float(sampled_softmax_loss(queries, targets, everything, rates, rows_of(keys))), naive_softmax(*scored), **CLOSE
    )


def test_sampled_softmax_over_all_other_items_is_the_full_softmax(scored):
    queries, _, keys = scored
    targets, others = np.full(5, 4, "int32"), np.int32([1, 2, 3, 5, 6, 7, 8, 9])
    loss = sampled_softmax_loss(queries, targets, others, np.full(8, -math.log(8), "float32"), rows_of(keys))
    np.testing.assert_allclose(float(loss), naive_softmax(queries, targets, keys), **CLOSE)


def test_sampled_softmax_corrects_an_uneven_sample(rng):
    """High scores are drawn more often (rates 1/45 to 9/45). With these rates given, the loss approaches the full one."""
    rate = np.arange(1, NUM_ITEMS + 1) / 45
    keys = (np.arange(NUM_ITEMS + 1) / 3).astype("float32")[:, None]
    query, target = np.float32([[1]]), np.int32([1])
    draws = rng.choice(NUM_ITEMS, 40_000, p=rate)
    negatives = (draws + 1).astype("int32")
    full = naive_softmax(query, target, keys)
    corrected = float(sampled_softmax_loss(query, target, negatives, np.log(rate[draws]).astype("float32"), rows_of(keys)))
    uncorrected = float(sampled_softmax_loss(query, target, negatives, np.full(len(draws), -math.log(9), "float32"), rows_of(keys)))
    assert corrected == pytest.approx(full, abs=0.02)
    assert uncorrected > full + 0.2


def test_own_target_is_no_negative():
    """The only negative is the target: nothing competes."""
    keys = np.float32([[0], [1], [2]])
    assert float(sampled_softmax_loss(np.float32([[1]]), np.int32([2]), np.int32([2]), np.float32([0]), rows_of(keys))) == pytest.approx(
        0, abs=1e-6
    )


def test_bce_by_hand():
    """Scores ln 3 and 0: -log sigmoid(ln 3) = ln(4/3) and -log(1 - sigmoid(0)) = ln 2, together ln(8/3)."""
    keys = np.float32([[7, 7], [math.log(3), 0], [0, 5]])
    loss = bce_loss(np.float32([[1, 0], [1, 1]]), np.int32([1, 0]), np.int32([2, 0]), rows_of(keys))
    assert float(loss) == pytest.approx(math.log(8 / 3), rel=1e-5)


# --- contrastive ------------------------------------------------------------------------------------------------------


def naive_nt_xent(a, b, temperature, cosine=False, weights=None, labels=None):
    n = len(a)
    rows = np.concatenate([a, b]).astype(np.float64)
    if cosine:
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    weights = np.ones(n) if weights is None else weights
    losses = []
    for i in range(2 * n):
        partner = (i + n) % (2 * n)
        if not weights[i % n]:
            continue
        logits = [rows[i] @ rows[partner] / temperature]
        for j in range(2 * n):
            false_negative = labels is not None and labels[i % n] == labels[j % n]
            if j not in (i, partner) and weights[j % n] and not false_negative:
                logits.append(rows[i] @ rows[j] / temperature)
        losses.append(np.log(np.exp(logits).sum()) - logits[0])
    return np.mean(losses) if losses else 0.0


@pytest.fixture
def views(rng):
    a = rng.normal(size=(6, 4)).astype("float32")
    return a, (a + rng.normal(size=(6, 4))).astype("float32")


@pytest.mark.parametrize(("similarity", "length"), [("dot", 1), ("cosine", 3)])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_nt_xent_of_two_users_by_hand(similarity, length, temperature):
    """Partners are equal, users at right angles: every anchor has logits 1/t (partner), 0 and 0."""
    view = length * np.float32([[1, 0], [0, 1]])
    loss = nt_xent(view, view, temperature, similarity)
    assert float(loss) == pytest.approx(math.log(math.exp(1 / temperature) + 2) - 1 / temperature, rel=1e-5)


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("labels", [None, [0, 1, 0, 2, 2, 2]])
@pytest.mark.parametrize("weights", [None, [1, 0, 1, 1, 0, 1]])
def test_nt_xent_equals_a_naive_loop(views, similarity, labels, weights):
    ours = nt_xent(
        *views,
        0.7,
        similarity,
        weights=None if weights is None else np.float32(weights),
        labels=None if labels is None else np.int32(labels),
    )
    np.testing.assert_allclose(float(ours), naive_nt_xent(*views, 0.7, similarity == "cosine", weights, labels), **CLOSE)


def test_nt_xent_leaves_rows_of_weight_zero_out_entirely(views):
    a, b = views
    kept = np.array([True, False, True, True, False, True])
    a, b = a.copy(), b.copy()
    a[~kept] = b[~kept] = 100
    np.testing.assert_allclose(float(nt_xent(a, b, 0.7, weights=kept)), float(nt_xent(a[kept], b[kept], 0.7)), rtol=1e-5)
    for gradient in gradients(lambda x, y: nt_xent(x, y, 0.7, weights=kept), a, b):
        np.testing.assert_array_equal(gradient[~kept], 0)


def test_nt_xent_keeps_the_own_positive_when_all_labels_are_equal(views):
    """No negative is left, so the positive is certain."""
    assert float(nt_xent(*views, 0.7, labels=np.zeros(6, "int32"))) == pytest.approx(0, abs=1e-6)


def test_nt_xent_ignores_the_order_of_users_and_of_views(views, rng):
    a, b = views
    order = rng.permutation(6)
    once = float(nt_xent(a, b, 0.7, "cosine"))
    assert float(nt_xent(a[order], b[order], 0.7, "cosine")) == pytest.approx(once, rel=1e-5)
    assert float(nt_xent(b, a, 0.7, "cosine")) == pytest.approx(once, rel=1e-5)
    assert float(nt_xent(a, b[np.roll(np.arange(6), 1)], 0.7, "cosine")) != pytest.approx(once, rel=1e-3)


def plain_nt_xent(a, b, temperature, cosine, weights, labels):
    """The loss in TensorFlow's own operations, for its gradients."""
    if cosine:
        a, b = (tf.math.l2_normalize(one, axis=-1) for one in (a, b))
    rows, n = tf.concat([a, b], axis=0), len(weights)
    partner = (np.arange(2 * n) + n) % (2 * n)
    drop = (np.tile(labels, 2)[:, None] == np.tile(labels, 2)) | (np.tile(weights, 2) == 0)
    drop[np.arange(2 * n), partner] = False
    logits = tf.where(drop, -1e9, tf.matmul(rows, rows, transpose_b=True) / temperature)
    each = tf.nn.sparse_softmax_cross_entropy_with_logits(partner, logits)
    return tf.reduce_sum(each * np.tile(weights, 2)) / max(2 * weights.sum(), 1)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("weights", [[1, 1, 1, 1, 1, 1], [1, 0, 1, 1, 0, 1], [0, 0, 0, 0, 0, 0]], ids=str)
def test_nt_xent_gradient_equals_plain_autodiff(views, similarity, weights, kernels):
    weights, labels = np.float32(weights), np.int32([0, 1, 0, 2, 2, 2])
    with using(KERNELS[kernels]):
        ours = gradients(lambda a, b: 2 * nt_xent(a, b, 0.7, similarity, weights, labels), *views)
    theirs = gradients(lambda a, b: 2 * plain_nt_xent(a, b, 0.7, similarity == "cosine", weights, labels), *views)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, **CLOSE)


@pytest.mark.parametrize("kernels", [KERNELS["chains"], *ROUNDED.values()], ids=str)
def test_nt_xent_is_close_however_it_runs(views, kernels):
    weights, labels = np.float32([1, 0, 1, 1, 1, 1]), np.int32([0, 1, 0, 2, 2, 2])
    with using(kernels):
        loss = nt_xent(*views, 0.5, "cosine", weights, labels)
        ours = gradients(lambda a, b: nt_xent(a, b, 0.5, "cosine", weights, labels), *views)
    assert loss.dtype == tf.float32
    assert float(loss) == pytest.approx(float(nt_xent(*views, 0.5, "cosine", weights, labels)), abs=0.02)
    for one, other in zip(ours, gradients(lambda a, b: nt_xent(a, b, 0.5, "cosine", weights, labels), *views), strict=True):
        assert np.abs(one - other).max() < 0.05 * np.abs(other).max()


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_nt_xent_is_finite_without_any_row(views, similarity):
    a, b = np.zeros_like(views[0]), np.zeros_like(views[1])
    none = np.zeros(6, "float32")
    assert float(nt_xent(a, b, 0.1, similarity, weights=none)) == 0
    for gradient in gradients(lambda x, y: nt_xent(x, y, 0.1, similarity, weights=none), a, b):
        np.testing.assert_array_equal(gradient, 0)


# --- ELCM -------------------------------------------------------------------------------------------------------------


def normalised(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_elcm_paper_equals_the_double_sums_of_equation_3(rng):
    embeddings, centers = rng.normal(size=(7, 5)), rng.normal(size=(4, 5))
    h, c = normalised(embeddings), normalised(centers)
    k, b = len(c), len(h)
    push = -sum(np.sum((c[i] - c[j]) ** 2) for i in range(k) for j in range(k) if i != j) / ((k - 1) * k)
    pull = sum(np.sum((h[i] - c[j]) ** 2) for i in range(b) for j in range(k)) / (b * k)
    ours = elcm_paper(embeddings.astype("float32"), centers.astype("float32"))
    np.testing.assert_allclose([float(term) for term in ours], [push, pull], **CLOSE)


@pytest.mark.parametrize(
    ("embedding", "centers", "push", "pull"),
    [
        # ||c1 - c2||^2 = 4 is the largest there is; the embedding is at squared distances 0 and 4 from them.
        ([1, 0], [[1, 0], [-1, 0]], -4, 2),
        ([1, 0], [[1, 0], [1, 0]], 0, 0),
        ([-1, 0], [[1, 0], [1, 0]], 0, 4),
        ([1, 0], [[1, 0], [0, 1]], -2, 1),
    ],
)
@pytest.mark.parametrize("length", [1, 5])
def test_elcm_paper_by_hand(embedding, centers, push, pull, length):
    ours = elcm_paper(np.float32([embedding]) * length, np.float32(centers) * length)
    np.testing.assert_allclose([float(term) for term in ours], [push, pull], atol=1e-5)


def test_elcm_assign_by_hand_at_right_angles():
    """Cosines 1 and 0, sharpness ln 3: p = (3/4, 1/4). Pull 1/4 * 2; push 1/s log exp(0) = 0; balance 3/4 log 3/2 + 1/4 log 1/2."""
    terms = elcm_assign(np.float32([[2, 0]]), np.float32([[1, 0], [0, 3]]), sharpness=math.log(3))
    expected = [0, 1 / 2, 3 / 4 * math.log(3 / 2) + 1 / 4 * math.log(1 / 2)]
    np.testing.assert_allclose([float(term) for term in terms], expected, atol=1e-5)


def test_elcm_assign_by_hand_on_opposite_centres():
    """Cosines 1 and -1, sharpness ln(3)/2: p = (3/4, 1/4) again. Pull 1/4 * 4; push is the one cosine, -1."""
    push, pull, _ = elcm_assign(np.float32([[1, 0]]), np.float32([[1, 0], [-1, 0]]), sharpness=math.log(3) / 2)
    np.testing.assert_allclose([float(push), float(pull)], [-1, 1], atol=1e-5)


def test_elcm_assign_balance_is_zero_when_use_is_even_and_log_k_when_one_centre_takes_all():
    centers = np.eye(4, dtype="float32")
    balance = [float(elcm_assign(embeddings, centers, sharpness=50.0)[2]) for embeddings in (centers, centers[:1])]
    np.testing.assert_allclose(balance, [0, math.log(4)], atol=1e-4)


def test_elcm_assign_push_is_between_the_mean_and_the_largest_cosine(rng):
    centers = normalised(rng.normal(size=(6, 3)))
    cosines = (centers @ centers.T)[~np.eye(6, dtype=bool)]
    pushes = [float(elcm_assign(centers[:1].astype("float32"), centers.astype("float32"), sharpness=s)[0]) for s in (1e-2, 10.0, 300.0)]
    assert pushes == sorted(pushes)
    assert pushes[0] == pytest.approx(cosines.mean(), abs=0.01)
    assert pushes[-1] == pytest.approx(cosines.max(), abs=0.02)


@pytest.mark.parametrize("form", [elcm_paper, elcm_assign])
def test_elcm_ignores_rows_of_weight_zero(form, rng):
    embeddings, centers = rng.normal(size=(5, 4)).astype("float32"), rng.normal(size=(3, 4)).astype("float32")
    weighted = form(embeddings, centers, np.float32([1, 0, 1, 0, 1]))
    alone = form(embeddings[::2], centers)
    np.testing.assert_allclose([float(term) for term in weighted], [float(term) for term in alone], **CLOSE)


@pytest.mark.parametrize("form", [elcm_paper, elcm_assign])
def test_elcm_ignores_retired_centres(form, rng):
    embeddings, centers = rng.normal(size=(7, 4)).astype("float32"), rng.normal(size=(6, 4)).astype("float32")
    ours = form(embeddings, centers, active=np.float32([1, 0, 1, 1, 0, 1]))
    np.testing.assert_allclose(ours, form(embeddings, centers[[0, 2, 3, 5]]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", [elcm_paper, elcm_assign])
def test_elcm_compiled_is_the_plain_one(form, rng):
    embeddings, centers = rng.normal(size=(5, 4)).astype("float32"), rng.normal(size=(3, 4)).astype("float32")
    weights = np.float32([1, 0, 1, 0, 1])
    results = []
    for kernels in KERNELS.values():
        with using(kernels):
            results.append([*form(embeddings, centers, weights), *gradients(lambda e, c: sum(form(e, c, weights)), embeddings, centers)])
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, **CLOSE)


@pytest.mark.parametrize("form", [elcm_paper, elcm_assign])
def test_elcm_is_finite_without_any_row(form, rng):
    centers = rng.normal(size=(3, 4)).astype("float32")
    empty, none = np.zeros((2, 4), "float32"), np.zeros(2, "float32")
    push, *others = form(empty, centers, none)
    assert np.isfinite(float(push))
    np.testing.assert_allclose([float(term) for term in others], 0, atol=1e-6)
    for gradient in gradients(lambda e, c: sum(form(e, c, none)), empty, centers):
        assert np.isfinite(gradient).all()


def test_equation_3_cannot_tell_assignments_apart_and_the_other_form_can():
    """Both pairs of embeddings have the mean (1/2, 1/2, 0), all that Eq. 3 sees. One sits on the centres, the other off both."""
    centers = np.eye(3, dtype="float32")[:2]
    off = math.sqrt(0.5)
    on_centers, off_centers = centers, np.float32([[0.5, 0.5, off], [0.5, 0.5, -off]])
    paper = [float(elcm_paper(embeddings, centers)[1]) for embeddings in (on_centers, off_centers)]
    assign = [float(elcm_assign(embeddings, centers, sharpness=30.0)[1]) for embeddings in (on_centers, off_centers)]
    np.testing.assert_allclose(paper, [1, 1], rtol=1e-5)
    np.testing.assert_allclose(assign, [0, 1], atol=1e-4)
