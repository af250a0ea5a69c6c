-- Duplicates: items that say the same in other words.
--
-- Owns: knowledge_duplicates (proposals and what became of them), private.merged_items (what a merge moved), the
-- functions that propose, merge, reject and undo.
--
-- Invariants
--   * What is found automatically is a proposal, with a strength and a reason. Only a person's decision merges, and
--     what was rejected or undone is not proposed again. Texts that differ in a number, a negation or an opposite
--     are no duplicates: discover_relationships proposes those as contradictions.
--   * A proposal is seen by whoever sees both items. A merge takes the right to supersede the duplicate.
--   * A merge loses nothing. The duplicate is superseded: its text, status and history stay readable. Its links,
--     ratings, counters and relationships go over to the kept item, as do its triggers where the caller may edit
--     that; of two records of one kind the counts and what was tried or observed go over, too. Two relationships
--     that would say the same thing, or close a cycle, stay where they are.
--   * A merge writes down what it moved, so that undoing takes exactly that back, whatever came on top since.
--   * An erasure undoes the merges of what it erases first, so that each side keeps, or loses, what was its own.
--   * Locks are taken in the order of knowledge_history: the workspace's chain of supersession, records by item,
--     items by id, the workspace's dependencies, then relationships. Of two merges that cross, the second finds its
--     item merged already.

set local lock_timeout = '5s';

create table public.knowledge_duplicates (
  id uuid not null default gen_random_uuid(),
  workspace_id uuid not null,
  owner_id uuid default auth.uid(),
  keep_id uuid not null,
  duplicate_id uuid not null,
  status varchar(20) not null default 'proposed',
  strength numeric(3,2) not null default 1.0,
  reason text,
  discovered_in_session uuid default private.current_session(),
  decided_by uuid,
  decided_at timestamptz,
  created_at timestamptz not null default now(),
  constraint knowledge_duplicates_pkey primary key (id),
  constraint knowledge_duplicates_workspace_id_fkey foreign key (workspace_id)
    references public.workspaces (id) on delete cascade,
  constraint knowledge_duplicates_owner_id_fkey foreign key (owner_id) references auth.users (id) on delete set null,
  constraint knowledge_duplicates_decided_by_fkey foreign key (decided_by) references auth.users (id) on delete set null,
  constraint knowledge_duplicates_keep_id_fkey foreign key (keep_id)
    references public.knowledge_items (id) on delete cascade,
  constraint knowledge_duplicates_duplicate_id_fkey foreign key (duplicate_id)
    references public.knowledge_items (id) on delete cascade,
  constraint knowledge_duplicates_discovered_in_session_fkey foreign key (discovered_in_session)
    references public.ai_sessions (id) on delete set null,
  constraint knowledge_duplicates_status_check check (status in ('proposed', 'rejected', 'merged', 'undone')),
  constraint knowledge_duplicates_strength_check check (strength between 0.0 and 1.0),
  constraint knowledge_duplicates_self_check check (keep_id <> duplicate_id)
);
create unique index knowledge_duplicates_pair_key
  on public.knowledge_duplicates (least(keep_id, duplicate_id), greatest(keep_id, duplicate_id));
create index knowledge_duplicates_keep_id_idx on public.knowledge_duplicates (keep_id);
create index knowledge_duplicates_duplicate_id_idx on public.knowledge_duplicates (duplicate_id);
create index knowledge_duplicates_workspace_id_idx on public.knowledge_duplicates (workspace_id, status, strength desc);
create index knowledge_duplicates_owner_id_idx on public.knowledge_duplicates (owner_id);
create index knowledge_duplicates_decided_by_idx on public.knowledge_duplicates (decided_by) where decided_by is not null;
create index knowledge_duplicates_discovered_in_session_idx on public.knowledge_duplicates (discovered_in_session)
  where discovered_in_session is not null;

alter table public.knowledge_duplicates enable row level security;
comment on table public.knowledge_duplicates is 'Pairs of items that seem to say the same: proposed by discover_duplicates, decided by people.';
comment on column public.knowledge_duplicates.id is 'The proposal.';
comment on column public.knowledge_duplicates.workspace_id is 'The workspace of both items.';
comment on column public.knowledge_duplicates.owner_id is 'Who had it proposed; null once that user''s account is deleted.';
comment on column public.knowledge_duplicates.keep_id is 'The item to keep: what is validated, rated and used rather than not, else the older one.';
comment on column public.knowledge_duplicates.duplicate_id is 'The item that would be superseded.';
comment on column public.knowledge_duplicates.status is 'proposed (waits for a decision), merged, rejected, or undone (merged once, and taken back).';
comment on column public.knowledge_duplicates.strength is '0 to 1: how sure.';
comment on column public.knowledge_duplicates.reason is 'Why, in words.';
comment on column public.knowledge_duplicates.discovered_in_session is 'The session in which it was proposed.';
comment on column public.knowledge_duplicates.decided_by is 'Who decided last.';
comment on column public.knowledge_duplicates.decided_at is 'When.';
comment on column public.knowledge_duplicates.created_at is 'When it was proposed.';

revoke all on public.knowledge_duplicates from public, anon, authenticated, service_role;
grant select on public.knowledge_duplicates to authenticated;
grant insert (keep_id, duplicate_id, strength, reason) on public.knowledge_duplicates to authenticated;
grant select, insert, update, delete on public.knowledge_duplicates to service_role;

create policy knowledge_duplicates_select_both on public.knowledge_duplicates for select to authenticated
  using (
    workspace_id = any (array(select private.my_workspaces()))
    and exists (select from public.knowledge_items k where k.id = keep_id)
    and exists (select from public.knowledge_items k where k.id = duplicate_id));
comment on policy knowledge_duplicates_select_both on public.knowledge_duplicates is
  'Whoever sees both items sees that they may be one.';
