"""`python -m elcrec_tf.export` and `python -m elcrec_tf.recommend`."""

import csv
import json
import shlex
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from elcrec_tf import cli, export, recommend
from elcrec_tf.config import Config
from elcrec_tf.data.catalog import Catalog
from elcrec_tf.errors import UserError
from elcrec_tf.files import write_json
from elcrec_tf.model import build_model
from elcrec_tf.run_folder import RunFolder
from elcrec_tf.serving import saved_model
from elcrec_tf.serving.layout import METADATA, read_metadata, version_folder
from tests.serving.fake_server import FakeServer

CONFIG = Config().replace(hidden_size=8, num_layers=1, num_clusters=4, max_length=5, dataset="logs/My Shop.csv", user_column="who")
IDS = [f"i{number}" for number in range(1, 9)]


def make_run(path, metrics=None):
    keras.utils.set_random_seed(1)
    folder = RunFolder(path)
    folder.create(CONFIG, Catalog(IDS, np.array([1, 9, 2, 8, 3, 7, 4, 6]), {"i1": "First", "i2": "Sec\nond", "i3": "三"}))
    folder.save_model(build_model(CONFIG, len(IDS)))
    if metrics is not None:
        write_json(folder.metrics_file, metrics)
    return folder


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    metrics = {"dataset": "shop", "fingerprint": "abc", "test": {"HR@10": 0.25}, "seed": 0}
    return make_run(tmp_path_factory.mktemp("runs") / "run", metrics).path


@pytest.fixture(scope="module")
def model_dir(run_dir, tmp_path_factory):
    directory = tmp_path_factory.mktemp("models") / "my model"
    assert export.main([str(run_dir), "--export-dir", str(directory), "--top-k", "6"]) == 0
    return directory


@pytest.fixture(scope="module")
def server(model_dir):
    """Answers over gRPC with what the export's signatures answer in this process."""
    loaded = tf.saved_model.load(str(version_folder(model_dir)))

    def predict(signature, inputs):
        outputs = loaded.signatures[signature](**{name: tf.constant(values) for name, values in inputs.items()})
        return {name: values.numpy() for name, values in outputs.items()}

    with FakeServer(predict, top_k=6) as server:
        yield server


