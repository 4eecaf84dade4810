"""How fast this machine multiplies matrices of given shapes, and moves memory, with the Keras backend in use. Runs in a worker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np

from pipelines.benchmark.floor import FORMATS
from pipelines.benchmark.machine import devices, usable_cores
from pipelines.benchmark.products import Shape

BLOCKS = (128, 256, 512, 1024, 2048)
PACKS = (1, 2, 4, 8, 16)
ORDERS = ("ab", "ba")
_MOST_SIDE = 65_536  # a side longer than this is measured at this length: the rate no longer depends on it
_MOST_BYTES = 2**29  # of one product's three matrices
# Products done in one call: enough work that the call itself does not count, which takes more where the work is done elsewhere.
_CALL_FLOPS, _MOST_COPIES = 2e8, 16
_DEVICE_CALL_FLOPS, _DEVICE_MOST_COPIES = 1e12, 64
_FEWEST_CALLS = 3


class Candidate(NamedTuple):
    """A way to work a shape off: `batch` products `[rows, inner] x [inner, columns]` at a time, `block` of its cut side, or as many
    sequences in one; `useful` of what they compute is wanted."""

    rows: int
    inner: int
    columns: int
    batch: int
    block: int
    useful: float = 1.0

    @property
    def flops(self) -> int:
        return 2 * self.rows * self.inner * self.columns * self.batch

    @property
    def bytes(self) -> int:
        return 4 * self.batch * (self.rows * self.inner + self.inner * self.columns + self.rows * self.columns)


def measure(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A worker's measurement: `products`, a row of `best_rate` by format for each of `spec["shapes"]`, and `bandwidth`, GB/s.

    Args:
        spec: `shapes`; `seconds` for each way to do a product; `megabytes` of the arrays of the bandwidth.
    """
    rate = gemm_timer(spec["seconds"])
    rows = []
    for sizes in spec["shapes"]:
        shape = Shape(*sizes)
        rows.append({"shape": list(shape), **{name: best_rate(shape, name, rate) for name in FORMATS}})
    return {"products": rows, "bandwidth": bandwidth(spec["megabytes"], spec["seconds"])}


def best_rate(shape: Shape, number_format: str, rate: Callable[[Candidate, str, str], float]) -> dict[str, Any]:
    """`gflops` of the fastest way, with its `block` and operand `order`. `rate(candidate, format, order)` measures one in GFLOP/s."""
    ways = ((one.useful * rate(one, number_format, order), one.block, order) for one in candidates(shape) for order in ORDERS)
    gflops, block, order = max(ways)
    return {"gflops": gflops, "block": block, "order": order}