create policy knowledge_duplicates_insert_own on public.knowledge_duplicates for insert to authenticated
  with check (
    owner_id = (select auth.uid())
    and workspace_id = any (array(select private.writable_workspaces()))
    and status = 'proposed'
    and exists (select from public.knowledge_items k
                 where k.id = keep_id and k.workspace_id = knowledge_duplicates.workspace_id)
    and exists (select from public.knowledge_items k
                 where k.id = duplicate_id and k.workspace_id = knowledge_duplicates.workspace_id));
comment on policy knowledge_duplicates_insert_own on public.knowledge_duplicates is
  'Contributors and above propose pairs of items that they see, in their own name.';

-- definer because it locks items that the caller may see and not edit. Which items the caller may name is the policy's
-- to say, after this: a missing item and a hidden one are refused there alike.
create function private.prepare_duplicate()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform from public.knowledge_items k where k.id in (new.keep_id, new.duplicate_id) order by k.id for key share;
  select k.workspace_id into new.workspace_id from public.knowledge_items k where k.id = new.keep_id;
  return new;
end
$$;
comment on function private.prepare_duplicate() is 'Trigger: puts a proposal into the workspace of the item to keep.';
create trigger knowledge_duplicates_prepare before insert on public.knowledge_duplicates
  for each row execute function private.prepare_duplicate();

create table private.merged_items (
  duplicate_id uuid not null,
  keep_id uuid not null,
  merged_by uuid,
  link_ids uuid[] not null,
  source_relationship_ids uuid[] not null,
  target_relationship_ids uuid[] not null,
  triggers text[] not null,
  counters jsonb not null,
  record jsonb,
  merged_at timestamptz not null default clock_timestamp(),
  constraint merged_items_pkey primary key (duplicate_id),
  constraint merged_items_duplicate_id_fkey foreign key (duplicate_id)
    references public.knowledge_items (id) on delete cascade,
  constraint merged_items_keep_id_fkey foreign key (keep_id) references public.knowledge_items (id) on delete cascade,
  constraint merged_items_merged_by_fkey foreign key (merged_by) references auth.users (id) on delete set null
);
create index merged_items_keep_id_idx on private.merged_items (keep_id);
create index merged_items_merged_by_idx on private.merged_items (merged_by);
alter table private.merged_items enable row level security;
comment on table private.merged_items is 'What each standing merge has moved, so that it can be taken back.';
comment on column private.merged_items.duplicate_id is 'The item that was merged.';
comment on column private.merged_items.keep_id is 'The item that it was merged into.';
comment on column private.merged_items.merged_by is 'Whose decision it was.';
comment on column private.merged_items.link_ids is 'The links that went over.';
comment on column private.merged_items.source_relationship_ids is 'The relationships of which it was the source and the kept item now is.';
comment on column private.merged_items.target_relationship_ids is 'The relationships of which it was the target and the kept item now is.';
comment on column private.merged_items.triggers is 'The triggers that the kept item got.';
comment on column private.merged_items.counters is 'What was added to the kept item''s counters, by column.';
comment on column private.merged_items.record is 'What was added to the kept item''s record, by column: counts, and arrays of what was appended.';
comment on column private.merged_items.merged_at is 'When.';
revoke all on private.merged_items from public, anon, authenticated, service_role;
grant select on private.merged_items to service_role;

-- -- finding ---------------------------------------------------------------------------------------------------

create function private.folded_text_hash(title text, content text)
returns text
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
  -- Letters and digits of any script, and what tells one number or version from another.
  select md5(btrim(regexp_replace(lower((title || ' ' || content) collate pg_catalog."pg_c_utf8"), '[^[:alnum:]%+<>=-]+|[-](?![[:alnum:]])', ' ', 'g')))
$$;
comment on function private.folded_text_hash(text, text) is
  'A text''s identity but for case, punctuation and spacing.';
create index knowledge_items_folded_text_idx on public.knowledge_items
  (workspace_id, private.folded_text_hash(title, content));

create function private.word_overlap(one text, other text, config text)
returns double precision
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
  select count(*) filter (where w.in_one and w.in_other)::double precision / greatest(count(*), 1)
    from (select x.word, bool_or(x.side) as in_one, bool_or(not x.side) as in_other
            from (select unnest(tsvector_to_array(to_tsvector(config::regconfig, left(one, 20000)))) as word, true as side
                  union all
                  select unnest(tsvector_to_array(to_tsvector(config::regconfig, left(other, 20000)))), false) x
           group by x.word) w
$$;
comment on function private.word_overlap(text, text, text) is
  'How many of the words of two texts, stemmed and without those that every text has, are in both: 0 (none) to 1 (all); Jaccard''s index.';

-- definer because row-level security keeps the index on folded texts from being used, and because companions are not
-- the caller's to read. Both sides of each pair are checked under the visibility rule.
create function private.same_texts(knowledge_ids uuid[])
returns table (knowledge_id uuid, other_id uuid)
language plpgsql
volatile
rows 10
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_mine uuid[] := array(select private.visible_items(same_texts.knowledge_ids));
  v_ones uuid[];
  v_others uuid[];
begin
  select array_agg(k.id), array_agg(o.id) into v_ones, v_others
    from public.knowledge_items k
    join public.knowledge_items o
      on o.workspace_id = k.workspace_id
     and private.folded_text_hash(o.title, o.content) = private.folded_text_hash(k.title, k.content) and o.id <> k.id
   where k.id = any (v_mine) and o.validation_status <> 'deprecated' and o.superseded_by is null;
  return query
    select p.one, p.other
      from unnest(v_ones, v_others) p (one, other)
     where p.other in (select private.visible_items(v_others));
end
$$;
comment on function private.same_texts(uuid[]) is
  'For those of these items that the caller may see: the visible living items of the same text but for case, punctuation and spacing.';

-- definer because companions are not the caller's to read.
create function private.record_kinds(knowledge_ids uuid[])
returns table (knowledge_id uuid, kind text)
language sql
volatile
rows 10
security definer
set search_path = pg_catalog, pg_temp
as $$
  select c.knowledge_id, c.kind from private.companions c
   where c.knowledge_id in (select private.visible_items(record_kinds.knowledge_ids))
