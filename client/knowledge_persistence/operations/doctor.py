"""What is wrong with a deployment, and what to do about it.

Each check looks at one thing and returns findings. A check that can't be made says so: silence means healthy.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import shutil
import stat
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, LiteralString, cast

import psycopg

from ..migrations import read_migrations
from ..resources import access_page, migrations_dir
from .grants import differences, matrix
from .keys import is_opaque_key
from .rotation import retired_keys

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_PLACEHOLDER = re.compile(
    r"(?i)^(your[-_ ]|change[-_ ]?me|secret$|password$|postgres$|example|test$|admin$|xxx|todo)"
)
_OLDEST_PGVECTOR: Final = (0, 8, 2)
_CLOCK_TOLERANCE: Final = 30.0
_JOB_AGE: Final = 900.0
_NOTIFY_SHARE: Final = 0.25
_NOTIFY_FULL: Final = 0.75
#: Bytes of free disk below which something will stop soon, and below which it is about to.
_DISK_LOW: Final = 5 * 1024**3
_DISK_OUT: Final = 512 * 1024**2
_ECHO_SECONDS: Final = 10.0


class Severity(StrEnum):
    """How bad a finding is."""

    error = "error"
    warning = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong.

    Attributes:
        check: which check found it.
        severity: error: something doesn't work or isn't safe; warning: it will be so.
        message: what is wrong.
        advice: what to do.
    """

    check: str
    severity: Severity
    message: str
    advice: str


def examine_database(database_url: str) -> list[Finding]:
    """Examine a database.

    Args:
        database_url: PostgreSQL URL of the role postgres, or the superuser.
    """
    try:
        with psycopg.connect(
            database_url, autocommit=True, connect_timeout=10, application_name="kp doctor"
        ) as connection:
            findings = [*_migrations(connection), *_pgvector(connection)]
            if any(finding.severity is Severity.error for finding in findings):
                return findings  # the other checks ask for what isn't there
            is_ours = not findings or all(finding.check != "migrations" for finding in findings)
            for check in (_rows_guarded, _grants, _indexes, _vectors, _jobs, _worker, _partitions, _slots,
                          _dead_rows, _notifications, _clock):  # fmt: skip
                findings.extend(check(connection))
            if is_ours:
                # What another version grants is its own affair.
                findings.extend(_matrix(connection))
            return findings
    except psycopg.Error as error:
        return [
            Finding(
                "database",
                Severity.error,
                f"the database can't be asked: {str(error).strip().splitlines()[0]}",
                "is it running, and are address and password right? `kp status`, or `docker compose ps db`",
            )
        ]


def _column(connection: psycopg.Connection, query: LiteralString) -> list[str]:
    return [str(row[0]) for row in connection.execute(query)]


def _migrations(connection: psycopg.Connection) -> Iterator[Finding]:
    known = [migration.version for migration in read_migrations(migrations_dir())]
    applied = set[str]()
    if connection.execute("select to_regclass('supabase_migrations.schema_migrations')").fetchone() != (
        None,
    ):
        applied = set(_column(connection, "select version from supabase_migrations.schema_migrations"))
    pending = [version for version in known if version not in applied]
    if pending:
        yield Finding(
            "migrations",
            Severity.error,
            f"{len(pending)} migrations are not applied, from {pending[0]}",
            "kp migrate",
        )
    foreign = sorted(applied - set(known))
    if foreign:
        yield Finding(
            "migrations",
            Severity.warning,
            f"the database has migrations that this version doesn't know, such as {foreign[-1]}",
            "it was migrated by a newer version: upgrade this one",
        )


def _rows_guarded(connection: psycopg.Connection) -> Iterator[Finding]:
    for name in _column(
        connection,
        "select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname in ('public', 'private') and c.relkind in ('r', 'p') and not c.relrowsecurity order by 1",
    ):
        yield Finding(
            "row security",
            Severity.error,
            f"row-level security is off on {name}: whoever has a grant on it sees all rows",
            f"alter table {name} enable row level security",
        )


def _grants(connection: psycopg.Connection) -> Iterator[Finding]:
    for name in _column(
        connection,
        "select format('%s (%s)', c.oid::regclass, string_agg(distinct a.privilege_type, ', '))"
        " from pg_class c join pg_namespace n on n.oid = c.relnamespace, aclexplode(c.relacl) a"
        " where n.nspname in ('public', 'private') and c.relkind in ('r', 'p', 'v', 'm')"
        " and (a.grantee = 0 or a.grantee = 'anon'::regrole) group by c.oid order by 1",
    ):
        yield Finding(
            "grants",
            Severity.error,
            f"people who aren't signed in have privileges on {name}",
            f"revoke all on {name.partition(' ')[0]} from anon, public",
        )


