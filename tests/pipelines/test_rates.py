import math

import pytest

from pipelines.benchmark import machine
from pipelines.benchmark.products import Shape
from pipelines.benchmark.rates import BLOCKS, Candidate, bandwidth, best_rate, candidates, fastest, gemm_timer, measure


def test_the_best_rate_is_the_largest():
    measured = {("ab", 300): 3.0, ("ba", 300): 2.0, ("ab", 128): 1.0, ("ba", 128): 7.0, ("ab", 256): 5.0, ("ba", 256): 6.0}
    best = best_rate(Shape(300, 8, 20, 1, "rows"), "float32", lambda one, number_format, order: measured[order, one.block])
    assert best == {"gflops": 7.0, "block": 128, "order": "ba"}


def test_blocks_cut_the_rows_or_the_inner_side():
    assert candidates(Shape(300, 8, 20, 1, "rows")) == [Candidate(rows, 8, 20, 1, rows) for rows in (128, 256, 300)]
    assert candidates(Shape(8, 300, 20, 1, "inner")) == [Candidate(8, inner, 20, 1, inner) for inner in (128, 256, 300)]
    assert [one.block for one in candidates(Shape(100, 8, 20, 1, "rows"))] == [100]
    assert [one.block for one in candidates(Shape(5000, 8, 20, 1, "rows"))] == [*BLOCKS, 5000]


def test_attention_may_pack_sequences():
    """Four [6, 32] x [32, 6] in one [24, 32] x [32, 24] make 16 blocks, of which 4 are wanted."""
    scores, mixing = candidates(Shape(6, 32, 6, 7, "scores"))[-1], candidates(Shape(6, 6, 32, 7, "mixing"))[-1]
    assert scores == Candidate(24, 32, 24, 2, 4, 1 / 4)
    assert mixing == Candidate(24, 24, 32, 2, 4, 1 / 4)
    best = best_rate(Shape(6, 32, 6, 7, "scores"), "float32", lambda one, number_format, order: {1: 5.0, 2: 12.0, 4: 20.0}[one.block])
    assert (best["gflops"], best["block"]) == (6.0, 2)


def test_what_does_not_fit_into_memory_is_not_tried():
    long = candidates(Shape(100_000, 64, 1_000_000, 1, "rows"))
    assert all(one.bytes <= 2**29 for one in long)
    assert long[0] == Candidate(128, 64, 65_536, 1, 128)


@pytest.mark.parametrize("number_format", ["float32", "bfloat16"])
@pytest.mark.parametrize("order", ["ab", "ba"])
@pytest.mark.parametrize("batch", [1, 3])
def test_rates_are_measured(number_format, order, batch):
    rate = gemm_timer(1e-4)(Candidate(16, 8, 4, batch, 16), number_format, order)
    assert rate > 0
    assert math.isfinite(rate)


def test_the_worker_measures_every_shape():
    shapes = [[16, 8, 4, 1, "rows"], [4, 8, 4, 6, "scores"]]
    result = measure({"shapes": shapes, "seconds": 1e-4, "megabytes": 1})
    assert [row["shape"] for row in result["products"]] == shapes
    assert all(row[name]["gflops"] > 0 for row in result["products"] for name in ("float32", "bfloat16"))
    assert result["bandwidth"] > 0


def test_bandwidth_is_finite():
    assert 0 < bandwidth(1, 1e-4) < math.inf


def test_fastest_leaves_the_first_call_out():
    calls = []
    assert fastest(lambda: calls.append(1), 0) >= 0
    assert len(calls) == 4


def test_the_machine_is_described_without_names_and_paths():
    described = machine.describe([])
    assert {"processor", "cores", "flags", "memory_bytes", "accelerators", "system", "python", "tensorflow", "keras", "numpy"} <= set(
        described
    )
    assert described["cores"] >= 1
    assert described["memory_bytes"] > 2**20
    text = machine.summary(described)
    assert "/" not in text.replace("no accelerator", "")
    import socket

    assert socket.gethostname() not in text


def test_memory_of_this_process():
    found = machine.memory()
    assert found["peak_memory_bytes"] > 10 * 2**20
