"""Importing published checkpoints: any number of layers and centres, and the published Beauty scores."""

import json

import numpy as np
import pytest

from elcrec_tf import import_official
from elcrec_tf.data.catalog import Catalog
from elcrec_tf.errors import UserError
from elcrec_tf.official import architecture, item_rows, read_checkpoint
from elcrec_tf.run_folder import RunFolder


def checkpoint(layers=1, centers=5, rows=8, size=4, length=6):
    """Random arrays under the official names."""
    rng = np.random.default_rng(layers)
    shapes = {
        "cluster_centers": (centers, size),
        "item_embeddings.weight": (rows, size),
        "position_embeddings.weight": (length, size),
        "LayerNorm.weight": (size,),
        "LayerNorm.bias": (size,),
    }
    for index in range(layers):
        block = f"item_encoder.layer.{index}."
        for name in ("query", "key", "value", "dense"):
            shapes |= {f"{block}attention.{name}.weight": (size, size), f"{block}attention.{name}.bias": (size,)}
        shapes |= {f"{block}intermediate.dense_1.weight": (4 * size, size), f"{block}intermediate.dense_1.bias": (4 * size,)}
        shapes |= {f"{block}intermediate.dense_2.weight": (size, 4 * size), f"{block}intermediate.dense_2.bias": (size,)}
        for name in ("attention", "intermediate"):
            shapes |= {f"{block}{name}.LayerNorm.weight": (size,), f"{block}{name}.LayerNorm.bias": (size,)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def data(tmp_path):
    """Ids 1 to 6, first met in another order; row 7 of the checkpoint belongs to no item."""
    path = tmp_path / "toy.txt"
    path.write_text("a 6 1 2 3\nb 5 4 1 2\nc 3 4 5 6\n")
    return path


def run_import(tmp_path, data, arrays, *flags):
    np.savez(tmp_path / "checkpoint.npz", **arrays)
    output = tmp_path / "run"
    argv = [str(tmp_path / "checkpoint.npz"), "--dataset", str(data), "--output-dir", str(output), *flags]
    assert import_official.main(argv) == 0
    return RunFolder(output)


@pytest.mark.parametrize(("layers", "centers"), [(1, 5), (2, 3), (3, 16)])
def test_any_number_of_layers_and_centers(tmp_path, data, layers, centers):
    arrays = checkpoint(layers, centers)
    folder = run_import(tmp_path, data, arrays)
    config, model = folder.config(), folder.load_model()
    assert (config.model.num_layers, config.model.num_clusters, config.model.max_length) == (layers, centers, 6)
    assert len(model.encoder.blocks) == layers
    unit = arrays["cluster_centers"] / np.linalg.norm(arrays["cluster_centers"], axis=1, keepdims=True)
    np.testing.assert_allclose(np.asarray(model.cluster_centers.centers), unit, rtol=1e-5)


def test_items_are_matched_by_id_not_by_row(tmp_path, data):
    arrays = checkpoint()
    folder = run_import(tmp_path, data, arrays)
    table, ids = np.asarray(folder.load_model().item_embedding.table), folder.catalog().ids
    assert list(ids) == ["6", "1", "2", "3", "5", "4"]
    for row, raw in enumerate(ids, start=1):
        np.testing.assert_array_equal(table[row], arrays["item_embeddings.weight"][int(raw)])
    np.testing.assert_array_equal(table[0], arrays["item_embeddings.weight"][0])


def test_an_imported_run_has_metrics_with_null_for_what_only_training_knows(tmp_path, data):
    metrics = json.loads(run_import(tmp_path, data, checkpoint(), "--fusion", "shift").metrics_file.read_text())
    assert metrics["best_epoch"] is None and metrics["train_seconds"] is None and metrics["seed"] is None
    assert 0 <= metrics["test"]["MRR"] <= 1


def test_an_imported_run_knows_its_data(tmp_path, data, capsys):
    folder = run_import(tmp_path, data, checkpoint())
    assert folder.fingerprint() == json.loads(folder.metrics_file.read_text())["fingerprint"]
    assert capsys.readouterr().out.startswith("toy: 3 users, 6 items, 12 events\n")


def test_a_log_with_other_columns_can_be_imported(tmp_path):
    rows = [f"{user},{item},{time}" for user, items in (("a", "6123"), ("b", "5412"), ("c", "3456")) for time, item in enumerate(items)]
    (tmp_path / "toy.csv").write_text("\n".join(["user,asin,timestamp", *rows, ""]))
    folder = run_import(tmp_path, tmp_path / "toy.csv", checkpoint(), "--item-column", "asin")
    data = folder.config().data
    assert (data.item_column, data.k_core, folder.catalog().num_items) == ("asin", 1, 6)


def test_the_published_beauty_checkpoint_scores_as_published(tmp_path, shared):
    arguments = [str(shared / "reference" / "official_elcrec_beauty.npz"), "--dataset", str(shared / "data" / "Beauty.txt")]
    assert import_official.main([*arguments, "--output-dir", str(tmp_path / "run"), "--fusion", "shift"]) == 0
    test = json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]
    published = {"HR@5": 0.0529, "NDCG@5": 0.0355, "HR@20": 0.1079, "NDCG@20": 0.0509}
    assert {name: round(test[name], 4) for name in published} == published