def in_a_process(module, *arguments):
    command = [sys.executable, "-m", f"elcrec_tf.{module}", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def ask(capsys, *arguments):
    assert recommend.main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr()


def test_metrics_of_an_older_model_are_not_exported(tmp_path):
    run = make_run(tmp_path / "run", {"dataset": "shop", "epochs": 1, "test": {"HR@10": 0.25}})
    run.write_history([{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0}])  # resumed, and stopped before it was evaluated
    assert export.main([str(run.path), "--export-dir", str(tmp_path / "model")]) == 0
    assert json.loads((version_folder(tmp_path / "model") / METADATA).read_text())["test_metrics"] is None


def test_export_says_where_it_went_and_how_to_ask(run_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert export.main([str(run_dir)]) == 0
    went, how = capsys.readouterr().out.splitlines()
    assert went == f"exported {run_dir} to saved_models/shop/1"
    assert how == f"ask it with: {cli.command('recommend')} saved_models/shop --history i2 i4"
    metadata = json.loads((tmp_path / "saved_models/shop/1" / METADATA).read_text())
    assert metadata["dataset"] == {"name": "shop", "fingerprint": "abc"}
    assert metadata["test_metrics"] == {"HR@10": 0.25}
    assert Config.from_dict(metadata["config"]) == CONFIG
    assert metadata["top_k"] == len(IDS)
    answer = ask(capsys, *shlex.split(how.split("elcrec_tf.recommend ")[1]))
    assert answer.out.startswith("rank")


def test_ids_that_begin_with_a_dash_can_be_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run, odd = make_run(tmp_path / "run"), ["-abc", "--k", "i1", "- 'x", "-5", "i2", "i3", "=4"]
    Catalog(odd, np.arange(8)[::-1]).save(run.path / "catalog.parquet")
    example = odd[:5]
    saved_model.export_run(run, tmp_path / "my shop", cli.console(), example=example)
    how = capsys.readouterr().out.splitlines()[-1]
    arguments = shlex.split(how.split("elcrec_tf.recommend ")[1])
    answer = json.loads(ask(capsys, *arguments, "--json").out)
    assert (answer["history"], answer["unknown"]) == (example, [])


def test_a_history_may_come_in_pieces(model_dir, capsys):
    whole = ask(capsys, model_dir, "--history", "i4", "i5", "i6").out
    assert ask(capsys, model_dir, "--history", "i4", "i5", "--history=i6").out == whole
    assert ask(capsys, "--history=i4", "--history", "i5", "i6", "--k=6", model_dir).out == whole


def test_a_run_without_metrics_exports_under_its_files_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "run")
    assert export.main(["run"]) == 0
    assert "to saved_models/my-shop/1" in capsys.readouterr().out


def test_the_answer_is_a_table(model_dir, capsys):
    answer = ask(capsys, model_dir, "--history", "i4", "i5", "--k", "6")
    header, *rows = answer.out.splitlines()
    assert header.split() == ["rank", "item", "title", "score"]
    assert [row.split()[0] for row in rows] == list("123456")
    assert {row.split()[1] for row in rows} == set(IDS) - {"i4", "i5"}
    assert '"Sec\\nond"' in answer.out
    assert answer.err == ""


def test_without_titles_the_table_has_no_column_for_them(model_dir, capsys):
    answer = ask(capsys, model_dir, "--history", "i1", "i2", "i3")
    assert answer.out.splitlines()[0].split() == ["rank", "item", "score"]
    assert len(answer.out.splitlines()) == 1 + 5


def test_unknown_ids_and_the_fallback_are_said(model_dir, capsys):
    answer = ask(capsys, model_dir, "--history", "i1", "x y ", "--k", "1")
    assert answer.err == 'note: the model does not know "x y "; ignored\n'
    answer = ask(capsys, model_dir, "--history", "nobody", "--k", "2")
    assert "nobody" in answer.err and "most popular" in answer.err
    assert [line.split()[1] for line in answer.out.splitlines()[1:]] == ["i2", "i4"]


def test_a_history_with_everything_leaves_nothing(model_dir, capsys):
    assert "nothing is left" in ask(capsys, model_dir, "--history", *IDS).out
    assert len(ask(capsys, model_dir, "--history", *IDS, "--include-history").out.splitlines()) == 1 + 6


def test_json_holds_the_same(model_dir, capsys):
    answer = json.loads(ask(capsys, model_dir, "--history", "i4", "new", "--k", "3", "--json").out)
    assert answer["history"] == ["i4", "new"]
    assert answer["unknown"] == ["new"]
    assert answer["fallback"] is False
    assert 0 <= answer["intent"] < 4
    assert [row["rank"] for row in answer["recommendations"]] == [1, 2, 3]
    for row in answer["recommendations"]:
        assert row["title"] == {"i1": "First", "i2": "Sec\nond", "i3": "三"}.get(row["item"])
    table = ask(capsys, model_dir, "--history", "i4", "--k", "3").out
    assert [row["item"] for row in answer["recommendations"]] == [line.split()[1] for line in table.splitlines()[1:]]


def test_a_file_in_gives_a_file_out(model_dir, tmp_path, capsys):
    (tmp_path / "log.csv").write_text("who,item,timestamp\na,i1,2\nb,i3,1\na,i2,1\nc,what,1\n")
    answer = ask(capsys, model_dir, "--input", tmp_path / "log.csv", "--output", tmp_path / "o.csv", "--k", "2")
    assert answer.out == f"{tmp_path / 'o.csv'}: 6 recommendations for 3 users\n"
    assert "1 of 4 events are of items that the model does not know" in answer.err
    assert "1 of 3 users have no item that the model knows" in answer.err
    with (tmp_path / "o.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["user"], row["rank"]) for row in rows] == [(user, rank) for user in "abc" for rank in "12"]
    one = json.loads(ask(capsys, model_dir, "--history", "i2", "i1", "--k", "2", "--json").out)["recommendations"]
    assert [row["item"] for row in rows[:2]] == [row["item"] for row in one]
    assert float(rows[0]["score"]) == pytest.approx(one[0]["score"], rel=1e-5)


@pytest.mark.parametrize(
    "question", [["i4", "i5"], ["i1", "x y "], ["nobody"], IDS, [*IDS, "--include-history"], ["i4", "--k", "2"]], ids=" ".join
)
def test_a_server_answers_as_the_folder_does(model_dir, server, capsys, question):
    folder = ask(capsys, model_dir, "--json", "--history", *question)
    remote = ask(capsys, "--server", server.address, "--model", "shop", "--json", "--history", *question)
    answer, expected = json.loads(remote.out), json.loads(folder.out)
    for row, other in zip(answer["recommendations"], expected["recommendations"], strict=True):
        assert row == {**other, "title": None, "score": pytest.approx(other["score"], rel=1e-5)}
    del answer["recommendations"], expected["recommendations"]
    assert answer == expected
    folder, remote = (
        ask(capsys, *model, "--history", *question) for model in ([model_dir], ["--server", server.address, "--model", "shop"])
    )
    assert remote.err == folder.err
    assert len(remote.out.splitlines()) == len(folder.out.splitlines())


def test_a_file_goes_through_a_server(model_dir, server, tmp_path, capsys):
    (tmp_path / "log.csv").write_text("who,item,timestamp\na,i1,2\nb,i3,1\na,i2,1\nc,what,1\n")
    files = ["--input", tmp_path / "log.csv", "--output", tmp_path / "o.jsonl", "--k", "2"]
    folder = ask(capsys, model_dir, *files)
    rows = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    remote = ask(capsys, "--server", server.address, "--model", "shop", "--user-column", "who", *files)
    assert (remote.out, remote.err) == (folder.out, folder.err)
    for line, row in zip((tmp_path / "o.jsonl").read_text().splitlines(), rows, strict=True):
        del row["title"]
        assert json.loads(line) == {**row, "score": pytest.approx(row["score"], rel=1e-5)}


def test_the_input_is_filtered_as_the_training_data_was(model_dir, tmp_path, capsys):
    """The export stands for one of a run with a filter: its metadata says how the log was read."""
    filtered = tmp_path / "filtered"
    shutil.copytree(version_folder(model_dir), filtered)
    metadata = read_metadata(filtered)
    metadata["config"]["data"] |= {"filter_column": "event", "keep_values": ["buy"]}
    write_json(filtered / METADATA, metadata)
    (tmp_path / "log.csv").write_text("who,item,timestamp,event\na,i1,1,buy\na,i2,2,view\nb,i3,1,view\n")
    files = ["--input", tmp_path / "log.csv", "--output", tmp_path / "o.jsonl", "--k", "6"]
    answer = ask(capsys, filtered, *files)
    assert answer.out.endswith("6 recommendations for 1 users\n")
    assert answer.err == "note: 2 rows of the input: filtered out by event\n"
    rows = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert all(list(row) == ["user", "rank", "item", "title", "score"] for row in rows)
    one = json.loads(ask(capsys, filtered, "--history", "i1", "--json").out)["recommendations"]
    assert [(row["item"], row["title"]) for row in rows] == [(row["item"], row["title"]) for row in one]
    assert ask(capsys, filtered, *files, "--keep-values", "buy", "view").out.endswith("12 recommendations for 2 users\n")
    assert ask(capsys, filtered, *files, "--filter-column", "").err == ""


def test_help_says_that_columns_default_to_the_trained_ones(capsys):
    with pytest.raises(SystemExit, match="0"):
        recommend.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert text.count("(default: as in training") == 8
    assert "(default: auto)" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--history", "i1", "--k", "7"], "k should be from 1 to 6.*--top-k"),
        (["--input", "none.csv", "--output", "o.csv"], "none.csv: there is no such file"),
        (["--input", "none.csv", "--output", "o.xlsx"], "o.xlsx: unknown format"),
    ],
)
def test_errors_of_a_question(model_dir, arguments, message):
    with pytest.raises(UserError, match=message):
        recommend.main([str(model_dir), *arguments])


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--history"],
        ["--history", "i1", "--k", "0"],
        ["--history", "i1", "--k", "many"],
        ["--history", "i1", "--output", "o.csv"],
        ["--history", "i1", "--user-column", "who"],
        ["--history", "i1", "--min-value", "4"],
        ["--history", "i1", "--input", "i.csv", "--output", "o.csv"],
        ["--input", "i.csv"],
        ["--input", "i.csv", "--output", "o.csv", "--json"],
    ],
    ids=" ".join,
)
def test_wrong_flags_of_recommend(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        recommend.main(["model", *arguments])
    assert stop.value.code == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--history", "i1"],
        ["model", "--history", "i1", "--server", "localhost:1", "--model", "shop"],
        ["--history", "i1", "--server", "localhost:1"],
        ["model", "--history", "i1", "--model", "shop"],
        ["model", "--history", "i1", "--timeout", "3"],
        ["model", "--history", "i1", "--token-file", "token"],
        ["--history", "i1", "--server", "localhost:1", "--model", "shop", "--timeout", "0"],
    ],
    ids=" ".join,
)
def test_a_folder_or_a_server_answers(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        recommend.main(arguments)
    assert stop.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_errors_of_an_export(run_dir, tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        export.main([str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        export.main([str(run_dir), "--top-k", "0"])
    for flag in ("--index-recall", "--index-lists", "--index-probes", "--index-users"):
        with pytest.raises(SystemExit, match="2"):
            export.main([str(run_dir), flag, "1", "--export-dir", str(tmp_path / "m")])
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        export.main([str(run_dir), "--export-dir", str(tmp_path / "file")])
    unfinished = RunFolder(tmp_path / "unfinished")
    unfinished.create(CONFIG, Catalog(IDS))
    with pytest.raises(UserError, match="no model.keras"):
        export.main([str(unfinished.path)])
    other = make_run(tmp_path / "other")
    Catalog(["a", "b"]).save(other.path / "catalog.parquet")
    with pytest.raises(UserError, match="2 items, the model 8"):
        export.main([str(other.path), "--export-dir", str(tmp_path / "m")])
    for content, message in (("{", "metrics.json: is not valid JSON"), ("[]", "metrics.json: was not written by elcrec_tf")):
        other.metrics_file.write_text(content)
        with pytest.raises(UserError, match=f"{message}.*remove it"):
            export.main([str(other.path), "--export-dir", str(tmp_path / "m")])


def test_the_command_answers_on_standard_output_alone(model_dir):
    answer = in_a_process("recommend", model_dir, "--history", "i1", "i2", "--json")
    assert answer.returncode == 0
    assert answer.stderr == ""
    assert len(json.loads(answer.stdout)["recommendations"]) == 6


def test_the_command_fails_with_one_line(tmp_path):
    answer = in_a_process("recommend", tmp_path / "nowhere", "--history", "i1")
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr.startswith(f"error: {tmp_path / 'nowhere'}: there is no such folder")
    assert len(answer.stderr.splitlines()) == 1


def in_a_process_without_tensorflow(*arguments):
    code = (
        "import sys, runpy\n"
        "for name in ('tensorflow', 'keras'): sys.modules[name] = None\n"
        f"sys.argv = {['recommend', *arguments]!r}\n"
        "runpy.run_module('elcrec_tf.recommend', run_name='__main__')"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_asking_a_server_needs_no_tensorflow(tmp_path):
    (tmp_path / "log.csv").write_text("user,item,timestamp\na,i1,1\n")
    with FakeServer() as server:
        model = ["--server", server.address, "--model", "toy"]
        answer = in_a_process_without_tensorflow(*model, "--history", "i0", "--k", "1")
        file = in_a_process_without_tensorflow(*model, "--input", str(tmp_path / "log.csv"), "--output", str(tmp_path / "o.csv"))
    assert (answer.returncode, answer.stderr) == (0, "")
    assert [line.split() for line in answer.stdout.splitlines()] == [["rank", "item", "score"], ["1", "i1", "-1.0000"]]
    assert (file.returncode, file.stderr) == (0, "")
    assert file.stdout.endswith("3 recommendations for 1 users\n")


def test_a_server_that_is_not_there_is_one_line():
    answer = in_a_process("recommend", "--server", "127.0.0.1:1", "--model", "shop", "--timeout", "0.3", "--history", "i1")
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr.startswith("error: 127.0.0.1:1: UNAVAILABLE (")
    assert len(answer.stderr.splitlines()) == 1


@pytest.mark.parametrize("module", ["export", "recommend"])
def test_help_loads_no_tensorflow(module):
    code = (
        "import sys, runpy\n"
        "for name in ('tensorflow', 'keras'): sys.modules[name] = None\n"
        f"sys.argv = ['{module}', '--help']\n"
        f"runpy.run_module('elcrec_tf.{module}', run_name='__main__')"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert "usage: python -m elcrec_tf." in answer.stdout


def test_the_recommender_loads_no_keras(model_dir):
    code = (
        "import sys\n"
        "for name in ('keras', 'tf_keras'): sys.modules[name] = None\n"
        "from elcrec_tf import Recommender\n"
        f"print(Recommender.load({str(model_dir)!r}).recommend([['i1']], k=1)[0][0].item_id)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip() in IDS
