"""The command as a whole. Runs are faked where the tables are what is tested, and real, on tiny data, where running is."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import elcrec_tf
from elcrec_tf.config import AugmentConfig, Config, DataConfig, ModelConfig, SimulatorConfig, resolve
from elcrec_tf.data.datasets import load_dataset
from elcrec_tf.data.simulate import simulate
from elcrec_tf.errors import UserError
from elcrec_tf.presets import PRESETS
from elcrec_tf.reporting import published
from elcrec_tf.run_folder import RunFolder
from pipelines.lock import FolderInUse, locked
from pipelines.reproduce import ablation, augmentation, matrix, process, training
from pipelines.reproduce.__main__ import main
from pipelines.reproduce.figures import series_colors
from pipelines.reproduce.flags import PARTS, TABLES, make_parser
from pipelines.reproduce.job import Job
from pipelines.reproduce.ledger import Ledger
from pipelines.reproduce.perturb import some_users
from pipelines.reproduce.scene import Subject, Variant
from tests.prepared import write_shards
from tests.toy import random_sequences

ROOT = Path(elcrec_tf.__file__).parents[1]
SIMULATED = "--datasets simulated --recipes simulated --sim-users 60 --sim-items 40 --sim-intents 4 --sim-events 8".split()
SMALL = "--num-clusters 4 --hidden-size 8 --num-layers 1 --max-length 10 --batch-size 16 --xla off --products float32".split()
NO_MEMORY = {"peak_memory_bytes": None, "peak_device_memory_bytes": None}
HAS_EM = "intent_clustering" in ModelConfig.__dataclass_fields__
VIEWS = ("none", "crop", "random", *set(AugmentConfig.__dataclass_fields__["augmentations"].metadata["choices"]) & {"insert", "dropout"})


@pytest.fixture
def places(tmp_path):
    return ["--output-dir", str(tmp_path / "results"), "--runs-dir", str(tmp_path / "runs")]


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results"


@pytest.fixture
def beauty(tmp_path, monkeypatch):
    """A small file that is taken for a published one: tables put the published numbers beside it."""
    sequences = simulate(SimulatorConfig(sim_users=200, sim_items=60, sim_intents=4, sim_events=8.0))
    path = tmp_path / "Beauty.txt"
    path.write_text("".join(f"{user} {' '.join(map(str, sequences[index]))}\n" for index, user in enumerate(sequences.user_ids)))
    monkeypatch.setitem(published.FINGERPRINTS, load_dataset(DataConfig(dataset=str(path))).fingerprint, "beauty")
    return path


def fake_ranks(job, users):
    """Better with more of the objective's terms and with the official negatives, worse with noise."""
    rng = np.random.default_rng([job.seed, round(100 * job.noise)])
    loss = job.config.loss
    hit = 0.2 + 0.1 * (loss.cluster_weight > 0) + 0.05 * (loss.intent_weight > 0) + 0.1 * (loss.negatives == "official") - 0.2 * job.noise
    return np.where(rng.random(users) < hit, rng.integers(0, 5, users), 30)


@pytest.fixture
def faked(monkeypatch):
    """Runs that take no time, of three epochs; a list of the jobs."""
    done = []

    def train(job, runs_dir, output_dir, *how):
        sequences = load_dataset(job.config.data, job.config.simulator)
        folder = RunFolder(runs_dir / job.id)
        usual = 5.0 if sequences.num_users == 120 else 2.0
        seconds = {1: 3.0, 2: usual, 3: usual}
        folder.write_history(
            [{"epoch": n, "loss": 8 / n, "val_NDCG@20": 0.1 * min(n, 2), "seconds": seconds[n], "clustering_seconds": 0.5} for n in seconds]
        )
        ranks = fake_ranks(job, sequences.num_users)
        metrics = {"validation": {"NDCG@20": 0.2}, "test": {"NDCG@20": 0.4}, "baselines": {}}
        metrics |= {"best_epoch": 2, "epochs": 3, "train_seconds": 7.0, "parameters": 9}
        metrics |= {"users": sequences.num_users, "items": sequences.catalog.num_items, "events": sequences.num_events}
        memory = {**NO_MEMORY, "peak_memory_bytes": 10_000_000 + sequences.num_users}
        Ledger(output_dir).add(training.row(job, folder, sequences, metrics, ranks, memory), ranks)
        done.append(job)

    monkeypatch.setattr(process, "train", train)
    return done


def read(folder, name):
    """The JSON's result, after a look at all files."""
    content = json.loads((folder / f"{name}.json").read_text())
    assert content["table"] == name and content["command"].startswith(f"python -m pipelines.reproduce {name} ")
    text = (folder / f"{name}.md").read_text()
    assert "nan" not in text and "--output-dir" not in text and str(folder) not in text
    assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (folder / f"{name}.svg").read_text()
    return content["result"]


def keep_rows(results, wanted):
    """The rows that are `wanted` stay in the ledger, the others go."""
    lines = (results / "rows.jsonl").read_text().splitlines(keepends=True)
    (results / "rows.jsonl").write_text("".join(line for line in lines if wanted(json.loads(line))))


# ---- tables


