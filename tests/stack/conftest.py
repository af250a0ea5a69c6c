"""Stacks for the tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from databases import short_directory
from stacks import RunningStack, new_stack

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path


@pytest.fixture(scope="session")
def stack(shared_stack: RunningStack) -> RunningStack:
    """Give a running stack that all tests share: none of them stops it or changes its schema for good."""
    return shared_stack


@pytest.fixture
def home() -> Generator[Path]:
    """Name a data directory that doesn't exist yet; whatever runs in it afterwards is ended."""
    with short_directory() as directory:
        path = directory / "home"
        yield path
        new_stack(path).down()
