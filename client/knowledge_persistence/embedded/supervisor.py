"""The supervisor: brings a stack up in order, keeps its parts running, takes it down in order.

It holds the lock of the data directory for as long as it lives. Its children don't outlive it, killed or not, except
for the database server, which the next start finds and stops properly.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import queue
import secrets
import shutil
import signal
import socket
import sys
import threading
import time
import traceback
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..credentials import Credential, CredentialStore
from ..errors import EmbeddedStackError, KnowledgePersistenceError
from ..migrations import apply_migrations
from ..resources import migrations_dir
from . import node
from .bootstrap import bootstrap_database, set_passwords
from .components import Component, FrontComponent, ModuleComponent, PostgresComponent
from .home import DEFAULT_PORT, Home, StackConfig
from .processes import TERMINATE, ProcessId

if TYPE_CHECKING:
    from collections.abc import Callable

    from .postgres import Cluster

LOCAL_USER = "me@localhost.local"
"""The user that the first start signs up: whoever works at this machine."""

_WORKER_MODULE = "knowledge_persistence.worker"
_REALTIME_MODULE = "knowledge_persistence.realtime"
_EDGE_MODULE = "knowledge_persistence.edge"
_BACKLOG = 1024
# So many silences in a row are no accident.
_SILENCES = 3
# A process may take so many times longer for its first answer: its files may come from a slow disk.
_FIRST_ANSWER = 4
_WAL_SEGMENT = 16 * 1024 * 1024
# What the marker of an unfinished first start says where the keys are older than that start, and stay.
_KEYS_WERE_HERE = "keys were here"


class StackBusyError(EmbeddedStackError):
    """Another supervisor holds the data directory."""


class Supervisor:
    """One run of a stack.

    Args:
        home: its data directory.
        port: the origin's port; None keeps what the directory has, or chooses.
        database_port: the database's port; None likewise.
        new_database: make an empty database for the keys and passwords that the directory holds without one.
        report: called with each event, a dictionary with the key `event`: progress (with `message`) and ready.
        patience: seconds for which a part may answer nobody before it is ended and started again. The database and
            the worker are not asked: see docs/explanation/faults.md.
    """

    def __init__(
        self,
        home: Home,
        *,
        port: int | None = None,
        database_port: int | None = None,
        new_database: bool = False,
        report: Callable[[dict[str, Any]], None],
        patience: float = 30.0,
    ) -> None:
        self.home = home
        self._port = port
        self._database_port = database_port
        self._new_database = new_database
        self._report = report
        self._patience = patience
        self._ended = threading.Event()
        self._components: list[Component] = []
        self._events: queue.SimpleQueue[Component | None] = queue.SimpleQueue()
        self._stopping = False
        self._made_home = False

    def request_stop(self) -> None:
        """End the run soon; may be called from a signal handler."""
        self._stopping = True
        self._events.put(None)

    def run(self) -> None:
        """Bring the stack up, keep it up until asked to stop, take it down.

        Raises:
            EmbeddedStackError: it can't be brought up. Nothing of it runs then, and a first start has left nothing.
        """
        self._made_home = self.home.prepare()
        with self.home.lock() as free:
            if not free:
                raise StackBusyError(f"another command is running the stack in {self.home.path}")
            try:
                try:
                    self._bring_up()
                except BaseException as error:
                    full = self._is_disk_full()
                    self._take_down()
                    self._undo_first_start()
                    if full and isinstance(error, KnowledgePersistenceError):
                        raise EmbeddedStackError(
                            f"the disk that holds {self.home.path} is full. {error}"
                        ) from error
                    raise
                self._keep_up()
            finally:
                self._take_down()

    # -- up ----------------------------------------------------------------------------------------

    def _progress(self, message: str) -> None:
        self._report({"event": "progress", "message": message})

    def _is_disk_full(self) -> bool:
        # Whatever failed, and however it says so: less than one WAL segment of room is the reason.
        with contextlib.suppress(OSError):
            return shutil.disk_usage(self.home.path).free < _WAL_SEGMENT
        return False

    def _check_stop(self) -> None:
        if self._stopping:
            raise EmbeddedStackError("stopped while starting")

    def _bring_up(self) -> None:
        end_leftovers(self.home)
        self._save_state(ready=False)
        if self.home.incomplete_marker.exists():
            self._progress("An earlier first start was interrupted; beginning anew")
            self._remove_first_start()
        config = self._configure()
        cluster = self.home.cluster(config)
        runtime = node.install_front(progress=self._progress)
        self._check_stop()

        first = not cluster.exists
        if first:
            self._progress("Making the database")
            cluster.create()
        postgres = PostgresComponent(self.home, cluster)
        self._components.append(postgres)
        self._progress("Starting the database")
        self._start(postgres)
        self._check_stop()
        config, cluster = self._prepare_database(config, cluster, first=first)
        self._check_stop()

        self._progress("Starting the Data API")
        # Before the front, which is told their ports.
        realtime = self._listening("realtime", _REALTIME_MODULE, ping="/api/ping")
        edge = self._listening("edge", _EDGE_MODULE, ping="/ping")
        front = FrontComponent(
            self.home, config, cluster, runtime, realtime_port=realtime.port, functions_port=edge.port
        )
        self._components.append(front)
        front.state = "starting"
        front.prepare(lambda: self._stopping)
        self._progress("Applying migrations")
        applied = apply_migrations(config.database_url("postgres"), migrations_dir())
        if applied:
            self._progress(f"Applied {len(applied)} migrations")
        front.serve(lambda: self._stopping)
        self._watch(front)
        self._check_stop()

        if first:
            # Whoever is signed in already comes back with what is restored.
            if CredentialStore(self.home.path).load(config.api_url) is None:
                self._progress("Signing up the local user")
                sign_up_local_user(self.home, config)
            # From here on the directory holds something that must not be lost.
            self.home.incomplete_marker.unlink()

        self._start(realtime)
        self._start(edge)
        if ModuleComponent.is_available(_WORKER_MODULE):
            worker = ModuleComponent(self.home, "worker", _WORKER_MODULE)
            self._components.append(worker)
            self._start(worker)
        self._save_state(ready=True)
        for component in self._components:
            if component.can_answer:
                threading.Thread(
                    target=self._ask, args=(component,), daemon=True, name=f"ask-{component.name}"
                ).start()
        self._report({"event": "ready"})

    def _listening(self, name: str, module: str, *, ping: str) -> ModuleComponent:
        listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
        component = ModuleComponent(self.home, name, module, listener=listener, ping=ping)
        self._components.append(component)
        return component

    def _prepare_database(
        self, config: StackConfig, cluster: Cluster, *, first: bool
    ) -> tuple[StackConfig, Cluster]:
        self._progress("Preparing the database")
        if config.next_passwords:
            config = self._finish_password_rotation(config)
            cluster = self.home.cluster(config)
        bootstrap_database(cluster)
        if first:
            set_passwords(
                cluster, {role: word for role, word in config.passwords.items() if role != "supabase_admin"}
            )
        return config, cluster

    def _finish_password_rotation(self, config: StackConfig) -> StackConfig:
        # The new passwords are on the disk before any role has them, and the old ones until all have: wherever this
        # broke off last time, one of the two opens the database.
        rotated = config.with_passwords_set()
        cluster = self.home.cluster(config)
        try:
            cluster.connect().close()
        except EmbeddedStackError:
            cluster = self.home.cluster(rotated)
        set_passwords(cluster, rotated.passwords)
        self.home.save_config(rotated)
        log("the database's roles have new passwords")
        return rotated

    def _configure(self) -> StackConfig:
        config = self.home.load_config()
        if self._new_database and (config is None or self.home.cluster(config).exists):
            raise EmbeddedStackError(
                f"--new-database is for a directory with a stack.json and no database, and {self.home.path} "
                + ("has no stack.json" if config is None else "has a database")
            )
        if config is None:
            if self.home.cluster_directory.exists():
                raise EmbeddedStackError(
                    f"{self.home.path} holds a database, but stack.json with its keys and passwords is missing. "
                    "Put it back from a backup, or choose another directory with KP_HOME."
                )
            origin, database = self._choose_ports()
            check_port_free(origin, "the HTTP origin", "--port")
            check_port_free(database, "the database", "--db-port")
            self.home.incomplete_marker.touch(mode=0o600)
            config = StackConfig.generate(origin_port=origin, database_port=database)
            self.home.save_config(config)
            return config
        if not self.home.cluster(config).exists and not self._new_database:
            raise EmbeddedStackError(
                f"{self.home.path} has a stack.json, but its database ({self.home.cluster_directory}) is missing. "
                "Put it back; or make an empty one with `kp up --new-database` and restore a backup into it. "
                "To start afresh, remove stack.json."
            )
        origin = self._port if self._port is not None else config.origin_port
        database = self._database_port if self._database_port is not None else config.database_port
        check_port_free(origin, "the HTTP origin", "--port")
        check_port_free(database, "the database", "--db-port")
        if self._new_database:
            self.home.incomplete_marker.touch(mode=0o600)
            self.home.incomplete_marker.write_text(_KEYS_WERE_HERE)
        return self.home.with_ports(config, origin, database)

    def _choose_ports(self) -> tuple[int, int]:
        if self._port is not None or self._database_port is not None:
            origin = self._port if self._port is not None else DEFAULT_PORT
            return origin, self._database_port if self._database_port is not None else origin + 1
        if not is_stack(DEFAULT_PORT):
            return DEFAULT_PORT, DEFAULT_PORT + 1
        for origin in range(DEFAULT_PORT + 10, DEFAULT_PORT + 1000, 10):
            if is_port_free(origin) and is_port_free(origin + 1):
                self._progress(
                    f"Another stack has port {DEFAULT_PORT}; this one takes {origin}, and {origin + 1} for the database"
                )
                return origin, origin + 1
        raise EmbeddedStackError(f"no free ports near {DEFAULT_PORT}; choose with --port and --db-port")

    def _undo_first_start(self) -> None:
        half_made = self.home.incomplete_marker.exists()
        if not half_made and (self.home.config_file.exists() or self.home.cluster_directory.exists()):
            return
        self._remove_first_start()
        shutil.rmtree(self.home.log_directory, ignore_errors=True)
        shutil.rmtree(self.home.run_directory, ignore_errors=True)
        if self._made_home:
            # Only what is ours is gone; a directory that holds anything else stays.
            with contextlib.suppress(OSError):
                self.home.path.rmdir()

    def _remove_first_start(self) -> None:
        marker = self.home.incomplete_marker
        keys_were_here = marker.exists() and marker.read_text() == _KEYS_WERE_HERE
        config = self.home.load_config()
        if config is not None:
            self.home.cluster(config).remove()
        if config is not None and not keys_were_here:
            store = CredentialStore(self.home.path)
            if store.path.exists():
                store.delete(config.api_url)
                if store.path.read_text().strip() == "{}":
                    store.path.unlink()
            store.path.with_suffix(".lock").unlink(missing_ok=True)
        for leftover in self.home.path.glob("initdb-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        if not keys_were_here:
            self.home.config_file.unlink(missing_ok=True)
        marker.unlink(missing_ok=True)

    # -- keeping it up -----------------------------------------------------------------------------

    def _start(self, component: Component) -> None:
        component.state = "starting"
        component.start(lambda: self._stopping)
        self._watch(component)

    def _watch(self, component: Component) -> None:
        process = component.process
        if process is None:
            raise EmbeddedStackError(f"{component.name} has no process")

        def wait() -> None:
            process.wait()
            if component.process is process:
                self._events.put(component)

        threading.Thread(target=wait, daemon=True, name=f"watch-{component.name}").start()

    def _ask(self, component: Component) -> None:
        """Ask a part again and again whether it lives, and end a process that answers nobody; the rest follows."""
        # Each silence lasts one step, and one step lies between two of them.
        step = self._patience / (2 * _SILENCES - 1)
        asked: object = None
        answered, silences, since = False, 0, 0.0
        while not self._ended.wait(step):
            process = component.process
            if process is not asked:
                asked, answered, silences, since = process, False, 0, time.monotonic()
            if process is None or component.state != "running" or process.poll() is not None:
                continue
            if component.answers(step):
                answered, silences = True, 0
                continue
            if not answered and time.monotonic() - since < _FIRST_ANSWER * self._patience:
                continue
            silences += 1
            if silences >= _SILENCES and component.process is process and not self._stopping:
                silences = 0
                component.silenced = process
                process.kill()

    def _keep_up(self) -> None:
        while not self._stopping:
            due = min((c.next_start for c in self._startable()), default=None)
            timeout = None if due is None else max(0.0, due - time.monotonic())
            with contextlib.suppress(queue.Empty):
                ended = self._events.get(timeout=timeout)
                if ended is not None:
                    self._note_end(ended)
            # In the order of the list: what others need comes first.
            for component in self._startable():
                if self._stopping:
                    return
                if component.next_start <= time.monotonic():
                    self._restart(component)

    def _startable(self) -> list[Component]:
        """Return what waits for its next start: the database alone, as long as it is down itself."""
        waiting = [component for component in self._components if component.state == "restarting"]
        database = self._components[0]
        return [database] if database in waiting else waiting

    def _give_up_start(self) -> bool:
        # Whatever needs the database can't become ready without it.
        database = self._components[0].process
        return self._stopping or (database is not None and database.poll() is not None)

    def _note_end(self, component: Component) -> None:
        process = component.process
        if self._stopping or component.state != "running" or process is None:
            return
        code = process.poll()
        if code is None:
            return
        if code == 0 and isinstance(component, ModuleComponent):
            component.state = "finished"
        else:
            reason = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
            if component.silenced is process:
                reason = f"gave no answer for {self._patience:g} seconds"
            log(f"{component.name} ended ({reason}); it is started again")
            component.note_failure(reason)
        self._save_state(ready=True)

    def _restart(self, component: Component) -> None:
        try:
            component.start(
                self._give_up_start if component is not self._components[0] else lambda: self._stopping
            )
        except (EmbeddedStackError, OSError) as error:  # a full disk, for one
            if self._stopping:
                return
            log(f"{component.name} doesn't start: {error}")
            component.note_failure(str(error))
        else:
            log(f"{component.name} runs again")
            self._watch(component)
        self._save_state(ready=True)

    # -- down --------------------------------------------------------------------------------------

    def _take_down(self) -> None:
        self._stopping = True
        self._ended.set()
        while self._components:
            component = self._components.pop()
            try:
                component.stop()
            except (EmbeddedStackError, OSError) as error:
                log(f"{component.name} doesn't stop: {error}")
        self.home.state_file.unlink(missing_ok=True)

    def _save_state(self, *, ready: bool) -> None:
        services: dict[str, Any] = {}
        for component in self._components:
            process = component.process
            alive = process is not None and process.poll() is None
            identity = ProcessId.of(process.pid) if process is not None and alive else None
            services[component.name] = {
                "state": component.state,
                "process": identity.as_json() if identity is not None else None,
                "port": component.port,
                "restarts": component.restarts,
                "last_failure": component.last_failure,
            }
        own = ProcessId.of(os.getpid())
        try:
            self.home.save_state(
                {
                    "supervisor": own.as_json() if own is not None else None,
                    "ready": ready,
                    "services": services,
                }
            )
        except OSError as error:
            # A full disk must not end a stack that runs.
            if error.errno != errno.ENOSPC or not ready:
                raise EmbeddedStackError(self.home.explain(error)) from error
            log(f"the state of the stack can't be stored: {error}")


def log(message: str) -> None:
    """Write a line to the supervisor's log."""
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    print(f"{stamp} UTC {message}", file=sys.stderr, flush=True)  # noqa: T201 - stderr is the log


