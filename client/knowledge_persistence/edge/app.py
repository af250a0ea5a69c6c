"""The application: five functions, and what keeps them safe to leave running.

    POST remember, recall, context, embed, gotchas     as a user, an agent, or the service
    POST mcp                                           as a user or an agent (see `mcp.http`)
    GET  openapi.json, health                          as anybody
    GET  metrics                                       as the service

A gateway hands paths on with the prefix `/functions/v1`, or without; both arrive at the same place.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.routing import Route

from .._values import VectorArgument, invalid
from ..errors import (
    AuthenticationError,
    EmbeddingError,
    KnowledgePersistenceError,
    PermissionDeniedError,
)
from ..mcp.http import McpEndpoint
from .errors import answer, of_error, slow_down
from .identity import Caller, Doorkeeper
from .limits import Limits, RateLimit
from .observe import PING, Figures, Observer
from .schemas import (
    ContextRequest,
    Contextual,
    Embedded,
    EmbedRequest,
    Gotcha,
    GotchasRequest,
    Health,
    Problem,
    Recalled,
    RecallRequest,
    Remembered,
    RememberRequest,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence

    from starlette.types import Lifespan

PREFIX: Final = "/functions/v1"
#: A header's value: an empty one is none.
_UUID_OR_NOTHING: Final = "^([0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})?$"
#: Seconds for which the answer to `health` is kept: it asks the database, and anybody may ask for it.
_HEALTH_SECONDS: Final = 1.0

log = logging.getLogger("knowledge_persistence.edge")


@dataclasses.dataclass(slots=True)
class Edge:
    """What the functions share.

    Attributes:
        doorkeeper: finds out who is there.
        limits: what one caller may take.
        rate: counts each caller's requests.
        figures: what is told to Prometheus.
    """

    doorkeeper: Doorkeeper
    limits: Limits
    rate: RateLimit
    figures: Figures

    async def admit(self, request: Request) -> Caller | Response:
        """Return who sends a request, or the answer for whoever sends too many.

        Raises:
            KnowledgePersistenceError: nobody may come in with it; see `Doorkeeper.admit`.
        """
        caller = await self.doorkeeper.admit(request.headers)
        request.state.caller = caller
        request.state.role = caller.role
        if caller.user_id is not None:
            request.state.user_id = str(caller.user_id)
        if caller.token_id is not None:
            request.state.token_id = str(caller.token_id)
        wait = self.rate.take(caller.key)
        return slow_down(wait) if wait > 0 else caller


def _edge(request: Request) -> Edge:
    return cast("Edge", request.app.state.edge)


def _caller(request: Request) -> Caller:
    return cast("Caller", request.state.caller)


EdgeOf = Annotated[Edge, Depends(_edge)]
CallerOf = Annotated[Caller, Depends(_caller)]


class FunctionRoute(APIRoute):
    """A route that knows its caller before it reads the body, and takes no longer than it may."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            edge = _edge(request)
            try:
                async with asyncio.timeout(edge.limits.seconds):
                    admitted = await edge.admit(request)
                    return await handle(request) if isinstance(admitted, Caller) else admitted
            except TimeoutError:
                return answer(
                    504,
                    "KP504",
                    f"the function took longer than {edge.limits.seconds:g} seconds",
                    hint="a write may have arrived all the same; it is safe to send the same text again",
                )

        return guarded


_PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": Problem, "description": description}
    for status, description in {
        400: "An argument is missing, malformed or outside its range.",
        401: "Nobody is signed in, or the token is no good.",
        403: "The caller may not do this here.",
        404: "No such thing, or none that the caller may see.",
        409: "It collides with what is there.",
        413: "The body is too long.",
        422: "The embedding model is not the deployment's.",
        429: "Too many requests; Retry-After says how many seconds to wait.",
        451: "The text looks like it holds a credential.",
        503: "The database or the embedding model is away; try again.",
        504: "It took too long.",
    }.items()
}


