"""The command as a whole, on tiny data. Measurements are made in this process: what they say is not looked at, only that they are there."""

import json
import math
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import elcrec_tf
from elcrec_tf.errors import UserError
from elcrec_tf.serving.server import LocalServer
from elcrec_tf.serving.server_options import ServerOptions
from pipelines.benchmark import __main__ as command_line
from pipelines.benchmark import catalogue, comparison, export, flags, load, objective, process, report, scaling, serving, worker
from pipelines.benchmark.__main__ import main
from pipelines.benchmark.flags import make_parser
from pipelines.benchmark.journal import Journal
from pipelines.benchmark.synthetic import zipf_sequences
from pipelines.lock import locked
from tests.toy import sequences_of, toy_config

ROOT = Path(elcrec_tf.__file__).parents[1]
TINY = "--sim-users 60 --sim-items 40 --sim-intents 4 --repeats 1".split()
FAST = "--floor-seconds 0.0001 --floor-megabytes 1".split()
SMALL = "--hidden-size 8 --num-layers 1 --num-clusters 4 --max-length 10".split()
UNCOMPILED = ["--xla", "off"]
COMMANDS = ("train", "evaluate", "input", "export", "serve", "scaling", "catalogue", "peer")


@pytest.fixture
def in_process(monkeypatch):
    """Measurements without a process of their own; a list of what was asked for."""
    asked = []

    def measure(kind, **spec):
        asked.append(kind)
        return json.loads(json.dumps(worker.answer(json.loads(json.dumps({"kind": kind, "started": time.time(), **spec})))))

    monkeypatch.setattr(process, "measure", measure)
    return asked


def check_outputs(folder, name):
    """The JSON's content, after a look at all three files."""
    content = json.loads((folder / f"{name}.json").read_text())
    assert {"benchmark", "command", "dataset", "machine", "config", "measurements", "result"} <= set(content)
    assert all_finite(content["result"])
    assert "nan" not in (folder / f"{name}.md").read_text()
    assert (folder / f"{name}.md").read_text().startswith(f"`python -m pipelines.benchmark {name} ")
    assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    return content


def all_finite(value):
    if isinstance(value, dict):
        return all(map(all_finite, value.values()))
    if isinstance(value, list):
        return all(map(all_finite, value))
    return not isinstance(value, int | float) or (math.isfinite(value) and value >= 0)


@pytest.mark.slow
def test_train(tmp_path, in_process, capsys):
    folder = tmp_path / "out"
    chosen = ["--variants", "whole", "next-item", "--epochs", "2", "--output-dir", str(folder)]
    arguments = ["train", *TINY, *FAST, *SMALL, *UNCOMPILED, *chosen]
    assert main(arguments) == 0
    assert in_process == ["train", "train", "rates"]
    variants = check_outputs(folder, "train")["result"]["variants"]
    assert list(variants) == ["whole", "next-item"]
    whole, alone = variants["whole"], variants["next-item"]
    assert whole["users"] == 60
    assert 0 <= whole["padding_share"] < 1
    assert set(whole["start_seconds"]) == {"import", "data", "first_step", "total"}
    assert whole["gflop"]["softmax"] == alone["gflop"]["softmax"] > 0
    assert alone["gflop"]["contrastive"] == alone["gflop"]["cluster"] == 0
    parts = whole["floor_seconds"]
    assert parts["total"]["median"] == pytest.approx(sum(one["median"] for name, one in parts.items() if name != "total"))
    assert whole["step_over_floor"]["median"] > 0
    assert "step / floor" in capsys.readouterr().out

    main([*arguments, "--resume", "--json"])
    assert len(in_process) == 3, "nothing was left to measure"
    printed = capsys.readouterr()
    assert json.loads(printed.out) == json.loads((folder / "train.json").read_text())
    assert "step / floor" in printed.err


@pytest.mark.slow
def test_input_and_resume(tmp_path, in_process):
    folder = tmp_path / "out"
    arguments = ["input", *TINY, "--epochs", "2", "--output-dir", str(folder)]
    main(arguments)
    result = check_outputs(folder, "input")["result"]
    assert result["users"] == 60
    with pytest.raises(UserError, match="holds measurements already; go on with --resume"):
        main(arguments)
    with pytest.raises(UserError, match="was measured with other settings"):
        main([*arguments, "--resume", "--batch-size", "7"])
    main([*arguments, "--resume", "--repeats", "2"])
    assert in_process == ["input", "input"]
    assert set(check_outputs(folder, "input")["measurements"]) == {"input/0", "input/1"}


