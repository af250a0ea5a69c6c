"""`kp embeddings switch|status|failed|retry`: which model makes the vectors, and what has none."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Final, cast

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from .connection import load_settings
from .output import FAILED, JsonOption, clean, emit_json, err, fail, out

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from knowledge_persistence.operations.model_switch import SwitchStatus

DatabaseOption = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        help="URL of the role postgres; otherwise KP_DATABASE_URL, otherwise the embedded stack.",
    ),
]

_USAGE: Final = 2
_STEPS: Final = {
    "embed": "embedding",
    "index": "building the index",
    "check": "checking the index",
    "swap": "swapping",
    "settle": "moving",
}


def register(app: typer.Typer) -> None:
    """Add the commands to an application."""
    group = typer.Typer(
        no_args_is_help=True,
        help="Vectors: which model makes them, how far that is, what could not be embedded.",
    )
    group.command("switch")(switch)
    group.command("status")(status)
    group.command("failed")(failed)
    group.command("retry")(retry)
    app.add_typer(group, name="embeddings", rich_help_panel="Operations")


def switch(
    model: Annotated[str | None, typer.Argument(help="The model that is to serve.", metavar="MODEL")] = None,
    *,
    dimensions: Annotated[
        int | None,
        typer.Option(
            min=1, max=4000, help="Length of its vectors, where it is not registered and not local."
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=-1, max=1, help="Cosine similarity from which two texts count as related."),
    ] = None,
    query_prefix: Annotated[str, typer.Option(help="What goes before a question.")] = "",
    document_prefix: Annotated[str, typer.Option(help="What goes before a document.")] = "",
    accept_failed: Annotated[
        bool, typer.Option("--accept-failed", help="Swap although some texts can't be embedded.")
    ] = False,
    abort: Annotated[
        bool, typer.Option("--abort", help="Give up the switch that is under way; before the swap only.")
    ] = False,
    database_url: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let another model make the vectors, while searches go on; after an interruption the same command goes on.

    Everything is embedded anew in the background while the old model serves, then the index is built, then the new
    model takes over in one moment. Workspaces that chose a model of their own keep it.
    """
    from knowledge_persistence.embedders import make_embedder_for  # noqa: PLC0415
    from knowledge_persistence.operations.model_switch import (  # noqa: PLC0415 - slow to import
        NewModel,
        abort_switch,
        switch_embedding_model,
    )

    url = _operators_url(database_url)
    if abort:
        was = asyncio.run(abort_switch(url))
        if as_json:
            emit_json(was)
        else:
            err.print(f"Given up: {clean(was.from_model or 'no model')} goes on serving.", markup=False)
        return
    if model is None:
        fail("which model? `kp model list` names those that are registered", _USAGE)
    embedder = make_embedder_for(load_settings(), model, dimensions=dimensions)
    if embedder is None:
        err.print(
            f"Nothing here embeds with {clean(model)} (KP_EMBEDDER): the workers that can do all of it.",
            markup=False,
        )
    new = NewModel(
        name=model,
        dimensions=dimensions or (None if embedder is None else embedder.dimensions),
        similarity_threshold=threshold,
        query_prefix=query_prefix,
        document_prefix=document_prefix,
    )
    with _progress() as progress:
        done = asyncio.run(
            switch_embedding_model(
                url, new, embedder=embedder, accept_failed=accept_failed, progress=progress
            )
        )
    if as_json:
        emit_json(done)
    elif done is None:
        err.print(f"Nothing to do: {clean(model)} serves.", markup=False)
    else:
        err.print(
            f"{clean(model)} serves {done.items} items. The vectors of {clean(done.from_model or 'before')} are "
            "removed in an hour.",
            markup=False,
        )


def status(*, database_url: DatabaseOption = None, as_json: JsonOption = False) -> None:
    """Say how many texts wait for a vector, and how far a switch is."""
    from knowledge_persistence.operations.model_switch import read_operations, switch_status  # noqa: PLC0415

    url = _operators_url(database_url)
    current = asyncio.run(switch_status(url))
    numbers: dict[str, dict[str, int]] = {}
    serving = ""
    for row in asyncio.run(read_operations(url, "operations_metrics")):
        labels = cast("dict[str, str]", row["labels"])
        if row["metric"] == "kp_embedding_jobs":
            numbers.setdefault(labels["model"], {})[labels["state"]] = int(cast("float", row["value"]))
        elif row["metric"] == "kp_embedding_model_serves" and row["value"]:
            serving = labels["model"]
    if as_json:
        emit_json({"serving": serving, "models": numbers, "switch": current})
        return
    table = Table("model", "pending", "failed", "switching", "", box=None, pad_edge=False)
    for name, counts in sorted(numbers.items()):
        table.add_row(
            Text(clean(name)),
            *(str(counts.get(state, 0)) for state in ("pending", "failed", "switching")),
            "serves" if name == serving else "",
        )
    out.print(table)
    if current is not None:
        out.print(
            f"Switch from {clean(current.from_model or 'no model')} to {clean(current.to_model)}: {current.state}, "
            f"{current.embedded} of {current.items} embedded, {current.failed} failed, "
            f"{current.unsettled} still to move, index {'built' if current.index_valid else 'not built'}."
        )


def failed(*, database_url: DatabaseOption = None, as_json: JsonOption = False) -> None:
    """List the texts whose last attempt at embedding failed, with the reason."""
    from knowledge_persistence.operations.model_switch import read_operations  # noqa: PLC0415

    rows = asyncio.run(read_operations(_operators_url(database_url), "failed_embeddings"))
    if as_json:
        emit_json(rows)
        return
    for row in rows:
        again = (
            "set aside"
            if row["tried_again_at"] is None
            else f"tried again at {row['tried_again_at']:%H:%M:%S}"
        )
        out.print(f"{row['knowledge_id']}  {clean(str(row['title']))}", soft_wrap=True)
        out.print(
            f"  {clean(str(row['embedding_model']))}, {row['attempts']} attempts, {again}: "
            f"{clean(str(row['last_error']))}",
            soft_wrap=True,
        )
    err.print(f"{len(rows)} failed." if rows else "None failed.")


def retry(
    knowledge_ids: Annotated[
        list[str] | None, typer.Argument(help="Items; none: all that were set aside.", metavar="[ID]...")
    ] = None,
    *,
    database_url: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Try again to embed what was set aside."""
    from knowledge_persistence.operations.model_switch import retry_failed  # noqa: PLC0415

    count = asyncio.run(retry_failed(_operators_url(database_url), knowledge_ids or None))
    if as_json:
        emit_json({"retried": count})
    else:
        err.print(f"{count} are tried again.")
    if knowledge_ids and not count:
        raise typer.Exit(FAILED)


def _operators_url(database_url: str | None) -> str:
    from knowledge_persistence.embedded import Stack  # noqa: PLC0415 - slow to import

    settings = load_settings()
    return database_url or settings.database_url or Stack(settings.home).info.admin_database_url


@contextmanager
def _progress() -> Generator[Callable[[str, SwitchStatus], None]]:
    """Progress on standard error: a bar where somebody watches, a line a step elsewhere."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=err,
        disable=not err.is_terminal,
        transient=True,
    ) as bar:
        task = bar.add_task("", total=None)
        told = ""

        def say(step: str, at: SwitchStatus) -> None:
            nonlocal told
            done = at.items - at.unsettled if step == "settle" else at.embedded
            bar.update(task, description=_STEPS[step], total=max(at.items, 1), completed=done)
            if not err.is_terminal and step != told:
                err.print(f"{_STEPS[step]}: {done} of {at.items}", markup=False)
            told = step

        yield say