def _matrix(connection: psycopg.Connection) -> Iterator[Finding]:
    for line in differences(matrix(connection), access_page().read_text()):
        yield Finding(
            "grants",
            Severity.error,
            f"privileges are not those of this version: {line}",
            "grant or revoke what differs; docs/reference/access.md has all of them",
        )


def _pgvector(connection: psycopg.Connection) -> Iterator[Finding]:
    found = _column(connection, "select extversion from pg_extension where extname = 'vector'")
    if not found:
        yield Finding("pgvector", Severity.error, "the extension vector is not installed", "kp migrate")
    elif tuple(int(part) for part in re.findall(r"\d+", found[0])[:3]) < _OLDEST_PGVECTOR:
        yield Finding(
            "pgvector",
            Severity.warning,
            f"pgvector {found[0]} can overflow a buffer in parallel index builds (CVE-2026-3172)",
            "upgrade the server's pgvector to 0.8.2; until then build indexes with"
            " max_parallel_maintenance_workers = 0",
        )


def _indexes(connection: psycopg.Connection) -> Iterator[Finding]:
    for name in _column(
        connection,
        "select i.indexrelid::regclass::text from pg_index i join pg_class c on c.oid = i.indexrelid"
        " join pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname in ('public', 'private') and not i.indisvalid and c.relkind = 'i' order by 1",
    ):
        yield Finding(
            "indexes",
            Severity.error,
            f"the index {name} is not valid: its building was interrupted, and no search uses it",
            f"reindex index concurrently {name}",
        )
    for model in _column(
        connection,
        "select m.name from public.embedding_models m where not exists ("
        " select from pg_index i join pg_class c on c.oid = i.indexrelid join pg_am a on a.oid = c.relam"
        "  where c.relnamespace in ('public'::regnamespace, 'private'::regnamespace)"
        "    and a.amname in ('hnsw', 'ivfflat')"
        "    and strpos(pg_get_expr(i.indpred, i.indrelid), quote_literal(m.name)) > 0) order by 1",
    ):
        yield Finding(
            "indexes",
            Severity.warning,
            f"no index serves the vectors of the model {model}: searches read all of them",
            f"kp model register {model} … makes it again",
        )


def _vectors(connection: psycopg.Connection) -> Iterator[Finding]:
    orphans = _column(
        connection,
        "select k.id from public.knowledge_items k"
        " where k.content_embedding is null and k.created_at < now() - interval '15 minutes'"
        " and private.model_of_workspace(k.workspace_id) is not null"
        " and not exists (select from private.embedding_jobs j where j.knowledge_id = k.id) limit 1000",
    )
    if orphans:
        yield Finding(
            "vectors",
            Severity.warning,
            f"{len(orphans)} items have no vector, and nothing is going to make one, such as {orphans[0]}",
            "update public.knowledge_items set content_embedding = null where id = …, or record the text anew",
        )
    for line in _column(
        connection,
        "select format('%s: %s', workspace_id, string_agg(distinct embedding_model, ', '))"
        " from public.knowledge_items where embedding_model is not null"
        " group by workspace_id having count(distinct embedding_model) > 1 order by 1",
    ):
        yield Finding(
            "vectors",
            Severity.warning,
            f"a workspace has vectors of several models, which are never compared: {line}",
            "let it embed with one: `kp model list` says which is the default",
        )


def _jobs(connection: psycopg.Connection) -> Iterator[Finding]:
    row = connection.execute(
        "select count(*) filter (where available_at = 'infinity'),"
        " (array_agg(last_error) filter (where available_at = 'infinity'))[1],"
        " coalesce(extract(epoch from now() - min(created_at) filter (where available_at < 'infinity')), 0)::float8"
        " from private.embedding_jobs"
    ).fetchone()
    assert row is not None  # noqa: S101 - an aggregate has one row
    aside, why, age = cast("tuple[int, str | None, float]", row)
    if aside:
        yield Finding(
            "vectors",
            Severity.warning,
            f"{aside} texts could not be embedded: {why}",
            "mend the cause, then `kp embeddings retry`; `kp embeddings failed` lists them",
        )
    if age > _JOB_AGE:
        yield Finding(
            "worker",
            Severity.error,
            f"texts have waited for their vectors for {age / 60:.0f} minutes",
            "look at the worker's log: `kp logs worker`, or `docker compose logs worker`",
        )


