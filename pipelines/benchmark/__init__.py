"""The benchmark: `python -m pipelines.benchmark`."""
