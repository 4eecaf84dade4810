"""Whole jobs that compose the package: preparing logs at scale, production runs, reproduction, benchmarks."""