@pytest.mark.slow
def test_evaluate(tmp_path, in_process):
    folder = tmp_path / "out"
    main(["evaluate", *TINY, *FAST, *SMALL, "--passes", "2", "--output-dir", str(folder)])
    assert in_process == ["evaluate", "rates"]
    content = check_outputs(folder, "evaluate")
    assert content["result"]["users"] == 60
    assert len(content["measurements"]["evaluate/0"]["seconds"]) == 3


@pytest.mark.slow
def test_export(tmp_path, in_process):
    folder = tmp_path / "out"
    main(["export", *TINY, *SMALL, "--calls", "3", "--output-dir", str(folder)])
    assert in_process == ["export", "serve"]
    content = check_outputs(folder, "export")
    assert content["result"]["bytes"] > 0
    assert set(content["result"]["latency_ms"]) == {"1", "16", "256"}
    assert [len(calls) for calls in content["measurements"]["export/0"]["latency_ms"].values()] == [3, 3, 3]


@contextmanager
def server_in_process(folder, flags=()):
    """The local server without a process of its own."""
    options = ServerOptions(model_name=serving.MODEL, port=0, batching="--no-batching" not in flags, poll_seconds=0.05)
    with LocalServer(folder, options, report=lambda line: None) as server:
        yield serving.Server(SimpleNamespace(pid=os.getpid()), server.address)


@pytest.mark.slow
def test_serve(tmp_path, in_process, monkeypatch):
    monkeypatch.setattr(serving, "running_server", server_in_process)
    monkeypatch.setattr(serving, "_WARM_SECONDS", 0.1)
    folder = tmp_path / "out"
    chosen = ["--items", "300", "--clients", "1", "3", "--seconds", "0.3", "--swap-seconds", "0.3", "--output-dir", str(folder)]
    main(["serve", *TINY, *SMALL, *chosen])
    assert in_process == ["export", "in-process", *["load"] * 4, "load"]
    content = check_outputs(folder, "serve")
    assert content["dataset"]["items"] == 300
    result = content["result"]
    assert [(one["mode"], one["clients"], one["in_process_batch"]) for one in result["served"]] == [
        ("batched", 1, 1),
        ("batched", 3, 1),
        ("not batched", 1, 1),
        ("not batched", 3, 1),
    ]
    assert all(one["calls"] > 0 and one["errors"] == 0 for one in result["served"])
    assert result["swaps"]["calls"] > 0
    assert result["swaps"]["errors"] == {}
    assert len(result["swaps"]["memory_bytes"]) == result["swaps"]["versions"] + 1


def test_load_counts_what_fails(in_process):
    spec = {"model": "model", "histories": [["a"]], "clients": 2, "seconds": 0.2, "warm_seconds": 0.0}
    row = process.measure("load", address="127.0.0.1:1", **spec)
    assert row["calls"] == []
    assert set(row["errors"]) == {"UNAVAILABLE"}


@pytest.mark.slow
def test_scaling(tmp_path, monkeypatch, capsys):
    specs = []

    def measure(kind, **spec):
        specs.append(spec)
        if spec["config"]["model"]["num_clusters"] == 64:
            raise process.WorkerFailed("measuring train failed: the process was killed, probably for want of memory")
        row = {"epoch_seconds": [3.0, 1.0, 2.0], "steps_per_epoch": 10, "peak_memory_bytes": 10**9, "padding_share": 0.1, "devices": []}
        return row

    monkeypatch.setattr(process, "measure", measure)
    sizes = "--user-factors 1 4 --catalogue-sizes 100 200000 --lengths 5 --intents 8 64".split()
    main(["scaling", *TINY, *sizes, "--output-dir", str(tmp_path)])
    content = check_outputs(tmp_path, "scaling")
    found = [(one["series"], one["line"], one["value"]) for one in content["result"]["points"]]
    assert found == [
        ("users", "softmax", 60),
        ("users", "softmax", 240),
        ("catalogue", "sampled_softmax", 100),
        ("catalogue", "softmax", 100),
        ("catalogue", "sampled_softmax", 200_000),  # beyond the full softmax
        ("length", "softmax", 5),
        ("intents", "softmax", 8),
        ("intents", "softmax", 64),
    ]
    assert specs[1]["config"]["simulator"]["sim_users"] == 240
    assert specs[2]["synthetic"] == {"users": 60, "items": 100, "events": 10.0, "seed": 0}
    assert content["result"]["points"][0]["epoch_seconds"] == {"median": 1.5, "low": 1.0, "high": 2.0}
    assert content["result"]["points"][1]["users_per_second"] == {"median": 180.0, "low": 120.0, "high": 240.0}
    assert "want of memory" in content["result"]["points"][-1]["failed"]
    assert "failed" in capsys.readouterr().out


