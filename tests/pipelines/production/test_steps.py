"""Steps and their state, with steps that do next to nothing."""

import json

import pytest

from elcrec_tf.errors import UserError
from pipelines.production.runs import Run, WorkFolder, fingerprints, same_files
from pipelines.production.steps import Step, do_steps, plan

NAMES = ("prepare", "check", "train", "publish")


class Cut(BaseException):
    """Stands for a kill: nothing in the pipeline catches it."""


class World:
    """Counts how often each step was done to its end, and cuts one off once, before its work or after it."""

    def __init__(self, folder):
        self.work = WorkFolder(folder)
        self.done = []
        self.cut = None
        self.settings = dict.fromkeys(NAMES, 0)
        self.failing = ()
        self.always = ()
        run = self.work.new([{"path": "log"}], folder / "model")
        run.path.mkdir(parents=True)
        run.save()

    def steps(self, run):
        def step(name, *needs):
            settings, outputs = {"value": self.settings[name]}, (run.path / name,)
            return Step(name, lambda results: self.do(name, results), needs, settings, outputs, name in self.always)

        return [step("prepare"), step("check", "prepare"), step("train", "prepare"), step("publish", "train", "check")]

    def do(self, name, results):
        if self.cut == (name, "before"):
            self.cut = None
            raise Cut
        (self.work.path / "run-0001" / name).write_text(str(self.settings[name]))
        if self.cut == (name, "after"):
            self.cut = None
            raise Cut
        self.done.append(name)
        return {"passed": name not in self.failing, "value": self.settings[name], "saw": sorted(results)}

    def go(self):
        """A process: it knows what is on the disk."""
        (run,) = self.work.runs()
        return do_steps(run, self.steps(run), lambda line: None)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("name", NAMES)
def test_a_run_cut_off_at_any_step_goes_on_and_does_each_step_once(world, name, moment):
    world.cut = (name, moment)
    with pytest.raises(Cut):
        world.go()
    assert world.go()
    assert world.done == list(NAMES)
    assert world.go() and world.done == list(NAMES)


def test_what_a_step_left_is_there_when_it_goes_on_but_not_when_its_inputs_changed(world):
    left = world.work.path / "run-0001" / "train"
    world.cut = ("train", "after")
    with pytest.raises(Cut):
        world.go()
    world.cut = ("train", "before")
    with pytest.raises(Cut):
        world.go()
    assert left.read_text() == "0"
    world.settings["train"], world.cut = 1, ("train", "before")
    with pytest.raises(Cut):
        world.go()
    assert not left.exists()
    assert world.go() and left.read_text() == "1"


def test_a_change_redoes_the_step_and_what_needs_it_alone(world):
    world.go()
    world.done.clear()
    world.settings["check"] = 1
    assert world.go() and world.done == ["check", "publish"]
    world.done.clear()
    world.settings["prepare"] = 1
    assert world.go() and world.done == list(NAMES)


def test_a_step_that_does_not_pass_ends_the_run_again_and_again(world):
    world.failing = ("check",)
    assert not world.go() and not world.go()
    assert world.done == ["prepare", "check"]
    world.failing, world.settings["check"] = (), 1  # another limit
    assert world.go() and world.done == ["prepare", "check", "check", "train", "publish"]


def test_a_step_that_asks_the_clock_is_done_anew(world):
    world.always, world.failing = ("check",), ("check",)
    assert not world.go()
    world.failing = ()  # time has passed
    world.cut = ("train", "after")
    with pytest.raises(Cut):
        world.go()
    (run,) = world.work.runs()
    assert plan(run, world.steps(run)) == {
        "prepare": "done",
        "check": "to do anew, as always",
        "train": "to go on with",
        "publish": "to do",
    }
    assert world.go()
    assert world.done == ["prepare", "check", "check", "check", "train", "publish"]
    world.always = ()  # published
    (run,) = world.work.runs()
    assert set(plan(run, world.steps(run)).values()) == {"done"}
    assert world.go() and len(world.done) == 6


def test_the_plan_tells_what_would_be_done(world):
    world.cut = ("train", "before")
    with pytest.raises(Cut):
        world.go()
    (run,) = world.work.runs()
    assert plan(run, world.steps(run)) == {"prepare": "done", "check": "done", "train": "to go on with", "publish": "to do"}
    world.settings["prepare"] = 1
    assert set(plan(run, world.steps(run)).values()) == {"to do"}
    assert world.done == ["prepare", "check"]


def test_runs_are_numbered_and_know_who_was_published_last(tmp_path):
    work = WorkFolder(tmp_path)
    assert work.new([], tmp_path / "model").parent is None
    for number, outcome in enumerate(("published", "refused", None), 1):
        run = work.new([], tmp_path / "model")
        assert run.path.name == f"run-{number:04d}"
        run.path.mkdir()
        run.end(outcome)
    (tmp_path / "run-0007").mkdir()  # cut off before it wrote anything
    assert [run.path.name for run in work.runs()] == ["run-0001", "run-0002", "run-0003"]
    assert (work.new([], tmp_path / "model").path.name, work.new([], tmp_path / "model").parent) == ("run-0008", "run-0001")
    assert len({run.id for run in work.runs()}) == 3


def test_files_are_the_same_wherever_they_lie(tmp_path):
    for folder, text in (("a", "1"), ("b", "1"), ("c", "2")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "log.csv").write_text(text)
    first, moved, changed = (fingerprints([tmp_path / folder / "log.csv"]) for folder in "abc")
    assert first[0]["path"] == str(tmp_path / "a" / "log.csv")
    assert same_files(first, moved) and not same_files(first, changed) and not same_files(first, [*moved, *moved])
    renamed = (tmp_path / "b" / "log.csv").rename(tmp_path / "b" / "other.csv")
    assert not same_files(first, fingerprints([renamed]))


def test_a_work_folder_belongs_to_one_model(tmp_path):
    work = WorkFolder(tmp_path / "work")
    work.check_model(tmp_path / "staging" / "shop")
    run = work.new([], tmp_path / "staging" / "shop")
    run.path.mkdir(parents=True)
    run.save()
    work.check_model(tmp_path / "staging" / "shop")
    with pytest.raises(UserError, match="its runs are for .*staging/shop, not for .*prod/shop; give another --work-dir"):
        work.check_model(tmp_path / "prod" / "shop")
    (tmp_path / "work").rename(tmp_path / "moved")
    WorkFolder(tmp_path / "moved").check_model(tmp_path / "staging" / "shop")
    del run.state["model"]  # as an older run is
    Run(tmp_path / "moved" / run.path.name, run.state).save()
    WorkFolder(tmp_path / "moved").check_model(tmp_path / "prod" / "shop")


def test_a_broken_state_is_told(tmp_path):
    (tmp_path / "run-0001").mkdir()
    state = tmp_path / "run-0001" / "pipeline.json"
    for text, message in (("{", "is not valid JSON"), (json.dumps({"id": 1}), "is not a state")):
        state.write_text(text)
        with pytest.raises(UserError, match=message):
            WorkFolder(tmp_path).runs()
