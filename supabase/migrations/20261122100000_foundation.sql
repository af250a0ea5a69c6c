-- Foundation: what every later file stands on.
--
-- Owns: the schema `private` (helpers that no API exposes), the extension pgvector, the one way in which SQL here
-- raises an error, and time-ordered UUIDs.
--
-- Invariants
--   * `public` holds tables and the RPC contract, `private` holds helpers, `extensions` holds extensions.
--   * Supabase's image grants everything in `public` to anon, authenticated and service_role as it is created, and
--     PostgreSQL lets PUBLIC execute every new function. So each file revokes all, then grants what is meant.
--   * Errors carry SQLSTATE `PTxyz`: PostgREST answers with HTTP status xyz, and the clients make one exception of
--     each (400 argument, 401 sign in, 403 not yours, 404 no such thing, 409 conflict, 422 wrong vector).

set local lock_timeout = '5s';

create extension if not exists vector with schema extensions;

create schema private;
comment on schema private is
  'Helpers behind the tables and functions of public. Never exposed through an API.';
revoke all on schema private from public;
grant usage on schema private to authenticated, service_role;

create function private.fail(sqlstate text, message text, hint text default null, detail text default null)
returns void
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  raise exception using
    errcode = fail.sqlstate,
    message = fail.message,
    hint = coalesce(fail.hint, ''),
    detail = coalesce(fail.detail, '');
end
$$;
comment on function private.fail(text, text, text, text) is
  'Raises an error with this SQLSTATE, message, hint and detail. The one place where errors of this schema begin.';
revoke execute on function private.fail(text, text, text, text) from public;
grant execute on function private.fail(text, text, text, text) to authenticated, service_role;

-- Sessions are partitioned by month on their id, so that the id alone finds the partition and foreign keys need one
-- column. That takes ids that sort by time: RFC 9562 version 7, made here because PostgreSQL 17 has no uuidv7().
create function private.uuid_floor(moment timestamptz)
returns uuid
language sql
immutable
strict
parallel safe
set search_path = pg_catalog, pg_temp
as $$
  select (lpad(to_hex(floor(extract(epoch from moment) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;
comment on function private.uuid_floor(timestamptz) is
  'The smallest UUID that a version 7 UUID of this millisecond can have: bounds a range of ids by time.';
revoke execute on function private.uuid_floor(timestamptz) from public;
grant execute on function private.uuid_floor(timestamptz) to authenticated, service_role;

create function private.uuid_v7(moment timestamptz default clock_timestamp())
returns uuid
language sql
volatile
parallel safe
set search_path = pg_catalog, pg_temp
as $$
  -- A random version 4 UUID has the right variant; its first 48 bits become the time, its version bits 0100 -> 0111.
  select encode(
    set_bit(set_bit(
      overlay(uuid_send(gen_random_uuid())
              placing substring(uuid_send(private.uuid_floor(moment)) from 1 for 6) from 1 for 6),
      52, 1), 53, 1),
    'hex')::uuid
$$;
comment on function private.uuid_v7(timestamptz) is
  'A version 7 UUID (RFC 9562): 48 bits of milliseconds since 1970, then randomness.';
revoke execute on function private.uuid_v7(timestamptz) from public;
grant execute on function private.uuid_v7(timestamptz) to authenticated, service_role;
