-- Agent tokens: what an agent shows in place of a person's sign-in.
--
-- Owns: private.agent_tokens and its functions.
--
-- Invariants
--   * A token acts for one user in one workspace, with that user's role there at the moment of each request, and opens
--     nothing else: whoever verifies it states its workspace in the claim kp_workspace, which request_context holds
--     every request to.
--   * Only the sha256 of a token is kept. The token is 256 random bits, so nothing slower is needed. It is told once.
--   * It ends when it is revoked (by its owner, or a maintainer of its workspace), when its time is over, and when its
--     owner is no longer a member. Becoming a member again brings no token back.
--   * A user has a hundred live tokens at most: what nobody can keep track of, nobody revokes.
--   * Agents administer nothing: what is bound to a workspace makes no token that outlives it, and no workspace, and
--     changes no membership.
--
-- Entry points: create_agent_token, list_agent_tokens, revoke_agent_token for users; authenticate_agent_token for the
-- service that takes requests with them (the edge functions). The Data API itself takes no agent tokens.

set local lock_timeout = '5s';

create table private.agent_tokens (
  id uuid not null default gen_random_uuid(),
  user_id uuid not null,
  workspace_id uuid not null,
  name varchar(200) not null,
  token_hash bytea not null,
  created_at timestamptz not null default now(),
  last_used_at timestamptz,
  expires_at timestamptz,
  revoked_at timestamptz,
  constraint agent_tokens_pkey primary key (id),
  constraint agent_tokens_token_hash_key unique (token_hash),
  constraint agent_tokens_member_fkey foreign key (workspace_id, user_id)
    references public.workspace_members (workspace_id, user_id) on delete cascade,
  constraint agent_tokens_name_check check (btrim(name) <> ''),
  constraint agent_tokens_token_hash_check check (octet_length(token_hash) = 32)
);
create index agent_tokens_workspace_id_user_id_idx on private.agent_tokens (workspace_id, user_id);
create index agent_tokens_user_id_idx on private.agent_tokens (user_id);
alter table private.agent_tokens enable row level security;
comment on table private.agent_tokens is 'The tokens of agents. Read and written by functions only.';
comment on column private.agent_tokens.id is 'What it is listed and revoked by.';
comment on column private.agent_tokens.user_id is 'For whom its holder acts.';
comment on column private.agent_tokens.workspace_id is 'The one workspace it opens.';
comment on column private.agent_tokens.name is 'What its owner calls it.';
comment on column private.agent_tokens.token_hash is 'The sha256 of the token.';
comment on column private.agent_tokens.created_at is 'When it was made.';
comment on column private.agent_tokens.last_used_at is 'When it was last used, to the minute.';
comment on column private.agent_tokens.expires_at is 'When it ends; null: not by itself.';
comment on column private.agent_tokens.revoked_at is 'When it was revoked.';
revoke all on private.agent_tokens from public, anon, authenticated, service_role;
grant select on private.agent_tokens to service_role;
grant update (last_used_at) on private.agent_tokens to service_role;

-- Results have types of their own: a function can't return a column with the name of a parameter.
create type public.created_agent_token as (
  token_id uuid, token text, name text, workspace_id uuid, created_at timestamptz, expires_at timestamptz
);
comment on type public.created_agent_token is 'A new agent token, with the token itself: this once.';
create type public.agent_token_summary as (
  token_id uuid, name text, user_id uuid, workspace_id uuid, created_at timestamptz, last_used_at timestamptz,
  expires_at timestamptz, revoked_at timestamptz
);
comment on type public.agent_token_summary is 'An agent token as its owner and the maintainers of its workspace see it.';
create type public.agent_token_holder as (
  token_id uuid, name text, user_id uuid, workspace_id uuid, expires_at timestamptz
);
comment on type public.agent_token_holder is 'Whom a valid agent token speaks for.';

-- definer because nobody writes the table directly. It takes the caller's word for nothing: the owner is the caller.
create function private.make_agent_token(name text, workspace_id uuid, expires_at timestamptz)
returns setof public.created_agent_token
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_max constant integer := 100;
  v_user uuid := private.require_user();
  v_workspace uuid;
  v_token text;
  v_row private.agent_tokens;
begin
  perform private.refuse_agents();
  if btrim(coalesce(make_agent_token.name, '')) = '' then
    perform private.fail('PT400', 'a token needs a name', 'name what it is for: whoever finds it in the list has to know');
  end if;
  if length(btrim(make_agent_token.name)) > 200 then
    perform private.fail('PT400', 'the name is longer than 200 characters');
  end if;
  if private.find_credential(make_agent_token.name) is not null then
    perform private.fail('PT451', 'the name looks like it holds a credential', 'name what the token is for');
  end if;
  if make_agent_token.expires_at <= now() then
    perform private.fail('PT400', 'expires_at has passed', 'name a time to come, or none');
  end if;
  v_workspace := coalesce(make_agent_token.workspace_id, private.default_workspace());
  perform pg_advisory_xact_lock(hashtextextended('knowledge-persistence: agent tokens ' || v_user, 0));
  if (select count(*) >= v_max from private.agent_tokens t
       where t.user_id = v_user and t.revoked_at is null and (t.expires_at is null or t.expires_at > now())) then
    perform private.fail('PT409', format('you have %s live tokens already', v_max),
      'revoke those that are not used any more: list_agent_tokens says when each was last used');
  end if;
  -- Held, so that a member who is being removed gets none.
  perform from public.workspace_members m
    where m.workspace_id = v_workspace and m.user_id = v_user for key share;
  if not found then
    perform private.fail('PT404', 'no such workspace', 'my_workspaces lists yours');
  end if;
  -- Three random UUIDs are 366 random bits; their hash is 256.
  v_token := 'kpt_' || encode(sha256(
    uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())), 'hex');
  insert into private.agent_tokens (user_id, workspace_id, name, token_hash, expires_at)
  values (v_user, v_workspace, btrim(make_agent_token.name), sha256(convert_to(v_token, 'UTF8')),
    make_agent_token.expires_at)
  returning * into v_row;
  return query select v_row.id, v_token, v_row.name::text, v_row.workspace_id, v_row.created_at, v_row.expires_at;
