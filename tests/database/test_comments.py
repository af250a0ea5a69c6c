"""Everything in the schemas of this project says what it is: Studio shows it, the reference is made of it."""

from __future__ import annotations

from typing import LiteralString

import pytest

from world import World

SCHEMAS = "('public', 'private')"

OBJECTS: dict[str, LiteralString] = {
    "schema": """
        select n.nspname::text as object, obj_description(n.oid, 'pg_namespace') as comment
        from pg_namespace n where n.nspname = 'private'
    """,
    "table": f"""
        select c.oid::regclass::text as object, obj_description(c.oid, 'pg_class') as comment
        from pg_class c
        where c.relnamespace::regnamespace::text in {SCHEMAS} and c.relkind in ('r', 'p', 'v', 'm', 'f')
          and not c.relispartition
    """,
    "column": f"""
        select format('%s.%I', c.oid::regclass, a.attname) as object, col_description(c.oid, a.attnum) as comment
        from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        where c.relnamespace::regnamespace::text in {SCHEMAS} and c.relkind in ('r', 'p', 'v', 'm', 'f')
          and not c.relispartition
    """,
    "function": f"""
        select p.oid::regprocedure::text as object, obj_description(p.oid, 'pg_proc') as comment
        from pg_proc p
        where p.pronamespace::regnamespace::text in {SCHEMAS}
          and not exists (select from pg_depend d where d.objid = p.oid and d.deptype = 'e')
    """,
    "policy": f"""
        select format('%s on %s', p.polname, p.polrelid::regclass) as object,
               obj_description(p.oid, 'pg_policy') as comment
        from pg_policy p join pg_class c on c.oid = p.polrelid
        where c.relnamespace::regnamespace::text in {SCHEMAS}
    """,
    "type": f"""
        select t.oid::regtype::text as object, obj_description(t.oid, 'pg_type') as comment
        from pg_type t
        where t.typnamespace::regnamespace::text in {SCHEMAS} and t.typtype in ('e', 'd')
    """,
}


@pytest.mark.parametrize("kind", OBJECTS)
def test_everything_has_a_comment(world: World, kind: str) -> None:
    rows = world.superuser(OBJECTS[kind])
    assert rows or kind == "type"
    assert [row["object"] for row in rows if not (row["comment"] or "").strip()] == []
