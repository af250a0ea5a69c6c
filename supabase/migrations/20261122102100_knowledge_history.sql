-- History: what became of an item, and what is left of it when it is erased.
--
-- Owns: knowledge_status_history, private.status_at (what items were at a moment), supersede_knowledge,
-- forget_knowledge, and what follows the deletion of an item.
--
-- Invariants
--   * Every change of an item's status, and of what supersedes it, is written down by trigger: who, when, from what to
--     what, why. The trail is seen by whoever sees the item, and written by nobody.
--   * A superseded item stops being valid and leaves retrieval; nothing of it is lost, and undo gives its validity
--     back. Items may be superseded in chains, never in circles. What the workspace trusts is superseded by
--     maintainers only, and by something that the workspace can see.
--   * Erasure is real: the item, its record, links, relationships, history, search document and jobs go, the search
--     documents that had been widened by its words are built anew, and the sessions count it no more. What an erased
--     item had superseded goes over to its successor, or comes back if it has none; what had been merged into it, or
--     it into another, is taken apart before (knowledge_duplicates), so that nothing of it stays behind in the other.
--   * Locks are taken in this order: the workspace's chain of supersession (advisory), the item's record, session
--     keys, items by id, search documents by id, session rows by id.
--
-- When an account is deleted, its personal workspace and its sessions go; what it wrote in shared workspaces stays, as
-- nobody's, without the author's or the session's id.
--
-- Row versions that are no longer visible stay in the files until vacuum, and in backups until those are rotated.

set local lock_timeout = '5s';

create table public.knowledge_status_history (
  id bigint not null generated always as identity,
  knowledge_id uuid not null,
  change varchar(20) not null,
  from_status varchar(20),
  to_status varchar(20) not null,
  superseded_by uuid,
  valid_to_before timestamptz,
  valid_to_after timestamptz,
  note text,
  changed_by uuid,
  changed_at timestamptz not null default clock_timestamp(),
  constraint knowledge_status_history_pkey primary key (id),
  constraint knowledge_status_history_knowledge_id_fkey foreign key (knowledge_id)
    references public.knowledge_items (id) on delete cascade,
  constraint knowledge_status_history_superseded_by_fkey foreign key (superseded_by)
    references public.knowledge_items (id) on delete set null,
  constraint knowledge_status_history_changed_by_fkey foreign key (changed_by)
    references auth.users (id) on delete set null,
  constraint knowledge_status_history_change_check check (change in ('status', 'superseded', 'restored'))
);
create index knowledge_status_history_knowledge_id_idx on public.knowledge_status_history (knowledge_id, id);
create index knowledge_status_history_superseded_by_idx on public.knowledge_status_history (superseded_by)
  where superseded_by is not null;
create index knowledge_status_history_changed_by_idx on public.knowledge_status_history (changed_by);
alter table public.knowledge_status_history enable row level security;
comment on table public.knowledge_status_history is 'The audit trail of items: each change of status and of supersession. Written by trigger.';
comment on column public.knowledge_status_history.id is 'Orders the changes of an item.';
comment on column public.knowledge_status_history.knowledge_id is 'The item.';
comment on column public.knowledge_status_history.change is 'status (another validation status), superseded, or restored (no longer superseded).';
comment on column public.knowledge_status_history.from_status is 'Its status before; null: it was recorded like this.';
comment on column public.knowledge_status_history.to_status is 'Its status after.';
comment on column public.knowledge_status_history.superseded_by is 'What supersedes it from then on.';
comment on column public.knowledge_status_history.valid_to_before is 'Until when it was valid before a supersession; undo restores that.';
comment on column public.knowledge_status_history.valid_to_after is 'Until when it was valid after.';
comment on column public.knowledge_status_history.note is 'Why, as validation_note said.';
comment on column public.knowledge_status_history.changed_by is 'Whose doing it was; null: an operator''s, or that user''s account is deleted.';
comment on column public.knowledge_status_history.changed_at is 'When.';

