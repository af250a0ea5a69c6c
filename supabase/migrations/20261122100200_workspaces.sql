-- Workspaces: who shares memory with whom.
--
-- Owns: workspaces, workspace_members and their functions.
--
-- Invariants
--   * Every user has one personal workspace, made at the first write and deleted with the user.
--   * A shared workspace always has an owner: the last one can be neither removed nor demoted. When the account of the
--     last owner is deleted, the member of the highest role becomes owner, of several the one who has been a member
--     longest; when nobody is left whose account exists, the workspace goes, since nobody could reach it again.
--   * Accounts are deleted below the members, functions lock the workspace before them: the two at the same moment in
--     one workspace can deadlock, which ends one of them with an error and leaves nothing half done.
--   * Nobody writes these tables directly; the functions are the door. Naming a workspace that is not yours and one
--     that doesn't exist give the same answer.
--   * Roles: owner > maintainer (may validate) > contributor (may record) > reader.

set local lock_timeout = '5s';

create table public.workspaces (
  id uuid not null default gen_random_uuid(),
  name varchar(200) not null,
  description text,
  personal_owner_id uuid,
  -- Text, not regconfig: pg_upgrade refuses tables with columns of that type. The check refuses unknown names.
  text_search_config text not null default 'pg_catalog.english',
  created_at timestamptz not null default now(),
  constraint workspaces_pkey primary key (id),
  constraint workspaces_personal_owner_id_key unique (personal_owner_id),
  constraint workspaces_personal_owner_id_fkey foreign key (personal_owner_id)
    references auth.users (id) on delete cascade,
  constraint workspaces_name_check check (btrim(name) <> ''),
  constraint workspaces_text_search_config_check check (text_search_config::regconfig is not null)
);
alter table public.workspaces enable row level security;
comment on table public.workspaces is 'The unit of sharing: knowledge belongs to one workspace, people are its members.';
comment on column public.workspaces.id is 'What x-workspace-id names.';
comment on column public.workspaces.name is 'What people call it.';
comment on column public.workspaces.description is 'What it is for.';
comment on column public.workspaces.personal_owner_id is 'The user whose personal workspace this is; null for a shared one.';
comment on column public.workspaces.text_search_config is 'The text search configuration of its items unless an item has its own.';
comment on column public.workspaces.created_at is 'When it was made.';

create table public.workspace_members (
  workspace_id uuid not null,
  user_id uuid not null,
  role text not null default 'contributor',
  created_at timestamptz not null default now(),
  constraint workspace_members_pkey primary key (workspace_id, user_id),
  constraint workspace_members_workspace_id_fkey foreign key (workspace_id)
    references public.workspaces (id) on delete cascade,
  constraint workspace_members_user_id_fkey foreign key (user_id) references auth.users (id) on delete cascade,
  constraint workspace_members_role_check check (role in ('owner', 'maintainer', 'contributor', 'reader'))
);
create index workspace_members_user_id_idx on public.workspace_members (user_id, workspace_id);
alter table public.workspace_members enable row level security;
comment on table public.workspace_members is 'Who is a member of which workspace, in which role.';
comment on column public.workspace_members.workspace_id is 'The workspace.';
comment on column public.workspace_members.user_id is 'The member.';
comment on column public.workspace_members.role is 'owner (manages members), maintainer (validates), contributor (records) or reader.';
comment on column public.workspace_members.created_at is 'Since when.';

revoke all on public.workspaces, public.workspace_members from public, anon, authenticated, service_role;
grant select on public.workspaces, public.workspace_members to authenticated;
grant select, insert, update, delete on public.workspaces, public.workspace_members to service_role;

create policy workspaces_select_member on public.workspaces for select to authenticated
  using (id = any (array(select private.my_workspaces())));
comment on policy workspaces_select_member on public.workspaces is 'Members see their workspaces.';

create policy workspace_members_select_fellow on public.workspace_members for select to authenticated
  using (workspace_id = any (array(select private.my_workspaces())));
