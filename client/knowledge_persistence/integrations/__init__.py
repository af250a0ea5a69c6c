"""Adapters for agent frameworks. Each needs its framework: install the extra of its name."""
