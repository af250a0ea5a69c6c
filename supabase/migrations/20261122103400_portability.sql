-- Portability: a workspace as lines of text, and back.
--
-- Owns: export_header and export_records (what the caller may see of a workspace, one JSON object a line), the
-- import_… functions that take such lines in, private.imported_items (which line became which item), edit_knowledge.
--
-- Invariants
--   * An export reads as the caller: it holds what row-level security shows, and nothing else. What a merge moved is
--     told to maintainers and operators only.
--   * A line is written and read by the database, so that numbers of any length, times and vectors come back as they
--     were. A line that can't be taken in is answered with its reason, and the lines beside it go in.
--   * An import writes in the caller's name. A user can't make somebody else the author of anything: what others wrote
--     becomes the importer's, and who decided what is kept only of the importer's own doing. Links of others are left
--     out. The service keeps authors whose accounts are here, or as its map of people says; of the rest it makes
--     nobody's what may be nobody's (items, as when an account is deleted) and leaves out what may not.
--   * Status, counters, history and merges are what the workspace trusts by: they are taken over from maintainers,
--     owners and the service. What a contributor imports is pending and uncounted.
--   * Ids: an item that is in this workspace already, visible to the caller, is that item, and is never changed. Else
--     the service keeps an id that is free; a user's rows get ids made of workspace, importer and old id, so that
--     importing again finds them, and no answer tells whether a foreign id exists.
--   * Nobody chooses the id of an item: the setting that brings it to the trigger is heeded only where the import, as
--     the owner of the tables, inserts.
--   * Items come before what refers to them, retired ones before living ones: a retired item waits as deprecated until
--     its history follows, so that it stands in the way of no living item with the same text or signature.
--
-- Locks are taken as by the functions that record: one line is one item with its record.

set local lock_timeout = '5s';

create table private.imported_items (
  workspace_id uuid not null,
  imported_by uuid not null,
  source_id uuid not null,
  knowledge_id uuid not null,
  waits_for_history boolean not null,
  imported_at timestamptz not null default now(),
  constraint imported_items_pkey primary key (workspace_id, imported_by, source_id),
  constraint imported_items_workspace_id_fkey foreign key (workspace_id)
    references public.workspaces (id) on delete cascade,
  constraint imported_items_knowledge_id_fkey foreign key (knowledge_id)
    references public.knowledge_items (id) on delete cascade
);
create index imported_items_knowledge_id_idx on private.imported_items (knowledge_id);
alter table private.imported_items enable row level security;
comment on table private.imported_items is 'Which item a line of an import became, so that later lines and later imports find it.';
comment on column private.imported_items.workspace_id is 'The workspace that it was imported into.';
comment on column private.imported_items.imported_by is 'Who imported it; all zeros: the service.';
comment on column private.imported_items.source_id is 'Its id in the file.';
comment on column private.imported_items.knowledge_id is 'The item: made by the import, or one that said the same already.';
comment on column private.imported_items.waits_for_history is 'Whether the import made it and its history has not come yet: only then is it taken from the file.';
comment on column private.imported_items.imported_at is 'When.';
revoke all on private.imported_items from public, anon, authenticated, service_role;

-- -- export ----------------------------------------------------------------------------------------------------

-- definer because what a merge moved is nobody's to read directly; it checks who asks.
create function private.visible_merges(workspace_id uuid)
returns setof private.merged_items
language plpgsql
volatile
rows 10
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  if not private.is_trusted() and visible_merges.workspace_id not in (select private.maintained_workspaces()) then
    return;
  end if;
  return query
    select m.* from private.merged_items m
      join public.knowledge_items k on k.id = m.duplicate_id
     where k.workspace_id = visible_merges.workspace_id;
end
$$;
comment on function private.visible_merges(uuid) is 'The standing merges of a workspace that the caller maintains.';

create type public.exported_header as (header jsonb, state text);
comment on type public.exported_header is
  'What an export begins with, and a digest of what it will hold: the same before and after means that nothing changed in between.';

create function public.export_header(with_embeddings boolean default false)
returns setof public.exported_header
language plpgsql
stable
rows 1
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
  v_workspace uuid := private.current_workspace();
  v_counts jsonb;
  v_state text;
begin
  if v_workspace is null then
    perform private.fail('PT404', 'there is nothing to export', 'your personal workspace is made when you first record something');
  end if;
  with seen (section, id, version) as (
    select 'session', s.id::text, s.xmin::text from public.ai_sessions s where s.workspace_id = v_workspace
    -- The worker stores vectors all the time: they count where they are taken along.
    union all select 'item', k.id::text, case when export_header.with_embeddings then k.xmin::text
        else concat_ws(' ', k.updated_at, k.validation_status, k.superseded_by, k.owner_id, k.created_in_session, k.access_count,
          k.last_accessed, k.rating_count, k.rating_sum, k.success_count, k.failure_count) end
      from public.knowledge_items k where k.workspace_id = v_workspace
    union all select 'record', r.id::text, r.xmin::text from public.technical_gotchas r where r.workspace_id = v_workspace
    union all select 'record', r.id::text, r.xmin::text from public.command_patterns r where r.workspace_id = v_workspace
    union all select 'record', r.id::text, r.xmin::text from public.interaction_patterns r where r.workspace_id = v_workspace
    union all select 'record', r.id::text, case when export_header.with_embeddings then r.xmin::text
        else concat_ws(' ', r.updated_at, r.owner_id, r.created_in_session, r.applied_count, r.applied_successfully,
          r.times_observed, r.last_observed) end
      from public.experiential_knowledge r where r.workspace_id = v_workspace
    union all select 'record', r.id::text, r.xmin::text from public.decision_evolution r where r.workspace_id = v_workspace
    union all select 'history', h.id::text, h.xmin::text from public.knowledge_status_history h
      join public.knowledge_items k on k.id = h.knowledge_id where k.workspace_id = v_workspace
    union all select 'relationship', r.id::text, r.xmin::text from public.knowledge_relationships r where r.workspace_id = v_workspace
    union all select 'link', l.id::text, l.xmin::text from public.session_knowledge_links l
      join public.knowledge_items k on k.id = l.knowledge_id where k.workspace_id = v_workspace
    union all select 'duplicate', d.id::text, d.xmin::text from public.knowledge_duplicates d where d.workspace_id = v_workspace
    union all select 'merge', m.duplicate_id::text, m.merged_at::text from private.visible_merges(v_workspace) m
    union all select 'test', t.id::text, t.xmin::text from public.knowledge_validation_tests t where t.workspace_id = v_workspace
    union all select 'result', r.id::text, r.xmin::text from public.validation_test_results r where r.workspace_id = v_workspace
  ), sections as (
    select s.section, count(*) as how_many, sum(hashtextextended(s.id || ' ' || s.version, 0)) as digest
      from seen s group by s.section
  )
  select jsonb_object_agg(s.section, s.how_many), md5(string_agg(concat_ws(' ', s.section, s.how_many, s.digest), ',' order by s.section))
    into v_counts, v_state
    from sections s;
  return query
    select jsonb_build_object(
             'kind', 'header', 'format', 'knowledge-persistence', 'version', 1, 'exported_at', now(),
             'exported_by', auth.uid(), 'with_embeddings', export_header.with_embeddings,
             'workspace', jsonb_build_object('id', w.id, 'name', w.name, 'description', w.description,
               'is_personal', w.personal_owner_id is not null, 'text_search_config', w.text_search_config,
               'retrieval_weights', w.retrieval_weights,
               'embedding_model', w.embedding_model, 'created_at', w.created_at),
             'members', (select coalesce(jsonb_agg(jsonb_build_object('user_id', m.user_id, 'role', m.role) order by m.user_id), '[]')
                           from public.workspace_members m where m.workspace_id = w.id),
             'counts', coalesce(v_counts, '{}')),
           coalesce(v_state, 'empty')
      from public.workspaces w where w.id = v_workspace;
end
$$;
comment on function public.export_header(boolean) is
  'What an export of the current workspace begins with: where it comes from, and how many rows of what the caller sees.';

create type public.exported_record as (key text, line text);
comment on type public.exported_record is 'One line of an export, and the key after which the next page begins.';

create function public.export_records(
  section text, after text default null, max_rows integer default 500, with_embeddings boolean default false,
  item_context jsonb default null
)
returns setof public.exported_record
language plpgsql
stable
rows 500
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
  v_workspace uuid := private.current_workspace();
  v_after text := coalesce(export_records.after, '');
