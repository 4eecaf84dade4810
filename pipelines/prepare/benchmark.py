"""`python -m pipelines.prepare.benchmark`: how long preparing takes at several sizes, in how much memory, and whether it survives.

For each size it writes a simulated raw log and prepares it in a process of its own, on a cluster of two workers on this machine. Then, with
the log of one size, an executor is killed midway, and in another run the driver, which then runs again: the data must be the same bytes.
"""

from __future__ import annotations

import argparse
import functools
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elcrec_tf import cli
from elcrec_tf.errors import UserError
from pipelines.prepare.processes import descendants, kill, resident

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROGRAM = "python -m pipelines.prepare.benchmark"
EXECUTOR = "CoarseGrainedExecutorBackend"
_EVERY = 2.0  # seconds: summing the memory of processes costs the system some time


def make_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(
        "", "Measure pipelines.prepare on this machine, and kill it midway. Measure on a machine that does nothing else."
    )
    parser.prog, parser.usage = PROGRAM, None
    sizes = [2_500_000, 5_000_000, 10_000_000, 20_000_000]
    parser.add_argument(
        "--events", nargs="+", type=int, default=sizes, metavar="N", help="events of the raw logs (default: 2.5 to 20 million)"
    )
    parser.add_argument(
        "--kill-at", type=int, metavar="N", help="which of them is prepared while something is killed (default: the smallest)"
    )
    parser.add_argument("--master", default="local-cluster[2,1,1024]", metavar="URL", help="(default: local-cluster[2,1,1024])")
    parser.add_argument("--memory", default="1g", metavar="SIZE", help="heap of the driver, and of each executor (default: 1g)")
    parser.add_argument("--partitions", type=int, default=64, metavar="N", help="parts of a shuffle (default: 64)")
    parser.add_argument("--scratch", required=True, metavar="DIR", help="folder for the logs and the data, about 150 bytes an event")
    parser.add_argument(
        "--output-dir", default="benchmarks/prepare", metavar="DIR", help="where the results go (default: benchmarks/prepare)"
    )
    parser.add_argument("--resume", action="store_true", help="keep the measurements that are in the output folder, and make the others")
    return parser


def main(argv: list[str]) -> int:
    options = make_parser().parse_args(argv)
    from pipelines.benchmark import machine
    from pipelines.benchmark.journal import Journal
    from pipelines.benchmark.report import Report, check_plots, write_report

    check_plots()
    console = cli.console()
    folder, sizes = Path(options.output_dir), sorted(options.events)
    kill_at = options.kill_at or sizes[0]
    if kill_at not in sizes:
        raise UserError(f"--kill-at should be one of --events, {', '.join(map(str, sizes))}. Received: {kill_at}")
    settings = {"master": options.master, "memory": options.memory, "partitions": options.partitions}
    journal = Journal(folder / "rows.jsonl", settings, options.resume)
    scratch = Path(options.scratch)
    for events in sizes:
        console.print(f"preparing {events:,} events")
        journal.measure(f"{events}", functools.partial(_measure, options, scratch, events))
    for victim in ("executor", "driver"):
        console.print(f"preparing {kill_at:,} events, and killing the {victim} midway")
        seconds = journal.rows[f"{kill_at}"]["seconds"]
        journal.measure(f"kill {victim} at {kill_at}", functools.partial(_kill, options, scratch, kill_at, victim, seconds))
    rows = {events: journal.rows[f"{events}"] for events in sizes}
    killed = {victim: journal.rows[f"kill {victim} at {kill_at}"] for victim in ("executor", "driver")}
    report = Report({"prepare": rows, "killed": killed}, _tables(rows, killed), functools.partial(_draw, rows))
    command, described = " ".join([PROGRAM, *argv]), machine.describe([])
    about = {"benchmark": "prepare", "command": command, "machine": described, "measurements": journal.rows}
    write_report(report, about, [f"`{command}`", machine.summary(described)], folder, "prepare", plot=True)
    for table in report.tables:
        console.print(table.rich())
    console.print(f"written to {folder}", soft_wrap=True)
    return 0


def _measure(options: argparse.Namespace, scratch: Path, events: int) -> dict[str, Any]:
    """Seconds of a whole preparation, and the most memory that its processes had together."""
    log = _log(scratch, events)
    output = _output(scratch, events, "whole")
    seconds, peak = _run(options, log, output)
    manifest = json.loads((output / "manifest.json").read_text())
    sizes = {name: manifest[name] for name in ("users", "items", "events")}
    bytes_in = sum(file.stat().st_size for file in log.iterdir())
    return {"seconds": seconds, "peak_bytes": peak, "input_bytes": bytes_in, **sizes, "dropped": manifest["dropped"]}


