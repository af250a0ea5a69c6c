-- Relationships: how one piece of knowledge stands to another.
--
-- Owns: knowledge_relationships, the functions that write, propose, decide, list and walk them.
--
-- Invariants, held by triggers and policies through every door
--   * Both ends lie in one workspace. A relationship is seen by whoever sees both ends, and by nobody else.
--   * No self-loop; a pair has each type once. similar_to and contradicts read the same both ways, so for them the
--     pair has no direction.
--   * depends_on and required_for are one graph read from two sides (A depends on B, B is required for A), and that
--     graph has no cycle. Writers of one workspace's graph queue at an advisory lock, taken after the items and before
--     any relationship's row (docs/explanation/locking.md), so that two edges written at
--     once can't close a cycle together.
--   * What is found automatically is a proposal, with its reason. Only a person's decision makes it a relationship,
--     and what was rejected is not proposed again.
--
-- A cycle can run through items that the caller may not see: the refusal names only those that the caller may.

set local lock_timeout = '5s';

create table public.knowledge_relationships (
  id uuid not null default gen_random_uuid(),
  workspace_id uuid not null,
  owner_id uuid default auth.uid(),
  source_knowledge_id uuid not null,
  target_knowledge_id uuid not null,
  relationship_type varchar(50) not null,
  strength numeric(3,2) not null default 1.0,
  status varchar(20) not null default 'accepted',
  reason text,
  discovered_in_session uuid default private.current_session(),
  relationship_context text,
  decided_by uuid,
  decided_at timestamptz,
  created_at timestamptz not null default now(),
  constraint knowledge_relationships_pkey primary key (id),
  constraint knowledge_relationships_once_key unique (source_knowledge_id, target_knowledge_id, relationship_type),
  constraint knowledge_relationships_workspace_id_fkey foreign key (workspace_id)
    references public.workspaces (id) on delete cascade,
  constraint knowledge_relationships_owner_id_fkey foreign key (owner_id) references auth.users (id) on delete set null,
  constraint knowledge_relationships_decided_by_fkey foreign key (decided_by) references auth.users (id) on delete set null,
  constraint knowledge_relationships_source_knowledge_id_fkey foreign key (source_knowledge_id)
    references public.knowledge_items (id) on delete cascade,
  constraint knowledge_relationships_target_knowledge_id_fkey foreign key (target_knowledge_id)
    references public.knowledge_items (id) on delete cascade,
  constraint knowledge_relationships_discovered_in_session_fkey foreign key (discovered_in_session)
    references public.ai_sessions (id) on delete set null,
  constraint knowledge_relationships_type_check check (relationship_type in (
    'depends_on', 'enhances', 'contradicts', 'builds_upon', 'required_for', 'similar_to')),
  constraint knowledge_relationships_strength_check check (strength between 0.0 and 1.0),
  constraint knowledge_relationships_status_check check (status in ('proposed', 'accepted', 'rejected')),
  constraint knowledge_relationships_self_check check (source_knowledge_id <> target_knowledge_id)
);
create unique index knowledge_relationships_symmetric_key on public.knowledge_relationships (
    least(source_knowledge_id, target_knowledge_id), greatest(source_knowledge_id, target_knowledge_id), relationship_type)
  where relationship_type in ('similar_to', 'contradicts');
-- The strongest edges of an item first: a walk reads no more of a hub than it has room for.
create index knowledge_relationships_source_idx on public.knowledge_relationships (source_knowledge_id, strength desc);
create index knowledge_relationships_target_idx on public.knowledge_relationships (target_knowledge_id, strength desc);
create index knowledge_relationships_workspace_id_idx on public.knowledge_relationships (workspace_id, status);
create index knowledge_relationships_owner_id_idx on public.knowledge_relationships (owner_id);
create index knowledge_relationships_decided_by_idx on public.knowledge_relationships (decided_by) where decided_by is not null;
create index knowledge_relationships_discovered_in_session_idx on public.knowledge_relationships (discovered_in_session)
  where discovered_in_session is not null;

alter table public.knowledge_relationships enable row level security;
comment on table public.knowledge_relationships is 'How one item stands to another: stated by people, or proposed by discover_relationships and decided by people.';
comment on column public.knowledge_relationships.id is 'The relationship.';
comment on column public.knowledge_relationships.workspace_id is 'The workspace of both items.';
comment on column public.knowledge_relationships.owner_id is 'Who stated or proposed it; null once that user''s account is deleted.';
comment on column public.knowledge_relationships.source_knowledge_id is 'The item that it is said of.';
comment on column public.knowledge_relationships.target_knowledge_id is 'The item that it points at.';
comment on column public.knowledge_relationships.relationship_type is 'depends_on, enhances, contradicts, builds_upon, required_for or similar_to: "source … target".';
comment on column public.knowledge_relationships.strength is '0 to 1: how strong it is, for a proposal how sure.';
comment on column public.knowledge_relationships.status is 'proposed (waits for a decision), accepted (stands) or rejected (kept, so that it is not proposed again).';
comment on column public.knowledge_relationships.reason is 'Why it was proposed.';
comment on column public.knowledge_relationships.discovered_in_session is 'The session in which it was stated or proposed.';
comment on column public.knowledge_relationships.relationship_context is 'What people say about it.';
comment on column public.knowledge_relationships.decided_by is 'Who accepted or rejected it.';
comment on column public.knowledge_relationships.decided_at is 'When.';
comment on column public.knowledge_relationships.created_at is 'When it was stated or proposed.';

revoke all on public.knowledge_relationships from public, anon, authenticated, service_role;
grant select, delete on public.knowledge_relationships to authenticated;
grant insert (source_knowledge_id, target_knowledge_id, relationship_type, strength, status, reason,
  relationship_context) on public.knowledge_relationships to authenticated;
grant update (strength, relationship_context) on public.knowledge_relationships to authenticated;
grant select, insert, update, delete on public.knowledge_relationships to service_role;

create policy knowledge_relationships_select_both_ends on public.knowledge_relationships for select to authenticated
  using (
    workspace_id = any (array(select private.my_workspaces()))
    and exists (select from public.knowledge_items k where k.id = source_knowledge_id)
    and exists (select from public.knowledge_items k where k.id = target_knowledge_id));