def test_comparison_puts_recipes_beside_published_results(beauty, faked, places, results, capsys):
    main(["comparison", "--datasets", str(beauty), "--seeds", "2", "--recipes", "paper", "default", "unheard-of", *places])
    assert [(job.config.preset, job.seed) for job in faked] == [("paper-beauty", 0), ("default", 0), ("paper-beauty", 1), ("default", 1)]
    result = read(results, "comparison")
    data = result["datasets"]["beauty"]
    ranks = np.stack([fake_ranks(job, 200) for job in faked if job.config.preset == "default"])
    cell = data["recipes"]["default"]["HR@5"]
    assert cell["mean"] == pytest.approx(np.mean(ranks < 5)) and cell["seeds"] == 2
    assert cell["deviation"] == pytest.approx(np.std(np.mean(ranks < 5, axis=1), ddof=1))
    assert cell["paper"] == {
        "method": "ELCRec",
        "published": 0.0529,
        "margin": pytest.approx(cell["mean"] - 0.0529),
        "p": pytest.approx(2 / 10_001),
        "within_2_deviations": False,
    }
    assert (cell["record"]["method"], cell["record"]["published"]) == ("KERec", 0.0745)
    assert result["won"]["default"] == {"above_paper": 4, "above_record": 4, "cells": 4}
    # The fake does not know the recipe: both have the same ranks.
    assert data["pairs"]["paper - default"]["HR@5"] == {"difference": 0.0, "p": 1.0}
    text = (results / "comparison.md").read_text()
    assert "| ELCRec, reported | .0529 | .1079 | .0355 | .0509 |" in text
    assert f"| default, HR@5 | {cell['mean']:.4f}".replace("0.", ".") in text
    assert "| default | 4 of 4 | 4 of 4 |" in text
    assert "written to" in capsys.readouterr().out


def test_recipes_are_paired_by_the_seeds_that_both_have(beauty, faked, places, results):
    chosen = ["comparison", "--datasets", str(beauty), *places]
    main([*chosen, "--recipes", "default", "--seeds", "2"])
    main([*chosen, "--recipes", "paper", "--seeds", "1"])
    main([*chosen, "--recipes", "default", "paper", "best", "--seeds", "2", "--no-runs"])
    pairs = read(results, "comparison")["datasets"]["beauty"]["pairs"]
    assert list(pairs) == ["default - paper"] and pairs["default - paper"]["NDCG@20"] == {"difference": 0.0, "p": 1.0}, (
        "seed 0, faked alike"
    )
    assert "of two recipes by the seeds that both have" in (results / "comparison.md").read_text()
    keep_rows(results, lambda row: row["recipe"] == "paper" or row["seed"] == 1)
    main([*chosen, "--recipes", "default", "paper", "--seeds", "2", "--no-runs"])
    assert read(results, "comparison")["datasets"]["beauty"]["pairs"] == {}


def test_a_flag_for_a_recipe_need_not_suit_the_default(beauty, faked, places, tmp_path, monkeypatch):
    sequences = load_dataset(DataConfig(dataset=str(beauty)))
    other = RunFolder(tmp_path / "official")
    other.create(Config(), sequences.catalog, sequences.fingerprint)
    asked = []
    monkeypatch.setattr(process, "ranks", lambda path, config: asked.append(config) or np.zeros(200))
    flags = ["--datasets", str(beauty), "--recipes", "paper-beauty", "--negatives", "official", "--eval-batch-size", "64", "--seeds", "1"]
    main(["comparison", *flags, "--against", str(other.path), *places])
    assert [job.config.loss.negatives for job in faked] == ["official"]
    assert [(config.data.dataset, config.train.eval_batch_size) for config in asked] == [(str(beauty), 64)]


def test_another_file_of_a_published_name_has_no_published_numbers_beside_it(faked, places, results, tmp_path):
    (tmp_path / "Beauty.txt").write_text("".join(f"u{user} a b c d e\n" for user in range(5)))
    main(["comparison", "--datasets", str(tmp_path / "Beauty.txt"), "--recipes", "default", "--seeds", "1", *places])
    assert read(results, "comparison")["won"] == {}
    assert "reported" not in (results / "comparison.md").read_text()


def test_reported_sums_are_those_of_the_content_whatever_the_name(beauty, faked, places, results, tmp_path):
    (tmp_path / "toys.txt").write_bytes(beauty.read_bytes())
    main(["ablation", "--datasets", str(tmp_path / "toys.txt"), "--recipes", "default", "--seeds", "1", "--parts", "B", *places])
    assert read(results, "ablation")["toys"]["reported"]["B"] == 0.2390


def test_ablation_switches_parts_off(beauty, faked, places, results):
    main(["ablation", "--datasets", str(beauty), "--recipes", "default", "--seeds", "2", *places])
    weights = [(one.sequence_weight, one.intent_weight, one.cluster_weight) for one in (job.config.loss for job in faked[:4])]
    assert weights == [(0, 0, 0), (0.1, 0.1, 0), (0, 0, 0.1), (0.1, 0.1, 0.1)]
    result = read(results, "ablation")["beauty"]
    assert result["reported"] == {"B": 0.2390, "B+ICL": 0.2398, "B+ELCM": 0.2432, "ELCRec": 0.2473}
    own = result["default"]
    assert list(own) == list(PARTS)
    assert own["ELCRec"]["sum"]["mean"] == pytest.approx(
        sum(own["ELCRec"][name]["mean"] for name in ("HR@5", "HR@20", "NDCG@5", "NDCG@20"))
    )
    assert own["ELCRec"]["more_than_b"] == pytest.approx(own["ELCRec"]["sum"]["mean"] - own["B"]["sum"]["mean"])
    assert own["ELCRec"]["p"] < 0.05 and "p" not in own["B"]


def test_ablation_runs_the_parts_that_were_asked_for_and_pads_none_of_b(beauty, faked, places, results):
    main(["ablation", "--datasets", str(beauty), "--recipes", "paper", "--parts", "B", "B+ELCM", "--seeds", "1", *places])
    assert [job.variant for job in faked] == ["B", "B+ELCM"]
    assert [job.config.loss.official_padding for job in faked] == [False, True]
    assert list(read(results, "ablation")["beauty"]["paper"]) == ["B", "B+ELCM"]


