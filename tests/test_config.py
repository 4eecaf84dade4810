import dataclasses
import json
import math
import typing

import pytest

from elcrec_tf.config import GROUPS, Config, LossConfig, ModelConfig, TrainConfig, resolve
from elcrec_tf.config_fields import field_types
from elcrec_tf.errors import UserError
from elcrec_tf.presets import PRESETS


@pytest.fixture
def config_file(tmp_path):
    def write(values):
        path = tmp_path / "config.json"
        path.write_text(values if isinstance(values, str) else json.dumps(values), encoding="utf-8")
        return path

    return write


# --- precedence -------------------------------------------------------------------------------------------------------


def test_flag_wins_over_file_over_preset_over_default(config_file):
    # paper-beauty sets num_layers 1, num_clusters 256 and epochs 300; the defaults are 2, 256 and others.
    file = config_file({"model": {"num_clusters": 7, "hidden_size": 32}, "train": {"epochs": 9}})
    config = resolve("paper-beauty", file, {"epochs": 3})
    assert config.train.epochs == 3  # flag over file and preset
    assert (config.model.num_clusters, config.model.hidden_size) == (7, 32)  # file over preset, file over default
    assert config.model.num_layers == 1  # preset over default
    assert config.train.batch_size == TrainConfig().batch_size
    assert config.preset == "paper-beauty"


def test_preset_argument_wins_over_the_files_preset(config_file):
    file = config_file({"preset": "paper-toys"})
    assert resolve(None, file).preset == "paper-toys"
    assert resolve(None, file).model.num_layers == 3
    assert resolve("paper-beauty", file).model.num_layers == 1


def test_simulated_preset_belongs_to_the_embedded_data_only(config_file):
    assert resolve().preset == "simulated"
    assert resolve().model.num_clusters == 32
    assert resolve(flags={"dataset": "simulated"}).preset == "simulated"
    for elsewhere in (resolve(flags={"dataset": "beauty"}), resolve(file=config_file({"data": {"dataset": "log.csv"}}))):
        assert elsewhere.preset == "default"
        assert elsewhere.model.num_clusters == ModelConfig().num_clusters
    # A flag decides over the file here, too.
    assert resolve(file=config_file({"data": {"dataset": "beauty"}}), flags={"dataset": "simulated"}).preset == "simulated"


@pytest.mark.parametrize(
    ("name", "clusters", "alpha", "fusion", "layers"),
    [("sports", 512, 1, "concat", 2), ("beauty", 256, 10, "shift", 1), ("toys", 512, 1, "concat", 3), ("yelp", 256, 0.1, "concat", 2)],
)
def test_paper_presets_are_the_papers_settings(name, clusters, alpha, fusion, layers):
    config = resolve(f"paper-{name}")
    assert (config.model.num_clusters, config.loss.cluster_weight) == (clusters, alpha)
    assert (config.model.fusion, config.model.num_layers) == (fusion, layers)
    # What the paper states for all data sets.
    assert (config.model.max_length, config.model.hidden_size, config.model.num_heads) == (50, 64, 2)
    assert (config.loss.sequence_weight, config.loss.intent_weight) == (0.1, 0.1)
    assert (config.loss.next_item, config.loss.cluster_form, config.loss.temperature) == ("bce", "paper", 1.0)
    assert (config.augment.crop_ratio, config.augment.mask_ratio, config.augment.reorder_ratio) == (0.2, 0.7, 0.2)
    assert (config.train.batch_size, config.train.learning_rate, config.model.dropout) == (256, 1e-3, 0.5)
    assert (config.train.epochs, config.train.patience, config.train.monitor) == (300, 40, "NDCG@20")


METHOD = {"fusion", "intent_clustering", "sequence_weight", "intent_weight", "cluster_weight"}


@pytest.mark.parametrize(("name", "terms"), [("sasrec", set()), ("cl4srec", {"sequence"}), ("iclrec", {"sequence", "intent"})])
def test_baseline_presets_differ_from_the_default_in_the_method_alone(name, terms):
    assert set(PRESETS[name]) <= METHOD
    config = resolve(name)
    weights = {term: getattr(config.loss, f"{term}_weight") for term in ("sequence", "intent")}
    default = LossConfig().sequence_weight
    assert weights == {term: default if term in terms else 0.0 for term in weights}
    assert not config.elcm
    assert config.model.fusion == "none" or not terms
    assert (config.model.intent_clustering == "em") == ("intent" in terms)


