"""Measurements, each a command: `python -m benchmarks.<name> --help`; `results/` holds what they wrote."""
