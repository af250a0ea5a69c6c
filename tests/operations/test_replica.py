"""A read replica on loopback: it takes the reads, refuses the writes, and nobody misses it when it is gone."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
import pytest

from databases import Database, DatabaseServer, free_port, short_directory
from knowledge_persistence import KnowledgeClient, connect, connect_async
from knowledge_persistence.embedded import Cluster
from knowledge_persistence.embedded.processes import wait_until
from knowledge_persistence.errors import ConfigurationError, ReadOnlyError, TransportError
from world import World

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Generator
    from pathlib import Path

SLOT = "kp_test_replica"


@dataclass
class Standby:
    """A standby of the tests' server."""

    cluster: Cluster
    directory: Path
    process: subprocess.Popen[bytes]

    def url(self, of: str) -> str:
        return of.replace(of.rpartition(":")[2].partition("/")[0], str(self.cluster.port))

    def stop(self) -> None:
        self.cluster.stop(self.process)

    def start(self) -> None:
        with (self.directory / "standby.log").open("ab") as log:
            self.process = self.cluster.start(log)
        assert self.cluster.wait_ready(self.process), (self.directory / "standby.log").read_text()


@pytest.fixture(scope="module")
def standby(server: DatabaseServer) -> Generator[Standby]:
    with short_directory() as directory:
        cluster = Cluster(
            directory / "postgres",
            socket_directory=directory / "socket",
            port=free_port(),
            superuser_password=server.config.passwords["supabase_admin"],
        )
        try:
            cluster.create_standby(server.cluster, slot=SLOT)
            with (directory / "standby.log").open("ab") as log:
                standby = Standby(cluster, directory, cluster.start(log))
            try:
                assert cluster.wait_ready(standby.process), (directory / "standby.log").read_text()
                yield standby
            finally:
                standby.stop()
        finally:
            with server.cluster.connect() as connection:
                # Its walsender may take a moment to notice.
                wait_until(
                    lambda: (
                        connection.execute(
                            "select count(*) from pg_replication_slots where slot_name = %s and active",
                            (SLOT,),
                        ).fetchone()
                        == (0,)
                    ),
                    timeout=30,
                )
                connection.execute(
                    "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = %s",
                    (SLOT,),
                )


@dataclass
class Place:
    """A database, its replica, and somebody who works there."""

    dsn: str
    replica: str
    user_id: str
    server: DatabaseServer
    standby: Standby
    name: str

    def connect(self, url: str | None = None, *, replica_url: str | None = None) -> KnowledgeClient:
        return connect(url or self.dsn, user_id=self.user_id, replica_url=replica_url, embedder=None)

    def catch_up(self) -> None:
        """Wait until the replica has all that the primary has."""
        with self.server.cluster.connect() as primary:
            [position] = primary.execute("select pg_current_wal_insert_lsn()::text").fetchone() or ()
        with self.standby.cluster.connect() as replica:
            assert wait_until(
                lambda: (
                    replica.execute("select pg_last_wal_replay_lsn() >= %s::pg_lsn", (position,)).fetchone()
                    == (True,)
                ),
                timeout=60,
            )

    def calls(self, cluster: Cluster, function: str) -> int:
        """How often a function was called on a server, as its statistics say."""
        with cluster.connect(self.name) as connection:
            connection.execute("select pg_stat_force_next_flush()")
            [count] = (
                connection.execute(
                    "select coalesce(sum(calls), 0) from pg_stat_user_functions where funcname = %s",
                    (function,),
                ).fetchone()
                or ()
            )
        return int(count)


@pytest.fixture
def place(server: DatabaseServer, standby: Standby, database: Database) -> Generator[Place]:
    world = World(database.dsn)
    ana = world.sign_up("ana")
    world.close()
    dsn = database.dsn("authenticator")
    with server.cluster.connect() as connection:
        connection.execute(f"alter database {database.name} set track_functions = 'all'".encode())
    found = Place(dsn, standby.url(dsn), str(ana.id), server, standby, database.name)
    found.catch_up()
    yield found
    # A connection there would keep the primary's drop of the database from being replayed.
    standby.stop()
    standby.start()