def _worker(connection: psycopg.Connection) -> Iterator[Finding]:
    # Others' queries are shown to pg_monitor alone, which postgres is a member of.
    row = connection.execute(
        "select count(*) from pg_stat_activity where datname = current_database()"
        " and query = 'listen knowledge_embeddings'"
    ).fetchone()
    if row == (0,):
        yield Finding(
            "worker",
            Severity.warning,
            "no worker is listening: new texts get no vectors, and are found by their words alone",
            "`kp up` and docker compose run one; anywhere else: `kp worker`",
        )


def _partitions(connection: psycopg.Connection) -> Iterator[Finding]:
    row = connection.execute(
        "select to_regclass('private.ai_sessions_' || to_char(now() at time zone 'UTC' + interval '1 month',"
        " 'YYYYMM')) is null"
    ).fetchone()
    if row == (True,):
        yield Finding(
            "partitions",
            Severity.warning,
            "next month's sessions have no partition yet",
            "select public.create_session_partitions() as service_role; the worker's maintenance does it",
        )


def _slots(connection: psycopg.Connection) -> Iterator[Finding]:
    for line in _column(
        connection,
        "select format('%s holds %s of log', slot_name,"
        " pg_size_pretty(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)))"
        " from pg_replication_slots where not active and not temporary order by 1",
    ):
        yield Finding(
            "replication",
            Severity.warning,
            f"nobody reads the replication slot {line}: the disk fills up",
            "bring its reader back, or select pg_drop_replication_slot('…')",
        )


def _dead_rows(connection: psycopg.Connection) -> Iterator[Finding]:
    for line in _column(
        connection,
        "select format('%s has %s dead rows beside %s', relid::regclass, n_dead_tup, n_live_tup)"
        " from pg_stat_user_tables where n_dead_tup > 10000 and n_dead_tup > n_live_tup"
        " and schemaname in ('public', 'private') order by 1",
    ):
        yield Finding(
            "bloat",
            Severity.warning,
            line,
            "vacuum (analyze) it; is autovacuum on, or a transaction left open?",
        )


def _notifications(connection: psycopg.Connection) -> Iterator[Finding]:
    row = connection.execute("select pg_notification_queue_usage()").fetchone()
    assert row is not None  # noqa: S101 - a select without FROM has one row
    usage = float(row[0])
    if usage <= _NOTIFY_SHARE:
        return
    waiting = _column(
        connection,
        "select format('process %s (%s)', pid, application_name) from pg_stat_activity"
        " where datname is not null and xact_start is not null and pid <> pg_backend_pid() order by xact_start limit 1",
    )
    yield Finding(
        "notifications",
        Severity.error if usage > _NOTIFY_FULL else Severity.warning,
        f"the queue of notifications is {usage:.1%} full; once it is full, writes fail",
        "end the oldest open transaction" + "".join(f": {one}" for one in waiting),
    )


def _clock(connection: psycopg.Connection) -> Iterator[Finding]:
    row = connection.execute("select extract(epoch from clock_timestamp())::float8").fetchone()
    assert row is not None  # noqa: S101 - a select without FROM has one row
    off = float(row[0]) - time.time()
    if abs(off) > _CLOCK_TOLERANCE:
        yield Finding(
            "clock",
            Severity.error,
            f"the database's clock is {off:.0f} s off this machine's: tokens are refused before their time",
            "synchronise both with NTP",
        )


def examine_api(url: str, publishable_key: str) -> list[Finding]:
    """Examine the HTTP origin: each door with a real request.

    Args:
        url: the origin.
        publishable_key: the key for clients.
    """
    findings: list[Finding] = []
    for door, path, key, expected in (
        ("auth", "/auth/v1/settings", publishable_key, {200}),
        # The publishable key alone is nobody in particular, who may read nothing: refused is right, an answer isn't.
        ("data API", "/rest/v1/knowledge_items?limit=1", publishable_key, {401, 403}),
        ("data API", "/rest/v1/knowledge_items?limit=1", "sb_publishable_no_such_key", {401}),
    ):
        try:
            status = _status(url.rstrip("/") + path, key)
        except OSError as error:
            findings.append(
                Finding(
                    door,
                    Severity.error,
                    f"{url} doesn't answer: {error}",
                    "`kp status`, or `docker compose ps`",
                )
            )
            break
        if status not in expected:
            advice = (
                "grants or row-level security are not as they should be: the checks of the database say where"
                if status == 200  # noqa: PLR2004
                else "look at the log of the service behind it: `kp logs`, or `docker compose logs`"
            )
            findings.append(Finding(door, Severity.error, f"{path} answers {status}", advice))
    return findings


