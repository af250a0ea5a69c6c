"""Agent tokens: whose they are, what they open, and when they end."""

from __future__ import annotations

import re
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import pytest

from teams import Team
from world import Persona, World, call, refused

NOBODY = uuid.uuid4()


@pytest.fixture
def team(world: World) -> Team:
    return Team(world)


def create(persona: Persona, name: str = "agent", **arguments: Any) -> dict[str, Any]:
    [made] = persona.rpc("create_agent_token", name=name, **arguments)
    return made


def holder(world: World, token: str) -> dict[str, Any] | None:
    rows = world.service().rpc("authenticate_agent_token", token_hash=sha256(token.encode()).hexdigest())
    return rows[0] if rows else None


def agent(world: World, token: str) -> Persona:
    """Return whom a server that takes requests with tokens acts as."""
    found = holder(world, token)
    assert found is not None
    return world.as_user(found["user_id"], name="agent", claims={"kp_workspace": str(found["workspace_id"])})


def test_strangers_learn_and_end_nothing(world: World, team: Team) -> None:
    made = create(team.author, workspace_id=team.id)
    for persona in (team.stranger, team.colleague, team.reader):
        assert persona.rpc("list_agent_tokens") == []
        assert persona.rpc("list_agent_tokens", workspace_id=team.id) == []
        # A foreign token and one that isn't there give the same answer.
        for token_id in (made["token_id"], NOBODY):
            with refused("PT404", "no such token"):
                persona.rpc("revoke_agent_token", token_id=token_id)
        with refused("42501"):
            persona.rpc("authenticate_agent_token", token_hash="0" * 64)
        with refused("42501"):
            persona.sql("select 1 from private.agent_tokens")
    for workspace in (team.id, NOBODY):
        with refused("PT404", "no such workspace"):
            create(team.stranger, workspace_id=workspace)
    with refused("42501"):
        create(world.anon())
    with refused("42501"):
        world.anon().rpc("list_agent_tokens")
    with refused("42501"):
        world.anon().rpc("authenticate_agent_token", token_hash="0" * 64)
    with refused("42501"):
        create(world.service())
    for statement in (
        "insert into private.agent_tokens (user_id, workspace_id, name, token_hash) values (null, null, 'x', '')",
        "update private.agent_tokens set revoked_at = null where true",
        "delete from private.agent_tokens where true",
    ):
        for persona in (team.owner, world.service()):
            with refused("42501"):
                persona.sql(statement)
    assert holder(world, made["token"]) is not None


def test_nobody_has_more_tokens_than_they_can_keep_track_of(world: World, team: Team) -> None:
    world.superuser(
        "insert into private.agent_tokens (user_id, workspace_id, name, token_hash, expires_at, revoked_at)"
        " select %s, %s, 'agent', sha256(n::text::bytea), case when n = 1 then now() - interval '1 s' end,"
        "        case when n = 2 then now() end from generate_series(1, 101) n",
        team.author.id,
        team.id,
    )
    made = create(team.author, workspace_id=team.id)
    with refused("PT409", "100 live tokens"):
        create(team.author, workspace_id=team.id)
    create(team.colleague, workspace_id=team.id)
    team.author.rpc("revoke_agent_token", token_id=made["token_id"])
    create(team.author, workspace_id=team.id)


def test_two_who_make_the_last_token_at_once_make_one(world: World, team: Team) -> None:
    world.superuser(
        "insert into private.agent_tokens (user_id, workspace_id, name, token_hash)"
        " select %s, %s, 'agent', sha256(n::text::bytea) from generate_series(1, 99) n",
        team.author.id,
        team.id,
    )
    other = team.author.inside(team.id)
    assert other.rpc("list_agent_tokens")
    with ThreadPoolExecutor(1) as pool:
        with team.author.transaction() as cursor:
            call(cursor, "create_agent_token", name="first", workspace_id=team.id)
            waiting = pool.submit(create, other, workspace_id=team.id)
            world.wait_until_blocked(other)
        with refused("PT409", "100 live tokens"):
            waiting.result(60)


