"""`kp up|down|status|logs|studio`: the embedded stack."""

from __future__ import annotations

import signal
import sys
import threading
import time
import webbrowser
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from knowledge_persistence.errors import KnowledgePersistenceError

from .output import JsonOption, clean, emit_json, err, fail, print_error

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from knowledge_persistence.embedded import Stack, StackStatus

_NOT_RUNNING = 3


def register(app: typer.Typer) -> None:
    """Add the commands to an application."""
    app.command("up")(up)
    app.command("down")(down)
    app.command("status")(status)
    app.command("logs")(logs)
    app.command("studio")(studio)


def _stack(*, port: int | None = None, database_port: int | None = None, new_database: bool = False) -> Stack:
    """Return the stack of the data directory; imported here, so that `kp --help` doesn't wait for it."""
    from knowledge_persistence.embedded import Stack  # noqa: PLC0415
    from knowledge_persistence.settings import Settings  # noqa: PLC0415

    return Stack(Settings.load().home, port=port, database_port=database_port, new_database=new_database)


def up(
    *,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return once it is ready, and leave it running.")
    ] = False,
    port: Annotated[
        int | None, typer.Option(help="Port of the HTTP origin; kept for the next start.", min=1, max=65535)
    ] = None,
    db_port: Annotated[
        int | None, typer.Option(help="Port of the database; kept for the next start.", min=1, max=65535)
    ] = None,
    new_database: Annotated[
        bool,
        typer.Option(
            "--new-database",
            help="Make an empty database for the keys and passwords that are here without one: before kp restore.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Start the embedded stack: database, Data API, Auth, worker.

    The first start makes everything, keys and passwords included, in the data directory (KP_HOME). Without
    --detach it runs until ^C.
    """
    stack = _stack(port=port, database_port=db_port, new_database=new_database)
    if stack.home.is_held() or detach:
        already = stack.status().is_running
        with _Talk() as say:
            stack.up(progress=say)
        if already:
            err.print("The stack is running already.")
        _print_status(stack.status(), as_json=as_json)
        return

    talk = _Talk()

    def report(event: dict[str, Any]) -> None:
        match event["event"]:
            case "ready":
                talk.stop()
                _print_status(stack.status(), as_json=as_json)
                err.print("Running. ^C stops it.")
            case "failed" | "busy":
                talk.stop()
                print_error(KnowledgePersistenceError(event["message"]))
            case _:
                talk(event["message"])

    with talk:
        code = stack.run(report=report)
    raise typer.Exit(code)


def down(*, as_json: JsonOption = False) -> None:
    """Stop the embedded stack, and whatever a killed one left behind. The data stays."""
    stack = _stack()
    stopped = stack.down()
    if as_json:
        emit_json({"home": str(stack.home.path), "stopped": stopped})
    else:
        err.print("Stopped." if stopped else "Nothing was running.")


def status(*, as_json: JsonOption = False) -> None:
    """Say what runs, on which ports, and which migrations are applied. Exits with 3 when the stack isn't running."""
    found = _stack().status()
    _print_status(found, as_json=as_json)
    if not found.is_running:
        raise typer.Exit(_NOT_RUNNING)


def logs(
    component: Annotated[
        str | None,
        typer.Argument(help="postgres, front, realtime, edge, worker or supervisor; without one all."),
    ] = None,
    *,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on as lines are written, until ^C.")
    ] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", help="How many lines of each log.", min=0)] = 50,
) -> None:
    """Show the logs of the stack's parts."""
    directory = _stack().home.log_directory
    found = sorted(directory.glob("*.log")) if directory.is_dir() else []
    if component is not None:
        found = [path for path in found if path.stem == component]
    if not found:
        what = f"no log of {component!r}" if component is not None else "no logs"
        fail(f"{what} in {directory}", _NOT_RUNNING)
    prefixed = component is None
    offsets: dict[Path, int] = {}
    for path in found:
        text = path.read_bytes()
        offsets[path] = len(text)
        for line in text.decode(errors="replace").splitlines()[-lines or None :] if lines else []:
            _print_line(path, line, prefixed=prefixed)
    while follow:
        time.sleep(0.2)
        for path in found:
            _print_new(path, offsets, prefixed=prefixed)


def studio(
    *,
    port: Annotated[int | None, typer.Option(help="Port to serve it on.", min=1, max=65535)] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Open an admin Studio on a loopback port of its own, until ^C.

    Whoever has the address that this prints may read and change everything in the database, past row-level
    security. It is served on this machine only, and only while this command runs.
    """
    stack = _stack()
    if not stack.status().is_running:
        fail("the stack isn't running; start it with `kp up`", _NOT_RUNNING)
    ended = threading.Event()

    def end(_number: int, _frame: object) -> None:
        ended.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    from knowledge_persistence.embedded.studio import Studio  # noqa: PLC0415 - slow to import

    with Studio(stack, port=port) as opened:
        if as_json:
            emit_json({"url": opened.url, "port": opened.port})
        else:
            err.print(
                "[yellow]Studio has admin rights:[/yellow] with this address everything can be read and changed, "
                "past row-level security. ^C closes it."
            )
            _print_pairs([("Studio", opened.url)])
        sys.stdout.flush()
        if open_browser:
            webbrowser.open(opened.url)
        while opened.is_open and not ended.wait(0.3):
            pass
        if not ended.is_set():
            fail("Studio ended: the stack is down", _NOT_RUNNING)


class _Talk:
    """Progress on standard error: a spinner where somebody watches, lines elsewhere."""

    def __init__(self) -> None:
        self._status = err.status("Starting") if err.is_terminal else None
        self._last = ""

    def __call__(self, message: str) -> None:
        if self._status is not None:
            self._status.update(message)
        elif message.partition(":")[0] != self._last:
            # Counting messages differ after the colon only.
            self._last = message.partition(":")[0]
            err.print(message, highlight=False)

    def stop(self) -> None:
        if self._status is not None:
            self._status.stop()

    def __enter__(self) -> Callable[[str], None]:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _as_dict(found: StackStatus) -> dict[str, Any]:
    info = asdict(found.info) if found.info is not None else {}
    return {
        **info,
        "home": found.home,
        "state": found.state,
        "services": {name: asdict(service) for name, service in found.services.items()},
        "migrations": found.migrations,
        "studio": "kp studio",
    }


def _print_status(found: StackStatus, *, as_json: bool) -> None:
    if as_json:
        emit_json(_as_dict(found))
        return
    pairs = [("State", found.state), ("Data directory", found.home)]
    if found.info is not None:
        pairs += [
            ("API URL", found.info.api_url),
            ("Publishable key", found.info.publishable_key),
            ("Secret key", found.info.secret_key),
            ("Database URL", found.info.database_url),
        ]
    if found.is_running:
        pairs.append(("Studio", "kp studio"))
    for name, service in found.services.items():
        words = [service.state]
        if service.pid is not None:
            words.append(f"process {service.pid}")
        if service.port is not None:
            words.append(f"port {service.port}")
        if service.restarts:
            words.append(f"restarted {service.restarts} times, last: {service.last_failure}")
        pairs.append((name, ", ".join(words)))
    if found.migrations is not None:
        applied, pending = found.migrations["applied"], found.migrations["pending"]
        pairs.append(("Migrations", f"{len(applied)} applied, {len(pending)} pending"))
    _print_pairs(pairs)


def _print_pairs(pairs: list[tuple[str, str]]) -> None:
    # Lines, not a table: a table would cut or fold the keys where the terminal is narrow.
    out = Console()
    width = max(len(label) for label, _ in pairs) + 2
    for label, value in pairs:
        out.print(f"[bold]{label:<{width}}[/bold]", end="")
        out.print(value, soft_wrap=True, highlight=False, markup=False)


def _print_line(path: Path, line: str, *, prefixed: bool) -> None:
    line = clean(line)  # what a server logs of a caller's text is the caller's
    sys.stdout.write(f"{path.stem:<11}| {line}\n" if prefixed else f"{line}\n")
    sys.stdout.flush()


def _print_new(path: Path, offsets: dict[Path, int], *, prefixed: bool) -> None:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return
    # A shorter file is a new one.
    start = offsets[path] if size >= offsets[path] else 0
    with path.open("rb") as file:
        file.seek(start)
        data = file.read()
    whole = data[: data.rfind(b"\n") + 1]
    offsets[path] = start + len(whole)
    for line in whole.decode(errors="replace").splitlines():
        _print_line(path, line, prefixed=prefixed)
