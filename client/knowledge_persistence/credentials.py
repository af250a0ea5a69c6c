"""Stored sign-ins: who this machine's user is at which deployment.

One file, `credentials.json` in the data directory, 0600, written whole and renamed into place. A server
rotates the refresh token with every use and takes the reuse of an old one for theft, so whoever refreshes
holds the lock, reads again what another process may just have stored, and stores the new token before letting
go.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, cast

from .errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A sign-in at one deployment.

    Attributes:
        user_id: the user.
        refresh_token: exchanged for the next access token; good once.
        access_token: what requests carry.
        expires_at: when the access token ends, in seconds since 1970.
        email: the user's address.
        password: only for the local user that the embedded stack made for itself.
    """

    user_id: str
    refresh_token: str
    access_token: str
    expires_at: int
    email: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return f"Credential(user_id={self.user_id!r}, email={self.email!r}, expires_at={self.expires_at})"


def normalize_url(url: str) -> str:
    """Return the form of a deployment's URL under which its sign-in is stored: no slash at the end."""
    return url.rstrip("/")


class CredentialStore:
    """The sign-ins stored in one data directory.

    Args:
        home: the data directory; made when the first sign-in is saved.
    """

    def __init__(self, home: Path) -> None:
        self.path = home / "credentials.json"

    @contextmanager
    def locked(self) -> Generator[None]:
        """Keep other processes and threads from changing the file.

        The lock belongs to the open file, so it may be released from another thread than took it.
        """
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Beside the file, not on it: the file is replaced, the lock stays.
        handle = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def load(self, url: str) -> Credential | None:
        """Return the sign-in at a deployment, or None.

        Raises:
            ConfigurationError: the file can't be read, or isn't what was written.
        """
        entry = self._read().get(normalize_url(url))
        if entry is None:
            return None
        try:
            return Credential(
                user_id=str(entry["user_id"]),
                refresh_token=str(entry["refresh_token"]),
                access_token=str(entry["access_token"]),
                expires_at=int(cast("int", entry["expires_at"])),
                email=cast("str | None", entry.get("email")),
                password=cast("str | None", entry.get("password")),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(
                f"{self.path} has an unreadable entry for {url}: {error!r}; `kp login` writes a new one"
            ) from error

    def save(self, url: str, credential: Credential) -> None:
        """Store a sign-in. The caller holds the lock, or doesn't care who wins.

        Raises:
            ConfigurationError: the file can't be written.
        """
        entry = {key: value for key, value in asdict(credential).items() if value is not None}
        self._write({**self._read(), normalize_url(url): entry})

    def delete(self, url: str) -> bool:
        """Forget a sign-in, and say whether there was one."""
        entries = self._read()
        found = entries.pop(normalize_url(url), None) is not None
        if found:
            self._write(entries)
        return found

    def _read(self) -> dict[str, dict[str, object]]:
        try:
            data = json.loads(self.path.read_text("utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"{self.path} can't be read: {error}") from error
        if not isinstance(data, dict):
            raise ConfigurationError(f"{self.path} can't be read: it holds no JSON object")
        return cast("dict[str, dict[str, object]]", data)

    def _write(self, entries: dict[str, dict[str, object]]) -> None:
        temporary: str | None = None
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # mkstemp makes it 0600 from the start.
            handle, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=".credentials-")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(entries, file, indent=2, sort_keys=True)
                file.write("\n")
                file.flush()
                # A refresh token lost in a power cut can't be had again: the old one is used up.
                os.fsync(file.fileno())
            os.replace(temporary, self.path)  # noqa: PTH105 - one call, and the name is already a string
            temporary = None
        except OSError as error:
            raise ConfigurationError(f"{self.path} can't be written: {error}") from error
        finally:
            if temporary is not None:
                os.unlink(temporary)  # noqa: PTH108
