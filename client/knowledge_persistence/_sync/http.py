# Generated from _async/http.py by scripts/generate-sync: edit that, not this.
"""The HTTP transport: the official Supabase client, against any deployment's origin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast
from urllib.parse import urlsplit

import httpx
import postgrest
from supabase import Client, ClientOptions, create_client

from knowledge_persistence._values import json_argument
from knowledge_persistence._waiting import Lock
from knowledge_persistence.errors import (
    APIError,
    AuthenticationError,
    ServerError,
    TransportError,
    error_from_sqlstate,
)
from knowledge_persistence.models import Identity

from .signin import SignIn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from postgrest.types import JSON as PostgrestJSON  # noqa: N811 - a type alias

    from knowledge_persistence._values import Argument, CallMode, RequestContext, Row, Scalar
    from knowledge_persistence.credentials import CredentialStore


class _Answer(Protocol):
    data: object


class _Request(Protocol):
    """What is used of postgrest's request builders, which share no public base."""

    request: postgrest.base_request_builder.RequestConfig[httpx.Client]

    def execute(self) -> _Answer: ...


class HttpTransport:
    """Call the functions through the Data API, as a signed-in user or as the service.

    Args:
        url: the deployment's origin.
        api_key: publishable key; for the service, the secret key.
        service_role: act as the service, by the secret key alone.
        access_token: see `SignIn`.
        refresh_token: see `SignIn`.
        email: see `SignIn`.
        password: see `SignIn`.
        store: see `SignIn`.
        timeout: seconds until a request is given up.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        *,
        service_role: bool = False,
        access_token: str | None = None,
        refresh_token: str | None = None,
        email: str | None = None,
        password: str | None = None,
        store: CredentialStore | None = None,
        timeout: float = 30.0,
    ) -> None:
        self._url = url.rstrip("/")
        self._api_key = api_key
        parts = urlsplit(self._url)
        self._http = httpx.Client(
            timeout=httpx.Timeout(timeout, connect=min(timeout, 10.0)),
            follow_redirects=True,
            # Loading the certificates takes longer than a call; plain HTTP has no use for them.
            verify=parts.scheme == "https",
            # A proxy that the environment names is not on the way to this machine.
            trust_env=parts.hostname not in {"localhost", "127.0.0.1", "::1"},
        )
        self.sign_in: SignIn | None = None
        if not service_role:
            self.sign_in = SignIn(
                self._url,
                api_key,
                self._http,
                access_token=access_token,
                refresh_token=refresh_token,
                email=email,
                password=password,
                store=store,
            )
        self._opening = Lock()
        self._client: Client | None = None

    @property
    def url(self) -> str:
        """The deployment's origin."""
        return self._url

    @property
    def api_key(self) -> str:
        """The key that requests carry."""
        return self._api_key

    def open(self) -> None:
        """Sign in, so that a wrong URL or password shows now."""
        self._connected()
        if self.sign_in is not None:
            self.sign_in.token()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _connected(self) -> Client:
        with self._opening:
            if self._client is None:
                self._client = create_client(
                    self._url,
                    self._api_key,
                    ClientOptions(
                        auto_refresh_token=False,
                        persist_session=False,
                        httpx_client=self._http,
                        # Retries are the caller's: it knows which calls may be repeated.
                        postgrest_client_retry=False,
                    ),
                )
            return self._client

    def call(
        self, function: str, arguments: Mapping[str, Argument], context: RequestContext, *, mode: CallMode
    ) -> list[Row]:
        """Call a function; see `Transport.call`."""
        del mode  # a function that only reads is run read-only by the gateway
        body = {name: json_argument(value) for name, value in arguments.items()}
        return self._send(lambda client: cast("_Request", client.rpc(function, body)), context)

    def select(
        self,
        table: str,
        columns: Sequence[str],
        context: RequestContext,
        *,
        equal: Mapping[str, Scalar] | None = None,
        order: str | None = None,
        limit: int | None = None,
    ) -> list[Row]:
        """Read rows of a table; see `Transport.select`."""

        def build(client: Client) -> _Request:
            query = client.table(table).select(",".join(columns))
            for name, value in (equal or {}).items():
                query = query.eq(name, cast("PostgrestJSON", json_argument(value)))
            if order is not None:
                query = query.order(order, desc=True)
            if limit is not None:
                query = query.limit(limit)
            return cast("_Request", query)

        return self._send(build, context)

    def snapshot(self, context: RequestContext) -> None:
        """Say that each request sees its own moment; see `Transport.snapshot`."""
        del context

    def identity(self) -> Identity:
        """Ask the deployment who this client is."""
        if self.sign_in is not None:
            return self.sign_in.identity()
        self._send(
            lambda client: cast("_Request", client.table("embedding_models").select("name").limit(1)), None
        )
        return Identity(role="service_role")

    def _send(self, build: Callable[[Client], _Request], context: RequestContext | None) -> list[Row]:
        client = self._connected()
        for attempt in range(2):
            request = build(client)
            headers = request.request.headers
            token: str | None = None
            if self.sign_in is not None:
                token = self.sign_in.token()
                headers["Authorization"] = f"Bearer {token}"
            if context is not None and context.workspace is not None:
                headers["x-workspace-id"] = str(context.workspace)
            if context is not None and context.session is not None:
                headers["x-session-id"] = str(context.session)
            try:
                answer = request.execute()
            except postgrest.APIError as error:
                failure = _api_error(error, self._url)
                # A refused token means that nothing was done: once, with another token.
                if (
                    attempt == 0
                    and self.sign_in is not None
                    and isinstance(failure, AuthenticationError)
                    and self.sign_in.renew(token)
                ):
                    continue
                raise failure from error
            except httpx.HTTPError as error:
                raise _transport_error(error, self._url) from error
            return _rows(answer.data, self._url)
        raise AssertionError("unreachable")


def _rows(data: object, url: str) -> list[Row]:
    if isinstance(data, list):
        rows = cast("list[object]", data)
        if all(isinstance(row, dict) for row in rows):
            return cast("list[Row]", rows)
    elif isinstance(data, dict):
        return [cast("Row", data)]
    elif data is None or data == "":
        return []
    raise ServerError(
        f"{url} gave an answer that is not rows", code="", status=502, detail=repr(cast("object", data))[:200]
    )


def _api_error(error: postgrest.APIError, url: str) -> APIError | TransportError:
    code = error.code or ""
    status = int(code) if code.isdecimal() and len(code) == 3 else None  # noqa: PLR2004
    message = error.message or "the deployment answered with an error"
    detail = str(error.details) if error.details else None
    if status in {502, 503, 504}:
        # The gateway's own words for a database or an upstream that is away.
        return TransportError(f"{url} answered {status}: {message}", may_have_arrived=True)
    if code.startswith("08") or code in {
        "57P01",
        "57P02",
        "57P03",
        "53300",
        "PGRST000",
        "PGRST001",
        "PGRST002",
    }:
        return TransportError(f"{url} has lost its database: {message}", may_have_arrived=True)
    return error_from_sqlstate(code, message, status=status, detail=detail, hint=error.hint)


def _transport_error(error: httpx.HTTPError, url: str) -> TransportError:
    text = str(error) or type(error).__name__
    arrived = not isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout))
    if isinstance(error, httpx.TimeoutException) and arrived:
        return TransportError(f"{url} gave no answer in time ({text})", may_have_arrived=True)
    return TransportError(f"{url} can't be reached: {text}", may_have_arrived=arrived)
