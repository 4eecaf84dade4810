import json

import pytest

from elcrec_tf.data.simulate import simulate
from elcrec_tf.errors import UserError
from pipelines.abtest import __main__ as command
from pipelines.abtest.policies import oracle, popularity
from pipelines.abtest.world import World
from tests.pipelines.abtest.exports import config, metadata, write_export
from tests.test_cli import RUN_AND_TELL, python

LOSER, WINNER = "models/popularity/1", "models/oracle/1"


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Two exports, for which policies answer that need no TensorFlow: the second one knows the generator."""
    folders = [str(write_export(tmp_path / name, config())) for name in ("a", "b")]
    settings = config().simulator
    world = World(settings, simulate(settings).catalog)
    policies = {folders[0]: (popularity(world, 40), LOSER), folders[1]: (oracle(world, 40), WINNER)}

    def load(options):
        chosen = [policies[folder] for folder in (options.model_a, options.model_b)]
        return [policy for policy, _ in chosen], 40, [name for _, name in chosen]

    monkeypatch.setattr(command, "_load", load)
    return folders


def run(*arguments):
    assert command.main([str(argument) for argument in arguments]) == 0


def result(folder):
    return json.loads((folder / "abtest.json").read_text())


def test_it_prints_and_writes_what_it_found_and_repeats_itself(models, tmp_path, capsys):
    for name, flags in (("first", []), ("second", ["--no-plot"])):
        run(*models, "--users", 1200, "--with-bounds", "--output-dir", tmp_path / name, *flags)
    first = result(tmp_path / "first")
    assert first == result(tmp_path / "second")
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == ["abtest.json", "abtest.md", "abtest.png"]
    assert first["models"] == {"a": LOSER, "b": WINNER} and first["sample_ratio_p"] > 0.001
    overall = {one["metric"]: one for one in first["result"]["overall"]}
    assert list(overall) == ["PVCTR", "UVCTR", "VV", "clicks"]
    assert overall["PVCTR"]["lift"]["low"] > 0 and overall["PVCTR"]["lift"]["p"] < 1e-3
    assert overall["PVCTR"]["a"]["users"] + overall["PVCTR"]["b"]["users"] == 1200
    assert {(one["group"], one["metric"]) for one in first["result"]["groups"]} >= {("new", "VV"), ("high", "UVCTR")}
    # Arm A sees half of the users that its bound sees, by the same draws.
    assert first["result"]["bounds"]["popularity"]["PVCTR"] == pytest.approx(overall["PVCTR"]["a"]["value"], rel=0.15)
    printed = capsys.readouterr().out
    assert "1,200 users" in printed and "as equal chances give them" in printed
    assert "Holm" in printed and "users for +2.0%" in printed and "Between popularity and oracle" in printed


def test_the_same_model_twice_is_an_aa_test(models, tmp_path, capsys):
    run(models[1], models[1], "--users", 1000, "--output-dir", tmp_path / "out", "--no-plot", "--seed", 1, "--detect", "0.05")
    assert "the same: an A/A test" in capsys.readouterr().out
    assert not (tmp_path / "out" / "abtest.png").exists()
    for one in result(tmp_path / "out")["result"]["overall"]:
        assert one["lift"]["p"] > 0.01 and one["lift"]["detect"] == 0.05


def test_nothing_is_written_unless_asked(models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    run(*models, "--users", 100)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_world_with_drift_has_no_oracle(tmp_path):
    folder = str(write_export(tmp_path / "drifting", config(sim_drift=0.3)))
    with pytest.raises(UserError, match="--with-bounds knows no drift.*sim_drift 0.3"):
        run(folder, folder, "--with-bounds")


def test_a_world_whose_law_no_page_can_follow_has_no_oracle(tmp_path):
    folder = str(write_export(tmp_path / "restless", config(sim_switch=1.0, sim_noise=0.0)))
    with pytest.raises(UserError, match="--with-bounds follows the world's law.*leave the flag out"):
        run(folder, folder, "--with-bounds")


@pytest.mark.parametrize("flag", [("--users", "99"), ("--users", "1.5"), ("--k", "0"), ("--detect", "0"), ("--seed", "-1"), ("--k", "x")])
def test_flags_out_of_bounds(flag, capsys):
    with pytest.raises(SystemExit):
        command.make_parser().parse_args(["a", "b", *flag])
    assert f"argument {flag[0]}: should be a" in capsys.readouterr().err


def test_help_loads_no_tensorflow():
    answer = python("-c", RUN_AND_TELL, "pipelines.abtest", "--help")
    assert answer.stdout.startswith("usage: python -m pipelines.abtest MODEL_A MODEL_B")
    assert answer.stdout.endswith("exit 0\nheavy []\n")


def test_a_missing_model_is_one_line(tmp_path):
    answer = python("-c", RUN_AND_TELL, "pipelines.abtest", str(tmp_path / "no"), str(tmp_path / "no"))
    assert answer.stderr.startswith(f"error: {tmp_path / 'no'}: there is no such folder") and answer.stderr.count("\n") == 1
    assert answer.stdout.endswith("exit 1\nheavy []\n")  # before TensorFlow is loaded


@pytest.mark.slow
def test_exported_models_answer_through_their_signature(tmp_path, capsys):
    from elcrec_tf.serving.recommender import Recommender
    from elcrec_tf.serving.saved_model import export_saved_model
    from pipelines.abtest.policies import saved_model
    from tests.serving.conftest import tiny_model

    settings = config()
    catalog = simulate(settings.simulator).catalog
    folder = tmp_path / "tiny"
    export_saved_model(tiny_model(catalog.num_items), catalog, folder, top_k=30, metadata=metadata(settings))

    histories = [[5, 9, 2], [], [7]]
    recommender = Recommender.load(folder)
    answer = saved_model(recommender, 20)(histories)
    expected = [recommender.recommend([catalog.raw(history)], 20)[0] for history in histories]
    assert [catalog.raw(row) for row in answer] == [[one.item_id for one in row] for row in expected]
    assert catalog.counts[answer[1][0] - 1] == catalog.counts.max()  # a new user gets what is popular

    run(folder, folder, "--users", 300, "--output-dir", tmp_path / "out")
    assert result(tmp_path / "out")["models"] == {"a": str(folder / "1"), "b": str(folder / "1")}
    with pytest.raises(UserError, match="k should be from 1 to 30"):
        run(folder, folder, "--k", 31)
