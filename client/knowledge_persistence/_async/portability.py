"""Exporting, importing and editing, piece by piece: what the package `portability` is made with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias, cast

from knowledge_persistence._values import JsonArgument, RequestContext, to_id
from knowledge_persistence.errors import ConflictError
from knowledge_persistence.models import (
    EditedKnowledge,
    ExportedHeader,
    ExportedRecord,
    ImportedLine,
    from_row,
    from_rows,
)

from .methods import AsyncMethods

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from knowledge_persistence._values import Argument
    from knowledge_persistence.models import JSON, JSONObject

    from .transport import AsyncReader

ExportSection: TypeAlias = Literal[
    "session", "item", "history", "relationship", "link", "duplicate", "merge", "test", "result"
]
_SECTIONS: Final[tuple[ExportSection, ...]] = (
    "session",
    "item",
    "history",
    "relationship",
    "link",
    "duplicate",
    "merge",
    "test",
    "result",
)
#: Rows of a page; with vectors a row is some ten kilobytes.
_PAGE: Final = 500


class AsyncPortabilityMethods(AsyncMethods):
    """Export, import, edit: what moves a memory, and what keeps it and a folder of files the same."""

    async def export_header(self, *, with_embeddings: bool = False) -> ExportedHeader:
        """Read what an export of the workspace begins with.

        Args:
            with_embeddings: what the header is to say of vectors.

        Raises:
            NotFoundError: there is no workspace yet: nothing has been recorded.
        """
        rows = await self._core.call(
            "export_header",
            {"with_embeddings": with_embeddings},
            await self._request_context(),
            mode="read",
        )
        return from_row(ExportedHeader, rows[0])

    async def export_lines(
        self, *, with_embeddings: bool = False
    ) -> AsyncGenerator[ExportedHeader | ExportedRecord]:
        """Read the whole workspace, as far as the caller sees it: the header, then line by line.

        A direct connection reads all of it as of one moment. Over HTTP each page is of its own moment, and whether
        something changed meanwhile shows at the end.

        Args:
            with_embeddings: take the vectors along.

        Raises:
            NotFoundError: there is no workspace yet: nothing has been recorded.
            ConflictError: over HTTP, after the last line: the memory has changed since the first.
        """
        context = await self._request_context()
        snapshot = self._core.transport.snapshot(context)
        if snapshot is None:

            async def read(
                function: str, arguments: Mapping[str, Argument]
            ) -> Sequence[Mapping[str, object]]:
                return await self._core.call(function, arguments, context, mode="read")

            state: str | None = None
            async for line in _read_all(cast("AsyncReader", read), with_embeddings=with_embeddings):
                state = line.state if isinstance(line, ExportedHeader) else state
                yield line
            if (await self.export_header(with_embeddings=with_embeddings)).state != state:
                raise ConflictError(
                    "the memory changed while it was read",
                    code="PT409",
                    status=409,
                    hint="try again when it is quieter, or over a direct connection, which reads as of one moment",
                )
            return
        async with snapshot as reader:
            async for line in _read_all(reader, with_embeddings=with_embeddings):
                yield line

    async def export_items(self, context_data: JSONObject | None = None) -> list[ExportedRecord]:
        """Read items with their records, without vectors.

        Args:
            context_data: only items whose context holds this.
        """
        context = await self._request_context()
        found: list[ExportedRecord] = []
        while True:
            rows = await self._core.call(
                "export_records",
                {
                    "section": "item",
                    "after": found[-1].key if found else None,
                    "max_rows": _PAGE,
                    "item_context": None if context_data is None else JsonArgument(context_data),
                },
                context,
                mode="read",
            )
            found.extend(from_rows(ExportedRecord, rows))
            if len(rows) < _PAGE:
                return found

    async def import_lines(
        self,
        lines: Sequence[str],
        *,
        exported_by: UUID | str | None = None,
        people: Mapping[str, str] | None = None,
        workspace: UUID | str | None = None,
        dry_run: bool = False,
        allow_credentials: bool = False,
    ) -> list[ImportedLine]:
        """Take lines of an export into the workspace, up to a thousand, in the order of the file.

        Args:
            lines: JSON objects as the export wrote them.
            exported_by: whose export it is, as its header says: what this person did is the caller's doing here.
            people: for the service: ids of people in the file, and who they are here.
            workspace: for the service: where to; None: the client's.
            dry_run: say what would become of the lines, and keep nothing.
            allow_credentials: take texts though they look like they hold credentials.

        Returns:
            one answer a line. A line that can't be taken in is answered as failed; the others go in.

        Raises:
            PermissionDeniedError: the caller may record nothing in the workspace.
            InvalidArgumentError: the request names a session: an import brings its own.
        """
        context = await self._request_context()
        if workspace is not None:
            context = RequestContext(workspace=to_id(workspace, "workspace"))
        rows = await self._core.call(
            "import_records",
            {
                "lines": list(lines),
                "exported_by": None if exported_by is None else to_id(exported_by, "user"),
                "people": None if people is None else JsonArgument(cast("JSON", dict(people))),
                "dry_run": dry_run or None,
                "allow_credentials": allow_credentials or None,
            },
            context,
            mode="repeatable",
        )
        return from_rows(ImportedLine, rows)

    async def restore_workspace(self, header: JSONObject, *, people: Mapping[str, str] | None = None) -> UUID:
        """Make the workspace that an export is of, under its own id, or find it; return that. For the service.

        Args:
            header: the header of the export.
            people: ids of people in the file, and who they are here; those without an account become no members.

        Raises:
            PermissionDeniedError: the caller is not the service.
        """
        rows = await self._core.call(
            "import_workspace",
            {
                "header": JsonArgument(header),
                "people": None if people is None else JsonArgument(cast("JSON", dict(people))),
            },
            RequestContext(),
            mode="repeatable",
        )
        return to_id(str(rows[0]["id"]), "workspace")

    async def edit(
        self,
        knowledge_id: UUID | str,
        changes: JSONObject,
        *,
        unchanged_since: datetime | str | None = None,
        allow_credentials: bool = False,
    ) -> EditedKnowledge:
        """Change an item.

        Args:
            knowledge_id: the item. One that is rendered from a record (gotcha, command, …) is edited there.
            changes: columns and their new values: title, content, knowledge_type, category, subcategory,
                context_data, importance_score, retrieval_triggers, project_context, valid_from, valid_to.
            unchanged_since: the updated_at that was read: an edit never overwrites another.
            allow_credentials: take texts though they look like they hold credentials.

        Raises:
            NotFoundError: there is no such item, or none that the caller may see.
            PermissionDeniedError: it is not the caller's to edit.
            ConflictError: it has changed since, a record renders it, or another item says the same.
        """
        rows = await self._core.call(
            "edit_knowledge",
            {
                "knowledge_id": to_id(knowledge_id, "knowledge item"),
                "changes": JsonArgument(changes),
                "unchanged_since": unchanged_since,
                "allow_credentials": allow_credentials or None,
            },
            await self._request_context(),
            mode="once" if unchanged_since is not None else "repeatable",
        )
        return from_row(EditedKnowledge, rows[0])


async def _read_all(
    read: AsyncReader, *, with_embeddings: bool
) -> AsyncGenerator[ExportedHeader | ExportedRecord]:
    rows = await read("export_header", {"with_embeddings": with_embeddings})
    yield from_row(ExportedHeader, rows[0])
    for section in _SECTIONS:
        after: str | None = None
        while True:
            arguments: dict[str, Argument] = {
                "section": section,
                "max_rows": _PAGE,
                "with_embeddings": with_embeddings,
            }
            if after is not None:
                arguments["after"] = after
            rows = await read("export_records", arguments)
            for row in rows:
                record = from_row(ExportedRecord, row)
                after = record.key
                yield record
            if len(rows) < _PAGE:
                break
