"""`kp history|supersede|forget|duplicates`: what became of items, what takes whose place, what goes for good."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from .connection import SessionOption, UrlOption, WorkspaceOption, open_client
from .output import JsonOption, clean, emit_json, err, fail, out

if TYPE_CHECKING:
    from knowledge_persistence.models import DuplicateProposal, HistoryEntry, MergedKnowledge

_USAGE = 2
_EXCERPT = 160

ItemId = Annotated[str, typer.Argument(help="The item's id, as recall shows it.", metavar="ID")]
ProposalId = Annotated[
    str, typer.Argument(help="The proposal's id, as `kp duplicates list` shows it.", metavar="PROPOSAL")
]


class ProposalStatus(StrEnum):
    """What became of proposals."""

    proposed = "proposed"
    merged = "merged"
    rejected = "rejected"
    undone = "undone"


def register(app: typer.Typer) -> None:
    """Add the commands to an application."""
    app.command("history", rich_help_panel="Upkeep")(history)
    app.command("supersede", rich_help_panel="Upkeep")(supersede)
    app.command("forget", rich_help_panel="Upkeep")(forget)
    group = typer.Typer(no_args_is_help=True, help="Items that say the same: find, merge, undo.")
    group.command("propose")(propose)
    group.command("list")(list_duplicates)
    group.command("accept")(accept)
    group.command("reject")(reject)
    group.command("merge")(merge)
    group.command("undo")(undo)
    app.add_typer(group, name="duplicates", rich_help_panel="Upkeep")


def history(
    knowledge_id: ItemId,
    *,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show who changed an item's status or place, when and why."""
    with open_client(url=url, workspace=workspace) as client:
        item = client.get(knowledge_id)
        entries = client.history(knowledge_id)
    if as_json:
        emit_json(entries)
        return
    table = Table("when", "what", "who", "why", box=None, pad_edge=False)
    table.add_row(
        f"{item.created_at:%Y-%m-%d %H:%M}", "recorded", str(item.owner_id or "somebody who is gone")
    )
    for entry in entries:
        table.add_row(
            f"{entry.changed_at:%Y-%m-%d %H:%M}",
            _change(entry),
            str(entry.changed_by or "an operator, or somebody who is gone"),
            Text(clean(entry.note or "")),
        )
    out.print(table)


def _change(entry: HistoryEntry) -> str:
    if entry.change == "superseded":
        return f"superseded by {entry.superseded_by or 'what was erased since'}"
    if entry.change == "restored":
        return "in force again"
    return entry.to_status if entry.from_status is None else f"{entry.from_status} -> {entry.to_status}"


