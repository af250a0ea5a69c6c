"""Every secret of a self-hosted deployment, made at once, for `.env`.

The formats are those of self-hosted Supabase: opaque API keys with a checksum, an EC key that signs tokens, the key
set that verifies them, and the tokens that the gateway gives the services behind it in place of an API key.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from ..errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: Seconds for which the tokens of the API keys are valid: five years. Rotation is what ends them.
TOKEN_LIFETIME: Final = 5 * 365 * 24 * 3600

_CHECKSUM_SALT = "supabase-self-hosted|"
_VARIABLE = re.compile(r"(?m)^(?P<comment># ?)?(?P<name>[A-Z][A-Z0-9_]*)=(?P<value>.*)$")


def opaque_key(kind: str) -> str:
    """Make an API key in the documented format: prefix, 22 random characters, checksum.

    Args:
        kind: "publishable" or "secret".
    """
    body = f"sb_{kind}_{secrets.token_urlsafe(16)}"
    return f"{body}_{_checksum(body)}"


def is_opaque_key(text: str) -> bool:
    """Tell whether a text is an API key whose checksum holds."""
    found = re.fullmatch(r"(sb_(?:publishable|secret)_[A-Za-z0-9_-]{22})_([A-Za-z0-9_-]{8})", text)
    return found is not None and secrets.compare_digest(_checksum(found[1]), found[2])


def _checksum(body: str) -> str:
    digest = hashlib.sha256((_CHECKSUM_SALT + body).encode()).digest()
    return base64.urlsafe_b64encode(digest).decode()[:8]


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key that signs tokens (ES256), and what it is known by.

    Attributes:
        private: the whole key as a JWK.
        public: what verifies, as a JWK.
    """

    private: dict[str, Any]
    public: dict[str, Any]

    @classmethod
    def generate(cls) -> SigningKey:
        """Make a fresh one."""
        numbers = ec.generate_private_key(ec.SECP256R1()).private_numbers()
        point = numbers.public_numbers
        curve = {"kty": "EC", "crv": "P-256", "x": _coordinate(point.x), "y": _coordinate(point.y)}
        # RFC 7638: the thumbprint names the key, whoever computes it.
        members = json.dumps(dict(sorted(curve.items())), separators=(",", ":"))
        named = {"kid": _base64url(hashlib.sha256(members.encode()).digest()), "alg": "ES256", "use": "sig"}
        return cls(
            private={
                **curve,
                **named,
                "d": _coordinate(numbers.private_value),
                "key_ops": ["sign", "verify"],
            },
            public={**curve, **named, "key_ops": ["verify"]},
        )

    def sign(self, claims: Mapping[str, Any]) -> str:
        """Return a token with these claims."""
        key = jwt.PyJWK(self.private)
        return jwt.encode(dict(claims), key.key, algorithm="ES256", headers={"kid": str(self.private["kid"])})


def _coordinate(value: int) -> str:
    return _base64url(value.to_bytes(32, "big"))


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def shared_key(secret: str) -> dict[str, Any]:
    """Return a shared secret (HS256) as a JWK, for key sets."""
    return {"kty": "oct", "k": _base64url(secret.encode()), "alg": "HS256"}


def generate_secrets(*, now: float | None = None) -> dict[str, str]:
    """Make all secrets of a deployment, by the names of docker-compose.yml.

    Passwords are letters and digits: they go into URLs.

    Args:
        now: seconds since 1970 that the tokens say they were made at; None: now.
    """
    issued = int(time.time() if now is None else now)
    signing, jwt_secret = SigningKey.generate(), secrets.token_hex(32)
    claims = {
        role: {"role": role, "iss": "supabase", "iat": issued, "exp": issued + TOKEN_LIFETIME}
        for role in ("anon", "service_role")
    }
    return {
        "POSTGRES_PASSWORD": secrets.token_hex(24),
        "AUTHENTICATOR_PASSWORD": secrets.token_hex(24),
        "DASHBOARD_USERNAME": "operator",
        "DASHBOARD_PASSWORD": secrets.token_urlsafe(18),
        "SUPABASE_PUBLISHABLE_KEY": opaque_key("publishable"),
        "SUPABASE_SECRET_KEY": opaque_key("secret"),
        "JWT_SECRET": jwt_secret,
        "JWT_KEYS": _compact([signing.private, {**shared_key(jwt_secret), "key_ops": ["verify"]}]),
        "JWT_JWKS": _compact({"keys": [signing.public, shared_key(jwt_secret)]}),
        "ANON_KEY": jwt.encode(claims["anon"], jwt_secret, "HS256"),
        "SERVICE_ROLE_KEY": jwt.encode(claims["service_role"], jwt_secret, "HS256"),
        "ANON_KEY_ASYMMETRIC": signing.sign(claims["anon"]),
        "SERVICE_ROLE_KEY_ASYMMETRIC": signing.sign(claims["service_role"]),
        "SECRET_KEY_BASE": secrets.token_hex(32),
        # Realtime's is an AES-128 key and the pooler's an AES-256 key, taken character by character.
        "REALTIME_DB_ENC_KEY": secrets.token_hex(8),
        "VAULT_ENC_KEY": secrets.token_hex(16),
        "PG_META_CRYPTO_KEY": secrets.token_hex(16),
        "LOGFLARE_PUBLIC_ACCESS_TOKEN": secrets.token_hex(32),
        "LOGFLARE_PRIVATE_ACCESS_TOKEN": secrets.token_hex(32),
    }


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def fill_in(template: str, values: Mapping[str, str]) -> str:
    """Return the text of an env file with these variables set, everything else as it was.

    Args:
        template: the text of `.env.example`, or of an existing `.env`.
        values: by name; JSON is quoted for docker compose and python-dotenv alike.

    Raises:
        ConfigurationError: the template lacks one of the variables.
    """
    left = dict(values)

    def put(match: re.Match[str]) -> str:
        name = match["name"]
        return f"{name}={_quoted(left.pop(name))}" if name in left else match[0]

    text = _VARIABLE.sub(put, template)
    if left:
        raise ConfigurationError(f"the template has no variable {', '.join(sorted(left))}")
    return text


def _quoted(value: str) -> str:
    return value if re.fullmatch(r"[A-Za-z0-9._:/@+=-]*", value) else f"'{value}'"


def write_private_text(path: Path, text: str) -> None:
    """Write a file for its owner's eyes only, all of it or nothing, and on the disk when this returns.

    Args:
        path: where it goes; what is there is replaced.
        text: what it says.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
