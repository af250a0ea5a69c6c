"""Where a client connects, and as whom: arguments, then settings, then the embedded stack."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias, cast
from urllib.parse import urlsplit

from ._jwt import refused, verified_claims
from ._values import is_id, to_id
from .credentials import CredentialStore, normalize_url
from .errors import ConfigurationError, NotRunningError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from .settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpTarget:
    """A deployment's origin, and who to be there. Without a token or a password, `store` has the sign-in."""

    url: str
    api_key: str = field(repr=False)
    service_role: bool = False
    access_token: str | None = field(default=None, repr=False)
    refresh_token: str | None = field(default=None, repr=False)
    email: str | None = None
    password: str | None = field(default=None, repr=False)
    store: CredentialStore | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectTarget:
    """A database, and the role and claims to state there."""

    dsn: str = field(repr=False)
    role: str
    claims: Mapping[str, object]
    replica_dsn: str | None = field(default=None, repr=False)


Target: TypeAlias = "HttpTarget | DirectTarget"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedStack:
    """What the embedded stack of a data directory says of itself in `stack.json`."""

    url: str
    publishable_key: str
    secret_key: str = field(repr=False)
    jwt_secret: str = field(repr=False)
    database_url: str = field(repr=False)


def read_embedded_stack(settings: Settings) -> EmbeddedStack | None:
    """Read the data directory's stack, running or not; None when there is none.

    Raises:
        ConfigurationError: its file can't be read.
    """
    path = settings.home / "stack.json"
    try:
        data = cast("dict[str, object]", json.loads(path.read_text("utf-8")))
        ports = cast("dict[str, int]", data["ports"])
        passwords = cast("dict[str, str]", data["passwords"])
        return EmbeddedStack(
            url=f"http://127.0.0.1:{ports['origin']}",
            publishable_key=cast("str", data["publishable_key"]),
            secret_key=cast("str", data["secret_key"]),
            jwt_secret=cast("str", data["jwt_secret"]),
            database_url=(
                f"postgresql://authenticator:{passwords['authenticator']}@127.0.0.1:{ports['database']}/postgres"
            ),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{path} can't be read: {error!r}") from error


def resolve_target(
    settings: Settings,
    *,
    url: str | None = None,
    api_key: str | None = None,
    access_token: str | None = None,
    refresh_token: str | None = None,
    email: str | None = None,
    password: str | None = None,
    user_id: UUID | str | None = None,
    jwt_secret: str | None = None,
    service_role: bool = False,
    replica_url: str | None = None,
) -> Target:
    """Decide where to connect and as whom; see `connect`.

    Raises:
        ConfigurationError: something is missing or contradictory.
        NotRunningError: no URL is known, and there is no embedded stack.
        AuthenticationError: the access token is not genuine.
    """
    url = url or settings.url
    embedded: EmbeddedStack | None = None
    if url is None:
        embedded = read_embedded_stack(settings)
        if embedded is None:
            raise NotRunningError(
                f"there is no embedded stack in {settings.home}: `kp up` makes and starts one, or KP_URL "
                "names another deployment"
            )
        url = embedded.url
    scheme = urlsplit(url).scheme
    if scheme in {"postgresql", "postgres"}:
        if email or password or refresh_token:
            raise ConfigurationError(
                "a direct connection takes user_id, or access_token with jwt_secret; email, password and "
                "refresh_token are for the Data API"
            )
        # An identity that was passed is not mixed with another from the environment.
        if user_id is None and access_token is None:
            user_id, access_token = settings.user_id, settings.access_token
        target = _direct(
            url, user_id, access_token, jwt_secret or settings.jwt_secret, service_role=service_role
        )
        return replace(target, replica_dsn=_replica(replica_url or settings.replica_url))
    if replica_url is not None:
        raise ConfigurationError("replica_url is for direct connections: the Data API has its own database")
    if scheme not in {"http", "https"}:
        raise ConfigurationError(f"{url!r} is neither http(s):// nor postgresql://")
    if user_id is not None:
        raise ConfigurationError("user_id is for a direct connection; over HTTP, sign in")
    return _http(
        settings,
        normalize_url(url),
        embedded,
        HttpTarget(
            url=normalize_url(url),
            api_key=api_key or settings.api_key or "",
            service_role=service_role,
            access_token=access_token,
            refresh_token=refresh_token,
            email=email,
            password=password,
        ),
    )


def _replica(url: str | None) -> str | None:
    if url is not None and urlsplit(url).scheme not in {"postgresql", "postgres"}:
        raise ConfigurationError("the replica's URL is not postgresql://")
    return url


def _http(settings: Settings, url: str, embedded: EmbeddedStack | None, asked: HttpTarget) -> HttpTarget:
    if (asked.email is None) != (asked.password is None):
        raise ConfigurationError("email and password go together")
    api_key = asked.api_key
    if not api_key:
        stack = embedded or read_embedded_stack(settings)
        if stack is not None and stack.url == url:
            api_key = stack.secret_key if asked.service_role else stack.publishable_key
    if not api_key:
        raise ConfigurationError(f"no key for {url}: pass api_key or set KP_API_KEY")
    if asked.service_role:
        if asked.access_token or asked.email or asked.refresh_token:
            raise ConfigurationError("service_role acts as nobody: leave the user's sign-in out")
        if api_key.startswith("sb_publishable_"):
            raise ConfigurationError("service_role needs the secret key, not the publishable one")
        return HttpTarget(url=url, api_key=api_key, service_role=True)
    named = asked.access_token or asked.refresh_token or asked.email
    access_token = asked.access_token if named else settings.access_token
    return HttpTarget(
        url=url,
        api_key=api_key,
        access_token=access_token,
        refresh_token=asked.refresh_token,
        email=asked.email,
        password=asked.password,
        store=None if named or access_token else CredentialStore(settings.home),
    )


def _direct(
    dsn: str,
    user_id: UUID | str | None,
    access_token: str | None,
    jwt_secret: str | None,
    *,
    service_role: bool,
) -> DirectTarget:
    if service_role:
        if user_id or access_token:
            raise ConfigurationError("service_role acts as nobody: leave user_id and access_token out")
        return DirectTarget(dsn=dsn, role="service_role", claims={})
    if access_token is not None:
        if jwt_secret is None:
            raise ConfigurationError(
                "an access token is verified before it is believed: pass jwt_secret or set KP_JWT_SECRET"
            )
        claims = verify_token(access_token, jwt_secret)
        if user_id is not None and str(to_id(user_id, "user")) != claims["sub"]:
            raise ConfigurationError("user_id is not the user of the access token")
        return DirectTarget(dsn=dsn, role="authenticated", claims=claims)
    if user_id is None:
        raise ConfigurationError(
            "who is it? A direct connection takes user_id, access_token with jwt_secret, or service_role"
        )
    subject = str(to_id(user_id, "user"))
    return DirectTarget(
        dsn=dsn,
        role="authenticated",
        claims={"sub": subject, "role": "authenticated", "aud": "authenticated"},
    )


def verify_token(token: str, secret: str) -> Mapping[str, object]:
    """Verify a user's access token and return its claims.

    Args:
        token: the token.
        secret: the shared secret, or a JSON Web Key Set (as text) for asymmetric and mixed keys.

    Raises:
        AuthenticationError: it is altered, expired, of another deployment, or no signed-in user's.
    """
    claims = verified_claims(token, secret, audience="authenticated")
    if claims.get("role") != "authenticated" or not is_id(str(claims.get("sub"))):
        raise refused(f"its role is {claims.get('role')!r} and its subject {claims.get('sub')!r}: no user's")
    return claims
