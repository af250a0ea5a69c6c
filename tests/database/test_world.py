"""The stage itself: each persona is who they say they are, and nobody has more rights than in production."""

from __future__ import annotations

import uuid

from world import World, refused


def test_personas_act_under_their_own_role(world: World) -> None:
    ana = world.sign_up("ana")
    assert ana.sql("select current_user::text as role, auth.uid() as id") == [
        {"role": "authenticated", "id": ana.id}
    ]
    assert world.anon().value("select current_user::text") == "anon"
    assert world.service().value("select current_user::text") == "service_role"


def test_nobody_keeps_a_role_beyond_the_transaction(world: World) -> None:
    service = world.service()
    service.sql("select 1")
    row = service.connection.execute("select current_user::text as role").fetchone()
    assert row == {"role": "authenticator"}
    with refused("42501"):
        service.connection.execute("select from public.knowledge_items")


def test_a_workspace_has_the_members_it_was_given(world: World) -> None:
    ana, ben, cleo = world.sign_up("ana"), world.sign_up("ben"), world.sign_up("cleo")
    team = world.workspace("team", owner=ana, maintainer=cleo, contributor=[ben])
    roles = {
        row["user_id"]: row["role"]
        for row in ana.inside(team).sql(
            "select user_id, role::text from public.workspace_members where workspace_id = %s", team
        )
    }
    assert roles == {ana.id: "owner", ben.id: "contributor", cleo.id: "maintainer"}


def test_what_one_persona_says_reaches_the_database_as_it_is(world: World) -> None:
    stranger = world.as_user(uuid.uuid4(), workspace="not-a-uuid")
    assert stranger.value("select current_setting('app.current_workspace')") == "not-a-uuid"
