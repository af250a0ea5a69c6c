-- Schemas and extensions: whose they are, and what is installed before the first migration.
--
-- pgvector is not a trusted extension: the non-superuser `postgres` can't install it on a plain server, though it
-- can on the image. With everything installed here, `create extension if not exists … with schema extensions` in a
-- migration is a no-op, and the same text works everywhere.

do $$
begin
  if (select datdba from pg_catalog.pg_database where datname = current_database())
     is distinct from 'postgres'::regrole then
    -- public belongs to pg_database_owner, that is, to this role.
    execute format('alter database %I owner to postgres', current_database());
  end if;
  -- By default everybody may connect and make temporary tables; a connection needs a password, so that stays.
end
$$;

create schema if not exists extensions authorization postgres;
create schema if not exists auth authorization supabase_auth_admin;
create schema if not exists realtime authorization supabase_admin;

create extension if not exists vector with schema extensions;
create extension if not exists pg_trgm with schema extensions;
create extension if not exists btree_gin with schema extensions;
create extension if not exists unaccent with schema extensions;
create extension if not exists pg_stat_statements with schema extensions;

grant usage on schema public, extensions to postgres, anon, authenticated, service_role;
grant all on schema extensions to dashboard_user;

-- The image's default privileges: whatever `postgres` or the superuser makes in public, every API role may use.
-- The migrations must not rely on it (hosted projects don't have it), and must revoke it (this one has).
alter default privileges for role postgres in schema public
  grant all on tables to postgres, anon, authenticated, service_role;
alter default privileges for role postgres in schema public
  grant all on functions to postgres, anon, authenticated, service_role;
alter default privileges for role postgres in schema public
  grant all on sequences to postgres, anon, authenticated, service_role;
alter default privileges for role supabase_admin in schema public
  grant all on tables to postgres, anon, authenticated, service_role;
alter default privileges for role supabase_admin in schema public
  grant all on functions to postgres, anon, authenticated, service_role;
alter default privileges for role supabase_admin in schema public
  grant all on sequences to postgres, anon, authenticated, service_role;
