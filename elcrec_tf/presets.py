"""Named settings."""

from typing import Any

_PAPER: dict[str, Any] = {
    # The published code's settings. It has no cosine, sees padding as positions, and compares flattened states.
    "score": "dot",
    "next_item": "bce",
    "centers_start": "kmeans",
    "intent_pooling": "mean",
    "cluster_form": "paper",
    "temperature": 1.0,
    "similarity": "dot",
    "sequence_pooling": "flatten",
    "official_padding": True,
    "crop_ratio": 0.2,
    "mask_ratio": 0.7,
    "reorder_ratio": 0.2,
    "epochs": 300,
    "patience": 40,
    "learning_rate": 1e-3,
    # Similarities of flattened states go into the thousands, where bfloat16 has steps of 8 and more: larger than what the loss compares.
    "products": "float32",
}

PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # The best rankings found on validation (see pipelines/reproduce/NOTES.md); the contrastive losses bring nothing to it.
    "best": {
        "local_width": 3,
        "memory_weight": 1.0,
        "average_momentum": 0.995,
        "sequence_weight": 0.0,
        "intent_weight": 0.0,
        "epochs": 60,
        "patience": 6,
    },
    # What ELCRec is built upon, everything else as in the default: next item alone, with two views, and with intents by k-means.
    "sasrec": {"sequence_weight": 0.0, "intent_weight": 0.0, "cluster_weight": 0.0},
    "cl4srec": {"fusion": "none", "intent_weight": 0.0, "cluster_weight": 0.0},
    "iclrec": {"fusion": "none", "intent_clustering": "em", "cluster_weight": 0.0},
    # The embedded data set has 32 planted intents, few users and no item with few events: it wants little dropout and small batches.
    "simulated": {
        "num_clusters": 32,
        "dropout": 0.3,
        "epochs": 7,
        "batch_size": 128,
        "learning_rate": 3e-3,
        "patience": 3,
    },
    "paper-beauty": {**_PAPER, "num_clusters": 256, "cluster_weight": 10.0, "fusion": "shift", "num_layers": 1},
    "paper-sports": {**_PAPER, "num_clusters": 512, "cluster_weight": 1.0, "fusion": "concat", "num_layers": 2},
    "paper-toys": {**_PAPER, "num_clusters": 512, "cluster_weight": 1.0, "fusion": "concat", "num_layers": 3},
    "paper-yelp": {**_PAPER, "num_clusters": 256, "cluster_weight": 0.1, "fusion": "concat", "num_layers": 2},
}
"""Presets by name: the fields in which each differs from the defaults."""
