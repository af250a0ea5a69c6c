-- Request context: who is asking, in which workspace, in which session.
--
-- Owns: the reading and checking of the context. Over HTTP it comes as the headers x-workspace-id and x-session-id,
-- over SQL as the settings app.current_workspace and app.current_session; all carry UUIDs.
--
-- Invariants
--   * A session counts only when it belongs to the caller, a workspace only when the caller is a member.
--   * Present but wrong is an error, never a fallback. Not yours and not there give the same answer.
--   * A session brings its workspace with it; naming another workspace beside it is an error.
--   * Empty strings mean absent: a setting that was once set in a connection comes back as '' rather than null.
--   * A claim kp_workspace binds the request to one workspace, as if the user were a member of no other: that is what
--     an agent's token is (see agent_tokens). A claim can only take away.
--
-- Entry points: private.request_context() for functions, private.my_workspaces() and its kin for policies. Policies
-- write `workspace_id = any (array(select private.my_workspaces()))`: the array is computed once and the index on
-- workspace_id serves it, where `in (select …)` becomes a hashed subplan over a sequential scan.

set local lock_timeout = '5s';

-- What every request asks several times is plpgsql: its single expressions cost a fraction of an SQL function's plan.
create function private.is_trusted()
returns boolean
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_role constant text := coalesce(nullif(current_setting('role'), 'none'), session_user);
begin
  -- A role that was made a member of authenticated is a user's, unless it is an operator's too.
  return v_role not in ('authenticator', 'anon', 'authenticated')
    and (not pg_has_role(v_role, 'authenticated', 'usage') or pg_has_role(v_role, 'service_role', 'usage'));
end
$$;
comment on function private.is_trusted() is
  'Whether the caller is an operator or the worker (service_role, postgres) rather than a signed-in user. Reads the role that was set, which SECURITY DEFINER does not change.';
revoke execute on function private.is_trusted() from public;
grant execute on function private.is_trusted() to authenticated, service_role;

create function private.malformed_context(name text)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  perform private.fail('PT400', format('the %s id is not a UUID', name),
    format('send it as a UUID in the header x-%1$s-id or the setting app.current_%1$s', name));
end
$$;
comment on function private.malformed_context(text) is 'Fails because of a context id that is no UUID.';
revoke execute on function private.malformed_context(text) from public;
grant execute on function private.malformed_context(text) to authenticated, service_role;

create function private.bound_workspace()
returns uuid
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return nullif(nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'kp_workspace', '')::uuid;
end
$$;
comment on function private.bound_workspace() is
  'The one workspace that the caller''s token opens; null for a user''s own sign-in, which opens all of theirs.';
revoke execute on function private.bound_workspace() from public;
grant execute on function private.bound_workspace() to authenticated, service_role;

create function private.refuse_agents()
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if private.bound_workspace() is not null then
    perform private.fail('PT403', 'an agent''s token opens no administration', 'sign in as the user, and do it then');
  end if;
end
$$;
comment on function private.refuse_agents() is
  'Fails for a token that is bound to a workspace: it makes, changes and ends no workspace, membership or token.';
revoke execute on function private.refuse_agents() from public;
grant execute on function private.refuse_agents() to authenticated, service_role;

create function private.names_context()
returns boolean
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return concat(current_setting('app.current_workspace', true), current_setting('app.current_session', true),
    current_setting('request.headers', true)) <> '';
end
$$;
comment on function private.names_context() is 'Whether the request may name a workspace or a session.';
revoke execute on function private.names_context() from public;
grant execute on function private.names_context() to authenticated, service_role;

-- definer because it decides about membership and session ownership before the caller may see either table.
create function private.request_context(out user_id uuid, out workspace_id uuid, out session_id uuid)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_workspace_text text;
  v_session_text text;
  v_headers text;
  v_workspace uuid := private.bound_workspace();
  v_session uuid;
