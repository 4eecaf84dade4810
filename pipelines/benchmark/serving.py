"""The local server under load, against the same SavedModel called in process, and while versions are swapped under it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from elcrec_tf import cli
from elcrec_tf.errors import UserError
from pipelines.benchmark.export import raw_histories
from pipelines.benchmark.report import Report, Spread, Table, number, plain_numbers
from pipelines.benchmark.run import Run
from pipelines.benchmark.subject import catalogue_spec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BATCH_SIZES = (1, 8, 32, 64)
MODES: dict[str, tuple[str, ...]] = {"batched": (), "not batched": ("--no-batching",)}
MODEL = "model"
_WARM_SECONDS = 1.0
_START_SECONDS = 120.0
_SWAP_CLIENTS = 8
_SWAPS = 5


def measure_in_process(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A worker's measurement, with TensorFlow alone: for each of `BATCH_SIZES` `latency_ms` of every call, `seconds` and
    `processor_seconds` of all calls together.

    Args:
        spec: `path` of a SavedModel; `histories`, raw ids; `seconds` for each batch size.
    """
    cli.import_tensorflow()
    import tensorflow as tf

    loaded = tf.saved_model.load(spec["path"])
    recommend = loaded.signatures["recommend"]
    width = max(map(len, spec["histories"]))
    padded = np.array([[""] * (width - len(one)) + one for one in spec["histories"]], dtype=object)
    found = {}
    for size in BATCH_SIZES:
        batches = [tf.constant(np.resize(np.roll(padded, -shift * size, axis=0), (size, width)), tf.string) for shift in range(16)]
        for batch in batches[:4]:
            recommend(history=batch)["item_ids"].numpy()
        latency: list[float] = []
        began, used = time.perf_counter(), time.process_time()
        while time.perf_counter() - began < spec["seconds"]:
            start = time.perf_counter()
            outputs = recommend(history=batches[len(latency) % len(batches)])
            for value in outputs.values():
                value.numpy()
            latency.append(1000 * (time.perf_counter() - start))
        found[str(size)] = {
            "latency_ms": latency,
            "seconds": time.perf_counter() - began,
            "processor_seconds": time.process_time() - used,
        }
    return found


