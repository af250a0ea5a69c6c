"""Following events with the client: through the push, through its absence, through kills; by hand and in the shell."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from typing import Any
from uuid import UUID, uuid4

import pytest

from databases import short_directory
from knowledge_persistence import (
    AsyncKnowledgeClient,
    ConfigurationError,
    CursorExpiredError,
    KnowledgeEvent,
    Presence,
    PresentAgent,
    Subscription,
    connect_async,
)
from knowledge_persistence._async.http import AsyncHttpTransport
from knowledge_persistence._sync.http import HttpTransport
from knowledge_persistence.credentials import Credential
from knowledge_persistence.settings import Settings
from stacks import RunningStack, new_stack

RUN = "import sys; from knowledge_persistence.cli import main; sys.exit(main())"


@pytest.fixture(scope="module")
def stack() -> Any:
    """Give a stack of these tests' own: parts of it are killed."""
    with short_directory() as directory, new_stack(directory / "home") as made:
        yield RunningStack(made)


def sign_up(stack: RunningStack, name: str) -> Credential:
    transport = HttpTransport(stack.url, stack.config.publishable_key)
    try:
        assert transport.sign_in is not None
        credential = transport.sign_in.sign_up(f"{name}-{uuid4().hex}@example.org", "a long enough password")
    finally:
        transport.close()
    assert credential is not None
    return credential


# The official client says so itself when it reconnects.
pytestmark = pytest.mark.filterwarnings(r"ignore:ConnectionClosed\.\w+ is deprecated")

Enter = Callable[..., AsyncKnowledgeClient]


@pytest.fixture(params=["http", "direct"])
def enter(request: pytest.FixtureRequest, stack: RunningStack) -> Enter:
    def make(credential: Credential, door: str | None = None, **arguments: Any) -> AsyncKnowledgeClient:
        config = stack.config
        where: dict[str, Any] = {"url": config.api_url, "api_key": config.publishable_key}
        if (door or request.param) == "direct":
            where = {"url": config.database_url(), "jwt_secret": config.jwt_secret}
        return connect_async(
            **where,
            access_token=credential.access_token,
            embedder=None,
            settings=Settings(home=stack.home),
            **arguments,
        )

    return make


@pytest.fixture
async def team(
    stack: RunningStack, enter: Enter
) -> AsyncGenerator[tuple[AsyncKnowledgeClient, AsyncKnowledgeClient]]:
    """Let Ana, who owns a workspace, and Ben, who contributes to it, in."""
    ana, ben = sign_up(stack, "ana"), sign_up(stack, "ben")
    async with enter(ana) as owner:
        made = await owner.create_workspace("team")
        await owner.add_workspace_member(made.workspace_id, ben.user_id)
    async with (
        enter(ana, workspace=made.workspace_id) as owner,
        enter(ben, workspace=made.workspace_id) as member,
    ):
        yield owner, member


async def take(events: Subscription, how_many: int, *, timeout: float = 30) -> list[KnowledgeEvent]:  # noqa: ASYNC109
    taken: list[KnowledgeEvent] = []
    async with asyncio.timeout(timeout):
        async for event in events:
            taken.append(event)
            if len(taken) == how_many:
                break
    return taken


async def test_a_colleagues_validated_gotcha_reaches_who_follows(
    team: tuple[AsyncKnowledgeClient, AsyncKnowledgeClient],
) -> None:
    ana, ben = team
    async with ben.subscribe(types=["gotcha"]) as events:
        first = asyncio.create_task(take(events, 1))
        async with ana.session("monday", project="atlas") as session:
            await session.remember("Nobody is told of this: it is no gotcha.")
            gotcha = await session.record_gotcha("E42: the port is taken", working_solution="Take another")
            await ana.validate(gotcha.knowledge_id)
        [event] = await first
        assert (event.what, event.record_kind, event.project_context) == ("shared", "gotcha", "atlas")
        assert event.knowledge_id == gotcha.knowledge_id
        # What is done with is not told again.
        after = event.event_id
    async with ben.subscribe(after=after, types=["gotcha"]) as events:
        await ana.validate(gotcha.knowledge_id, "needs_update", note="since 2.0")
        [updated] = await take(events, 1)
        assert (updated.what, updated.validation_status) == ("updated", "needs_update")
        assert events.cursor == after  # the loop's body still had it at hand


async def test_a_stored_cursor_goes_on_elsewhere_and_an_old_one_is_refused(
    team: tuple[AsyncKnowledgeClient, AsyncKnowledgeClient],
) -> None:
    ana, _ = team
    place = await ana.events_cursor()
    recorded = [(await ana.remember(f"number {n} {uuid4()}")).knowledge_id for n in range(5)]
    async with ana.subscribe(after=place) as events:
        some = await take(events, 2)
    async with ana.subscribe(after=some[-1].event_id) as events:
        rest = await take(events, 3)
    assert [event.knowledge_id for event in some + rest] == recorded
    assert [event.knowledge_id for event in await ana.events_since(place)] == recorded
    with pytest.raises(CursorExpiredError):
        await take(ana.subscribe(after=10**9), 1)


