"""Raw logs of any size to training data in shards, on Apache Spark: `python -m pipelines.prepare`."""
