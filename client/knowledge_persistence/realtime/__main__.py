"""Run the gateway: `python -m knowledge_persistence.realtime DESCRIPTOR`.

The argument is the number of a listening socket that was inherited: whoever starts the gateway keeps it, so that
clients that connect while it starts again wait instead of being refused. KP_HOME names the stack.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys

from ..embedded import Home
from ..settings import Settings
from ..worker import log_to_stderr
from .app import Gateway, serve
from .tokens import Verifier


async def _run(descriptor: int) -> None:
    config = Home(Settings.load().home).load_config()
    if config is None:
        raise SystemExit("there is no stack here")
    gateway = Gateway(config.database_url("postgres"), Verifier.of(config))
    with socket.socket(fileno=descriptor) as listener:
        listener.setblocking(False)
        await serve(gateway, listener)


def main() -> None:
    """Run until told to end."""
    log_to_stderr()
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    asyncio.run(_run(int(sys.argv[1])))


if __name__ == "__main__":
    main()