def _status(url: str, key: str) -> int:
    return _ask(url, key)[0]


def _ask(url: str, key: str) -> tuple[int, str, str]:
    """Return status, body and Server header of an answer."""
    request = urllib.request.Request(url, headers={"apikey": key})  # noqa: S310 - the caller's own URL
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            body, server = answer.read(64 * 1024), str(answer.headers.get("server") or "")
            return int(answer.status), body.decode(errors="replace"), server
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(64 * 1024).decode(errors="replace"), ""


def examine_realtime(url: str, publishable_key: str) -> list[Finding]:
    """Join a channel over a websocket and wait for an echo.

    Args:
        url: the HTTP origin.
        publishable_key: the key for clients.
    """
    try:
        asyncio.run(_echo(url, publishable_key))
    except Exception as error:  # noqa: BLE001 - whatever keeps the echo away is what there is to tell
        why = str(error) or type(error).__name__
        return [
            Finding(
                "realtime",
                Severity.error,
                f"a channel doesn't echo: {why}",
                "`kp logs realtime`, or `docker compose logs realtime`; new knowledge is announced to nobody",
            )
        ]
    return []


async def _echo(url: str, key: str) -> None:
    from realtime import AsyncRealtimeClient  # noqa: PLC0415 - slow to import

    word, heard, joined = secrets.token_hex(8), asyncio.Event(), asyncio.Event()
    client = AsyncRealtimeClient(f"{url.rstrip('/')}/realtime/v1", key, auto_reconnect=False, max_retries=1)

    def hear(payload: object) -> None:
        if word in str(payload):
            heard.set()

    def changed(state: object, _: Exception | None) -> None:
        if str(getattr(state, "value", state)) == "SUBSCRIBED":
            joined.set()

    stage = "the websocket doesn't open"
    try:
        async with asyncio.timeout(_ECHO_SECONDS):
            await client.connect()
            channel = client.channel(
                f"kp-doctor-{word}",
                {
                    "config": {
                        "private": False,
                        "broadcast": {"ack": False, "self": True},
                        "presence": {"key": "", "enabled": False},
                    }
                },
            )
            channel.on_broadcast("echo", hear)
            stage = "the join isn't answered"
            await channel.subscribe(changed)
            await joined.wait()
            stage = "nothing comes back"
            await channel.send_broadcast("echo", {"word": word})
            await heard.wait()
    except TimeoutError:
        raise TimeoutError(f"{stage} within {_ECHO_SECONDS:.0f} s") from None
    finally:
        await client.close()


def examine_edge(url: str, publishable_key: str) -> list[Finding]:
    """Ask the edge functions how they are, if the deployment has any.

    Args:
        url: the HTTP origin.
        publishable_key: the key for clients.
    """
    try:
        status, body, _ = _ask(f"{url.rstrip('/')}/functions/v1/health", publishable_key)
    except OSError as error:
        status, body = 0, str(error)
    if status == 200 or (status == 503 and "no edge functions run" in body):  # noqa: PLR2004
        return []
    return [
        Finding(
            "edge",
            Severity.error,
            f"the edge functions aren't well: /functions/v1/health answers {status}: {body[:200]}",
            "`kp logs edge`, or `docker compose logs edge`",
        )
    ]


def examine_versions(url: str, publishable_key: str, expected: Mapping[str, str]) -> list[Finding]:
    """Compare what services say of their version with what should run.

    Args:
        url: the HTTP origin.
        publishable_key: the key for clients.
        expected: version by service: `knowledge-persistence` (the embedded stack's origin), `auth`, `rest`.
    """
    origin = url.rstrip("/")
    asked = {
        "knowledge-persistence": lambda: json.loads(_ask(f"{origin}/", publishable_key)[1])["version"],
        "auth": lambda: json.loads(_ask(f"{origin}/auth/v1/health", publishable_key)[1])["version"],
        "rest": lambda: _ask(f"{origin}/rest/v1/", publishable_key)[2].rpartition("/")[2],
    }
    findings: list[Finding] = []
    for service, want in expected.items():
        try:
            have = str(asked[service]()).strip()
        except (OSError, ValueError, KeyError, TypeError):
            continue  # whether it answers at all is another check
        if have and have.removeprefix("v").split()[0] != want.removeprefix("v"):
            findings.append(
                Finding(
                    "versions",
                    Severity.warning,
                    f"{service} runs version {have}, and {want} is installed",
                    "start it again: `kp down` and `kp up`, or `docker compose up --detach`",
                )
            )
    return findings


