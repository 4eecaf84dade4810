"""`python -m elcrec_tf.report` on small runs made by hand, with ids and titles that want to be markup."""

import html.parser
import json
import shutil
import subprocess

import keras
import numpy as np
import pytest

from elcrec_tf import evaluate, report
from elcrec_tf.data.datasets import load_dataset
from elcrec_tf.errors import UserError
from elcrec_tf.files import write_json
from elcrec_tf.model import build_model
from elcrec_tf.run_folder import RunFolder
from tests.prepared import write_shards
from tests.toy import random_sequences, toy_config

USERS, ITEMS = 24, 15
HOSTILE_USER = "<script>alert('user')</script>"
HOSTILE_TITLE = '"><img src=x onerror=alert(1)> {{ 7 * 7 }} </td></table> & ÄÖ \u2028 end'
HISTORY = [
    {"epoch": epoch, "loss": 4.0 / epoch, "next_item": 3.0 / epoch, "seconds": 1.5, "val_NDCG@20": 0.1 * epoch, "val_HR@20": 0.2 * epoch}
    for epoch in (1, 2, 3)
]


def make_run(folder, data, titles=None, seed=1, snapshots=()):
    config = toy_config(dataset=str(data), k_core=1, item_metadata=titles and str(titles), seed=seed)
    sequences = load_dataset(config.data)
    keras.utils.set_random_seed(seed)
    run = RunFolder(folder)
    run.create(config, sequences.catalog, sequences.fingerprint)
    run.save_model(build_model(config, sequences.catalog.num_items))
    run.write_history(HISTORY)
    rng = np.random.default_rng(seed)
    for epoch in snapshots:
        run.snapshots.mkdir(exist_ok=True)
        arrays = {"pooled": rng.normal(size=(USERS, 8)), "intents": rng.integers(0, 4, USERS)}
        np.savez_compressed(run.snapshots / f"epoch-{epoch:05d}.npz", **arrays)
    assert evaluate.main([str(folder)]) == 0
    return run


def write_log(path):
    rng = np.random.default_rng(0)
    lines = []
    for user in range(USERS):
        items = rng.permutation(ITEMS)[: rng.integers(4, 12)]
        lines.append(" ".join([HOSTILE_USER.replace(" ", "") if user == 0 else f"u{user}", *(f"<b>{item}" for item in items)]))
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs on the same data; the first has titles and snapshots, and a name that is markup."""
    folder = tmp_path_factory.mktemp("report")
    data, titles = folder / "shop.txt", folder / "titles.jsonl"
    write_log(data)
    titles.write_text("".join(json.dumps({"id": f"<b>{item}", "title": HOSTILE_TITLE}) + "\n" for item in range(ITEMS)))
    return make_run(folder / "<i>first", data, titles, snapshots=(0, 3)), make_run(folder / "second", data, seed=2)


@pytest.fixture(scope="module")
def page(runs):
    assert report.main([str(runs[0].path)]) == 0
    return (runs[0].path / "report.html").read_text(encoding="utf-8")


class Page(html.parser.HTMLParser):
    """The elements of a page, its text, and the metrics that say where they come from."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text, self.metrics = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "data":
            self.metrics.append([dict(attrs)["data-of"], float(dict(attrs)["value"]), ""])

    def handle_data(self, data):
        self.text.append(data)
        if self.tags[-1:] == ["data"] and not self.metrics[-1][2]:
            self.metrics[-1][2] = data


def expected_metrics(run, number=1):
    metrics = run.read_metrics()
    for split, values in (("test", metrics["test"]), ("validation", metrics["validation"])):
        yield from ((f"run-{number}/{split}/{name}", value) for name, value in values.items())
    for baseline, values in metrics["baselines"].items():
        yield from ((f"run-{number}/baselines/{baseline}/{name}", value) for name, value in values.items())


