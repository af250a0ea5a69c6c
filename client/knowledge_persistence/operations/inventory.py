"""What a database holds, in a form that two databases can be compared by: rows, and definitions.

Rows count by number and by a hash that doesn't depend on their order; definitions by their text.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, LiteralString

from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Callable

    import psycopg

_CAST = re.compile(r'::(?:character varying|[a-z_."]+)(?:\(\d+\))?(?:\[\])?')
_BRACKETS = re.compile(r"[()]")
# Text that depends on nothing but the value.
_PLAIN: LiteralString = """
select set_config(name, value, true)
  from (values ('extra_float_digits', '1'), ('timezone', 'UTC'), ('datestyle', 'ISO, YMD'),
               ('intervalstyle', 'postgres'), ('bytea_output', 'hex'), ('search_path', 'pg_catalog'),
               ('row_security', 'off')) as plain (name, value)
"""
# Extensions bring their own objects, of their own version.
_OWN: LiteralString = """
  n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
  and not exists (select from pg_depend d
                   where d.classid = {catalog}::regclass and d.objid = {oid} and d.deptype = 'e')
"""
_TABLES: LiteralString = """
select n.nspname, c.relname
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where c.relkind = 'r' and c.relpersistence <> 't' and {own}
 order by 1, 2
"""
_DEFINITIONS: dict[str, LiteralString] = {
    "policies": """
        select format('%s on %s for %s to %s, %s, using %s, check %s', p.polname, p.polrelid::regclass, p.polcmd,
                      array(select coalesce(nullif(pg_get_userbyid(r), 'unknown (OID=0)'), 'public')
                              from unnest(p.polroles) r order by 1),
                      p.polpermissive, pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
          from pg_policy p""",
    "relations": """
        select format('%s %s of %s, row security %s, granted %s', c.relkind, c.oid::regclass,
                      pg_get_userbyid(c.relowner), c.relrowsecurity,
                      array(select a::text
                              from unnest(coalesce(
                                c.relacl,
                                acldefault(case c.relkind when 'S' then 's' else 'r' end::"char", c.relowner))) a
                             order by 1))
          from pg_class c join pg_namespace n on n.oid = c.relnamespace
         where c.relkind in ('r', 'p', 'v', 'm', 'S') and {own}""",
    "columns": """
        select format('%s.%s %s, null %s, default %s, granted %s', a.attrelid::regclass, a.attname,
                      format_type(a.atttypid, a.atttypmod), not a.attnotnull, pg_get_expr(d.adbin, d.adrelid),
                      array(select g::text from unnest(a.attacl) g order by 1))
          from pg_attribute a
          join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace
          left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
         where a.attnum > 0 and not a.attisdropped and c.relkind in ('r', 'p', 'v', 'm') and {own}""",
    "functions": """
        select format('%s of %s, granted %s, %s', p.oid::regprocedure, pg_get_userbyid(p.proowner),
                      array(select a::text from unnest(coalesce(p.proacl, acldefault('f', p.proowner))) a order by 1),
                      case when p.prokind in ('f', 'p') then md5(pg_get_functiondef(p.oid)) end)
          from pg_proc p join pg_namespace n on n.oid = p.pronamespace
         where {own}""",
    "schemas": """
        select format('%s of %s, granted %s', n.nspname, pg_get_userbyid(n.nspowner),
                      array(select a::text from unnest(coalesce(n.nspacl, acldefault('n', n.nspowner))) a order by 1))
          from pg_namespace n
         where {own}""",
    "indexes": """
        select format('%s, valid %s', pg_get_indexdef(i.indexrelid), i.indisvalid)
          from pg_index i join pg_class c on c.oid = i.indrelid join pg_namespace n on n.oid = c.relnamespace
         where {own}""",
    "constraints": """
        select format('%s on %s: %s', t.conname,
                      coalesce(nullif(t.conrelid, 0)::regclass::text, t.contypid::regtype::text),
                      pg_get_constraintdef(t.oid))
          from pg_constraint t join pg_namespace n on n.oid = t.connamespace
         where t.contype <> 'n' and {own}""",
    "triggers": """
        select format('%s, %s', pg_get_triggerdef(t.oid), t.tgenabled)
          from pg_trigger t join pg_class c on c.oid = t.tgrelid join pg_namespace n on n.oid = c.relnamespace
         where not t.tgisinternal and {own}""",
    "default privileges": """
        select format('%s in %s, %s: %s', pg_get_userbyid(d.defaclrole), nullif(d.defaclnamespace, 0)::regnamespace,
                      d.defaclobjtype, array(select a::text from unnest(d.defaclacl) a order by 1))
          from pg_default_acl d""",
    "event triggers": """
        select format('%s on %s: %s, %s', e.evtname, e.evtevent, e.evtfoid::regproc, e.evtenabled)
          from pg_event_trigger e
         where not exists (select from pg_depend d
                            where d.classid = 'pg_event_trigger'::regclass and d.objid = e.oid and d.deptype = 'e')""",
    "publications": """
        select format('%s of %s: %s', p.pubname, pg_get_userbyid(p.pubowner),
                      array(select t.prrelid::regclass::text from pg_publication_rel t
                             where t.prpubid = p.oid order by 1))
          from pg_publication p""",
    "extensions": "select e.extname::text from pg_extension e",
}
_CATALOGS: dict[str, tuple[LiteralString, LiteralString]] = {
    "relations": ("'pg_class'", "c.oid"),
    "columns": ("'pg_class'", "c.oid"),
    "functions": ("'pg_proc'", "p.oid"),
    "schemas": ("'pg_namespace'", "n.oid"),
    "indexes": ("'pg_class'", "c.oid"),
    "constraints": ("'pg_class'", "t.conrelid"),
    "triggers": ("'pg_class'", "c.oid"),
}

Inventory = dict[str, dict[str, str]]
"""Kind to name to what it is; for tables: "<rows> rows, <hash>"."""


def take_inventory(
    connection: psycopg.Connection, *, progress: Callable[[str], None] | None = None
) -> Inventory:
    """Describe everything in a database.

    Args:
        connection: in a transaction, which decides what is seen; of a role that may read everything.
        progress: told of each table.
    """
    connection.execute(_PLAIN)
    found: Inventory = {"tables": {}, "sequences": {}}
    tables = connection.execute(_query(_TABLES, "'pg_class'", "c.oid")).fetchall()
    for schema, name in tables:
        if progress is not None:
            progress(f"{schema}.{name}")
        row = connection.execute(
            sql.SQL(
                "select count(*), coalesce(sum(('x' || left(md5(t::text), 15))::bit(60)::bigint::numeric), 0)"
                " from only {} as t"
            ).format(sql.Identifier(schema, name))
        ).fetchone()
        assert row is not None  # noqa: S101 - an aggregate has one row
        found["tables"][f"{schema}.{name}"] = f"{row[0]} rows, {row[1]}"
    for schema, name, value in connection.execute(
        "select schemaname, sequencename, last_value from pg_catalog.pg_sequences"
        " where schemaname !~ '^pg_' order by 1, 2"
    ):
        found["sequences"][f"{schema}.{name}"] = str(value)
    for kind, text in _DEFINITIONS.items():
        catalog, oid = _CATALOGS.get(kind, ("''", "0"))
        lines = sorted(plain(str(line)) for (line,) in connection.execute(_query(text, catalog, oid)))
        found[kind] = dict.fromkeys(lines, "")
    return found


def plain(definition: str) -> str:
    """Take away what the server writes otherwise after a restore though it means the same: brackets and casts.

    It stores `a and b and c`, once read from its own text, flat; and an array of constants with its casts elsewhere.
    """
    return _BRACKETS.sub("", _CAST.sub("", definition))


def _query(text: LiteralString, catalog: LiteralString, oid: LiteralString) -> sql.Composed:
    own = sql.SQL(_OWN).format(catalog=sql.SQL(catalog), oid=sql.SQL(oid))
    return sql.SQL(text).format(own=own)


def compare(expected: Inventory, found: Inventory) -> list[str]:
    """Say in words how two inventories differ; nothing where they don't."""
    differences: list[str] = []
    # Rows first: that is what people ask about.
    for kind in sorted(set(expected) | set(found), key=lambda kind: (kind != "tables", kind)):
        one, other = expected.get(kind, {}), found.get(kind, {})
        for name in sorted(set(one) | set(other)):
            if name not in other:
                differences.append(f"{kind}: missing: {name}")
            elif name not in one:
                differences.append(f"{kind}: not in the original: {name}")
            elif one[name] != other[name]:
                differences.append(f"{kind}: {name}: {one[name]} in the original, {other[name]} here")
    return differences