def test_a_recipe_without_elcm_gets_it_where_the_part_has_it(faked, places):
    main(["ablation", *SIMULATED, "--recipes", "sasrec", "iclrec", "--seeds", "1", "--parts", "B+ICL", "B+ELCM", "ELCRec", *places])
    found = [(job.recipe, job.variant, job.config.model.intent_clustering, job.config.loss.cluster_weight) for job in faked]
    assert found == [
        (recipe, part, "em" if (recipe, part) == ("iclrec", "B+ICL") else "learned", weight)
        for recipe in ("sasrec", "iclrec")
        for part, weight in (("B+ICL", 0), ("B+ELCM", 0.1), ("ELCRec", 0.1))
    ]
    assert ablation.elcm(resolve("sasrec", flags={"cluster_weight": 0.0}), ["cluster_weight"]) == {"intent_clustering": "learned"}


@pytest.mark.parametrize("preset", [name for name in PRESETS if name not in ("sasrec", "cl4srec", "iclrec")])
def test_a_recipe_with_elcm_keeps_its_own(preset):
    whole = Variant(Subject("d", {}), preset, "ELCRec", resolve(preset))
    assert ablation.reduced(whole, "B+ELCM").config == whole.config.replace(sequence_weight=0.0, intent_weight=0.0)
    assert ablation.reduced(whole, "ELCRec").config == whole.config.replace(sequence_weight=0.1, intent_weight=0.1)


def test_negatives_compares_seeds_that_both_kinds_have(beauty, faked, places, results):
    common = ["negatives", "--datasets", str(beauty), "--next-item", "bce", "--recipes", "default", "--parts", "B"]
    main([*common, "--seeds", "1", *places])
    assert [job.config.loss.negatives for job in faked] == ["uniform", "official"]
    main(["ablation", *common[1:], "--seeds", "2", *places])
    main([*common, "--seeds", "2", "--no-runs", *places])
    plain, spared = read(results, "negatives")["beauty"]
    assert (plain["NDCG@20"]["seeds"], spared["NDCG@20"]["seeds"]) == (2, 1)
    first_seed = next(row for row in Ledger(results).rows if row["config"]["loss"]["negatives"] == "uniform")
    worth = spared["worth"]["NDCG@20"]
    assert worth["difference"] == pytest.approx(spared["NDCG@20"]["mean"] - first_seed["test"]["NDCG@20"]) and worth["difference"] > 0
    assert worth["p"] < 0.05 and plain["worth"] is None
    assert "| what that is worth |" in (results / "negatives.md").read_text()


def test_tables_share_runs(beauty, faked, places, results):
    chosen = ["--datasets", str(beauty), "--recipes", "default", "--seeds", "1", *places]
    main(["comparison", *chosen])
    main(["ablation", *chosen])
    assert len(faked) == 4
    main(["sensitivity", *chosen, "--clusters", "256", "--alphas", "0.1"])
    main(["convergence", *chosen])
    main(["augmentation", *chosen, "--views", "random", "none"])
    assert len(faked) == 4, "all of it had been run for the ablation"
    assert len({row["id"] for row in Ledger(results).rows}) == 4


def test_sensitivity_varies_one_thing_at_a_time(beauty, faked, places, results):
    main(["sensitivity", "--datasets", str(beauty), "--clusters", "4", "8", "--alphas", "0.01", "10", *places])
    found = [(job.config.model.num_clusters, job.config.loss.cluster_weight) for job in faked]
    assert found == [(4, 0.1), (8, 0.1), (256, 0.01), (256, 10)]
    result = read(results, "sensitivity")["beauty"]
    assert list(result["intents"]["default"]) == ["4", "8"] and list(result["alpha"]["default"]) == ["0.01", "10"]


def test_convergence_shows_epochs_and_seconds(faked, places, results):
    main(["convergence", *SIMULATED, *places])
    (run,) = read(results, "convergence")["simulated"]
    assert run["curve"]["loss"] == [8, 4, 2.666667]
    # .1, .2, .2 after 3, 2 and 2 seconds.
    assert (run["best"], run["nearly_epoch"], run["nearly_seconds"], run["seconds"]) == (0.2, 2, 5, 7)


def test_robustness_has_noise_and_fewer_users_for_both_models(faked, places, results):
    main(["robustness", *SIMULATED, "--noise", "0.5", "--shares", "0.25", "0.5", *places])
    assert [(job.variant, job.noise, job.train_share) for job in faked[:4]] == [
        ("B", 0, 1),
        ("B", 0.5, 1),
        ("B", 0, 0.25),
        ("B", 0, 0.5),
    ]
    result = read(results, "robustness")["simulated"]
    wrong = result["wrong items"]["simulated, ELCRec"]
    assert list(wrong) == ["0", "0.5"]
    assert wrong["0.5"]["kept"] == pytest.approx(wrong["0.5"]["mean"] / 0.4), "of the model that ranked, not of the row of its training"
    fewer = result["fewer users"]["simulated, ELCRec"]
    assert fewer["0.5"]["kept"] == pytest.approx(fewer["0.5"]["mean"] / fewer["1"]["mean"])
    assert wrong["0"]["kept"] is fewer["1"]["kept"] is None
    assert f"({wrong['0.5']['kept']:.0%})" in (results / "robustness.md").read_text()
    assert set(result["fewer users"]["simulated, B"]) == {"0.25", "0.5", "1"}