def end_leftovers(home: Home) -> bool:
    """End what a killed supervisor left behind; the caller holds the lock.

    Returns:
        Whether there was anything.
    """
    found = False
    services = cast("dict[str, Any]", home.load_state().get("services") or {})
    for name, service in services.items():
        if name == "postgres":
            continue
        identity = ProcessId.from_json(service.get("process"))
        if identity is not None and identity.is_alive():
            found = True
            identity.stop(signals=TERMINATE)
    config = home.load_config()
    if config is not None:
        cluster = home.cluster(config)
        if cluster.find_server() is not None:
            found = True
            cluster.stop()
    home.state_file.unlink(missing_ok=True)
    return found


def is_port_free(port: int) -> bool:
    """Tell whether a server could listen on this loopback port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As Node and PostgreSQL do: connections that linger from an earlier server are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError:
            return False
        return True


def check_port_free(port: int, what: str, option: str) -> None:
    """Raise unless a port can be listened on.

    Raises:
        EmbeddedStackError: it is taken.
    """
    if not is_port_free(port):
        raise EmbeddedStackError(
            f"port {port}, for {what}, is taken by another program. Stop it, or choose another port with {option}."
        )


def is_stack(port: int) -> bool:
    """Tell whether the HTTP origin of some stack answers on this loopback port."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2) as answer:
            body = json.loads(answer.read(64 * 1024))
    except (OSError, ValueError, urllib.error.URLError):
        return False
    return isinstance(body, dict) and cast("dict[str, Any]", body).get("name") == "knowledge-persistence"