revoke all on public.knowledge_status_history from public, anon, authenticated, service_role;
revoke all on sequence public.knowledge_status_history_id_seq from public, anon, authenticated, service_role;
grant select on public.knowledge_status_history to authenticated, service_role;

create policy knowledge_status_history_select_visible on public.knowledge_status_history for select to authenticated
  using (exists (select from public.knowledge_items k where k.id = knowledge_id));
comment on policy knowledge_status_history_select_visible on public.knowledge_status_history is
  'Whoever sees an item sees what became of it.';

-- definer because nobody writes the trail directly.
create function private.note_item_change()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  if tg_op = 'INSERT' then
    insert into public.knowledge_status_history (knowledge_id, change, to_status, note, changed_by)
    values (new.id, 'status', new.validation_status, new.validation_note, auth.uid());
    return null;
  end if;
  if new.validation_status is distinct from old.validation_status then
    insert into public.knowledge_status_history (knowledge_id, change, from_status, to_status, note, changed_by)
    values (new.id, 'status', old.validation_status, new.validation_status,
      case when new.validation_status = 'pending' and new.content_hash <> old.content_hash then 'edited'
        else new.validation_note end,
      auth.uid());
  end if;
  if new.superseded_by is distinct from old.superseded_by then
    insert into public.knowledge_status_history (knowledge_id, change, from_status, to_status, superseded_by,
      valid_to_before, valid_to_after, changed_by)
    values (new.id, case when new.superseded_by is null then 'restored' else 'superseded' end,
      new.validation_status, new.validation_status, new.superseded_by, old.valid_to, new.valid_to, auth.uid());
  end if;
  return null;
end
$$;
comment on function private.note_item_change() is 'Trigger: writes down a change of status or of supersession.';
create trigger knowledge_items_note_inserted after insert on public.knowledge_items
  for each row when (new.validation_status <> 'pending')
  execute function private.note_item_change();
-- The columns whose change can change the status by way of knowledge_items_prepare, so that counters fire nothing.
create trigger knowledge_items_note_updated
  after update of title, content, knowledge_type, category, subcategory, context_data, importance_score,
    retrieval_triggers, project_context, valid_from, valid_to, validation_status, superseded_by, text_search_config
  on public.knowledge_items
  for each row
  when (old.validation_status is distinct from new.validation_status or old.superseded_by is distinct from new.superseded_by)
  execute function private.note_item_change();

-- As the caller: of an item that the caller may not see there is no row. Set-based, so that a search can ask it about
-- all its candidates at once; a call costs one look at the items and one at their trail.
create function private.status_at(as_of timestamptz, knowledge_ids uuid[])
returns table (
  knowledge_id uuid, existed boolean, validation_status text, is_superseded boolean, superseded_by uuid,
  valid_from timestamptz, valid_to timestamptz, in_force boolean
)
language sql
stable
rows 100
set search_path = pg_catalog, pg_temp
as $$
  with trail as materialized (
    select h.* from public.knowledge_status_history h where h.knowledge_id = any (status_at.knowledge_ids)
  ), status_before as (
    select distinct on (h.knowledge_id) h.knowledge_id, h.to_status
      from trail h where h.change = 'status' and h.changed_at <= as_of order by h.knowledge_id, h.id desc
  ), status_after as (
    select distinct on (h.knowledge_id) h.knowledge_id, coalesce(h.from_status, h.to_status) as status
      from trail h where h.change = 'status' and h.changed_at > as_of order by h.knowledge_id, h.id
  ), place_before as (
    select distinct on (h.knowledge_id) h.knowledge_id, h.change = 'superseded' as is_superseded, h.superseded_by
      from trail h where h.change <> 'status' and h.changed_at <= as_of order by h.knowledge_id, h.id desc
  ), place_after as (
    select distinct on (h.knowledge_id) h.knowledge_id, h.valid_to_before
      from trail h where h.change <> 'status' and h.changed_at > as_of order by h.knowledge_id, h.id
  ), then_was as (
    select k.id, k.created_at <= as_of as existed,
           coalesce(sb.to_status, sa.status, k.validation_status)::text as validation_status,
           case when pb.knowledge_id is not null then pb.is_superseded
                when pa.knowledge_id is not null then false
                else k.superseded_by is not null end as is_superseded,
           case when pb.knowledge_id is not null then pb.superseded_by
                when pa.knowledge_id is null then k.superseded_by end as superseded_by,
           k.valid_from,
           case when pa.knowledge_id is not null then pa.valid_to_before else k.valid_to end as valid_to
      from public.knowledge_items k
      left join status_before sb on sb.knowledge_id = k.id
      left join status_after sa on sa.knowledge_id = k.id
      left join place_before pb on pb.knowledge_id = k.id
      left join place_after pa on pa.knowledge_id = k.id
     where k.id = any (status_at.knowledge_ids)
  )
  select t.id, t.existed, t.validation_status, t.is_superseded, t.superseded_by, t.valid_from, t.valid_to,
         t.existed and t.validation_status <> 'deprecated' and not t.is_superseded
           and (t.valid_from is null or t.valid_from <= as_of) and (t.valid_to is null or t.valid_to > as_of)
    from then_was t
