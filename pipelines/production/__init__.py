"""From new logs to a model in service: each step can be resumed, and a gate decides whether the new model is published."""
