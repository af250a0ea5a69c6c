"""What a database remembers, as people see it and as it is stored: to compare before and after an upgrade."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from dataclasses import dataclass
from typing import Any, LiteralString, cast

import psycopg
from psycopg import sql

from databases import Database
from world import Persona, World

# The people of supabase/releases/*.sql.
PEOPLE = {
    "ana": uuid.UUID("0a000000-0000-4000-8000-000000000001"),
    "ben": uuid.UUID("0b000000-0000-4000-8000-000000000002"),
    "eve": uuid.UUID("0e000000-0000-4000-8000-000000000003"),
}
TABLES: LiteralString = """
select n.nspname, c.relname
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where c.relkind = 'r' and c.relpersistence = 'p' and n.nspname in ('public', 'private')
 order by 1, 2
"""
READABLE: LiteralString = """
select c.relname
  from pg_class c
 where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
   and has_table_privilege('authenticated', c.oid, 'select')
 order by 1
"""
QUESTIONS = [
    "Where is the tide table?",
    "tides.csv",
    "Wie erreiche ich den Hafenmeister?",
    "Error: winch 4 jams at -5 degrees",
    "at which pier does the ferry berth",
    "Which crane do we buy",
]


@dataclass(frozen=True, slots=True)
class Memory:
    """What a database remembers.

    Attributes:
        rows: the rows of each table, as JSON objects.
        seen: what each person sees: rows by table, the items that answer each question, the log of events.
    """

    rows: dict[str, list[dict[str, Any]]]
    seen: dict[str, object]


def fill(database: Database, script: str) -> None:
    """Run the script that fills a database of a release."""
    with psycopg.connect(database.dsn("supabase_admin"), autocommit=True) as connection:
        connection.execute(cast("LiteralString", script))


def remember(database: Database) -> Memory:
    """Read everything that a database remembers, and change nothing."""
    with psycopg.connect(database.dsn("supabase_admin"), autocommit=True) as connection:
        connection.execute("set timezone = 'UTC'")
        tables = connection.execute(TABLES).fetchall()
        rows = {
            f"{schema}.{name}": [
                row
                for (row,) in connection.execute(
                    sql.SQL("select to_jsonb(t) from only {} t").format(sql.Identifier(schema, name))
                )
            ]
            for schema, name in tables
        }
        readable = [str(name) for (name,) in connection.execute(READABLE)]
    world = World(database.dsn)
    try:
        seen: dict[str, object] = {}
        for name, person in people(world).items():
            for table in readable:
                seen[f"{name} sees {table}"] = person.value(f'select count(*) from public."{table}"')
            for question in QUESTIONS:
                found = person.rpc("search_knowledge", query_text=question, max_results=5)
                seen[f"{name} asks {question}"] = [row["title"] for row in found]
            near = person.rpc(
                "find_similar_knowledge",
                query_embedding=[1.0, 0.1, 0.0],
                embedding_model="three",
                limit_results=3,
            )
            seen[f"{name} finds near"] = [(row["title"], round(row["similarity_score"], 6)) for row in near]
            events = person.rpc("knowledge_events_since", after_event=0, max_events=1000)
            seen[f"{name} follows"] = [(row["event_id"], row["what"]) for row in events]
    finally:
        world.close()
    return Memory(rows, seen)


def people(world: World) -> dict[str, Persona]:
    """Return the people of the script: Ana and Ben in the workspace Harbour, Eve in hers."""
    [row] = world.superuser("select id from public.workspaces where name = 'Harbour'")
    return {
        name: world.as_user(user, None if name == "eve" else row["id"], name=name)
        for name, user in PEOPLE.items()
    }


def lost(before: Memory, after: Memory, changed: dict[str, str]) -> list[str]:
    """Say what an upgrade changed of what there was; what it added is its business.

    Args:
        before: as it was.
        after: as it is.
        changed: columns ("schema.table.column") whose values an upgrade changes on purpose, and why.
    """
    found: list[str] = []
    for table, rows in before.rows.items():
        if table not in after.rows:
            found.append(f"{table} is gone, and had {len(rows)} rows")
            continue
        columns = {column for row in rows for column in row if f"{table}.{column}" not in changed}
        kept = Counter(_text(row, columns) for row in after.rows[table])
        missing = Counter(_text(row, columns) for row in rows) - kept
        found += [f"{table} lost or changed {row}" for row in missing]
    for what, answer in before.seen.items():
        if what not in after.seen:
            found.append(f"{what}: no longer")
        elif after.seen[what] != answer:
            found.append(f"{what}: {answer}, now {after.seen[what]}")
    return found


def _text(row: dict[str, Any], columns: set[str]) -> str:
    return json.dumps({name: row[name] for name in sorted(columns) if name in row})
