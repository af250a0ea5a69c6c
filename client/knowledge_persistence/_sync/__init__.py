# Generated from _async/__init__.py by scripts/generate-sync: edit that, not this.
"""The synchronous client, generated from `_async`."""