def test_elcm_is_a_term_of_learned_centres_with_a_weight():
    assert Config().elcm
    assert not Config().replace(cluster_weight=0.0).elcm
    assert not Config().replace(intent_clustering="em").elcm


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_valid(name):
    assert resolve(name).preset == name


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"modle": {}}, "unknown group 'modle'; did you mean 'model'"),
        ({"model": {"num_cluster": 3}}, "unknown field 'num_cluster' in 'model'; did you mean 'num_clusters'"),
        ({"model": {"epochs": 3}}, "unknown field 'epochs' in 'model'"),  # a field of another group
        ({"qqq": {}}, "known: augment, data, loss"),
        ({"model": 3}, "'model' should be an object"),
        ({"preset": "paper-beuty"}, "unknown preset 'paper-beuty'; known: default"),
        ({"preset": ["default"]}, "unknown preset"),
        ([], "JSON object"),
        ("{", "not valid JSON"),
    ],
)
def test_faulty_files(config_file, values, message):
    with pytest.raises(UserError, match=message):
        resolve(file=config_file(values))


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        resolve(file=tmp_path / "none.json")


def test_unknown_preset_and_flag():
    with pytest.raises(UserError, match="unknown preset 'paper'"):
        resolve("paper")
    with pytest.raises(UserError, match="unknown field 'epoch'; did you mean 'epochs'"):
        resolve(flags={"epoch": 3})
    with pytest.raises(UserError, match="did you mean 'num_clusters'"):
        Config().replace(num_cluster=3)


BOUNDS = [
    (kind, field.name, meta, field.metadata[meta])
    for kind in GROUPS
    for field in dataclasses.fields(kind)
    for meta in ("low", "high", "above", "below")
    if field.metadata[meta] is not None
]


def as_field(kind, name, value):
    """The value as the field has it, alone or in a tuple."""
    return (value,) if tuple in field_types(typing.get_type_hints(kind)[name]) else value


@pytest.mark.parametrize(("kind", "name", "bound", "value"), BOUNDS)
def test_every_bound_fires(kind, name, bound, value):
    """One step outside is refused, and so is the bound itself where it is exclusive."""
    outside = {"low": value - 1, "high": value + 1, "above": value, "below": value}[bound]
    with pytest.raises(UserError, match=f"{kind.GROUP}.{name} should be"):
        kind(**{name: as_field(kind, name, outside)})


@pytest.mark.parametrize(("kind", "name", "bound", "value"), [case for case in BOUNDS if case[2] in ("low", "high")])
def test_inclusive_bounds_are_allowed(kind, name, bound, value):
    value = as_field(kind, name, value)
    assert getattr(kind(**{name: value}), name) == value


CHOICES = [(kind, field.name) for kind in GROUPS for field in dataclasses.fields(kind) if field.metadata["choices"]]


@pytest.mark.parametrize(("kind", "name"), CHOICES)
def test_every_choice_fires(kind, name):
    value = ("nothing",) if isinstance(getattr(kind(), name), tuple) else "nothing"
    with pytest.raises(UserError, match=f"{kind.GROUP}.{name} should be one of .* Received: 'nothing'"):
        kind(**{name: value})


@pytest.mark.parametrize(
    "fields",
    [
        {"epochs": "3"},
        {"epochs": 3.0},
        {"epochs": True},
        {"epochs": None},
        {"learning_rate": "0.1"},
        {"learning_rate": True},
        {"mask_same_intent": 1},
        {"dataset": 3},
        {"augmentations": "crop"},
        {"snapshot_epochs": 3},
        {"snapshot_epochs": ("3",)},
        {"snapshot_epochs": (True,)},
    ],
)
def test_wrong_types_are_refused(fields):
    with pytest.raises(UserError, match="should be of type"):
        Config().replace(**fields)


def test_a_whole_number_stands_for_a_float_and_a_list_for_a_tuple():
    config = Config().replace(learning_rate=1, augmentations=["mask"])
    assert type(config.train.learning_rate) is float
    assert config.augment.augmentations == ("mask",)


FLOATS = [(kind, field.name) for kind in GROUPS for field in dataclasses.fields(kind) if "float" in str(field.type)]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("kind", "name"), FLOATS)
def test_no_float_may_be_infinite_or_nan(kind, name, value):
    with pytest.raises(UserError, match=f"{kind.GROUP}.{name} should be"):
        kind(**{name: value})


def test_no_augmentation_at_all_is_refused():
    with pytest.raises(UserError, match="at least one of crop, mask, reorder"):
        Config().replace(augmentations=())


def test_seed_is_one_that_numpy_takes():
    assert Config().replace(seed=2**32 - 1).train.seed == 2**32 - 1
    with pytest.raises(UserError, match="train.seed should be at most"):
        Config().replace(seed=2**32)