def candidates(shape: Shape) -> list[Candidate]:
    """Blocks of the cut side: each of `BLOCKS` that is shorter, and all of it where that fits into memory. In attention, `PACKS`."""
    rows, inner, columns = (min(size, _MOST_SIDE) for size in shape[:3])
    if shape.cut == "scores":
        found = [Candidate(rows * n, inner, columns * n, -(-shape.batch // n), n, 1 / n) for n in PACKS if n <= shape.batch]
    elif shape.cut == "mixing":
        found = [Candidate(rows * n, inner * n, columns, -(-shape.batch // n), n, 1 / n) for n in PACKS if n <= shape.batch]
    elif shape.cut == "inner":
        found = [Candidate(rows, block, columns, 1, block) for block in _blocks(inner)]
    else:
        found = [Candidate(block, inner, columns, 1, block) for block in _blocks(rows)]
    return [one for one in found if one.bytes <= _MOST_BYTES] or found[:1]


def _blocks(size: int) -> list[int]:
    return [block for block in BLOCKS if block < size] + [size]


def gemm_timer(seconds: float) -> Callable[[Candidate, str, str], float]:
    """A function that measures the GFLOP/s of one candidate in one number format and operand order, for `seconds`."""
    from keras import ops

    flops, limit = (_DEVICE_CALL_FLOPS, _DEVICE_MOST_COPIES) if devices() else (_CALL_FLOPS, _MOST_COPIES)

    def rate(candidate: Candidate, number_format: str, order: str) -> float:
        most = min(limit, flops / candidate.flops, _MOST_BYTES / candidate.bytes)
        copies = 2 ** int(np.log2(max(1, most)))
        left, right = (candidate.rows, candidate.inner), (candidate.inner, candidate.columns)
        if order == "ba":  # (a b)ᵀ = bᵀ aᵀ: the same product with the other matrix in front
            left, right = right[::-1], left[::-1]
        lead = (candidate.batch,) if candidate.batch > 1 else ()
        first = ops.unstack(_matrix((copies, *lead, *left), number_format))  # equal operands would be multiplied once
        second = _matrix((*lead, *right), number_format)
        call = _compiled(copies, len(lead) + 2, number_format)
        return copies * candidate.flops / fastest(lambda: call(first, second), seconds) / 1e9

    return rate


def bandwidth(megabytes: int, seconds: float) -> float:
    """GB/s read and written together, the better of a copy and a product in place, over arrays of `megabytes`."""
    if devices():
        return _device_bandwidth(megabytes, seconds)
    count = megabytes * 2**20 // 4
    a, b = np.ones(count, np.float32), np.ones(count, np.float32)
    cores = usable_cores()
    parts = [slice(count * core // cores, count * (core + 1) // cores) for core in range(cores)]
    ways: tuple[tuple[int, Callable[[slice], Any]], ...] = (
        (2, lambda part: np.copyto(a[part], b[part])),
        (3, lambda part: np.multiply(a[part], b[part], out=a[part])),  # ones stay ones
    )
    with ThreadPoolExecutor(cores) as pool:
        return max(accesses * a.nbytes / fastest(partial(_all, pool, way, parts), seconds) / 1e9 for accesses, way in ways)


def _all(pool: ThreadPoolExecutor, function: Callable[[slice], Any], parts: Iterable[slice]) -> None:
    for _ in pool.map(function, parts):
        pass


def _device_bandwidth(megabytes: int, seconds: float) -> float:
    from keras import ops

    a, b = (ops.ones((megabytes, 2**18), "float32") for _ in range(2))
    return 3 * megabytes * 2**20 / fastest(lambda: ops.convert_to_numpy(ops.add(a, b)[0, 0]), seconds) / 1e9


def fastest(function: Callable[[], Any], seconds: float) -> float:
    """Seconds of the fastest call, of as many as fit into `seconds` (at least 3), after one that does not count."""
    function()
    best, calls, began = float("inf"), 0, time.perf_counter()
    while calls < _FEWEST_CALLS or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        function()
        best, calls = min(best, time.perf_counter() - start), calls + 1
    return best


def _matrix(shape: Iterable[int], number_format: str) -> Any:
    from keras import ops, random

    return ops.cast(random.normal(tuple(shape), dtype="float32"), number_format)


@cache
def _compiled(copies: int, rank: int, number_format: str) -> Callable[[list[Any], Any], None]:
    """A function of `copies` matrices of that rank and another one that multiplies each with it, and returns when that is done."""
    import keras
    from keras import ops

    def products(many: list[Any], other: Any) -> list[Any]:
        return [ops.matmul(one, other) for one in many]

    if keras.backend.backend() == "jax":
        import jax

        compiled = jax.jit(products)
        return lambda many, other: jax.block_until_ready(compiled(many, other))
    import tensorflow as tf

    # Sizes are left open, so that a function is traced once. What of a product leaves it is a corner: all of it has to be computed.
    spec = tf.TensorSpec([None] * rank, number_format)
    graph = tf.function(
        lambda many, other: [one[..., :1, :1] for one in products(many, other)], input_signature=[[spec] * copies, spec], autograph=False
    )
    return lambda many, other: graph(many, other)[-1].numpy()