$$;
comment on function private.record_kinds(uuid[]) is
  'Which of these items, as far as the caller may see them, are rendered from a record, and of which kind.';

create type public.proposed_duplicate as (
  proposal_id uuid, keep_id uuid, keep_title text, keep_content text, duplicate_id uuid, duplicate_title text,
  duplicate_content text, strength double precision, reason text, status text, created_at timestamptz
);
comment on type public.proposed_duplicate is 'Two items that seem to say the same, side by side.';

create function public.duplicate_proposals(proposal_status text default 'proposed', max_results integer default 50)
returns setof public.proposed_duplicate
language plpgsql
stable
rows 50
set search_path = pg_catalog, pg_temp
as $$
declare
  v_workspace uuid := private.current_workspace();
begin
  if duplicate_proposals.proposal_status is null
     or duplicate_proposals.proposal_status not in ('proposed', 'merged', 'rejected', 'undone') then
    perform private.fail('PT400', format('%L is no status of a proposal', duplicate_proposals.proposal_status),
      'it is proposed, merged, rejected or undone');
  end if;
  if duplicate_proposals.max_results is null or duplicate_proposals.max_results not between 1 and 1000 then
    perform private.fail('PT400', 'max_results is between 1 and 1000');
  end if;
  return query
    select d.id, d.keep_id, k.title::text, k.content, d.duplicate_id, o.title::text, o.content,
           d.strength::double precision, d.reason, d.status::text, d.created_at
      from public.knowledge_duplicates d
      join public.knowledge_items k on k.id = d.keep_id
      join public.knowledge_items o on o.id = d.duplicate_id
     where d.workspace_id = v_workspace and d.status = duplicate_proposals.proposal_status
       -- What was retired since has decided itself.
       and (d.status <> 'proposed' or (
         k.validation_status <> 'deprecated' and k.superseded_by is null
         and o.validation_status <> 'deprecated' and o.superseded_by is null))
     order by d.strength desc, d.created_at, d.id
     limit duplicate_proposals.max_results;
end
$$;
comment on function public.duplicate_proposals(text, integer) is
  'The pairs of the current workspace that wait for a decision, the surest first; or those that were merged, rejected or undone.';

create function public.discover_duplicates(knowledge_id uuid default null, max_proposals integer default 20)
returns setof public.proposed_duplicate
language plpgsql
volatile
rows 20
set search_path = pg_catalog, pg_temp
as $$
declare
  v_workspace uuid;
  v_config text;
  v_around uuid[];
  v_filters private.item_filters;
