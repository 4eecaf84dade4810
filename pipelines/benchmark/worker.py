"""`python -m pipelines.benchmark.worker`: one measurement. A spec in JSON on standard input, what was measured on standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from elcrec_tf import cli
from pipelines.benchmark import catalogue, comparison, evaluation, export, load, machine, rates, serving, training
from pipelines.benchmark import input as input_pipeline

MEASURES: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "train": training.measure,
    "evaluate": evaluation.measure,
    "input": input_pipeline.measure,
    "export": export.measure,
    "serve": export.measure_serving,
    "in-process": serving.measure_in_process,
    "load": load.measure,
    "catalogue": catalogue.measure,
    "rates": rates.measure,
    "training": comparison.measure,
}
"""Measurements by kind. Importing their modules loads no TensorFlow: each does that itself, and times it where that matters."""


def answer(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What the spec's `kind` measures, with the accelerators that it ran on, and the peak memory where the measurement took none."""
    result = MEASURES[spec["kind"]](spec)
    return {**machine.memory(), **result, "devices": machine.devices()}


def main(argv: list[str]) -> int:
    result = json.dumps(answer(json.load(sys.stdin)), allow_nan=False)
    print(f"\n{result}")  # on a line of its own, whatever a library has printed
    return 0


if __name__ == "__main__":
    cli.run(main)