comment on policy workspace_members_select_fellow on public.workspace_members is 'Members see their fellow members.';

-- A function can't return a column with the name of a parameter, so results that repeat one have a type of their own.
create type public.workspace_summary as (
  workspace_id uuid, name text, role text, is_personal boolean, created_at timestamptz
);
comment on type public.workspace_summary is 'A workspace as one of its members sees it: with the member''s own role.';

create function public.create_workspace(name text, description text default null)
returns setof public.workspace_summary
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  return query select * from private.make_workspace(create_workspace.name, create_workspace.description);
end
$$;
comment on function public.create_workspace(text, text) is
  'Makes a shared workspace whose owner is the caller. Name: up to 200 characters, not blank.';

-- definer because a user who is not yet a member may not write workspaces.
create function private.make_workspace(name text, description text)
returns setof public.workspace_summary
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_user uuid := private.require_user();
  v_workspace uuid;
begin
  perform private.refuse_agents();
  if btrim(coalesce(make_workspace.name, '')) = '' then
    perform private.fail('PT400', 'a workspace needs a name');
  end if;
  insert into public.workspaces (name, description)
  values (btrim(make_workspace.name), make_workspace.description)
  returning id into v_workspace;
  insert into public.workspace_members (workspace_id, user_id, role) values (v_workspace, v_user, 'owner');
  return query select v_workspace, btrim(make_workspace.name), 'owner'::text, false, now();
end
$$;
comment on function private.make_workspace(text, text) is 'Inserts a workspace and its first owner, the caller.';

create function public.my_workspaces()
returns setof public.workspace_summary
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select w.id, w.name, m.role, w.personal_owner_id is not null, w.created_at
    from public.workspaces w
    join public.workspace_members m on m.workspace_id = w.id and m.user_id = (select auth.uid())
   order by w.personal_owner_id is null, w.name, w.id
$$;
comment on function public.my_workspaces() is
  'The caller''s workspaces with the caller''s role in each, the personal one first.';

create function private.require_ownership(workspace_id uuid)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_role text;
begin
  if private.is_trusted() then
    return;
  end if;
  select m.role into v_role
    from public.workspace_members m
   where m.workspace_id = require_ownership.workspace_id and m.user_id = auth.uid();
  if v_role is null then
    perform private.fail('PT404', 'no such workspace', 'my_workspaces lists yours');
  elsif v_role <> 'owner' then
    perform private.fail('PT403', 'only an owner of the workspace may do this');
  end if;
end
$$;
comment on function private.require_ownership(uuid) is
  'Refuses whoever is no owner of a workspace; to who is no member of it, it is none.';

-- definer because it locks and reads a workspace before it is known whether the caller may.
create function private.lock_managed_workspace(workspace_id uuid)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_personal uuid;
begin
  perform private.refuse_agents();
  perform private.require_ownership(lock_managed_workspace.workspace_id);
  -- One at a time per workspace, so that two owners can't remove each other at the same moment.
  select w.personal_owner_id into v_personal
    from public.workspaces w where w.id = lock_managed_workspace.workspace_id for no key update;
  if not found then
    perform private.fail('PT404', 'no such workspace', 'my_workspaces lists yours');
  end if;
  perform private.require_ownership(lock_managed_workspace.workspace_id);  -- still, after waiting
  if v_personal is not null then
    perform private.fail('PT409', 'a personal workspace has one member and can''t be shared or deleted',
      'make a shared one with create_workspace');
  end if;
end
$$;
comment on function private.lock_managed_workspace(uuid) is
  'Locks a shared workspace that the caller owns for a change of its members, or fails.';