def test_without_runs_the_table_holds_what_is_there(beauty, faked, places, results):
    one = ["comparison", "--datasets", str(beauty), "--seeds", "1"]
    main([*one, "--recipes", "default", *places])
    main([*one, "--recipes", "default", "best", "--no-runs", *places])
    assert len(faked) == 1
    assert list(read(results, "comparison")["datasets"]["beauty"]["recipes"]) == ["default"]
    assert "| best | not run |" in (results / "comparison.md").read_text()


def test_a_series_has_one_colour_in_all_panels():
    assert series_colors([["reported", "paper", "best"], ["reported", "best"], ["default"]]) == {
        "reported": "C0",
        "paper": "C1",
        "best": "C2",
        "default": "C3",
    }


def test_newcomers_are_ranked_for_by_their_latest_items(faked, places, results):
    main(["newcomers", *SIMULATED, "--seen", "1", "2", *places])
    assert [(job.seed, job.config.model.activity_features, job.seen) for job in faked[:7]] == [
        *((0, features, seen) for features in (False, True) for seen in (0, 1, 2)),
        (1, False, 0),
    ]
    data = read(results, "newcomers")["simulated"]
    without, features = data["values"].values()
    columns = ["all users", "users with 3-5 events", "users with more than 5 events", "latest item seen", "latest 2 items seen"]
    assert list(without) == list(features) == columns, "nobody has 1 or 2 events"
    assert without["all users"]["seeds"] == 3
    counts = [row["by_history_length"] for row in Ledger(results).rows]
    assert all(sum(group["users"] for group in one.values()) == 60 for one in counts)
    assert data["p"]["simulated"] == {name: 1.0 for name in ("all users", "latest item seen", "latest 2 items seen")}, "faked alike"


def test_newcomers_are_tested_by_the_seeds_that_both_have(faked, places, results):
    command = ["newcomers", *SIMULATED, "--seen", "1", "--seeds", "2", *places]
    main(command)
    # Both have seed 0 with whole histories, and no seed with the latest item alone.
    seeds = {(True, 0): [0], (False, 0): [0, 1], (True, 1): [1], (False, 1): [0]}
    keep_rows(results, lambda row: row["seed"] in seeds[row["config"]["model"]["activity_features"], row["seen"]])
    main([*command, "--no-runs"])
    assert read(results, "newcomers")["simulated"]["p"]["simulated"] == {"all users": 1.0}, "faked alike"


def test_augmentation_compares_views(faked, places, results):
    main(["augmentation", *SIMULATED, "--views", *VIEWS, *places])
    assert [job.config.augment.augmentations for job in faked[1:3]] == [("crop",), ("crop", "mask", "reorder")]
    assert [one["views"] for one in read(results, "augmentation")["simulated"]] == list(VIEWS)


def test_augmentation_gives_views_to_a_recipe_that_has_none(faked, places):
    main(["augmentation", *SIMULATED, "--recipes", "sasrec", "default", "--views", "none", "crop", "--intent-weight", "0", *places])
    weights = [(job.recipe, job.variant, job.config.loss.sequence_weight, job.config.loss.intent_weight) for job in faked]
    assert weights == [("sasrec", "none", 0, 0), ("sasrec", "crop", 0.1, 0), ("default", "none", 0, 0), ("default", "crop", 0.1, 0)]
    assert augmentation.fields_of("insert", Config()) == {"augmentations": ("insert",)}


@pytest.mark.skipif(not HAS_EM, reason="needs the alternating scheme")
def test_cost_compares_schemes_as_users_grow(faked, places, results):
    main(["cost", *SIMULATED, "--user-factors", "1", "2", *places])
    assert [(job.dataset, job.config.model.intent_clustering, job.config.train.epochs, job.config.train.patience) for job in faked] == [
        ("simulated x1", "learned", 5, 5),
        ("simulated x1", "em", 5, 5),
        ("simulated x2", "learned", 5, 5),
        ("simulated x2", "em", 5, 5),
    ]
    points = read(results, "cost")["points"]
    assert [one["users"] for one in points] == [60, 60, 120, 120]
    assert points[0]["epoch_seconds"]["median"] == 2, "the first epoch, of 3 seconds, does not count"
    text = (results / "cost.md").read_text()
    assert "| beauty, S3-Rec | 4,414 | 2,294 |" in text
    assert "| simulated x2, simulated, alternating (ICLRec) | 120 | 5.00 | 50.0 |" in text, "3 seconds for 60 users more"


def test_cost_gives_elcm_to_a_recipe_without_it_and_begins_anew_what_was_cut_off(places, monkeypatch):
    found = []

    def train(job, runs_dir, output_dir, wait, afresh):
        found.append((job.config.model.intent_clustering, job.config.loss.cluster_weight, afresh))
        raise UserError("none is needed")

    monkeypatch.setattr(process, "train", train)
    with pytest.raises(UserError, match="2 runs failed"):
        main(["cost", *SIMULATED, "--user-factors", "1", "--recipes", "iclrec", "--no-plot", *places])
    assert found == [("learned", 0.1, True), ("em", 0.0, True)]
    found.clear()
    with pytest.raises(UserError, match="1 runs failed"):
        main(["convergence", *SIMULATED, "--no-plot", *places])
    assert found == [("learned", 0.1, False)]


