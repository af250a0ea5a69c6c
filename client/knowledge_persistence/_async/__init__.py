"""The client, written once: the sync one is generated from this package by `scripts/generate-sync`."""
