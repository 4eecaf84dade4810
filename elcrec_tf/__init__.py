"""Sequential recommendation with end-to-end learned user intents (ELCRec) for TensorFlow and Keras.

Importing the package loads no TensorFlow: the public names are resolved on first use.
"""

import importlib
import sys

__version__ = "0.2.0"

if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    _message = (
        f"elcrec_tf needs Python 3.11, 3.12 or 3.13, this is Python {sys.version_info[0]}.{sys.version_info[1]}; "
        "make the environment with one of those, for example: python3.12 -m venv .venv"
    )
    if sys.argv[:1] == ["-m"]:  # a command of ours: Python imports the package before it knows the module's file
        sys.exit(f"error: {_message}")
    raise ImportError(_message)

_PUBLIC = {
    "Catalog": "elcrec_tf.data.catalog",
    "Client": "elcrec_tf.serving.client",
    "Config": "elcrec_tf.config",
    "ELCRec": "elcrec_tf.model",
    "Recommender": "elcrec_tf.serving.recommender",
    "RunFolder": "elcrec_tf.run_folder",
    "Sequences": "elcrec_tf.data.sequences",
    "UserError": "elcrec_tf.errors",
    "build_model": "elcrec_tf.model",
    "evaluate_model": "elcrec_tf.evaluation",
    "export_saved_model": "elcrec_tf.serving.saved_model",
    "load_dataset": "elcrec_tf.data.datasets",
    "resolve": "elcrec_tf.config",
    "train_model": "elcrec_tf.training",
}
__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> object:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'elcrec_tf' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
