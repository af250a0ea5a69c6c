"""Sessions behind both doors and on the command line: outcomes, briefs, timelines, the archive."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import psycopg
import pytest

from knowledge_persistence.cli import main
from knowledge_persistence.credentials import CredentialStore
from knowledge_persistence.embedders import BaseEmbedder
from knowledge_persistence.errors import (
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
)
from knowledge_persistence.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from conftest import Deployment, Person
    from databases import Database
    from knowledge_persistence import KnowledgeClient
    from world import World

    Enter = Callable[..., KnowledgeClient]
    SignUp = Callable[..., Person]


# -- what must fail --------------------------------------------------------------------------------------------


def test_operations_are_the_services(enter: Enter, sign_up: SignUp) -> None:
    ana = enter(sign_up("ana"))
    for act in (
        ana.run_maintenance,
        lambda: ana.archive_sessions("2020-01"),
        lambda: ana.restore_sessions("2020-01"),
    ):
        with pytest.raises(PermissionDeniedError):
            act()


def test_nobody_reads_somebody_elses_session(enter: Enter, sign_up: SignUp) -> None:
    ana, eve = enter(sign_up("ana")), enter(sign_up("eve"))
    with ana.session("private") as session:
        item = session.remember("Only Ana knows this.").knowledge_id
        session.summary = "Ana's own."
    with pytest.raises(NotFoundError):
        eve.session_timeline(session.id)
    with eve.session("other") as other, pytest.raises(NotFoundError):
        other.mark_breakthrough(item)
    assert "Ana" not in eve.resume_brief(situation="Only Ana knows this").text
    with pytest.raises(PermissionDeniedError):
        enter(sign_up("mallory"), session=session.id).resume_brief()


def test_wrong_arguments_are_told(enter: Enter, sign_up: SignUp, service: KnowledgeClient) -> None:
    ana = enter(sign_up("ana"))
    item = ana.remember("Something.").knowledge_id
    with pytest.raises(InvalidArgumentError, match="one of a session"):
        ana.mark_breakthrough(item)
    with pytest.raises(InvalidArgumentError, match="max_tokens"):
        ana.resume_brief(max_tokens=10)
    with pytest.raises(InvalidArgumentError, match="no month"):
        service.archive_sessions("lately")
    with pytest.raises(ConflictError, match="not over"):
        service.archive_sessions("2099-01", dry_run=True)
    with pytest.raises(NotFoundError, match="no sessions"):
        service.restore_sessions("2020-01")


# -- what a session leaves ---------------------------------------------------------------------------------------


def test_one_session_briefs_the_next(enter: Enter, sign_up: SignUp) -> None:
    ana = enter(sign_up("ana"))
    assert ana.resume_brief().text == ""
    with ana.session("monday", project="search") as monday:
        item = monday.remember("Set hnsw.iterative_scan for small tenants.").knowledge_id
        assert monday.recall("iterative scan for tenants")
        monday.rate(item, effectiveness_rating=9, application_success=True)
        marked = monday.mark_breakthrough(item, learning_context="reading plans")
        assert (marked.outcome, marked.session_id, marked.breakthrough_moments) == ("marked", monday.id, 1)
        monday.summary = "Found out why small tenants get no rows."
    assert monday.ended is not None
    assert monday.ended.breakthrough_moments == 1
    # 40 + 20·1/3 + 5·1/4 + 15·1/3 + 10·3.5/4.5 + 10·1/2, rounded
    assert monday.ended.session_quality_score == 66

    with ana.session("tuesday", project="search") as tuesday:
        brief = tuesday.resume_brief(situation="a tenant gets no rows")
    assert "Found out why small tenants get no rows." in brief.text
    assert "hnsw.iterative_scan" in brief.text
    assert brief.text.startswith("## Last sessions\n- ")
    assert {entry.section for entry in brief.entries} == {"sessions", "knowledge"}
    assert [entry.source_id for entry in brief.entries] == [monday.id, item]
    assert 0 < brief.tokens <= 2000
    assert brief.left_out == {"sessions": 0, "decisions": 0, "gotchas": 0, "knowledge": 0}
    short = ana.resume_brief("search", max_tokens=100)
    assert short.tokens <= 100
    assert sum(short.left_out.values()) >= 1
    assert "Left out: " in short.text

    events = ana.session_timeline("monday")
    assert [event.event for event in events[:1] + events[-1:]] == ["started", "ended"]
    assert sorted(event.event for event in events[1:-1]) == ["accessed", "applied", "breakthrough", "created"]
    assert events[-1].detail == "Found out why small tenants get no rows."
    [rated] = [event for event in events if event.event == "applied"]
    assert (rated.knowledge_id, rated.detail) == (item, "it worked; rated 9 of 10")


def test_an_operator_maintains_and_looks_before_archiving(service: KnowledgeClient) -> None:
    outcomes = service.run_maintenance()
    assert {one.outcome for one in outcomes} <= {"done", "skipped"}
    looked = service.archive_sessions("2020-01", dry_run=True)
    assert (looked.month, looked.outcome, looked.sessions) == ("2020-01", "would be archived", 0)


# -- on the command line -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


@pytest.fixture
def kp(
    deployment: Deployment,
    sign_up: SignUp,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Answer]:
    """Run commands as somebody who is signed in, or as the service."""
    home = tmp_path / "home"
    CredentialStore(home).save(deployment.url, sign_up("cli").credential)
    for name, value in {"HOME": str(home), "URL": deployment.url, "EMBEDDER": "none"}.items():
        monkeypatch.setenv(f"KP_{name}", value)
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments: str, service: bool = False) -> Answer:
        monkeypatch.setenv("KP_API_KEY", deployment.secret_key if service else deployment.api_key)
        monkeypatch.setattr(sys, "argv", ["kp", *arguments])
        capsys.readouterr()
        try:
            code = main()
        except SystemExit as ended:
            code = ended.code or 0
        said = capsys.readouterr()
        assert isinstance(code, int)
        return Answer(code, said.out, said.err)

    return run


def test_sessions_on_the_command_line(kp: Callable[..., Answer]) -> None:
    for wrong in (("archive", "2020-01"), ("restore", "2020-01")):
        refusal = kp("session", *wrong)
        assert (refusal.code, refusal.out) == (1, ""), "users archive nothing"
        assert "secret key" in refusal.err
    assert kp("maintain").code == 1
    assert kp("session", "show", "nowhere").code == 1
    assert kp("session", "brief", "--max-tokens", "10").code == 2
    assert "Nothing is known" in kp("session", "brief").err

    name = f"monday-{uuid4().hex[:8]}"
    kp("session", "start", name, "--project", "search")
    item = kp("remember", "Set hnsw.iterative_scan.", "--session", name, "--json").json["knowledge_id"]
    marked = kp("session", "breakthrough", item, "--session", name, "--context", "plans")
    assert (marked.code, marked.out) == (0, "marked: 1 in this session\n")
    ended = kp("session", "end", name, "--summary", "Read plans.")
    assert "1 recorded, 0 recalled, 1 breakthrough, quality 52" in ended.out
    brief = kp("session", "brief", "--project", "search")
    assert brief.out.startswith("## Last sessions\n")
    assert "Read plans." in brief.out
    assert "tokens" in brief.err
    asked = kp("session", "brief", "--max-tokens", "500", "--json").json
    assert asked["tokens"] <= 500
    assert asked["left_out"]["sessions"] == 0
    shown = kp("session", "show", name).out
    assert "quality:       52" in shown
    assert "breakthrough" in shown.splitlines()[-2]
    assert kp("session", "show", name, "--json").json["timeline"][0]["event"] == "started"
    assert "52" in kp("session", "list").out

    dry = kp("session", "archive", "2020-01", "--dry-run", "--json", service=True).json
    assert (dry["outcome"], dry["sessions"]) == ("would be archived", 0)
    assert kp("session", "archive", "2099-01", service=True).code == 1
    assert {one["outcome"] for one in kp("maintain", "--json", service=True).json} <= {"done", "skipped"}


# -- the worker --------------------------------------------------------------------------------------------------


class Constant(BaseEmbedder):
    """A model to which everything is the same."""

    def __init__(self) -> None:
        super().__init__(name="all-MiniLM-L6-v2", dimensions=384, cache_size=0)

    def _embed(self, texts: Sequence[str]) -> Any:
        return np.ones((len(texts), self.dimensions), dtype=np.float32)


async def test_the_worker_maintains_and_tells_what_fails_and_goes_on(
    world: World, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with psycopg.connect(database.dsn(), autocommit=True) as connection:
        connection.execute("alter function private.maintain_proposals() rename to somewhere_else")
    ana = world.sign_up("ana")
    await asyncio.to_thread(ana.record, "waits for its vector")
    caplog.set_level(logging.INFO, "knowledge_persistence.worker")
    worker = Worker(database_url=database.dsn("authenticator"), embedder=Constant(), poll=0.05)
    running = asyncio.create_task(worker.run())
    try:
        async with asyncio.timeout(30):
            while worker.report.stored < 1:  # noqa: ASYNC110 - the report is a plain object
                await asyncio.sleep(0.02)
            for n in range(3):
                await asyncio.to_thread(ana.record, f"later {n}")
            while worker.report.stored < 4:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    finally:
        worker.stop()
        await asyncio.wait_for(running, 10)
    runs = {
        row["task"]: row["outcome"]
        for row in world.superuser("select task, outcome from private.maintenance_runs")
    }
    assert runs.pop("proposals") == "failed"
    assert set(runs.values()) == {"done"}
    failures = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.getMessage()[:29] for record in failures] == ["maintenance: proposals failed"], (
        "once an hour"
    )