begin
  user_id := auth.uid();
  -- Most requests over SQL name nothing, and ask several times.
  if private.names_context() then
    v_headers := nullif(current_setting('request.headers', true), '');
    v_workspace_text := coalesce(nullif(current_setting('app.current_workspace', true), ''), v_headers::json ->> 'x-workspace-id');
    v_session_text := coalesce(nullif(current_setting('app.current_session', true), ''), v_headers::json ->> 'x-session-id');
    if v_workspace_text <> '' then
      if not pg_input_is_valid(v_workspace_text, 'uuid') then
        perform private.malformed_context('workspace');
      end if;
      if v_workspace_text::uuid <> v_workspace then
        perform private.fail('PT403', 'the token is bound to another workspace',
          'leave x-workspace-id out: the token brings its workspace');
      end if;
      v_workspace := v_workspace_text::uuid;
    end if;
    if v_session_text <> '' then
      if not pg_input_is_valid(v_session_text, 'uuid') then
        perform private.malformed_context('session');
      end if;
      v_session := v_session_text::uuid;
    end if;
  end if;
  if v_session is not null then
    select s.id, s.workspace_id into session_id, workspace_id
      from public.ai_sessions s
     where s.id = v_session and (s.owner_id is not distinct from user_id or private.is_trusted());
    if session_id is null then
      perform private.fail('PT403', 'x-session-id does not name a session of yours',
        'start one with start_session, or leave the header out');
    end if;
    if v_workspace is distinct from workspace_id and v_workspace is not null then
      perform private.fail('PT403', 'the session belongs to another workspace',
        'leave x-workspace-id out: a session brings its workspace');
    end if;
    v_workspace := workspace_id;
  end if;
  if v_workspace is not null then
    if not exists (
      select from public.workspace_members m
       where m.workspace_id = v_workspace and m.user_id is not distinct from request_context.user_id
    ) and not (private.is_trusted() and exists (select from public.workspaces w where w.id = v_workspace)) then
      perform private.fail('PT403', 'x-workspace-id does not name a workspace of yours',
        'my_workspaces lists the workspaces that you are a member of');
    end if;
    workspace_id := v_workspace;
  else
    select w.id into workspace_id from public.workspaces w where w.personal_owner_id = user_id;
  end if;
end
$$;
comment on function private.request_context() is
  'The verified user, workspace and session of this request. The workspace is the session''s, else the one named, else the personal one, which may not exist yet.';
revoke execute on function private.request_context() from public;
grant execute on function private.request_context() to authenticated, service_role;

-- The functions for policies are volatile on purpose. A stable one sees the database as of the start of the statement:
-- a user's first insert, whose default makes the personal workspace, would then be refused by the policy that checks
-- it. Called as `array(select …)` they still run once a statement.
--
-- definer because policies on workspace_members itself call it; without it they would recurse.
create function private.my_workspaces()
returns setof uuid
language plpgsql
volatile
rows 10
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_bound uuid := private.bound_workspace();
begin
  -- A forged context fails every request, also one that would not use it; where there is none, none is forged.
  if v_bound is not null or private.names_context() then
    perform private.request_context();
  end if;
  return query
    select m.workspace_id from public.workspace_members m
     where m.user_id = auth.uid() and (v_bound is null or m.workspace_id = v_bound);
end
$$;
comment on function private.my_workspaces() is
  'The workspaces that the caller is a member of. Fails when the request names a session or workspace that is not the caller''s.';
revoke execute on function private.my_workspaces() from public;
grant execute on function private.my_workspaces() to authenticated, service_role;

-- definer for the same reason as private.my_workspaces().
create function private.my_workspaces_as(roles text[])
returns setof uuid
language plpgsql
volatile
rows 10
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_bound uuid := private.bound_workspace();
begin
  return query
    select m.workspace_id from public.workspace_members m
     where m.user_id = auth.uid() and m.role = any (roles) and (v_bound is null or m.workspace_id = v_bound);
