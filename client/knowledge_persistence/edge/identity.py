"""Who sends a request: a user's sign-in, an agent's token, or the secret key.

`Doorkeeper.admit` turns the headers of a request into a `Caller`: who it is, and a client that acts as them. All
callers share one pool of connections; role and claims are set for each transaction, as for every direct client.
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal
from uuid import UUID

from .._async.client import AsyncKnowledgeClient
from .._async.direct import AsyncDirectTransport
from .._jwt import refused, verified_claims
from .._values import invalid, is_id
from ..errors import AuthenticationError, ConfigurationError, PermissionDeniedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..embedders import Embedder
    from ..rerankers import BoundedReranker

#: What an agent's token begins with.
AGENT_TOKEN_PREFIX: Final = "kpt_"  # noqa: S105 - no password
_AGENT_TOKEN: Final = re.compile(rf"{AGENT_TOKEN_PREFIX}[0-9a-f]{{64}}")
#: What an API key begins with that is no signed token.
_OPAQUE_PREFIX: Final = "sb_"
_HINT: Final = "send a user's access token or an agent's token: Authorization: Bearer …"

Role = Literal["authenticated", "service_role"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Whoever sent a request.

    Attributes:
        role: authenticated (a user, or an agent for one) or service_role (the secret key).
        user_id: the user; None for the service.
        workspace_id: the one workspace that an agent's token opens; None: not an agent.
        token_id: the agent's token; None: not an agent.
        client: acts as the caller, in the workspace and session that the request names. Closing it closes nothing
            of anybody else's; a request may simply drop it.
    """

    role: Role
    user_id: UUID | None
    workspace_id: UUID | None
    token_id: UUID | None
    client: AsyncKnowledgeClient

    @property
    def key(self) -> str:
        """By what requests are counted: the user, however they signed in; the service."""
        return self.role if self.user_id is None else str(self.user_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Credential:
    role: Role
    claims: Mapping[str, object]
    user_id: UUID | None = None
    workspace_id: UUID | None = None
    token_id: UUID | None = None


class Doorkeeper:
    """Find out who sends a request.

    Args:
        database_url: PostgreSQL URL, login authenticator.
        keys: asked for each token: what it may be signed with, a shared secret or a JSON Web Key Set.
        secret_key: the opaque secret key, where no gateway turns it into a token on the way.
        embedder: shared by all callers; None: search goes by words.
        reranker: likewise; None: the search's own order stands.
        timeout: seconds until the database gives a statement up.
        connections: connections to the database at most.
    """

    def __init__(
        self,
        database_url: str,
        keys: Callable[[], str],
        *,
        secret_key: str | None = None,
        embedder: Embedder | None = None,
        reranker: BoundedReranker | None = None,
        timeout: float = 30.0,
        connections: int = 8,
    ) -> None:
        self._keys = keys
        self._secret_key = secret_key
        self._embedder = embedder
        self._reranker = reranker
        self._transport = AsyncDirectTransport(
            database_url, role="service_role", claims={}, timeout=timeout, pool_size=connections
        )
        self._service = AsyncKnowledgeClient(self._transport)

    @property
    def embedder(self) -> Embedder | None:
        """What all callers' texts are embedded with."""
        return self._embedder

    @property
    def service(self) -> AsyncKnowledgeClient:
        """A client that acts as the service: for what isn't done in any caller's name."""
        return self._service

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    async def admit(self, headers: Mapping[str, str]) -> Caller:
        """Return who sends a request with these headers.

        Args:
            headers: by lower-case name: `authorization`, `apikey`, `x-workspace-id`, `x-session-id`, and
                `sb-api-key`, in which a gateway hands on what it made of a key.

        Raises:
            AuthenticationError: nobody in particular (no token, or the publishable key alone), or a token that is
                altered, expired, revoked or unknown.
            PermissionDeniedError: an agent names another workspace than its own.
            InvalidArgumentError: a workspace or session id is no UUID.
            TransportError: the database is away.
        """
        credential = await self._credential(headers)
        workspace = _context_id(headers, "workspace")
        if credential.workspace_id is not None:
            if workspace not in {None, credential.workspace_id}:
                raise PermissionDeniedError(
                    "the token is bound to another workspace",
                    code="PT403",
                    status=403,
                    hint="leave x-workspace-id out: the token brings its workspace",
                )
            workspace = credential.workspace_id
        return Caller(
            role=credential.role,
            user_id=credential.user_id,
            workspace_id=credential.workspace_id,
            token_id=credential.token_id,
            client=AsyncKnowledgeClient(
                self._transport.acting_as(credential.role, credential.claims),
                embedder=self._embedder,
                reranker=self._reranker,
                workspace=workspace,
                session=_context_id(headers, "session"),
            ),
        )

    async def _credential(self, headers: Mapping[str, str]) -> _Credential:
        scheme, _, sent = headers.get("authorization", "").partition(" ")
        bearer = sent.strip() if scheme.lower() == "bearer" else ""
        if bearer.startswith(AGENT_TOKEN_PREFIX):
            return await self._agent(bearer)
        if bearer and not bearer.startswith(_OPAQUE_PREFIX):
            return self._signed(bearer)
        # Nobody signed in: the key alone says who it is. Clients send it as a bearer token as well.
        for key in (headers.get("sb-api-key"), bearer, headers.get("apikey")):
            if not key:
                continue
            if not key.startswith(_OPAQUE_PREFIX):
                return self._signed(key)
            if self._secret_key is not None and hmac.compare_digest(key.encode(), self._secret_key.encode()):
                return _Credential(role="service_role", claims={})
        raise AuthenticationError("nobody is signed in", code="PT401", status=401, hint=_HINT)

    async def _agent(self, token: str) -> _Credential:
        # What is no token by its form doesn't cost the database a look.
        holder = (
            await self._service.authenticate_agent_token(token) if _AGENT_TOKEN.fullmatch(token) else None
        )
        if holder is None:
            raise AuthenticationError(
                "the agent's token is not accepted: it is unknown, revoked or expired",
                code="PT401",
                status=401,
                hint="`kp tokens list` shows which there are, `kp tokens create` makes another",
            )
        return _Credential(
            role="authenticated",
            # The database holds every statement to this one workspace, whatever it is asked for.
            claims={
                "sub": str(holder.user_id),
                "role": "authenticated",
                "aud": "authenticated",
                "kp_workspace": str(holder.workspace_id),
            },
            user_id=holder.user_id,
            workspace_id=holder.workspace_id,
            token_id=holder.token_id,
        )

    def _signed(self, token: str) -> _Credential:
        claims = verified_claims(token, self._keys(), audience=None)
        role = claims.get("role")
        if role == "service_role":
            return _Credential(role="service_role", claims={})
        if role == "anon":
            raise AuthenticationError("nobody is signed in", code="PT401", status=401, hint=_HINT)
        subject = claims.get("sub")
        if role != "authenticated" or not isinstance(subject, str) or not is_id(subject):
            raise refused("it is no user's")
        return _Credential(role="authenticated", claims=claims, user_id=UUID(subject))


def _context_id(headers: Mapping[str, str], what: str) -> UUID | None:
    # As the database reads them: an empty one is none, and one that is no id is an error and no name.
    given = headers.get(f"x-{what}-id")
    if not given:
        return None
    if not is_id(given):
        raise invalid(f"the {what} id is not a UUID", f"send it as a UUID in the header x-{what}-id")
    return UUID(given)


def key_source(text: str) -> Callable[[], str]:
    """Return what gives these keys each time: for a deployment whose keys don't change while this runs.

    Args:
        text: the shared secret, or a JSON Web Key Set.

    Raises:
        ConfigurationError: it begins like a key set and is none.
    """
    if text.lstrip().startswith("{"):
        import jwt  # noqa: PLC0415 - brings the cryptography along, and few need it

        try:
            jwt.PyJWKSet.from_json(text)
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise ConfigurationError(f"KP_JWT_SECRET is no JSON Web Key Set: {error}") from error
    return lambda: text