begin
  if discover_duplicates.max_proposals is null or discover_duplicates.max_proposals not between 1 and 200 then
    perform private.fail('PT400', 'max_proposals is between 1 and 200');
  end if;
  if discover_duplicates.knowledge_id is null then
    v_workspace := private.current_workspace();
    if v_workspace is null then
      return;  -- a user who has not written anything has no duplicates
    end if;
  else
    select k.workspace_id into v_workspace
      from public.knowledge_items k where k.id = discover_duplicates.knowledge_id;
    if v_workspace is null then
      perform private.fail('PT404', 'no such knowledge item');
    end if;
  end if;
  if v_workspace not in (select private.writable_workspaces()) then
    perform private.fail('PT403', 'readers of a workspace propose nothing', 'ask an owner to make you a contributor');
  end if;
  select w.text_search_config into v_config from public.workspaces w where w.id = v_workspace;
  -- All of a small workspace; of a large one what changed last, and some of the rest, so that repeated calls come by.
  v_around := case when discover_duplicates.knowledge_id is not null then array[discover_duplicates.knowledge_id]
    else array(
      select k.id from (
        (select k.id from public.knowledge_items k
          where k.workspace_id = v_workspace and k.validation_status <> 'deprecated' and k.superseded_by is null
          order by k.updated_at desc limit 150)
        union
        (select k.id from public.knowledge_items k
          where k.workspace_id = v_workspace and k.validation_status <> 'deprecated' and k.superseded_by is null
          order by random() limit 150)) k)
    end;
  v_filters.workspace_id := v_workspace;
  v_filters.validation_statuses := '{pending,validated,needs_update}';
  v_filters.include_retired := false;

  return query
    with around as materialized (
      select k.id, k.title, k.content, k.content_embedding, k.embedding_model,
             case when k.content_embedding is not null
               then private.vector_scope(v_workspace, k.embedding_model, k.content_embedding) end as scope
        from public.knowledge_items k
       where k.id = any (v_around) and k.validation_status <> 'deprecated' and k.superseded_by is null
    ), near as materialized (
      -- Where the model says "related", half way and more from there to identical.
      select a.id, n.id as other_id, n.similarity
        from around a
        cross join lateral private.nearest_items(a.content_embedding, a.scope, v_filters, 6) n
       where a.content_embedding is not null and n.id <> a.id
         and n.similarity >= 0.6 + 0.4 * ((a.scope).model).similarity_threshold
    ), worded as materialized (
      -- Words stand in for a vector that isn't there yet.
      select a.id, w.knowledge_id as other_id
        from (select * from around where content_embedding is null limit 40) a
        cross join lateral private.keyword_candidates(v_workspace, a.title || ' ' || a.content, false, 6) w
       where w.knowledge_id <> a.id
    ), same as materialized (
      select s.knowledge_id as id, s.other_id
        from private.same_texts((select array_agg(a.id) from around a)) s
    ), pairs as materialized (
      select least(p.id, p.other_id) as one, greatest(p.id, p.other_id) as other, max(p.similarity) as similarity,
             bool_or(p.is_same) as is_same
        from (
          select n.id, n.other_id, n.similarity, false as is_same from near n
          union all select w.id, w.other_id, null, false from worded w
          union all select s.id, s.other_id, null, true from same s
        ) p
       group by 1, 2
    ), kinds as materialized (
      select r.knowledge_id, r.kind
        from private.record_kinds((select array_agg(p.one) || array_agg(p.other) from pairs p)) r
    ), judged as (
      select p.is_same, p.similarity, o.overlap, better.id as keep_id, worse.id as duplicate_id
        from pairs p
        join public.knowledge_items x on x.id = p.one
        join public.knowledge_items y on y.id = p.other
        left join kinds xk on xk.knowledge_id = x.id
        left join kinds yk on yk.knowledge_id = y.id
        cross join lateral (
          select private.word_overlap(x.title || ' ' || x.content, y.title || ' ' || y.content, v_config) as overlap) o
        cross join lateral (
          select (row(x.validation_status = 'validated', x.validation_status = 'needs_update', xk.kind is not null,
                      x.success_count + x.rating_count, x.access_count, -extract(epoch from x.created_at), y.id)
                  > row(y.validation_status = 'validated', y.validation_status = 'needs_update', yk.kind is not null,
                        y.success_count + y.rating_count, y.access_count, -extract(epoch from y.created_at), x.id)) as first) b
        cross join lateral (select case when b.first then x.id else y.id end as id) better
        cross join lateral (select case when b.first then y.id else x.id end as id) worse
       where x.workspace_id = v_workspace and y.workspace_id = v_workspace
         and (p.is_same or p.similarity >= 0.95 or o.overlap >= 0.6)
         -- Two projects may each have a fact of the same words; and a gotcha is not a decision.
         and (x.project_context is null or y.project_context is null or x.project_context = y.project_context)
         and (xk.kind is null or yk.kind is null or xk.kind = yk.kind)
         and (x.valid_from is null or x.valid_from <= now()) and (x.valid_to is null or x.valid_to > now())
         and (y.valid_from is null or y.valid_from <= now()) and (y.valid_to is null or y.valid_to > now())
         and private.contradiction(x.content, y.content, true) is null
    ), proposals as (
      select j.keep_id, j.duplicate_id,
             case when j.is_same then 1
               else round(least(1, (j.overlap + coalesce(j.similarity, j.overlap)) / 2)::numeric, 2) end as strength,
             concat_ws('; ',
               case when j.is_same then 'the same text but for case, punctuation or spacing' end,
               case when j.similarity is not null
                 then format('close in meaning (%s)', round(j.similarity::numeric, 2)) end,
               case when not j.is_same then format('%s %% of the words in common', round(100 * j.overlap)) end) as reason
        from judged j
       where not exists (  -- what was decided stands
         select from public.knowledge_duplicates d
          where least(d.keep_id, d.duplicate_id) = least(j.keep_id, j.duplicate_id)
            and greatest(d.keep_id, d.duplicate_id) = greatest(j.keep_id, j.duplicate_id))
       order by 3 desc, j.keep_id, j.duplicate_id
       limit discover_duplicates.max_proposals
    ), held as materialized (
      select private.hold_items(array(select p.keep_id from proposals p union select p.duplicate_id from proposals p)) as ids
    ), proposed as (
      insert into public.knowledge_duplicates as d (keep_id, duplicate_id, strength, reason)
      select p.keep_id, p.duplicate_id, p.strength, p.reason
        from proposals p
        join held h on p.keep_id = any (h.ids) and p.duplicate_id = any (h.ids)
       order by least(p.keep_id, p.duplicate_id), greatest(p.keep_id, p.duplicate_id)  -- one order for all
      on conflict do nothing
      returning d.*
    )
    select p.id, p.keep_id, k.title::text, k.content, p.duplicate_id, o.title::text, o.content,
           p.strength::double precision, p.reason, p.status::text, p.created_at
      from proposed p
      join public.knowledge_items k on k.id = p.keep_id
      join public.knowledge_items o on o.id = p.duplicate_id
     order by p.strength desc, p.id;
end
$$;
comment on function public.discover_duplicates(uuid, integer) is
  'Proposes duplicates of one item, or in the current workspace: the same text but for case and punctuation, or texts close in meaning (vectors of one model) that share their words. Returns what is newly proposed; nothing is merged before decide_duplicate or merge_knowledge.';

-- -- merging ---------------------------------------------------------------------------------------------------

create function private.record_tallies(kind text, out table_name text, out counts text[], out lists text[])
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select t.table_name, t.counts, t.lists
    from (values
      ('gotcha', 'technical_gotchas', '{frequency_encountered}'::text[], '{attempted_solutions}'::text[]),
      ('command', 'command_patterns', '{usage_count,success_count}', '{}'),
      ('interaction_pattern', 'interaction_patterns', '{pattern_frequency,effectiveness_sum,effectiveness_count}', '{examples}'),
      ('insight', 'experiential_knowledge', '{applied_successfully,applied_count,times_observed}', '{observations}')
    ) t (kind, table_name, counts, lists)
   where t.kind = record_tallies.kind
$$;
comment on function private.record_tallies(text) is
  'Where records of a kind are, and which of their columns add up or append when two are one. Decisions have none: their stages are an order.';

create function private.write_tallies(kind text, knowledge_id uuid, amounts jsonb, sign integer)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_tallies record;
  v_count text;
  v_sets text[] := '{}';
  v_list text;
begin
  select t.* into v_tallies from private.record_tallies(write_tallies.kind) t;
  foreach v_count in array v_tallies.counts loop
    v_sets := v_sets || format('%1$I = r.%1$I + %2$s * ($2 ->> %1$L)::bigint', v_count, sign);
  end loop;
  if 'effectiveness_count' = any (v_tallies.counts) then
    v_sets := v_sets || format(
      'effectiveness_score = round((r.effectiveness_sum + %1$s * ($2 ->> ''effectiveness_sum'')::bigint)::numeric
         / nullif(r.effectiveness_count + %1$s * ($2 ->> ''effectiveness_count'')::bigint, 0))', sign);
  end if;
  foreach v_list in array v_tallies.lists loop
    v_sets := v_sets || case when sign > 0
      then format('%1$I = r.%1$I || ($2 -> %1$L)', v_list)
      -- Of elements that are alike the last go, as many as came.
      else format(
        '%1$I = (select coalesce(jsonb_agg(e.element order by e.place), ''[]'')
                   from (select x.element, x.place, row_number() over (partition by x.element order by x.place desc) as from_end
                           from jsonb_array_elements(r.%1$I) with ordinality x (element, place)) e
                  where e.from_end > (select count(*) from jsonb_array_elements($2 -> %1$L) m (element)
                                       where m.element = e.element))', v_list) end;
  end loop;
  execute format('update public.%I r set %s where r.knowledge_id = $1', v_tallies.table_name, array_to_string(v_sets, ', '))
    using write_tallies.knowledge_id, write_tallies.amounts;
