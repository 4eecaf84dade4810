"""The steps of a run, by what they depend on."""

import dataclasses

from elcrec_tf.config import Config
from pipelines.production.gate import Limits
from pipelines.production.job import Job
from pipelines.production.preparing import MEMORY, Preparation
from pipelines.production.publishing import publish, served_version
from pipelines.production.runs import Run
from tests.pipelines.production.test_publishing import export_of


def test_the_clock_is_asked_until_the_run_has_a_version(tmp_path):
    """Be it that the run was cut off before it took that down: what is published is not refused for its age."""
    run = Run(tmp_path / "run-0001", {"id": "mine", "inputs": [], "parent": None, "steps": {}, "outcome": None})
    preparation = Preparation("log.csv", "csv", MEMORY, ("user", "item", "timestamp"), 5, "drop")
    job = Job(run, None, tmp_path / "model", None, [], preparation, Config(), Limits(max_age=2.0), users=1, top_k=1, keep=None)

    def asks_the_clock():
        return [step.name for step in job.steps(None) if step.always]

    assert asks_the_clock() == ["check"]  # before the folder is made, as a dry run does
    (tmp_path / "model").mkdir()
    assert asks_the_clock() == ["check"]
    publish(export_of(tmp_path / "export" / "1", "mine"), tmp_path / "model", "mine", None)
    assert asks_the_clock() == []


def test_what_was_served_is_known_after_it_was_removed(tmp_path):
    """A run that is killed between the removal of old versions and the note that it is published does nothing anew."""
    model = tmp_path / "model"
    for number, run_id in (("1", "first"), ("2", "second")):
        export_of(model / number, run_id)
    run = Run(tmp_path / "run-0001", {"id": "mine", "inputs": [], "parent": None, "steps": {}, "outcome": None})
    preparation = Preparation("log.csv", "csv", MEMORY, ("user", "item", "timestamp"), 5, "drop")
    job = Job(run, None, model, served_version(model, "mine"), [], preparation, Config(), Limits(), users=1, top_k=1, keep=1)
    before = [step.settings for step in job.steps(None)]
    export = export_of(tmp_path / "export" / "1", "mine")
    job._publish({"export": {"export": str(export)}}, None)
    assert not (model / "2").exists()
    again = dataclasses.replace(job, serving=served_version(model, "mine"))  # version 1, which is labelled stable
    assert again.serving == model / "1" and [step.settings for step in again.steps(None)] == before