comment on policy knowledge_relationships_select_both_ends on public.knowledge_relationships is
  'Whoever sees both items sees how they stand to each other.';
create policy knowledge_relationships_insert_own on public.knowledge_relationships for insert to authenticated
  with check (
    owner_id = (select auth.uid())
    and workspace_id = any (array(select private.writable_workspaces()))
    and status in ('proposed', 'accepted')
    and exists (select from public.knowledge_items k
                 where k.id = source_knowledge_id and k.workspace_id = knowledge_relationships.workspace_id)
    and exists (select from public.knowledge_items k
                 where k.id = target_knowledge_id and k.workspace_id = knowledge_relationships.workspace_id));
comment on policy knowledge_relationships_insert_own on public.knowledge_relationships is
  'Contributors and above relate items that they see, in their own name.';
create policy knowledge_relationships_update_editor on public.knowledge_relationships for update to authenticated
  using (
    (owner_id = (select auth.uid()) and workspace_id = any (array(select private.writable_workspaces())))
    or workspace_id = any (array(select private.maintained_workspaces())))
  with check (
    (owner_id = (select auth.uid()) and workspace_id = any (array(select private.writable_workspaces())))
    or workspace_id = any (array(select private.maintained_workspaces())));
comment on policy knowledge_relationships_update_editor on public.knowledge_relationships is
  'Strength and context are changed by who stated it and by maintainers.';
create policy knowledge_relationships_delete_editor on public.knowledge_relationships for delete to authenticated
  using (
    (owner_id = (select auth.uid()) and workspace_id = any (array(select private.writable_workspaces())))
    or workspace_id = any (array(select private.maintained_workspaces())));
comment on policy knowledge_relationships_delete_editor on public.knowledge_relationships is
  'Removed by who stated it and by maintainers.';

-- definer because it answers for functions that run above the policy of knowledge_items; its WHERE is that policy.
create function private.visible_items(knowledge_ids uuid[])
returns setof uuid
language plpgsql
volatile
rows 10
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  -- Asked once: in the query below each would be asked again for every row.
  v_trusted boolean := private.is_trusted();
  v_user uuid := auth.uid();
  v_session uuid := private.current_session();
  v_mine uuid[] := array(select private.my_workspaces());
  v_maintained uuid[] := array(select private.maintained_workspaces());
begin
  return query
    select k.id from public.knowledge_items k
     where k.id = any (visible_items.knowledge_ids)
       and (v_trusted
            or k.workspace_id = any (v_mine)
               and (k.validation_status in ('validated', 'needs_update')
                    or (k.validation_status = 'deprecated' and k.validated_at is not null)
                    or k.owner_id = v_user
                    or k.created_in_session = v_session
                    or k.workspace_id = any (v_maintained)));
end
$$;
comment on function private.visible_items(uuid[]) is
  'Those of these items that the caller may see, for functions that run above the policies.';

create function private.lock_dependencies(workspace_id uuid)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  select pg_advisory_xact_lock(hashtextextended('knowledge-persistence: dependencies ' || workspace_id::text, 0))
$$;
comment on function private.lock_dependencies(uuid) is
  'Lets one transaction at a time change what depends on what in a workspace. Taken before the row of any relationship: whoever holds a row, or has written one that others may collide with, must not wait here.';

-- definer because it locks items that the caller may see and not edit; of others it says and locks nothing.
create function private.hold_items(knowledge_ids uuid[])
returns uuid[]
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_visible uuid[] := array(select private.visible_items(hold_items.knowledge_ids));
begin
  return array(
    select k.id from public.knowledge_items k where k.id = any (v_visible) order by k.id for key share);
end
$$;
comment on function private.hold_items(uuid[]) is
  'Keeps those of these items that the caller may see from being erased until the transaction ends, locked in the order in which everybody does, and returns those that are still there.';

-- definer because it locks items that the caller may see and not edit. Which ends the caller may relate is the
-- policy's to say, after this: a missing item and a hidden one are refused there alike.
create function private.prepare_relationship()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_workspaces uuid[];
begin
  -- Against an erasure at the same moment; in the order in which everybody locks items.
  perform from public.knowledge_items k
    where k.id in (new.source_knowledge_id, new.target_knowledge_id) order by k.id for key share;
  select k.workspace_id into new.workspace_id from public.knowledge_items k where k.id = new.source_knowledge_id;
  if private.is_trusted() then
    v_workspaces := array(
      select distinct k.workspace_id from public.knowledge_items k
       where k.id in (new.source_knowledge_id, new.target_knowledge_id));
    if cardinality(v_workspaces) > 1 then
      perform private.fail('PT400', 'the items lie in two workspaces');
    end if;
  end if;
  if new.status <> 'proposed' then
    new.decided_by := auth.uid();
    new.decided_at := now();
  end if;
  if new.status = 'accepted' and new.relationship_type in ('depends_on', 'required_for')
     and (private.is_trusted() or new.workspace_id in (select private.my_workspaces())) then
    perform private.lock_dependencies(new.workspace_id);
  end if;
  return new;
end
$$;
comment on function private.prepare_relationship() is
  'Trigger: puts a new relationship into the workspace of its source and writes down who decided it.';
create trigger knowledge_relationships_prepare before insert on public.knowledge_relationships
  for each row execute function private.prepare_relationship();

-- definer because a cycle counts whether or not the caller may see all of it.
create function private.refuse_dependency_cycle()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  -- "v_needing needs v_needed" is the edge, whichever way it was said.
  v_needing uuid := case new.relationship_type when 'depends_on' then new.source_knowledge_id else new.target_knowledge_id end;
  v_needed uuid := case new.relationship_type when 'depends_on' then new.target_knowledge_id else new.source_knowledge_id end;
  v_reached uuid[] := array[v_needed];
  v_from integer[] := array[0];  -- for each item reached, the place of the one it was reached from
  v_walked integer := 0;
  v_known integer;
  v_place integer;
  v_path uuid[];
  v_visible uuid[];