def supersede(
    knowledge_id: ItemId,
    replacement_id: Annotated[
        str | None, typer.Argument(help="The id of what holds instead.", metavar="[REPLACEMENT]")
    ] = None,
    *,
    undo: Annotated[bool, typer.Option("--undo", help="Give the item its place back.")] = False,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let another item take an item's place: it leaves retrieval and stays readable."""
    if undo == (replacement_id is not None):
        fail("name the item that takes its place, or say --undo", _USAGE)
    with open_client(url=url, workspace=workspace) as client:
        done = (
            client.undo_supersede(knowledge_id)
            if replacement_id is None
            else client.supersede(knowledge_id, replacement_id)
        )
    if as_json:
        emit_json(done)
        return
    by = "" if done.superseded_by is None else f" by {done.superseded_by}"
    out.print(
        f"{done.knowledge_id} {done.outcome}{by if done.outcome == 'superseded' else ''}", soft_wrap=True
    )


def forget(
    knowledge_id: ItemId,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Erase an item for good, with all that is about it. There is no undo; backups hold it until they go."""
    with open_client(url=url, workspace=workspace) as client:
        item = client.get(knowledge_id)
        going = client.forget(knowledge_id, dry_run=True)
        if not dry_run and not yes and not err.is_terminal:
            fail("this erases it for good: --yes says that it is meant", _USAGE)
        if not as_json or not yes:
            err.print(Text(clean(item.title), style="bold"), soft_wrap=True)
            err.print(
                f"goes with {going.links_removed} links to sessions, {going.relationships_removed} relationships, "
                "its history, search text and embedding.",
                soft_wrap=True,
            )
            if going.restored_ids:
                err.print("What it had superseded, or what was merged into it, is in force again:")
                for restored in going.restored_ids:
                    err.print(
                        f"  {restored}  {clean(client.get(restored).title)}", markup=False, soft_wrap=True
                    )
        if not dry_run:
            if not yes:
                typer.confirm("Erase it for good?", abort=True, err=True)
            going = client.forget(knowledge_id)
    if as_json:
        emit_json(going)
    else:
        err.print("Nothing was erased." if dry_run else "Erased.")


def propose(
    knowledge_id: Annotated[
        str | None,
        typer.Argument(help="Look for duplicates of this item; left out: in the workspace.", metavar="[ID]"),
    ] = None,
    *,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=200, help="So many at most.")] = 20,
    workspace: WorkspaceOption = None,
    session: SessionOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look for items that say the same, and propose to merge them. Nothing is merged."""
    with open_client(url=url, workspace=workspace, session=session) as client:
        found = client.discover_duplicates(knowledge_id, max_proposals=limit)
    _print_proposals(found, as_json=as_json, nothing="Nothing new. `kp duplicates list` shows what waits.")


def list_duplicates(
    *,
    status: Annotated[ProposalStatus, typer.Option(help="What became of them.")] = ProposalStatus.proposed,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="So many at most.")] = 20,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the pairs that wait for a decision, the surest first."""
    with open_client(url=url, workspace=workspace) as client:
        found = client.list_duplicates(status=status.value, max_results=limit)
    _print_proposals(found, as_json=as_json, nothing="None. `kp duplicates propose` looks for some.")


def _print_proposals(found: list[DuplicateProposal], *, as_json: bool, nothing: str) -> None:
    if as_json:
        emit_json(found)
        return
    for pair in found:
        out.print(Text(f"{pair.strength:.2f}  {clean(pair.reason or '')}", style="cyan"), soft_wrap=True)
        for role, item_id, title, content in (
            ("keep", pair.keep_id, pair.keep_title, pair.keep_content),
            ("merge", pair.duplicate_id, pair.duplicate_title, pair.duplicate_content),
        ):
            line = Text(f"  {role:6}{item_id}  ")
            line.append(clean(title), style="bold")
            out.print(line, soft_wrap=True)
            text = " ".join(clean(content).split())
            out.print(f"        {text[:_EXCERPT]}{' …' if len(text) > _EXCERPT else ''}", soft_wrap=True)
        out.print(Text(f"  id:   {pair.proposal_id}", style="dim"), soft_wrap=True)
        out.print()
    if not found:
        err.print(nothing)


def accept(
    proposal_id: ProposalId,
    *,
    keep: Annotated[
        str | None, typer.Option(help="Keep this one of the two, not the one proposed.", metavar="ID")
    ] = None,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Merge a proposed pair. Nothing is lost, and `kp duplicates undo` takes it back."""
    with open_client(url=url, workspace=workspace) as client:
        done = client.decide_duplicate(proposal_id, accept=True, keep_id=keep)
    _print_merged(done, as_json=as_json)


def reject(
    proposal_id: ProposalId,
    *,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Reject a proposal; it is not made again."""
    with open_client(url=url, workspace=workspace) as client:
        done = client.decide_duplicate(proposal_id, accept=False)
    _print_merged(done, as_json=as_json)


def merge(
    keep_id: Annotated[str, typer.Argument(help="The item to keep.", metavar="KEEP")],
    duplicate_id: Annotated[str, typer.Argument(help="The item to merge into it.", metavar="DUPLICATE")],
    *,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Merge two items that nobody has proposed."""
    with open_client(url=url, workspace=workspace) as client:
        done = client.merge(keep_id, duplicate_id)
    _print_merged(done, as_json=as_json)


def undo(
    duplicate_id: Annotated[str, typer.Argument(help="The item that was merged.", metavar="DUPLICATE")],
    *,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a merge back: the item is in force again, with what was its own."""
    with open_client(url=url, workspace=workspace) as client:
        done = client.undo_merge(duplicate_id)
    _print_merged(done, as_json=as_json)


def _print_merged(done: MergedKnowledge, *, as_json: bool) -> None:
    if as_json:
        emit_json(done)
        return
    out.print(f"{done.duplicate_id} {done.status}", soft_wrap=True)
    if done.status in ("merged", "undone"):
        went = "went over to" if done.status == "merged" else "came back from"
        err.print(
            f"{done.links_moved} links, {done.relationships_moved} relationships and "
            f"{len(done.triggers_added)} triggers {went} {done.keep_id}.",
            soft_wrap=True,
        )
