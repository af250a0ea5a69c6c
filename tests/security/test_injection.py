"""Text is text: in no argument of any function, and in no header, does it become SQL, a pattern or a format."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from isolation import functions
from teams import Team
from world import call, refused

if TYPE_CHECKING:
    from world import Persona, World

#: What breaks out of a literal, an identifier, a dollar quote, a format, a pattern, a tsquery, an array, a path.
TEXTS = (
    "'; create table public.taken (); --",
    "' || (select secret from public.canary) || '",
    '"; create table public.taken (); --',
    "$$; create table public.taken (); $$",
    "$1 $2 $99",
    "%1$L %I %s %% %",
    "\\",
    "\\' or true --",
    "x') or true) --",
    "a & | ! <-> :* 'b",
    "':ABCD",
    "((((",
    "[a-",
    "(?<x>*",
    "*",
    "_%",
    '{"a","b',
    "$.* ? (@ == 1",
    "../../etc/passwd",
    "null",
)
#: What a caller is told: refused by the contract, not a valid value of the type, a check, not allowed, not unique.
TOLD = ("PT", "22P02", "22007", "23514", "23505", "42501", "22023")
KINDS = {"text", "text[]", "jsonb", "character varying"}


def ordinary(kind: str, item: object) -> object:
    """Return a value that a parameter of this type might well have."""
    values: dict[str, object] = {
        "text": "a text",
        "character varying": "a text",
        "text[]": ["a text"],
        "uuid": item,
        "uuid[]": [item],
        "integer": 5,
        "bigint": 0,
        "boolean": True,
        "double precision": 0.5,
        "numeric": 0.5,
        "timestamp with time zone": "2026-01-01T00:00:00Z",
        "interval": "1 day",
        "jsonb": json.dumps({}),
    }
    return values.get(kind)


def as_kind(kind: str, text: str) -> object:
    """Put a text into a value of a type."""
    if kind == "text[]":
        return [text]
    if kind == "jsonb":
        return json.dumps({"content": text, text: [text]})
    return text


def attempt(persona: Persona, function: str, arguments: dict[str, Any]) -> tuple[str, str]:
    """Call a function, undo what it did, and return how it ended and what it said."""
    try:
        with persona.transaction() as cursor:
            answer = call(cursor, function, **arguments)
            raise psycopg.Rollback
    except psycopg.Error as error:
        return str(error.sqlstate), str(error)
    return "done", str(answer)


@pytest.fixture
def team(world: World) -> Team:
    world.superuser("create table public.canary as select 'the secret of the canary' as secret")
    return Team(world)


def test_no_argument_becomes_sql(team: Team) -> None:
    item = team.shared("Ports", "Port 54321 is the origin.", retrieval_triggers=["port"])
    owner = team.owner.start_session("a session")
    tried = 0
    for name, kinds, required in functions(team.world):
        for parameter, kind in kinds.items():
            if kind not in KINDS:
                continue
            rest = {key: ordinary(kinds[key], item) for key in required if key != parameter}
            for text in TEXTS:
                ended, said = attempt(owner, name, {**rest, parameter: as_kind(kind, text)})
                assert ended == "done" or ended.startswith(TOLD), (name, parameter, text, ended, said)
                assert "the secret of the canary" not in said, (name, parameter, text)
                tried += 1
    assert tried > 2000
    assert team.world.superuser("select 1 from pg_class where relname = 'taken'") == []


@pytest.mark.parametrize("setting", ["app.current_workspace", "app.current_session", "request.headers"])
def test_no_header_becomes_sql_or_a_setting(team: Team, setting: str) -> None:
    nowhere = team.author.inside()
    team.shared("Ports", "Port 54321 is the origin.")  # a policy is asked where there is something to see
    for text in (*TEXTS, "x', true), set_config('role', 'postgres", "a\nrole: postgres"):
        value = json.dumps({"x-workspace-id": text}) if setting == "request.headers" else text
        with nowhere.transaction() as cursor:
            cursor.execute("select set_config(%s, %s, true)", [setting, value])
            with refused("PT400"):
                cursor.execute("select count(*) from public.knowledge_items")