begin
  -- Mostly held already. Whoever comes second sees the first one's edge once this is granted.
  perform private.lock_dependencies(new.workspace_id);
  while v_walked < cardinality(v_reached) and not v_needing = any (v_reached) loop
    v_known := cardinality(v_reached);
    with level as (
      select distinct on (e.needed) e.needed, i.place
        from unnest(v_reached[v_walked + 1 : v_known]) with ordinality i (id, place)
        cross join lateral (
          select r.target_knowledge_id as needed from public.knowledge_relationships r
           where r.source_knowledge_id = i.id and r.relationship_type = 'depends_on' and r.status = 'accepted'
          union all
          select r.source_knowledge_id from public.knowledge_relationships r
           where r.target_knowledge_id = i.id and r.relationship_type = 'required_for' and r.status = 'accepted'
        ) e
       where e.needed <> all (v_reached)
       order by e.needed, i.place
    )
    select v_reached || coalesce(array_agg(l.needed order by l.needed), '{}'),
           v_from || coalesce(array_agg(l.place::integer + v_walked order by l.needed), '{}')
      into v_reached, v_from
      from level l;
    v_walked := v_known;
  end loop;
  if not v_needing = any (v_reached) then
    return null;
  end if;

  v_place := array_position(v_reached, v_needing);
  v_path := array[v_needing];
  while v_from[v_place] > 0 loop
    v_place := v_from[v_place];
    v_path := v_reached[v_place] || v_path;
  end loop;
  v_path := v_needing || v_path;
  v_visible := array(select private.visible_items(v_path));
  perform private.fail('PT409',
    'this would close a cycle: ' || (
      select string_agg(
               case when k.id = any (v_visible) then format('"%s"', left(k.title, 100)) else 'an item that you may not see' end,
               ' needs ' order by p.place)
        from unnest(v_path) with ordinality p (id, place) join public.knowledge_items k on k.id = p.id),
    'what depends on something can''t be required for it; remove_relationship takes one of these out');
  return null;
end
$$;
comment on function private.refuse_dependency_cycle() is
  'Trigger: refuses a depends_on or required_for that would close a cycle, and names the cycle.';
create trigger knowledge_relationships_refuse_cycle
  after insert or update of source_knowledge_id, target_knowledge_id, relationship_type, status
  on public.knowledge_relationships
  for each row when (new.relationship_type in ('depends_on', 'required_for') and new.status = 'accepted')
  execute function private.refuse_dependency_cycle();

create type public.related_knowledge as (
  relationship_id uuid, source_knowledge_id uuid, target_knowledge_id uuid, relationship_type text,
  strength double precision, relationship_context text, status text, outcome text
);
comment on type public.related_knowledge is
  'A relationship after a call. outcome: created, updated, accepted, rejected, or unchanged.';

-- definer because the status is nobody's to write directly; it checks who may decide.
create function private.settle_relationship(
  relationship_id uuid, accept boolean, strength double precision, relationship_context text
)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_user uuid := auth.uid();
  v_relationship public.knowledge_relationships;
  v_maintainer boolean;
begin
  select r.* into v_relationship from public.knowledge_relationships r where r.id = settle_relationship.relationship_id;
  if v_relationship.relationship_type in ('depends_on', 'required_for')
     and (private.is_trusted() or v_relationship.workspace_id in (select private.my_workspaces())) then
    perform private.lock_dependencies(v_relationship.workspace_id);
  end if;
  select r.* into v_relationship
    from public.knowledge_relationships r where r.id = settle_relationship.relationship_id for no key update;
  if v_relationship.id is null or (
    select count(*) from private.visible_items(
      array[v_relationship.source_knowledge_id, v_relationship.target_knowledge_id])) < 2 then
    return false;
  end if;
  v_maintainer := private.is_trusted() or v_relationship.workspace_id in (select private.maintained_workspaces());
  if not v_maintainer and not (
    v_relationship.workspace_id in (select private.writable_workspaces())
    and case v_relationship.status
      -- A proposal is decided by who had it made and by the authors of what it is about. Whoever states the same by
      -- relate_knowledge has stated it: that needs no more than the right to state it anew.
      when 'proposed' then
        v_relationship.owner_id = v_user
        or (settle_relationship.accept and settle_relationship.strength is not null)
        or exists (select from public.knowledge_items k
                    where k.id in (v_relationship.source_knowledge_id, v_relationship.target_knowledge_id)
                      and k.owner_id = v_user)
      when 'accepted' then v_relationship.owner_id = v_user
      else v_relationship.decided_by = v_user
    end is true) then
    return false;
  end if;
  update public.knowledge_relationships r
     set status = case when settle_relationship.accept then 'accepted' else 'rejected' end,
         strength = coalesce(settle_relationship.strength, r.strength),
         relationship_context = coalesce(settle_relationship.relationship_context, r.relationship_context),
         decided_by = v_user, decided_at = now()
   where r.id = v_relationship.id;
  return true;
end
$$;
comment on function private.settle_relationship(uuid, boolean, double precision, text) is
  'Accepts or rejects a relationship if the caller may decide it, and says whether it did.';

create function public.relate_knowledge(
  source_knowledge_id uuid, target_knowledge_id uuid, relationship_type text, strength double precision default 1.0,
  relationship_context text default null
)
returns setof public.related_knowledge
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_user uuid := private.require_user();
  v_ends integer;
  v_workspaces integer;
  v_strength numeric(3,2);
  v_id uuid;
  v_before public.knowledge_relationships;
  v_outcome text;
  v_attempts integer := 0;