def test_domains_without_their_data_say_so(faked, places, results, monkeypatch):
    from pipelines.reproduce import scene

    def load(config, simulator):
        raise UserError("https://example.org/ml-1m.zip: cannot be fetched")

    monkeypatch.setattr(scene, "load_dataset", load)
    main(["domains", *places])
    text = (results / "domains.md").read_text()
    assert "| default | not run: `python -m pipelines.reproduce domains --mind MINDsmall_train/behaviors.tsv` |" in text
    assert "| default | not run: `python -m pipelines.reproduce domains` needs the data set: https://example.org/ml-1m.zip: cannot" in text
    assert "| ELCRec, reported | .0944 | .2332 | .0603 | .0994 |" in text
    assert "| ICLRec, reported | .0293 | .0777 | .0186 | .0320 |" in text
    assert faked == []


def test_domains_with_their_data(faked, places, results, tmp_path, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")
    import tensorflow as tf

    from elcrec_tf.data import movielens

    rng = np.random.default_rng(0)
    columns = {"user_id": np.repeat([b"7", b"8", b"9"], 4), "movie_id": np.tile([b"1", b"2", b"3", b"4"], 3)}
    columns |= {"movie_title": columns["movie_id"], "timestamp": rng.permutation(12), "user_rating": np.ones(12, np.float32)}
    lines = [f"{user}\tU{user}\t11/15/2019 9:55:12 AM\tN1 N2 N3\tN4-1 N5-0" for user in range(3)]
    (tmp_path / "behaviors.tsv").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(movielens, "_check_reachable", lambda url: None)
    with tfds.testing.mock_data(as_dataset_fn=lambda self, **kwargs: tf.data.Dataset.from_tensor_slices(columns)):
        main(["domains", "--recipes", "default", "--k-core", "1", "--mind", str(tmp_path / "behaviors.tsv"), "--seeds", "1", *places])
    assert [(job.dataset, job.config.data.format) for job in faked] == [("movielens-1m", "auto"), ("mind-small", "mind")]
    datasets = read(results, "domains")["datasets"]
    assert {name: data["recipes"]["default"]["HR@5"]["paper"]["published"] for name, data in datasets.items()} == {
        "movielens-1m": 0.0333,
        "mind-small": 0.0944,
    }
    with pytest.raises(UserError, match="has 1 fields separated by tabs"):
        (tmp_path / "behaviors.tsv").write_text("broken\n")
        main(["domains", "--datasets", "simulated", "--mind", str(tmp_path / "behaviors.tsv"), *places])


# ---- running


def test_a_killed_command_goes_on_with_the_runs_that_are_missing(faked, places, results, monkeypatch):
    whole = process.train

    def killed(job, *folders):
        if len(faked) == 2:
            raise KeyboardInterrupt
        whole(job, *folders)

    monkeypatch.setattr(process, "train", killed)
    arguments = ["ablation", *SIMULATED, "--seeds", "1", *places]
    with pytest.raises(KeyboardInterrupt):
        main(arguments)
    assert [job.variant for job in faked] == ["B", "B+ICL"] and not (results / "ablation.md").exists()
    monkeypatch.setattr(process, "train", whole)
    main(arguments)
    assert [job.variant for job in faked] == list(PARTS)
    main(arguments)
    assert len(faked) == 4


def test_a_run_that_fails_stops_no_other(faked, places, results, monkeypatch, capsys):
    whole = process.train

    def fails_for_b(job, *folders):
        if job.variant == "B":
            raise UserError("training diverged")
        whole(job, *folders)

    monkeypatch.setattr(process, "train", fails_for_b)
    with pytest.raises(UserError, match="1 runs failed, .*tries them again: simulated-simulated-seed0-"):
        main(["ablation", *SIMULATED, "--seeds", "1", *places])
    assert "failed: training diverged" in capsys.readouterr().out
    assert list(read(results, "ablation")["simulated"]["simulated"]) == ["B+ICL", "B+ELCM", "ELCRec"]
    assert "| simulated, B | not run |" in (results / "ablation.md").read_text()


def test_a_run_that_another_command_is_at_work_on_comes_again_at_the_end(faked, places, results, monkeypatch, capsys):
    whole, turns = process.train, []

    def train(job, runs_dir, output_dir, wait, afresh):
        turns.append((job.variant, wait))
        if job.variant in ("B", "B+ICL") and not wait:
            raise FolderInUse(f"{job.variant}: another process is at work on it")
        if job.variant == "B":  # the other one had ended
            whole(job, runs_dir, output_dir)
        elif job.variant == "B+ELCM":  # the other one makes the row while this one stumbles
            whole(job, runs_dir, output_dir)
            raise UserError("fell ill")
        else:
            whole(job, runs_dir, output_dir)

    monkeypatch.setattr(process, "train", train)
    assert main(["ablation", *SIMULATED, "--seeds", "1", *places]) == 0, "a run that has its row is no failure"
    assert turns == [("B", False), ("B+ICL", False), ("B+ELCM", False), ("ELCRec", False), ("B", True), ("B+ICL", True)]
    assert capsys.readouterr().out.count("put off to the end: ") == 2
    assert list(read(results, "ablation")["simulated"]["simulated"]) == list(PARTS)


def test_a_worker_whose_run_folder_is_held_says_so(tmp_path):
    job = Job("d", "f", "default", "ELCRec", Config())
    with locked(tmp_path / job.id, wait=False), pytest.raises(FolderInUse, match="another process is at work on it"):
        process.train(job, tmp_path, tmp_path / "results", wait=False, afresh=False)


def test_a_run_whose_row_is_there_by_now_is_left_alone(faked, places, results, tmp_path, monkeypatch):
    ledger = Ledger(results)
    main(["convergence", *SIMULATED, *places])
    monkeypatch.setattr(training, "_sequences", lambda job: pytest.fail("there is nothing to do"))
    training.run(faked[0], tmp_path / "runs", ledger)
    assert ledger.find(faked[0]) is not None


@pytest.mark.parametrize(("finished", "left"), [(False, []), (True, ["checkpoint", "config.json", "metrics.json"])])
def test_a_run_that_begins_anew_keeps_its_folder_and_what_is_finished(tmp_path, monkeypatch, finished, left):
    job = Job("d", "f", "default", "ELCRec", Config())
    folder = tmp_path / job.id
    (folder / "checkpoint").mkdir(parents=True)
    for name in ["config.json", "checkpoint/epoch-00001.keras", *(["metrics.json"] if finished else [])]:
        (folder / name).write_text("{}")

    def look(job):
        assert sorted(path.name for path in folder.iterdir()) == left
        with pytest.raises(FolderInUse), locked(folder, wait=False):
            pass
        raise UserError("seen")

    monkeypatch.setattr(training, "_sequences", look)
    with pytest.raises(UserError, match="seen"):
        training.run(job, tmp_path, Ledger(tmp_path / "results"), afresh=True)


def test_a_training_is_found_under_another_recipes_name(tmp_path):
    job = Job("beauty", "f", "default", "B", Config())
    same = replace(job, dataset="Beauty.txt", recipe="sasrec", noise=0.5)
    assert same.run_folder(tmp_path).path == tmp_path / same.training.id, "nothing is there"
    (tmp_path / job.id).mkdir()
    (tmp_path / replace(job, config=Config().replace(seed=1)).id).mkdir()
    assert same.run_folder(tmp_path).path == tmp_path / job.id
    (tmp_path / same.training.id).mkdir()
    assert same.run_folder(tmp_path).path == tmp_path / same.training.id
    (tmp_path / job.id / "metrics.json").write_text("{}")
    assert same.run_folder(tmp_path).path == tmp_path / job.id, "a finished one"


def test_recipes_that_mean_the_same_share_a_run(faked, places, results, tmp_path, monkeypatch, capsys):
    """B of `default` is that of `sasrec`: its training is known by what it is, not by its name."""
    command = ["robustness", *SIMULATED, "--noise", "0.5", "--shares", "0.5", *places]
    main([*command, "--recipes", "default"])
    keep_rows(results, lambda row: not row["noise"])
    whole = next(job for job in faked if job.variant == "B" and job == job.training)
    (tmp_path / "runs" / whole.id / "metrics.json").write_text("{}")
    monkeypatch.setattr(matrix, "estimated_seconds", lambda *_: 3600.0)
    capsys.readouterr()
    main([*command, "--recipes", "sasrec", "--dry-run"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "│ B " in line]
    assert "0.00" in line, "wrong items are ranked by the model that is there"


def test_a_dry_run_lists_what_is_missing(faked, places, results, capsys):
    main(["ablation", *SIMULATED, "--seeds", "2", "--epochs", "9", "--dry-run", *places])
    out = capsys.readouterr().out
    assert "8 runs" in out and "B+ELCM" in out and "are a guess" in out and faked == []
    main(["comparison", *SIMULATED, "--seeds", "1", "--epochs", "9", *places])
    capsys.readouterr()
    main(["ablation", *SIMULATED, "--seeds", "2", "--epochs", "9", "--dry-run", *places])
    out = capsys.readouterr().out
    assert "7 runs" in out and "most alike" in out
    assert len(faked) == 1 and not (results / "ablation.md").exists()


def test_estimates_come_from_the_runs_that_are_most_alike():
    from pipelines.reproduce.matrix import estimated_seconds

    def row(seconds, fingerprint="f", ran=10, **fields):
        config = Config().replace(**{"epochs": 20, "seed": 3, **fields}).to_dict()
        return {"fingerprint": fingerprint, "train_share": 1.0, "config": config, "train_seconds": seconds, "epochs": ran, "users": 100}

    whole = Job("d", "f", "default", "ELCRec", Config().replace(epochs=20))
    fewer = replace(whole, config=whole.config.replace(num_clusters=8))
    other = {"num_layers": 1, "dropout": 0.1}
    assert estimated_seconds(whole, 7200, []) == 20 * 7200 / 3600
    assert estimated_seconds(whole, 50, [row(1000, **other)]) == 1000, "nothing is more alike"
    assert estimated_seconds(whole, 50, [row(1000, epochs=5)]) == 20 * 50, "a second for each user and epoch"
    assert estimated_seconds(whole, 50, [row(1000, **other), row(2000, "g")]) == 2 * 20 * 50
    assert estimated_seconds(whole, 50, [row(2000, "g"), row(30), row(50), row(9, num_clusters=8)]) == 40
    assert estimated_seconds(replace(whole, train_share=0.5), 50, [row(1000)]) == 20 * 50 / 2
    assert estimated_seconds(fewer, 50, [row(30), row(50), *[row(9, num_clusters=8, **other)] * 6]) == 40, (
        "a field from these, two from those"
    )
    assert estimated_seconds(fewer, 50, [row(30), row(500, "g", num_clusters=8)]) == 0.5 * 20 * 50
    assert estimated_seconds(whole, 50, [row(9, num_clusters=8), row(1000, epochs=5)]) == 9, "as many epochs, of two as near"
    assert estimated_seconds(whole, 50, [row(1000, epochs=5), row(9, num_clusters=8)]) == 9
    no_views = {"sequence_weight": 0.0, "intent_weight": 0.0}
    assert estimated_seconds(whole, 50, [row(30, **no_views)]) == 3 * 30, "two views beside the histories"
    plain = replace(whole, config=whole.config.replace(**no_views))
    assert estimated_seconds(plain, 50, [row(3000, epochs=5)]) == 20 * 50
    older = row(30)
    del older["config"]["model"]["local_width"]
    assert estimated_seconds(whole, 50, [older, row(9, num_clusters=8)]) == 30, "a field that a row is too old for is no difference"


def test_a_dry_run_counts_the_training_that_a_ranking_needs(faked, places, results, tmp_path, monkeypatch, capsys):
    """Until it is done or listed, the first line that needs it has its hours."""
    command = ["robustness", *SIMULATED, "--noise", "0.1", "0.5", "--shares", "0.5", *places]
    monkeypatch.setattr(matrix, "estimated_seconds", lambda *_: 3600.0)

    def hours():
        main([*command, "--dry-run"])
        cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in capsys.readouterr().out.splitlines() if "│" in line]
        return [float(line[-1]) > 0 for line in cells if line[2] == "B"]

    assert hours() == [True, False, False, True], "whole, twice wrong items, half of the users"
    main(command)
    noisy = [row for row in Ledger(results).rows if row["noise"] and row["variant"] == "B"]
    whole = next(job for job in faked if job.variant == "B" and job == job.training)
    kept = [line for line in (results / "rows.jsonl").read_text().splitlines(keepends=True) if not any(row["id"] in line for row in noisy)]
    (results / "rows.jsonl").write_text("".join(kept))
    assert hours() == [True, False], "the run folder is gone"
    folder = tmp_path / "runs" / whole.id
    folder.mkdir(exist_ok=True)
    (folder / "metrics.json").write_text("{}")
    assert hours() == [False, False]


def test_rankings_by_a_model_whose_training_failed_are_left_out(places, tmp_path, monkeypatch, capsys):
    command = ["robustness", *SIMULATED, "--noise", "0.1", "0.3", "0.5", "--shares", "0.5", *places]
    tried = []

    def fails(job, *folders):
        tried.append(job)
        raise UserError("training diverged")

    monkeypatch.setattr(process, "train", fails)
    with pytest.raises(UserError, match="10 runs failed"):
        main(command)
    assert [(job.variant, job.noise, job.train_share) for job in tried] == [
        ("B", 0, 1),
        ("B", 0, 0.5),
        ("ELCRec", 0, 1),
        ("ELCRec", 0, 0.5),
    ]
    assert capsys.readouterr().out.count("left out: the training of simulated-simulated-seed0-") == 6
    for job in tried:
        folder = tmp_path / "runs" / job.id
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text("{}")
    tried.clear()
    with pytest.raises(UserError, match="10 runs failed"):
        main(command)
    assert len(tried) == 10, "a ranking that fails, with a model that is there, stops no other"


def test_what_a_user_can_get_wrong(faked, places, beauty, tmp_path):
    with pytest.raises(UserError, match="no recipe of unheard-of is a preset"):
        main(["comparison", *SIMULATED[:2], "--recipes", "unheard-of", *places])
    with pytest.raises(UserError, match="--epochs should be at least 1"):
        main(["comparison", *SIMULATED, "--epochs", "0", *places])
    with pytest.raises(UserError, match="two data sets are called 'simulated'"):
        main(["comparison", *SIMULATED, "--datasets", "simulated", "simulated", *places])
    with pytest.raises(UserError, match="nowhere: holds no run"):
        main(["comparison", *SIMULATED, "--against", str(tmp_path / "nowhere"), *places])
    other = RunFolder(tmp_path / "other")
    other.create(Config(), load_dataset(Config().replace(dataset=str(beauty)).data).catalog, "another")
    with pytest.raises(UserError, match="other: was made on other data than simulated"):
        main(["comparison", *SIMULATED, "--against", str(other.path), *places])
    same = [RunFolder(tmp_path / name) for name in ("a/official", "b/official", "simulated")]
    for folder in same:
        sequences = load_dataset(DataConfig(), SimulatorConfig(sim_users=60, sim_items=40, sim_intents=4, sim_events=8.0))
        folder.create(Config(), sequences.catalog, sequences.fingerprint)
    with pytest.raises(UserError, match="b/official: the table has a 'official' already"):
        main(["comparison", *SIMULATED, "--against", *(str(folder.path) for folder in same[:2]), *places])
    with pytest.raises(UserError, match="--against .*simulated: the table has a 'simulated' already"):
        main(["comparison", *SIMULATED, "--against", str(same[2].path), *places])
    with pytest.raises(UserError, match="--seen 11: simulated sees the latest 10 items at most"):
        main(["newcomers", *SIMULATED, "--max-length", "10", "--seen", "1", "11", *places])
    with pytest.raises(UserError, match="--epochs should be at least 2 for cost"):
        main(["cost", *SIMULATED, "--epochs", "1", *places])
    assert faked == []


@pytest.mark.parametrize(
    "flags",
    [
        ["comparison", "--seeds", "0"],
        ["comparison", "--warm-start", "runs/x"],
        ["robustness", "--noise", "1.5"],
        ["tables"],
        ["cost", "--against", "x"],
        ["cost", "--intent-clustering", "em"],
        *([table, "--sequence-weight", "0.5"] for table in ("ablation", "negatives", "robustness")),
        *([table, "--intent-clustering", "em"] for table in ("ablation", "negatives", "robustness")),
    ],
)
def test_wrong_flags_exit_2(flags, capsys):
    with pytest.raises(SystemExit) as stop:
        make_parser().parse_args(flags)
    assert stop.value.code == 2


def test_help_loads_no_tensorflow_and_names_every_table():
    code = "import sys; from pipelines.reproduce.flags import make_parser; print(make_parser().format_help(), *sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert set(TABLES) <= set(printed.split())
    assert not {"tensorflow", "keras", "numpy"} & set(printed.split())


# ---- real runs


@pytest.fixture
def in_process(monkeypatch):
    """Real runs without a process of their own; a list of the jobs that were started."""
    started = []

    def train(job, runs_dir, output_dir, *how):
        started.append(job)
        training.run(job, runs_dir, Ledger(output_dir), *how)

    monkeypatch.setattr(process, "train", train)
    monkeypatch.setattr(process, "ranks", training.imported_ranks)
    return started


@pytest.mark.slow
def test_a_run_cut_off_in_its_middle_goes_on_and_is_a_run_like_any_other(in_process, places, results, tmp_path, monkeypatch):
    arguments = ["comparison", *SIMULATED, *SMALL, "--epochs", "2", "--seeds", "1", *places]
    save, saved = RunFolder.save_checkpoint, []

    def cut_off(self, model, epoch, best):
        save(self, model, epoch, best)
        saved.append(epoch)
        if saved == [1]:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "save_checkpoint", cut_off)
    with pytest.raises(KeyboardInterrupt):
        main(arguments)
    assert Ledger(results).rows == []
    main(arguments)
    assert saved == [1, 2], "the first epoch was not trained again"
    (row,) = Ledger(results).rows
    folder = RunFolder(tmp_path / "runs" / row["id"])
    history, metrics = folder.read_history(), folder.read_metrics()
    assert [one["epoch"] for one in history] == [1, 2]
    assert row["curve"]["val_NDCG@20"] == pytest.approx([one["val_NDCG@20"] for one in history], abs=1e-6)
    assert row["test"] == metrics["test"] and row["validation"] == metrics["validation"]
    assert row["peak_memory_bytes"] > 0 and row["epochs"] == 2

    job = in_process[0]
    sequences = load_dataset(job.config.data, job.config.simulator)
    # Noise and cut histories are tried on the same run folder, fewer users have one of their own; a run can be compared with itself.
    noisy, cut, long, fewer = replace(job, noise=0.9), replace(job, seen=1), replace(job, seen=10), replace(job, train_share=0.5)
    for one in (noisy, cut, long, fewer):
        training.run(one, tmp_path / "runs", Ledger(results))
    found = {one.id: Ledger(results).find(one) for one in (noisy, cut, long, fewer)}
    assert found[long.id]["test"] == row["test"] != found[cut.id]["test"], "the model sees 10 items at most"
    assert found[noisy.id]["test"] != row["test"] and found[noisy.id]["validation"] == row["validation"]
    assert found[noisy.id]["undisturbed"] == row["test"] and "undisturbed" not in row
    assert found[noisy.id]["peak_memory_bytes"] is None, "nothing was trained"
    assert found[fewer.id]["users"] == 60, "all users are tested"
    assert RunFolder(tmp_path / "runs" / fewer.id).fingerprint() == some_users(sequences, 0.5, seed=0).fingerprint
    main(["comparison", *SIMULATED, *SMALL, "--epochs", "2", "--seeds", "1", "--against", str(folder.path), *places])
    pairs = read(results, "comparison")["datasets"]["simulated"]["pairs"]
    assert pairs[f"simulated - {row['id']}"]["NDCG@20"] == {"difference": 0.0, "p": 1.0}