@pytest.mark.slow
def test_catalogue(tmp_path, in_process, monkeypatch, capsys):
    monkeypatch.setattr(catalogue, "_SECONDS", 0.05)
    chosen = "--catalogue-sizes 150 --samplers mixed in-batch --num-negatives 8 --batch-size 32 --negatives mixed".split()
    arguments = ["catalogue", *TINY, *SMALL, *UNCOMPILED, *chosen, "--output-dir", str(tmp_path)]
    main(arguments)
    assert in_process == ["train", "train", "evaluate", "catalogue", "catalogue"]
    (found,) = check_outputs(tmp_path, "catalogue")["result"]["catalogues"]
    assert list(found["train"]) == ["mixed", "in-batch"] and found["items"] == 150
    for vectors in ("trained", "untrained"):
        index = found["index"][vectors]
        assert 0.9 < index["recall"]["median"] <= 1
        assert index["probes"]["median"] <= index["lists"]["median"] == 24
        assert min(index[f"{name}_rows_per_second_{size}"]["median"] for name in ("exact", "approximate") for size in (1, 64)) > 0
    main([*arguments, "--resume"])
    assert len(in_process) == 5, "nothing was left to measure"


def test_a_catalogue_that_does_not_fit_is_a_row_too(tmp_path, monkeypatch, capsys):
    def measure(kind, **spec):
        raise process.WorkerFailed(f"measuring {kind} failed: the process was killed, probably for want of memory")

    monkeypatch.setattr(process, "measure", measure)
    main(["catalogue", *TINY, "--catalogue-sizes", "1000", "--samplers", "uniform", "--output-dir", str(tmp_path)])
    text = (tmp_path / "catalogue.md").read_text()
    assert text.count("want of memory") == 6
    exact = [line.split("|")[1:-1] for line in text.splitlines() if "| exact |" in line]
    assert [[cell.strip() for cell in line[4:]] for line in exact] == [[""] * 6] * 2, "nothing was measured, the recall neither"


@pytest.mark.slow
def test_a_point_of_the_catalogue_trains(tmp_path, in_process, monkeypatch):
    monkeypatch.setattr(scaling, "_MOST_FULL_SOFTMAX", 10)
    arguments = "--series catalogue --catalogue-sizes 50 --epochs 2".split()
    main(["scaling", *TINY, *SMALL, *UNCOMPILED, *arguments, "--output-dir", str(tmp_path)])
    assert in_process == ["train"]
    (point,) = check_outputs(tmp_path, "scaling")["result"]["points"]
    assert point["epoch_seconds"]["median"] > 0


def peer_row(*values):
    """What the peer measured: passes of 10 seconds that reached these NDCG@20, each ranked in 2 more seconds."""
    curve = [
        {"epoch": epoch, "seconds": 10.0, "train_seconds": 10.0 * epoch, "wall_seconds": 12.0 * epoch, "NDCG@20": value}
        for epoch, value in enumerate(values, start=1)
    ]
    about = {"library": "RecTools SASRec, softmax loss", "versions": {"rectools": "1", "torch": "2"}, "settings": {}}
    return {**about, "curve": curve, "test": {"all_ranking_seconds": [3.0, 1.0, 2.0]}, "seconds_to_first_step": 7.0}