@dataclass(frozen=True)
class Server:
    """A running `python -m elcrec_tf.serve`.

    Attributes:
        process: the process.
        address: where it listens.
    """

    process: subprocess.Popen[str]
    address: str

    def processor_seconds(self) -> float:
        """User and system time that it has used so far (Linux)."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> int:
        """Resident bytes (Linux)."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def running_server(folder: Path, flags: Sequence[str] = ()) -> Iterator[Server]:
    """The local server on an exported model, on a free port of this machine; it is ended afterwards."""
    command = [sys.executable, "-m", "elcrec_tf.serve", str(folder), "--model-name", MODEL, "--port", "0", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            watchdog = threading.Timer(_START_SECONDS, process.kill)
            watchdog.start()
            line = next((line for line in process.stdout if line.startswith("serving ")), "")
            watchdog.cancel()
            if not line:
                assert process.stderr is not None
                lines = process.stderr.read().strip().splitlines() or ["no message"]
                raise UserError(f"the server did not start: {lines[-1]}")
            yield Server(process, line.split()[-1])
        finally:
            process.terminate()


def benchmark(run: Run) -> Report:
    """One export for all; then in process, and under load with each number of clients and each mode, for every repeat."""
    with tempfile.TemporaryDirectory(prefix="elcrec-serving-") as name:
        folder = Path(name, MODEL)

        @cache
        def export() -> Path:  # at the first measurement that the journal does not have
            run.fresh("export", "export", folder=str(folder), synthetic=catalogue_spec(run.options.items))
            return folder

        histories = raw_histories(run.sequences, run.config.model.max_length, run.config.train.seed)
        rows = [run.journal.measure(f"serving/{repeat}", partial(_repeat, run, repeat, export, histories)) for repeat in run.repeats]
        swaps = None if run.options.no_swaps else run.journal.measure("swaps", partial(_swaps, run, export, histories))
    summary = {"in_process": _in_process_summary(rows), "served": _served_summary(rows), "swaps": swaps}
    return Report(summary, _tables(summary), lambda figure: _draw(figure, summary))


def _repeat(run: Run, repeat: int, export: Any, histories: list[list[str]]) -> dict[str, Any]:
    folder = export()
    seconds = run.options.seconds
    inside = run.fresh(f"in process/{repeat}", "in-process", path=str(folder / "1"), histories=histories, seconds=seconds)
    in_process = {str(size): _reduced(inside[str(size)], size) for size in BATCH_SIZES}
    served = []
    for mode, flags in MODES.items():
        with running_server(folder, flags) as server:
            for clients in run.options.clients:
                used = server.processor_seconds()
                load = _load(run, f"{mode}, {clients} clients/{repeat}", server, histories, clients, seconds)
                processor = server.processor_seconds() - used
                latency = [one for _, one in load["calls"]]
                # The server's time covers the warm-up of the clients too, so the rate is scaled to it.
                whole = seconds + _WARM_SECONDS
                served.append(
                    {
                        "mode": mode,
                        "clients": clients,
                        **_percentiles(latency),
                        "calls": len(latency),
                        "calls_per_second": len(latency) / seconds,
                        "calls_per_processor_second": len(latency) / seconds * whole / processor,
                        "errors": load["errors"],
                    }
                )
    return {"in_process": in_process, "served": served}


def _load(run: Run, name: str, server: Server, histories: list[list[str]], clients: int, seconds: float) -> dict[str, Any]:
    asked = {"model": MODEL, "histories": histories, "clients": clients, "seconds": seconds, "warm_seconds": _WARM_SECONDS}
    return run.fresh(name, "load", None, address=server.address, **asked)


def _reduced(row: Mapping[str, Any], size: int) -> dict[str, Any]:
    rows = size * len(row["latency_ms"])
    return {
        **_percentiles(row["latency_ms"]),
        "rows_per_second": rows / row["seconds"],
        "rows_per_processor_second": rows / row["processor_seconds"],
    }


def _percentiles(latency: Sequence[float]) -> dict[str, float]:
    values = np.percentile(latency, (50, 95, 99)) if len(latency) else [0.0] * 3
    return {name: float(value) for name, value in zip(("p50_ms", "p95_ms", "p99_ms"), values, strict=True)}


def _swaps(run: Run, export: Any, histories: list[list[str]]) -> dict[str, Any]:
    """Versions 2 to 6 published one after the other under load: latency before and meanwhile, errors, memory.

    Raises:
        UserError: when a version could not be published.
    """
    folder, pause = export(), run.options.swap_seconds
    seconds = pause * (_SWAPS + 2)
    published: list[float] = []
    memory: list[int] = []
    stop = threading.Event()
    with running_server(folder, ("--poll-seconds", "0.5")) as server, ThreadPoolExecutor(1) as publisher:

        def publish() -> None:
            wait = _WARM_SECONDS + pause
            for version in range(2, 2 + _SWAPS):
                if stop.wait(wait):
                    return
                wait = pause
                memory.append(server.memory())
                shutil.copytree(folder / "1", folder / ".next")
                published.append(time.time())
                os.rename(folder / ".next", folder / str(version))

        publishing = publisher.submit(publish)
        try:
            load = _load(run, "swaps", server, histories, _SWAP_CLIENTS, seconds)
            reason = publishing.exception()
        finally:
            stop.set()
        if reason is not None:
            raise UserError(f"{folder}: a new version could not be published ({reason}); is there room for {_SWAPS} more?") from reason
        memory.append(server.memory())
    before = [one for ended, one in load["calls"] if ended < published[0]]
    meanwhile = [one for ended, one in load["calls"] if published[0] <= ended < published[-1] + pause]
    return {
        "versions": _SWAPS,
        "clients": _SWAP_CLIENTS,
        "before": _percentiles(before),
        "meanwhile": {**_percentiles(meanwhile), "largest_ms": max(meanwhile, default=0.0)},
        "calls": len(load["calls"]),
        "errors": load["errors"],
        "memory_bytes": memory,
    }


def _in_process_summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Spread]]:
    sizes = {str(size): [row["in_process"][str(size)] for row in rows] for size in BATCH_SIZES}
    return {size: {name: Spread.of(one[name] for one in found) for name in found[0]} for size, found in sizes.items()}


