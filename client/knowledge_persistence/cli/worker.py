"""`kp worker`, `kp maintain`, `kp model list|register`: what an operator's machine does by itself."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from .connection import UrlOption, load_settings, open_client
from .output import JsonOption, clean, emit_json, err, out


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command("worker", rich_help_panel="Operations")(worker)
    app.command("maintain", rich_help_panel="Operations")(maintain)
    group = typer.Typer(no_args_is_help=True, help="Embedding models: whose vectors are stored and searched.")
    group.command("list")(list_models)
    group.command("register")(register_model)
    app.add_typer(group, name="model", rich_help_panel="Operations")


def worker(
    *,
    once: Annotated[bool, typer.Option("--once", help="Embed what waits now, then end.")] = False,
    batch: Annotated[int, typer.Option(min=1, max=1000, help="How many texts are taken at once.")] = 32,
    database_url: Annotated[
        str | None,
        typer.Option(help="The database, login authenticator (KP_DATABASE_URL; else the embedded stack's)."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Give recorded texts their vectors, and run maintenance every hour. `kp up` runs one by itself."""
    from knowledge_persistence.worker import Worker, log_to_stderr, run_until_stopped  # noqa: PLC0415

    log_to_stderr()
    made = Worker.from_settings(load_settings(), database_url=database_url, batch=batch)
    report = run_until_stopped(made, once=once)
    if as_json:
        emit_json({"stored": report.stored, "stale": report.stale, "failed": report.failed})
    else:
        err.print(f"{report.stored} stored, {report.stale} stale, {report.failed} failed.")
    if once and report.failed:
        raise typer.Exit(1)


def maintain(*, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Run maintenance now: partitions ahead, stale proposals away. Needs the secret key; the worker does it hourly."""
    with open_client(url=url, session=False, service_role=True) as client:
        outcomes = client.run_maintenance()
    if as_json:
        emit_json(outcomes)
    else:
        table = Table("task", "outcome", "detail", box=None, pad_edge=False)
        for one in outcomes:
            table.add_row(Text(one.task), Text(one.outcome), Text(clean(one.detail)))
        out.print(table)
    if any(one.outcome == "failed" for one in outcomes):
        raise typer.Exit(1)


def list_models(*, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """List the registered embedding models."""
    with open_client(url=url, session=False) as client:
        found = client.embedding_models()
    if as_json:
        emit_json(found)
        return
    table = Table("model", "dimensions", "threshold", "default", box=None, pad_edge=False)
    for one in found:
        table.add_row(
            Text(clean(one.name)),
            str(one.dimensions),
            f"{one.similarity_threshold:g}",
            "yes" if one.is_default else "",
        )
    out.print(table)


def register_model(
    name: Annotated[str, typer.Argument(help="The model's name, as the embedder reports it.")],
    dimensions: Annotated[int, typer.Argument(min=1, max=4000, help="Length of its vectors.")],
    *,
    threshold: Annotated[
        float | None,
        typer.Option(min=-1, max=1, help="Cosine similarity from which two texts count as related."),
    ] = None,
    default: Annotated[
        bool, typer.Option("--default", help="Let it serve workspaces that chose no model.")
    ] = False,
    query_prefix: Annotated[
        str | None, typer.Option(help="What goes before a question; left out: as it is.")
    ] = None,
    document_prefix: Annotated[
        str | None, typer.Option(help="What goes before a document; left out: as it is.")
    ] = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Register an embedding model and make its index; again: change it. Needs the secret key.

    Where there are items already, `kp embeddings switch` makes it the default, without a gap.
    """
    with open_client(url=url, session=False, service_role=True) as client:
        made = client.register_embedding_model(
            name,
            dimensions,
            similarity_threshold=threshold,
            is_default=default,
            query_prefix=query_prefix,
            document_prefix=document_prefix,
        )
    if as_json:
        emit_json(made)
    else:
        out.print(f"{clean(made.name)} {made.dimensions}{' (default)' if made.is_default else ''}")
