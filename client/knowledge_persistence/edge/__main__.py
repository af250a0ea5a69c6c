"""Run the edge functions: `python -m knowledge_persistence.edge [DESCRIPTOR]`.

The argument is the number of a listening socket that was inherited: whoever starts the functions keeps it, so that
clients that connect while they start again wait instead of being refused. Without it they listen on all of a
container's addresses, on `--port`.

KP_DATABASE_URL (login authenticator) and KP_JWT_SECRET name the deployment; without them it is the embedded stack
of KP_HOME.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

import uvicorn

from ..embedders import make_embedder
from ..errors import ConfigurationError, KnowledgePersistenceError
from ..rerankers import BoundedReranker, make_reranker
from ..settings import Settings
from .app import make_app
from .identity import Doorkeeper, key_source
from .limits import Limits
from .observe import log_as_json

if TYPE_CHECKING:
    from fastapi import FastAPI


def make_doorkeeper(settings: Settings, limits: Limits) -> Doorkeeper:
    """Make the doorkeeper of the deployment that the settings name.

    Args:
        settings: what the environment says.
        limits: how many connections there may be, and how long a statement may take.

    Raises:
        ConfigurationError: the settings name a database and no key, or there is no embedded stack.
    """
    embedder = make_embedder(settings)
    reranker = make_reranker(settings)
    bounded = None if reranker is None else BoundedReranker(reranker, seconds=settings.rerank_seconds)
    if settings.database_url is not None:
        if settings.jwt_secret is None:
            raise ConfigurationError(
                "tokens are verified before they are believed: set KP_JWT_SECRET to the deployment's JWT_JWKS"
            )
        return Doorkeeper(
            settings.database_url,
            key_source(settings.jwt_secret),
            embedder=embedder,
            reranker=bounded,
            timeout=limits.seconds,
            connections=limits.connections,
        )
    from ..embedded import Home  # noqa: PLC0415 - the image has no embedded stack

    config = Home(settings.home).load_config()
    if config is None:
        raise ConfigurationError(
            f"there is no embedded stack in {settings.home}; KP_DATABASE_URL names another"
        )
    return Doorkeeper(
        config.database_url("authenticator"),
        config.verification_keys,
        secret_key=config.secret_key,
        embedder=embedder,
        reranker=bounded,
        timeout=limits.seconds,
        connections=limits.connections,
    )


def make_server(app: FastAPI) -> uvicorn.Server:
    """Make the server of an application; serve it on a socket.

    Args:
        app: see `make_app`.
    """
    return uvicorn.Server(
        uvicorn.Config(
            app,
            ws="none",
            lifespan="on",
            # Ours tells the same without what stands in an address.
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=4,
        )
    )


def main() -> None:
    """Run until told to end."""
    parser = argparse.ArgumentParser(prog="knowledge_persistence.edge", description="Run the edge functions.")
    parser.add_argument("descriptor", type=int, nargs="?", help="an inherited listening socket")
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on")  # noqa: S104 - of a container
    parser.add_argument("--port", type=int, default=9000, help="port to listen on")
    asked = parser.parse_args()
    log_as_json()
    try:
        settings = Settings.load()
        if asked.descriptor is not None:
            # A supervisor's: whatever else the environment names, these are its stack's functions.
            settings = replace(settings, database_url=None)
        limits = Limits()
        if settings.edge_requests_per_minute is not None:
            limits = Limits(requests_per_minute=settings.edge_requests_per_minute)
        doorkeeper = make_doorkeeper(settings, limits)
        # The embedded stack is reached by loopback alone; a container by the gateway's names, if nobody says which.
        origins = () if settings.database_url is None else (settings.url,) if settings.url else None
    except KnowledgePersistenceError as error:
        raise SystemExit(str(error)) from error
    listener = (
        socket.create_server((asked.host, asked.port))
        if asked.descriptor is None
        else socket.socket(fileno=asked.descriptor)
    )
    with listener:
        listener.setblocking(False)
        asyncio.run(make_server(make_app(doorkeeper, limits, origins=origins)).serve(sockets=[listener]))


if __name__ == "__main__":
    main()