def sign_up_local_user(home: Home, config: StackConfig) -> None:
    """Sign up the machine's user and store the sign-in, password included.

    Raises:
        EmbeddedStackError: Auth refuses.
    """
    password = secrets.token_urlsafe(24)
    request = urllib.request.Request(  # noqa: S310
        f"{config.api_url}/auth/v1/signup",
        data=json.dumps({"email": LOCAL_USER, "password": password}).encode(),
        headers={"apikey": config.publishable_key, "content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            session = json.loads(answer.read())
        credential = Credential(
            user_id=session["user"]["id"],
            refresh_token=session["refresh_token"],
            access_token=session["access_token"],
            expires_at=int(session["expires_at"]),
            email=LOCAL_USER,
            password=password,
        )
    except urllib.error.HTTPError as error:
        with error:
            detail = error.read(1000).decode(errors="replace")
        raise EmbeddedStackError(f"the local user can't be signed up: {error.code} {detail}") from error
    except (OSError, ValueError, KeyError) as error:
        raise EmbeddedStackError(f"the local user can't be signed up: {error!r}") from error
    store = CredentialStore(home.path)
    with store.locked():
        store.save(config.api_url, credential)


def run_reporting(supervisor: Supervisor, report: Callable[[dict[str, Any]], None]) -> int:
    """Run a supervisor under the signals that end it, and report a failure.

    Returns:
        The exit code.
    """

    def stop(_number: int, _frame: object) -> None:
        supervisor.request_stop()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        supervisor.run()
    except StackBusyError as error:
        report({"event": "busy", "message": str(error)})
        return 1
    except KnowledgePersistenceError as error:
        report({"event": "failed", "message": str(error)})
        return 1
    except Exception as error:  # noqa: BLE001 - the end of the process: whoever started it has to hear why
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        message = (
            f"the disk that holds {supervisor.home.path} is full"
            if full
            else f"{type(error).__name__}: {error}"
        )
        report({"event": "failed", "message": message})
        traceback.print_exc()
        return 1
    return 0


def main() -> int:
    """Run detached: events go to the file descriptor named by the second argument, as JSON lines.

    Arguments: the data directory, the descriptor, the ports or "-", and "new-database" or "-".
    """
    home_path, descriptor, port, database_port, database = sys.argv[1:6]
    pipe = os.fdopen(int(descriptor), "w", buffering=1)
    # Children must not keep the pipe open: the caller takes its end for ours.
    os.set_inheritable(pipe.fileno(), False)
    listening = True

    def report(event: dict[str, Any]) -> None:
        nonlocal listening
        if event["event"] != "ready":
            log(event["message"])
        if not listening:
            return
        try:
            pipe.write(json.dumps(event) + "\n")
        except BrokenPipeError:
            listening = False
        if event["event"] != "progress":
            listening = False
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    supervisor = Supervisor(
        Home(Path(home_path)),
        port=None if port == "-" else int(port),
        database_port=None if database_port == "-" else int(database_port),
        new_database=database == "new-database",
        report=report,
    )
    return run_reporting(supervisor, report)
