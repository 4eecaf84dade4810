"""Daily updates on a simulated service: the questions by hand, and the commands."""

import csv
import json
import re

import numpy as np
import pytest
from rich.console import Console

from elcrec_tf.config import Config
from elcrec_tf.data.catalog import Catalog
from elcrec_tf.data.drifting import DailyLog, DriftingConfig, simulate_days
from elcrec_tf.errors import UserError
from pipelines.living import methods
from pipelines.living.__main__ import main
from pipelines.living.methods import World
from pipelines.living.questions import Questions
from pipelines.living.report import make_report
from pipelines.lock import locked
from tests.toy import toy_model

SMALL = ["--users", "60", "--items", "40", "--intents", "4", "--activity", "1", "--turnover-days", "3"]


def log_of(*events):
    """A log of (user, item, day); the order of the arguments is the order of time."""
    users, items, days = np.array(events).T
    return DailyLog(users, items, days, np.arange(len(events)), np.zeros_like(users), np.zeros((1, 2), np.int64))


@pytest.fixture(scope="module")
def questions():
    # The first model has days 0 and 1; day 3 is asked for.
    events = [(0, 0, 0), (1, 1, 0), (0, 1, 1), (2, 3, 2), (2, 0, 2), (0, 3, 3), (2, 1, 3), (1, 4, 3), (0, 2, 3), (3, 0, 3)]
    return Questions.of(log_of(*events, (0, 5, 4)), day=3, last=3, first_update=2)


def test_questions_by_hand(questions):
    # User 0: items 0 1, then 3, then 2 (cold); user 1: item 1, then 4 (cold); user 2 is new: items 3 0, then 1; user 3's is a first one.
    asked = [questions.items[start : stop + 1].tolist() for start, stop in questions.windows]
    names = [[f"item-{item:05d}" for item in history] for history in ([0, 1, 3], [0, 1, 3, 2], [1, 4], [3, 0, 1])]
    assert asked == names
    groups = {name: np.flatnonzero(group).tolist() for name, group in questions.groups.items()}
    assert groups == {"all": [0, 3], "old users": [0], "new users": [3], "old items": [3], "new items": [0]}
    assert (questions.cold, questions.first) == (2, 1)


def test_ranks_are_those_of_the_scores_and_unknown_items_are_misses(questions):
    catalog = Catalog([f"item-{item:05d}" for item in (1, 0, 4, 9)])  # knows neither item 3 nor item 2
    model = toy_model(4)
    ranks = questions.ranks(model, catalog)
    assert np.isinf(ranks[:2]).all()
    for row, (history, target) in {2: ([1], 3), 3: ([2], 1)}.items():
        scores = np.array(model.scores(np.array([history], np.int32)))[0]
        scores[[0, *history]] = -np.inf
        assert ranks[row] == np.sum(scores > scores[target])
    metrics = questions.metrics(ranks)
    assert metrics["new items"]["questions"] == 1 and metrics["new items"]["HR@20"] == 0
    assert metrics["all"]["HR@20"] == pytest.approx(1 / 2)


def test_the_log_command_writes_the_simulated_days(tmp_path, capsys):
    assert main(["log", "--days", "2", "4", "--output", str(tmp_path / "log.csv"), *SMALL]) == 0
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    log = simulate_days(DriftingConfig(users=60, items=40, intents=4, activity=1.0, turnover_days=3), 5).between(2, 4)
    assert [(row["user"], row["item"], int(row["timestamp"])) for row in rows] == list(
        zip(log.user_names(), log.item_names(), log.times.tolist(), strict=True)
    )
    with pytest.raises(UserError, match="--days"):
        main(["log", "--days", "4", "2", "--output", str(tmp_path / "log.csv")])
    with pytest.raises(UserError, match="--seeds should be at least 1"):
        main(["updates", "--seeds", "0"])


