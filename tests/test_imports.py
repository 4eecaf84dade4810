"""The one-way rule over the import statements, and the requirements that go with them."""

import ast
import graphlib
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A module may import from its own layer and from those above it in this list, never from one below. A name ending in a dot is a folder.
LAYERS = (
    ("__init__", "errors", "padding", "presets"),
    ("kernels", "dropout", "hardware", "replicas"),
    ("config_fields", "files", "masking", "intents", "intent_drift", "vectors", "optimizer", "workers"),
    ("config",),
    ("cli", "search_parameter", "search_space"),
    ("losses", "ranking", "augment", "layers."),
    ("data.",),
    ("sequence_encoder",),
    ("model",),
    ("run_folder", "official", "evaluation", "progress"),
    ("callbacks", "baselines", "cluster_count", "intent_em", "search_folder", "warm_start", "worker_training"),
    ("training", "results"),
    ("recovery", "retrieval", "serving."),
    ("tuning", "tuning_oracles", "tuning_workers", "tuning_plots", "tuning_report", "reporting."),
    ("train", "evaluate", "tune", "export", "serve", "recommend", "import_official", "report", "drift"),
    ("pipelines.",),
)
# The numerical core is written in keras.ops, so that it also runs on another backend.
BACKEND_FREE = (
    "kernels",
    "replicas",
    "dropout",
    "masking",
    "vectors",
    "losses",
    "ranking",
    "layers.",
    "sequence_encoder",
    "model",
    "intents",
    "intent_drift",
    "optimizer",
)
# They name TensorFlow inside functions that another backend never calls.
ASK_TENSORFLOW = ("kernels", "replicas")
# What an entry point needs before it has parsed its flags.
LIGHT = (
    "__init__",
    "errors",
    "padding",
    "config_fields",
    "config",
    "files",
    "cli",
    "run_folder",
    "search_parameter",
    "search_space",
    "search_folder",
    "reporting.published",
    "reporting.loading",
    "workers",
)


def _modules():
    """Module name (without the package's) -> file."""
    files = {}
    for package in ("elcrec_tf", "pipelines"):
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[1:] if package == "elcrec_tf" else parts)
            files[name.removesuffix(".__init__") if name != "__init__" else name] = path
    return files


def _imports(tree, names):
    """(modules of ours, other top-level packages) of the import statements in a tree."""
    ours, others = set(), set()
    for node in tree:
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            deeper = [f"{node.module}.{alias.name}" for alias in node.names]
            targets = [target if target.removeprefix("elcrec_tf.") in names else node.module for target in deeper]
        else:
            continue
        for target in targets:
            package, _, rest = target.partition(".")
            if package == "elcrec_tf":
                ours.add(rest or "__init__")
            elif package == "pipelines":
                ours.add(target)
            else:
                others.add(package)
    return ours, others


MODULES = _modules()
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
ALL = {name: _imports(ast.walk(tree), MODULES) for name, tree in TREES.items()}
# What importing the module really loads: no statement inside a function, none for type checkers.
AT_IMPORT = {name: _imports(tree.body, MODULES) for name, tree in TREES.items()}


def _matches(name, entries):
    return any(name == entry or (entry.endswith(".") and (name + ".").startswith(entry)) for entry in entries)


def _layer(name):
    exact = [index for index, entries in enumerate(LAYERS) if name in entries]
    found = exact or [index for index, entries in enumerate(LAYERS) if _matches(name, entries)]
    assert found, f"{name}: is in no layer; give it a place in LAYERS of tests/test_imports.py"
    return found[0]


def _closure(name):
    """Other packages that come in when a module is imported."""
    seen, queue, packages = set(), [name], set()
    while queue:
        module = queue.pop()
        if module not in seen:
            seen.add(module)
            ours, others = AT_IMPORT[module]
            queue += ours
            packages |= others
    return packages


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_go_one_way(name):
    wrong = sorted(other for other in ALL[name][0] if _layer(other) > _layer(name))
    assert not wrong, f"{name} imports {', '.join(wrong)} from further down"


def test_no_cycles():
    graph = {name: ours - {name} for name, (ours, _) in ALL.items()}
    order = list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which names the cycle
    assert set(order) >= set(graph)


@pytest.mark.parametrize("name", sorted(name for name in MODULES if _matches(name, BACKEND_FREE)))
def test_numerical_core_names_no_backend(name):
    assert not _closure(name) & {"tensorflow", "jax", "torch"}
    assert name in ASK_TENSORFLOW or not ALL[name][1] & {"tensorflow", "jax", "torch"}


@pytest.mark.parametrize("name", LIGHT)
def test_light_modules_load_no_framework(name):
    assert not _closure(name) & {"tensorflow", "keras"}


def test_requirements_are_the_extras_together():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = {
        *project["dependencies"],
        *(one for extra in ("datasets", "tune", "serve", "scale", "report", "dev") for one in extras[extra]),
    }
    lines = (line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines())
    listed = [line for line in lines if line]
    assert sorted(listed) == sorted(wanted)