end
$$;
comment on function private.make_agent_token(text, uuid, timestamptz) is 'Inserts a token of the caller''s and tells it.';

create function public.create_agent_token(
  name text, workspace_id uuid default null, expires_at timestamptz default null)
returns setof public.created_agent_token
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$ select * from private.make_agent_token($1, $2, $3) $$;
comment on function public.create_agent_token(text, uuid, timestamptz) is
  'Makes a token with which an agent acts for the caller in one workspace: the one named, else that of the request, else the personal one. The token is in the answer and nowhere else.';

-- definer because nobody reads the table directly. Shows the caller's own tokens and those of workspaces that the
-- caller maintains.
create function private.visible_agent_tokens(workspace_id uuid)
returns setof public.agent_token_summary
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    select t.id, t.name::text, t.user_id, t.workspace_id, t.created_at, t.last_used_at, t.expires_at, t.revoked_at
      from private.agent_tokens t
     where (t.user_id = auth.uid() and t.workspace_id = any (array(select private.my_workspaces()))
            or t.workspace_id = any (array(select private.maintained_workspaces())))
       and (visible_agent_tokens.workspace_id is null or t.workspace_id = visible_agent_tokens.workspace_id)
     order by t.created_at desc, t.id;
end
$$;
comment on function private.visible_agent_tokens(uuid) is
  'The tokens that the caller may see, the latest first; null: of all workspaces.';

create function public.list_agent_tokens(workspace_id uuid default null)
returns setof public.agent_token_summary
language sql
stable
set search_path = pg_catalog, pg_temp
as $$ select * from private.visible_agent_tokens($1) $$;
comment on function public.list_agent_tokens(uuid) is
  'The caller''s agent tokens, and all of workspaces that the caller maintains, the latest first. Never the tokens themselves.';

-- definer because nobody writes the table directly. It ends only what the caller may see.
create function private.end_agent_token(token_id uuid)
returns setof public.agent_token_summary
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform private.refuse_agents();
  update private.agent_tokens t set revoked_at = coalesce(t.revoked_at, now())
   where t.id = end_agent_token.token_id
     and t.id in (select s.token_id from private.visible_agent_tokens(null) s);
  if not found then
    perform private.fail('PT404', 'no such token', 'list_agent_tokens lists yours');
  end if;
  return query select s.* from private.visible_agent_tokens(null) s where s.token_id = end_agent_token.token_id;
end
$$;
comment on function private.end_agent_token(uuid) is 'Revokes a token that the caller may see.';

create function public.revoke_agent_token(token_id uuid)
returns setof public.agent_token_summary
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$ select * from private.end_agent_token($1) $$;
comment on function public.revoke_agent_token(uuid) is
  'Ends a token at once, as its owner or a maintainer of its workspace. Once more changes nothing.';

create function public.authenticate_agent_token(token_hash text)
returns setof public.agent_token_holder
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_hash bytea;
begin
  if authenticate_agent_token.token_hash !~ '^[0-9a-f]{64}$' then
    perform private.fail('PT400', 'token_hash is not the sha256 of a token, as 64 hexadecimal digits');
  end if;
  v_hash := decode(authenticate_agent_token.token_hash, 'hex');
  -- To the minute: an agent's every call would otherwise write here.
  update private.agent_tokens t set last_used_at = now()
   where t.token_hash = v_hash and t.revoked_at is null and (t.expires_at is null or t.expires_at > now())
     and (t.last_used_at is null or t.last_used_at < now() - interval '1 minute');
  return query
    select t.id, t.name::text, t.user_id, t.workspace_id, t.expires_at
      from private.agent_tokens t
     where t.token_hash = v_hash and t.revoked_at is null and (t.expires_at is null or t.expires_at > now());
end
$$;
comment on function public.authenticate_agent_token(text) is
  'Whom a token with this sha256 speaks for; no row when it is unknown, revoked, expired, or its owner has left the workspace. For the service alone.';

revoke execute on function
  public.create_agent_token(text, uuid, timestamptz), private.make_agent_token(text, uuid, timestamptz),
  public.list_agent_tokens(uuid), private.visible_agent_tokens(uuid), public.revoke_agent_token(uuid),
  private.end_agent_token(uuid), public.authenticate_agent_token(text)
  from public, anon, authenticated, service_role;
grant execute on function
  public.create_agent_token(text, uuid, timestamptz), private.make_agent_token(text, uuid, timestamptz),
  public.list_agent_tokens(uuid), private.visible_agent_tokens(uuid), public.revoke_agent_token(uuid),
  private.end_agent_token(uuid)
  to authenticated;
grant execute on function public.authenticate_agent_token(text) to service_role;
