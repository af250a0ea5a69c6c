"""What every method of the client stands on: transport, retries, context, vectors."""

from __future__ import annotations

import logging
import random
import time
from typing import TYPE_CHECKING, Final

from knowledge_persistence._values import (
    RequestContext,
    VectorArgument,
    check_argument,
    check_text,
    invalid,
    is_id,
    to_id,
    to_vector,
)
from knowledge_persistence._waiting import AsyncLock, async_run, async_sleep
from knowledge_persistence.embedders import BaseEmbedder, dimension_error
from knowledge_persistence.errors import (
    EmbeddingDimensionError,
    EmbeddingError,
    KnowledgePersistenceError,
    NotFoundError,
    ServerError,
    TransportError,
)
from knowledge_persistence.models import EmbeddingModel, Workspace, from_row, from_rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    import numpy as np
    from numpy.typing import NDArray

    from knowledge_persistence._values import Argument, CallMode, Row, Scalar
    from knowledge_persistence.embedders import Embedder
    from knowledge_persistence.rerankers import BoundedReranker

    from .transport import AsyncTransport

#: Seconds before the second, third, … attempt; each is shortened at random by up to half, so that many
#: clients don't come back all at once. A stack that was killed is back within about ten seconds.
_DELAYS: Final = (0.1, 0.3, 0.9, 2.0, 3.0, 4.0, 5.0, 5.0)
#: No attempt begins later than this many seconds after the first.
_PATIENCE: Final = 20.0
#: Seconds for which is believed which model serves. The old one's vectors stay for an hour after a switch.
_MODELS_AGE: Final = 60.0
#: The database undid the whole transaction by itself: it may be repeated, whatever it was.
_UNDONE: Final = frozenset({"40001", "40P01"})

log = logging.getLogger("knowledge_persistence")