def test_a_token_is_told_once_and_kept_as_its_hash(world: World, team: Team) -> None:
    made = create(team.author, " CI on ada ", workspace_id=team.id)
    assert re.fullmatch(r"kpt_[0-9a-f]{64}", made["token"])
    assert made["name"] == "CI on ada"
    [kept] = world.superuser(
        "select to_jsonb(t)::text as text, token_hash from private.agent_tokens t where id = %s",
        made["token_id"],
    )
    assert kept["token_hash"] == sha256(made["token"].encode()).digest()
    assert made["token"][4:] not in kept["text"].replace(sha256(made["token"].encode()).hexdigest(), "")
    [listed] = team.author.rpc("list_agent_tokens", workspace_id=team.id)
    assert made["token"] not in str(listed)
    assert (listed["name"], listed["user_id"], listed["last_used_at"]) == ("CI on ada", team.author.id, None)

    found = holder(world, made["token"])
    assert found is not None
    assert (found["user_id"], found["workspace_id"]) == (team.author.id, team.id)
    [listed] = team.author.rpc("list_agent_tokens", workspace_id=team.id)
    assert listed["last_used_at"] is not None
    assert holder(world, made["token"] + "0") is None
    for hashed in ("", made["token"], "0" * 63, "0" * 65, "Z" * 64):
        with refused("PT400"):
            world.service().rpc("authenticate_agent_token", token_hash=hashed)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"name": ""}, "PT400"),
        ({"name": "  "}, "PT400"),
        ({"name": "x" * 201}, "PT400"),
        ({"name": "key ghp_" + "a1" * 20}, "PT451"),
        ({"name": "x", "expires_at": datetime(2026, 1, 1, tzinfo=UTC)}, "PT400"),
    ],
    ids=str,
)
def test_what_makes_no_token(team: Team, arguments: dict[str, Any], code: str) -> None:
    with refused(code):
        team.author.rpc("create_agent_token", **arguments)
    assert team.author.rpc("list_agent_tokens") == []


def test_it_ends_by_its_owner_by_a_maintainer_by_time(world: World, team: Team) -> None:
    first, second, third = (create(team.author, workspace_id=team.id) for _ in range(3))
    assert len({one["token"] for one in (first, second, third)}) == 3
    [ended] = team.author.rpc("revoke_agent_token", token_id=first["token_id"])
    assert ended["revoked_at"] is not None
    [again] = team.author.rpc("revoke_agent_token", token_id=first["token_id"])
    assert again["revoked_at"] == ended["revoked_at"]
    assert holder(world, first["token"]) is None

    listed = {row["token_id"] for row in team.maintainer.rpc("list_agent_tokens")}
    assert listed == {one["token_id"] for one in (first, second, third)}
    team.maintainer.rpc("revoke_agent_token", token_id=second["token_id"])
    assert holder(world, second["token"]) is None

    assert holder(world, third["token"]) is not None
    world.superuser(
        "update private.agent_tokens set expires_at = now() where id = %s returning 1", third["token_id"]
    )
    assert holder(world, third["token"]) is None


def test_who_leaves_the_workspace_takes_the_token_along_for_good(world: World, team: Team) -> None:
    made, own = create(team.author, workspace_id=team.id), create(team.author.inside(None))
    team.owner.rpc("remove_workspace_member", workspace_id=team.id, user_id=team.author.id)
    assert holder(world, made["token"]) is None
    team.owner.rpc("add_workspace_member", workspace_id=team.id, user_id=team.author.id)
    assert holder(world, made["token"]) is None
    assert holder(world, own["token"]) is not None
    world.superuser("delete from auth.users where id = %s returning 1", team.author.id)
    assert holder(world, own["token"]) is None


def test_without_a_workspace_it_is_that_of_the_request_or_the_personal_one(world: World, team: Team) -> None:
    assert create(team.author.inside(team.id))["workspace_id"] == team.id
    newcomer = world.sign_up("newcomer")
    personal = create(newcomer)["workspace_id"]
    [mine] = newcomer.rpc("my_workspaces")
    assert (mine["workspace_id"], mine["is_personal"]) == (personal, True)