@pytest.mark.slow
def test_peer(tmp_path, in_process, monkeypatch, capsys):
    asked = []

    def measure_peer(sequences, spec, progress, environment):
        asked.append((sequences.num_users, spec, environment))
        progress("epoch 1: 10.0 s")
        return peer_row(1e-4, 2e-4)

    monkeypatch.setattr(comparison, "measure_peer", measure_peer)
    chosen = "--epochs 3 --batch-size 16 --products float32 --peer-max-seconds 60 --target-ndcg 0.001 --env somewhere".split()
    arguments = ["peer", *TINY, *SMALL, *UNCOMPILED, *chosen, "--output-dir", str(tmp_path)]
    main(arguments)
    assert in_process == ["training"]
    ((users, spec, environment),) = asked
    assert (users, environment) == (60, "somewhere")
    assert (spec.hidden_size, spec.num_layers, spec.num_heads, spec.max_length, spec.batch_size, spec.dropout) == (8, 1, 2, 10, 16, 0.3)
    assert (spec.epochs, spec.target_ndcg, spec.max_seconds, spec.learning_rate) == (3, 0.001, 60, 1e-3)

    result = check_outputs(tmp_path, "peer")["result"]
    ours, peer = result["ours"], result["peer"]
    (curve,) = ours["curves"]
    assert [row["epoch"] for row in curve] == [1, 2, 3]
    assert curve[-1]["train_seconds"] == pytest.approx(sum(row["seconds"] for row in curve))
    assert ours["pass_seconds"]["high"] == max(row["seconds"] for row in curve[1:])
    assert ours["first_pass_seconds"]["median"] == curve[0]["seconds"]
    assert ours["target_seconds"]["median"] in [row["train_seconds"] for row in curve]
    assert (peer["passes"], peer["pass_seconds"]["median"], peer["ranking_seconds"]["median"]) == ([2], 10, 2)
    assert (peer["start_seconds"]["median"], peer["other_seconds_a_pass"]["median"]) == (7, 2)
    assert peer["target_seconds"] is result["peer_over_ours"]["target_seconds"] is None
    assert "| not reached in 2 passes (best 0.0002) |" in (tmp_path / "peer.md").read_text()
    assert "epoch 1: 10.0 s" in capsys.readouterr().out

    main([*arguments, "--resume"])
    assert (len(in_process), len(asked)) == (1, 1), "nothing was left to measure"
    with pytest.raises(UserError, match="was measured with other settings"):
        main([*arguments, "--resume", "--target-ndcg", "0.02"])


def test_ours_stays_when_the_peer_fails(tmp_path, monkeypatch):
    asked = []
    curve = [{"epoch": epoch, "seconds": 2.0, "train_seconds": 2.0 * epoch, "NDCG@20": 0.02 * epoch} for epoch in (1, 2, 3)]
    row = {"curve": curve, "users": 60, "ranking_seconds": [9.0, 0.5], "start_seconds": 1.0, "other_seconds": 6.0}
    monkeypatch.setattr(process, "measure", lambda kind, **spec: asked.append(kind) or row)

    def fail(*arguments):
        raise UserError("RecTools failed")

    monkeypatch.setattr(comparison, "measure_peer", fail)
    arguments = ["peer", *TINY, "--output-dir", str(tmp_path)]
    with pytest.raises(UserError, match="RecTools failed"):
        main(arguments)
    monkeypatch.setattr(comparison, "measure_peer", lambda *arguments: peer_row(0.01, 0.06))
    main([*arguments, "--resume"])
    assert asked == ["training"]
    result = check_outputs(tmp_path, "peer")["result"]
    # Both reach 0.05: ours after 6 seconds in its third epoch, the peer after 20 in its second.
    ratios = {name: spread["median"] for name, spread in result["peer_over_ours"].items()}
    assert ratios == {"pass_seconds": 5, "ranking_seconds": 4, "target_seconds": pytest.approx(20 / 6)}
    assert result["ours"]["other_seconds_a_pass"]["median"] == 2


def test_time_to_target_needs_every_repeat():
    reached, missed = (comparison.Training.peer(peer_row(0.01, last)) for last in (0.06, 0.04))
    assert comparison._ratios([reached, reached], [reached, reached], 0.05)["target_seconds"].median == 1
    assert comparison._ratios([reached, reached], [reached, missed], 0.05)["target_seconds"] is None
    texts = [comparison._to_target(comparison._summary(both, 0.05)) for both in ([reached, missed], [missed, missed])]
    assert texts == ["reached in 1 of 2 repeats", "not reached in 2 passes (best 0.0400)"]


def test_a_measurement_has_a_process_of_its_own():
    result = process.measure("rates", shapes=[[4, 4, 4, 1, "rows"]], seconds=1e-4, megabytes=1, config={})
    assert result["products"][0]["float32"]["gflops"] > 0
    assert result["peak_memory_bytes"] > 0


def test_a_failing_process_is_one_line(monkeypatch, tmp_path):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho 'error: unknown data set' >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(UserError, match="^measuring train failed: unknown data set$"):
        process.measure("train")
    script.write_text("#!/bin/sh\nkill -9 $$\n")
    with pytest.raises(UserError, match="killed, probably for want of memory"):
        process.measure("train")


