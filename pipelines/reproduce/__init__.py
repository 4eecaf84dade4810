"""The paper's experiments and ours, made again: `python -m pipelines.reproduce`."""