def test_heads_divide_the_hidden_size():
    with pytest.raises(UserError, match="multiple of model.num_heads"):
        Config().replace(hidden_size=6, num_heads=4)
    assert Config().replace(hidden_size=6, num_heads=3).model.num_heads == 3


def test_centres_by_em_are_not_revived():
    with pytest.raises(UserError, match="revive_below should be 0 with model.intent_clustering"):
        Config().replace(intent_clustering="em", revive_below=0.1)


def test_flattened_states_need_one_length():
    with pytest.raises(UserError, match="needs loss.official_padding"):
        Config().replace(sequence_pooling="flatten")
    assert Config().replace(sequence_pooling="flatten", official_padding=True).loss.sequence_pooling == "flatten"


@pytest.mark.parametrize(("next_item", "examples"), [("softmax", "positions"), ("sampled_softmax", "positions"), ("bce", "prefixes")])
def test_official_negatives_are_those_of_bce_at_every_position(next_item, examples):
    with pytest.raises(UserError, match='needs loss.next_item "bce" and loss.examples "positions"'):
        Config().replace(negatives="official", next_item=next_item, examples=examples)
    assert Config().replace(negatives="official", next_item="bce").loss.negatives == "official"


@pytest.mark.parametrize("next_item", ["softmax", "bce"])
def test_negatives_that_no_loss_would_draw_are_refused(next_item):
    with pytest.raises(UserError, match=f'"mixed" is for loss.next_item "sampled_softmax": .* Received: .* "{next_item}"'):
        Config().replace(negatives="mixed", next_item=next_item)
    assert Config().replace(negatives="mixed", next_item="sampled_softmax").loss.negatives == "mixed"


# --- copies and round trips -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_json_round_trip(name, config_file):
    config = resolve(name, flags={"snapshot_epochs": (1, 5), "final_temperature": 0.05, "keep_values": ("click", "buy")})
    written = json.loads(json.dumps(config.to_dict(), allow_nan=False))
    assert Config.from_dict(written).with_preset(name) == config
    assert resolve(file=config_file(written)) == config


def test_replace_changes_a_copy():
    config = Config()
    changed = config.replace(epochs=3, num_clusters=8, temperature=0.5)
    assert (changed.train.epochs, changed.model.num_clusters, changed.loss.temperature) == (3, 8, 0.5)
    assert config == Config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.train.epochs = 3


def test_field_names_are_unique_over_all_groups():
    """Flags and `replace` name fields without their group."""
    names = [field.name for kind in GROUPS for field in dataclasses.fields(kind)]
    assert len(names) == len(set(names))


def test_groups_check_themselves_without_a_config():
    with pytest.raises(UserError, match="loss.temperature should be above 0"):
        LossConfig(temperature=0.0)


def test_the_number_of_intents_may_be_left_to_training():
    config = Config().replace(num_clusters="auto", most_clusters=99)
    assert (config.model.auto_clusters, config.model.centers) == (True, 99)
    assert Config.from_dict(config.to_dict()) == config
    fixed = config.replace(num_clusters=7).model
    assert (fixed.auto_clusters, fixed.centers) == (False, 7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_clusters": "many"}, "model.num_clusters should be a number or auto. Received: 'many'"),
        ({"num_clusters": 1}, "model.num_clusters should be at least 2"),
        ({"num_clusters": "auto", "average_momentum": 0.9}, "train.average_momentum averages centres that training alone moves"),
        ({"num_clusters": "auto", "revive_below": 0.1}, "schedule.revive_below keeps every intent in use"),
    ],
)
def test_numbers_of_intents_that_make_no_sense(changes, message):
    with pytest.raises(UserError, match=message):
        Config().replace(**changes)


def test_snapshots_are_of_epochs_that_the_run_has():
    def flags(*epochs, **others):
        return {"snapshot_epochs": epochs, "epochs": 3, **others}

    assert resolve(flags=flags(0, 3)).train.snapshot_epochs == (0, 3)
    with pytest.raises(UserError, match="train.snapshot_epochs should be at least 0. Received: -1"):
        resolve(flags=flags(1, -1))
    with pytest.raises(UserError, match="train.snapshot_epochs should be at most train.epochs, 3. Received: 99"):
        resolve(flags=flags(1, 99))
    # Those of the run that another one starts from, and of a trial that is cut short, may be later.
    assert resolve(flags={"epochs": 3}, base=Config().replace(snapshot_epochs=(20,))).train.snapshot_epochs == (20,)