@pytest.mark.slow
@pytest.mark.parametrize("table", [name for name in TABLES if name != "domains" and (HAS_EM or name != "cost")])
def test_every_table_runs_for_real(table, in_process, places, results):
    chosen = {"sensitivity": ["--clusters", "4", "8", "--alphas", "1"], "cost": ["--user-factors", "1", "2"]}
    chosen |= {
        "robustness": ["--noise", "0.5", "--shares", "0.5"],
        "augmentation": ["--views", *VIEWS],
        "negatives": ["--next-item", "bce"],
    }
    main([table, *SIMULATED, *SMALL, "--epochs", "2", "--seeds", "2", *chosen.get(table, []), *places])
    read(results, table)
    assert "not run" not in (results / f"{table}.md").read_text()


@pytest.mark.slow
def test_a_command_that_is_killed_leaves_no_process_and_goes_on(places, results, tmp_path):
    """kill -9 in the middle of a run; the process that trained ends by itself."""
    arguments = ["comparison", *SIMULATED, *SMALL, "--seeds", "1", "--epochs", "15", "--patience", "15", *places]
    command = [sys.executable, "-m", "pipelines.reproduce", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment) as killed:
        deadline = time.monotonic() + 300
        while not list((tmp_path / "runs").glob("*/checkpoint/epoch-*.keras")) and time.monotonic() < deadline:
            time.sleep(0.1)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert killed.stderr.read().endswith("the command that started this run is gone\n")  # the pipe ends with the last process
    (path,) = (tmp_path / "runs").iterdir()
    begun = len(RunFolder(path).read_history())
    assert 1 <= begun < 15 and Ledger(results).rows == []
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert f"epoch {begun + 1:>3}/15" in done.stderr and "epoch   1/15" not in done.stderr
    (row,) = Ledger(results).rows
    assert row["epochs"] == 15 and row["peak_memory_bytes"] > 0


def test_data_in_shards_has_no_table(tmp_path):
    write_shards(random_sequences(), tmp_path / "shards")
    with pytest.raises(UserError, match="is in shards: a table needs a data set in memory"):
        Subject.load({}, dataset=str(tmp_path / "shards"))