def _served_summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each mode and number of clients; `share` is the rate against in process, at a batch of as many rows."""
    summaries = []
    for cases in zip(*(row["served"] for row in rows), strict=True):
        clients = cases[0]["clients"]
        size = str(max(size for size in BATCH_SIZES if size <= clients)) if cases[0]["mode"] == "batched" else "1"
        inside = [row["in_process"][size]["rows_per_processor_second"] for row in rows]
        summaries.append(
            {
                "mode": cases[0]["mode"],
                "clients": clients,
                **{name: Spread.of(case[name] for case in cases) for name in ("p50_ms", "p95_ms", "p99_ms")},
                "calls_per_second": Spread.of(case["calls_per_second"] for case in cases),
                "calls_per_processor_second": Spread.of(case["calls_per_processor_second"] for case in cases),
                "in_process_batch": int(size),
                "share": Spread.of(case["calls_per_processor_second"] / rate for case, rate in zip(cases, inside, strict=True)),
                "calls": sum(case["calls"] for case in cases),
                "errors": sum(sum(case["errors"].values()) for case in cases),
            }
        )
    return summaries


def _tables(summary: Mapping[str, Any]) -> list[Table]:
    inside = [
        (
            f"{size} rows a call",
            *(one[name].text() for name in ("p50_ms", "p95_ms", "p99_ms", "rows_per_second", "rows_per_processor_second")),
        )
        for size, one in summary["in_process"].items()
    ]
    served = [
        (
            f"{one['clients']} clients, {one['mode']}",
            *(one[name].text() for name in ("p50_ms", "p95_ms", "p99_ms", "calls_per_second", "calls_per_processor_second")),
            f"{one['share'].text(100)} % of {one['in_process_batch']} rows",
            f"{one['errors']} of {one['calls']:,}",
        )
        for one in summary["served"]
    ]
    times = ("p50, ms", "p95, ms", "p99, ms")
    tables = [
        Table("In process", ("", *times, "rows/s", "rows/s of processor time"), inside),
        Table(
            "Served, one row a request",
            ("", *times, "requests/s", "requests/s of the server's processor time", "in process", "errors"),
            served,
        ),
    ]
    if swaps := summary["swaps"]:
        lines = [
            ("p99 before the first swap, ms", number(swaps["before"]["p99_ms"])),
            ("p99 from the first swap to the last, ms", number(swaps["meanwhile"]["p99_ms"])),
            ("largest latency meanwhile, ms", number(swaps["meanwhile"]["largest_ms"])),
            ("failed requests", f"{sum(swaps['errors'].values())} of {swaps['calls']:,}"),
            ("memory before each swap and at the end, MB", " ".join(f"{one / 1e6:.0f}" for one in swaps["memory_bytes"])),
        ]
        tables.append(Table(f"{swaps['versions']} new versions under {swaps['clients']} clients", ("", "measured"), lines))
    return tables


def _draw(figure: Figure, summary: Mapping[str, Any]) -> None:
    left, right = figure.subplots(1, 2)
    for mode in MODES:
        found = [one for one in summary["served"] if one["mode"] == mode]
        clients = [one["clients"] for one in found]
        left.plot(clients, [one["calls_per_second"].median for one in found], marker="o", label=mode)
        (line,) = right.plot(clients, [one["p50_ms"].median for one in found], marker="o", label=f"{mode}, p50")
        right.plot(
            clients, [one["p99_ms"].median for one in found], marker="o", linestyle="--", color=line.get_color(), label=f"{mode}, p99"
        )
    left.set(title="Requests a second", xlabel="clients", xscale="log", ylim=(0, None))
    right.set(title="Latency, ms", xlabel="clients", xscale="log", yscale="log")
    for axes in (left, right):
        axes.set_xticks(sorted({one["clients"] for one in summary["served"]}))
        plain_numbers(axes.xaxis)
        axes.legend(fontsize="small")
    plain_numbers(right.yaxis)
