"""What roles may do in the database: as its catalog says, and as docs/reference/access.md says it should be."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from psycopg.rows import dict_row

if TYPE_CHECKING:
    import psycopg

#: Whose privileges the matrix is about.
GRANTEES: Final = ("public", "anon", "authenticated", "service_role")

RELATIONS: Final = """
select format('%%s.%%s', c.relnamespace::regnamespace, c.relname) as object,
       case c.relkind when 'v' then 'view' when 'S' then 'sequence' else 'table' end as kind,
       c.relkind = 'v' and not coalesce(c.reloptions @> '{security_invoker=true}', false) as is_open_view,
       array(select lower(a.privilege_type) from aclexplode(c.relacl) a
              where case a.grantee when 0 then 'public' else pg_get_userbyid(a.grantee) end = g.grantee
              order by 1) as whole,
       array(select lower(x.privilege_type) || ' (' || string_agg(t.attname, ', ' order by t.attnum) || ')'
               from pg_attribute t, aclexplode(t.attacl) x
              where t.attrelid = c.oid
                and case x.grantee when 0 then 'public' else pg_get_userbyid(x.grantee) end = g.grantee
              group by x.privilege_type order by 1) as parts,
       g.grantee
  from pg_class c, unnest(%s::text[]) g (grantee)
 where c.relnamespace in ('public'::regnamespace, 'private'::regnamespace)
   and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
   -- One partition stands for all: which months there are depends on the day.
   and (not c.relispartition or c.relname = 'ai_sessions_default')
 order by 1, array_position(%s::text[], g.grantee)
"""

FUNCTIONS: Final = """
select format('%%s.%%s', p.pronamespace::regnamespace, p.proname) as object, p.prosecdef as is_definer,
       array(select a.grantee from (
               select case a.grantee when 0 then 'public' else pg_get_userbyid(a.grantee) end as grantee
                 from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a) a
              where a.grantee = any (%s) order by array_position(%s::text[], a.grantee)) as callers
  from pg_proc p
 where p.pronamespace in ('public'::regnamespace, 'private'::regnamespace)
   and not exists (select from pg_depend d where d.objid = p.oid and d.deptype = 'e')
 order by 1
"""

_HEADING: Final = "## What is granted"


def matrix(connection: psycopg.Connection[Any]) -> list[str]:
    """Return the matrix of a database, as the lines of the page.

    Args:
        connection: of a role that sees the catalog; any does.
    """
    everybody = list(GRANTEES)
    lines = ["", "### Tables, views and sequences", "", "| | who | may |", "|---|---|---|"]
    with connection.cursor(row_factory=dict_row) as cursor:
        for row in cursor.execute(RELATIONS, (everybody, everybody)):
            held = ", ".join([*row["whole"], *row["parts"]])
            if held:
                lines.append(f"| {row['object']} | {row['grantee']} | {held} |")
        lines += ["", "### Functions", "", "| | runs as | may be called by |", "|---|---|---|"]
        for row in cursor.execute(FUNCTIONS, (everybody, everybody)):
            runs_as = "its owner" if row["is_definer"] else "its caller"
            lines.append(f"| {row['object']} | {runs_as} | {', '.join(row['callers']) or 'nobody'} |")
    return lines


def differences(found: list[str], page: str) -> list[str]:
    """Return what a database grants otherwise than the page says.

    Args:
        found: from `matrix`.
        page: the text of the page.
    """
    wanted = _cells(page.partition(_HEADING)[2].splitlines())
    here = _cells(found)
    known = {thing for thing, _ in wanted}
    told: list[str] = []
    for key in sorted({*wanted, *here}):
        thing, who = key
        # An operator's own tables in public are the operator's affair; in private there is nothing but ours.
        if thing not in known and thing.startswith("public."):
            continue
        has, should = here.get(key, "nothing"), wanted.get(key, "nothing")
        if has != should:
            told.append(f"{thing}, {who}: {has}; it should be: {should}")
    return told


def _cells(lines: list[str]) -> dict[tuple[str, str], str]:
    """Return the last cell of each row by the first, and for relations the second."""
    cells: dict[tuple[str, str], str] = {}
    for line in lines:
        row = re.fullmatch(r"\| ((?:public|private)\.\w+) \| ([^|]+) \| (.+) \|", line)
        if row is None:
            continue
        is_function = row[2].startswith("its ")
        cells[row[1], "callers" if is_function else row[2]] = (
            f"{row[3]} as {row[2]}" if is_function else row[3]
        )
    return cells
