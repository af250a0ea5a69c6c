"""Benchmarks that a reader can run: each starts a stack of its own in a temporary directory and prints a table."""