end
$$;
comment on function private.write_tallies(text, uuid, jsonb, integer) is
  'Adds (sign 1) what another record of its kind has counted and listed to a record, or takes it away again (sign -1).';

-- Not definer: with the caller's rights current_user is the role that was set, in the functions of a merge it is not, so
-- a setting that a caller makes counts for nothing.
create function private.keep_status_in_merge()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if current_user::text is distinct from current_setting('role') then
    new.validation_status := old.validation_status;
    new.validated_at := old.validated_at;
  end if;
  return new;
end
$$;
comment on function private.keep_status_in_merge() is
  'Trigger: triggers that come and go by a merge are no edit, which would make a validated item pending again.';
-- By its name after knowledge_items_prepare_update, whose say it takes back.
create trigger knowledge_items_prepare_update_in_merge before update of retrieval_triggers on public.knowledge_items
  for each row when (coalesce(current_setting('app.merging', true), '') = 'on')
  execute function private.keep_status_in_merge();

-- definer because it writes what is not the caller's; for definer functions that have checked and locked.
create function private.apply_merge(keep_id uuid, duplicate_id uuid, may_edit boolean)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_keep public.knowledge_items;
  v_duplicate public.knowledge_items;
  v_kind text;
  v_tallies record;
  v_record jsonb;
  v_links uuid[];
  v_triggers text[] := '{}';
  v_sources uuid[] := '{}';
  v_targets uuid[] := '{}';
  v_one record;
begin
  select k.* into v_keep from public.knowledge_items k where k.id = apply_merge.keep_id;
  select k.* into v_duplicate from public.knowledge_items k where k.id = apply_merge.duplicate_id;

  -- Who recorded the duplicate in which session stays with it. A session that recalled or marked both counts each.
  with moved as (
    update public.session_knowledge_links l set knowledge_id = v_keep.id
     where l.knowledge_id = v_duplicate.id and l.interaction_type <> 'created'
       and (l.interaction_type not in ('accessed', 'breakthrough') or not exists (
         select from public.session_knowledge_links o
          where o.knowledge_id = v_keep.id and o.session_id = l.session_id and o.interaction_type = l.interaction_type))
    returning l.id
  )
  select coalesce(array_agg(m.id), '{}') into v_links from moved m;

  if exists (select from public.knowledge_relationships r
              where v_duplicate.id in (r.source_knowledge_id, r.target_knowledge_id)) then
    perform private.lock_dependencies(v_duplicate.workspace_id);
  end if;
  for v_one in
    select r.id, r.source_knowledge_id = v_duplicate.id as is_source
      from public.knowledge_relationships r
     where v_duplicate.id in (r.source_knowledge_id, r.target_knowledge_id)
       and v_keep.id not in (r.source_knowledge_id, r.target_knowledge_id)
     order by r.id
  loop
    begin
      if v_one.is_source then
        update public.knowledge_relationships r set source_knowledge_id = v_keep.id where r.id = v_one.id;
        v_sources := v_sources || v_one.id;
      else
        update public.knowledge_relationships r set target_knowledge_id = v_keep.id where r.id = v_one.id;
        v_targets := v_targets || v_one.id;
      end if;
    exception when unique_violation or sqlstate 'PT409' then
      null;  -- the kept item has this one already, or it would close a cycle there
    end;
  end loop;

  select c.kind into v_kind
    from private.companions c join private.companions o on o.knowledge_id = v_keep.id and o.kind = c.kind
   where c.knowledge_id = v_duplicate.id;
  select t.* into v_tallies from private.record_tallies(v_kind) t;
  if v_tallies.table_name is not null then
    execute format('select to_jsonb(r) from public.%I r where r.knowledge_id = $1', v_tallies.table_name)
      into v_record using v_duplicate.id;
    select jsonb_object_agg(e.key, e.value) into v_record
      from jsonb_each(v_record) e where e.key = any (v_tallies.counts || v_tallies.lists);
    perform private.write_tallies(v_kind, v_keep.id, v_record, 1);
  end if;

  if may_edit and not exists (select from private.companions c where c.knowledge_id = v_keep.id) then
    v_triggers := array(
      select t.word from unnest(v_duplicate.retrieval_triggers) with ordinality t (word, place)
       where t.word is not null and not t.word = any (coalesce(v_keep.retrieval_triggers, '{}')) order by t.place);
  end if;
  update public.knowledge_items k
     set access_count = k.access_count + v_duplicate.access_count,
         last_accessed = greatest(k.last_accessed, v_duplicate.last_accessed),
         rating_sum = k.rating_sum + v_duplicate.rating_sum,
         rating_count = k.rating_count + v_duplicate.rating_count,
         success_count = k.success_count + v_duplicate.success_count,
         failure_count = k.failure_count + v_duplicate.failure_count
   where k.id = v_keep.id;
  if cardinality(v_triggers) > 0 then
    perform set_config('app.merging', 'on', true);
    update public.knowledge_items k set retrieval_triggers = private.merge_words(k.retrieval_triggers, v_triggers)
     where k.id = v_keep.id;
    perform set_config('app.merging', '', true);
  end if;
  update public.knowledge_items k set superseded_by = v_keep.id where k.id = v_duplicate.id;
  insert into private.merged_items (duplicate_id, keep_id, merged_by, link_ids, source_relationship_ids,
    target_relationship_ids, triggers, counters, record)
  values (v_duplicate.id, v_keep.id, auth.uid(), v_links, v_sources, v_targets, v_triggers,
    jsonb_build_object('access_count', v_duplicate.access_count, 'rating_sum', v_duplicate.rating_sum,
      'rating_count', v_duplicate.rating_count, 'success_count', v_duplicate.success_count,
      'failure_count', v_duplicate.failure_count),
    v_record);
