import pytest
from google.protobuf import text_format

from elcrec_tf.serving.layout import ALLOWED_BATCH_SIZES
from elcrec_tf.serving.tf_serving_files import write_serving_files


def labels(directory):
    """(versions of the policy, label -> version) as TensorFlow Serving's own parser reads models.config."""
    from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

    text = (directory / "tf_serving" / "models.config").read_text()
    (config,) = text_format.Parse(text, ModelServerConfig()).model_config_list.config
    assert config.name == directory.name
    assert config.base_path == f"/models/{directory.name}"
    return list(config.model_version_policy.specific.versions), dict(config.version_labels)


@pytest.mark.parametrize(
    ("published", "stable"),
    [([[1]], 1), ([[1], [1, 2]], 1), ([[1], [1, 2], [1, 2, 3]], 1), ([[1], [1, 2], [2, 3]], 2)],
    ids=["first", "second", "third", "the stable one is gone"],
)
def test_the_newest_is_served_beside_the_stable_one_which_stays(tmp_path, published, stable):
    for versions in published:
        write_serving_files(tmp_path, versions)
    newest = max(published[-1])
    assert labels(tmp_path) == (sorted({stable, newest}), {"stable": stable})


def test_a_promotion_by_hand_is_kept(tmp_path):
    write_serving_files(tmp_path, [1, 2])
    config = tmp_path / "tf_serving" / "models.config"
    config.write_text(config.read_text().replace('"stable" value: 1', '"stable"\n value: 2'))
    write_serving_files(tmp_path, [1, 2, 3])
    assert labels(tmp_path) == ([2, 3], {"stable": 2})


def test_no_export_moves_a_label_to_a_version_that_is_not_loaded(tmp_path):
    """TensorFlow Serving looks at labels before it loads what is new, and refuses the whole file where one has moved."""
    loaded, before = set(), {}
    for published in ([1], [1, 2], [1, 2, 3], [2, 3, 4]):
        write_serving_files(tmp_path, published)
        versions, now = labels(tmp_path)
        moved = [version for label, version in now.items() if label in before and before[label] != version]
        assert set(moved) <= loaded
        loaded, before = set(versions), now
    assert "--allow_version_labels_for_unavailable_models=true" in (tmp_path / "tf_serving" / "docker-compose.yml").read_text()


def test_batches_are_those_that_the_warm_up_knows(tmp_path):
    write_serving_files(tmp_path, [1])
    lines = (tmp_path / "tf_serving" / "batching.config").read_text().splitlines()
    assert [line for line in lines if line.startswith("allowed")] == [f"allowed_batch_sizes: {size}" for size in ALLOWED_BATCH_SIZES]
    assert f"max_batch_size {{ value: {ALLOWED_BATCH_SIZES[-1]} }}" in lines
    assert "pad_variable_length_inputs: true" in lines


def test_edited_files_are_left_alone_but_models_config_is_not(tmp_path):
    write_serving_files(tmp_path, [1])
    folder = tmp_path / "tf_serving"
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["batching.config", "docker-compose.yml", "models.config", "monitoring.config", "prometheus.yml"]
    for name in names:
        (folder / name).write_text("mine")
    write_serving_files(tmp_path, [1])
    assert [name for name in names if (folder / name).read_text() == "mine"] == [name for name in names if name != "models.config"]


def test_the_compose_file_names_the_files_that_are_there(tmp_path):
    directory = tmp_path / "my-model"
    write_serving_files(directory, [1])
    compose = (directory / "tf_serving" / "docker-compose.yml").read_text()
    assert "..:/models/my-model:ro" in compose
    for name in ("models.config", "batching.config", "monitoring.config"):
        assert f"/models/my-model/tf_serving/{name}" in compose