-- definer because members are written by these functions only.
create function private.write_member(workspace_id uuid, user_id uuid, role text, must_exist boolean)
returns setof public.workspace_members
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_member public.workspace_members;
begin
  if write_member.role is null or write_member.role not in ('owner', 'maintainer', 'contributor', 'reader') then
    perform private.fail('PT400', format('%L is no role', write_member.role),
      'a role is owner, maintainer, contributor or reader');
  end if;
  perform private.lock_managed_workspace(write_member.workspace_id);
  if write_member.must_exist then
    perform private.keep_an_owner(write_member.workspace_id, write_member.user_id, write_member.role);
    update public.workspace_members m set role = write_member.role
     where m.workspace_id = write_member.workspace_id and m.user_id = write_member.user_id
    returning * into v_member;
    if not found then
      perform private.fail('PT404', 'no such member', 'add_workspace_member adds one');
    end if;
  else
    if not exists (select from auth.users u where u.id = write_member.user_id) then
      perform private.fail('PT404', 'no such user', 'a user''s id is shown by `kp whoami`');
    end if;
    begin
      insert into public.workspace_members (workspace_id, user_id, role)
      values (write_member.workspace_id, write_member.user_id, write_member.role)
      returning * into v_member;
    exception when unique_violation then
      perform private.fail('PT409', 'already a member', 'set_workspace_member_role changes the role');
    end;
  end if;
  return next v_member;
end
$$;
comment on function private.write_member(uuid, uuid, text, boolean) is
  'Adds a member, or changes the role of one who must exist. The caller must own the workspace.';

-- definer because it is called by functions that are.
create function private.keep_an_owner(workspace_id uuid, user_id uuid, new_role text)
returns void
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  if new_role is distinct from 'owner' and not exists (
    select from public.workspace_members m
     where m.workspace_id = keep_an_owner.workspace_id and m.role = 'owner'
       and m.user_id <> keep_an_owner.user_id
  ) and exists (
    select from public.workspace_members m
     where m.workspace_id = keep_an_owner.workspace_id and m.role = 'owner' and m.user_id = keep_an_owner.user_id
  ) then
    perform private.fail('PT409', 'a workspace needs an owner', 'make somebody else an owner first');
  end if;
end
$$;
comment on function private.keep_an_owner(uuid, uuid, text) is
  'Fails when giving this member this role (null: removing) would leave the workspace without an owner.';

create function public.add_workspace_member(workspace_id uuid, user_id uuid, role text default 'contributor')
returns setof public.workspace_members
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$ select * from private.write_member($1, $2, $3, false) $$;
comment on function public.add_workspace_member(uuid, uuid, text) is
  'Adds a user to a workspace that the caller owns. Fails if already a member.';

create function public.set_workspace_member_role(workspace_id uuid, user_id uuid, role text)
returns setof public.workspace_members
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$ select * from private.write_member($1, $2, $3, true) $$;
comment on function public.set_workspace_member_role(uuid, uuid, text) is
  'Changes a member''s role in a workspace that the caller owns. The last owner stays owner.';

-- definer because members are written by these functions only.
create function private.drop_member(workspace_id uuid, user_id uuid)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform private.refuse_agents();
  if drop_member.user_id is distinct from auth.uid() then
    perform private.lock_managed_workspace(drop_member.workspace_id);
  else
    perform from public.workspaces w where w.id = drop_member.workspace_id for no key update;
  end if;
  perform private.keep_an_owner(drop_member.workspace_id, drop_member.user_id, null);
  delete from public.workspace_members m
   where m.workspace_id = drop_member.workspace_id and m.user_id = drop_member.user_id;
  if not found then
    perform private.fail('PT404', 'no such member');
  end if;
end
$$;
comment on function private.drop_member(uuid, uuid) is 'Removes a member, by an owner or by the member.';

create function public.remove_workspace_member(workspace_id uuid, user_id uuid)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$ select private.drop_member($1, $2) $$;
comment on function public.remove_workspace_member(uuid, uuid) is
  'Removes a member from a workspace that the caller owns; a member may also leave. The last owner can''t.';

-- definer because nobody deletes these rows directly.
create function private.drop_workspace(workspace_id uuid)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform private.lock_managed_workspace(drop_workspace.workspace_id);
  -- Before their sessions, as everybody takes them: the deletion alone would come to the keys last.
  perform from private.session_keys k where k.workspace_id = drop_workspace.workspace_id order by k.session_id for update;
  delete from public.workspaces w where w.id = drop_workspace.workspace_id;
