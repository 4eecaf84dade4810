import csv
import subprocess
import sys
import time
from collections import Counter

import pytest

from elcrec_tf.errors import UserError
from pipelines.prepare.benchmark import main
from pipelines.prepare.processes import descendants, kill, resident
from pipelines.prepare.simulated_log import write_log


def test_a_simulated_log_has_out_of_order_repeated_and_bad_rows(tmp_path):
    rows = write_log(tmp_path / "log", 20_000)
    files = sorted((tmp_path / "log").iterdir())
    found = []
    for file in files:
        with file.open(newline="") as text:
            header, *lines = csv.reader(text)
        assert header == ["user", "item", "timestamp"] and len(lines) > 1000
        found += map(tuple, lines)
    assert len(found) == rows and abs(rows - 20_000) < 1500
    bad = [row for row in found if not row[0] or row[2] == "unknown"]
    assert 0.003 < len(bad) / rows < 0.007
    repeated = sum(count - 1 for count in Counter(row for row in found if row not in bad).values())
    assert 0.008 < repeated / rows < 0.012
    times = [int(row[2]) for row in found if row[2] != "unknown"]
    assert sum(later < earlier for earlier, later in zip(times, times[1:], strict=False)) > 0.4 * rows


def test_what_is_killed_is_one_of_what_is_measured(tmp_path):
    with pytest.raises(UserError, match="--kill-at should be one of --events, 1000. Received: 500"):
        main(["--events", "1000", "--kill-at", "500", "--output-dir", str(tmp_path), "--scratch", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_processes_below_ours_are_found_measured_and_killed():
    inner = "import time; time.sleep(60)"
    outer = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {inner!r}]).wait()"
    with subprocess.Popen([sys.executable, "-c", outer]) as process:
        deadline = time.monotonic() + 30
        while not any("sleep(60)" in line and "subprocess" not in line for line in descendants(process.pid).values()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        (child,) = descendants(process.pid)
        assert resident(process.pid) > 1_000_000
        kill(child)
        assert process.wait(timeout=30) == 0
    assert descendants(process.pid) == {} and resident(process.pid) == 0
    kill(child)