def test_a_pt_file_is_read_with_torch(tmp_path):
    torch = pytest.importorskip("torch")
    arrays = checkpoint()
    torch.save({name: torch.from_numpy(value) for name, value in arrays.items()}, tmp_path / "model.pt")
    read = read_checkpoint(tmp_path / "model.pt")
    assert set(read) == set(arrays)
    np.testing.assert_array_equal(read["cluster_centers"], arrays["cluster_centers"])
    (tmp_path / "broken.pt").write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match="broken.pt"):
        read_checkpoint(tmp_path / "broken.pt")


def test_a_pt_file_without_torch_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    (tmp_path / "model.pt").write_bytes(b"")
    with pytest.raises(UserError, match="pip install torch"):
        read_checkpoint(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.npz", None, "no such file"),
        ("bad.npz", b"zip?", "not a readable .npz"),
        ("empty.npz", b"", "not a readable .npz"),
        ("model.onnx", b"", "unknown ending '.onnx'"),
    ],
)
def test_unreadable_checkpoints(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_npz_is_a_user_error(tmp_path, save):
    path = tmp_path / "checkpoint.npz"
    save(path, a=np.arange(1000), b=np.arange(1000))
    content = path.read_bytes()
    damaged = [content[:size] for size in (1, 100, len(content) // 2, len(content) - 1)]
    damaged.append(content[:200] + bytes(100) + content[300:])
    for broken in damaged:
        path.write_bytes(broken)
        with pytest.raises(UserError, match="checkpoint.npz: is not a readable .npz"):
            read_checkpoint(path)


def test_a_bare_array_is_no_npz(tmp_path):
    with (tmp_path / "checkpoint.npz").open("wb") as file:
        np.save(file, np.arange(3))
    with pytest.raises(UserError, match="is not a readable .npz"):
        read_checkpoint(tmp_path / "checkpoint.npz")


def test_what_is_no_elcrec_checkpoint_is_refused():
    arrays = checkpoint()
    with pytest.raises(UserError, match="no array 'cluster_centers'"):
        architecture({name: value for name, value in arrays.items() if name != "cluster_centers"})
    with pytest.raises(UserError, match="no encoder layer"):
        architecture({name: value for name, value in arrays.items() if "layer" not in name})


def test_a_missing_or_misshapen_array_is_named(tmp_path, data):
    arrays = checkpoint()
    del arrays["item_encoder.layer.0.intermediate.dense_2.bias"]
    with pytest.raises(UserError, match="intermediate.dense_2.bias"):
        run_import(tmp_path, data, arrays)
    wrong = checkpoint() | {"LayerNorm.weight": np.ones(5, np.float32)}
    with pytest.raises(UserError, match="LayerNorm"):
        run_import(tmp_path, data, wrong)


def test_another_data_set_than_the_checkpoints_is_refused():
    with pytest.raises(UserError, match="'9'.*--dataset"):
        item_rows(Catalog(["1", "9"]), rows=8)
    with pytest.raises(UserError, match="'shoe'"):
        item_rows(Catalog(["shoe"]), rows=8)


def test_heads_that_do_not_divide_the_size_are_refused(tmp_path, data):
    with pytest.raises(UserError, match="--num-heads should divide"):
        run_import(tmp_path, data, checkpoint(), "--num-heads", "3")