def test_what_a_replica_refuses(place: Place) -> None:
    with place.connect(place.replica) as there:
        with pytest.raises(ReadOnlyError, match="replica_url") as refused:
            there.remember("This can't be kept here.")
        assert refused.value.code == "25006"
        with pytest.raises(ReadOnlyError):
            there.start_session("nowhere")
        assert there.search("kept") == []
    with pytest.raises(ConfigurationError, match="Data API"):
        connect("http://127.0.0.1:1", api_key="k", replica_url=place.replica, embedder=None)
    with pytest.raises(ConfigurationError, match="postgresql"):
        connect(place.dsn, user_id=place.user_id, replica_url="http://replica", embedder=None)


def test_reads_go_to_the_replica_and_writes_to_the_primary(place: Place) -> None:
    primary, replica = place.server.cluster, place.standby.cluster
    with place.connect() as writer:
        item = writer.remember("Reads are answered by the replica.", title="Replica")
    place.catch_up()
    with place.connect(replica_url=place.replica) as client:
        assert [found.knowledge_id for found in client.search("replica")] == [item.knowledge_id]
        assert client.get(item.knowledge_id).title == "Replica"
        # A recall is logged, so it is the primary's.
        assert [found.knowledge_id for found in client.recall("replica")] == [item.knowledge_id]
        assert client.get(item.knowledge_id).access_count == 1
    # Servers count a session's calls once it has ended, or now and then.
    assert wait_until(lambda: place.calls(primary, "recall_knowledge") == 1, timeout=30)
    # The recall searches there, too; the search before it did not.
    assert place.calls(primary, "search_knowledge") == 1
    assert wait_until(lambda: place.calls(replica, "search_knowledge") >= 1, timeout=30)
    assert place.calls(replica, "recall_knowledge") == 0


def test_a_writer_reads_what_it_wrote_while_the_replica_stands_still(place: Place) -> None:
    with place.connect(replica_url=place.replica) as client:
        client.search("warm")
        with place.standby.cluster.connect() as paused:
            paused.execute("select pg_wal_replay_pause()")
            try:
                item = client.remember("Written while the replica stood still.")
                assert [one.knowledge_id for one in client.search("stood still")] == [item.knowledge_id]
                with place.connect(replica_url=place.replica) as other:
                    # Somebody else sees it when the replica has it.
                    assert other.search("stood still") == []
            finally:
                paused.execute("select pg_wal_replay_resume()")
        place.catch_up()
        with place.connect(replica_url=place.replica) as other:
            assert [one.knowledge_id for one in other.search("stood still")] == [item.knowledge_id]


def test_the_primary_answers_when_the_replica_is_gone(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        async with connect_async(
            place.dsn, user_id=place.user_id, replica_url=place.replica, embedder=None
        ) as client:
            item = await client.remember("The primary goes on alone.")
            place.catch_up()
            assert len(await client.search("alone")) == 1
            place.standby.stop()
            try:
                assert [one.knowledge_id for one in await client.search("alone")] == [item.knowledge_id]
                await client.remember("And takes writes all the while.")
                assert len(await client.search("writes")) == 1
            finally:
                place.standby.start()

    with caplog.at_level(logging.WARNING, logger="knowledge_persistence"):
        asyncio.run(scene())
    assert [record.message for record in caplog.records if "replica is away" in record.message]

    place.standby.stop()
    try:
        # Never there: the first read finds out.
        with place.connect(replica_url=place.replica) as client:
            assert len(client.search("alone")) == 1
        with pytest.raises(TransportError), place.connect(place.replica) as alone:
            alone.search("alone")
    finally:
        place.standby.start()


def test_passwords_of_the_primary_hold_on_the_replica(place: Place) -> None:
    with psycopg.connect(place.replica) as connection:
        assert connection.execute("select pg_is_in_recovery()").fetchone() == (True,)
    wrong = place.replica.replace("authenticator:", "authenticator:x")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong)
