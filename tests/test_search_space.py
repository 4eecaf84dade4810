"""What a search varies: defaults, the space file, flags, and the values that a tuner samples."""

import json

import numpy as np
import pytest

from elcrec_tf.config import Config, resolve
from elcrec_tf.errors import UserError
from elcrec_tf.search_space import KNOWN, Space, make_space, read_space_file


def names(space):
    return [one.name for one in space.parameters]


def one(space, name):
    return next(parameter for parameter in space.parameters if parameter.name == name)


def test_by_default_the_number_of_intents_and_the_temperature_are_searched():
    space = make_space(Config(), {})
    assert str(space) == "num_clusters 8 to 2048 (log), temperature 0.05 to 1 (log)"
    assert space.base == Config()


@pytest.mark.parametrize(
    ("preset", "entries", "expected"),
    [
        ("best", {}, ["num_clusters"]),  # no contrastive losses
        ("cl4srec", {}, ["temperature"]),  # centres that nothing looks at
        ("iclrec", {}, ["num_clusters", "temperature"]),
        ("sasrec", {"learning_rate": {}}, ["learning_rate"]),
        ("sasrec", {"learning_rate": {}, "cluster_weight": 0.1}, ["num_clusters", "learning_rate"]),
        ("sasrec", {"sequence_weight": {}}, ["num_clusters", "temperature", "sequence_weight"]),  # the states are fused with the centres
        ("cl4srec", {"mask_same_intent": {"choices": [True, False]}}, ["num_clusters", "temperature", "mask_same_intent"]),
        ("sasrec", {"temperature": {}}, ["temperature"]),  # as the file says
    ],
)
def test_by_default_nothing_is_searched_that_has_no_effect(preset, entries, expected):
    assert names(make_space(resolve(preset), entries)) == expected


def test_a_preset_whose_default_fields_have_no_effect_leaves_nothing_to_search():
    with pytest.raises(UserError, match="nothing is left to search"):
        make_space(resolve("sasrec"), {})


def test_a_file_narrows_adds_and_fixes_fields():
    entries = {"num_clusters": {"high": 512}, "fusion": {}, "max_length": {"low": 10, "high": 60}, "dropout": 0.3, "temperature": 1}
    space = make_space(Config(), entries)
    assert names(space) == ["num_clusters", "fusion", "max_length"]
    assert one(space, "num_clusters").ends() == (8, 512) and one(space, "num_clusters").log
    assert one(space, "fusion").choices == ("shift", "concat")
    assert not one(space, "max_length").log
    assert (space.base.model.dropout, space.base.loss.temperature) == (0.3, 1.0)


def test_choices_take_the_place_of_a_known_range_and_a_range_that_of_known_choices():
    space = make_space(Config().replace(num_heads=1), {"num_clusters": {"choices": [16, 64]}, "hidden_size": {"low": 8, "high": 16}})
    assert one(space, "num_clusters").choices == (16, 64)
    assert one(space, "hidden_size").ends() == (8, 16)


def test_a_flag_fixes_its_field():
    base = resolve(flags={"num_clusters": 64})
    assert names(make_space(base, {}, flags=["num_clusters", "epochs"])) == ["temperature"]


@pytest.mark.parametrize("name", KNOWN)
def test_every_known_range_is_searched_on_request(name):
    space = make_space(Config(), {name: {}})
    assert name in names(space)
    assert len(space.extremes()) >= 4  # each of them passed the configuration's checks


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"dropuot": {}}, "unknown field 'dropuot'; did you mean 'dropout'?"),
        ({"epochs": {"low": 1, "high": 3}}, "epochs is no part of a search; set it with --epochs"),
        ({"sim_users": 10}, "sim_users is no part of a search"),
        ({"augmentations": ["crop"]}, "augmentations is no part of a search"),
        ({"dropout": {"lo": 0.1}}, "dropout has the unknown key 'lo'; did you mean 'low'?"),
        ({"max_length": {"low": 5}}, "max_length needs 'high'"),
        ({"dropout": {"high": 1.5}}, "model.dropout should be below 1. Received: 1.5"),
        ({"num_clusters": {"low": 1}}, "model.num_clusters should be at least 2. Received: 1"),
        ({"num_clusters": {"low": 8.5}}, "model.num_clusters should be of type int or auto. Received: 8.5"),
        ({"dropout": {"low": 0.5, "high": 0.2}}, "dropout: low should be below high. Received: 0.5 and 0.2"),
        ({"final_temperature": {"low": 0.1, "high": None}}, "final_temperature: low should be below high"),
        ({"dropout": {"scale": "ln"}}, 'dropout: scale should be "linear" or "log". Received: \'ln\''),
        ({"cluster_weight": {"low": 0}}, 'cluster_weight: low should be above 0 on a "log" scale'),
        ({"fusion": {"low": 0, "high": 1}}, "fusion takes no range"),
        ({"hidden_size": {"low": 8, "high": 64}}, r"hidden_size takes no range \(model.hidden_size should be a multiple"),
        ({"fusion": {"choices": ["shift", "sum"]}}, "model.fusion should be one of shift, concat, none. Received: 'sum'"),
        ({"fusion": {"choices": ["shift"]}}, "fusion: choices should be a list of two or more values"),
        ({"fusion": {"choices": "shift"}}, "fusion: choices should be a list of two or more values"),
        ({"num_layers": {"choices": [1, 1]}}, "num_layers: choices should differ"),
        ({"final_temperature": {"choices": [None, 0.1]}}, "final_temperature: choices should be of type float"),
        ({"dropout": {"choices": [0.1, 0.2], "low": 0.1}}, "dropout has choices and a range"),
        ({"num_clusters": 1}, "model.num_clusters should be at least 2"),
        ({"num_clusters": 64, "temperature": 0.2}, "nothing is left to search"),
    ],
)
def test_an_error_names_the_file_the_field_and_what_is_wrong(entries, message):
    with pytest.raises(UserError, match=f"^narrow.json: {message}"):
        make_space(Config(), entries, where="narrow.json")


