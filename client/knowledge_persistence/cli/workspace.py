"""`kp workspace list|create|members|add|role|remove|delete`: who shares what."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from .connection import UrlOption, open_client
from .output import JsonOption, clean, emit_json, err, fail, out

if TYPE_CHECKING:
    from uuid import UUID

    from knowledge_persistence._sync.client import KnowledgeClient

_USAGE = 2


class Role(StrEnum):
    """Workspace roles."""

    owner = "owner"
    maintainer = "maintainer"
    contributor = "contributor"
    reader = "reader"


WorkspaceArgument = Annotated[str, typer.Argument(help="The workspace, by id or name.", metavar="WORKSPACE")]
UserArgument = Annotated[
    str, typer.Argument(help="The user's id; `kp whoami` tells it to the user.", metavar="USER")
]


def register(app: typer.Typer) -> None:
    """Add the commands to an application."""
    group = typer.Typer(no_args_is_help=True, help="Workspaces: who shares what.")
    group.command("list")(list_workspaces)
    group.command("create")(create)
    group.command("members")(members)
    group.command("add")(add)
    group.command("role")(role)
    group.command("remove")(remove)
    group.command("delete")(delete)
    app.add_typer(group, name="workspace", rich_help_panel="Account")


def _id(client: KnowledgeClient, workspace: str) -> UUID:
    return client.core.find_workspace(workspace)


def list_workspaces(*, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """List your workspaces, the personal one first."""
    with open_client(url=url, session=False) as client:
        found = client.workspaces()
    if as_json:
        emit_json(found)
        return
    if not found:
        err.print("No workspaces yet: your personal one is made when you first remember something.")
        return
    table = Table("id", "name", "your role", box=None, pad_edge=False)
    for one in found:
        table.add_row(
            str(one.workspace_id),
            Text(clean(one.name)),
            f"{one.role}{' (personal)' if one.is_personal else ''}",
        )
    out.print(table)


def create(
    name: Annotated[str, typer.Argument(help="What people call it.")],
    *,
    description: Annotated[str | None, typer.Option(help="What it is for.")] = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a shared workspace, which you own."""
    with open_client(url=url, session=False) as client:
        made = client.create_workspace(name, description=description)
    if as_json:
        emit_json(made)
        return
    out.print(str(made.workspace_id))
    err.print(f"Work in it with: export KP_WORKSPACE={made.workspace_id}", soft_wrap=True)


def members(workspace: WorkspaceArgument, *, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """List who is a member, in which role."""
    with open_client(url=url, session=False) as client:
        found = client.workspace_members(_id(client, workspace))
    if as_json:
        emit_json(found)
        return
    table = Table("user", "role", box=None, pad_edge=False)
    for one in found:
        table.add_row(str(one.user_id), one.role)
    out.print(table)


def add(
    workspace: WorkspaceArgument,
    user: UserArgument,
    *,
    as_role: Annotated[
        Role, typer.Option("--role", help="maintainer validates, contributor records, reader reads.")
    ] = Role.contributor,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let somebody in. For owners."""
    with open_client(url=url, session=False) as client:
        member = client.add_workspace_member(_id(client, workspace), user, role=as_role.value)
    if as_json:
        emit_json(member)
    else:
        out.print(f"{member.user_id} {member.role}")


def role(
    workspace: WorkspaceArgument,
    user: UserArgument,
    new_role: Annotated[Role, typer.Argument(help="The member's new role.", metavar="ROLE")],
    *,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a member another role. For owners."""
    with open_client(url=url, session=False) as client:
        member = client.set_workspace_member_role(_id(client, workspace), user, role=new_role.value)
    if as_json:
        emit_json(member)
    else:
        out.print(f"{member.user_id} {member.role}")


def remove(
    workspace: WorkspaceArgument, user: UserArgument, *, url: UrlOption = None, as_json: JsonOption = False
) -> None:
    """Take a member out, or leave it yourself."""
    with open_client(url=url, session=False) as client:
        workspace_id = _id(client, workspace)
        client.remove_workspace_member(workspace_id, user)
    if as_json:
        emit_json({"workspace_id": workspace_id, "user_id": user, "removed": True})
    else:
        err.print("Removed.")


def delete(
    workspace: WorkspaceArgument,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete a workspace with everything in it. For owners."""
    with open_client(url=url, session=False) as client:
        workspace_id = _id(client, workspace)
        if not yes:
            if not err.is_terminal:
                fail("this deletes everything in it for good: --yes says that it is meant", _USAGE)
            typer.confirm(
                f"Delete {clean(workspace)} ({workspace_id}) with everything in it, for good?",
                abort=True,
                err=True,
            )
        client.delete_workspace(workspace_id)
    if as_json:
        emit_json({"workspace_id": workspace_id, "deleted": True})
    else:
        err.print("Deleted.")
