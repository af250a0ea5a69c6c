-- Roles: who exists in a Supabase database, and what each may be.
--
-- A plain cluster has one role, its superuser. The Supabase image has the ones below, and the migrations, the Data
-- API and the clients name them. Attributes, memberships and timeouts are the image's (PostgreSQL 17), except where
-- a comment says why not. Passwords are no business of these files: the embedded stack sets generated ones.
--
-- All files in this directory run in order, as the superuser supabase_admin, and may run again at any time: they
-- bring a database to the same state from any earlier one.

do $$
declare
  v_role text;
begin
  foreach v_role in array array[
    'postgres', 'anon', 'authenticated', 'service_role', 'authenticator',
    'supabase_auth_admin', 'supabase_storage_admin', 'supabase_realtime_admin',
    'supabase_replication_admin', 'supabase_read_only_user', 'supabase_etl_admin',
    'dashboard_user', 'pgbouncer'
  ]
  loop
    if not exists (select from pg_catalog.pg_roles where rolname = v_role) then
      execute format('create role %I', v_role);
    end if;
  end loop;
end
$$;

-- The operator's role. Not a superuser: migrations that need more than this would fail in every real deployment.
alter role postgres with login nosuperuser createdb createrole replication bypassrls inherit;

-- The three roles a request can have. Nobody logs in as them.
alter role anon with nologin noinherit nosuperuser nocreatedb nocreaterole noreplication nobypassrls;
alter role authenticated with nologin noinherit nosuperuser nocreatedb nocreaterole noreplication nobypassrls;
alter role service_role with nologin noinherit nosuperuser nocreatedb nocreaterole noreplication bypassrls;

-- What logs in on behalf of requests, and has no rights before it has become one of the three.
alter role authenticator with login noinherit nosuperuser nocreatedb nocreaterole noreplication nobypassrls;

-- Owner of `auth`. The image lets it create roles; here it is what the Data API is connected as, so it may not.
alter role supabase_auth_admin with login noinherit nosuperuser nocreatedb nocreaterole noreplication nobypassrls;

-- Nothing here logs in as these. Migrations and policies may name them, and grants to them must not fail.
alter role supabase_storage_admin with nologin noinherit createrole;
alter role supabase_realtime_admin with nologin noinherit;
alter role supabase_replication_admin with nologin replication;
alter role supabase_read_only_user with nologin bypassrls;
alter role supabase_etl_admin with nologin replication;
alter role dashboard_user with nologin createdb createrole replication;
alter role pgbouncer with nologin;

-- Memberships. `authenticator` and `supabase_auth_admin` may become the three, and inherit nothing from them.
grant anon, authenticated, service_role to authenticator with inherit false, set true, admin false;
grant anon, authenticated, service_role, authenticator to postgres with admin option;
grant pg_monitor, pg_read_all_data, pg_signal_backend, pg_create_subscription to postgres with admin option;
grant pg_read_all_data to supabase_read_only_user;
grant pg_monitor, pg_read_all_data to supabase_etl_admin;

-- The image lets `postgres` write policies on realtime.messages through an extension (supautils.policy_grants).
-- Here it owns the table in effect, without being able to become its owner.
grant supabase_realtime_admin to postgres with inherit true, set false, admin false;

-- The image guards statements through these timeouts: a request can't hold the database for longer.
alter role anon set statement_timeout = '3s';
alter role authenticated set statement_timeout = '8s';
alter role authenticator set statement_timeout = '8s';
alter role authenticator set lock_timeout = '8s';
alter role supabase_auth_admin set idle_in_transaction_session_timeout = '60s';

alter role postgres set search_path = "$user", public, extensions;
alter role supabase_admin set search_path = "$user", public, auth, extensions;
alter role supabase_auth_admin set search_path = auth;
alter role supabase_storage_admin set search_path = storage;
