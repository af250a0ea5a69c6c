"""Plain rows, written through the table by whoever may: the item is made, follows, and goes with its record."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from teams import Team
from world import refused

if TYPE_CHECKING:
    from world import World

#: By table: an honest row, the column that is edited, and the kind of item.
RECORDS = {
    "technical_gotchas": ({"problem_description": "It breaks"}, "working_solution", "technical_discovery"),
    "command_patterns": ({"success_pattern": "make"}, "command_description", "procedural"),
    "interaction_patterns": (
        {"pattern_name": "Wants a plan", "situation_type": "planning"},
        "ai_response_expected",
        "contextual",
    ),
    "experiential_knowledge": (
        {"insight_title": "Small steps win", "insight_description": "Ship small."},
        "insight_description",
        "experiential",
    ),
    "decision_evolution": (
        {"decision_topic": "Queue", "initial_understanding": "A table."},
        "current_understanding",
        "contextual",
    ),
}


@pytest.fixture
def team(world: World) -> Team:
    return Team(world)


@pytest.mark.parametrize("door", ["member", "service", "studio"])
def test_the_item_is_made_follows_and_goes(team: Team, door: str) -> None:
    write = {"member": team.author.sql, "service": team.world.service().sql, "studio": team.world.superuser}[
        door
    ]
    for table, (row, column, kind) in RECORDS.items():
        given = row if door == "member" else {**row, "workspace_id": team.id, "owner_id": team.author.id}
        names, places = ", ".join(given), ", ".join(["%s"] * len(given))
        insert = f"insert into public.{table} ({names}) values ({places}) returning knowledge_id"
        [made] = write(insert, *given.values())
        item = made["knowledge_id"]
        [found] = team.author.sql("select * from public.knowledge_items where id = %s", item)
        assert (found["knowledge_type"], found["owner_id"]) == (kind, team.author.id), table
        assert (found["workspace_id"], found["validation_status"]) == (team.id, "pending"), table
        with refused("PT409", "already"):
            write(insert, *given.values())

        # `returning` as PostgREST does it.
        edit = f"update public.{table} set {column} = %s where knowledge_id = %s returning knowledge_id"
        assert write(edit, "Call zanzibar.", item), table
        [found] = team.author.sql("select * from public.knowledge_items where id = %s", item)
        assert "Call zanzibar." in found["title"] + found["content"], table
        hits = team.author.rpc("search_knowledge", query_text="zanzibar")
        assert item in {hit["knowledge_id"] for hit in hits}, table
        assert team.world.superuser("select 1 from private.embedding_jobs where knowledge_id = %s", item), (
            table
        )

        # Whoever may delete rows deletes no record by itself, and leaves none behind that has no item.
        with refused("42501" if door == "member" else "PT409"):
            write(f"delete from public.{table} where knowledge_id = %s", item)
        team.maintainer.rpc("forget_knowledge", knowledge_id=item)
        for rest in (f"public.{table}", "private.companions", "private.embedding_jobs"):
            assert not team.world.superuser(f"select 1 from {rest} where knowledge_id = %s", item), (
                table,
                rest,
            )
        assert write(insert, *given.values()), "erased, it may be recorded anew"