def examine_disk(directory: Path) -> list[Finding]:
    """Look at the room on the disk that holds a directory.

    Args:
        directory: the data directory, or the checkout that docker compose runs from.
    """
    usage = shutil.disk_usage(directory)
    if usage.free >= _DISK_LOW:
        return []
    return [
        Finding(
            "disk",
            Severity.error if usage.free < _DISK_OUT else Severity.warning,
            f"{usage.free / 1024**3:.1f} GiB are left on the disk of {directory}",
            "make room or enlarge it: a database whose disk is full takes no writes",
        )
    ]


def examine_home(directory: Path) -> list[Finding]:
    """Look at who can read the secrets of an embedded stack's data directory.

    Args:
        directory: the data directory.
    """
    return [
        Finding(
            "secrets",
            Severity.error,
            f"{path} can be read by others (mode {stat.S_IMODE(path.stat().st_mode):o})",
            f"chmod 600 {path}",
        )
        for name in ("stack.json", "credentials.json")
        if (path := directory / name).exists() and stat.S_IMODE(path.stat().st_mode) & 0o077
    ]


def examine_env_file(path: Path, values: Mapping[str, str], required: set[str]) -> list[Finding]:
    """Examine the `.env` of a docker compose deployment.

    Args:
        path: the file.
        values: what is in it.
        required: names of the variables that compose requires.
    """
    findings = [*_forms(values), *_overlap(values)]

    def add(check: str, severity: Severity, message: str, advice: str) -> None:
        findings.append(Finding(check, severity, message, advice))

    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        add("secrets", Severity.error, f"{path} can be read by others (mode {mode:o})", f"chmod 600 {path}")
    for name in sorted(required):
        value = values.get(name, "")
        if not value:
            add("secrets", Severity.error, f"{name} is empty", "scripts/generate-keys makes all of them")
        elif name != "DASHBOARD_USERNAME" and _PLACEHOLDER.match(value):
            add("secrets", Severity.error, f"{name} looks like a placeholder", "give it a value of your own")
    address = values.get("BIND_ADDRESS", "127.0.0.1")
    if not address.startswith("127."):
        add(
            "exposure",
            Severity.error if values.get("DISABLE_SIGNUP") != "true" else Severity.warning,
            f"the ports are bound to {address}, the database's among them",
            "take BIND_ADDRESS out of .env and put a proxy with TLS in front: docs/how-to/deploy.md",
        )
    return findings


def _forms(values: Mapping[str, str]) -> Iterator[Finding]:
    """Look at the forms that secrets have to have."""

    def wrong(message: str, advice: str) -> Finding:
        return Finding("secrets", Severity.error, message, advice)

    for name in ("POSTGRES_PASSWORD", "AUTHENTICATOR_PASSWORD"):
        if not values.get(name, "x").isalnum():
            yield wrong(f"{name} has characters that break URLs", "letters and digits only")
    for name, length in (("REALTIME_DB_ENC_KEY", 16), ("VAULT_ENC_KEY", 32)):
        if len(values.get(name, "x" * length)) != length:
            yield wrong(f"{name} is not {length} characters long", "the service won't start with it")
    for name in ("SUPABASE_PUBLISHABLE_KEY", "SUPABASE_SECRET_KEY"):
        if values.get(name) and not is_opaque_key(values[name]):
            yield wrong(f"{name} is mistyped: its checksum is wrong", "take it from the backup")
    try:
        sound = bool(json.loads(values.get("JWT_JWKS", '{"keys": [0]}'))["keys"])
    except (ValueError, KeyError, TypeError):
        sound = False
    if not sound:
        yield wrong("JWT_JWKS is no key set: no token verifies", "take it from the backup")


def _overlap(values: Mapping[str, str]) -> Iterator[Finding]:
    retired = retired_keys(values)
    if retired:
        yield Finding(
            "secrets",
            Severity.warning,
            f"tokens of {retired} keys that were rotated away are still accepted",
            "scripts/rotate-keys --finish, then docker compose up --detach",
        )