class AsyncCore:
    """A transport, an embedder, and what was learned about the deployment.

    Args:
        transport: the door.
        embedder: what turns text into vectors; None: nothing does.
        workspace: the workspace to work in, by id or by name; None: a session's, else the user's own.
        session: the session to work in, by id or by identifier; None: none.
        reranker: what reorders what a search finds; None: nothing does.
    """

    def __init__(
        self,
        transport: AsyncTransport,
        embedder: Embedder | None,
        *,
        workspace: UUID | str | None = None,
        session: UUID | str | None = None,
        reranker: BoundedReranker | None = None,
    ) -> None:
        self.transport = transport
        self.embedder = embedder
        self.reranker = reranker
        self._workspace = workspace
        self._session = session
        self._context: RequestContext | None = None
        self._context_lock = AsyncLock()
        self._models: dict[str, EmbeddingModel] | None = None
        self._models_read = 0.0
        # A deployment that never answered is more likely misnamed or not running than about to come back.
        self._has_answered = False

    async def call(
        self, function: str, arguments: Mapping[str, Argument], context: RequestContext, *, mode: CallMode
    ) -> list[Row]:
        """Call a function, again where that is harmless."""
        given = {name: value for name, value in arguments.items() if value is not None}
        for name, value in given.items():
            check_argument(name, value)
        started = time.monotonic()
        for delay in (*_DELAYS, None):
            try:
                rows = await self.transport.call(function, given, context, mode=mode)
            except KnowledgePersistenceError as error:
                if delay is None or not self._may_repeat(error, mode, started):
                    raise
                log.info("%s: %s; trying again", function, error)
            else:
                self._has_answered = True
                return rows
            await async_sleep(delay * random.uniform(0.5, 1))  # noqa: S311 - jitter
        raise AssertionError("unreachable")

    async def select(
        self,
        table: str,
        columns: Sequence[str],
        context: RequestContext,
        *,
        equal: Mapping[str, Scalar] | None = None,
        order: str | None = None,
        limit: int | None = None,
    ) -> list[Row]:
        """Read rows of a table, again where the connection breaks."""
        for name, value in (equal or {}).items():
            check_argument(name, value)
        started = time.monotonic()
        for delay in (*_DELAYS, None):
            try:
                rows = await self.transport.select(
                    table, columns, context, equal=equal, order=order, limit=limit
                )
            except KnowledgePersistenceError as error:
                if delay is None or not self._may_repeat(error, "read", started):
                    raise
                log.info("reading %s: %s; trying again", table, error)
            else:
                self._has_answered = True
                return rows
            await async_sleep(delay * random.uniform(0.5, 1))  # noqa: S311 - jitter
        raise AssertionError("unreachable")

    def _may_repeat(self, error: KnowledgePersistenceError, mode: CallMode, started: float) -> bool:
        if time.monotonic() - started > _PATIENCE:
            return False
        if isinstance(error, TransportError):
            return self._has_answered and (mode != "once" or not error.may_have_arrived)
        self._has_answered = True
        return isinstance(error, ServerError) and error.code in _UNDONE

    async def context(self) -> RequestContext:
        """Return the workspace and session to name, looked up once where they were given by name."""
        if self._context is None:
            async with self._context_lock:
                if self._context is None:
                    self._context = await self._look_up_context()
        return self._context

    async def _look_up_context(self) -> RequestContext:
        workspace = await self._workspace_id()
        if self._session is None:
            return RequestContext(workspace=workspace)
        if is_id(self._session):
            return RequestContext(workspace=workspace, session=to_id(self._session, "session"))
        rows = await self.call(
            "start_session",
            {"session_identifier": str(self._session)},
            RequestContext(workspace=workspace),
            mode="repeatable",
        )
        return RequestContext(
            workspace=to_id(str(rows[0]["workspace_id"]), "workspace"),
            session=to_id(str(rows[0]["session_id"]), "session"),
        )

    async def _workspace_id(self) -> UUID | None:
        return None if self._workspace is None else await self.find_workspace(self._workspace)

    async def find_workspace(self, workspace: UUID | str) -> UUID:
        """Return the id of a workspace that is given by id or by name.

        Raises:
            NotFoundError: no workspace of the caller's has this name.
            InvalidArgumentError: several have.
        """
        if is_id(workspace):
            return to_id(workspace, "workspace")
        rows = await self.call("my_workspaces", {}, RequestContext(), mode="read")
        named = [one for row in rows if (one := from_row(Workspace, row)).name == workspace]
        if len(named) > 1:
            raise invalid(
                f"{len(named)} workspaces are called {workspace!r}",
                "name it by its id: `kp workspace list`",
            )
        if not named:
            raise NotFoundError(
                f"no workspace of yours is called {workspace!r}",
                code="PT404",
                status=404,
                hint="`kp workspace list` shows those you are a member of",
            )
        return named[0].workspace_id

    async def models(self) -> dict[str, EmbeddingModel]:
        """Return the deployment's registered models by name, as they were when first asked for."""
        if self._models is None:
            rows = await self.select(
                "embedding_models",
                (
                    "name",
                    "dimensions",
                    "similarity_threshold",
                    "is_default",
                    "query_prefix",
                    "document_prefix",
                ),
                RequestContext(),
            )
            self._models = {model.name: model for model in from_rows(EmbeddingModel, rows)}
            self._models_read = time.monotonic()
        return self._models

    def forget_models(self) -> None:
        """Ask for the models again next time."""
        self._models = None

    async def _registered(self, name: str) -> EmbeddingModel:
        model = (await self.models()).get(name)
        if model is None:
            raise EmbeddingDimensionError(
                f"the embedding model {name!r} is not registered here",
                code="PT422",
                status=422,
                hint="register_embedding_model registers it (service role), or choose one of: "
                + ", ".join(sorted(await self.models())),
            )
        return model

    async def _serving(self, embedder: Embedder) -> tuple[Embedder, EmbeddingModel]:
        """Return what embeds here: the embedder, or its sibling of the model that the deployment serves by now."""
        if isinstance(embedder, BaseEmbedder) and embedder.follows:
            if time.monotonic() - self._models_read > _MODELS_AGE:
                self.forget_models()
            serving = next((model for model in (await self.models()).values() if model.is_default), None)
            if serving is not None and serving.name != embedder.name:
                sibling = embedder.sibling(serving.name, serving.dimensions)
                if sibling is not None:
                    return sibling, serving
        return embedder, await self._registered(embedder.name)

    def require_embedder(self) -> Embedder:
        """Return the embedder.

        Raises:
            EmbeddingError: there is none.
        """
        if self.embedder is None:
            raise EmbeddingError("this needs an embedder, and the client has none (KP_EMBEDDER is none)")
        return self.embedder

    async def embed_query(self, text: str) -> dict[str, Argument]:
        """Embed a question and return the arguments that carry it; none without an embedder or a text."""
        check_text("the text", text)
        if self.embedder is None or not text.strip():
            return {}
        embedder, model = await self._serving(self.embedder)
        vector = await async_run(embedder.embed_query, text, prefix=model.query_prefix)
        _check_dimensions(model, vector)
        return {"query_embedding": VectorArgument(vector), "embedding_model": model.name}

    async def embed_documents(self, texts: Sequence[str]) -> tuple[str, list[VectorArgument]]:
        """Embed texts to be stored; returns the model's name and one vector a text.

        Raises:
            EmbeddingError: there is no embedder, or it fails.
        """
        for text in texts:
            check_text("the text", text)
        embedder, model = await self._serving(self.require_embedder())
        vectors = await async_run(embedder.embed_documents, texts, prefix=model.document_prefix)
        for vector in vectors:
            _check_dimensions(model, vector)
        return model.name, [VectorArgument(vector) for vector in vectors]

    async def given_vector(
        self, values: Sequence[float] | NDArray[np.float32], embedding_model: str | None
    ) -> dict[str, Argument]:
        """Check a vector that the caller made, and return the arguments that carry it.

        Args:
            values: the vector.
            embedding_model: its model; None: the embedder's, else the deployment's default.

        Raises:
            EmbeddingDimensionError: it has not the length of its model, or the model is unknown.
        """
        vector = to_vector(values)
        name = embedding_model
        if name is None and self.embedder is not None:
            name = self.embedder.name
        if name is None:
            name = next((model.name for model in (await self.models()).values() if model.is_default), None)
        if name is None:
            raise invalid("the deployment has no default embedding model", "name the vector's model")
        model = await self._registered(name)
        _check_dimensions(model, vector.values)
        return {"query_embedding": vector, "embedding_model": model.name}


def _check_dimensions(model: EmbeddingModel, vector: NDArray[np.float32]) -> None:
    if vector.shape[0] != model.dimensions:
        raise dimension_error(model.name, got=vector.shape[0], expected=model.dimensions)
