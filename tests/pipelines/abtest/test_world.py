import pytest

from elcrec_tf.data.catalog import Catalog
from elcrec_tf.errors import UserError
from elcrec_tf.serving.layout import CATALOG
from pipelines.abtest.world import shared_world
from tests.pipelines.abtest.exports import config, write_export


def test_models_of_one_world_may_have_other_users(tmp_path):
    a = write_export(tmp_path / "a", config())
    b = write_export(tmp_path / "b", config(sim_users=90, sim_events=9, seed=3, hidden_size=16))
    world = shared_world([a, b])
    assert world.config == config().simulator
    assert world.catalog.num_items == 80 and world.catalog.counts.sum() > 0


@pytest.mark.parametrize(
    "other", [{"sim_seed": 1}, {"sim_items": 90}, {"sim_intents": 5}, {"sim_switch": 0.2}, {"sim_noise": 0.2}, {"sim_drift": 0.1}]
)
def test_models_of_different_worlds_are_refused(tmp_path, other):
    a, b = write_export(tmp_path / "a", config()), write_export(tmp_path / "b", config(**other))
    with pytest.raises(UserError, match=rf"different worlds \({next(iter(other))} .* and {next(iter(other.values()))}\)"):
        shared_world([a, b])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": {"name": "beauty", "fingerprint": "x"}}, "was trained on beauty, whose users cannot answer.*--dataset simulated"),
        ({"dataset": None}, "was trained on unknown data"),
        ({"dataset": {"name": "simulated", "fingerprint": "x"}}, "not what the simulator makes of its settings"),
        ({"dataset": {"name": "simulated", "fingerprint": None}}, "not what the simulator makes of its settings"),
        ({"config": {"simulator": {"sim_moons": 2}}}, "unknown field 'sim_moons'"),
    ],
)
def test_models_of_other_data_are_refused(tmp_path, changes, message):
    folder = write_export(tmp_path / "a", config(), **changes)
    with pytest.raises(UserError, match=message) as error:
        shared_world([folder, folder])
    assert str(folder / "1") in str(error.value) and "\n" not in str(error.value)


def test_another_catalogue_is_refused(tmp_path):
    folder = write_export(tmp_path / "a", config())
    Catalog([f"item-{number:04d}" for number in range(80)]).save(folder / "1" / CATALOG)
    with pytest.raises(UserError, match="not what the simulator makes"):
        shared_world([folder, folder])


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="nowhere: there is no such folder"):
        shared_world([write_export(tmp_path / "a", config()), tmp_path / "nowhere"])