def python(*arguments, cwd):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, timeout=120, cwd=cwd)


def test_help_loads_neither_tensorflow_nor_numpy(tmp_path):
    code = (
        "import runpy, sys\nsys.argv[1:] = ['train', '--help']\n"
        "try:\n    runpy.run_module('pipelines.benchmark', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as error:\n    print('exit', error.code, {'tensorflow', 'keras', 'numpy', 'matplotlib'} & set(sys.modules))"
    )
    result = python("-c", code, cwd=tmp_path)
    assert result.stdout.startswith("usage: python -m pipelines.benchmark train")
    assert result.stdout.endswith("exit 0 set()\n")


def test_importing_the_worker_loads_no_tensorflow(tmp_path):
    result = python("-c", "import sys, pipelines.benchmark.worker; print({'tensorflow', 'keras'} & set(sys.modules))", cwd=tmp_path)
    assert (result.stdout, result.stderr) == ("set()\n", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command(command, capsys):
    with pytest.raises(SystemExit) as stop:
        make_parser().parse_args([command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: python -m pipelines.benchmark {command} ")
    wanted = ["--output-dir", "--resume", "--repeats", "--json", "--no-plot", "--preset", "--hidden-size"]
    assert all(word in text for word in wanted)
    assert ("--dataset NAME|PATH" in text) == (command not in ("scaling", "catalogue"))


@pytest.mark.parametrize("command", ["scaling", "catalogue"])
def test_help_tells_the_defaults_of_the_simulated_data(command, capsys):
    with pytest.raises(SystemExit):
        make_parser().parse_args([command, "--help"])
    text = capsys.readouterr().out
    assert "examples a batch (default: 128)" in text and ("--next-item" in text) == (command == "scaling")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["measure"],
        ["train", "--patience", "3"],
        ["train", "--repeats", "0"],
        ["train", "--repeats", "many"],
        ["train", "--variants", "half"],
        ["evaluate", "--epochs", "3"],
        ["scaling", "--dataset", "beauty"],
        ["scaling", "--lengths"],
        ["peer", "--target-ndcg", "1"],
        ["peer", "--peer-epochs", "0"],
        ["peer", "--patience", "2"],
    ],
)
def test_wrong_flags_exit_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        make_parser().parse_args(arguments)
    assert stop.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_users_errors(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="--epochs should be at least 2"):
        main(["train", "--epochs", "1"])
    with pytest.raises(UserError, match="unknown data set 'beuaty'; did you mean 'beauty'"):
        main(["input", "--dataset", "beuaty", "--output-dir", str(tmp_path / "out")])
    monkeypatch.setattr(report, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install matplotlib"):
        main(["train"])
    assert list(tmp_path.iterdir()) == []


def test_a_resume_on_data_that_changed_is_refused(tmp_path, monkeypatch):
    row = {"epoch_seconds": [3.0, 1.0], "first_batch_seconds": 1.0, "steps_per_epoch": 10, "padding_share": 0.1, "batch_bytes": 5.0}
    monkeypatch.setattr(process, "measure", lambda kind, **spec: row)
    data = tmp_path / "shop.txt"
    arguments = ["input", "--dataset", str(data), "--repeats", "1", "--k-core", "1", "--no-plot", "--output-dir", str(tmp_path / "out")]
    data.write_text("a 1 2 3 4\nb 2 3 1 4\n")
    main(arguments)
    main([*arguments, "--resume"])
    data.write_text("a 1 2 3 4\nb 2 3 4 1\n")
    with pytest.raises(UserError, match="was measured with other settings"):
        main([*arguments, "--resume"])


def test_a_folder_has_one_benchmark_at_a_time(tmp_path):
    with locked(tmp_path, wait=False), pytest.raises(UserError, match="another process is at work there"):
        main(["input", *TINY, "--no-plot", "--output-dir", str(tmp_path)])


def test_a_runs_file_of_settings_fits_every_command(tmp_path):
    """It names other data than a command that simulates its own, and epochs for snapshots beyond the few that are measured."""
    file = tmp_path / "config.json"
    settings = {"data": {"dataset": "beauty"}, "train": {"epochs": 10, "snapshot_epochs": [0, 5, 10]}, "model": {"hidden_size": 32}}
    file.write_text(json.dumps(settings))
    for command in COMMANDS:
        config = command_line._config(make_parser().parse_args([command, "--config", str(file)]))
        assert config.data.dataset == ("simulated" if command in ("scaling", "catalogue") else "beauty")
        assert config.model.hidden_size == 32


def test_requests_carry_whole_histories():
    for length, width in ((3, 64), (200, 200)):
        request = load.wire.PredictRequest.FromString(load._payload("model", [str(one) for one in range(length)], max(64, length)))
        shape = [one.size for one in request.inputs["history"].tensor_shape.dim]
        assert shape == [1, width]
        assert [one for one in request.inputs["history"].string_val if one] == [str(one).encode() for one in range(length)]


def test_without_matplotlib_there_is_no_plot(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "find_spec", lambda name: None)
    row = {"epoch_seconds": [3.0, 1.0], "first_batch_seconds": 1.0, "steps_per_epoch": 10, "padding_share": 0.1, "batch_bytes": 5.0}
    monkeypatch.setattr(process, "measure", lambda kind, **spec: row)
    main(["input", *TINY, "--no-plot", "--output-dir", str(tmp_path)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["input.json", "input.md", "rows.jsonl"]


def test_variants_that_change_nothing_are_left_out():
    def names(**fields):
        return [variant.name for variant in objective._variants(toy_config(**fields), flags.VARIANTS)]

    assert names() == list(flags.VARIANTS) == list(objective.WEIGHTS) == list(objective.LABELS)
    assert names(sequence_weight=0) == ["whole", "no-intent", "no-elcm", "next-item"]
    assert names(sequence_weight=0, intent_weight=0, cluster_weight=0) == ["whole"]
    with pytest.raises(UserError, match="--variants no-elcm next-item: switches off nothing that is on"):
        objective._variants(toy_config(sequence_weight=0, intent_weight=0, cluster_weight=0), ("no-elcm", "next-item"))


def test_a_journal_keeps_what_was_finished(tmp_path):
    file = tmp_path / "rows.jsonl"
    made = []

    def row(value):
        return lambda: made.append(value) or {"value": value}

    first = Journal(file, {"sizes": (1, 2)}, resume=False)
    assert first.measure("a", row(1)) == {"value": 1}
    assert first.measure("a", row(2)) == {"value": 1}
    file.write_text(file.read_text() + '{"key": "b", "row": {"val')  # killed while it wrote
    again = Journal(file, {"sizes": (1, 2)}, resume=True)
    assert again.measure("a", row(3)) == {"value": 1}
    assert again.measure("b", row(4)) == {"value": 4}
    assert made == [1, 4]
    assert Journal(file, {"sizes": (1, 2)}, resume=True).rows == {"a": {"value": 1}, "b": {"value": 4}}
    with pytest.raises(UserError, match="other settings"):
        Journal(file, {"sizes": (1, 3)}, resume=True)


def test_an_output_folder_that_cannot_be_resumed_yet_is_started(tmp_path):
    assert Journal(tmp_path / "new" / "rows.jsonl", {}, resume=True).rows == {}


def test_zipf_sequences():
    sequences = zipf_sequences(users=2000, items=500, events=12)
    lengths = np.diff(sequences.offsets)
    assert lengths.min() == 5
    assert lengths.mean() == pytest.approx(12, rel=0.05)
    assert (sequences.num_users, sequences.catalog.num_items) == (2000, 500)
    assert (sequences.items.min(), sequences.items.max()) == (1, 500)
    assert sequences.catalog.counts.sum() == lengths.sum() - 2 * 2000
    # p(1) / p(2) = 2, p(1) / p(4) = 4
    counts = np.bincount(sequences.items)
    assert counts[1] / counts[[2, 4]] == pytest.approx([2, 4], rel=0.2)
    assert (zipf_sequences(10, 50, 8, seed=1).items == zipf_sequences(10, 50, 8, seed=1).items).all()


def test_histories_to_serve_are_raw_ids():
    sequences = sequences_of([1, 2, 3, 4], [5, 6, 1])
    found = export.raw_histories(sequences, max_length=3, seed=0)
    assert sorted(found) == [["i2", "i3", "i4"], ["i5", "i6", "i1"]]


def test_scaling_lengths_see_more_of_the_same_data():
    options = make_parser().parse_args(["scaling", "--series", "length", "--lengths", "10", "20"])
    short, long = scaling.points(toy_config(), options)
    assert short.config.simulator == long.config.simulator
    assert (short.config.model.max_length, long.config.model.max_length) == (10, 20)
    assert short.config.simulator.sim_events >= 200
