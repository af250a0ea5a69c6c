"""What a database consists of, as text that two databases can be compared by."""

from __future__ import annotations

from typing import LiteralString

import psycopg

_QUERIES: dict[str, LiteralString] = {
    "schemas": """
        select n.nspname, pg_get_userbyid(n.nspowner), pg_temp.acl(n.nspacl),
               obj_description(n.oid, 'pg_namespace')
        from pg_namespace n
        where n.nspname !~ '^pg_(toast_)?temp'
    """,
    "extensions": """
        select e.extname, e.extversion, n.nspname
        from pg_extension e join pg_namespace n on n.oid = e.extnamespace
    """,
    "relations": """
        select c.oid::regclass::text, c.relkind::text, pg_get_userbyid(c.relowner),
               -- The owner's own rights, written out or not, are the same.
               pg_temp.acl(coalesce(
                 c.relacl, acldefault((case c.relkind when 'S' then 's' else 'r' end)::"char", c.relowner))),
               c.relrowsecurity, c.relforcerowsecurity, c.relpersistence::text, c.reloptions::text,
               pg_get_partkeydef(c.oid), pg_get_expr(c.relpartbound, c.oid), c.relreplident::text,
               case when c.relkind in ('v', 'm') then pg_get_viewdef(c.oid) end,
               obj_description(c.oid, 'pg_class')
        from pg_class c
        where c.relnamespace in (select oid from own_schemas) and c.relkind <> 't'
    """,
    "columns": """
        select a.attrelid::regclass::text, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
               pg_get_expr(d.adbin, d.adrelid), a.attgenerated::text, a.attidentity::text,
               a.attcollation::regcollation::text, a.attstorage::text, a.attcompression::text,
               a.attstattarget, pg_temp.acl(a.attacl), col_description(a.attrelid, a.attnum)
        from pg_attribute a
          join pg_class c on c.oid = a.attrelid
          left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
        where c.relnamespace in (select oid from own_schemas) and a.attnum > 0 and not a.attisdropped
    """,
    "constraints": """
        select coalesce(nullif(c.conrelid, 0)::regclass::text, c.contypid::regtype::text), c.conname,
               pg_get_constraintdef(c.oid), c.convalidated, obj_description(c.oid, 'pg_constraint')
        from pg_constraint c
        where c.connamespace in (select oid from own_schemas)
    """,
    "indexes": """
        select pg_get_indexdef(i.indexrelid), i.indisvalid, i.indisprimary, i.indisreplident,
               obj_description(i.indexrelid, 'pg_class')
        from pg_index i join pg_class c on c.oid = i.indexrelid
        where c.relnamespace in (select oid from own_schemas)
    """,
    "functions": """
        select p.oid::regprocedure::text,
               case when p.prokind in ('f', 'p') then pg_get_functiondef(p.oid) end,
               pg_get_userbyid(p.proowner), pg_temp.acl(p.proacl), obj_description(p.oid, 'pg_proc')
        from pg_proc p
        where p.pronamespace in (select oid from own_schemas)
    """,
    "triggers": """
        select t.tgrelid::regclass::text, pg_get_triggerdef(t.oid), t.tgenabled::text,
               obj_description(t.oid, 'pg_trigger')
        from pg_trigger t join pg_class c on c.oid = t.tgrelid
        where c.relnamespace in (select oid from own_schemas) and not t.tgisinternal
    """,
    "policies": """
        select p.polrelid::regclass::text, p.polname, p.polcmd::text, p.polpermissive,
               array(select pg_get_userbyid(r) from unnest(p.polroles) as r order by 1)::text,
               pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid),
               obj_description(p.oid, 'pg_policy')
        from pg_policy p
    """,
    "types": """
        select t.oid::regtype::text, t.typtype::text, pg_get_userbyid(t.typowner), pg_temp.acl(t.typacl),
               format_type(t.typbasetype, t.typtypmod),
               array(
                 select e.enumlabel from pg_enum e where e.enumtypid = t.oid order by e.enumsortorder
               )::text,
               obj_description(t.oid, 'pg_type')
        from pg_type t
        where t.typnamespace in (select oid from own_schemas)
    """,
    "text search configurations": """
        select c.oid::regconfig::text, m.maptokentype, m.mapseqno, m.mapdict::regdictionary::text
        from pg_ts_config c join pg_ts_config_map m on m.mapcfg = c.oid
        where c.cfgnamespace in (select oid from own_schemas)
    """,
    "default privileges": """
        select pg_get_userbyid(d.defaclrole), d.defaclnamespace::regnamespace::text, d.defaclobjtype::text,
               pg_temp.acl(d.defaclacl)
        from pg_default_acl d
    """,
    "publications": """
        select p.pubname, t.schemaname, t.tablename, t.attnames::text, t.rowfilter, p.puballtables,
               p.pubinsert, p.pubupdate, p.pubdelete
        from pg_publication p left join pg_publication_tables t on t.pubname = p.pubname
    """,
    "event triggers": """
        select e.evtname, e.evtevent, e.evtfoid::regprocedure::text, e.evtenabled::text, e.evttags::text
        from pg_event_trigger e
    """,
}


def describe(dsn: str) -> dict[str, list[str]]:
    """Describe everything that a database defines, by kind, in an order of its own.

    Args:
        dsn: URL of a role that may read the catalog; definitions don't depend on the role.
    """
    with psycopg.connect(dsn) as connection:
        connection.execute("set local search_path = ''")
        connection.execute(
            "create function pg_temp.acl(aclitem[]) returns text language sql as"
            " $$ select array_agg(a::text order by a::text)::text from unnest($1) as a $$"
        )
        connection.execute(
            "create temporary view own_schemas as select oid from pg_catalog.pg_namespace"
            " where nspname <> 'information_schema' and nspname !~ '^pg_'"
        )
        connection.execute("set local search_path = pg_temp, pg_catalog")
        found = {
            kind: sorted(
                " | ".join("" if value is None else str(value) for value in row)
                for row in connection.execute(query)
            )
            for kind, query in _QUERIES.items()
        }
        connection.rollback()
    return found
