"""The client."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Literal, cast

from knowledge_persistence._target import DirectTarget, resolve_target
from knowledge_persistence._values import JsonArgument, RequestContext, is_id, to_id
from knowledge_persistence.embedders import BaseEmbedder, make_embedder
from knowledge_persistence.errors import NotFoundError
from knowledge_persistence.models import (
    ArchivedMonth,
    DueWork,
    EmbeddingJob,
    EmbeddingModel,
    EndedSession,
    MaintenanceOutcome,
    Session,
    SessionEvent,
    StartedSession,
    StoredEmbedding,
    Workspace,
    WorkspaceMember,
    from_row,
    from_rows,
)
from knowledge_persistence.rerankers import BoundedReranker, Reranker, make_reranker
from knowledge_persistence.settings import Settings

from .core import AsyncCore
from .memory import AsyncMemory
from .session import AsyncSessionHandle
from .tokens import AsyncTokenMethods

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Self
    from uuid import UUID

    from knowledge_persistence._target import Target
    from knowledge_persistence.embedders import Embedder
    from knowledge_persistence.models import JSON, Identity, JSONObject, WorkspaceRole

    # async only: begin
    from knowledge_persistence.presence import Presence
    from knowledge_persistence.subscriptions import Subscription

    # async only: end
    from .transport import AsyncTransport


class AsyncKnowledgeClient(AsyncMemory, AsyncTokenMethods):
    """A memory: record what was learned, get it back when it is wanted.

    Make one with `connect_async`, and use it with ``async with``, or close it.

    Args:
        transport: the door to the deployment.
        embedder: what turns queries into vectors; None: search goes by words alone.
        workspace: the workspace to work in, by id or name.
        session: the session to work in, by id or identifier.
        project: the project context of what is recorded, unless said otherwise.
        reranker: what reorders what a search finds; None: nothing does.
        owns_embedder: whether closing this closes the embedder, too.
    """

    def __init__(
        self,
        transport: AsyncTransport,
        *,
        embedder: Embedder | None = None,
        workspace: UUID | str | None = None,
        session: UUID | str | None = None,
        project: str | None = None,
        reranker: BoundedReranker | None = None,
        owns_embedder: bool = False,
    ) -> None:
        self._owns_embedder = owns_embedder
        self.core = self._core = AsyncCore(
            transport, embedder, workspace=workspace, session=session, reranker=reranker
        )
        self._project = project

    async def __aenter__(self) -> Self:
        try:
            await self.open()
        except BaseException:
            # Nobody will leave what was never entered.
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Sign in or connect, so that what is wrong shows now; otherwise the first call does it.

        Raises:
            TransportError: the deployment can't be reached.
            AuthenticationError: nobody is signed in.
        """
        await self._core.transport.open()

    async def close(self) -> None:
        """Let go of every connection."""
        await self._core.transport.close()
        if self._owns_embedder and isinstance(self._core.embedder, BaseEmbedder):
            self._core.embedder.close()

    async def _request_context(self) -> RequestContext:
        return await self._core.context()

    async def whoami(self) -> Identity:
        """Ask the deployment whom it takes this client for.

        Raises:
            AuthenticationError: nobody, or the sign-in has ended.
        """
        return await self._core.transport.identity()

    # async only: begin
    def subscribe(
        self, *, project: str | None = None, types: Sequence[str] | None = None, after: int | None = None
    ) -> Subscription:
        """Follow what happens: ``async for event in client.subscribe(project="atlas")``.

        Each event is told at least once, in order, through restarts of anything. A client that names no workspace
        follows all its workspaces.

        Args:
            project: only of this project; what is gone is told all the same.
            types: only of these subjects (knowledge, session, relationship, validation_result), knowledge types
                or kinds of record (gotcha, command, …).
            after: go on after this event, the `cursor` of an earlier subscription; None: from now on.

        Raises:
            CursorExpiredError: while iterating: the log no longer holds `after`.
            AuthenticationError: while iterating: the sign-in has ended.
        """
        from knowledge_persistence.subscriptions import Subscription  # noqa: PLC0415 - it imports this module

        return Subscription(self, project=project, types=types, after=after)

    def presence(
        self,
        *,
        project: str | None = None,
        name: str | None = None,
        doing: str | None = None,
        session_id: UUID | None = None,
        show: bool = True,
    ) -> Presence:
        """Show who is here, and be seen: ``async with client.presence(name="reviewer") as present``.

        Args:
            project: the project that one works on: only those who do as well are listed; None: everybody is.
            name: what to call oneself.
            doing: what one is doing.
            session_id: the session that one works in; None: the client's.
            show: be seen; False: only look.

        Raises:
            ConfigurationError: on entry: the client speaks with a database, not with a deployment.
        """
        from datetime import UTC, datetime  # noqa: PLC0415 - the synchronous client has no use for it

        from knowledge_persistence.presence import Presence, PresentAgent  # noqa: PLC0415 - it imports this module

        shown = PresentAgent(
            since=datetime.now(UTC),
            name=name,
            project=project or self._project,
            doing=doing,
            session_id=session_id,
        )
        return Presence(self, shown=shown if show else None, project=project)

    # async only: end

    # Sessions

    def session(
        self,
        identifier: str | None = None,
        *,
        project: str | None = None,
        metadata: JSONObject | None = None,
    ) -> AsyncSessionHandle:
        """Make a session to enter: started or resumed on entry, ended on exit.

        Args:
            identifier: its name, by which it is resumed; None: one is made.
            project: the project it is about; what it records inherits that.
            metadata: what to keep with it.
        """
        return AsyncSessionHandle(self, identifier, project=project, metadata=metadata)

    async def start_session(
        self,
        identifier: str | None = None,
        *,
        project: str | None = None,
        metadata: JSONObject | None = None,
    ) -> StartedSession:
        """Start a session, or resume the caller's session of the same identifier.

        Args:
            identifier: its name; None: one is made.
            project: the project it is about; None: the client's.
            metadata: what to keep with it.
        """
        rows = await self._core.call(
            "start_session",
            {
                "session_identifier": identifier,
                "project_context": project or self._project,
                "session_metadata": None if metadata is None else JsonArgument(metadata),
            },
            RequestContext(workspace=(await self._core.context()).workspace),
            # Without a name, a repetition would start a second one.
            mode="once" if identifier is None else "repeatable",
        )
        return from_row(StartedSession, rows[0])

    async def end_session(
        self,
        session: UUID | str | None = None,
        *,
        quality_score: int | None = None,
        user_feedback: str | None = None,
        summary: str | None = None,
    ) -> EndedSession:
        """End a session. Ending it again changes nothing but what is passed.

        Args:
            session: its id or identifier; None: the client's session.
            quality_score: 1 to 100; None: the one given before, else one is computed of what it did.
            user_feedback: what the user said of it.
            summary: what is to be remembered of it.

        Raises:
            NotFoundError: the caller has no such session.
            PermissionDeniedError: the id is of no session of the caller's.
        """
        context = await self._core.context()
        identifier: str | None = None
        if session is not None and is_id(session):
            context = RequestContext(session=to_id(session, "session"))
        elif session is not None:
            identifier = str(session)
            context = RequestContext(workspace=context.workspace)
        rows = await self._core.call(
            "end_session",
            {
                "session_identifier": identifier,
                "session_quality_score": quality_score,
                "user_feedback": user_feedback,
                "summary": summary,
            },
            context,
            mode="repeatable",
        )
        return from_row(EndedSession, rows[0])

    async def list_sessions(self, *, project: str | None = None, limit: int = 50) -> list[Session]:
        """Read the sessions that the caller may see, the latest first.

        Args:
            project: only of this project.
            limit: so many at most.
        """
        context = await self._core.context()
        equal: dict[str, str | UUID] = {}
        if context.workspace is not None:
            equal["workspace_id"] = context.workspace
        if project is not None:
            equal["project_context"] = project
        rows = await self._core.select(
            "ai_sessions", _columns(Session), context, equal=equal, order="start_time", limit=limit
        )
        return from_rows(Session, rows)

    async def get_session(self, session: UUID | str) -> Session:
        """Read one session.

        Args:
            session: its id or identifier.

        Raises:
            NotFoundError: there is none, or none that the caller may see.
        """
        context = await self._core.context()
        equal: dict[str, str | UUID] = (
            {"id": to_id(session, "session")} if is_id(session) else {"session_identifier": str(session)}
        )
        if "id" not in equal and context.workspace is not None:
            equal["workspace_id"] = context.workspace
        rows = await self._core.select(
            "ai_sessions", _columns(Session), context, equal=equal, order="start_time", limit=1
        )
        if not rows:
            raise NotFoundError(f"no session {session}", code="PT404", status=404, hint="`kp session list`")
        return from_row(Session, rows[0])

    async def session_timeline(self, session: UUID | str) -> list[SessionEvent]:
        """Read what happened in a session, in order.

        Args:
            session: its id or identifier.

        Raises:
            NotFoundError: there is none, or none that the caller may see.
        """
        found = await self.get_session(session)
        rows = await self._core.select(
            "session_timeline",
            _columns(SessionEvent),
            await self._core.context(),
            equal={"session_id": found.id},
            order="happened_at",
        )
        events = from_rows(SessionEvent, rows[::-1])
        # What happened at one moment was begun by the start and is closed by the end.
        return sorted(events, key=lambda one: (one.happened_at, one.event == "ended", one.event != "started"))

    # Workspaces

    async def workspaces(self) -> list[Workspace]:
        """Read the caller's workspaces with the caller's role in each, the personal one first."""
        rows = await self._core.call("my_workspaces", {}, RequestContext(), mode="read")
        return from_rows(Workspace, rows)

    async def create_workspace(self, name: str, *, description: str | None = None) -> Workspace:
        """Make a shared workspace, whose owner is the caller.

        Args:
            name: what people call it.
            description: what it is for.
        """
        rows = await self._core.call(
            "create_workspace", {"name": name, "description": description}, RequestContext(), mode="once"
        )
        return from_row(Workspace, rows[0])

    async def workspace_members(self, workspace_id: UUID | str) -> list[WorkspaceMember]:
        """Read who is a member of a workspace of the caller's.

        Args:
            workspace_id: the workspace.
        """
        rows = await self._core.select(
            "workspace_members",
            _columns(WorkspaceMember),
            RequestContext(),
            equal={"workspace_id": to_id(workspace_id, "workspace")},
        )
        return from_rows(WorkspaceMember, rows)

    async def add_workspace_member(
        self, workspace_id: UUID | str, user_id: UUID | str, *, role: WorkspaceRole = "contributor"
    ) -> WorkspaceMember:
        """Let somebody into a workspace, as one of its owners.

        Args:
            workspace_id: the workspace.
            user_id: the user.
            role: owner, maintainer (validates), contributor (records) or reader.
        """
        return await self._member("add_workspace_member", workspace_id, user_id, role)

    async def set_workspace_member_role(
        self, workspace_id: UUID | str, user_id: UUID | str, *, role: WorkspaceRole
    ) -> WorkspaceMember:
        """Give a member another role, as one of the workspace's owners.

        Args:
            workspace_id: the workspace.
            user_id: the member.
            role: owner, maintainer, contributor or reader.
        """
        return await self._member("set_workspace_member_role", workspace_id, user_id, role)

    async def _member(
        self, function: str, workspace_id: UUID | str, user_id: UUID | str, role: WorkspaceRole
    ) -> WorkspaceMember:
        rows = await self._core.call(
            function,
            {
                "workspace_id": to_id(workspace_id, "workspace"),
                "user_id": to_id(user_id, "user"),
                "role": role,
            },
            RequestContext(),
            mode="once",
        )
        return from_row(WorkspaceMember, rows[0])

    async def remove_workspace_member(self, workspace_id: UUID | str, user_id: UUID | str) -> None:
        """Take somebody out of a workspace, as one of its owners, or leave it oneself.

        Args:
            workspace_id: the workspace.
            user_id: the member.
        """
        await self._core.call(
            "remove_workspace_member",
            {"workspace_id": to_id(workspace_id, "workspace"), "user_id": to_id(user_id, "user")},
            RequestContext(),
            mode="once",
        )

    async def delete_workspace(self, workspace_id: UUID | str) -> None:
        """Delete a workspace with everything in it, as one of its owners.

        Args:
            workspace_id: the workspace.
        """
        await self._core.call(
            "delete_workspace",
            {"workspace_id": to_id(workspace_id, "workspace")},
            RequestContext(),
            mode="once",
        )

    # For the service

    async def run_maintenance(self) -> list[MaintenanceOutcome]:
        """Do what is due now and then, as the service: partitions ahead, stale proposals away. Once an hour is right.

        Returns:
            how each task went; one that failed does not keep the others from running.

        Raises:
            PermissionDeniedError: the caller is not the service.
        """
        rows = await self._core.call("run_maintenance", {}, RequestContext(), mode="repeatable")
        return from_rows(MaintenanceOutcome, rows)

    async def check_vectors(self, *, max_vectors: int = 500) -> int:
        """Look vectors of large workspaces up by their index, as the service: what it misses is compared always.

        Args:
            max_vectors: how many at most, 1 to 10,000; some milliseconds each.

        Returns:
            how many; 0: none is due.

        Raises:
            PermissionDeniedError: the caller is not the service.
        """
        rows = await self._core.call(
            "check_vectors", {"max_vectors": max_vectors}, RequestContext(), mode="repeatable"
        )
        return cast("int", rows[0]["check_vectors"])

    async def archive_sessions(self, month: str, *, dry_run: bool = False) -> ArchivedMonth:
        """Move a month's sessions and their links out of the live tables, as the service.

        Args:
            month: one that is over, like 2026-01 (UTC).
            dry_run: only say how much that is.

        Raises:
            InvalidArgumentError: that is no month.
            ConflictError: the month is not over, or one of its sessions was in use in the last seven days.
            PermissionDeniedError: the caller is not the service.
        """
        rows = await self._core.call(
            "archive_sessions", {"month": month, "dry_run": dry_run}, RequestContext(), mode="once"
        )
        return from_row(ArchivedMonth, rows[0])

    async def restore_sessions(self, month: str) -> ArchivedMonth:
        """Put the archived sessions of a month back, as the service.

        Args:
            month: like 2026-01.

        Raises:
            InvalidArgumentError: that is no month.
            NotFoundError: nothing of it is archived.
            PermissionDeniedError: the caller is not the service.
        """
        rows = await self._core.call("restore_sessions", {"month": month}, RequestContext(), mode="once")
        return from_row(ArchivedMonth, rows[0])

    async def embedding_models(self) -> list[EmbeddingModel]:
        """Read the registered embedding models."""
        self._core.forget_models()
        return list((await self._core.models()).values())

    async def register_embedding_model(
        self,
        name: str,
        dimensions: int,
        *,
        similarity_threshold: float | None = None,
        is_default: bool = False,
        query_prefix: str | None = None,
        document_prefix: str | None = None,
    ) -> EmbeddingModel:
        """Register an embedding model and make its index, as the service; again: change it.

        Args:
            name: the model's name, as the embedder reports it.
            dimensions: length of its vectors, 1 to 4000.
            similarity_threshold: cosine similarity from which two texts count as related.
            is_default: let it serve workspaces that chose none.
            query_prefix: what goes before a question; None: as it is, and nothing for a new model.
            document_prefix: what goes before a document; likewise.

        Raises:
            PermissionDeniedError: the caller is not the service.
            ConflictError: it is registered with other dimensions.
        """
        rows = await self._core.call(
            "register_embedding_model",
            {
                "name": name,
                "dimensions": dimensions,
                "similarity_threshold": similarity_threshold,
                "is_default": is_default,
                "query_prefix": query_prefix,
                "document_prefix": document_prefix,
            },
            RequestContext(),
            mode="repeatable",
        )
        self._core.forget_models()
        return from_row(EmbeddingModel, rows[0])

    async def claim_embedding_jobs(
        self,
        *,
        max_jobs: int = 32,
        lease_seconds: int = 60,
        embedding_models: Sequence[str] | None = None,
    ) -> list[EmbeddingJob]:
        """Take texts that wait for a vector, as the service.

        Args:
            max_jobs: so many at most.
            lease_seconds: how long they are this worker's; then they go to whoever asks.
            embedding_models: only those of these models.

        Raises:
            PermissionDeniedError: the caller is not the service.
        """
        rows = await self._core.call(
            "claim_embedding_jobs",
            {"max_jobs": max_jobs, "lease_seconds": lease_seconds, "embedding_models": embedding_models},
            RequestContext(),
            mode="once",
        )
        return from_rows(EmbeddingJob, rows)

    async def claim_due_work(self, *, embedding_models: Sequence[str] | None = None) -> DueWork | None:
        """Take a piece of scheduled work that is due, as the service; None: none is.

        It is the worker's for ten minutes; then it goes to whoever asks.

        Args:
            embedding_models: tests only of workspaces with these models.

        Raises:
            PermissionDeniedError: the caller is not the service.
        """
        rows = await self._core.call(
            "claim_due_work", {"embedding_models": embedding_models}, RequestContext(), mode="once"
        )
        return from_row(DueWork, rows[0]) if rows else None

    async def finish_due_work(self, work: DueWork, *, failure: str | None = None) -> None:
        """Say that scheduled work is done, as the service.

        Args:
            work: what was claimed.
            failure: why it could not be done; it is tried again within the hour.

        Raises:
            PermissionDeniedError: the caller is not the service.
        """
        await self._core.call(
            "finish_due_work",
            {"workspace_id": work.workspace_id, "test_id": work.test_id, "failure": failure},
            RequestContext(),
            mode="repeatable",
        )

    async def store_embeddings(self, embeddings: Sequence[Mapping[str, JSON]]) -> list[StoredEmbedding]:
        """Store vectors, or say why there are none, as the service.

        Args:
            embeddings: objects with knowledge_id, embedding_model, content_hash, and embedding (the vector as
                text) or error.

        Raises:
            PermissionDeniedError: the caller is not the service.
            EmbeddingDimensionError: a vector has not the length of its model.
        """
        rows = await self._core.call(
            "store_embeddings",
            {"embeddings": JsonArgument(cast("JSON", [dict(one) for one in embeddings]))},
            RequestContext(),
            mode="once",
        )
        return from_rows(StoredEmbedding, rows)


