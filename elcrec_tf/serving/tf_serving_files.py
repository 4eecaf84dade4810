"""The files that start the real TensorFlow Serving on an exported model, written beside its versions."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path

from elcrec_tf.files import write_text
from elcrec_tf.serving.layout import ALLOWED_BATCH_SIZES, SERVING_FILES

MODELS_CONFIG = "models.config"
_STABLE = re.compile(r'key:\s*"stable"\s+value:\s*(\d+)')
_LISTED = re.compile(r"\bversions:\s*(\d+)")


def stable_version(directory: Path, versions: Collection[int]) -> int:
    """The version labelled stable: what models.config says, as long as that version is there. Else the newest that models.config lists,
    which is loaded where it is served; else the oldest.

    Args:
        directory: the model's folder.
        versions: those that are there, at least one.
    """
    try:
        text = (directory / SERVING_FILES / MODELS_CONFIG).read_text(encoding="utf-8")
    except OSError:
        text = ""
    labelled, listed = ({int(number) for number in pattern.findall(text)} & {*versions} for pattern in (_STABLE, _LISTED))
    return max(labelled or listed or {min(versions)})


def write_serving_files(directory: Path, versions: Collection[int]) -> None:
    """Write models.config for these versions, and the other files where there are none yet (they are yours to edit).

    Served are the newest version, which answers requests that name none, and the one labelled stable, which stays what it was. To promote
    the newest one, write its number behind "stable". It has no label of its own: TensorFlow Serving refuses a whole models.config that
    moves a label to a version which is not loaded yet, and so would never load it.

    Args:
        directory: the model's folder.
        versions: those to serve, at least one.
    """
    folder, name = directory / SERVING_FILES, directory.resolve().name
    stable = stable_version(directory, versions)
    write_text(folder / MODELS_CONFIG, _models_config(name, sorted({stable, max(versions)}), stable))
    others = {
        "batching.config": _batching_config(),
        "monitoring.config": 'prometheus_config {\n  enable: true\n  path: "/monitoring/prometheus/metrics"\n}\n',
        "prometheus.yml": _PROMETHEUS,
        "docker-compose.yml": _DOCKER_COMPOSE.replace("NAME", name),
    }
    for file, text in others.items():
        if not (folder / file).exists():
            write_text(folder / file, text)


def _models_config(name: str, versions: Collection[int], stable: int) -> str:
    policy = " ".join(f"versions: {version}" for version in versions)
    lines = [
        "# Made by each export: requests without a version get the newest one, those with the label stable get that one.",
        '# To promote the newest, write its number behind "stable".',
        "# TensorFlow Serving reads this again by itself (--model_config_file_poll_wait_seconds); to start with a label it needs",
        "# --allow_version_labels_for_unavailable_models=true, which a docker-compose.yml of an older elcrec_tf lacks.",
        "model_config_list {",
        "  config {",
        f'    name: "{name}"',
        f'    base_path: "/models/{name}"',
        '    model_platform: "tensorflow"',
        f"    model_version_policy {{ specific {{ {policy} }} }}",
        f'    version_labels {{ key: "stable" value: {stable} }}',
        "  }",
        "}",
    ]
    return "\n".join(lines) + "\n"


def _batching_config() -> str:
    """Batches of sizes that the warm-up knows; short histories are padded with the empty string, which means padding."""
    values = {
        "max_batch_size": ALLOWED_BATCH_SIZES[-1],
        "batch_timeout_micros": 1000,
        "max_enqueued_batches": 100,
        "num_batch_threads": os.cpu_count() or 1,
    }
    lines = [f"{name} {{ value: {value} }}" for name, value in values.items()]
    return "\n".join([*lines, *(f"allowed_batch_sizes: {size}" for size in ALLOWED_BATCH_SIZES), "pad_variable_length_inputs: true"]) + "\n"


_PROMETHEUS = """\
scrape_configs:
  - job_name: tensorflow_serving
    scrape_interval: 5s
    metrics_path: /monitoring/prometheus/metrics
    static_configs:
      - targets: ["serving:8501"]
"""

_DOCKER_COMPOSE = """\
# docker compose up    in this folder: TensorFlow Serving on port 8500 (gRPC) and Prometheus on port 9090, on this machine only.
services:
  serving:
    image: tensorflow/serving:${TF_SERVING_VERSION:-latest}
    volumes:
      - ..:/models/NAME:ro
    command:
      - --port=8500
      - --rest_api_port=8501
      - --model_config_file=/models/NAME/tf_serving/models.config
      - --model_config_file_poll_wait_seconds=10
      - --allow_version_labels_for_unavailable_models=true  # at the start nothing is loaded that a label could stand for
      - --enable_batching=true
      - --batching_parameters_file=/models/NAME/tf_serving/batching.config
      - --monitoring_config_file=/models/NAME/tf_serving/monitoring.config
    ports:
      - "127.0.0.1:8500:8500"
    restart: unless-stopped
  prometheus:
    image: prom/prometheus:latest
    volumes:
      - ./prometheus.yml:/etc/prometheus/prometheus.yml:ro
    ports:
      - "127.0.0.1:9090:9090"
    restart: unless-stopped
"""
