"""Run a module that ends when its supervisor does: `python -m knowledge_persistence.embedded.tether MODULE`.

The supervisor holds the other end of stdin. When it closes, however the supervisor died, the module gets a SIGTERM,
and a little later is ended.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading

_GRACE_SECONDS = 5.0


def _end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Timer(_GRACE_SECONDS, os._exit, [1]).start()


def main() -> None:
    """Run the module named by the first argument as a program."""
    module = sys.argv[1]
    sys.argv = [module, *sys.argv[2:]]
    threading.Thread(target=_end_with_stdin, daemon=True, name="tether").start()
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