$$;
comment on function private.status_at(timestamptz, uuid[]) is
  'What these items were at a moment, for those that the caller may see: whether they existed, their status, whether and by what they were superseded, their validity, and whether all that let a search return them (in_force).';

-- definer because whoever undoes a supersession, or erases what superseded, need not see this item's trail.
create function private.restore_validity()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_before timestamptz;
  v_after timestamptz;
begin
  -- The validity from before the first of the supersessions that are undone, unless somebody has set another since.
  select (array_agg(h.valid_to_before order by h.id))[1], (array_agg(h.valid_to_after order by h.id desc))[1]
    into v_before, v_after
    from public.knowledge_status_history h
   where h.knowledge_id = new.id and h.change = 'superseded'
     and h.id > coalesce((select max(r.id) from public.knowledge_status_history r
                           where r.knowledge_id = new.id and r.change = 'restored'), 0);
  if new.valid_to is not distinct from v_after then
    new.valid_to := v_before;
  end if;
  return new;
end
$$;
comment on function private.restore_validity() is
  'Trigger: an item that nothing supersedes any more holds as long as it did before, however that came about.';
create trigger knowledge_items_restore_validity before update of superseded_by on public.knowledge_items
  for each row when (old.superseded_by is not null and new.superseded_by is null
                     and new.valid_to is not distinct from old.valid_to)
  execute function private.restore_validity();

create function private.lock_supersession(workspace_id uuid)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  select pg_advisory_xact_lock(hashtextextended('knowledge-persistence: supersession ' || workspace_id::text, 0))
$$;
comment on function private.lock_supersession(uuid) is
  'Lets one transaction at a time change what supersedes what in a workspace, so that no two make a circle together.';

create type public.superseded_knowledge as (
  knowledge_id uuid, superseded_by uuid, valid_to timestamptz, outcome text
);
comment on type public.superseded_knowledge is 'What supersedes an item after a call. outcome: superseded, restored or unchanged.';

-- definer because superseded_by is not the caller's to write. It is called for items that the caller has just read.
create function private.write_supersession(knowledge_id uuid, replacement_id uuid)
returns setof public.superseded_knowledge
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_item public.knowledge_items;
  v_replacement public.knowledge_items;
  v_next uuid;
  v_after timestamptz;
