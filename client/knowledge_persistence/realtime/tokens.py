"""Who is there: keys and access tokens, verified, as the claims that the database is told."""

from __future__ import annotations

import hmac
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

import jwt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..embedded import StackConfig

_ROLES: Final = frozenset({"anon", "authenticated", "service_role"})


class TokenError(Exception):
    """A token is no good.

    Attributes:
        code: the protocol's name for what is wrong.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    @property
    def reason(self) -> str:
        """What a refused join is told."""
        return f"{self.code}: {self}"


@dataclass(frozen=True, slots=True)
class Claims:
    """Verified claims.

    Attributes:
        text: all of them, as JSON; two of the same text are the same person.
        role: the database role.
        subject: the user's id, or ''.
        expires_at: when they end, in seconds since 1970; None: never.
    """

    text: str
    role: str
    subject: str
    expires_at: float | None

    def seconds_left(self) -> float | None:
        """Return for how long they still hold; None: for ever."""
        return None if self.expires_at is None else self.expires_at - time.time()


class Verifier:
    """Verify keys and tokens of one stack.

    Args:
        publishable_key: with it alone somebody is anon.
        secret_key: its holder is the service.
        accepted_secrets: asked for each token; what it may be signed with.
    """

    def __init__(
        self, publishable_key: str, secret_key: str, accepted_secrets: Callable[[], Sequence[str]]
    ) -> None:
        self._keys = {publishable_key: "anon", secret_key: "service_role"}
        self._accepted_secrets = accepted_secrets

    @classmethod
    def of(cls, config: StackConfig) -> Verifier:
        """Make the verifier of a stack."""
        return cls(config.publishable_key, config.secret_key, config.accepted_secrets)

    def verify(self, token: str) -> Claims:
        """Verify a key or a token.

        Raises:
            TokenError: it is neither.
        """
        for key, role in self._keys.items():
            if hmac.compare_digest(key.encode(), token.encode()):
                return Claims(json.dumps({"role": role}), role, "", None)
        claims = self._decode(token)
        role, expires_at = claims.get("role"), claims.get("exp")
        if not isinstance(role, str) or not isinstance(expires_at, (int, float)):
            raise TokenError("InvalidJWTToken", "Fields `role` and `exp` are required in JWT")
        if role not in _ROLES:
            raise TokenError("InvalidJWTToken", "The role of the token is no role of the API")
        late = time.time() - expires_at
        if late >= 0:
            raise TokenError("InvalidJWTToken", f"Token has expired {int(late)} seconds ago")
        # Sorted, so that two tokens of one person differ in what differs.
        return Claims(
            json.dumps(claims, sort_keys=True), role, str(claims.get("sub") or ""), float(expires_at)
        )

    def _decode(self, token: str) -> dict[str, object]:
        wrong: jwt.InvalidSignatureError | None = None
        for secret in self._accepted_secrets():
            try:
                return cast(
                    "dict[str, object]",
                    jwt.decode(
                        token,
                        secret,
                        algorithms=["HS256"],
                        options={"verify_aud": False, "verify_exp": False},
                    ),
                )
            except jwt.InvalidSignatureError as error:
                wrong = error
            except jwt.PyJWTError as error:
                raise TokenError("MalformedJWT", "The token provided is not a valid JWT") from error
        raise TokenError("JwtSignatureError", "Failed to validate JWT signature") from wrong