def _kill(options: argparse.Namespace, scratch: Path, events: int, victim: str, seconds: float) -> dict[str, Any]:
    """Kill an executor or the driver halfway through; the driver runs again. Whether the data are the bytes of the undisturbed run."""
    log = _log(scratch, events)
    output, whole = _output(scratch, events, victim), scratch / f"{events}-whole"
    killed_at: list[float] = []

    def strike(driver: int, since: float) -> None:
        if killed_at or since < seconds / 2:
            return
        victims = [pid for pid, command in descendants(driver).items() if EXECUTOR in command] if victim == "executor" else [driver]
        if victims:
            for pid in victims[:1] if victim == "executor" else [*descendants(driver), driver]:
                kill(pid)
            killed_at.append(since)

    first = _run(options, log, output, strike, may_fail=victim == "driver")[0]
    left = output.exists()
    again = _run(options, log, output)[0] if victim == "driver" else 0.0
    if not killed_at:
        raise UserError(f"the {victim} was not killed: the preparation ended within half of the seconds that it took before")
    same = content(output) == content(whole)
    if not same:
        raise UserError(f"{output}: differs from {whole} after the {victim} was killed")
    partial = victim == "driver" and left
    return {"killed_after": killed_at[0], "seconds": first + again, "same_bytes": same, "partial_output_seen": partial}


def _log(scratch: Path, events: int) -> Path:
    """The raw log of so many events, written once, in a process of its own: Arrow's memory is not ours to keep."""
    folder = scratch / f"{events}-log"
    if not folder.exists():
        script = "import sys; from pathlib import Path; from pipelines.prepare.simulated_log import write_log; "
        subprocess.run(
            [sys.executable, "-c", script + "write_log(Path(sys.argv[1]), int(sys.argv[2]))", str(folder), str(events)], check=True
        )
    return folder


def _output(scratch: Path, events: int, name: str) -> Path:
    """Where a data set goes; what is there is removed."""
    output = scratch / f"{events}-{name}"
    shutil.rmtree(output, ignore_errors=True)
    return output


def _run(
    options: argparse.Namespace, log: Path, output: Path, watch: Callable[[int, float], None] | None = None, may_fail: bool = False
) -> tuple[float, int]:
    """(seconds, most bytes of all its processes together) of one preparation; `watch` gets its process id and its seconds so far."""
    command = [sys.executable, "-m", "pipelines.prepare", "--input", str(log), "--format", "csv", "--output", str(output)]
    command += ["--master", options.master, "--memory", options.memory, "--scratch", str(Path(options.scratch) / "spark")]
    command += ["--partitions", str(options.partitions)]
    errors = Path(options.scratch) / "errors.txt"
    began, peak = time.perf_counter(), 0
    with errors.open("wb") as file, subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file) as process:
        try:
            while process.poll() is None:
                time.sleep(_EVERY)
                peak = max(peak, sum(resident(pid) for pid in [process.pid, *descendants(process.pid)]))
                if watch:
                    watch(process.pid, time.perf_counter() - began)
        finally:
            for pid in [*descendants(process.pid), process.pid]:
                kill(pid)
    if process.returncode and not may_fail:
        lines = errors.read_text(errors="replace").strip().splitlines()
        raise UserError(f"preparing {log} failed: {lines[-1] if lines else process.returncode}")
    return time.perf_counter() - began, peak


def content(folder: Path) -> dict[str, str]:
    """Checksum of each file of a folder."""
    from elcrec_tf.data.records import file_sha256

    return {path.name: file_sha256(path) for path in sorted(folder.iterdir())}


def _tables(rows: dict[int, dict[str, Any]], killed: dict[str, dict[str, Any]]) -> list[Any]:
    from pipelines.benchmark.report import Table, number

    columns = ["raw events", "seconds", "events/s", "peak memory of all processes, MB", "kept events", "users", "items"]
    cells = [
        [f"{events:,}", number(row["seconds"]), number(events / row["seconds"]), number(row["peak_bytes"] / 1e6)]
        + [f"{row[name]:,}" for name in ("events", "users", "items")]
        for events, row in rows.items()
    ]
    fates = [
        [f"the {victim} killed", number(row["killed_after"]), number(row["seconds"]), "yes" if row["same_bytes"] else "no"]
        for victim, row in killed.items()
    ]
    return [
        Table("Preparing a raw log", columns, cells),
        Table("Killed midway, and run again where needed", ["", "killed after, s", "seconds in all", "the same bytes"], fates),
    ]


def _draw(rows: dict[int, dict[str, Any]], figure: Figure) -> None:
    time_axis, memory_axis = figure.subplots(1, 2)
    millions = [events / 1e6 for events in rows]
    time_axis.plot(millions, [row["seconds"] for row in rows.values()], marker="o")
    time_axis.set(xlabel="million raw events", ylabel="seconds", ylim=(0, None), xlim=(0, None), title="Time to prepare")
    memory_axis.plot(millions, [row["peak_bytes"] / 1e9 for row in rows.values()], marker="o")
    memory_axis.set(xlabel="million raw events", ylabel="GB", ylim=(0, None), xlim=(0, None), title="Peak memory of all processes")


if __name__ == "__main__":
    cli.run(main)
