"""Benchmarks. Each module has `measure() -> dict`; `python -m bench` runs all and writes bench/results."""