def _columns(kind: type[Session | SessionEvent | WorkspaceMember]) -> list[str]:
    return [field.name for field in fields(kind)]


def connect_async(
    url: str | None = None,
    *,
    api_key: str | None = None,
    access_token: str | None = None,
    refresh_token: str | None = None,
    email: str | None = None,
    password: str | None = None,
    user_id: UUID | str | None = None,
    jwt_secret: str | None = None,
    service_role: bool = False,
    replica_url: str | None = None,
    workspace: UUID | str | None = None,
    session: UUID | str | None = None,
    project: str | None = None,
    embedder: Embedder | Literal["default"] | None = "default",
    reranker: Reranker | Literal["default"] | None = "default",
    settings: Settings | None = None,
    timeout: float = 30.0,
) -> AsyncKnowledgeClient:
    """Make a client; it connects when it is entered, or at its first call.

    What is not given here is taken from the settings, and without a URL there, from the embedded stack of the
    data directory and the sign-in stored for it.

    Args:
        url: ``http(s)://`` goes through the Data API, ``postgresql://`` directly to the database.
        api_key: the deployment's publishable key, or with service_role the secret one (HTTP only).
        access_token: a user's token.
        refresh_token: exchanged for an access token (HTTP only).
        email: signs in with the password (HTTP only).
        password: see email.
        user_id: whom a direct connection acts for. Its holder is trusted: nothing verifies it.
        jwt_secret: verifies access_token on a direct connection: the shared secret, or a JSON Web Key Set.
        service_role: act as the service, not as a user.
        replica_url: PostgreSQL URL of a read replica that takes what only reads (direct connections only).
        workspace: the workspace to work in, by id or name; None: the session's, else the user's own.
        session: the session to work in, by id or identifier (which starts or resumes it).
        project: the project context of what is recorded.
        embedder: what turns queries into vectors; None: search by words alone; default: the settings' one.
        reranker: what reorders what a search finds; None: nothing does; default: the settings' one, mostly none.
        settings: instead of the environment's.
        timeout: seconds until a call is given up.

    Raises:
        ConfigurationError: the arguments contradict each other, or something is missing.
        NotRunningError: no URL is known, and there is no embedded stack.
        AuthenticationError: the access token is not genuine.
    """
    settings = settings or Settings.load()
    target = resolve_target(
        settings,
        url=url,
        api_key=api_key,
        access_token=access_token,
        refresh_token=refresh_token,
        email=email,
        password=password,
        user_id=user_id,
        jwt_secret=jwt_secret,
        service_role=service_role,
        replica_url=replica_url,
    )
    if reranker == "default":
        reranker = make_reranker(settings)
    return AsyncKnowledgeClient(
        make_transport(target, timeout=timeout),
        embedder=make_embedder(settings) if embedder == "default" else embedder,
        workspace=workspace or settings.workspace,
        session=session or settings.session,
        project=project or settings.project,
        reranker=None if reranker is None else BoundedReranker(reranker, seconds=settings.rerank_seconds),
        owns_embedder=embedder == "default",
    )


def make_transport(target: Target, *, timeout: float = 30.0) -> AsyncTransport:
    """Make the transport that a target asks for; each brings its own packages along, so one is imported.

    Args:
        target: where to, and as whom.
        timeout: seconds until a call is given up.
    """
    if isinstance(target, DirectTarget):
        from .direct import AsyncDirectTransport  # noqa: PLC0415

        primary = AsyncDirectTransport(target.dsn, role=target.role, claims=target.claims, timeout=timeout)
        if target.replica_dsn is None:
            return primary
        from .replica import AsyncReplicaTransport  # noqa: PLC0415

        # Waiting for a replica helps nobody: there is the primary.
        replica = AsyncDirectTransport(
            target.replica_dsn, role=target.role, claims=target.claims, timeout=timeout, patience=2.0
        )
        return AsyncReplicaTransport(primary, replica)
    from .http import AsyncHttpTransport  # noqa: PLC0415

    return AsyncHttpTransport(
        target.url,
        target.api_key,
        service_role=target.service_role,
        access_token=target.access_token,
        refresh_token=target.refresh_token,
        email=target.email,
        password=target.password,
        store=target.store,
        timeout=timeout,
    )
