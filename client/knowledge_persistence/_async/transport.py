"""What the client asks of a transport."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from knowledge_persistence._values import Argument, CallMode, RequestContext, Row, Scalar
    from knowledge_persistence.models import Identity


class AsyncReader(Protocol):
    """Calls a function that only reads, and returns its rows."""

    async def __call__(self, function: str, arguments: Mapping[str, Argument]) -> list[Row]:
        """Call it."""
        ...


class AsyncTransport(Protocol):
    """A door to a deployment. Both doors lead to the same functions under the same row-level security."""

    async def open(self) -> None:
        """Make ready: sign in or connect. Calling it again does nothing.

        Raises:
            TransportError: the deployment can't be reached.
            AuthenticationError: nobody is signed in.
        """
        ...

    async def close(self) -> None:
        """Let go of every connection."""
        ...

    async def call(
        self, function: str, arguments: Mapping[str, Argument], context: RequestContext, *, mode: CallMode
    ) -> list[Row]:
        """Call a function of the RPC contract, once, and return its rows.

        Args:
            function: its name in schema public.
            arguments: by name; those left out have the function's defaults.
            context: the workspace and session to name.
            mode: whether it reads.

        Raises:
            TransportError: no answer came.
            APIError: the answer is an error.
        """
        ...

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
        """Read rows of a table, once.

        Args:
            table: its name in schema public.
            columns: which columns.
            context: the workspace and session to name.
            equal: only rows where these columns have these values.
            order: the column to sort by, the largest first.
            limit: so many rows at most.
        """
        ...

    def snapshot(self, context: RequestContext) -> AbstractAsyncContextManager[AsyncReader] | None:
        """Begin to read as of one moment; None: this door can't, each of its calls sees its own moment.

        Args:
            context: the workspace and session to name.
        """
        ...

    async def identity(self) -> Identity:
        """Ask who the deployment takes this client for."""
        ...
