"""Commands: who may write what, exact counts of runs, suggestions that prefer what works."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from teams import NOBODY, Team, assert_seen_with_its_item, forbid_forgeries, race
from world import refused

if TYPE_CHECKING:
    import uuid

    from world import Persona, Row, World


@pytest.fixture
def team(world: World) -> Team:
    return Team(world)


def run(persona: Persona, command: str = "pg_ctl reload", succeeded: bool = True, **arguments: object) -> Row:
    [row] = persona.rpc("record_command_run", command=command, succeeded=succeeded, **arguments)
    return row


def whole(team: Team, item: uuid.UUID) -> Row:
    [row] = team.world.superuser("select * from public.command_patterns where knowledge_id = %s", item)
    return row


# -- what must fail --------------------------------------------------------------------------------------------


def test_nothing_can_be_forged(team: Team) -> None:
    mine = run(team.author)
    session = team.colleague.start_session("hers").session
    forbid_forgeries(
        team,
        "command_patterns",
        {"success_pattern": "git status"},
        own={
            "discovered_in_session": session,
            "usage_count": 9,
            "success_count": 9,
            "failure_patterns": ["forged"],
            "last_used": "2020-01-01",
        },
        item=mine["knowledge_id"],
    )
    with refused("428C9"):
        team.world.superuser("update public.command_patterns set success_rate = 100 where true")
    with refused("42501"):
        team.author.sql("update public.command_patterns set command_signature = 'x' where true")
    with refused("PT403", "readers"):
        run(team.reader)
    with refused("PT409", "already"):
        team.author.sql("insert into public.command_patterns (success_pattern) values ('pg_ctl  reload')")


def test_arguments_are_checked(team: Team) -> None:
    for arguments in ({"command": " ", "succeeded": True}, {"command": "ls", "succeeded": None}):
        with refused("PT400"):
            team.author.rpc("record_command_run", **arguments)
    for arguments in ({"task": " "}, {"task": "x", "max_results": 101}):
        with refused("PT400"):
            team.author.rpc("suggest_commands", **arguments)


def test_credentials_are_refused_unless_meant(team: Team) -> None:
    secret = "postgresql://kp:s3cr3t-w0rd@db.internal/kp"
    with refused("PT451"):
        run(team.author, f"psql {secret}")
    with refused("PT451"):
        run(team.author, succeeded=False, failure_output=secret)
    assert run(team.author, f"psql {secret}", allow_credentials=True)["outcome"] == "created"


def test_a_command_is_visible_exactly_when_its_item_is(team: Team) -> None:
    assert_seen_with_its_item(team, "command_patterns", run(team.author)["knowledge_id"])


def test_a_merge_reveals_no_pending_command(team: Team) -> None:
    secret = run(team.author, "login --token zanzibar", command_description="the secret way")
    hers = run(team.colleague, "login --token zanzibar")
    assert (hers["outcome"], hers["usage_count"]) == ("created", 1)
    assert hers["knowledge_id"] != secret["knowledge_id"]
    assert len(team.colleague.rpc("suggest_commands", task="login token")) == 1
    assert team.colleague.rpc("suggest_commands", task="secret way") == []
    for item in (secret["knowledge_id"], NOBODY):
        with refused("PT404", "no such record"):
            team.colleague.sql("select private.count_command_run(%s, true, null, false)", item)
    assert whole(team, secret["knowledge_id"])["usage_count"] == 1


def test_a_run_by_a_colleague_counts_and_changes_no_text(team: Team) -> None:
    item = run(team.author)["knowledge_id"]
    team.maintainer.rpc("validate_knowledge", knowledge_id=item)
    before = whole(team, item)
    merged = run(
        team.colleague,
        succeeded=False,
        failure_output="pg_ctl: no server running",
        command_description="Something else",
        command_category="x",
    )
    assert (merged["outcome"], merged["knowledge_id"]) == ("merged", item)
    assert (merged["usage_count"], merged["success_count"], merged["success_rate"]) == (
        2,
        1,
        Decimal("50.00"),
    )
    after = whole(team, item)
    assert {name for name in after if after[name] != before[name]} == {
        "usage_count",
        "success_rate",
        "failure_patterns",
        "last_used",
    }
    assert after["failure_patterns"] == ["pg_ctl: no server running"]
    assert merged["validation_status"] == "validated"


# -- what must work --------------------------------------------------------------------------------------------


def test_the_first_run_may_fail(team: Team) -> None:
    row = run(team.author, succeeded=False, failure_output="bash: line 3: pg_ctl: command not found")
    assert (row["usage_count"], row["success_count"], row["success_rate"]) == (1, 0, Decimal("0.00"))
    for _ in range(2):
        row = run(team.author, "  pg_ctl \n reload ")
    assert (row["usage_count"], row["success_count"], row["success_rate"]) == (3, 2, Decimal("66.67"))
    run(team.author, succeeded=False, failure_output="bash: line 99: pg_ctl: command not found")
    assert len(whole(team, row["knowledge_id"])["failure_patterns"]) == 1


def test_the_companion_is_made_and_follows_text_not_counts(team: Team) -> None:
    item = team.author.value(
        "insert into public.command_patterns (success_pattern) values ('pg_ctl reload') returning knowledge_id"
    )
    team.maintainer.rpc("validate_knowledge", knowledge_id=item)
    team.world.superuser("delete from private.embedding_jobs where true")
    [before] = team.world.superuser("select xmin, * from public.knowledge_items where id = %s", item)
    assert before["knowledge_type"] == "procedural"
    assert run(team.author)["outcome"] == "merged"
    assert run(team.author, succeeded=False, failure_output="no server")["outcome"] == "merged"
    assert team.world.superuser("select xmin, * from public.knowledge_items where id = %s", item) == [before]
    assert team.world.superuser("select 1 from private.embedding_jobs") == []
    run(
        team.author,
        command_description="Reads the configuration again",
        context_requirements=["a running server"],
    )
    run(team.author, command_description="Never mind", context_requirements=["rights"])
    row = whole(team, item)
    assert row["command_description"] == "Reads the configuration again"
    assert row["context_requirements"] == ["a running server", "rights"]
    [after] = team.world.superuser("select * from public.knowledge_items where id = %s", item)
    assert after["title"] == "Reads the configuration again"
    assert "Needs: a running server; rights" in after["content"]
    assert after["validation_status"] == "pending"
    assert len(team.world.superuser("select 1 from private.embedding_jobs")) == 1


def test_the_story_of_a_command(team: Team) -> None:
    """Run in one session, again in another, suggested in words in a third, rated, ranked higher after."""
    monday = team.author.start_session("monday", project_context="kp")
    first = run(
        monday, "kubectl rollout restart deploy/api", command_description="Restart the api deployment"
    )
    tuesday = team.author.start_session("tuesday")
    again = run(tuesday, "kubectl rollout  restart deploy/api")
    assert (again["command_id"], again["outcome"], again["usage_count"]) == (first["command_id"], "merged", 2)
    rival = run(tuesday, "kubectl delete pod api", command_description="Restart the api deployment by force")
    for _ in range(3):
        run(tuesday, "kubectl delete pod api", succeeded=False, failure_output="Error: forbidden")
    for row in (first, rival):
        team.maintainer.rpc("validate_knowledge", knowledge_id=row["knowledge_id"])

    wednesday = team.colleague.start_session("wednesday")
    question = "how can I restart the deployment of our api?"
    found = wednesday.rpc("suggest_commands", task=question)
    assert [row["command_id"] for row in found] == [first["command_id"], rival["command_id"]]
    assert found[0]["command"] == "kubectl rollout restart deploy/api"
    assert "worked 2 of 2 times" in found[0]["reason"]
    assert found[1]["failure_patterns"] == ["forbidden"]
    assert found[1]["success_rate"] == Decimal("25.00")

    ranked = [row["knowledge_id"] for row in wednesday.rpc("search_knowledge", query_text=question)]
    for _ in range(8):
        for item, rating in ((ranked[1], 10), (ranked[0], 1)):
            wednesday.rpc(
                "rate_knowledge",
                knowledge_id=item,
                effectiveness_rating=rating,
                application_success=rating > 5,
            )
    after = [row["knowledge_id"] for row in wednesday.rpc("search_knowledge", query_text=question)]
    assert after == ranked[::-1]


def test_runs_at_once_are_counted_exactly(team: Team) -> None:
    """Eight writers, twenty commands: half of them of the writers' own, half shared by the workspace."""
    commands = [f"make target-{i}" for i in range(20)]
    for command in commands[:10]:
        team.maintainer.rpc("validate_knowledge", knowledge_id=run(team.maintainer, command)["knowledge_id"])
    people = [p.inside(team.id) for p in (team.author, team.colleague, team.author, team.colleague) * 2]
    rounds = 4

    def act(me: Persona, key: int) -> object:
        return run(me, commands[key], succeeded=key % 2 == 0, failure_output=f"Error: number {key}")[
            "outcome"
        ]

    answers = race(people, act, keys=20, rounds=rounds)
    assert answers.count("created") == 20
    rows = team.world.superuser("select * from public.command_patterns")
    assert len(rows) == 10 + 2 * 10
    for row in rows:
        shared = row["owner_id"] == team.maintainer.id
        even = commands.index(row["command_signature"]) % 2 == 0
        runs = 8 * rounds if shared else 4 * rounds
        assert row["usage_count"] == runs + shared
        assert row["success_count"] == (runs if even else 0) + shared
        assert row["success_rate"] == round(Decimal(100 * row["success_count"]) / row["usage_count"], 2)