begin
  -- Called directly too: what the caller may not see is not there, and is neither locked nor told apart.
  if exists (select from unnest(array[write_supersession.knowledge_id, write_supersession.replacement_id]) named (id)
              where named.id is not null
                and named.id not in (select private.visible_items(
                  array[write_supersession.knowledge_id, write_supersession.replacement_id]))) then
    perform private.fail('PT404', 'no such knowledge item');
  end if;
  select k.* into v_item from public.knowledge_items k where k.id = write_supersession.knowledge_id;
  perform private.lock_supersession(v_item.workspace_id);
  perform from public.knowledge_items k
    where k.id in (write_supersession.knowledge_id, write_supersession.replacement_id)
    order by k.id for no key update;
  select k.* into v_item from public.knowledge_items k where k.id = write_supersession.knowledge_id;
  if v_item.id is null then
    perform private.fail('PT404', 'no such knowledge item');
  end if;
  if not private.is_trusted() and v_item.workspace_id not in (select private.maintained_workspaces()) and not (
    v_item.owner_id is not distinct from auth.uid() and v_item.validation_status = 'pending'
    and v_item.workspace_id in (select private.writable_workspaces())) then
    perform private.fail('PT403', 'this item is not yours to supersede',
      'its author supersedes it while it is pending, maintainers and owners of the workspace at any time');
  end if;

  if exists (select from private.merged_items m where m.duplicate_id = v_item.id) then
    perform private.fail('PT409', 'this item is merged into another', 'unmerge_knowledge takes that back');
  end if;
  if write_supersession.replacement_id is null then
    if v_item.superseded_by is null then
      return query select v_item.id, null::uuid, v_item.valid_to, 'unchanged'::text;
      return;
    end if;
    begin
      update public.knowledge_items k set superseded_by = null where k.id = v_item.id
      returning k.valid_to into v_after;
    exception when unique_violation then
      perform private.fail('PT409', 'its owner has recorded the same text anew meanwhile',
        'keep that one, or deprecate it first');
    end;
    return query select v_item.id, null::uuid, v_after, 'restored'::text;
    return;
  end if;

  select k.* into v_replacement from public.knowledge_items k where k.id = write_supersession.replacement_id;
  if v_replacement.id is null then
    perform private.fail('PT404', 'no such knowledge item');
  end if;
  if v_replacement.id = v_item.id then
    perform private.fail('PT400', 'an item does not supersede itself');
  end if;
  if v_replacement.workspace_id <> v_item.workspace_id then
    perform private.fail('PT400', 'the items lie in two workspaces', 'an item is superseded within its workspace');
  end if;
  if v_replacement.validation_status = 'deprecated' then
    perform private.fail('PT409', 'the replacement is deprecated');
  end if;
  if private.is_valid_now(v_item) and v_replacement.superseded_by is null and not private.is_valid_now(v_replacement) then
    perform private.fail('PT409', 'the replacement does not hold now, and the item does',
      'wait until it does, or change its valid_from and valid_to');
  end if;
  if v_item.validation_status in ('validated', 'needs_update')
     and v_replacement.validation_status not in ('validated', 'needs_update') then
    perform private.fail('PT409', 'the workspace can''t see the replacement yet',
      'validate the replacement first: until then it would only lose what it has');
  end if;
  if v_item.superseded_by = v_replacement.id then
    return query select v_item.id, v_item.superseded_by, v_item.valid_to, 'unchanged'::text;
    return;
  end if;
  v_next := v_replacement.superseded_by;
  while v_next is not null loop
    if v_next = v_item.id then
      perform private.fail('PT409', 'the replacement is itself superseded by this item, directly or through others',
        'supersede_knowledge with replacement_id null undoes a supersession');
    end if;
    select k.superseded_by into v_next from public.knowledge_items k where k.id = v_next;
  end loop;

  -- It was valid until its replacement became so, but for a validity that had not begun or was over already.
  v_after := least(now(), coalesce(v_replacement.valid_from, now()));
  if v_after <= v_item.valid_from or v_after >= v_item.valid_to then
    v_after := v_item.valid_to;
  end if;
  update public.knowledge_items k set superseded_by = v_replacement.id, valid_to = v_after where k.id = v_item.id;
  return query select v_item.id, v_replacement.id, v_after, 'superseded'::text;
end
$$;
comment on function private.write_supersession(uuid, uuid) is
  'Lets one item supersede another, or none, if the caller may decide that, and keeps chains free of circles.';

