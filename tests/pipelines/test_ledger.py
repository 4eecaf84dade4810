import json
import subprocess
import sys

import numpy as np
import pytest

from elcrec_tf.config import Config, resolve
from elcrec_tf.errors import UserError
from pipelines.lock import locked
from pipelines.reproduce import job as jobs
from pipelines.reproduce.job import Job, differences, settings, versions
from pipelines.reproduce.ledger import Ledger


def job_of(fingerprint="f", train_share=1.0, noise=0.0, seen=0, **fields):
    return Job("toy", fingerprint, "default", "ELCRec", Config().replace(**fields), train_share, noise, seen)


def row_of(job, **more):
    about = {"id": job.id, "fingerprint": job.fingerprint, "config": settings(job.config), "versions": versions(), "users": 3}
    return {**about, "train_share": job.train_share, "noise": job.noise, **more}


def add(ledger, job, **more):
    ledger.add(row_of(job, **more), np.array([4, 0, 70_000 if more.get("far") else 7]))


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "results")


# ---- identity


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"dropout": 0.4},
        {"epochs": 19},
        {"fingerprint": "g"},
        {"train_share": 0.5},
        {"noise": 0.1},
        {"seen": 1},
        {"augmentations": ("crop",)},
    ],
)
def test_what_changes_a_result_changes_the_identity(other):
    assert job_of(**other).key != job_of().key
    assert job_of(**other).id != job_of().id


@pytest.mark.parametrize(
    "other",
    [{"dataset": "elsewhere.txt"}, {"data_dir": "x"}, {"recovery": False}, {"snapshot_epochs": (1, 2)}, {"sim_users": 7}],
)
def test_what_changes_no_result_changes_nothing(other):
    """The fingerprint stands for the data, wherever it is."""
    assert job_of(**other).key == job_of().key
    assert job_of(**other).id == job_of().id


def test_a_job_survives_json():
    job = Job("toy", "f", "paper", "B", resolve("paper-beauty", flags={"seed": 2}), 0.5, 0.1)
    again = Job.from_dict(json.loads(json.dumps(job.to_dict())))
    assert again == job and again.key == job.key


def test_what_is_done_to_test_histories_shares_the_run_folder_of_its_training():
    assert job_of(noise=0.2).training.id == job_of(seen=1).training.id == job_of().id
    assert job_of(noise=0.2, train_share=0.5).training.id == job_of(train_share=0.5).id


def test_a_row_tells_how_its_configuration_differs_from_the_preset_and_holds_no_path():
    config = resolve("paper-beauty", flags={"dataset": "/home/me/Beauty.txt", "num_clusters": 8, "seed": 4})
    assert differences(config) == {"num_clusters": 8}
    assert "Beauty.txt" not in json.dumps(settings(config))


# ---- rows


def test_a_row_is_found_again_with_its_ranks(ledger):
    assert ledger.find(job_of()) is None
    add(ledger, job_of())
    add(ledger, job_of(seed=1), far=True)
    again = Ledger(ledger.folder)
    for job, ranks in ((job_of(), [4, 0, 7]), (job_of(seed=1), [4, 0, 70_000])):
        row = again.find(job)
        assert row["id"] == job.id
        assert again.ranks(row).tolist() == ranks
    assert again.find(job_of(seed=2)) is None
    assert [again.ranks(row).dtype for row in again.rows] == [np.uint16, np.uint32]
    assert sorted(path.name for path in ledger.folder.iterdir()) == ["ranks", "rows.jsonl"]


def test_ranks_of_many_users_stay_small(ledger):
    ranks = np.random.default_rng(0).integers(0, 18_000, 35_598)
    ledger.add(row_of(job_of(), users=len(ranks)), ranks)
    assert (ledger.folder / "ranks" / f"{job_of().id}.npz").stat().st_size < 100_000


def test_rows_of_other_software_are_not_found(ledger, monkeypatch):
    for name, version in (("elcrec_tf", "0.0.9"), ("tensorflow", "2.20.0"), ("keras", "3.14.1")):
        add(ledger, job_of(), versions={**versions(), name: version})
        assert ledger.find(job_of()) is None, name
    add(ledger, job_of(), versions={**versions(), "python": "3.9.1", "keras": f"{versions()['keras'].rpartition('.')[0]}.99"})
    assert ledger.find(job_of()) is not None
    old = {**versions(), "tensorflow": "2.20.0"}
    own = job_of().id
    monkeypatch.setattr(jobs, "versions", lambda: old)
    assert job_of().id != own, "it would go on in the run folder of the other software"


def test_a_field_that_is_newer_than_a_row_has_its_default_there(ledger):
    row = row_of(job_of())
    del row["config"]["augment"]["reorder_ratio"]
    row["config"]["schedule"] = {}
    ledger.add(row, np.zeros(3, int))
    assert ledger.find(job_of()) is not None
    assert ledger.find(job_of(reorder_ratio=0.5)) is None


def test_a_field_that_is_there_no_more_makes_a_row_another_run(ledger):
    row = row_of(job_of())
    row["config"]["model"]["gone"] = 1
    ledger.add(row, np.zeros(3, int))
    assert ledger.find(job_of()) is None
    assert len(ledger.rows) == 1, "and stays in the file"


@pytest.mark.parametrize("broken", [b"{", b"[]", b'{"id": "x"}', b"<<<<<<< HEAD", b'{"id": "\xff"}'])
def test_a_broken_line_is_named(ledger, broken):
    add(ledger, job_of())
    with ledger.rows_file.open("ab") as file:
        file.write(broken + b"\n")
    with pytest.raises(UserError, match=r"rows.jsonl, line 2: is no row of a run"):
        Ledger(ledger.folder)


def test_ranks_that_are_missing_or_of_another_run_are_errors(ledger):
    add(ledger, job_of())
    row = ledger.find(job_of())
    path = ledger.folder / "ranks" / f"{row['id']}.npz"
    np.savez_compressed(path, test=np.zeros(2, np.uint16))
    with pytest.raises(UserError, match="holds 2 users, its row 3"):
        ledger.ranks(row)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[whole.index(b"test.npy") + 40] ^= 0xFF  # among the compressed values
    for broken in (b"PK no archive", b"", whole[: len(whole) // 2], bytes(flipped)):
        path.write_bytes(broken)
        with pytest.raises(UserError, match="cannot be read .* or remove the line toy-default-seed0-"):
            ledger.ranks(row)
    path.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        ledger.ranks(row)


def test_a_last_line_without_its_end_stays_a_line_of_its_own(ledger):
    """Some editors leave it so."""
    add(ledger, job_of())
    ledger.rows_file.write_text(ledger.rows_file.read_text().rstrip("\n"))
    add(ledger, job_of(seed=1))
    assert ledger.find(job_of()) and ledger.find(job_of(seed=1))


def test_two_processes_lose_no_row(ledger):
    """Each has read the file before the other has added to it."""
    other = Ledger(ledger.folder)
    add(ledger, job_of())
    add(other, job_of(seed=1))
    ledger.reload()
    assert [ledger.find(job_of(seed=seed)) is not None for seed in (0, 1)] == [True, True]


def test_a_folder_is_held_until_its_process_ends(tmp_path):
    code = "import sys; from pathlib import Path; from pipelines.lock import locked\n"
    code += f"with locked(Path({str(tmp_path)!r}), wait=False):\n    print('held', flush=True)\n    sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another process is at work there"), locked(tmp_path, wait=False):
            pass
        holder.kill()
        holder.wait()
        with locked(tmp_path, wait=False):
            pass
