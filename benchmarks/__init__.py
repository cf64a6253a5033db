"""Timing scripts, side by side with peers; run as ``python -m benchmarks.<name>``."""