create function public.supersede_knowledge(knowledge_id uuid, replacement_id uuid default null)
returns setof public.superseded_knowledge
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  if not exists (select from public.knowledge_items k where k.id = supersede_knowledge.knowledge_id)
     or (supersede_knowledge.replacement_id is not null and not exists (
       select from public.knowledge_items k where k.id = supersede_knowledge.replacement_id)) then
    perform private.fail('PT404', 'no such knowledge item');
  end if;
  return query select * from private.write_supersession(supersede_knowledge.knowledge_id, supersede_knowledge.replacement_id);
end
$$;
comment on function public.supersede_knowledge(uuid, uuid) is
  'Lets another item take the place of this one: it stops being valid and leaves retrieval, and stays readable. With replacement_id null it is undone. For its author while it is pending, for maintainers and owners of the workspace always.';

-- -- what follows a deletion -----------------------------------------------------------------------------------

-- definer because it reads items and writes documents that the eraser may not see.
create function private.refresh_documents_beside()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  -- Documents are widened by the two nearest neighbours that may be told, past any that may not; which those were
  -- when a document was built need not be those of today. So besides the close ones: all of the session that hold
  -- every word of what is gone. Where the workspace is gone too, nothing is left to refresh.
  perform private.refresh_search_documents('{}', array(
    select distinct k.id
      from erased e
      join public.workspaces w on w.id = e.workspace_id
      join public.knowledge_items k on k.created_in_session = e.created_in_session
      join private.search_documents d on d.knowledge_id = k.id
      cross join lateral (
        select tsvector_to_array(private.text_vector(
                 coalesce(e.text_search_config, private.language_config(e.title || ' ' || e.content, w.text_search_config))::regconfig,
                 e.title || ' ' || e.content)) as words offset 0) x
     where abs(k.session_position - e.session_position) <= 16 or x.words <@ tsvector_to_array(d.document)));
  return null;
end
$$;
comment on function private.refresh_documents_beside() is
  'Trigger: builds the search documents anew that may hold words of deleted items.';
create trigger knowledge_items_refresh_beside after delete on public.knowledge_items
  referencing old table as erased
  for each statement execute function private.refresh_documents_beside();

create function private.drop_provenance()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  new.created_by := null;
  return new;
end
$$;
comment on function private.drop_provenance() is
  'Trigger: an item that outlives its author''s account no longer says whose it was, nor in which session.';
create trigger knowledge_items_drop_provenance before update of owner_id on public.knowledge_items
  for each row when (old.owner_id is not null and new.owner_id is null)
  execute function private.drop_provenance();

-- definer because session counters are nobody's to write.
create function private.uncount_erased_items()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  -- Only links that went with their item: a session that is archived takes its links along, and its counts stay.
  perform from public.ai_sessions s
    where s.id in (select g.session_id from gone g
                    where not exists (select from public.knowledge_items k where k.id = g.knowledge_id))
    order by s.id for no key update;
  update public.ai_sessions s
     set knowledge_items_created = greatest(s.knowledge_items_created - c.created, 0),
         knowledge_items_accessed = greatest(s.knowledge_items_accessed - c.accessed, 0),
         breakthrough_moments = greatest(s.breakthrough_moments - c.breakthroughs, 0)
    from (select g.session_id,
                 count(*) filter (where g.interaction_type = 'created')::integer as created,
                 count(*) filter (where g.interaction_type = 'accessed')::integer as accessed,
                 count(*) filter (where g.interaction_type = 'breakthrough')::integer as breakthroughs
            from gone g
           where not exists (select from public.knowledge_items k where k.id = g.knowledge_id)
           group by g.session_id) c
   where s.id = c.session_id;
  return null;
end
$$;
comment on function private.uncount_erased_items() is 'Trigger: sessions no longer count items that are gone.';
create trigger session_knowledge_links_uncount_erased after delete on public.session_knowledge_links
  referencing old table as gone
  for each statement execute function private.uncount_erased_items();

create type public.forgotten_knowledge as (
  knowledge_id uuid, links_removed integer, relationships_removed integer, restored_ids uuid[]
);
comment on type public.forgotten_knowledge is
  'What went with an erased item; restored_ids: items that it had superseded and that nothing supersedes now.';

