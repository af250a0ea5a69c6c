"""The command line: `kp`.

A command is one call of the client and its presentation. Data goes to standard output, talk to standard
error.

Exit codes: 0 done; 1 the operation failed; 2 wrong usage; 3 not running or not reachable; 4 not signed in or
not permitted; 130 interrupted.
"""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Final

import typer

from knowledge_persistence.errors import KnowledgePersistenceError

if TYPE_CHECKING:
    from collections.abc import Sequence

# Which module has which commands, in the order of the help page. A command loads its own module alone.
_MODULES: Final = {
    "stack": ("up", "down", "status", "logs", "studio"),
    "database": ("migrate",),
    "knowledge": ("remember", "recall", "show", "rate"),
    "validation": ("validate",),
    "tune": ("tune",),
    "graph": ("relate", "graph"),
    "gotcha": ("gotcha",),
    "command": ("command",),
    "insight": ("insight",),
    "decision": ("decision",),
    "pattern": ("pattern",),
    "history": ("history", "supersede", "forget", "duplicates"),
    "audit": ("audit",),
    "session": ("session",),
    "watch": ("watch", "who"),
    "workspace": ("workspace",),
    "account": ("login", "logout", "whoami"),
    "tokens": ("tokens",),
    "mcp": ("mcp",),
    "worker": ("worker", "maintain", "model"),
    "embeddings": ("embeddings",),
    "portability": ("export", "import", "ingest"),
    "backup": ("backup", "restore"),
    "doctor": ("doctor",),
    "install": ("install", "uninstall"),
    "hook": ("hook",),
    "rotation": ("rotate-keys",),
    "upgrade": ("upgrade",),
}


def make_app(arguments: Sequence[str] = ()) -> typer.Typer:
    """Assemble the commands.

    Args:
        arguments: the command line; where it begins with a command, only that one's module is loaded.
    """
    app = typer.Typer(
        name="kp",
        help="Memory for AI agents that outlives the session.",
        no_args_is_help=True,
        rich_markup_mode="rich",
        # A bug's traceback is for us; a user's error never has one.
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_main_options)
    wanted = [name for name, commands in _MODULES.items() if arguments and arguments[0] in commands]
    for name in wanted or _MODULES:
        import_module(f".{name}", __name__).register(app)
    return app


def _print_version(value: bool) -> None:
    if value:
        from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

        try:
            typer.echo(version("knowledge-persistence"))
        except PackageNotFoundError:
            typer.echo("unknown (not installed)")
        raise typer.Exit


def _main_options(
    *,
    version: Annotated[  # noqa: ARG001 - the callback does it
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Log what is done to standard error.")
    ] = False,
) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )
    if not verbose:
        # Its complaints reach the user as this package's errors.
        logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
        logging.getLogger("httpx").setLevel(logging.WARNING)


def main() -> int:
    """Run the command line and return the exit code."""
    try:
        make_app(sys.argv[1:])(prog_name="kp")
    except KnowledgePersistenceError as error:
        from .output import exit_code, print_error  # noqa: PLC0415

        print_error(error)
        return exit_code(error)
    return 0