end
$$;
comment on function private.my_workspaces_as(text[]) is
  'The workspaces in which the caller has one of these roles.';
revoke execute on function private.my_workspaces_as(text[]) from public;
grant execute on function private.my_workspaces_as(text[]) to authenticated, service_role;

create function private.maintained_workspaces()
returns setof uuid
language sql
volatile
rows 10
set search_path = pg_catalog, pg_temp
as $$ select private.my_workspaces_as('{owner,maintainer}') $$;
comment on function private.maintained_workspaces() is
  'The workspaces in which the caller may validate: as owner or maintainer.';
revoke execute on function private.maintained_workspaces() from public;
grant execute on function private.maintained_workspaces() to authenticated, service_role;

create function private.writable_workspaces()
returns setof uuid
language sql
volatile
rows 10
set search_path = pg_catalog, pg_temp
as $$ select private.my_workspaces_as('{owner,maintainer,contributor}') $$;
comment on function private.writable_workspaces() is
  'The workspaces in which the caller may record knowledge: every role but reader.';
revoke execute on function private.writable_workspaces() from public;
grant execute on function private.writable_workspaces() to authenticated, service_role;

create function private.current_session()
returns uuid
language sql
stable
set search_path = pg_catalog, pg_temp
as $$ select c.session_id from private.request_context() c $$;
comment on function private.current_session() is
  'The verified session of this request, or null.';
revoke execute on function private.current_session() from public;
grant execute on function private.current_session() to authenticated, service_role;

create function private.current_workspace()
returns uuid
language sql
stable
set search_path = pg_catalog, pg_temp
as $$ select c.workspace_id from private.request_context() c $$;
comment on function private.current_workspace() is
  'The verified workspace of this request: the session''s, the one named, or the personal one; null before the first write of a user who named none.';
revoke execute on function private.current_workspace() from public;
grant execute on function private.current_workspace() to authenticated, service_role;

-- definer because the caller can't yet write to a workspace that doesn't exist.
create function private.default_workspace()
returns uuid
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_context record := private.request_context();
  v_workspace uuid := v_context.workspace_id;
begin
  if v_workspace is not null then
    -- Kept from being deleted until the transaction ends: its rows would be refused by their foreign key at last.
    perform from public.workspaces w where w.id = v_workspace for key share;
    if not found then
      perform private.fail('PT403', 'x-workspace-id does not name a workspace of yours',
        'my_workspaces lists the workspaces that you are a member of');
    end if;
    return v_workspace;
  end if;
  if v_context.user_id is null then
    perform private.fail('PT401', 'nobody is signed in',
      'sign in, or as service_role name the workspace in x-workspace-id');
  end if;
  -- Two first writes at once: the unique key on personal_owner_id lets one make it, and the other finds it.
  insert into public.workspaces (name, personal_owner_id)
  values ('Personal', v_context.user_id)
  on conflict (personal_owner_id) do nothing;
  select w.id into strict v_workspace from public.workspaces w where w.personal_owner_id = v_context.user_id;
  insert into public.workspace_members (workspace_id, user_id, role)
  values (v_workspace, v_context.user_id, 'owner')
  on conflict on constraint workspace_members_pkey do nothing;
  return v_workspace;
end
$$;
comment on function private.default_workspace() is
  'The workspace of this request, made if it is the personal one and this is the user''s first write.';
revoke execute on function private.default_workspace() from public;
grant execute on function private.default_workspace() to authenticated, service_role;

create function private.require_user()
returns uuid
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if auth.uid() is null then
    perform private.fail('PT401', 'nobody is signed in', 'call this with a user''s access token');
  end if;
  return auth.uid();
end
$$;
comment on function private.require_user() is
  'The signed-in user''s id, or an error.';
revoke execute on function private.require_user() from public;
grant execute on function private.require_user() to authenticated, service_role;