async def remember(body: RememberRequest, caller: CallerOf, edge: EdgeOf) -> Remembered:
    """Record a piece of knowledge. The same text is kept once."""
    given = {name: getattr(body, name) for name in RememberRequest.model_fields if name != "embed"}
    embed = body.embed and edge.doorkeeper.embedder is not None
    try:
        recorded = await caller.client.remember(**given, embed=embed)
    except EmbeddingError as error:
        if not embed:
            raise
        # Text is never refused for want of a model: it is found by its words, and the worker makes the vector.
        log.warning("recorded without a vector", exc_info=error)
        edge.figures.unembedded.inc()
        recorded = await caller.client.remember(**given, embed=False)
    return Remembered.model_validate(recorded, from_attributes=True)


async def recall(body: RecallRequest, caller: CallerOf) -> list[Recalled]:
    """Find what is known about something, by meaning and by words, the best first."""
    given = {name: getattr(body, name) for name in RecallRequest.model_fields if name != "log"}
    find = caller.client.recall if body.log else caller.client.search
    return [Recalled.model_validate(one, from_attributes=True) for one in await find(**given)]


async def context(body: ContextRequest, caller: CallerOf) -> list[Contextual]:
    """Find what bears on the situation at hand."""
    found = await caller.client.context(
        body.situation, project_context=body.project_context, max_results=body.max_results
    )
    return [Contextual.model_validate(one, from_attributes=True) for one in found]


async def embed(body: EmbedRequest, caller: CallerOf) -> Embedded:
    """Embed texts with the deployment's model, for calls that take vectors."""
    if any(not text.strip() for text in body.texts):
        raise invalid("a text is blank")
    core = caller.client.core
    if body.purpose == "document":
        model, vectors = await core.embed_documents(body.texts)
    else:
        model, vectors = core.require_embedder().name, list[VectorArgument]()
        for text in body.texts:
            vectors.append(cast("VectorArgument", (await core.embed_query(text))["query_embedding"]))
    embeddings = [cast("list[float]", vector.values.tolist()) for vector in vectors]
    return Embedded(embedding_model=model, dimensions=len(embeddings[0]), embeddings=embeddings)


async def gotchas(body: GotchasRequest, caller: CallerOf) -> list[Gotcha]:
    """Find known problems like this one: what worked, what failed, how sure that is."""
    found = await caller.client.find_gotchas(body.problem, max_results=body.max_results)
    return [Gotcha.model_validate(one, from_attributes=True) for one in found]


async def metrics(request: Request, edge: EdgeOf) -> Response:
    """Tell Prometheus the figures, with the secret key."""
    caller = await edge.doorkeeper.admit(request.headers)
    if caller.role != "service_role":
        raise PermissionDeniedError("this needs the secret key", code="PT403", status=403)
    return Response(edge.figures.text(), media_type=CONTENT_TYPE_LATEST)


FUNCTIONS: Final[dict[str, Callable[..., Coroutine[Any, Any, object]]]] = {
    "remember": remember,
    "recall": recall,
    "context": context,
    "embed": embed,
    "gotchas": gotchas,
}


def make_app(
    doorkeeper: Doorkeeper, limits: Limits | None = None, *, origins: Sequence[str] | None = ()
) -> FastAPI:
    """Make the application.

    Args:
        doorkeeper: finds out who is there; it is closed when the application ends.
        limits: what one caller may take.
        origins: where agents reach `mcp`, beside loopback; None: by any name, behind a gateway.
    """
    limits = limits or Limits()
    edge = Edge(doorkeeper, limits, RateLimit(limits.requests_per_minute), Figures())
    agents = McpEndpoint(edge.admit, origins=origins)
    app = FastAPI(
        title="KnowledgePersistence-AI: edge functions",
        description="Semantic memory over HTTP. Who you are goes as a bearer token, the publishable key as `apikey`.",
        version="1",
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan(edge, agents),
        # The figures are for whoever runs this, and nothing is sent to anybody.
        telemetry={"auto_configure": False, "tracing": False, "metrics": False, "logs": False},
        exception_handlers={
            KnowledgePersistenceError: _tell_error,
            RequestValidationError: _tell_invalid,
            HTTPException: _tell_http,
            Exception: _tell_bug,
        },
    )
    app.state.edge = edge
    for name, function in FUNCTIONS.items():
        app.router.add_api_route(
            f"/{name}",
            function,
            methods=["POST"],
            route_class_override=FunctionRoute,
            responses=_PROBLEMS,
            operation_id=name,
            openapi_extra={"security": [{"bearer": []}]},
        )
    health = _health(edge)
    app.add_api_route(
        "/health", health, methods=["GET"], operation_id="health", responses={503: _PROBLEMS[503]}
    )
    app.add_api_route("/metrics", metrics, methods=["GET"], include_in_schema=False)
    app.router.routes.append(Route(PING, _ping, methods=["GET"]))
    app.router.routes.append(Route("/mcp", agents))
    app.add_middleware(
        Observer,
        figures=edge.figures,
        limits=limits,
        prefix=PREFIX,
        functions=frozenset({*FUNCTIONS, "health", "metrics", "openapi.json", "mcp"}),
    )
    app.openapi = lambda: _describe(app)
    return app