end
$$;
comment on function private.apply_merge(uuid, uuid, boolean) is
  'Merges one item into another and writes down what it moved. Its callers have checked who asks, and hold the locks.';

-- definer for the same reason.
create function private.revert_merge(duplicate_id uuid)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_merged private.merged_items;
  v_kind text;
  v_id uuid;
begin
  delete from private.merged_items m where m.duplicate_id = revert_merge.duplicate_id returning m.* into v_merged;
  if v_merged.duplicate_id is null then
    return;
  end if;
  -- Since then either side may have been recalled or marked, too; a session keeps one link of a kind to each.
  update public.session_knowledge_links l set knowledge_id = v_merged.duplicate_id
   where l.id = any (v_merged.link_ids) and l.knowledge_id = v_merged.keep_id
     and (l.interaction_type not in ('accessed', 'breakthrough') or not exists (
       select from public.session_knowledge_links o
        where o.knowledge_id = v_merged.duplicate_id and o.session_id = l.session_id
          and o.interaction_type = l.interaction_type));
  if cardinality(v_merged.source_relationship_ids || v_merged.target_relationship_ids) > 0 then
    perform private.lock_dependencies(
      (select k.workspace_id from public.knowledge_items k where k.id = v_merged.duplicate_id));
  end if;
  foreach v_id in array v_merged.source_relationship_ids loop
    begin
      update public.knowledge_relationships r set source_knowledge_id = v_merged.duplicate_id
       where r.id = v_id and r.source_knowledge_id = v_merged.keep_id;
    exception when unique_violation or sqlstate 'PT409' then
      null;  -- somebody has stated it of the duplicate since: both stand
    end;
  end loop;
  foreach v_id in array v_merged.target_relationship_ids loop
    begin
      update public.knowledge_relationships r set target_knowledge_id = v_merged.duplicate_id
       where r.id = v_id and r.target_knowledge_id = v_merged.keep_id;
    exception when unique_violation or sqlstate 'PT409' then
      null;
    end;
  end loop;
  if v_merged.record is not null then
    select c.kind into v_kind from private.companions c where c.knowledge_id = v_merged.keep_id;
    perform private.write_tallies(v_kind, v_merged.keep_id, v_merged.record, -1);
  end if;
  update public.knowledge_items k
     set access_count = k.access_count - (v_merged.counters ->> 'access_count')::integer,
         rating_sum = k.rating_sum - (v_merged.counters ->> 'rating_sum')::integer,
         rating_count = k.rating_count - (v_merged.counters ->> 'rating_count')::integer,
         success_count = k.success_count - (v_merged.counters ->> 'success_count')::integer,
         failure_count = k.failure_count - (v_merged.counters ->> 'failure_count')::integer
   where k.id = v_merged.keep_id;
  perform set_config('app.merging', 'on', true);
  update public.knowledge_items k
     set retrieval_triggers = nullif(array(
           select t.word from unnest(k.retrieval_triggers) with ordinality t (word, place)
            where t.word <> all (v_merged.triggers) order by t.place), '{}')
   where k.id = v_merged.keep_id and k.retrieval_triggers && v_merged.triggers;
  perform set_config('app.merging', '', true);
  update public.knowledge_duplicates d set status = 'undone', decided_by = auth.uid(), decided_at = now()
   where d.duplicate_id = v_merged.duplicate_id and d.keep_id = v_merged.keep_id and d.status = 'merged';
end
$$;
comment on function private.revert_merge(uuid) is
  'Takes back what a merge moved, all but that the duplicate is superseded. Its callers have checked who asks, and hold the locks.';

create type public.merged_knowledge as (
  keep_id uuid, duplicate_id uuid, status text, outcome text, links_moved integer, relationships_moved integer,
  triggers_added text[]
);
comment on type public.merged_knowledge is
  'A pair after a decision. outcome: merged, rejected, undone, or unchanged; then what the merge moved, or gave back.';

-- definer because it locks records and items that the caller may see and not edit; for definer functions.
create function private.lock_pair(keep_id uuid, duplicate_id uuid)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_kind text;
begin
  perform private.lock_supersession(
    (select k.workspace_id from public.knowledge_items k where k.id = lock_pair.duplicate_id));
  for v_kind in
    select distinct (private.record_tallies(c.kind)).table_name from private.companions c
     where c.knowledge_id in (lock_pair.keep_id, lock_pair.duplicate_id) order by 1
  loop
    continue when v_kind is null;
    execute format('select from public.%I r where r.knowledge_id in ($1, $2) order by r.knowledge_id for no key update', v_kind)
      using lock_pair.keep_id, lock_pair.duplicate_id;
  end loop;
  perform from public.knowledge_items k
    where k.id in (lock_pair.keep_id, lock_pair.duplicate_id) order by k.id for no key update;
end
$$;
comment on function private.lock_pair(uuid, uuid) is 'Locks two items with their records, in the order in which everybody does.';

-- definer because superseded_by and counters are not the caller's to write; it checks who asks.
create function private.write_merge(keep_id uuid, duplicate_id uuid)
returns text
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_keep public.knowledge_items;
  v_duplicate public.knowledge_items;
  v_maintainer boolean;
  v_into uuid;
