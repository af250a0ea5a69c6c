"""`kp login|logout|whoami`: who you are, at any deployment."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from .connection import UrlOption, load_settings, open_client
from .output import JsonOption, clean, emit_json, err, fail, out

if TYPE_CHECKING:
    from knowledge_persistence._sync.http import HttpTransport
    from knowledge_persistence._sync.signin import SignIn
    from knowledge_persistence.settings import Settings

_USAGE = 2


def register(app: typer.Typer) -> None:
    """Add the commands to an application."""
    app.command("login", rich_help_panel="Account")(login)
    app.command("logout", rich_help_panel="Account")(logout)
    app.command("whoami", rich_help_panel="Account")(whoami)


def _http(settings: Settings, api_key: str | None = None) -> tuple[str, HttpTransport, SignIn]:
    """Return the deployment's URL, a transport to it, and its sign-in."""
    from knowledge_persistence._sync.client import make_transport  # noqa: PLC0415
    from knowledge_persistence._sync.http import HttpTransport  # noqa: PLC0415
    from knowledge_persistence._target import HttpTarget, resolve_target  # noqa: PLC0415

    target = resolve_target(settings, api_key=api_key)
    transport = make_transport(target)
    if (
        not isinstance(target, HttpTarget)
        or not isinstance(transport, HttpTransport)
        or transport.sign_in is None
    ):
        fail("signing in is for the Data API: the URL is http(s)://", _USAGE)
    return target.url, transport, transport.sign_in


def login(
    email: Annotated[str | None, typer.Argument(help="Your address; left out, you are asked.")] = None,
    *,
    sign_up: Annotated[bool, typer.Option("--sign-up", help="Make the account first.")] = False,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input.")
    ] = False,
    api_key: Annotated[
        str | None, typer.Option(help="The deployment's publishable key (KP_API_KEY).", metavar="KEY")
    ] = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sign in; the sign-in is kept in the data directory, and renewed as needed."""
    from knowledge_persistence.credentials import CredentialStore  # noqa: PLC0415

    settings = load_settings(url)
    where, transport, sign_in = _http(settings, api_key)
    with_terminal = err.is_terminal and sys.stdin.isatty()
    if email is None:
        if not with_terminal:
            fail("who is it? Give the address", _USAGE)
        email = str(typer.prompt("Email", err=True))
    if password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    elif with_terminal:
        password = typer.prompt("Password", hide_input=True, confirmation_prompt=sign_up, err=True)
    else:
        fail("no terminal to ask for the password on: --password-stdin reads it", _USAGE)
    store = CredentialStore(settings.home)
    try:
        if sign_up:
            credential = sign_in.sign_up(email, password)
            if credential is None:
                err.print("The account is made; confirm the address, then `kp login`.")
                return
        else:
            credential = sign_in.sign_in(email, password)
    finally:
        transport.close()
    with store.locked():
        store.save(where, credential)
    if as_json:
        emit_json({"url": where, "user_id": credential.user_id, "email": credential.email})
        return
    err.print(f"Signed in at {where} as {clean(email)}.", markup=False, soft_wrap=True)
    if settings.url is None or url is not None:
        from knowledge_persistence._target import read_embedded_stack  # noqa: PLC0415

        stack = read_embedded_stack(settings)
        if stack is None or stack.url != where:
            err.print(f"Use it with: export KP_URL={where} KP_API_KEY=…", markup=False, soft_wrap=True)


def logout(*, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """End the sign-in, here and at the deployment."""
    from knowledge_persistence.credentials import CredentialStore  # noqa: PLC0415
    from knowledge_persistence.errors import (  # noqa: PLC0415
        AuthenticationError,
        KnowledgePersistenceError,
    )

    settings = load_settings(url)
    where, transport, sign_in = _http(settings)
    store = CredentialStore(settings.home)
    revoked = False
    try:
        if store.load(where) is not None:
            sign_in.sign_out()
            revoked = True
    except AuthenticationError:
        revoked = True  # it had ended already
    except KnowledgePersistenceError as error:
        err.print(
            f"It could not be ended there ({error}); it is forgotten here.", markup=False, soft_wrap=True
        )
    finally:
        transport.close()
    with store.locked():
        found = store.delete(where)
    if as_json:
        emit_json({"url": where, "signed_out": found, "revoked": revoked})
    else:
        err.print("Signed out." if found else "Nobody was signed in.")


def whoami(*, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Say who you are signed in as, as the deployment sees it."""
    from knowledge_persistence._target import HttpTarget, resolve_target  # noqa: PLC0415

    settings = load_settings(url)
    target = resolve_target(settings)
    with open_client(url=url, session=False) as client:
        identity = client.whoami()
    where = target.url if isinstance(target, HttpTarget) else "the database"
    if as_json:
        emit_json(
            {
                "url": target.url if isinstance(target, HttpTarget) else None,
                "role": identity.role,
                "user_id": identity.user_id,
                "email": identity.email,
            }
        )
        return
    out.print(clean(identity.email or str(identity.user_id or identity.role)), soft_wrap=True)
    err.print(f"User {identity.user_id} at {where}", markup=False, soft_wrap=True)
