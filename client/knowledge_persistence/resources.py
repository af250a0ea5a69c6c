"""Where the SQL lies: in the checkout while one works on it, inside the package once it is installed."""

from __future__ import annotations

from pathlib import Path

from .errors import ConfigurationError

_PACKAGE = Path(__file__).resolve().parent


def _find(name: str) -> Path:
    # In a checkout the package is client/knowledge_persistence, and its SQL is two directories up.
    checkout = _PACKAGE.parents[1] / "supabase" / name
    packaged = _PACKAGE / "_resources" / name
    for candidate in (checkout, packaged):
        if candidate.is_dir():
            return candidate
    raise ConfigurationError(f"this installation is incomplete: neither {checkout} nor {packaged} exists")


def migrations_dir() -> Path:
    """Return the directory of the migrations that belong to this version of the package.

    Raises:
        ConfigurationError: the installation lacks it.
    """
    return _find("migrations")


def access_page() -> Path:
    """Return the page that says who may do what in the database of this version.

    Raises:
        ConfigurationError: the installation lacks it.
    """
    checkout = _PACKAGE.parents[1] / "docs" / "reference" / "access.md"
    packaged = _PACKAGE / "_resources" / "access.md"
    for candidate in (checkout, packaged):
        if candidate.is_file():
            return candidate
    raise ConfigurationError(f"this installation is incomplete: neither {checkout} nor {packaged} exists")


def bootstrap_dir() -> Path:
    """Return the directory of the SQL that gives a plain PostgreSQL what the migrations expect of Supabase.

    Raises:
        ConfigurationError: the installation lacks it.
    """
    return _find("bootstrap")