begin
  if relate_knowledge.relationship_type is null or relate_knowledge.relationship_type not in (
    'depends_on', 'enhances', 'contradicts', 'builds_upon', 'required_for', 'similar_to') then
    perform private.fail('PT400', format('%L is no relationship type', relate_knowledge.relationship_type),
      'it is depends_on, enhances, contradicts, builds_upon, required_for or similar_to');
  end if;
  if relate_knowledge.strength is null or relate_knowledge.strength not between 0 and 1 then
    perform private.fail('PT400', 'strength is between 0 and 1');
  end if;
  v_strength := relate_knowledge.strength;
  select count(*), count(distinct k.workspace_id) into v_ends, v_workspaces
    from public.knowledge_items k
   where k.id in (relate_knowledge.source_knowledge_id, relate_knowledge.target_knowledge_id);
  if v_ends = 0 or (v_ends < 2 and relate_knowledge.source_knowledge_id is distinct from relate_knowledge.target_knowledge_id) then
    perform private.fail('PT404', 'no such knowledge item');
  end if;
  if v_ends < 2 then
    perform private.fail('PT400', 'an item has no relationship with itself');
  end if;
  if v_workspaces > 1 then
    perform private.fail('PT400', 'the items lie in two workspaces', 'relationships join items of one workspace');
  end if;

  loop
    select r.* into v_before from public.knowledge_relationships r
     where r.relationship_type = relate_knowledge.relationship_type
       and (r.source_knowledge_id = relate_knowledge.source_knowledge_id
              and r.target_knowledge_id = relate_knowledge.target_knowledge_id
            or r.relationship_type in ('similar_to', 'contradicts')
              and r.source_knowledge_id = relate_knowledge.target_knowledge_id
              and r.target_knowledge_id = relate_knowledge.source_knowledge_id);
    v_id := v_before.id;
    if v_id is null then
      begin
        insert into public.knowledge_relationships (source_knowledge_id, target_knowledge_id, relationship_type,
          strength, relationship_context)
        values (relate_knowledge.source_knowledge_id, relate_knowledge.target_knowledge_id,
          relate_knowledge.relationship_type, v_strength, relate_knowledge.relationship_context)
        returning id into v_id;
        v_outcome := 'created';
        exit;
      exception
        when unique_violation then
          null;  -- somebody stated it between the look and the insert: that one it is
        when foreign_key_violation then
          perform private.fail('PT404', 'no such knowledge item');  -- erased between the look and the insert
      end;
      v_attempts := v_attempts + 1;
      if v_attempts > 10 then  -- a transaction that will never see it
        raise exception using errcode = '40001', message = 'could not serialize access: somebody else states the same';
      end if;
    else
      v_outcome := 'unchanged';
      if v_before.status <> 'accepted' then
        if private.settle_relationship(v_id, true, v_strength, relate_knowledge.relationship_context) then
          v_outcome := 'accepted';
        end if;
      elsif v_before.strength <> v_strength
         or relate_knowledge.relationship_context <> coalesce(v_before.relationship_context, '') then
        update public.knowledge_relationships r
           set strength = v_strength,
               relationship_context = coalesce(relate_knowledge.relationship_context, r.relationship_context)
         where r.id = v_id;
        if found then
          v_outcome := 'updated';
        end if;
      end if;
      exit;
    end if;
  end loop;
  return query
    select r.id, r.source_knowledge_id, r.target_knowledge_id, r.relationship_type::text,
           r.strength::double precision, r.relationship_context, r.status::text, v_outcome
      from public.knowledge_relationships r where r.id = v_id;
end
$$;
comment on function public.relate_knowledge(uuid, uuid, text, double precision, text) is
  'Says how one item stands to another: depends_on, enhances, contradicts, builds_upon, required_for or similar_to. Said again, it updates strength and context if the caller stated it or maintains the workspace, and accepts what was only proposed. A cycle of dependencies is refused.';

create function public.remove_relationship(relationship_id uuid)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  delete from public.knowledge_relationships r where r.id = remove_relationship.relationship_id;
  if found then
    return;
  end if;
  if exists (select from public.knowledge_relationships r where r.id = remove_relationship.relationship_id) then
    perform private.fail('PT403', 'only who stated it and maintainers of the workspace remove a relationship');
  end if;
  perform private.fail('PT404', 'no such relationship');
end
$$;
comment on function public.remove_relationship(uuid) is
  'Takes a relationship out, for who stated it and for maintainers. decide_relationship with accept = false keeps it from being proposed again.';

create function public.decide_relationship(relationship_id uuid, accept boolean)
returns setof public.related_knowledge
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_before text;
begin
  if decide_relationship.accept is null then
    perform private.fail('PT400', 'accept is true or false');
  end if;
  select r.status into v_before from public.knowledge_relationships r where r.id = decide_relationship.relationship_id;
  if v_before is null then
    perform private.fail('PT404', 'no such relationship');
  end if;
  if not private.settle_relationship(decide_relationship.relationship_id, decide_relationship.accept, null, null) then
    perform private.fail('PT403', 'this is not yours to decide',
      'a proposal is decided by who had it made, by the items'' authors and by maintainers of the workspace');
  end if;
  return query
    select r.id, r.source_knowledge_id, r.target_knowledge_id, r.relationship_type::text,
           r.strength::double precision, r.relationship_context, r.status::text,
           case when r.status = v_before then 'unchanged' else r.status end::text
      from public.knowledge_relationships r where r.id = decide_relationship.relationship_id;
end
$$;
comment on function public.decide_relationship(uuid, boolean) is
  'Accepts or rejects a proposed relationship. For who had it proposed, the authors of its items, and maintainers.';

