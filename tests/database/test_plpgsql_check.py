"""What plpgsql_check says of every function: reads each, with the types of what it asks for, without running it.

The embedded server doesn't have the extension; `scripts/test-postgres-17` runs this on one that has.
"""

from __future__ import annotations

import pytest

from world import World

_CHECK = """
select p.oid::regprocedure::text || coalesce(' for ' || t.tgrelid::regclass, '') as function,
       c.level, c.lineno, c.message, c.sqlstate
  from pg_proc p
  join pg_language l on l.oid = p.prolang and l.lanname = 'plpgsql'
  left join pg_trigger t on t.tgfoid = p.oid and not t.tgisinternal
  cross join lateral extensions.plpgsql_check_function_tb(
    p.oid, coalesce(t.tgrelid, 0), oldtable => t.tgoldtable, newtable => t.tgnewtable,
    other_warnings => false, performance_warnings => false, extra_warnings => true) c
 where p.pronamespace in ('public'::regnamespace, 'private'::regnamespace)
   and p.prorettype <> 'event_trigger'::regtype
   -- A trigger's function that no table has yet has nothing to be read with.
   and (p.prorettype <> 'trigger'::regtype or t.oid is not null)
   -- Asked what a refusal with constant words comes to, private.fail refuses.
   and c.sqlstate !~ '^PT'
   -- pg_cron is asked for where it is, and nowhere else.
   and c.message <> 'schema "cron" does not exist'
 order by 1, 3
"""

# What it takes for a mistake and is none, and why.
FALSE_ALARMS = {
    ("private.claim_signature(text,uuid,text)", "control reached end of function without RETURN"): (
        "its loop ends by returning, and in no other way"
    )
}


def test_plpgsql_check_finds_nothing(world: World) -> None:
    if not world.superuser("select 1 from pg_available_extensions where name = 'plpgsql_check'"):
        pytest.skip("this server has no plpgsql_check: scripts/test-postgres-17 has")
    world.superuser("create extension plpgsql_check with schema extensions")
    world.superuser(
        "create function private.has_a_mistake() returns integer language plpgsql"
        " as $$ begin return (select no_such_column from public.knowledge_items limit 1); end $$"
    )
    found = world.superuser(_CHECK)
    mistakes = [row for row in found if row["function"] != "private.has_a_mistake()"]
    assert len(found) > len(mistakes), "it is awake"
    assert [row for row in mistakes if (row["function"], row["message"]) not in FALSE_ALARMS] == []