begin
  if export_records.max_rows is null or export_records.max_rows not between 1 and 5000 then
    perform private.fail('PT400', 'max_rows is between 1 and 5000');
  end if;
  if export_records.section is null or export_records.section not in (
    'session', 'item', 'history', 'relationship', 'link', 'duplicate', 'merge', 'test', 'result') then
    perform private.fail('PT400', format('%L is no section of an export', export_records.section),
      'session, item, history, relationship, link, duplicate, merge, test, result, in this order');
  end if;
  if v_workspace is null then
    return;
  end if;

  if export_records.section = 'session' then
    return query
      select s.id::text, jsonb_build_object('kind', 'session', 'id', s.id, 'session', to_jsonb(s))::text
        from public.ai_sessions s
       where s.workspace_id = v_workspace and s.id::text > v_after
       order by s.id::text limit export_records.max_rows;
  elsif export_records.section = 'item' then
    return query
      with page as materialized (
        select x.key, x.id
          from (select (case when k.validation_status = 'deprecated' or k.superseded_by is not null then '0' else '1' end) || k.id as key, k.id
                  from public.knowledge_items k
                 where k.workspace_id = v_workspace
                   and (export_records.item_context is null or k.context_data @> export_records.item_context)) x
         where x.key > v_after
         order by x.key limit export_records.max_rows
      )
      select p.key, (
               jsonb_build_object('kind', 'item', 'id', p.id,
                 'item', case when export_records.with_embeddings then to_jsonb(k)
                   else to_jsonb(k) - '{content_embedding,embedding_model}'::text[] end)
               || coalesce(
                 case when g.id is not null then jsonb_build_object('record_kind', 'gotcha', 'record', to_jsonb(g)) end,
                 case when c.id is not null then jsonb_build_object('record_kind', 'command', 'record', to_jsonb(c)) end,
                 case when i.id is not null then jsonb_build_object('record_kind', 'interaction_pattern', 'record', to_jsonb(i)) end,
                 case when e.id is not null then
                   jsonb_build_object('record_kind', 'insight', 'record', to_jsonb(e) - 'insight_embedding') end,
                 case when d.id is not null then jsonb_build_object('record_kind', 'decision', 'record', to_jsonb(d)) end,
                 '{}'))::text
        from page p
        join public.knowledge_items k on k.id = p.id
        left join public.technical_gotchas g on g.knowledge_id = p.id
        left join public.command_patterns c on c.knowledge_id = p.id
        left join public.interaction_patterns i on i.knowledge_id = p.id
        left join public.experiential_knowledge e on e.knowledge_id = p.id
        left join public.decision_evolution d on d.knowledge_id = p.id
       order by p.key;
  elsif export_records.section = 'history' then
    return query
      with page as materialized (
        select k.id, k.validation_status, k.superseded_by, k.validated_at, k.validated_by, k.updated_at, g.related_gotchas
          from public.knowledge_items k
          left join public.technical_gotchas g on g.knowledge_id = k.id
         where k.workspace_id = v_workspace and k.id::text > v_after
           and (k.superseded_by is not null or g.related_gotchas is not null
                or exists (select from public.knowledge_status_history h where h.knowledge_id = k.id))
         order by k.id::text limit export_records.max_rows
      )
      select p.id::text, jsonb_build_object('kind', 'history', 'id', p.id, 'item', to_jsonb(p),
               'entries', coalesce((select jsonb_agg(to_jsonb(h) order by h.id)
                                      from public.knowledge_status_history h where h.knowledge_id = p.id), '[]'))::text
        from page p order by p.id::text;
  elsif export_records.section = 'relationship' then
    return query
      select r.id::text, jsonb_build_object('kind', 'relationship', 'id', r.id, 'relationship', to_jsonb(r))::text
        from public.knowledge_relationships r
       where r.workspace_id = v_workspace and r.id::text > v_after
       order by r.id::text limit export_records.max_rows;
  elsif export_records.section = 'link' then
    return query
      select l.id::text, jsonb_build_object('kind', 'link', 'id', l.id, 'link', to_jsonb(l))::text
        from public.session_knowledge_links l
        join public.knowledge_items k on k.id = l.knowledge_id
       where k.workspace_id = v_workspace and l.id::text > v_after
       order by l.id::text limit export_records.max_rows;
  elsif export_records.section = 'duplicate' then
    return query
      select d.id::text, jsonb_build_object('kind', 'duplicate', 'id', d.id, 'duplicate', to_jsonb(d))::text
        from public.knowledge_duplicates d
       where d.workspace_id = v_workspace and d.id::text > v_after
       order by d.id::text limit export_records.max_rows;
  elsif export_records.section = 'merge' then
    return query
      select m.duplicate_id::text, jsonb_build_object('kind', 'merge', 'id', m.duplicate_id, 'merge', to_jsonb(m))::text
        from private.visible_merges(v_workspace) m
       where m.duplicate_id::text > v_after
       order by m.duplicate_id::text limit export_records.max_rows;
  elsif export_records.section = 'test' then
    return query
      -- When the worker runs it next is this deployment's business.
      select t.id::text, jsonb_build_object('kind', 'test', 'id', t.id, 'test',
               to_jsonb(t) - '{next_run_at,run_failure}'::text[])::text
        from public.knowledge_validation_tests t
       where t.workspace_id = v_workspace and t.id::text > v_after
       order by t.id::text limit export_records.max_rows;
  else
    return query
      select r.id::text, jsonb_build_object('kind', 'result', 'id', r.id, 'result', to_jsonb(r))::text
        from public.validation_test_results r
       where r.workspace_id = v_workspace and r.id::text > v_after
       order by r.id::text limit export_records.max_rows;
  end if;
end
$$;
comment on function public.export_records(text, text, integer, boolean, jsonb) is
  'A page of an export of the current workspace: what the caller sees of one section (session, item, history, relationship, link, duplicate, merge, test, result), one JSON object a line, from the key of the last one on; with item_context only items whose context_data holds it. Pages belong together when export_header says the same state before and after, or in one repeatable-read transaction.';

-- -- edit, as files in a folder are ---------------------------------------------------------------------------------

create type public.edited_knowledge as (
  knowledge_id uuid, outcome text, validation_status text, updated_at timestamptz
);
comment on type public.edited_knowledge is 'An item after an edit. outcome: edited or unchanged.';

create function public.edit_knowledge(
  knowledge_id uuid, changes jsonb, unchanged_since timestamptz default null, allow_credentials boolean default false
)
returns setof public.edited_knowledge
language plpgsql
volatile
rows 1
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_item public.knowledge_items;
  v_new public.knowledge_items;
  v_unknown text;
begin
  if jsonb_typeof(edit_knowledge.changes) is distinct from 'object' then
    perform private.fail('PT400', 'changes is an object of columns and their new values');
  end if;
  select c.key into v_unknown
    from jsonb_object_keys(edit_knowledge.changes) c (key)
   where c.key not in ('title', 'content', 'knowledge_type', 'category', 'subcategory', 'context_data', 'importance_score',
     'retrieval_triggers', 'project_context', 'valid_from', 'valid_to')
   limit 1;
  if v_unknown is not null then
    perform private.fail('PT400', format('%s is not edited', v_unknown),
      'it is title, content, knowledge_type, category, subcategory, context_data, importance_score, retrieval_triggers, project_context, valid_from or valid_to');
  end if;
  select k.* into v_item from public.knowledge_items k where k.id = edit_knowledge.knowledge_id;
  if v_item.id is null then
    perform private.fail('PT404', 'no such knowledge item');
  end if;
  if not (select a.is_editable from private.item_access(v_item.id) a) then
    perform private.fail('PT403', 'this item is not yours to edit',
      'its author edits it, and maintainers and owners of the workspace');
  end if;
  perform from public.knowledge_items k where k.id = v_item.id for no key update;
  select k.* into v_item from public.knowledge_items k where k.id = v_item.id;
  if v_item.updated_at is distinct from edit_knowledge.unchanged_since and edit_knowledge.unchanged_since is not null then
    perform private.fail('PT409', 'the item has changed since', 'read it again, and decide what becomes of the other change');
  end if;
  v_new := jsonb_populate_record(v_item, edit_knowledge.changes);
  if (v_new.title, v_new.content, v_new.knowledge_type, v_new.category, v_new.subcategory, v_new.context_data,
      v_new.importance_score, v_new.retrieval_triggers, v_new.project_context, v_new.valid_from, v_new.valid_to)
     is not distinct from
     (v_item.title, v_item.content, v_item.knowledge_type, v_item.category, v_item.subcategory, v_item.context_data,
      v_item.importance_score, v_item.retrieval_triggers, v_item.project_context, v_item.valid_from, v_item.valid_to) then
    return query select v_item.id, 'unchanged'::text, v_item.validation_status::text, v_item.updated_at;
    return;
  end if;
  -- Read by the trigger that refuses credentials, and set back below.
  perform set_config('app.allow_credentials', case when edit_knowledge.allow_credentials then 'on' else '' end, true);
  begin
    update public.knowledge_items k
       set title = v_new.title, content = v_new.content, knowledge_type = v_new.knowledge_type, category = v_new.category,
           subcategory = v_new.subcategory, context_data = v_new.context_data, importance_score = v_new.importance_score,
           retrieval_triggers = v_new.retrieval_triggers, project_context = v_new.project_context,
           valid_from = v_new.valid_from, valid_to = v_new.valid_to
     where k.id = v_item.id;
    if not found then
      perform private.fail('PT404', 'no such knowledge item', 'it was erased meanwhile, or is not yours to edit any more');
    end if;
  exception when unique_violation then
    perform private.fail('PT409', 'an item of this author''s says exactly this already', 'deprecate one of the two');
  end;
  perform set_config('app.allow_credentials', '', true);
  return query
    select k.id, 'edited'::text, k.validation_status::text, k.updated_at
      from public.knowledge_items k where k.id = v_item.id;