begin
  if exists (select from unnest(array[write_merge.keep_id, write_merge.duplicate_id]) named (id)
              where named.id is null or named.id not in (select private.visible_items(
                array[write_merge.keep_id, write_merge.duplicate_id]))) then
    perform private.fail('PT404', 'no such knowledge item');
  end if;
  if write_merge.keep_id = write_merge.duplicate_id then
    perform private.fail('PT400', 'an item is not its own duplicate');
  end if;
  perform private.lock_pair(write_merge.keep_id, write_merge.duplicate_id);
  select k.* into v_keep from public.knowledge_items k where k.id = write_merge.keep_id;
  select k.* into v_duplicate from public.knowledge_items k where k.id = write_merge.duplicate_id;
  if v_keep.id is null or v_duplicate.id is null then
    perform private.fail('PT404', 'no such knowledge item');  -- erased meanwhile
  end if;
  if v_keep.workspace_id <> v_duplicate.workspace_id then
    perform private.fail('PT400', 'the items lie in two workspaces', 'items are merged within their workspace');
  end if;
  v_maintainer := private.is_trusted() or v_duplicate.workspace_id in (select private.maintained_workspaces());
  if not v_maintainer and not (
    v_duplicate.owner_id is not distinct from auth.uid() and v_duplicate.validation_status = 'pending'
    and v_duplicate.workspace_id in (select private.writable_workspaces())) then
    perform private.fail('PT403', 'the duplicate is not yours to merge',
      'its author merges it while it is pending, maintainers and owners of the workspace at any time');
  end if;
  select m.keep_id into v_into from private.merged_items m where m.duplicate_id = v_duplicate.id;
  if v_into = v_keep.id then
    return 'unchanged';
  end if;
  if v_duplicate.superseded_by is not null or v_duplicate.validation_status = 'deprecated' then
    perform private.fail('PT409', 'the duplicate is out of retrieval already',
      'it is deprecated, superseded or merged; what is merged comes back with unmerge_knowledge');
  end if;
  if v_keep.superseded_by is not null or v_keep.validation_status = 'deprecated' then
    perform private.fail('PT409', 'the item to keep is itself deprecated, superseded or merged',
      'keep the item that took its place');
  end if;
  if private.is_valid_now(v_duplicate) and not private.is_valid_now(v_keep) then
    perform private.fail('PT409', 'the item to keep does not hold now, and the duplicate does',
      'keep the other one, or change valid_from and valid_to first');
  end if;
  if v_duplicate.validation_status in ('validated', 'needs_update')
     and v_keep.validation_status not in ('validated', 'needs_update') then
    perform private.fail('PT409', 'the workspace can''t see the item to keep yet',
      'validate it first, or keep the other one');
  end if;
  if exists (
    select from private.companions d left join private.companions k on k.knowledge_id = v_keep.id
     where d.knowledge_id = v_duplicate.id and k.kind is distinct from d.kind) then
    perform private.fail('PT409', 'the duplicate belongs to a record of a kind that the other has not',
      'keep the record and merge the other into it, or supersede it');
  end if;
  perform private.apply_merge(v_keep.id, v_duplicate.id,
    v_maintainer or (v_keep.owner_id is not distinct from auth.uid() and v_keep.validation_status = 'pending'));
  insert into public.knowledge_duplicates as d (workspace_id, keep_id, duplicate_id, status, reason, decided_by, decided_at)
  values (v_keep.workspace_id, v_keep.id, v_duplicate.id, 'merged', 'merged by hand', auth.uid(), now())
  on conflict (least(keep_id, duplicate_id), greatest(keep_id, duplicate_id)) do update set
    keep_id = excluded.keep_id, duplicate_id = excluded.duplicate_id, status = 'merged',
    decided_by = excluded.decided_by, decided_at = excluded.decided_at;
  return 'merged';
end
$$;
comment on function private.write_merge(uuid, uuid) is
  'Merges an item that the caller may supersede into another that the caller may see, and says whether it did.';

-- definer because what a merge moved is not the caller's to read.
create function private.merge_report(duplicate_id uuid, status text, outcome text)
returns setof public.merged_knowledge
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
  select m.keep_id, m.duplicate_id, merge_report.status, merge_report.outcome, cardinality(m.link_ids),
         cardinality(m.source_relationship_ids) + cardinality(m.target_relationship_ids), m.triggers
    from private.merged_items m
   where m.duplicate_id = merge_report.duplicate_id
     and 2 = (select count(*) from private.visible_items(array[m.keep_id, m.duplicate_id]))
$$;
comment on function private.merge_report(uuid, text, text) is 'What a standing merge moved, if the caller may see both items.';

create function public.merge_knowledge(keep_id uuid, duplicate_id uuid)
returns setof public.merged_knowledge
language plpgsql
volatile
rows 1
set search_path = pg_catalog, pg_temp
as $$
declare
  v_outcome text := private.write_merge(merge_knowledge.keep_id, merge_knowledge.duplicate_id);
begin
  return query select * from private.merge_report(merge_knowledge.duplicate_id, 'merged', v_outcome);
end
$$;
comment on function public.merge_knowledge(uuid, uuid) is
  'Makes two items one: the duplicate is superseded and stays readable, its links, ratings, counts, relationships and triggers go over to the kept item. unmerge_knowledge takes exactly that back. For the duplicate''s author while it is pending, for maintainers and owners of the workspace always.';

-- definer because a proposal's status is nobody's to write directly; it checks who may decide.
create function private.reject_duplicate(proposal_id uuid)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_proposal public.knowledge_duplicates;
begin
  select d.* into v_proposal
    from public.knowledge_duplicates d where d.id = reject_duplicate.proposal_id for no key update;
  if v_proposal.id is null or 2 > (
    select count(*) from private.visible_items(array[v_proposal.keep_id, v_proposal.duplicate_id])) then
    perform private.fail('PT404', 'no such proposal');
  end if;
  if v_proposal.status = 'merged' then
    perform private.fail('PT409', 'the two are merged already', 'unmerge_knowledge takes that back');
  end if;
  if not private.is_trusted() and v_proposal.workspace_id not in (select private.maintained_workspaces()) and not (
    v_proposal.workspace_id in (select private.writable_workspaces())
    and (v_proposal.owner_id is not distinct from auth.uid()
         or exists (select from public.knowledge_items k
                     where k.id in (v_proposal.keep_id, v_proposal.duplicate_id) and k.owner_id = auth.uid()))) then
    perform private.fail('PT403', 'this is not yours to decide',
      'a proposal is decided by who had it made, by the items'' authors and by maintainers of the workspace');
  end if;
  update public.knowledge_duplicates d set status = 'rejected', decided_by = auth.uid(), decided_at = now()
   where d.id = v_proposal.id and d.status <> 'rejected';
  return found;