async def test_nothing_is_missed_while_parts_are_killed(
    team: tuple[AsyncKnowledgeClient, AsyncKnowledgeClient], stack: RunningStack
) -> None:
    ana, ben = team
    shared: list[UUID] = []

    async def write(how_many: int) -> None:
        for _ in range(how_many):
            [one] = await again(lambda: ana.remember_many([f"item {uuid4()}"]))
            shared.append(one.knowledge_id)
            await again(lambda one=one: ana.validate(one.knowledge_id))

    async def again(act: Callable[[], Any]) -> Any:
        async with asyncio.timeout(60):
            while True:
                try:
                    return await act()
                except Exception:  # noqa: BLE001 - the database is away; a repeated validation changes nothing
                    await asyncio.sleep(0.2)

    async with ben.subscribe(types=["knowledge"]) as events:
        told: list[UUID] = []

        async def follow() -> None:
            async for event in events:
                if event.what == "shared" and event.subject_id not in told:
                    told.append(event.subject_id)

        following = asyncio.create_task(follow())
        await write(3)
        for part in ("realtime", "postgres", "realtime"):
            os.kill(stack.pid(part), signal.SIGKILL)
            await write(3)
            async with asyncio.timeout(60):
                while stack.stack.status().services[part].pid is None:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
        async with asyncio.timeout(60):
            while len(told) < len(shared):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    assert told == shared
    # Auth, too, has noticed that its connections are gone: the next test signs somebody up.
    wrong = {"email": "nobody@example.org", "password": "wrong"}
    async with asyncio.timeout(60):
        good = 0
        while good < 5:
            answer = await asyncio.to_thread(
                stack.call, "/auth/v1/token?grant_type=password", stack.anon, method="POST", body=wrong
            )
            good = good + 1 if answer.status < 500 else 0


def test_the_command_follows(stack: RunningStack) -> None:
    environment = {**os.environ, "KP_HOME": str(stack.home), "KP_EMBEDDER": "none"}

    def kp(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", RUN, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    text = f"watched {uuid4()}"
    assert kp("remember", text).returncode == 0
    told = kp("watch", "--json", "--since", "0", "--limit", "1", "--type", "knowledge")
    assert told.returncode == 0, told.stderr
    event = json.loads(told.stdout)
    assert (event["subject"], event["what"]) == ("knowledge", "created")
    shown = kp("watch", "--since", "0", "--limit", "1")
    assert shown.returncode == 0, shown.stderr
    assert "Watching from event 0" in shown.stderr
    assert kp("who").returncode == 0
    expired = kp("watch", "--since", str(10**9))
    assert expired.returncode == 1
    assert "not in the log any more" in expired.stderr


async def test_who_is_here_sees_and_is_seen_through_a_kill(
    team: tuple[AsyncKnowledgeClient, AsyncKnowledgeClient], stack: RunningStack, enter: Enter
) -> None:
    ana, ben = team
    if not isinstance(ana.core.transport, AsyncHttpTransport):
        with pytest.raises(ConfigurationError):
            await ana.presence().__aenter__()
        return

    async def until(present: Presence, names: list[str]) -> tuple[PresentAgent, ...]:
        async with asyncio.timeout(60):
            async for agents in present:
                if sorted(agent.name or "" for agent in agents) == names:
                    return agents
        raise AssertionError  # it never ends by itself

    mallory = sign_up(stack, "mallory")
    async with enter(mallory) as stranger:
        await stranger.remember("The first item makes a workspace to be in.")
    async with (
        enter(mallory) as stranger,
        stranger.presence(name="mallory") as elsewhere,
        ana.presence(name="ana", project="atlas", doing="writes") as seen_by_ana,
    ):
        session_id = uuid4()
        async with ben.presence(name="ben", session_id=session_id) as seen_by_ben:
            both = await until(seen_by_ben, ["ana", "ben"])
            assert {(agent.name, agent.user_id) for agent in both} == {
                ("ana", (await ana.whoami()).user_id),
                ("ben", (await ben.whoami()).user_id),
            }
            assert {agent.session_id for agent in both} == {None, session_id}
            # Ana asked for her project alone.
            [alone] = await until(seen_by_ana, ["ana"])
            assert (alone.project, alone.doing) == ("atlas", "writes")
            os.kill(stack.pid("realtime"), signal.SIGKILL)
            async with asyncio.timeout(60):
                while seen_by_ben.agents:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            await until(seen_by_ben, ["ana", "ben"])
        async with ben.presence(show=False) as looking:
            await until(looking, ["ana"])
        assert [agent.name for agent in await until(elsewhere, ["mallory"])] == ["mallory"]