def test_the_numbers_are_those_of_metrics_json(runs, page):
    assert len(runs[0].read_metrics()["baselines"]) == 2
    shown = Page(page).metrics
    assert {of: value for of, value, _ in shown} == dict(expected_metrics(runs[0]))
    assert all(text == f"{value:.4f}" for _, value, text in shown)


def test_the_file_stands_alone(page):
    parsed = Page(page)
    assert not {"script", "link", "iframe", "object", "embed", "img", "form"} & set(parsed.tags)
    for name, value in parsed.attributes:
        assert not name.startswith("on")
        if name in ("href", "src", "xlink:href", "data", "action"):
            assert value.startswith(("#", "data:image/png;base64,"))
    assert "http" not in page.replace("http-equiv", "")
    assert "@import" not in page
    assert len(page.encode()) < 10_000_000


def test_ids_and_titles_are_shown_as_they_are(page):
    parsed = Page(page)
    text = "".join(parsed.text)
    assert HOSTILE_TITLE in text
    assert "<b>7" in text
    assert "<i>first" in text
    assert not {"b", "script"} & set(parsed.tags)
    assert "49" not in [piece.strip() for piece in parsed.text]


def test_links_lead_to_sections_and_ids_are_unique(page):
    parsed = Page(page)
    ids = [value for name, value in parsed.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    targets = {value[1:] for name, value in parsed.attributes if name in ("href", "xlink:href") and value.startswith("#")}
    assert targets <= set(ids)
    assert {f"run-1-{section}" for section in ("summary", "training", "groups", "catalogue", "intents", "examples")} <= targets


def test_pictures_are_described(page):
    described = [value for name, value in Page(page).attributes if name == "aria-label"]
    for words in ("Loss over epoch", "Sizes of 4 intents", "Cosine between the centres of 4 intents", "before training", "after epoch 3"):
        assert any(words in text for text in described)
    assert page.count("<svg") == page.count('role="img"')


def test_the_same_run_gives_the_same_page(runs, page, tmp_path):
    output = tmp_path / "again.HTML"
    assert report.main([str(runs[0].path), "--output", str(output)]) == 0
    assert output.read_text(encoding="utf-8") == page


def test_several_runs_stand_side_by_side(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert report.main([str(run.path) for run in runs]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("written to report.html (0.")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    shown = {of: value for of, value, _ in Page(text).metrics}
    for number, run in enumerate(runs, start=1):
        side_by_side = {f"compared/{number}/test/{name}": value for name, value in run.read_metrics()["test"].items()}
        for of, value in (dict(expected_metrics(run, number)) | side_by_side).items():
            assert shown[of] == value
    assert "train.seed" in text
    assert text.index('id="compared"') < text.index('id="run-1"') < text.index('id="run-2"')
    ids = [value for name, value in Page(text).attributes if name == "id"]
    assert len(set(ids)) == len(ids)


@pytest.fixture
def broken(runs, tmp_path):
    """A copy of the second run with data of its own, to be damaged."""
    data = tmp_path / "own.txt"
    config = runs[1].config()
    shutil.copy(config.data.dataset, data)
    run = RunFolder(shutil.copytree(runs[1].path, tmp_path / "run"))
    run.write_config(config.replace(dataset=str(data)))
    return run, data


def assert_refused(run, match, *flags):
    with pytest.raises(UserError, match=match) as error:
        report.main([str(run.path), *flags])
    assert "\n" not in str(error.value)
    assert not list(run.path.glob("*.html"))


def test_a_run_without_its_data_is_refused(broken):
    run, data = broken
    data.unlink()
    assert_refused(run, rf"{run.path}: the report needs the data set that the run was made with: {data}: ")


def test_titles_come_from_the_run_itself(tmp_path):
    """Their file has moved since."""
    data, titles = tmp_path / "shop.txt", tmp_path / "titles.csv"
    write_log(data)
    titles.write_text("id,title\n" + "".join(f"<b>{item},Title {item}\n" for item in range(ITEMS)))
    run = make_run(tmp_path / "run", data, titles)
    titles.rename(tmp_path / "moved.csv")
    assert evaluate.main([str(run.path)]) == 0 and report.main([str(run.path)]) == 0
    assert "Title 7" in (run.path / "report.html").read_text(encoding="utf-8")


def test_data_that_has_changed_is_refused(broken):
    run, data = broken
    data.write_text(data.read_text() + "another <b>1 <b>2 <b>3\n")
    assert_refused(run, rf"the data of {data} has changed since the run was made")


def test_a_run_without_results_is_refused(broken):
    run, _ = broken
    run.metrics_file.unlink()
    assert_refused(run, r"metrics.json: has no dataset, .*test.*finish the run with --resume, or evaluate it: .*elcrec_tf.evaluate")


def test_results_of_another_model_are_refused(broken):
    run, _ = broken
    metrics = run.read_metrics()
    metrics["test"]["HR@10"] += 0.1
    write_json(run.metrics_file, metrics)
    assert_refused(run, r"metrics.json: test HR@10 is .*, the model's is .*evaluate again")


def test_results_of_a_run_that_was_trained_on_since_are_refused(broken):
    """A resumed run that was stopped: its model may be a better one by less than the report would notice."""
    run, _ = broken
    rows = run.read_history()
    run.write_history([*rows, {**rows[-1], "epoch": len(rows) + 1}])
    assert_refused(run, rf"tells of {len(rows)} epochs, history.csv of {len(rows) + 1}; finish the run .*elcrec_tf.evaluate")


def test_a_broken_snapshot_is_refused(broken):
    run, _ = broken
    run.snapshots.mkdir()
    (run.snapshots / "epoch-00001.npz").write_bytes(b"PK\x03\x04 not a snapshot")
    assert_refused(run, r"epoch-00001.npz: is no snapshot that elcrec_tf wrote")


def test_a_run_without_history_has_a_report(broken):
    """As import_official leaves it."""
    run, _ = broken
    run.history_file.unlink()
    assert evaluate.main([str(run.path)]) == 0
    assert report.main([str(run.path)]) == 0
    assert "This run has no history of its training" in (run.path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (["no-such-run"], "no-such-run: holds no run"),
        (["run", "--output", "model.keras"], "--output should name an .html file"),
        (["run", "--output", "folder.html"], "folder.html: is a folder"),
    ],
)
def test_wrong_places_are_refused_at_once(flags, match, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(UserError, match=match):
        report.main(flags)


def test_what_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "_NEEDED", ("json", "no_such_package"))
    with pytest.raises(UserError, match=r"the report needs no_such_package: pip install '\.\[report\]'"):
        report.main([str(tmp_path)])


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# A frame as wide as a phone, and a script of this page's own: the report allows none.
FRAME = """<!doctype html><iframe src="{source}" style="width:{width}px;height:800px;border:0"></iframe><script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument;
  document.title = page.documentElement.scrollWidth + " " + page.querySelectorAll("svg").length;
}};
</script>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("count", [1, 2])
def test_nothing_overflows_in_a_browser(runs, tmp_path, width, count):
    output = tmp_path / "report.html"
    assert report.main([*(str(run.path) for run in runs[:count]), "--output", str(output)]) == 0
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.format(source=output.name, width=width))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--allow-file-access-from-files"]
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    command = [CHROMIUM, *flags, profile, "--window-size=1400,900", "--virtual-time-budget=5000", "--dump-dom", frame.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    seen, pictures = map(int, dom.split("<title>")[1].split("</title>")[0].split())
    assert pictures > 5
    assert seen == width


def test_a_run_on_shards_has_no_report(tmp_path):
    write_shards(random_sequences(), tmp_path / "shards")
    run = make_run(tmp_path / "run", tmp_path / "shards")
    with pytest.raises(UserError, match="'shards' is in shards: the report needs a data set in memory"):
        report.main([str(run.path)])