create function private.contradiction(content text, other_content text, same_subject boolean)
returns text
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_opposites constant text[] := array[
    'enabled', 'disabled', 'enable', 'disable', 'on', 'off', 'true', 'false', 'always', 'never', 'works', 'fails',
    'required', 'optional', 'allowed', 'forbidden', 'increase', 'decrease', 'raise', 'lower', 'before', 'after',
    'supported', 'unsupported', 'safe', 'unsafe', 'faster', 'slower', 'first', 'last', 'must', 'mustn''t'];
  v_negations constant text := '^(not|no|never|none|neither|nor|without|cannot|.+n''t)$';
  -- Apostrophes as people and word processors write them.
  v_words text[] := array(
    select m[1] from regexp_matches(replace(lower(content collate pg_catalog."pg_c_utf8"), '’', ''''), '([[:alpha:]_][[:alnum:]_'']*)', 'g') m);
  v_other_words text[] := array(
    select m[1] from regexp_matches(replace(lower(other_content collate pg_catalog."pg_c_utf8"), '’', ''''), '([[:alpha:]_][[:alnum:]_'']*)', 'g') m);
  v_numbers text[] := array(select distinct m[1] from regexp_matches(content, '(\d+(?:[.,]\d+)*)', 'g') m);
  v_other_numbers text[] := array(select distinct m[1] from regexp_matches(other_content, '(\d+(?:[.,]\d+)*)', 'g') m);
  v_number text;
  v_other_number text;
  v_shared double precision;
begin
  if not same_subject then
    -- Near-identical vectors say that two texts are alike; they must also say it in largely the same words, or a
    -- number that differs means nothing.
    select count(*) filter (where w.mine and w.theirs)::double precision / greatest(count(*), 1) into v_shared
      from (select x.word, bool_or(x.mine) as mine, bool_or(not x.mine) as theirs
              from (select unnest(v_words) as word, true as mine
                    union all select unnest(v_other_words), false) x
             where x.word !~ v_negations and x.word <> all (v_opposites)
             group by x.word) w;
    if v_shared < 0.4 then
      return null;
    end if;
  end if;
  for v_pair in 1 .. cardinality(v_opposites) by 2 loop
    if v_opposites[v_pair] = any (v_words) and v_opposites[v_pair + 1] = any (v_other_words)
       and not v_opposites[v_pair + 1] = any (v_words) and not v_opposites[v_pair] = any (v_other_words) then
      return format('one says "%s" where the other says "%s"', v_opposites[v_pair], v_opposites[v_pair + 1]);
    end if;
    if v_opposites[v_pair + 1] = any (v_words) and v_opposites[v_pair] = any (v_other_words)
       and not v_opposites[v_pair] = any (v_words) and not v_opposites[v_pair + 1] = any (v_other_words) then
      return format('one says "%s" where the other says "%s"', v_opposites[v_pair + 1], v_opposites[v_pair]);
    end if;
  end loop;
  if (select count(*) % 2 from unnest(v_words) w where w ~ v_negations)
     <> (select count(*) % 2 from unnest(v_other_words) w where w ~ v_negations) then
    return 'one denies what the other says';
  end if;
  select min(n) into v_number from unnest(v_numbers) n where n <> all (v_other_numbers);
  select min(n) into v_other_number from unnest(v_other_numbers) n where n <> all (v_numbers);
  if v_number is not null and v_other_number is not null then
    return format('one says %s where the other says %s', v_number, v_other_number);
  end if;
  return null;
end
$$;
comment on function private.contradiction(text, text, boolean) is
  'In what two texts about the same thing seem to contradict each other (a word and its opposite, a negation, a number), or null. Knows English; a candidate for a person to judge, no more.';

create type public.proposed_relationship as (
  relationship_id uuid, source_knowledge_id uuid, source_title text, target_knowledge_id uuid, target_title text,
  relationship_type text, strength double precision, reason text
);
comment on type public.proposed_relationship is 'A relationship that was found and waits for decide_relationship.';

create function public.discover_relationships(knowledge_id uuid default null, max_proposals integer default 20)
returns setof public.proposed_relationship
language plpgsql
volatile
rows 20
set search_path = pg_catalog, pg_temp
as $$
declare
  v_workspace uuid;
  v_around uuid[];
  v_filters private.item_filters;
begin
  if discover_relationships.max_proposals is null or discover_relationships.max_proposals not between 1 and 200 then
    perform private.fail('PT400', 'max_proposals is between 1 and 200');
  end if;
  if discover_relationships.knowledge_id is null then
    v_workspace := private.current_workspace();
    if v_workspace is null then
      return;  -- a user who has not written anything has nothing to relate
    end if;
  else
    select k.workspace_id into v_workspace
      from public.knowledge_items k where k.id = discover_relationships.knowledge_id;
    if v_workspace is null then
      perform private.fail('PT404', 'no such knowledge item');
    end if;
  end if;
  if v_workspace not in (select private.writable_workspaces()) then
    perform private.fail('PT403', 'readers of a workspace propose nothing', 'ask an owner to make you a contributor');
  end if;
  -- All of a small workspace; of a large one what changed last, and some of the rest, so that repeated calls come by.
  v_around := case when discover_relationships.knowledge_id is not null then array[discover_relationships.knowledge_id]
    else array(
      select k.id from (
        (select k.id from public.knowledge_items k
          where k.workspace_id = v_workspace and k.validation_status <> 'deprecated' and k.superseded_by is null
          order by k.updated_at desc limit 100)
        union
        (select k.id from public.knowledge_items k
          where k.workspace_id = v_workspace and k.validation_status <> 'deprecated' and k.superseded_by is null
          order by random() limit 100)) k)
    end;
  v_filters.workspace_id := v_workspace;
  v_filters.validation_statuses := '{pending,validated,needs_update}';
  v_filters.include_retired := false;

  return query
    with living as materialized (
      select k.id, lower(btrim(regexp_replace(k.title collate pg_catalog."pg_c_utf8", '\s+', ' ', 'g'))) as subject, k.retrieval_triggers
        from public.knowledge_items k
       where k.workspace_id = v_workspace and k.validation_status <> 'deprecated' and k.superseded_by is null
         and (k.valid_from is null or k.valid_from <= now()) and (k.valid_to is null or k.valid_to > now())
    ), around as materialized (
      select l.*, k.content_embedding, k.embedding_model,
             case when k.content_embedding is not null
               then private.vector_scope(v_workspace, k.embedding_model, k.content_embedding) end as scope
        from living l join public.knowledge_items k on k.id = l.id
       where l.id = any (v_around)
    ), near as (
      -- The nearest of the same model; where it says "related", half way from there to identical is "similar".
      select a.id, n.id as other_id, n.similarity,
             n.similarity >= 0.7 + 0.3 * ((a.scope).model).similarity_threshold as near_identical
        from around a
        cross join lateral private.nearest_items(a.content_embedding, a.scope, v_filters, 11) n
       where a.content_embedding is not null and n.id <> a.id
         and n.similarity >= (1 + ((a.scope).model).similarity_threshold) / 2
    ), words as (
      select distinct l.id, lower(btrim(t) collate pg_catalog."pg_c_utf8") as word from living l, unnest(l.retrieval_triggers) t where btrim(t) <> ''
    ), telling as (
      -- A trigger that many items have says little about any two of them.
      select w.word from words w group by w.word
      having count(*) between 2 and greatest(5, (select count(*) from living) / 20)
    ), sharing as (
      select a.id, w.id as other_id, array_agg(w.word order by w.word) as shared
        from words mine
        join telling t on t.word = mine.word
        join around a on a.id = mine.id
        join words w on w.word = mine.word and w.id <> mine.id
       group by a.id, w.id
    ), namesakes as (
      select a.id, l.id as other_id from around a join living l on l.subject = a.subject and l.id <> a.id
    ), pairs as (
      select least(p.id, p.other_id) as one, greatest(p.id, p.other_id) as other,
             max(p.similarity) as similarity, bool_or(p.near_identical) as near_identical,
             max(p.shared) as shared, bool_or(p.same_subject) as same_subject
        from (
          select n.id, n.other_id, n.similarity, n.near_identical, null::text[] as shared, false as same_subject from near n
          union all select s.id, s.other_id, null, false, s.shared, false from sharing s
          union all select m.id, m.other_id, null, false, null, true from namesakes m
        ) p
       group by 1, 2
    ), judged as (
      select p.*, newer.id as source_id, older.id as target_id,
             case when p.near_identical or p.same_subject
               then private.contradiction(newer.content, older.content, p.same_subject) end as contradiction
        from pairs p
        join public.knowledge_items x on x.id = p.one
        join public.knowledge_items y on y.id = p.other
        cross join lateral (select (case when (x.created_at, x.id) >= (y.created_at, y.id) then x.id else y.id end) as id,
          (case when (x.created_at, x.id) >= (y.created_at, y.id) then x.content else y.content end) as content) newer
        cross join lateral (select (case when (x.created_at, x.id) >= (y.created_at, y.id) then y.id else x.id end) as id,
          (case when (x.created_at, x.id) >= (y.created_at, y.id) then y.content else x.content end) as content) older
       where x.content_hash <> y.content_hash
    ), proposals as (
      select j.source_id, j.target_id, v.relationship_type, v.strength, v.reason
        from judged j
        cross join lateral (
          select case when j.contradiction is not null then 'contradicts' else 'similar_to' end as relationship_type,
                 round(least(case when j.contradiction is not null then coalesce(j.similarity, 0.6)
                   else greatest(j.similarity, 1 - power(0.5, cardinality(j.shared))) end, 1)::numeric, 2) as strength,
                 concat_ws('; ',
                   case when j.same_subject then 'the same title' end,
                   case when j.similarity is not null
                     then format('close in meaning (%s)', round(j.similarity::numeric, 2)) end,
                   'shares the triggers ' || array_to_string(j.shared[1:4], ', '),
                   j.contradiction) as reason
        ) v
       where (j.contradiction is not null or j.similarity is not null or j.shared is not null)
         -- Whatever was said, proposed or rejected about the two in these words stands.
         and not exists (
           select from public.knowledge_relationships r
            where r.relationship_type in ('similar_to', 'contradicts')
              and ((r.source_knowledge_id = j.one and r.target_knowledge_id = j.other)
                or (r.source_knowledge_id = j.other and r.target_knowledge_id = j.one)))
       order by v.relationship_type = 'contradicts' desc, v.strength desc, j.source_id, j.target_id
       limit discover_relationships.max_proposals
    ), held as materialized (
      select private.hold_items(array(select p.source_id from proposals p union select p.target_id from proposals p)) as ids
    ), proposed as (
      insert into public.knowledge_relationships as r (source_knowledge_id, target_knowledge_id, relationship_type,
        strength, status, reason)
      select p.source_id, p.target_id, p.relationship_type, p.strength, 'proposed', p.reason
        from proposals p
        join held h on p.source_id = any (h.ids) and p.target_id = any (h.ids)
       order by least(p.source_id, p.target_id), greatest(p.source_id, p.target_id)  -- one order for all
      on conflict do nothing
      returning r.id, r.source_knowledge_id, r.target_knowledge_id, r.relationship_type, r.strength, r.reason
    )
    select p.id, p.source_knowledge_id, s.title::text, p.target_knowledge_id, t.title::text,
           p.relationship_type::text, p.strength::double precision, p.reason
      from proposed p
      join public.knowledge_items s on s.id = p.source_knowledge_id
      join public.knowledge_items t on t.id = p.target_knowledge_id
     order by p.relationship_type = 'contradicts' desc, p.strength desc, p.id;
end
$$;
comment on function public.discover_relationships(uuid, integer) is
  'Proposes relationships of one item, or in the current workspace: similar_to from meaning (vectors of one model) and shared triggers, contradicts where two texts about the same thing differ in a number, a negation or an opposite. Returns what is newly proposed, with strength and reason; nothing stands before decide_relationship.';

create type public.knowledge_neighbor as (
  knowledge_id uuid, title text, knowledge_type text, validation_status text, depth integer, path uuid[],
  path_titles text[], relationship_types text[], directions text[], strength double precision
);
comment on type public.knowledge_neighbor is
  'An item near another: path and path_titles lead to it from the start, relationship_types and directions (outgoing, incoming) name each step, strength is the product of the steps''.';

create function public.knowledge_neighborhood(
  knowledge_id uuid, max_depth integer default 2, relationship_types text[] default null, max_items integer default 200
)
returns setof public.knowledge_neighbor
language plpgsql
stable
rows 50
set search_path = pg_catalog, pg_temp
as $$
declare
  v_found public.knowledge_neighbor[];
  v_frontier public.knowledge_neighbor[];
  v_ids uuid[];
  v_depth integer := 0;
  v_room integer;
begin
  if knowledge_neighborhood.max_depth is null or knowledge_neighborhood.max_depth not between 1 and 20 then
    perform private.fail('PT400', 'max_depth is between 1 and 20');
  end if;
  if knowledge_neighborhood.max_items is null or knowledge_neighborhood.max_items not between 1 and 1000 then
    perform private.fail('PT400', 'max_items is between 1 and 1000');
  end if;
  if not knowledge_neighborhood.relationship_types <@ array[
    'depends_on', 'enhances', 'contradicts', 'builds_upon', 'required_for', 'similar_to'] then
    perform private.fail('PT400', 'relationship_types names an unknown type',
      'the types are depends_on, enhances, contradicts, builds_upon, required_for and similar_to');
  end if;
  select array_agg(row(k.id, k.title, k.knowledge_type, k.validation_status, 0, array[k.id], array[k.title::text],
                       '{}', '{}', 1)::public.knowledge_neighbor)
    into v_frontier
    from public.knowledge_items k where k.id = knowledge_neighborhood.knowledge_id;
  if v_frontier is null then
    perform private.fail('PT404', 'no such knowledge item');
  end if;
  v_found := v_frontier;
  v_ids := array[knowledge_neighborhood.knowledge_id];
  v_room := knowledge_neighborhood.max_items - 1;

  -- Level by level: what has been reached is never entered again, so a dense graph costs its edges, not its paths.
  while v_depth < knowledge_neighborhood.max_depth and v_room > 0 and v_frontier is not null loop
    v_depth := v_depth + 1;
    select array_agg(row(n.id, n.title, n.knowledge_type, n.validation_status, v_depth, n.path, n.path_titles,
                         n.relationship_types, n.directions, n.strength)::public.knowledge_neighbor
                     order by n.strength desc, n.id),
           v_ids || coalesce(array_agg(n.id), '{}')
      into v_frontier, v_ids
      from (
        select * from (
          select distinct on (k.id) k.id, k.title, k.knowledge_type, k.validation_status,
                 f.path || k.id as path, f.path_titles || k.title::text as path_titles,
                 f.relationship_types || e.relationship_type::text as relationship_types,
                 f.directions || e.direction as directions,
                 f.strength * e.strength::double precision as strength
            from unnest(v_frontier) f
            cross join lateral (
              (select r.target_knowledge_id as id, r.relationship_type, r.strength, 'outgoing'::text as direction
                 from public.knowledge_relationships r
                 cross join lateral (
                   select k.validation_status <> 'deprecated' and k.superseded_by is null
                          and (k.valid_from is null or k.valid_from <= now()) and (k.valid_to is null or k.valid_to > now()) as in_force
                     from public.knowledge_items k where k.id = r.target_knowledge_id offset 0) n
                where r.source_knowledge_id = f.knowledge_id and r.status = 'accepted'
                  and (knowledge_neighborhood.relationship_types is null
                       or r.relationship_type = any (knowledge_neighborhood.relationship_types))
                  and r.target_knowledge_id <> all (v_ids) and n.in_force
                order by r.strength desc limit v_room * 6)  -- a pair can have each of the six types
              union all
              (select r.source_knowledge_id, r.relationship_type, r.strength, 'incoming'::text
                 from public.knowledge_relationships r
                 cross join lateral (
                   select k.validation_status <> 'deprecated' and k.superseded_by is null
                          and (k.valid_from is null or k.valid_from <= now()) and (k.valid_to is null or k.valid_to > now()) as in_force
                     from public.knowledge_items k where k.id = r.source_knowledge_id offset 0) n
                where r.target_knowledge_id = f.knowledge_id and r.status = 'accepted'
                  and (knowledge_neighborhood.relationship_types is null
                       or r.relationship_type = any (knowledge_neighborhood.relationship_types))
                  and r.source_knowledge_id <> all (v_ids) and n.in_force
                order by r.strength desc limit v_room * 6)
            ) e
            join public.knowledge_items k on k.id = e.id
           order by k.id, f.strength * e.strength::double precision desc, f.knowledge_id, e.relationship_type, e.direction
        ) reached
        order by reached.strength desc, reached.id
        limit v_room
      ) n;
    if v_frontier is not null then
      v_found := v_found || v_frontier;
      v_room := v_room - cardinality(v_frontier);
    end if;
  end loop;
  return query select * from unnest(v_found);
end
$$;
comment on function public.knowledge_neighborhood(uuid, integer, text[], integer) is
  'The items within max_depth steps of an item over accepted relationships in both directions, nearest first, each once by a shortest path (of several the strongest); the first row is the item itself. What is deprecated, superseded or doesn''t hold now is neither told nor passed through. At most max_items, the strongest of a level first.';

create type public.listed_relationship as (
  relationship_id uuid, source_knowledge_id uuid, source_title text, target_knowledge_id uuid, target_title text,
  relationship_type text, strength double precision, status text, reason text, relationship_context text,
  created_at timestamptz
);
comment on type public.listed_relationship is 'A relationship with the titles of its ends.';

create function public.list_relationships(
  knowledge_id uuid default null, status text default null, max_results integer default 50
)
returns setof public.listed_relationship
language plpgsql
stable
rows 50
set search_path = pg_catalog, pg_temp
as $$
declare
  v_workspace uuid;
begin
  if list_relationships.max_results is null or list_relationships.max_results not between 1 and 1000 then
    perform private.fail('PT400', 'max_results is between 1 and 1000');
  end if;
  if list_relationships.status not in ('proposed', 'accepted', 'rejected') then
    perform private.fail('PT400', format('%L is no status of a relationship', list_relationships.status),
      'it is proposed, accepted or rejected');
  end if;
  if list_relationships.knowledge_id is null then
    v_workspace := private.current_workspace();
  elsif not exists (select from public.knowledge_items k where k.id = list_relationships.knowledge_id) then
    perform private.fail('PT404', 'no such knowledge item');
  end if;
  return query
    select r.id, r.source_knowledge_id, s.title::text, r.target_knowledge_id, t.title::text,
           r.relationship_type::text, r.strength::double precision, r.status::text, r.reason, r.relationship_context,
           r.created_at
      from (
        select x.* from public.knowledge_relationships x where x.workspace_id = v_workspace
        union all
        select x.* from public.knowledge_relationships x where x.source_knowledge_id = list_relationships.knowledge_id
        union all
        select x.* from public.knowledge_relationships x where x.target_knowledge_id = list_relationships.knowledge_id
      ) r
      join public.knowledge_items s on s.id = r.source_knowledge_id
      join public.knowledge_items t on t.id = r.target_knowledge_id
     where list_relationships.status is null or r.status = list_relationships.status
     order by r.relationship_type = 'contradicts' desc, r.strength desc, r.created_at desc, r.id
     limit list_relationships.max_results;
end
$$;
comment on function public.list_relationships(uuid, text, integer) is
  'The relationships of one item, or of the current workspace, of one status or of all: contradictions first, then the strongest. With status proposed: what waits for decide_relationship.';

create type public.knowledge_graph_part as (items jsonb, relationships jsonb, relationships_left_out integer);
comment on type public.knowledge_graph_part is
  'A piece of the graph to draw: items (with depth, 0 for the middle; null where there is none) and the accepted relationships between them.';

create function public.knowledge_graph(
  knowledge_id uuid default null, max_depth integer default 2, relationship_types text[] default null,
  max_items integer default 200, max_relationships integer default 2000
)
returns setof public.knowledge_graph_part
language plpgsql
stable
rows 1
set search_path = pg_catalog, pg_temp
as $$
declare
  v_excerpt constant integer := 4000;
  v_workspace uuid;
  v_ids uuid[];
  v_depths integer[];
  v_items jsonb;
  v_relationships jsonb;
  v_left_out integer;
begin
  if knowledge_graph.max_items is null or knowledge_graph.max_items not between 1 and 1000 then
    perform private.fail('PT400', 'max_items is between 1 and 1000');
  end if;
  if knowledge_graph.max_relationships is null or knowledge_graph.max_relationships not between 1 and 10000 then
    perform private.fail('PT400', 'max_relationships is between 1 and 10000');
  end if;
  if not knowledge_graph.relationship_types <@ array[
    'depends_on', 'enhances', 'contradicts', 'builds_upon', 'required_for', 'similar_to'] then
    perform private.fail('PT400', 'relationship_types names an unknown type',
      'the types are depends_on, enhances, contradicts, builds_upon, required_for and similar_to');
  end if;
  if knowledge_graph.knowledge_id is null then
    v_workspace := private.current_workspace();
    select array_agg(e.id order by e.degree desc, e.id) into v_ids
      from (
        select b.id, count(*) as degree
          from public.knowledge_relationships r
          cross join lateral (values (r.source_knowledge_id), (r.target_knowledge_id)) b (id)
          join public.knowledge_items k on k.id = b.id
            and k.validation_status <> 'deprecated' and k.superseded_by is null
              and (k.valid_from is null or k.valid_from <= now()) and (k.valid_to is null or k.valid_to > now())
         where r.workspace_id = v_workspace and r.status = 'accepted'
           and (knowledge_graph.relationship_types is null or r.relationship_type = any (knowledge_graph.relationship_types))
         group by b.id
         order by degree desc, b.id
         limit knowledge_graph.max_items
      ) e;
  else
    select array_agg(n.knowledge_id order by n.ordinality), array_agg(n.depth order by n.ordinality) into v_ids, v_depths
      from public.knowledge_neighborhood(
             knowledge_graph.knowledge_id, knowledge_graph.max_depth, knowledge_graph.relationship_types,
             knowledge_graph.max_items) with ordinality n;
  end if;

  select coalesce(jsonb_agg(jsonb_build_object(
           'knowledge_id', k.id, 'title', k.title, 'content', left(k.content, v_excerpt),
           'knowledge_type', k.knowledge_type, 'category', k.category, 'project_context', k.project_context,
           'validation_status', k.validation_status, 'importance_score', k.importance_score,
           'retrieval_triggers', k.retrieval_triggers, 'created_at', k.created_at, 'depth', v_depths[i.place]
         ) order by i.place), '[]')
    into v_items
    from unnest(v_ids) with ordinality i (id, place)
    join public.knowledge_items k on k.id = i.id;

  -- Where there are too many, each item keeps its strongest before any has its second.
  with among as materialized (
    select r.*,
           least(row_number() over (partition by r.source_knowledge_id order by r.strength desc, r.id),
                 row_number() over (partition by r.target_knowledge_id order by r.strength desc, r.id)) as place
      from unnest(v_ids) s (id)
      join public.knowledge_relationships r on r.source_knowledge_id = s.id
      join unnest(v_ids) t (id) on t.id = r.target_knowledge_id
     where r.status = 'accepted'
       and (knowledge_graph.relationship_types is null or r.relationship_type = any (knowledge_graph.relationship_types))
  ), kept as (
    select a.* from among a order by a.place, a.strength desc, a.id limit knowledge_graph.max_relationships
  )
  select coalesce(jsonb_agg(jsonb_build_object(
           'relationship_id', r.id, 'source_knowledge_id', r.source_knowledge_id,
           'target_knowledge_id', r.target_knowledge_id, 'relationship_type', r.relationship_type,
           'strength', r.strength, 'relationship_context', r.relationship_context
         ) order by r.place, r.strength desc, r.id), '[]'),
         (select count(*) from among) - count(*)
    into v_relationships, v_left_out
    from kept r;
  return query select v_items, v_relationships, v_left_out;
end
$$;
comment on function public.knowledge_graph(uuid, integer, text[], integer, integer) is
  'The items of knowledge_neighborhood with the beginning of their text, and every accepted relationship between them, the strongest of each item first, in one row: what a picture of the graph is drawn from. Without an item: the most related ones of the current workspace.';

revoke execute on function
  private.visible_items(uuid[]), private.lock_dependencies(uuid), private.hold_items(uuid[]),
  private.prepare_relationship(), private.refuse_dependency_cycle(),
  private.settle_relationship(uuid, boolean, double precision, text), private.contradiction(text, text, boolean),
  public.relate_knowledge(uuid, uuid, text, double precision, text), public.remove_relationship(uuid),
  public.decide_relationship(uuid, boolean), public.discover_relationships(uuid, integer),
  public.knowledge_neighborhood(uuid, integer, text[], integer), public.list_relationships(uuid, text, integer),
  public.knowledge_graph(uuid, integer, text[], integer, integer)
  from public, anon, authenticated, service_role;
grant execute on function
  private.visible_items(uuid[]), private.hold_items(uuid[]),
  private.settle_relationship(uuid, boolean, double precision, text),
  private.contradiction(text, text, boolean), public.relate_knowledge(uuid, uuid, text, double precision, text),
  public.remove_relationship(uuid), public.decide_relationship(uuid, boolean),
  public.discover_relationships(uuid, integer)
  to authenticated;
grant execute on function
  public.knowledge_neighborhood(uuid, integer, text[], integer), public.list_relationships(uuid, text, integer),
  public.knowledge_graph(uuid, integer, text[], integer, integer)
  to authenticated, service_role;