end
$$;
comment on function public.edit_knowledge(uuid, jsonb, timestamptz, boolean) is
  'Changes columns of an item: title, content, knowledge_type, category, subcategory, context_data, importance_score, retrieval_triggers, project_context, valid_from, valid_to. With unchanged_since (the updated_at that was read) an edit never overwrites another. An edit of a validated item by its author makes it pending again. What a record renders is edited in the record.';

-- -- import ----------------------------------------------------------------------------------------------------

create type private.import_context as (
  workspace_id uuid, user_id uuid, imported_by uuid, is_trusted boolean, is_full boolean, exported_by uuid, people jsonb
);
comment on type private.import_context is
  'Who imports what where: imported_by is the user or all zeros; is_full: status, counters and history are taken over; exported_by: whose export it is; people: ids in the file to ids here.';

create type public.imported_line as (
  line_index integer, kind text, source_id text, outcome text, target_id uuid, reason text
);
comment on type public.imported_line is
  'What became of a line. outcome: created, duplicate (something says the same already), unchanged (it is here), skipped (not the caller''s to import) or failed; reason says why. line_index counts from 0.';

create function private.import_person(context private.import_context, person uuid)
returns uuid
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when (context).is_trusted then
      (select u.id from auth.users u where u.id = coalesce(((context).people ->> person::text)::uuid, person))
    when person = (context).exported_by then (context).user_id end
$$;
comment on function private.import_person(private.import_context, uuid) is
  'Who a person of the file is here: for the service whoever has the account, for a user the user alone; null: nobody.';

create function private.import_derived_id(context private.import_context, source_id uuid)
returns uuid
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  -- RFC 9562 version 8: version and variant over a digest.
  select overlay(overlay(md5(concat_ws('/', 'knowledge-persistence import', (context).workspace_id, (context).imported_by, source_id))
    placing '8' from 13 for 1) placing '8' from 17 for 1)::uuid
$$;
comment on function private.import_derived_id(private.import_context, uuid) is
  'The id that an imported row has where it can''t keep its own: the same each time for the same importer, workspace and row.';

create function private.import_session_id(context private.import_context, source_id uuid)
returns uuid
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  -- The time stays: it is part of what a session's id is.
  select (left(replace(source_id::text, '-', ''), 12) || '7'
          || substr(replace(private.import_derived_id(context, source_id)::text, '-', ''), 14))::uuid
$$;
comment on function private.import_session_id(private.import_context, uuid) is 'As import_derived_id, for a session: a version 7 UUID of the same moment.';

create function private.import_session_of(context private.import_context, source_id uuid)
returns uuid
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select s.id from public.ai_sessions s
   where s.id in (import_session_of.source_id, private.import_session_id(context, import_session_of.source_id))
     and s.workspace_id = (context).workspace_id
     and ((context).is_trusted or s.owner_id = (context).user_id)
   order by s.id = import_session_of.source_id desc limit 1
$$;
comment on function private.import_session_of(private.import_context, uuid) is 'The session of the importer''s that a session of the file is here, or null.';

create function private.import_item_of(context private.import_context, source_id uuid)
returns uuid
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  select c.id
    from (
      select k.id, 1 as preference from public.knowledge_items k
       where k.id = import_item_of.source_id and k.workspace_id = (context).workspace_id
      union all
      select k.id, 2 from public.knowledge_items k
       where k.id = private.import_derived_id(context, import_item_of.source_id) and k.workspace_id = (context).workspace_id
      union all
      select i.knowledge_id, 3 from private.imported_items i
       where i.workspace_id = (context).workspace_id and i.imported_by = (context).imported_by
         and i.source_id = import_item_of.source_id
    ) c
   where (context).is_trusted or exists (select from private.visible_items(array[c.id]))
   order by c.preference limit 1
$$;
comment on function private.import_item_of(private.import_context, uuid) is
  'The item that an item of the file is here, as far as the importer may see it, or null.';

create function private.import_items_of(context private.import_context, source_ids uuid[])
returns uuid[]
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(array_agg(x.found order by x.place), '{}')
    from (select private.import_item_of(context, s.id) as found, s.place
            from unnest(source_ids) with ordinality s (id, place)) x
   where x.found is not null
$$;
comment on function private.import_items_of(private.import_context, uuid[]) is 'Those of these items of the file that are here.';

-- The id that an item being imported will have. A setting that a caller makes counts for nothing: with the caller's rights
-- current_user is the role that was set, in the definer function of the import it is not.
create function private.imported_item()
returns uuid
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case when current_user::text is distinct from current_setting('role')
    then nullif(current_setting('app.imported_item', true), '')::uuid end
$$;
comment on function private.imported_item() is 'The id that the item of a record that is being imported will have; null when nothing is imported.';

create function private.keep_imported_id()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  new.id := coalesce(private.imported_item(), new.id);
  return new;
end
$$;
comment on function private.keep_imported_id() is 'Trigger: the item of a record that is being imported gets the id that the import says.';
create trigger knowledge_items_keep_imported_id before insert on public.knowledge_items
  for each row when (coalesce(current_setting('app.imported_item', true), '') <> '')
  execute function private.keep_imported_id();

create function private.is_dated(moment timestamptz)
returns boolean
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$ select $1 between '0002-01-01Z' and '9998-12-31Z' $$;
comment on function private.is_dated(timestamptz) is 'Whether every language has a date for a moment: it is finite, and its year has four digits.';

