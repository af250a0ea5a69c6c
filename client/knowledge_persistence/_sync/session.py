# Generated from _async/session.py by scripts/generate-sync: edit that, not this.
"""A session as a context manager."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from knowledge_persistence._values import RequestContext
from knowledge_persistence.errors import ConfigurationError, KnowledgePersistenceError

from .memory import Memory

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self
    from uuid import UUID

    from knowledge_persistence.models import EndedSession, JSONObject, StartedSession

    from .client import KnowledgeClient

log = logging.getLogger("knowledge_persistence")


class SessionHandle(Memory):
    """A session: what is recorded and recalled through it belongs to it.

    Entering starts or resumes it, leaving ends it, also when the body raises; then the closing summary says
    so, and the body's exception goes on its way. Get one from `KnowledgeClient.session`.

    Attributes:
        summary: stored when the session ends; assign to it.
        quality_score: 1 to 100, stored when the session ends; assign to it, or one is computed of what it did.
        user_feedback: stored when the session ends; assign to it.
        ended: what the session did, once it has ended.
    """

    def __init__(
        self,
        client: KnowledgeClient,
        identifier: str | None,
        *,
        project: str | None,
        metadata: JSONObject | None,
    ) -> None:
        self._client = client
        self._core = client.core
        self._asked_identifier = identifier
        self._asked_project = project
        self._asked_metadata = metadata
        self._started: StartedSession | None = None
        self.summary: str | None = None
        self.quality_score: int | None = None
        self.user_feedback: str | None = None
        self.ended: EndedSession | None = None

    @property
    def started(self) -> StartedSession:
        """What starting it answered.

        Raises:
            ConfigurationError: it has not been started: enter it first.
        """
        if self._started is None:
            raise ConfigurationError("the session has not been started: enter it with `with`")
        return self._started

    @property
    def id(self) -> UUID:
        """The session's id: what `x-session-id` names."""
        return self.started.session_id

    @property
    def identifier(self) -> str:
        """The session's own name, by which it is resumed."""
        return self.started.session_identifier

    @property
    def resumed(self) -> bool:
        """Whether it was there before."""
        return self.started.resumed

    def _request_context(self) -> RequestContext:
        return RequestContext(workspace=self.started.workspace_id, session=self.started.session_id)

    def __enter__(self) -> Self:
        self._started = self._client.start_session(
            self._asked_identifier, project=self._asked_project, metadata=self._asked_metadata
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.end()
            return
        said = f"Ended early by {type(error).__name__}: {error}".rstrip(": ")[:2000]
        self.summary = f"{self.summary}\n{said}" if self.summary else said
        try:
            self.end()
        except KnowledgePersistenceError as failure:
            # The body's exception is what went wrong; this one is told beside it.
            log.warning("session %s could not be ended: %s", self.identifier, failure)
            error.add_note(f"The session {self.identifier} could not be ended: {failure}")

    def end(self) -> EndedSession:
        """End it now, with the summary, score and feedback assigned so far; again: store what is new."""
        self.ended = self._client.end_session(
            self.id,
            quality_score=self.quality_score,
            user_feedback=self.user_feedback,
            summary=self.summary,
        )
        return self.ended