def test_help_tells_the_defaults_that_are_used(capsys):
    """Those of the preset, and of the comparison's own settings above it."""
    with pytest.raises(SystemExit):
        main(["updates", "--help"])
    text = capsys.readouterr().out
    assert "examples a batch (default: 128)" in text and "Adam's learning rate (default: 0.003)" in text
    assert re.search(r"--num-clusters .*?\(default: 24\)", text, re.DOTALL)


@pytest.mark.parametrize("rate", ["0", "-1", "nan", "inf"])
def test_a_wrong_learning_rate_of_updates_ends_before_the_work(tmp_path, rate):
    with pytest.raises(UserError, match="--update-learning-rate: train.learning_rate should be"):
        main(["updates", *SMALL, f"--update-learning-rate={rate}", "--output-dir", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_folder_has_one_comparison_at_a_time(tmp_path):
    with locked(tmp_path, wait=False), pytest.raises(UserError, match="another process is at work there"):
        main(["updates", *SMALL, "--no-plot", "--output-dir", str(tmp_path)])


def test_the_report_weighs_days_by_their_questions():
    def row(questions, value, seconds):
        group = {"questions": questions, "NDCG@20": value}
        names = ("all", "old users", "new users", "old items", "new items")
        return {
            "seconds": seconds,
            "processor_seconds": seconds,
            "epochs": 2,
            "cold": 1,
            "first_events": 2,
            "metrics": dict.fromkeys(names, group),
        }

    rows = {(seed, day, "warm"): row(day, 0.1 * day + 0.01 * seed, 3.0) for seed in (0, 1) for day in (1, 3)}
    report = make_report(rows, ["warm"])
    # (1 * .1 + 3 * .3) / 4 = .25, and .01 more with seed 1
    assert report.result["summary"]["warm"]["all"]["mean"] == pytest.approx(0.255)
    assert report.result["by_day"]["warm"] == pytest.approx([0.105, 0.305])
    assert report.tables[2].rows[1][1:] == ("6", "6", "6", "6", "6", "2", "4")


@pytest.mark.parametrize(("method", "goes_on"), [("first", True), ("warm", False)])
def test_an_update_that_was_cut_off_begins_anew(tmp_path, monkeypatch, method, goes_on):
    log = simulate_days(DriftingConfig(users=60, items=40, intents=4, activity=1.0, turnover_days=3), 8)
    world = World(log, 6, tmp_path, Config(), 1, 1, 0.001, Console(quiet=True))
    folder = world.first_run if method == "first" else world.run(method, 7)
    folder.create(Config(), Catalog(["a"]))

    def train(sequences, config, folder, resume, console):
        assert resume == folder.exists == goes_on
        raise KeyboardInterrupt

    monkeypatch.setattr(methods, "train_model", train)
    with pytest.raises(KeyboardInterrupt):
        world.measure_first() if method == "first" else world.measure(method, 7)


@pytest.mark.slow
def test_updates_are_measured_and_go_on_after_a_stop(tmp_path):
    folder = tmp_path / "living"
    argv = ["updates", *SMALL, "--first-update", "6", "--days", "2", "--epochs", "2", "--update-epochs", "1", "--output-dir", str(folder)]
    argv += ["--hidden-size", "8", "--num-layers", "1", "--num-clusters", "4", "--methods", "stale", "warm", "warm-week", "short"]
    assert main([*argv, "--no-plot"]) == 0
    lines = (folder / "rows.jsonl").read_text().splitlines()
    assert len(lines) == 1 + 1 + 2 * 4
    table = (folder / "updates.md").read_text()
    with pytest.raises(UserError, match="--resume"):
        main(argv)
    (folder / "rows.jsonl").write_text("\n".join(lines[:-3]) + "\n")
    assert main([*argv, "--resume"]) == 0
    assert (folder / "updates.png").is_file()
    again = (folder / "updates.md").read_text()
    assert [line for line in again.splitlines() if line.startswith("| 7")] == [
        line for line in table.splitlines() if line.startswith("| 7")
    ]
    data = json.loads((folder / "runs" / "seed-0" / "day-08-warm" / "data.json").read_text())
    assert data["warm_start"]["run"].endswith("day-07-warm")