def _lifespan(edge: Edge, agents: McpEndpoint) -> Lifespan[FastAPI]:
    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(edge.doorkeeper.close)
            await stack.enter_async_context(agents.open())
            yield

    return lifespan


def _health(edge: Edge) -> Callable[[], Coroutine[Any, Any, Health]]:
    checked_at = float("-inf")

    async def health() -> Health:
        """Tell whether the database answers."""
        nonlocal checked_at
        now = asyncio.get_running_loop().time()
        if now - checked_at > _HEALTH_SECONDS:
            await edge.doorkeeper.service.embedding_models()
            checked_at = now
        return Health(status="ok")

    return health


async def _ping(_: Request) -> Response:
    """Tell whoever runs this that it isn't stuck; whether the database answers is another question."""
    return Response(status_code=204)


def _describe(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is not None:
        return app.openapi_schema
    described = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        servers=[{"url": PREFIX}],
    )
    described["components"]["securitySchemes"] = {
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "description": "A user's access token, an agent's token (kpt_…), or the secret key.",
        },
    }
    headers = {
        "apikey": ("The publishable key. A gateway may want it; it says nothing of who comes.", None),
        "x-workspace-id": (
            "The workspace to work in; else the session's, else the user's own.",
            _UUID_OR_NOTHING,
        ),
        "x-session-id": ("The session to work in.", _UUID_OR_NOTHING),
    }
    for path in described["paths"].values():
        for operation in path.values():
            if "security" not in operation:
                continue
            operation.setdefault("parameters", []).extend(
                {
                    "name": name,
                    "in": "header",
                    "required": False,
                    "description": description,
                    "schema": {"type": "string"}
                    if pattern is None
                    else {"type": "string", "pattern": pattern},
                }
                for name, (description, pattern) in headers.items()
            )
    app.openapi_schema = described
    return described


async def _tell_error(_: Request, error: Exception) -> Response:
    if isinstance(error, AuthenticationError):
        log.info("refused", extra={"fields": {"code": error.code}})
    elif isinstance(error, EmbeddingError):
        log.warning("no embedding", exc_info=error)
    return of_error(cast("KnowledgePersistenceError", error))


async def _tell_invalid(_: Request, error: Exception) -> Response:
    problems = cast("RequestValidationError", error).errors()
    told = [
        f"{'.'.join(str(part) for part in one['loc'][1:]) or 'the body'}: {one['msg']}"
        for one in problems[:5]
    ]
    return answer(
        400,
        "PT400",
        "; ".join(told),
        hint=f"send a JSON object with content-type application/json; {PREFIX}/openapi.json describes it",
    )


async def _tell_http(_: Request, error: Exception) -> Response:
    told = cast("HTTPException", error)
    hint = f"{PREFIX}/openapi.json lists what there is" if told.status_code in {404, 405} else None
    return answer(
        told.status_code, f"KP{told.status_code}", str(told.detail), hint=hint, headers=told.headers
    )


async def _tell_bug(request: Request, error: Exception) -> Response:
    request_id = cast("str", request.state.request_id)
    log.error("failed", exc_info=error, extra={"fields": {"request_id": request_id}})
    return answer(
        500, "KP500", "the function failed", hint="its log says why", headers={"x-request-id": request_id}
    )
