-- Auth: the schema's doors. Its tables are made by the Auth server itself when it first starts.
--
-- The embedded Auth server (Supabase Lite) rewrites the four functions below at every start, to versions that read
-- only the legacy settings `request.jwt.claim.*`. Here they belong to the superuser, so that it can't: they stay
-- GoTrue's, which read `request.jwt.claims` as well, as PostgREST and every direct connection set it.
-- Row-level security must stay off on auth's tables: nobody but their owner and `postgres` has privileges on them.

grant usage on schema auth to postgres, anon, authenticated, service_role;
grant all on schema auth to dashboard_user;

-- As in the image: migrations reference auth.users, operators read it and may delete from it.
alter default privileges for role supabase_auth_admin in schema auth
  grant all on tables to postgres, dashboard_user;
alter default privileges for role supabase_auth_admin in schema auth
  grant all on sequences to postgres, dashboard_user;
alter default privileges for role supabase_auth_admin in schema auth
  grant all on functions to postgres, dashboard_user;

create or replace function auth.uid()
returns uuid
language sql
stable
as $$
  select coalesce(
    nullif(current_setting('request.jwt.claim.sub', true), ''),
    nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub'
  )::uuid
$$;
alter function auth.uid() owner to supabase_admin;
comment on function auth.uid() is 'The id of the user whose request this is, or null.';

create or replace function auth.role()
returns text
language sql
stable
as $$
  select coalesce(
    nullif(current_setting('request.jwt.claim.role', true), ''),
    nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role'
  )
$$;
alter function auth.role() owner to supabase_admin;
comment on function auth.role() is 'The role claim of the request''s token, or null.';

create or replace function auth.email()
returns text
language sql
stable
as $$
  select coalesce(
    nullif(current_setting('request.jwt.claim.email', true), ''),
    nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'email'
  )
$$;
alter function auth.email() owner to supabase_admin;
comment on function auth.email() is 'The email claim of the request''s token, or null.';

create or replace function auth.jwt()
returns jsonb
language sql
stable
as $$
  select coalesce(
    nullif(current_setting('request.jwt.claim', true), ''),
    nullif(current_setting('request.jwt.claims', true), '')
  )::jsonb
$$;
alter function auth.jwt() owner to supabase_admin;
comment on function auth.jwt() is 'All claims of the request''s token, or null.';