-- definer because nobody deletes items directly; it checks who asks.
create function private.erase_item(knowledge_id uuid)
returns setof public.forgotten_knowledge
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_item public.knowledge_items;
  v_kind text;
  v_links integer;
  v_relationships integer;
  v_retired uuid[];
  v_beside uuid[];
  v_chain uuid[];  -- itself and what it was merged into, step by step; empty when it is not merged
  v_one uuid;
begin
  select k.* into v_item
    from public.knowledge_items k
   where k.id = erase_item.knowledge_id and k.id in (select private.visible_items(array[erase_item.knowledge_id]));
  if v_item.id is null then
    perform private.fail('PT404', 'no such knowledge item');
  end if;
  if not private.is_trusted() and v_item.owner_id is distinct from auth.uid()
     and v_item.workspace_id not in (select private.maintained_workspaces()) then
    perform private.fail('PT403', 'only its owner and maintainers of the workspace erase an item',
      'rate_knowledge tells them that something is wrong with it');
  end if;
  perform private.lock_supersession(v_item.workspace_id);

  with recursive chain as (
    select m.duplicate_id, m.keep_id, 1 as step from private.merged_items m where m.duplicate_id = v_item.id
    union all
    select m.duplicate_id, m.keep_id, c.step + 1 from chain c join private.merged_items m on m.duplicate_id = c.keep_id
  )
  select array_agg(c.duplicate_id order by c.step), array_agg(c.keep_id) into v_chain, v_beside from chain c;
  v_beside := array(
    select v_item.id
    union select unnest(v_beside)
    union select k.id from public.knowledge_items k where k.superseded_by = v_item.id
    union select m.duplicate_id from private.merged_items m where m.keep_id = v_item.id);

  -- Whoever writes a record takes it before its item. What it was merged into may be a record where it is none.
  for v_kind in select distinct c.kind from private.companions c where c.knowledge_id = any (v_beside) order by 1 loop
    case v_kind
      when 'gotcha' then perform from public.technical_gotchas r where r.knowledge_id = any (v_beside) order by r.knowledge_id for update;
      when 'command' then perform from public.command_patterns r where r.knowledge_id = any (v_beside) order by r.knowledge_id for update;
      when 'interaction_pattern' then perform from public.interaction_patterns r where r.knowledge_id = any (v_beside) order by r.knowledge_id for update;
      when 'insight' then perform from public.experiential_knowledge r where r.knowledge_id = any (v_beside) order by r.knowledge_id for update;
      when 'decision' then perform from public.decision_evolution r where r.knowledge_id = any (v_beside) order by r.knowledge_id for update;
    end case;
  end loop;
  -- Recording takes a session's key and then items, an edit an item and then the key. Between the two, this takes
  -- the key and tries for the items; where somebody is at work on them it lets the key go, waits, and tries again.
  loop
    begin
      perform from private.session_keys s
        where s.session_id in (select k.created_in_session from public.knowledge_items k where k.id = any (v_beside))
        order by s.session_id for no key update;
      perform from public.knowledge_items k where k.id = any (v_beside) order by k.id for update nowait;
      exit;
    exception when lock_not_available then
      null;
    end;
    begin
      perform from public.knowledge_items k where k.id = any (v_beside) order by k.id for update;
      raise sqlstate 'KP000';  -- lets go of what was waited for
    exception when sqlstate 'KP000' then
      null;
    end;
  end loop;
  select k.* into v_item from public.knowledge_items k where k.id = erase_item.knowledge_id;
  if v_item.id is null then
    perform private.fail('PT404', 'no such knowledge item');  -- somebody else has erased it meanwhile
  end if;

  -- Merges are taken apart from the far end, and those that it has no part in put together again.
  for v_place in reverse coalesce(cardinality(v_chain), 0) .. 1 loop
    perform private.revert_merge(v_chain[v_place]);
  end loop;
  for v_one in select m.duplicate_id from private.merged_items m where m.keep_id = v_item.id order by m.duplicate_id loop
    perform private.revert_merge(v_one);
  end loop;
  for v_place in 2 .. coalesce(cardinality(v_chain), 0) loop
    perform private.apply_merge(
      (select k.superseded_by from public.knowledge_items k where k.id = v_chain[v_place]), v_chain[v_place], true);
  end loop;

  select count(*) into v_links from public.session_knowledge_links l where l.knowledge_id = v_item.id;
  select count(*) into v_relationships
    from public.knowledge_relationships r where v_item.id in (r.source_knowledge_id, r.target_knowledge_id);
  v_retired := array(select k.id from public.knowledge_items k where k.superseded_by = v_item.id order by k.id);
  -- What it had superseded passes to its successor. Without one it comes back, unless its owner has the same text or
  -- the same record alive: then that is what supersedes it.
  update public.knowledge_items k set superseded_by = heir.id
    from (
      select r.id as retired_id, coalesce(
               v_item.superseded_by,
               (select t.id from public.knowledge_items t
                 where t.workspace_id = r.workspace_id and t.content_hash = r.content_hash and t.owner_id = r.owner_id
                   and t.validation_status <> 'deprecated' and t.superseded_by is null and t.id <> v_item.id limit 1),
               (select t.knowledge_id from private.companions t
                 where t.workspace_id = r.workspace_id and t.kind = c.kind and t.signature = c.signature
                   and t.owner_id = r.owner_id and t.is_live and t.knowledge_id <> v_item.id limit 1),
               nullif(case when r.owner_id is not null then
                 first_value(r.id) over (partition by r.owner_id, r.content_hash order by r.id) end, r.id),
               nullif(case when r.owner_id is not null and c.kind is not null then
                 first_value(r.id) over (partition by r.owner_id, c.kind, c.signature order by r.id) end, r.id)) as id
        from public.knowledge_items r
        left join private.companions c on c.knowledge_id = r.id
       where r.superseded_by = v_item.id and r.validation_status <> 'deprecated'
    ) heir
   where k.id = heir.retired_id and heir.id is not null;
  delete from public.knowledge_items k where k.id = v_item.id;
  return query
    select v_item.id, v_links, v_relationships,
           array(select k.id from public.knowledge_items k
                  where k.id = any (v_retired) and k.superseded_by is null order by k.id);
