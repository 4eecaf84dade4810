"""The versions of a folder, with a loader that only notes what it is told; the real one is tested with the server."""

import os
import shutil
import threading
import weakref

import grpc
import pytest

from elcrec_tf.serving import wire_pb2 as wire
from elcrec_tf.serving.request_error import RequestError
from elcrec_tf.serving.server_metrics import ServerMetrics
from elcrec_tf.serving.versions import Versions
from tests.serving.asking import spec


class FakeServable:
    def __init__(self, version):
        self.version = version
        self.closed = False

    def close(self):
        self.closed = True


class World:
    """A model's folder, its `Versions`, and what they did."""

    def __init__(self, folder, latest=1, labels=None):
        self.folder = folder
        self.loads, self.lines, self.health = [], [], []
        self.metrics = ServerMetrics()
        self.versions = Versions(
            folder, "toy", self.load, latest, labels or {}, self.metrics, self.lines.append, on_available=self.health.append
        )

    def load(self, folder, version):
        self.loads.append(version)
        if (folder / "saved_model.pb").read_text() != "good":
            raise ValueError("it is broken\nand more")
        return FakeServable(version)

    def publish(self, *numbers, text="good"):
        for number in numbers:
            version = self.folder / str(number)
            version.mkdir(exist_ok=True)
            (version / "saved_model.pb").write_text(text)
        self.versions.poll()

    def remove(self, *numbers):
        for number in numbers:
            shutil.rmtree(self.folder / str(number))
        self.versions.poll()

    def answers(self, **choice):
        """The version that answers a question."""
        with self.versions.use(spec("toy", **choice)) as servable:
            assert not servable.closed
            return servable.version

    def states(self, **choice):
        return {one.version: (one.State.Name(one.state), one.status.error_message) for one in self.versions.status(spec("toy", **choice))}


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def code(call, *args, **kwargs):
    with pytest.raises(RequestError) as failure:
        call(*args, **kwargs)
    return failure.value.code, str(failure.value)


def test_only_the_newest_version_is_loaded_by_number_not_by_name(world):
    world.publish(2, 10, 9)
    assert world.loads == [2] or world.loads == [10]
    assert world.answers() == 10


def test_nothing_is_served_before_the_first_version(world):
    world.versions.poll()
    assert code(world.answers) == (grpc.StatusCode.NOT_FOUND, "Servable not found for request: Latest(toy)")
    assert code(world.states) == (grpc.StatusCode.NOT_FOUND, "Could not find any versions of model toy")
    world.publish(1)
    assert world.answers() == 1
    assert world.health == [True]
    assert world.lines == []


def test_a_new_version_takes_over(world):
    world.publish(1)
    world.publish(2)
    assert world.answers() == 2
    assert code(world.answers, version=1) == (grpc.StatusCode.NOT_FOUND, "Servable not found for request: Specific(toy, 1)")
    assert world.states() == {2: ("AVAILABLE", ""), 1: ("END", "")}
    assert world.lines == ["version 2 of toy takes over from 1"]
    assert world.metrics.registry.get_sample_value("elcrec_serving_version_swaps_total") == 1
    assert world.metrics.registry.get_sample_value("elcrec_serving_version_state", {"version": "1"}) == 50


def test_a_version_answers_when_its_state_says_so(world, monkeypatch):
    set_state, seen = world.versions._set_state, []

    def note(number, state, error=""):
        set_state(number, state, error)
        if state == wire.ModelVersionStatus.AVAILABLE:
            seen.append(world.answers(version=number))

    monkeypatch.setattr(world.versions, "_set_state", note)
    world.publish(1)
    world.publish(2)
    assert seen == [1, 2]


def test_the_old_version_answers_while_the_new_one_loads(world):
    world.publish(1)
    seen = []

    def load(folder, version):
        seen.append((world.answers(), world.states()))
        return FakeServable(version)

    world.versions._load_version = load
    world.publish(2)
    assert seen == [(1, {2: ("LOADING", ""), 1: ("AVAILABLE", "")})]


def test_a_request_in_flight_keeps_its_version(world):
    world.publish(1)
    with world.versions.use(spec("toy")) as servable:
        swap = threading.Thread(target=world.publish, args=(2,))
        swap.start()
        while world.answers() == 1:
            pass
        assert not servable.closed
        assert world.states()[1] == ("UNLOADING", "")
        assert swap.is_alive()
    swap.join()
    assert servable.closed
    assert world.states()[1] == ("END", "")


def test_a_released_version_is_not_referred_to(world):
    world.publish(1)
    with world.versions.use(spec("toy")) as servable:
        old = weakref.ref(servable)
    del servable
    world.publish(2)
    assert old() is None


def test_a_broken_version_is_refused_once_and_the_old_one_stays(world):
    world.publish(1)
    world.publish(2, text="broken")
    for _ in range(3):
        world.versions.poll()
    assert world.loads == [1, 2]
    assert world.answers() == 1
    assert world.states() == {2: ("END", "it is broken"), 1: ("AVAILABLE", "")}
    assert world.lines == ["version 2 of toy is refused until its files change: it is broken"]
    assert world.metrics.registry.get_sample_value("elcrec_serving_versions_refused_total") == 1