def test_an_agent_is_in_its_workspace_and_in_no_other(world: World, team: Team) -> None:
    author = team.author.inside(None)
    own_item = author.record("A private plan", "Nobody's business.")
    own_session = author.start_session("mine")
    [own] = [row for row in author.rpc("my_workspaces") if row["is_personal"]]
    item = team.author.record("A thing of the team")
    bound = agent(world, create(team.author, workspace_id=team.id)["token"])

    # Naming it, by header or by session, is refused; its rows aren't there.
    with refused("PT403", "bound to another workspace"):
        bound.inside(own["workspace_id"]).rpc("search_knowledge", query_text="plan")
    with refused("PT403", "bound to another workspace"):
        bound.inside(NOBODY).rpc("search_knowledge", query_text="plan")
    with refused("PT403"):
        bound.inside(session=own_session.session).rpc("record_knowledge", title="x", content="x")
    with refused("PT403"):
        bound.inside(session=own_session.session).rpc("end_session")
    assert not bound.sees(own_item)
    assert bound.rpc("search_knowledge", query_text="private plan business") == []
    with refused("PT404"):
        bound.rpc("rate_knowledge", knowledge_id=own_item, effectiveness_rating=1)
    for function in ("validate_knowledge", "forget_knowledge"):
        with refused("PT404"):
            bound.rpc(function, knowledge_id=own_item)
    assert bound.sql("select 1 from public.ai_sessions where id = %s", own_session.session) == []
    assert bound.sql("select 1 from public.workspaces where id = %s", own["workspace_id"]) == []
    # It makes and ends no tokens.
    with refused("PT403", "opens no administration"):
        create(bound)
    [listed] = bound.rpc("list_agent_tokens")
    with refused("PT403", "opens no administration"):
        bound.rpc("revoke_agent_token", token_id=listed["token_id"])

    assert bound.sees(item)
    assert [row["workspace_id"] for row in bound.rpc("my_workspaces")] == [team.id]
    [recorded] = bound.rpc("record_knowledge", title="By an agent", content="By an agent")
    assert recorded["workspace_id"] == team.id
    assert bound.start_session("agent").workspace == team.id
    assert team.author.sees(recorded["knowledge_id"])


def test_an_agent_has_the_role_that_its_user_has_now(world: World, team: Team) -> None:
    bound = agent(world, create(team.maintainer, workspace_id=team.id)["token"])
    item = team.author.record("To be validated")
    assert bound.rpc("validate_knowledge", knowledge_id=item)[0]["validation_status"] == "validated"
    team.owner.rpc(
        "set_workspace_member_role", workspace_id=team.id, user_id=team.maintainer.id, role="reader"
    )
    with refused("PT403"):
        bound.rpc("validate_knowledge", knowledge_id=item, validation_status="deprecated")
    with refused("42501"):
        bound.rpc("record_knowledge", title="x", content="x")


def test_an_agent_administers_nothing(world: World, team: Team) -> None:
    bound = agent(world, create(team.owner, workspace_id=team.id)["token"])
    elsewhere = world.workspace("elsewhere", owner=team.owner)
    for function, arguments in (
        ("create_workspace", {"name": "another"}),
        ("create_agent_token", {"name": "another"}),
        ("revoke_agent_token", {"token_id": NOBODY}),
        *(
            (function, {"workspace_id": workspace, "user_id": team.colleague.id, **role})
            for workspace in (team.id, elsewhere)
            for function, role in (
                ("add_workspace_member", {"role": "owner"}),
                ("set_workspace_member_role", {"role": "owner"}),
                ("remove_workspace_member", {}),
            )
        ),
        ("remove_workspace_member", {"workspace_id": team.id, "user_id": team.owner.id}),
        ("delete_workspace", {"workspace_id": elsewhere}),
    ):
        with refused("PT403", "opens no administration"):
            bound.rpc(function, **arguments)