def test_a_field_in_the_file_and_as_a_flag_is_refused():
    with pytest.raises(UserError, match="dropout is given here and by --dropout"):
        make_space(Config(), {"dropout": {}}, flags=["dropout"])


@pytest.mark.parametrize(
    ("text", "message"), [("{", "is not valid JSON"), ("[1]", "should hold a JSON object of fields"), (None, "cannot be read")]
)
def test_a_file_that_is_no_object_is_refused(tmp_path, text, message):
    if text is not None:
        (tmp_path / "space.json").write_text(text)
    with pytest.raises(UserError, match=f"space.json: {message}"):
        read_space_file(tmp_path / "space.json")


def test_a_space_survives_its_json():
    entries = {"fusion": {}, "dropout": {"low": 0.1, "high": 0.4}, "mask_same_intent": {"choices": [True, False]}, "hidden_size": {}}
    space = make_space(Config(), entries)
    assert Space.from_dict(space.base, json.loads(json.dumps(space.to_dict()))) == space


def test_the_start_is_the_base_or_what_is_nearest():
    base = Config().replace(num_clusters=4, temperature=0.33, hidden_size=50)
    entries = {"hidden_size": {}, "fusion": {"choices": ["concat", "shift"]}, "final_temperature": {"low": 0.05, "high": 0.5}}
    start = {"num_clusters": 8, "temperature": 0.33, "hidden_size": 64, "fusion": "shift", "final_temperature": 0.05}
    assert make_space(base, entries).start() == start


def test_sampled_values_become_values_of_the_configuration():
    """Through gRPC a bool comes back as an int; a tuner's own entries are not ours."""
    space = make_space(Config(), {"mask_same_intent": {"choices": [True, False]}, "learning_rate": {"low": 0.00123444, "high": 0.01}})
    sampled = {
        "num_clusters": 12,
        "temperature": np.float64(0.123456),
        "mask_same_intent": 1,
        "learning_rate": 0.00123444,
        "tuner/epochs": 3,
    }
    config = space.config(sampled)
    assert config.loss.temperature == 0.1235
    assert config.loss.mask_same_intent is True
    assert config.train.learning_rate == 0.00123444  # rounding does not leave the range
    assert space.values(space.values(sampled)) == space.values(sampled)


def test_values_that_do_not_go_together_are_a_users_error():
    space = make_space(Config(), {"hidden_size": {"choices": [32, 64]}, "num_heads": {"choices": [2, 64]}})
    with pytest.raises(UserError, match="multiple of model.num_heads"):
        space.config({**space.start(), "hidden_size": 32, "num_heads": 64})


def test_a_grid_has_even_points_on_each_scale():
    space = make_space(Config(), {"dropout": {"low": 0.1, "high": 0.5}, "num_layers": {"low": 1, "high": 3}, "fusion": {}}).grid()
    assert one(space, "num_clusters").choices == (8, 32, 128, 512, 2048)
    assert one(space, "dropout").choices == (0.1, 0.2, 0.3, 0.4, 0.5)
    assert one(space, "num_layers").choices == (1, 2, 3)
    assert one(space, "fusion").choices == ("shift", "concat")


@pytest.mark.parametrize(("sampled", "expected"), [(2049, 2048), (7, 8), (300.0, 300)])
def test_a_sampled_integer_stays_within_its_range(sampled, expected):
    """keras-tuner's integers on a logarithmic scale may lie one above the range."""
    value = one(make_space(Config(), {}), "num_clusters").clean(sampled)
    assert value == expected and type(value) is int