def test_a_refused_version_is_tried_again_when_its_files_change(world):
    world.publish(1)
    world.publish(2, text="bad!")
    world.publish(2, text="good")  # as long as before: only the time of the file tells
    assert world.loads == [1, 2, 2]
    assert world.answers() == 2


def test_a_touched_file_is_a_change(world):
    world.publish(1, text="broken")
    os.utime(world.folder / "1" / "saved_model.pb", ns=(1, 1))
    world.versions.poll()
    assert world.loads == [1, 1]


def test_the_newest_good_version_is_served_at_the_start(world):
    for number, text in ((1, "good"), (2, "good"), (3, "broken")):
        (world.folder / str(number)).mkdir()
        (world.folder / str(number) / "saved_model.pb").write_text(text)
    world.versions.poll()
    assert world.loads == [3, 2]
    assert world.answers() == 2


def test_several_latest_versions(tmp_path):
    world = World(tmp_path, latest=2)
    world.publish(1, 2, 3)
    assert world.versions.available == [2, 3]
    assert [world.answers(), world.answers(version=2), world.answers(version=3)] == [3, 2, 3]


def test_a_labelled_version_is_served_whatever_is_newest(tmp_path):
    world = World(tmp_path, labels={"stable": 1, "canary": 3})
    world.publish(1, 2)
    assert world.versions.available == [1, 2]
    assert world.answers(label="stable") == 1
    assert code(world.answers, label="canary") == (grpc.StatusCode.NOT_FOUND, "Servable not found for request: Specific(toy, 3)")
    world.publish(3)
    assert world.versions.available == [1, 3]
    assert world.answers(label="canary") == 3
    assert code(world.answers, label="best") == (grpc.StatusCode.INVALID_ARGUMENT, "Unrecognized servable version label: best")


def test_removing_the_newest_version_goes_back_to_the_one_before(world):
    world.publish(1, 2)
    world.remove(2)
    assert world.answers() == 1
    assert world.health == [True]
    assert world.states()[2] == ("END", "")


def test_the_last_version_stays_when_it_is_removed(world):
    world.publish(1)
    world.remove(1)
    world.versions.poll()
    assert world.answers() == 1
    assert world.lines == [f"version 1 of toy is no longer in {world.folder}; it stays in memory, as there is no other"]


def test_a_folder_that_goes_leaves_what_is_in_memory(world):
    world.publish(1)
    shutil.rmtree(world.folder)
    world.versions.poll()
    world.versions.poll()
    assert world.answers() == 1
    assert len(world.lines) == 1 and "the versions in memory stay" in world.lines[0]


@pytest.mark.parametrize("name", ["1-old", ".export-1", "x", "9" * 30])
def test_other_names_are_no_versions(world, name):
    (world.folder / name).mkdir()
    world.publish(3)
    assert world.loads == [3]


def test_another_models_name_is_not_found(tmp_path):
    world = World(tmp_path, labels={"stable": 1})
    world.publish(1)

    def use(*args, **choice):
        with world.versions.use(spec(*args, **choice)):
            pass

    assert code(use, "other", version=1) == (grpc.StatusCode.NOT_FOUND, "Servable not found for request: Specific(other, 1)")
    unknown = (grpc.StatusCode.INVALID_ARGUMENT, "Unrecognized servable version label: stable")
    assert code(use, "other", label="stable") == code(world.versions.status, spec("other", label="stable")) == unknown
    assert code(use, "") == code(use, "", label="stable") == (grpc.StatusCode.INVALID_ARGUMENT, "ModelSpec has no name specified.")
    assert code(world.versions.status, spec(""))[0] == grpc.StatusCode.NOT_FOUND
    assert code(world.versions.status, spec("other")) == (grpc.StatusCode.NOT_FOUND, "Could not find any versions of model other")


def test_the_status_of_one_version(world):
    world.publish(1)
    world.publish(2)
    assert world.states(version=1) == {1: ("END", "")}
    assert code(world.states, version=7) == (grpc.StatusCode.NOT_FOUND, "Could not find version 7 of model toy")


def test_releasing_all_tells_that_none_is_available(world):
    world.publish(1)
    assert world.versions.release_all()
    assert world.health == [True, False]
    assert world.versions.available == []


def test_a_server_that_stops_loads_nothing_more(world):
    world.publish(1)
    world.versions.stop_loading()
    world.publish(2)
    assert world.versions.available == [1] and world.loads == [1] and world.lines == []


def test_a_server_that_stops_does_not_wait_for_requests(world):
    world.publish(1)
    with world.versions.use(spec("toy")) as servable:
        swap = threading.Thread(target=world.publish, args=(2,))
        swap.start()
        while world.answers() == 1:
            pass
        assert swap.is_alive()
        world.versions.stop_waiting()
        swap.join()
        assert not servable.closed
        with world.versions.use(spec("toy")):
            assert not world.versions.release_all()


def test_a_request_on_a_version_that_was_released_before_the_stop_counts_too(world):
    world.publish(1)
    with world.versions.use(spec("toy")):
        swap = threading.Thread(target=world.publish, args=(2,))
        swap.start()
        while world.answers() == 1:
            pass
        world.versions.stop_waiting()
        swap.join()
        assert not world.versions.release_all()