create function private.check_imported(body jsonb)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_list record;
begin
  if exists (select from jsonb_each(body) b
              where b.key in ('access_count', 'rating_sum', 'rating_count', 'success_count', 'failure_count', 'usage_count',
                      'frequency_encountered', 'pattern_frequency', 'effectiveness_sum', 'effectiveness_count',
                      'applied_count', 'applied_successfully', 'times_observed', 'session_position',
                      'knowledge_items_accessed', 'knowledge_items_created', 'breakthrough_moments')
                and case when jsonb_typeof(b.value) in ('number', 'string') and pg_input_is_valid(b.value #>> '{}', 'numeric')
                      then (b.value #>> '{}')::numeric > 10000000 end) then
    perform private.fail('PT400', 'a counter beyond 10000000 counts nothing');
  end if;
  if exists (select from jsonb_each_text(body) b
              where b.key in ('created_at', 'updated_at', 'last_accessed', 'last_used', 'last_observed', 'last_encountered',
                      'validated_at', 'changed_at', 'decided_at', 'merged_at', 'start_time', 'end_time',
                      'interaction_timestamp', 'test_executed_at')
                and case when pg_input_is_valid(b.value, 'timestamptz') then not private.is_dated(b.value::timestamptz) end) then
    perform private.fail('PT400', 'a time that is no time of anything that happened');
  end if;
  -- What functions append to, and check as they do.
  for v_list in
    select l.list, l.text, body -> l.list as entries
      from (values ('attempted_solutions', 'solution'), ('examples', null), ('observations', null),
        ('evolution_stages', 'understanding'), ('breakthrough_moments', null), ('evolution_timeline', 'event')
      ) l (list, text)
     where jsonb_typeof(body -> l.list) = 'array'
  loop
    if exists (
      select from jsonb_array_elements(v_list.entries) e (entry)
       where jsonb_typeof(e.entry) <> 'object'
          or (v_list.text is not null and jsonb_typeof(e.entry -> v_list.text) is distinct from 'string')
          or case when pg_input_is_valid(coalesce(e.entry ->> 'at', ''), 'timestamptz')
               then not private.is_dated((e.entry ->> 'at')::timestamptz) else true end
          or not pg_input_is_valid(coalesce(e.entry ->> 'stage', '1'), 'integer')
          or not pg_input_is_valid(coalesce(e.entry ->> 'session', gen_random_uuid()::text), 'uuid')
          or (v_list.list = 'attempted_solutions' and coalesce(e.entry ->> 'outcome', '') not in ('worked', 'failed', 'partial'))
         ) then
      perform private.fail('PT400', format('%s holds something else than this system writes there', v_list.list));
    end if;
    perform private.refuse_credential_in(v_list.entries::text);
  end loop;
  perform private.refuse_credential_in(body ->> 'failure_patterns');
end
$$;
comment on function private.check_imported(jsonb) is
  'Refuses what no function would have written into an item or a record: counters of any size, lists of another shape, credentials where functions look for them.';

create function private.import_item(context private.import_context, line jsonb, out outcome text, out target_id uuid, out reason text)
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_source uuid := (line ->> 'id')::uuid;
  v_item public.knowledge_items := jsonb_populate_record(null::public.knowledge_items, line -> 'item');
  v_kind text := line ->> 'record_kind';
  v_record jsonb := line -> 'record';
  v_record_id uuid := (line -> 'record' ->> 'id')::uuid;
  v_full boolean := (context).is_full;
  v_trusted boolean := (context).is_trusted;
  v_retired boolean := v_item.validation_status = 'deprecated' or v_item.superseded_by is not null;
  v_table text;
  v_signature text;
  v_columns text;
  v_owner uuid := case when v_trusted then private.import_person(context, v_item.owner_id) else (context).user_id end;
  v_session uuid := private.import_session_of(context, v_item.created_in_session);
  v_twins uuid[];
  v_taken boolean;
begin
  if v_source is null or jsonb_typeof(line -> 'item') is distinct from 'object' then
    perform private.fail('PT400', 'an item has an id and an object item');
  end if;
  target_id := private.import_item_of(context, v_source);
  if target_id is not null then
    outcome := 'unchanged';
    return;
  end if;
  perform private.check_imported(line -> 'item');
  if v_retired and not v_full then
    outcome := 'skipped';
    reason := 'deprecated or superseded: only maintainers and owners of the workspace import what is out of use';
    return;
  end if;
  if v_kind is not null then
    select t.table_name, t.signature into v_table, v_signature
      from (values
        ('gotcha', 'technical_gotchas', v_record ->> 'problem_signature'),
        ('command', 'command_patterns', v_record ->> 'command_signature'),
        ('interaction_pattern', 'interaction_patterns',
         private.pattern_signature(v_record ->> 'pattern_name', v_record ->> 'situation_type')),
        ('insight', 'experiential_knowledge', private.signature_of(lower((v_record ->> 'insight_title') collate pg_catalog."pg_c_utf8"))),
        ('decision', 'decision_evolution',
         private.decision_signature(v_record ->> 'decision_topic', v_record ->> 'project_context'))
      ) t (kind, table_name, signature)
     where t.kind = v_kind;
    if v_table is null or jsonb_typeof(v_record) is distinct from 'object' then
      perform private.fail('PT400', format('%L is no kind of record', v_kind),
        'it is gotcha, command, interaction_pattern, insight or decision, with an object record');
    end if;
    perform private.check_imported(v_record);
  end if;

  if not v_retired then
    -- What says the same already: the owner's own, else, for a user, whatever the user sees.
    v_twins := array(
      select k.id from public.knowledge_items k
       where k.workspace_id = (context).workspace_id
         and k.content_hash = private.content_hash(v_item.title, v_item.content, v_item.project_context)
         and k.validation_status <> 'deprecated' and k.superseded_by is null
         and (k.owner_id = v_owner or not v_trusted)
       union
      select c.knowledge_id from private.companions c
       where c.workspace_id = (context).workspace_id and c.kind = v_kind and c.signature = v_signature and c.is_live
         and c.owner_id = v_owner);
    select k.id into target_id
      from public.knowledge_items k
     where k.id = any (v_twins) and (v_trusted or k.id in (select private.visible_items(v_twins)))
     order by (k.owner_id = v_owner) desc nulls last, k.validated_at desc nulls last, k.id limit 1;
    if target_id is not null then
      insert into private.imported_items (workspace_id, imported_by, source_id, knowledge_id, waits_for_history)
      values ((context).workspace_id, (context).imported_by, v_source, target_id, false);
      outcome := 'duplicate';
      reason := 'it is here already, in the same words or with the same signature';
      return;
    end if;
  end if;

  target_id := case
    when v_trusted and not exists (select from public.knowledge_items k where k.id = v_source) then v_source
    else private.import_derived_id(context, v_source) end;
  -- A vector of a model that is not registered here is left to the worker.
  if v_item.content_embedding is not null and not exists (
    select from public.embedding_models m
     where m.name = v_item.embedding_model and m.dimensions = extensions.vector_dims(v_item.content_embedding)) then
    v_item.content_embedding := null;
    v_item.embedding_model := null;
    reason := 'its vector is made anew: the model is not registered here';
  end if;
  v_item.created_at := case when v_trusted then coalesce(v_item.created_at, now()) else least(v_item.created_at, now()) end;
  v_item.updated_at := case when v_trusted then coalesce(v_item.updated_at, now()) else least(v_item.updated_at, now()) end;
  v_item.validation_status := case when not v_full then 'pending' when v_retired then 'deprecated'
    else coalesce(v_item.validation_status, 'pending') end;

  if v_kind is null then
    insert into public.knowledge_items (id, workspace_id, owner_id, knowledge_type, category, subcategory, title, content,
      importance_score, retrieval_triggers, context_data, project_context, valid_from, valid_to, validation_status,
      validation_note, content_embedding, embedding_model)
    values (target_id, (context).workspace_id, v_owner, coalesce(v_item.knowledge_type, 'factual'),
      coalesce(v_item.category, 'general'), v_item.subcategory, v_item.title, v_item.content,
      coalesce(v_item.importance_score, 50), v_item.retrieval_triggers, v_item.context_data, v_item.project_context,
      v_item.valid_from, v_item.valid_to, v_item.validation_status, case when v_full then v_item.validation_note end,
      v_item.content_embedding, v_item.embedding_model);
  else
    if not v_full then
      v_record := v_record || case v_kind
        when 'gotcha' then '{"frequency_encountered": 1}'
        when 'command' then jsonb_build_object('usage_count', 1, 'success_count', ((v_record ->> 'success_count')::integer > 0)::integer)
        when 'interaction_pattern' then '{"pattern_frequency": 1, "effectiveness_score": null, "effectiveness_sum": 0, "effectiveness_count": 0}'
        when 'insight' then '{"times_observed": 1, "applied_count": 0, "applied_successfully": 0}'
        else '{}' end::jsonb;
    end if;
    execute format('select exists (select from public.%I r where r.id = $1)', v_table) into v_taken using v_record_id;
    v_record := v_record || jsonb_build_object(
      'id', case when v_trusted and not v_taken then v_record_id else private.import_derived_id(context, v_record_id) end,
      'workspace_id', (context).workspace_id, 'owner_id', v_owner, 'knowledge_id', null, 'related_gotchas', null,
      'discovery_session', private.import_session_of(context, (v_record ->> 'discovery_session')::uuid),
      'discovered_in_session', private.import_session_of(context, (v_record ->> 'discovered_in_session')::uuid),
      'created_in_session', private.import_session_of(context, (v_record ->> 'created_in_session')::uuid),
      'insight_embedding', null);
    select string_agg(format('r.%I', a.attname), ', ' order by a.attnum) into v_columns
      from pg_attribute a
     where a.attrelid = ('public.' || v_table)::regclass and a.attnum > 0 and not a.attisdropped and a.attgenerated = '';
    perform set_config('app.imported_item', target_id::text, true);
    perform set_config('app.decision_stage', 'follows', true);
    execute format('insert into public.%1$I (%2$s) select %3$s from jsonb_populate_record(null::public.%1$I, $1) r',
      v_table, replace(v_columns, 'r.', ''), v_columns) using v_record;
    perform set_config('app.imported_item', '', true);
    perform set_config('app.decision_stage', '', true);
    -- What the record's own trigger had worked out for a first sighting.
    if v_kind = 'interaction_pattern' then
      update public.interaction_patterns p
         set effectiveness_sum = (v_record ->> 'effectiveness_sum')::bigint,
             effectiveness_count = (v_record ->> 'effectiveness_count')::integer
       where p.knowledge_id = target_id;
    elsif v_kind = 'decision' then
      update public.decision_evolution d set current_understanding = v_record ->> 'current_understanding'
       where d.knowledge_id = target_id and d.current_understanding is distinct from v_record ->> 'current_understanding';
      update public.decision_evolution d set updated_at = (v_record ->> 'updated_at')::timestamptz where d.knowledge_id = target_id;
    end if;
    update public.knowledge_items k
       set importance_score = coalesce(v_item.importance_score, k.importance_score), context_data = v_item.context_data,
           subcategory = v_item.subcategory, valid_from = v_item.valid_from, valid_to = v_item.valid_to,
           content_embedding = v_item.content_embedding, embedding_model = v_item.embedding_model
     where k.id = target_id;
    if v_full then
      update public.knowledge_items k
         set validation_status = v_item.validation_status, validation_note = v_item.validation_note
       where k.id = target_id;
    end if;
    if v_item.content_embedding is not null then
      delete from private.embedding_jobs j where j.knowledge_id = target_id;
    end if;
  end if;

  -- Columns that came after this was written, where they are the author's to fill in.
  select string_agg(format('r.%I', a.attname), ', ' order by a.attnum) into v_columns
    from pg_attribute a
   where a.attrelid = 'public.knowledge_items'::regclass and a.attnum > 0 and not a.attisdropped
     and (line -> 'item') ? a.attname and has_column_privilege('authenticated', a.attrelid, a.attnum, 'insert')
     and a.attname <> all ('{workspace_id,owner_id,knowledge_type,category,subcategory,title,content,content_embedding,embedding_model,context_data,importance_score,retrieval_triggers,validation_status,project_context,created_in_session,session_position,valid_from,valid_to}');
  if v_columns is not null then
    execute format('update public.knowledge_items k set (%s) = (select %s from jsonb_populate_record(k, $1) r) where k.id = $2',
      replace(v_columns, 'r.', ''), v_columns)
      using line -> 'item', target_id;
  end if;

  -- Its place in its session before it takes it.
  update private.session_keys s set last_position = greatest(s.last_position, v_item.session_position)
   where s.session_id = v_session and v_item.session_position is not null;
  update public.knowledge_items k
     set created_in_session = v_session,
         session_position = case when v_session is not null then v_item.session_position end,
         created_by = case when v_trusted then v_item.created_by else coalesce(v_session, v_owner)::text end,
         created_at = coalesce(v_item.created_at, now()), updated_at = coalesce(v_item.updated_at, now())
   where k.id = target_id;
  if v_full then
    update public.knowledge_items k
       set access_count = coalesce(v_item.access_count, 0), last_accessed = coalesce(v_item.last_accessed, now()),
           rating_sum = coalesce(v_item.rating_sum, 0), rating_count = coalesce(v_item.rating_count, 0),
           success_count = coalesce(v_item.success_count, 0), failure_count = coalesce(v_item.failure_count, 0),
           validated_at = case when v_trusted then v_item.validated_at else least(v_item.validated_at, now()) end,
           validated_by = private.import_person(context, v_item.validated_by)
     where k.id = target_id;
  end if;
  perform private.refresh_search_documents(array[target_id]);
  -- What the triggers have noted is the import's doing; what became of the item comes with its history.
  delete from public.knowledge_status_history h where h.knowledge_id = target_id;
  insert into private.imported_items (workspace_id, imported_by, source_id, knowledge_id, waits_for_history)
  values ((context).workspace_id, (context).imported_by, v_source, target_id, v_full);
  outcome := 'created';
end
$$;
comment on function private.import_item(private.import_context, jsonb) is
  'Takes in an item with its record, or finds what it is here already.';

create function private.import_history(context private.import_context, line jsonb, out outcome text, out target_id uuid, out reason text)
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_item public.knowledge_items := jsonb_populate_record(null::public.knowledge_items, line -> 'item');
  v_by uuid;
  v_next uuid;
  v_since public.knowledge_status_history[];
  v_gotchas uuid[];
begin
  target_id := private.import_item_of(context, (line ->> 'id')::uuid);
  if target_id is null then
    perform private.fail('PT404', 'it tells of an item that is not here');
  end if;
  update private.imported_items i set waits_for_history = false
   where i.workspace_id = (context).workspace_id and i.imported_by = (context).imported_by
     and i.knowledge_id = target_id and i.source_id = (line ->> 'id')::uuid and i.waits_for_history;
  if not found then
    outcome := 'unchanged';
    return;
  end if;
  select array_agg(h order by h.id) into v_since from public.knowledge_status_history h where h.knowledge_id = target_id;
  if v_item.superseded_by is not null then
    perform private.lock_supersession((context).workspace_id);
    v_by := private.import_item_of(context, v_item.superseded_by);
    v_next := v_by;
    while v_next is not null loop
      if v_next = target_id then
        perform private.fail('PT409', 'what supersedes it is superseded by it, directly or through others');
      end if;
      select k.superseded_by into v_next from public.knowledge_items k where k.id = v_next;
    end loop;
    if v_by is null then
      reason := 'what superseded it is not here: it is deprecated';
    end if;
  end if;
  perform from public.knowledge_items k where k.id in (target_id, v_by) order by k.id for no key update;
  -- At once: for no moment is it alive.
  if v_by is not null then
    update public.knowledge_items k set validation_status = v_item.validation_status, superseded_by = v_by
     where k.id = target_id and k.superseded_by is null;
  end if;
  update public.knowledge_items k
     set validated_at = case when (context).is_trusted then v_item.validated_at else least(v_item.validated_at, now()) end,
         validated_by = private.import_person(context, v_item.validated_by), updated_at = coalesce(v_item.updated_at, k.updated_at)
   where k.id = target_id and v_since is null;
  perform private.refresh_search_documents(array[target_id]);

  v_gotchas := array(
    select g.id
      from jsonb_array_elements_text(case jsonb_typeof(line -> 'item' -> 'related_gotchas')
             when 'array' then line -> 'item' -> 'related_gotchas' else '[]' end) with ordinality r (id, place)
      join public.technical_gotchas g
        on g.id in (r.id::uuid, private.import_derived_id(context, r.id::uuid)) and g.workspace_id = (context).workspace_id
     where (context).is_trusted or g.knowledge_id in (select private.visible_items(array[g.knowledge_id]))
     order by r.place);
  if cardinality(v_gotchas) > 0 then
    update public.technical_gotchas g set related_gotchas = v_gotchas where g.knowledge_id = target_id;
  end if;

  perform private.check_imported(x.entry), private.refuse_credential_in(x.entry ->> 'note')
    from jsonb_array_elements(line -> 'entries') x (entry);
  delete from public.knowledge_status_history h where h.knowledge_id = target_id;
  insert into public.knowledge_status_history (knowledge_id, change, from_status, to_status, superseded_by,
    valid_to_before, valid_to_after, note, changed_by, changed_at)
  select target_id, e.change, e.from_status, e.to_status, private.import_item_of(context, e.superseded_by),
         e.valid_to_before, e.valid_to_after, e.note, private.import_person(context, e.changed_by),
         case when (context).is_trusted then e.changed_at else least(e.changed_at, now()) end
    from jsonb_array_elements(line -> 'entries') with ordinality x (entry, place)
    cross join lateral jsonb_populate_record(null::public.knowledge_status_history, x.entry) e
   order by x.place;
  insert into public.knowledge_status_history (knowledge_id, change, from_status, to_status, superseded_by,
    valid_to_before, valid_to_after, note, changed_by, changed_at)
  select s.knowledge_id, s.change, s.from_status, s.to_status, s.superseded_by, s.valid_to_before, s.valid_to_after,
         s.note, s.changed_by, s.changed_at
    from unnest(v_since) s order by s.id;
  outcome := 'created';
end
$$;
comment on function private.import_history(private.import_context, jsonb) is
  'Gives an item that the import has made its history, and its place in a chain of supersession. What happened to it since the import stays, after the rest.';

create function private.import_reference(context private.import_context, line jsonb, out outcome text, out target_id uuid, out reason text)
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_kind text := line ->> 'kind';
  v_body jsonb := line -> v_kind;
  v_source uuid := (line ->> 'id')::uuid;
  v_derived uuid := private.import_derived_id(context, v_source);
  v_trusted boolean := (context).is_trusted;
  v_full boolean := (context).is_full;
  v_owner uuid := private.import_person(context, (line -> v_kind ->> 'owner_id')::uuid);
  v_table text := case v_kind when 'relationship' then 'knowledge_relationships' when 'link' then 'session_knowledge_links'
    when 'duplicate' then 'knowledge_duplicates' when 'test' then 'knowledge_validation_tests' else 'validation_test_results' end;
  v_ends uuid[];
  v_session uuid;
  v_session_named boolean := coalesce(line -> v_kind ->> 'session_id', line -> v_kind ->> 'discovered_in_session') is not null;
  v_free boolean;
  v_relationship public.knowledge_relationships;
  v_link public.session_knowledge_links;
  v_duplicate public.knowledge_duplicates;
  v_test public.knowledge_validation_tests;
  v_result public.validation_test_results;
begin
  if v_source is null or jsonb_typeof(v_body) is distinct from 'object' then
    perform private.fail('PT400', format('a %s has an id and an object of that name', v_kind));
  end if;
  perform private.check_imported(v_body);
  v_session := private.import_session_of(context, coalesce(v_body ->> 'session_id', v_body ->> 'discovered_in_session')::uuid);
  -- Rows of this workspace only: an id that is taken elsewhere is answered like one that is free.
  -- And such only as the caller may see: of others the answer must not tell that they are there.
  execute format(case v_kind
      when 'link' then 'select r.id from public.%I r join public.knowledge_items k on k.id = r.knowledge_id and k.workspace_id = $3
        where r.id in ($1, $2) and ($4 or r.owner_id = $5) limit 1'
      when 'relationship' then 'select r.id from public.%I r where r.id in ($1, $2) and r.workspace_id = $3
        and ($4 or (select count(*) = 2 from private.visible_items(array[r.source_knowledge_id, r.target_knowledge_id]))) limit 1'
      when 'duplicate' then 'select r.id from public.%I r where r.id in ($1, $2) and r.workspace_id = $3
        and ($4 or (select count(*) = 2 from private.visible_items(array[r.keep_id, r.duplicate_id]))) limit 1'
      else 'select r.id from public.%I r where r.id in ($1, $2) and r.workspace_id = $3 limit 1' end, v_table)
    into target_id using v_source, v_derived, (context).workspace_id, v_full, (context).user_id;
  if target_id is not null then
    outcome := 'unchanged';
    return;
  end if;
  execute format('select not exists (select from public.%I r where r.id = $1)', v_table) into v_free using v_source;
  target_id := case when v_trusted and v_free then v_source else v_derived end;
  outcome := 'created';

  case v_kind
  when 'relationship' then
    v_relationship := jsonb_populate_record(null::public.knowledge_relationships, v_body);
    v_ends := private.import_items_of(context, array[v_relationship.source_knowledge_id, v_relationship.target_knowledge_id]);
    if cardinality(v_ends) < 2 then
      perform private.fail('PT404', 'it relates an item that is not here');
    end if;
    if v_ends[1] = v_ends[2] then
      outcome := 'skipped';
      reason := 'its two items are one here';
      return;
    end if;
    if v_relationship.status = 'rejected' and not v_full then
      outcome := 'skipped';
      reason := 'what was rejected is imported by maintainers and owners of the workspace';
      return;
    end if;
    insert into public.knowledge_relationships (id, workspace_id, owner_id, source_knowledge_id, target_knowledge_id,
      relationship_type, strength, status, reason, relationship_context, discovered_in_session)
    values (target_id, (context).workspace_id, case when v_trusted then v_owner else (context).user_id end, v_ends[1],
      v_ends[2], v_relationship.relationship_type, v_relationship.strength, v_relationship.status, v_relationship.reason,
      v_relationship.relationship_context, v_session)
    on conflict do nothing;
    if not found then
      outcome := 'duplicate';
      target_id := null;
      reason := 'the same is stated of these items here';
      return;
    end if;
    update public.knowledge_relationships r
       set decided_by = case when v_relationship.decided_by is not null then private.import_person(context, v_relationship.decided_by) end,
           decided_at = v_relationship.decided_at,
           created_at = case when v_trusted then v_relationship.created_at else least(v_relationship.created_at, now()) end
     where r.id = target_id and r.source_knowledge_id = v_ends[1];
  when 'link' then
    v_link := jsonb_populate_record(null::public.session_knowledge_links, v_body);
    v_ends := private.import_items_of(context, array[v_link.knowledge_id]);
    if cardinality(v_ends) = 0 then
      perform private.fail('PT404', 'it links an item that is not here');
    end if;
    if v_owner is null or (v_session_named and v_session is null) or (v_link.interaction_type = 'validated' and not v_full) then
      outcome := 'skipped';
      target_id := null;
      reason := case when v_owner is null then 'whose doing it was has no account here, or is somebody else'
        when v_session is null then 'its session is not here' else 'what was validated is imported by maintainers' end;
      return;
    end if;
    insert into public.session_knowledge_links (id, session_id, knowledge_id, owner_id, interaction_type,
      interaction_timestamp, learning_context, effectiveness_rating, breakthrough_indicator, application_success, notes)
    values (target_id, v_session, v_ends[1], v_owner, v_link.interaction_type,
      case when v_trusted then v_link.interaction_timestamp else least(v_link.interaction_timestamp, now()) end,
      v_link.learning_context, v_link.effectiveness_rating, v_link.breakthrough_indicator, v_link.application_success,
      v_link.notes)
    on conflict do nothing;
    if not found then
      outcome := 'duplicate';
      target_id := null;
      reason := 'the session is linked to this item already';
    end if;
  when 'duplicate' then
    v_duplicate := jsonb_populate_record(null::public.knowledge_duplicates, v_body);
    v_ends := private.import_items_of(context, array[v_duplicate.keep_id, v_duplicate.duplicate_id]);
    if cardinality(v_ends) < 2 then
      perform private.fail('PT404', 'it compares an item that is not here');
    end if;
    if v_ends[1] = v_ends[2] or (v_duplicate.status <> 'proposed' and not v_full) then
      outcome := 'skipped';
      target_id := null;
      reason := case when v_ends[1] = v_ends[2] then 'its two items are one here'
        else 'what was decided is imported by maintainers and owners of the workspace' end;
      return;
    end if;
    insert into public.knowledge_duplicates (id, workspace_id, owner_id, keep_id, duplicate_id, status, strength, reason,
      discovered_in_session, decided_by, decided_at, created_at)
    values (target_id, (context).workspace_id, case when v_trusted then v_owner else (context).user_id end, v_ends[1],
      v_ends[2], v_duplicate.status, v_duplicate.strength, v_duplicate.reason, v_session,
      private.import_person(context, v_duplicate.decided_by), v_duplicate.decided_at, v_duplicate.created_at)
    on conflict do nothing;
    if not found then
      outcome := 'duplicate';
      target_id := null;
      reason := 'the two are compared here already';
    end if;
  when 'test' then
    v_test := jsonb_populate_record(null::public.knowledge_validation_tests, v_body);
    insert into public.knowledge_validation_tests (id, workspace_id, owner_id, test_name, test_category, test_scenario,
      expected_response, pass_criteria, difficulty_level, knowledge_types_tested, expected_knowledge_ids,
      forbidden_knowledge_ids, within_top, created_at, test_metadata, run_every)
    values (target_id, (context).workspace_id, case when v_trusted then v_owner else (context).user_id end,
      v_test.test_name, v_test.test_category, v_test.test_scenario, coalesce(v_test.expected_response, ''),
      coalesce(v_test.pass_criteria, ''), v_test.difficulty_level, v_test.knowledge_types_tested,
      private.import_items_of(context, v_test.expected_knowledge_ids),
      private.import_items_of(context, v_test.forbidden_knowledge_ids), coalesce(v_test.within_top, 5),
      coalesce(v_test.created_at, now()), v_test.test_metadata, v_test.run_every);
  else
    if not v_full then
      outcome := 'skipped';
      target_id := null;
      reason := 'results of tests are imported by maintainers and owners of the workspace';
      return;
    end if;
    v_result := jsonb_populate_record(null::public.validation_test_results, v_body);
    select t.id into v_test.id
      from public.knowledge_validation_tests t
     where t.id in (v_result.test_id, private.import_derived_id(context, v_result.test_id))
       and t.workspace_id = (context).workspace_id limit 1;
    if v_test.id is null then
      perform private.fail('PT404', 'it is the result of a test that is not here');
    end if;
    insert into public.validation_test_results (id, test_id, workspace_id, owner_id, session_id, test_executed_at,
      ai_response, pass_status, performance_score, response_time_seconds, retrieved, evaluator_notes, improvement_needed)
    values (target_id, v_test.id, (context).workspace_id, case when v_trusted then v_owner else (context).user_id end,
      v_session, v_result.test_executed_at, v_result.ai_response, v_result.pass_status, v_result.performance_score,
      v_result.response_time_seconds, private.import_retrieved(context, v_result.retrieved), v_result.evaluator_notes,
      v_result.improvement_needed);
  end case;
end
$$;
comment on function private.import_reference(private.import_context, jsonb) is
  'Takes in what refers to items: a relationship, link, duplicate, validation test or result.';

create function private.import_retrieved(context private.import_context, retrieved jsonb)
returns jsonb
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  select case when retrieved is not null then jsonb_build_object(
    'expected', (select coalesce(jsonb_agg(e.found || jsonb_build_object('knowledge_id', e.here) order by e.place), '[]')
                   from (select x.found, x.place, private.import_item_of(context, (x.found ->> 'knowledge_id')::uuid) as here
                           from jsonb_array_elements(retrieved -> 'expected') with ordinality x (found, place)) e
                  where e.here is not null),
    'forbidden', (select coalesce(jsonb_agg(e.found || jsonb_build_object('knowledge_id', e.here) order by e.place), '[]')
                    from (select x.found, x.place, private.import_item_of(context, (x.found ->> 'knowledge_id')::uuid) as here
                            from jsonb_array_elements(retrieved -> 'forbidden') with ordinality x (found, place)) e
                   where e.here is not null),
    'top', to_jsonb(private.import_items_of(context, array(
             select x.id::uuid from jsonb_array_elements_text(retrieved -> 'top') with ordinality x (id, place) order by x.place))))
  end
$$;
comment on function private.import_retrieved(private.import_context, jsonb) is 'What a search found, with the ids that the items have here.';

create function private.import_merge(context private.import_context, line jsonb, out outcome text, out target_id uuid, out reason text)
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_merge private.merged_items := jsonb_populate_record(null::private.merged_items, line -> 'merge');
  v_keep uuid := private.import_item_of(context, v_merge.keep_id);
  v_sources uuid[];
begin
  target_id := private.import_item_of(context, v_merge.duplicate_id);
  if not (context).is_full then
    outcome := 'skipped';
    reason := 'merges are imported by maintainers and owners of the workspace';
    return;
  end if;
  if target_id is null or v_keep is null then
    perform private.fail('PT404', 'it merges an item that is not here');
  end if;
  if exists (select from private.merged_items m where m.duplicate_id = target_id) then
    outcome := 'unchanged';
    return;
  end if;
  if not exists (select from public.knowledge_items k where k.id = target_id and k.superseded_by = v_keep)
     or (select count(*) from private.imported_items i
          where i.workspace_id = (context).workspace_id and i.imported_by = (context).imported_by
            and i.knowledge_id in (target_id, v_keep)) < 2 then
    outcome := 'skipped';
    reason := 'the two are not what they were when they were merged';
    return;
  end if;
  v_sources := v_merge.link_ids || v_merge.source_relationship_ids || v_merge.target_relationship_ids;
  v_sources := v_sources || array(select private.import_derived_id(context, s.id) from unnest(v_sources) s (id));
  insert into private.merged_items (duplicate_id, keep_id, merged_by, link_ids, source_relationship_ids,
    target_relationship_ids, triggers, counters, record, merged_at)
  values (target_id, v_keep, private.import_person(context, v_merge.merged_by),
    array(select l.id from public.session_knowledge_links l where l.id = any (v_sources) and l.knowledge_id = v_keep order by l.id),
    array(select r.id from public.knowledge_relationships r where r.id = any (v_sources) and r.source_knowledge_id = v_keep order by r.id),
    array(select r.id from public.knowledge_relationships r where r.id = any (v_sources) and r.target_knowledge_id = v_keep order by r.id),
    v_merge.triggers, v_merge.counters, v_merge.record, v_merge.merged_at);
  -- An erasure must be able to take it back: that is tried.
  begin
    perform private.revert_merge(target_id);
    raise sqlstate 'KP000';
  exception
    when sqlstate 'KP000' then
      null;
    when integrity_constraint_violation or data_exception then
      perform private.fail('PT400', 'what it says the merge moved is not there to be taken back');
  end;
  outcome := 'created';
end
$$;
comment on function private.import_merge(private.import_context, jsonb) is
  'Takes in what a merge had moved, so that it can be undone here, too.';

create function private.import_session(context private.import_context, line jsonb, out outcome text, out target_id uuid, out reason text)
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_session public.ai_sessions := jsonb_populate_record(null::public.ai_sessions, line -> 'session');
  v_source uuid := (line ->> 'id')::uuid;
  v_owner uuid := case when (context).is_trusted then private.import_person(context, v_session.owner_id) else (context).user_id end;
begin
  target_id := private.import_session_of(context, v_source);
  if target_id is not null then
    outcome := 'unchanged';
    return;
  end if;
  if v_owner is null then
    outcome := 'skipped';
    reason := 'whose session it was has no account here';
    return;
  end if;
  perform private.check_imported(line -> 'session');
  if v_session.start_time > now() + interval '1 hour' then
    perform private.fail('PT400', 'the session begins in the future');
  end if;
  if (context).is_trusted and exists (select from private.archived_sessions a where a.session_id = v_source) then
    outcome := 'skipped';
    reason := 'it is in the archive of this deployment: restore_sessions brings it back';
    return;
  end if;
  target_id := case
    when (context).is_trusted and not exists (select from public.ai_sessions s where s.id = v_source) then v_source
    else private.import_session_id(context, v_source) end;
  -- A name that its owner has given to another session here stays with that one.
  if exists (select from private.session_keys k
              where k.workspace_id = (context).workspace_id and k.owner_id = v_owner
                and k.session_identifier = v_session.session_identifier) then
    v_session.session_identifier := left(v_session.session_identifier, 150) || ' (imported ' || left(v_source::text, 13) || ')';
    reason := 'its name was taken: ' || v_session.session_identifier;
  end if;
  insert into public.ai_sessions (id, workspace_id, owner_id, session_identifier, project_context, start_time, end_time,
    knowledge_items_accessed, knowledge_items_created, breakthrough_moments, given_quality_score, computed_quality_score,
    session_metadata, user_feedback)
  values (target_id, (context).workspace_id, v_owner, v_session.session_identifier, v_session.project_context,
    v_session.start_time, case when (context).is_trusted then v_session.end_time else least(v_session.end_time, now()) end,
    coalesce(v_session.knowledge_items_accessed, 0), coalesce(v_session.knowledge_items_created, 0),
    coalesce(v_session.breakthrough_moments, 0), v_session.given_quality_score, v_session.computed_quality_score,
    v_session.session_metadata, v_session.user_feedback);
  outcome := 'created';
end
$$;
comment on function private.import_session(private.import_context, jsonb) is 'Takes in a session, as the importer''s own unless the service imports.';

-- definer because it writes times, counters and history, which are nobody's to write directly. It works out for itself
-- who asks, and what that one may import; the functions that it calls are granted to nobody.
create function private.import_lines(lines text[], exported_by uuid, people jsonb, dry_run boolean, allow_credentials boolean)
returns setof public.imported_line
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_context private.import_context;
  v_line jsonb;
  v_one public.imported_line;
  v_done public.imported_line[] := '{}';
  v_result record;
begin
  v_context.is_trusted := private.is_trusted();
  v_context.workspace_id := private.default_workspace();
  if not v_context.is_trusted then
    v_context.user_id := private.require_writer(v_context.workspace_id);
  end if;
  if private.current_session() is not null then
    perform private.fail('PT400', 'an import brings its own sessions', 'leave x-session-id out');
  end if;
  if import_lines.lines is null or cardinality(import_lines.lines) > 1000 then
    perform private.fail('PT400', 'lines is an array of at most 1000 lines of an export');
  end if;
  v_context.imported_by := coalesce(v_context.user_id, '00000000-0000-0000-0000-000000000000');
  v_context.is_full := v_context.is_trusted or v_context.workspace_id in (select private.maintained_workspaces());
  v_context.exported_by := import_lines.exported_by;
  v_context.people := case when v_context.is_trusted then coalesce(import_lines.people, '{}') else '{}' end;
  if jsonb_typeof(v_context.people) <> 'object' then
    perform private.fail('PT400', 'people is an object of ids in the file to ids here');
  end if;
  perform set_config('app.allow_credentials', case when import_lines.allow_credentials then 'on' else '' end, true),
    set_config('app.imported_item', '', true), set_config('app.decision_stage', '', true);  -- the caller's count for nothing

  begin
    for v_index in 1 .. coalesce(cardinality(import_lines.lines), 0) loop
      v_one := null;
      v_one.line_index := v_index - 1;
      begin
        v_line := import_lines.lines[v_index]::jsonb;
        v_one.kind := v_line ->> 'kind';
        v_one.source_id := v_line ->> 'id';
        if v_one.kind = 'session' then
          v_result := private.import_session(v_context, v_line);
        elsif v_one.kind = 'item' then
          v_result := private.import_item(v_context, v_line);
        elsif v_one.kind = 'merge' then
          v_result := private.import_merge(v_context, v_line);
        elsif v_one.kind in ('relationship', 'link', 'duplicate', 'test', 'result') then
          v_result := private.import_reference(v_context, v_line);
        elsif v_one.kind = 'history' then
          if v_context.is_full then
            v_result := private.import_history(v_context, v_line);
          else
            v_one.outcome := 'skipped';
            v_one.reason := 'history is imported by maintainers and owners of the workspace';
          end if;
        else
          perform private.fail('PT400', 'no line of an export that this version knows');
        end if;
        if v_one.outcome is null then
          v_one.outcome := v_result.outcome;
          v_one.target_id := v_result.target_id;
          v_one.reason := v_result.reason;
        end if;
      exception
        -- What is about the line, and nothing else: wrong data, a broken rule, a refusal of ours.
        when data_exception or integrity_constraint_violation or invalid_parameter_value
          or sqlstate 'PT400' or sqlstate 'PT403' or sqlstate 'PT404' or sqlstate 'PT409' or sqlstate 'PT422'
          or sqlstate 'PT451' then
        v_one.outcome := 'failed';
        v_one.reason := sqlerrm;
      end;
      v_done := v_done || v_one;
    end loop;
    if import_lines.dry_run then
      raise sqlstate 'KP000';  -- takes back what was tried
    end if;
  exception when sqlstate 'KP000' then
    null;
  end;
  perform set_config('app.allow_credentials', '', true);
  perform set_config('app.imported_item', '', true);
  perform set_config('app.decision_stage', '', true);
  return query select d.* from unnest(v_done) d order by d.line_index;
end
$$;
comment on function private.import_lines(text[], uuid, jsonb, boolean, boolean) is
  'Takes in lines of an export as the caller, each by itself, and says what became of each.';

create function public.import_records(
  lines text[], exported_by uuid default null, people jsonb default null, dry_run boolean default false,
  allow_credentials boolean default false
)
returns setof public.imported_line
language sql
volatile
rows 100
set search_path = pg_catalog, pg_temp
as $$ select * from private.import_lines($1, $2, $3, $4, $5) $$;
comment on function public.import_records(text[], uuid, jsonb, boolean, boolean) is
  'Takes lines of an export into the current workspace, up to 1000 a call, in the order of the file. A user''s import is in the user''s name; the service keeps authors (people: ids in the file to ids here). Idempotent: what is here stays as it is. A line that can''t be taken in is answered with the reason. With dry_run nothing is kept.';

-- definer because workspaces are written by these functions only.
create function private.restore_workspace(header jsonb, people jsonb)
returns setof public.workspaces
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_context private.import_context;
  v_id uuid := (header -> 'workspace' ->> 'id')::uuid;
  v_owner uuid;
begin
  if not private.is_trusted() then
    perform private.fail('PT403', 'only service_role restores a workspace', 'create_workspace makes one of your own to import into');
  end if;
  if v_id is null or coalesce(btrim(header -> 'workspace' ->> 'name'), '') = '' then
    perform private.fail('PT400', 'this is not the header of an export');
  end if;
  v_context.is_trusted := true;
  v_context.people := coalesce(restore_workspace.people, '{}');
  if not exists (select from public.workspaces w where w.id = v_id) then
    if (header -> 'workspace' ->> 'is_personal')::boolean then
      select p.id into v_owner
        from jsonb_array_elements(header -> 'members') m
        cross join lateral private.import_person(v_context, (m ->> 'user_id')::uuid) p (id)
       where p.id is not null and not exists (select from public.workspaces w where w.personal_owner_id = p.id) limit 1;
    end if;
    insert into public.workspaces (id, name, description, personal_owner_id, text_search_config, retrieval_weights,
      embedding_model, created_at)
    values (v_id, header -> 'workspace' ->> 'name', header -> 'workspace' ->> 'description', v_owner,
      coalesce(header -> 'workspace' ->> 'text_search_config', 'pg_catalog.english'),
      coalesce(header -> 'workspace' -> 'retrieval_weights', '{}'),
      (select m.name from public.embedding_models m where m.name = header -> 'workspace' ->> 'embedding_model'),
      coalesce((header -> 'workspace' ->> 'created_at')::timestamptz, now()));
    insert into public.workspace_members (workspace_id, user_id, role)
    select distinct on (p.id) v_id, p.id, m ->> 'role'
      from jsonb_array_elements(header -> 'members') m
      cross join lateral private.import_person(v_context, (m ->> 'user_id')::uuid) p (id)
     where p.id is not null
     order by p.id;
  end if;
  return query select w.* from public.workspaces w where w.id = v_id;
end
$$;
comment on function private.restore_workspace(jsonb, jsonb) is 'Makes the workspace of an export with those of its members that have accounts here, or finds it.';

create function public.import_workspace(header jsonb, people jsonb default null)
returns setof public.workspaces
language sql
volatile
rows 1
set search_path = pg_catalog, pg_temp
as $$ select * from private.restore_workspace($1, $2) $$;
comment on function public.import_workspace(jsonb, jsonb) is
  'Makes the workspace that an export is of, under its own id and with those of its members who have accounts here, or finds it. For service_role; a user imports into a workspace of the user''s own.';

revoke execute on function
  private.visible_merges(uuid), public.edit_knowledge(uuid, jsonb, timestamptz, boolean), public.export_header(boolean), public.export_records(text, text, integer, boolean, jsonb),
  private.import_person(private.import_context, uuid), private.import_derived_id(private.import_context, uuid),
  private.import_session_id(private.import_context, uuid), private.import_session_of(private.import_context, uuid),
  private.import_item_of(private.import_context, uuid), private.import_items_of(private.import_context, uuid[]),
  private.is_dated(timestamptz), private.check_imported(jsonb), private.import_item(private.import_context, jsonb), private.import_history(private.import_context, jsonb),
  private.import_reference(private.import_context, jsonb), private.import_retrieved(private.import_context, jsonb),
  private.import_merge(private.import_context, jsonb), private.import_session(private.import_context, jsonb),
  private.imported_item(), private.keep_imported_id(),
  private.import_lines(text[], uuid, jsonb, boolean, boolean),
  public.import_records(text[], uuid, jsonb, boolean, boolean), private.restore_workspace(jsonb, jsonb),
  public.import_workspace(jsonb, jsonb)
  from public, anon, authenticated, service_role;
grant execute on function
  private.imported_item(), private.visible_merges(uuid), public.export_header(boolean), public.export_records(text, text, integer, boolean, jsonb),
  private.import_lines(text[], uuid, jsonb, boolean, boolean),
  public.import_records(text[], uuid, jsonb, boolean, boolean)
  to authenticated, service_role;
grant execute on function private.restore_workspace(jsonb, jsonb), public.import_workspace(jsonb, jsonb) to service_role;
grant execute on function public.edit_knowledge(uuid, jsonb, timestamptz, boolean) to authenticated;