end
$$;
comment on function private.reject_duplicate(uuid) is 'Rejects a proposal if the caller may decide it, and says whether that changed anything.';

create function public.decide_duplicate(proposal_id uuid, accept boolean, keep_id uuid default null)
returns setof public.merged_knowledge
language plpgsql
volatile
rows 1
set search_path = pg_catalog, pg_temp
as $$
declare
  v_proposal public.knowledge_duplicates;
  v_keep uuid;
  v_duplicate uuid;
begin
  if decide_duplicate.accept is null then
    perform private.fail('PT400', 'accept is true or false');
  end if;
  select d.* into v_proposal from public.knowledge_duplicates d where d.id = decide_duplicate.proposal_id;
  if v_proposal.id is null then
    perform private.fail('PT404', 'no such proposal');
  end if;
  if not decide_duplicate.accept then
    return query
      select v_proposal.keep_id, v_proposal.duplicate_id, 'rejected'::text,
             case when private.reject_duplicate(v_proposal.id) then 'rejected' else 'unchanged' end, 0, 0, '{}'::text[];
    return;
  end if;
  v_keep := coalesce(decide_duplicate.keep_id, v_proposal.keep_id);
  if v_keep not in (v_proposal.keep_id, v_proposal.duplicate_id) then
    perform private.fail('PT400', 'keep_id is one of the two items');
  end if;
  v_duplicate := case when v_keep = v_proposal.keep_id then v_proposal.duplicate_id else v_proposal.keep_id end;
  return query select * from public.merge_knowledge(v_keep, v_duplicate);
end
$$;
comment on function public.decide_duplicate(uuid, boolean, uuid) is
  'Accepts a proposal, which merges the two (keep_id names the one to keep, where that is not the one proposed), or rejects it, so that it is not made again.';

-- definer because superseded_by and counters are not the caller's to write; it checks who asks.
create function private.write_unmerge(duplicate_id uuid)
returns setof public.merged_knowledge
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_merged private.merged_items;
  v_workspace uuid;
begin
  select k.workspace_id into v_workspace
    from public.knowledge_items k
   where k.id = write_unmerge.duplicate_id and k.id in (select private.visible_items(array[write_unmerge.duplicate_id]));
  if v_workspace is null then
    perform private.fail('PT404', 'no such knowledge item');
  end if;
  perform private.lock_supersession(v_workspace);
  select m.* into v_merged from private.merged_items m where m.duplicate_id = write_unmerge.duplicate_id;
  if v_merged.duplicate_id is null then
    perform private.fail('PT409', 'this item is not merged into another',
      'supersede_knowledge with replacement_id null undoes a supersession');
  end if;
  if not private.is_trusted() and v_workspace not in (select private.maintained_workspaces()) and not (
    v_merged.merged_by is not distinct from auth.uid() and v_workspace in (select private.writable_workspaces())) then
    perform private.fail('PT403', 'this merge is not yours to undo',
      'who merged undoes it, and maintainers and owners of the workspace');
  end if;
  if exists (select from private.merged_items m where m.duplicate_id = v_merged.keep_id) then
    perform private.fail('PT409', 'the kept item has been merged into another since', 'undo that merge first');
  end if;
  perform private.lock_pair(v_merged.keep_id, v_merged.duplicate_id);
  return query select * from private.merge_report(v_merged.duplicate_id, 'undone', 'undone');
  perform private.revert_merge(v_merged.duplicate_id);
  begin
    update public.knowledge_items k set superseded_by = null
     where k.id = v_merged.duplicate_id and k.superseded_by = v_merged.keep_id;
  exception when unique_violation then
    perform private.fail('PT409', 'its owner has recorded the same text anew meanwhile',
      'keep that one, or deprecate it first');
  end;
end
$$;
comment on function private.write_unmerge(uuid) is 'Undoes a merge that the caller made, or in a workspace that the caller maintains.';

create function public.unmerge_knowledge(duplicate_id uuid)
returns setof public.merged_knowledge
language sql
volatile
rows 1
set search_path = pg_catalog, pg_temp
as $$ select * from private.write_unmerge($1) $$;
comment on function public.unmerge_knowledge(uuid) is
  'Undoes a merge: the duplicate is in force again, and gets back what went over to the kept item. What came to the kept item since stays there. For who merged, and for maintainers and owners of the workspace.';

revoke execute on function
  private.prepare_duplicate(), private.folded_text_hash(text, text), private.word_overlap(text, text, text),
  private.same_texts(uuid[]), private.record_kinds(uuid[]), private.record_tallies(text), private.keep_status_in_merge(),
  private.write_tallies(text, uuid, jsonb, integer), private.apply_merge(uuid, uuid, boolean),
  private.revert_merge(uuid), private.lock_pair(uuid, uuid), private.write_merge(uuid, uuid),
  private.merge_report(uuid, text, text), private.reject_duplicate(uuid), private.write_unmerge(uuid),
  public.duplicate_proposals(text, integer), public.discover_duplicates(uuid, integer),
  public.merge_knowledge(uuid, uuid), public.decide_duplicate(uuid, boolean, uuid), public.unmerge_knowledge(uuid)
  from public, anon, authenticated, service_role;
grant execute on function
  private.word_overlap(text, text, text), private.same_texts(uuid[]), private.record_kinds(uuid[]),
  public.discover_duplicates(uuid, integer)
  to authenticated;
-- The index on folded texts is kept by whoever writes items.
grant execute on function
  private.folded_text_hash(text, text), private.write_merge(uuid, uuid), private.merge_report(uuid, text, text),
  private.reject_duplicate(uuid), private.write_unmerge(uuid), public.duplicate_proposals(text, integer),
  public.merge_knowledge(uuid, uuid), public.decide_duplicate(uuid, boolean, uuid), public.unmerge_knowledge(uuid)
  to authenticated, service_role;
