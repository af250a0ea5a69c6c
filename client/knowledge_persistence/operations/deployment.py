"""A docker compose deployment, as its `.env` describes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dotenv import dotenv_values

from ..errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path


def read_env_file(path: Path) -> dict[str, str]:
    """Read an env file; what is empty is left out.

    Raises:
        ConfigurationError: it isn't there.
    """
    if not path.is_file():
        raise ConfigurationError(f"there is no file {path}")
    return {name: value for name, value in dotenv_values(path, interpolate=False).items() if value}


def host_of(values: dict[str, str]) -> str:
    """Return the address at which a deployment's published ports are found from this machine.

    Args:
        values: what `read_env_file` returned.
    """
    host = values.get("BIND_ADDRESS", "127.0.0.1")
    return "127.0.0.1" if host in {"0.0.0.0", "::"} else host  # noqa: S104 - what it listens on, asked here


def superuser_url(path: Path, *, role: str = "supabase_admin") -> str:
    """Return the URL of the superuser of the deployment that an env file describes, on this machine.

    Args:
        path: the file.
        role: another role that has the superuser's password, such as postgres.

    Raises:
        ConfigurationError: the file has no password.
    """
    values = read_env_file(path)
    if "POSTGRES_PASSWORD" not in values:
        raise ConfigurationError(f"{path} has no POSTGRES_PASSWORD; scripts/generate-keys makes one")
    host = host_of(values)
    port = values.get("POSTGRES_PORT", "5432")
    return f"postgresql://{role}:{values['POSTGRES_PASSWORD']}@{host}:{port}/postgres"