end
$$;
comment on function private.drop_workspace(uuid) is 'Deletes a shared workspace that the caller owns.';

create function public.delete_workspace(workspace_id uuid)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$ select private.drop_workspace($1) $$;
comment on function public.delete_workspace(uuid) is
  'Deletes a shared workspace that the caller owns, with everything in it. Real erasure: there is no undo.';

-- definer because whoever deletes an account has no rights here.
create function private.keep_workspaces_owned()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  -- One at a time per workspace: of two owners whose accounts go at once, the second sees that the first is gone.
  perform from public.workspaces w
    where w.personal_owner_id is null and w.id in (select g.workspace_id from gone g)
    order by w.id for no key update;
  update public.workspace_members m set role = 'owner'
    from (
      select distinct on (c.workspace_id) c.workspace_id, c.user_id
        from public.workspace_members c
        join public.workspaces w on w.id = c.workspace_id and w.personal_owner_id is null
       where c.workspace_id in (select g.workspace_id from gone g)
         and not exists (select from public.workspace_members o where o.workspace_id = c.workspace_id and o.role = 'owner')
       order by c.workspace_id, array_position('{maintainer,contributor,reader}'::text[], c.role), c.created_at, c.user_id
    ) heir
   where m.workspace_id = heir.workspace_id and m.user_id = heir.user_id;
  -- An operator who takes the last member out of a workspace may be about to put another in.
  delete from public.workspaces w
   where w.personal_owner_id is null
     and w.id in (select g.workspace_id from gone g where not exists (select from auth.users u where u.id = g.user_id))
     and not exists (select from public.workspace_members m where m.workspace_id = w.id);
  return null;
end
$$;
comment on function private.keep_workspaces_owned() is
  'Trigger: gives a workspace that has lost its last owner another, or deletes it where nobody is left.';
create trigger workspace_members_keep_owned after delete on public.workspace_members
  referencing old table as gone
  for each statement execute function private.keep_workspaces_owned();

-- definer because a writer need not see all members.
create function private.refuse_ownerless()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  if exists (
    select from changed c join public.workspaces w on w.id = c.workspace_id and w.personal_owner_id is null
     where not exists (
       select from public.workspace_members m where m.workspace_id = c.workspace_id and m.role = 'owner')) then
    perform private.fail('PT409', 'a workspace needs an owner', 'make somebody else an owner first');
  end if;
  return null;
end
$$;
comment on function private.refuse_ownerless() is 'Trigger: refuses to demote the last owner, whoever writes.';
create trigger workspace_members_refuse_ownerless after update on public.workspace_members
  referencing new table as changed
  for each statement execute function private.refuse_ownerless();

revoke execute on function
  private.keep_workspaces_owned(), private.refuse_ownerless(),
  public.create_workspace(text, text), public.my_workspaces(), public.add_workspace_member(uuid, uuid, text),
  public.set_workspace_member_role(uuid, uuid, text), public.remove_workspace_member(uuid, uuid),
  public.delete_workspace(uuid), private.make_workspace(text, text), private.lock_managed_workspace(uuid),
  private.require_ownership(uuid),
  private.write_member(uuid, uuid, text, boolean), private.keep_an_owner(uuid, uuid, text),
  private.drop_member(uuid, uuid), private.drop_workspace(uuid)
  from public, anon, authenticated, service_role;
grant execute on function
  public.create_workspace(text, text), public.my_workspaces(), private.make_workspace(text, text)
  to authenticated;
grant execute on function
  public.add_workspace_member(uuid, uuid, text), public.set_workspace_member_role(uuid, uuid, text),
  public.remove_workspace_member(uuid, uuid), public.delete_workspace(uuid),
  private.write_member(uuid, uuid, text, boolean), private.drop_member(uuid, uuid), private.drop_workspace(uuid)
  to authenticated, service_role;