end
$$;
comment on function private.erase_item(uuid) is 'Erases an item of the caller''s, or of a workspace that the caller maintains, with all that is about it.';

create function public.forget_knowledge(knowledge_id uuid, dry_run boolean default false)
returns setof public.forgotten_knowledge
language plpgsql
volatile
rows 1
set search_path = pg_catalog, pg_temp
as $$
declare
  v_gone public.forgotten_knowledge;
begin
  begin
    select e.* into v_gone from private.erase_item(forget_knowledge.knowledge_id) e;
    if forget_knowledge.dry_run then
      raise sqlstate 'KP000';  -- takes back what was tried
    end if;
  exception when sqlstate 'KP000' then
    null;
  end;
  return next v_gone;
end
$$;
comment on function public.forget_knowledge(uuid, boolean) is
  'Erases an item for good, with its record, links, relationships, history, search text and embedding: for its owner and for maintainers of the workspace. There is no undo; to take an item out of retrieval, supersede or deprecate it. With dry_run it says what would go, and nothing goes.';

revoke execute on function
  private.status_at(timestamptz, uuid[]), private.note_item_change(), private.restore_validity(),
  private.lock_supersession(uuid), private.write_supersession(uuid, uuid),
  public.supersede_knowledge(uuid, uuid), private.refresh_documents_beside(), private.drop_provenance(),
  private.uncount_erased_items(),
  private.erase_item(uuid), public.forget_knowledge(uuid, boolean)
  from public, anon, authenticated, service_role;
grant execute on function
  private.status_at(timestamptz, uuid[]), private.write_supersession(uuid, uuid), public.supersede_knowledge(uuid, uuid), private.erase_item(uuid),
  public.forget_knowledge(uuid, boolean)
  to authenticated, service_role;
