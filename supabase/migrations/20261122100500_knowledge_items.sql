-- Knowledge items: the one searchable surface.
--
-- Owns: knowledge_items, the visibility rule, the recording of items.
--
-- Invariants, held by the trigger knowledge_items_prepare and the policies through every door
--   * An item belongs to one workspace and one owner, who wrote it. Neither can be forged or changed.
--   * A pending item is seen by its owner, in its session, and by maintainers; a validated one by the workspace.
--     Only maintainers and owners of the workspace validate; an edit of validated content by anyone else makes the
--     item pending again.
--   * The same text (title, content, project) is kept once per owner and workspace while it lives.
--   * A vector has the length of its registered model; when the text changes, the old vector goes. A vector of their
--     own choice is given to a validated item by maintainers and the worker only: it decides what the item is found by.
--   * Counters are not the caller's to write. Updates of counters alone touch no index (HOT) and fire no trigger.
--   * Items are not deleted by their users: they are superseded or deprecated, or erased by forget_knowledge.

set local lock_timeout = '5s';

create table public.knowledge_items (
  id uuid not null default gen_random_uuid(),
  title varchar(500) not null,
  content text not null,
  knowledge_type varchar(50) not null default 'factual',
  category varchar(100) not null default 'general',
  subcategory varchar(100),
  project_context varchar(200),
  validation_status varchar(20) not null default 'pending',
  importance_score integer not null default 50,
  retrieval_triggers text[],
  context_data jsonb,
  workspace_id uuid not null default private.default_workspace(),
  owner_id uuid default auth.uid(),
  created_in_session uuid,
  session_position bigint,
  created_by varchar(100),
  validated_at timestamptz,
  validated_by uuid,
  validation_note text,
  valid_from timestamptz,
  valid_to timestamptz,
  superseded_by uuid,
  text_search_config text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  last_accessed timestamptz not null default now(),
  access_count integer not null default 0,
  rating_sum integer not null default 0,
  rating_count integer not null default 0,
  success_count integer not null default 0,
  failure_count integer not null default 0,
  content_hash text not null,
  embedding_model varchar(200),
  content_embedding extensions.vector,
  constraint knowledge_items_pkey primary key (id),
  constraint knowledge_items_workspace_id_fkey foreign key (workspace_id)
    references public.workspaces (id) on delete cascade,
  constraint knowledge_items_owner_id_fkey foreign key (owner_id) references auth.users (id) on delete set null,
  constraint knowledge_items_validated_by_fkey foreign key (validated_by) references auth.users (id) on delete set null,
  constraint knowledge_items_created_in_session_fkey foreign key (created_in_session)
    references public.ai_sessions (id) on delete set null,
  constraint knowledge_items_superseded_by_fkey foreign key (superseded_by)
    references public.knowledge_items (id) on delete set null,
  constraint knowledge_items_embedding_model_fkey foreign key (embedding_model)
    references public.embedding_models (name),
  constraint knowledge_items_type_check check (knowledge_type in (
    'factual', 'procedural', 'contextual', 'relational', 'experiential', 'technical_discovery')),
  constraint knowledge_items_validation_status_check check (validation_status in (
    'pending', 'validated', 'needs_update', 'deprecated')),
  constraint knowledge_items_importance_score_check check (importance_score between 1 and 100),
  constraint knowledge_items_category_check check (btrim(category) <> ''),
  constraint knowledge_items_title_check check (title collate pg_catalog."pg_c_utf8" ~ '\S'),
  constraint knowledge_items_content_check check (content collate pg_catalog."pg_c_utf8" ~ '\S'
                                                        and octet_length(content) <= 65536),
  constraint knowledge_items_embedding_check check ((content_embedding is null) = (embedding_model is null)),
  constraint knowledge_items_validity_check check (valid_to > valid_from),
  constraint knowledge_items_superseded_by_check check (superseded_by <> id),
  constraint knowledge_items_counters_check check (
    least(access_count, rating_sum, rating_count, success_count, failure_count) >= 0)
) with (fillfactor = 85);  -- room beside each row for the next version of its counters

create unique index knowledge_items_content_hash_key on public.knowledge_items (workspace_id, content_hash, owner_id)
  where validation_status <> 'deprecated' and superseded_by is null;
create index knowledge_items_knowledge_type_idx on public.knowledge_items (workspace_id, knowledge_type, importance_score desc);
create index knowledge_items_category_idx on public.knowledge_items (workspace_id, category);
create index knowledge_items_project_context_idx on public.knowledge_items (workspace_id, project_context);
create index knowledge_items_owner_id_idx on public.knowledge_items (owner_id, workspace_id);
create index knowledge_items_session_idx on public.knowledge_items (created_in_session, session_position);
create index knowledge_items_superseded_by_idx on public.knowledge_items (superseded_by) where superseded_by is not null;
create index knowledge_items_validated_by_idx on public.knowledge_items (validated_by) where validated_by is not null;
create index knowledge_items_embedding_model_idx on public.knowledge_items (embedding_model, workspace_id);
create index knowledge_items_retrieval_triggers_idx on public.knowledge_items using gin (retrieval_triggers);
create index knowledge_items_context_data_idx on public.knowledge_items using gin (context_data jsonb_path_ops);

alter table public.knowledge_items enable row level security;
comment on table public.knowledge_items is 'What was learned, one piece a row: everything that search finds is, or has, a row here.';
comment on column public.knowledge_items.id is 'The item.';
comment on column public.knowledge_items.title is 'One line that says what it is about.';
comment on column public.knowledge_items.content is 'The knowledge itself, up to 64 KiB; search works best on a few sentences.';
comment on column public.knowledge_items.knowledge_type is 'factual, procedural, contextual, relational, experiential or technical_discovery.';
comment on column public.knowledge_items.category is 'A word to sort by, of the user''s choice.';
comment on column public.knowledge_items.subcategory is 'A finer one.';
comment on column public.knowledge_items.project_context is 'The project it belongs to; by default its session''s.';
comment on column public.knowledge_items.validation_status is 'pending, validated, needs_update or deprecated (kept, but not retrieved).';
comment on column public.knowledge_items.importance_score is '1 to 100; moves the rank a little.';
comment on column public.knowledge_items.retrieval_triggers is 'Words, codes or phrases that should bring this item up.';
comment on column public.knowledge_items.context_data is 'Structured context; searched with @>.';
comment on column public.knowledge_items.workspace_id is 'The workspace it belongs to.';
comment on column public.knowledge_items.owner_id is 'Who recorded it; null once that user''s account is deleted.';
comment on column public.knowledge_items.created_in_session is 'The session that recorded it.';
comment on column public.knowledge_items.session_position is 'Its place in the order of what the session recorded.';
comment on column public.knowledge_items.created_by is 'Provenance as text: the session''s id, else the user''s.';
comment on column public.knowledge_items.validated_at is 'When it was last validated; kept when it is deprecated, so that history stays readable to those who relied on it.';
comment on column public.knowledge_items.validated_by is 'Who decided the present status.';
comment on column public.knowledge_items.validation_note is 'Why.';
comment on column public.knowledge_items.valid_from is 'From when it holds; null: always has.';
comment on column public.knowledge_items.valid_to is 'Until when it held; null: still does.';
comment on column public.knowledge_items.superseded_by is 'The item that replaces it; set by supersede_knowledge.';
comment on column public.knowledge_items.text_search_config is 'The text search configuration of its words; null: that of the language it is plainly written in, else the workspace''s.';
comment on column public.knowledge_items.created_at is 'When it was recorded.';
comment on column public.knowledge_items.updated_at is 'When its text or status last changed; not moved by counters.';
comment on column public.knowledge_items.last_accessed is 'When it was last recalled.';
comment on column public.knowledge_items.access_count is 'How often it was recalled.';
comment on column public.knowledge_items.rating_sum is 'Sum of its effectiveness ratings (1 to 10 each).';
comment on column public.knowledge_items.rating_count is 'How many ratings it has.';
comment on column public.knowledge_items.success_count is 'How often applying it worked.';
comment on column public.knowledge_items.failure_count is 'How often it did not.';
comment on column public.knowledge_items.content_hash is 'SHA-256 of title, content and project with white space folded, in hex.';
comment on column public.knowledge_items.embedding_model is 'The model that made the vector.';
comment on column public.knowledge_items.content_embedding is 'The vector of title and content; null until the worker has embedded them.';

revoke all on public.knowledge_items from public, anon, authenticated, service_role;
grant select on public.knowledge_items to authenticated;
grant insert (workspace_id, owner_id, knowledge_type, category, subcategory, title, content, content_embedding,
  embedding_model, context_data, importance_score, retrieval_triggers, validation_status, project_context,
  created_in_session, session_position, valid_from, valid_to, text_search_config)
  on public.knowledge_items to authenticated;
grant update (knowledge_type, category, subcategory, title, content, content_embedding, embedding_model, context_data,
  importance_score, retrieval_triggers, validation_status, validation_note, project_context, valid_from, valid_to,
  text_search_config)
  on public.knowledge_items to authenticated;
grant select, insert, update, delete on public.knowledge_items to service_role;

create policy knowledge_items_select_visible on public.knowledge_items for select to authenticated
  using (
    workspace_id = any (array(select private.my_workspaces()))
    and (
      validation_status in ('validated', 'needs_update')
      or (validation_status = 'deprecated' and validated_at is not null)
      or owner_id = (select auth.uid())
      or created_in_session = (select private.current_session())
      or workspace_id = any (array(select private.maintained_workspaces()))
    ));
comment on policy knowledge_items_select_visible on public.knowledge_items is
  'The visibility rule: a member of the workspace sees what was validated, what is the member''s own or of the current session; maintainers see all.';
create policy knowledge_items_insert_own on public.knowledge_items for insert to authenticated
  with check (owner_id = (select auth.uid()) and workspace_id = any (array(select private.writable_workspaces())));
comment on policy knowledge_items_insert_own on public.knowledge_items is
  'Contributors and above record items in their own name.';
create policy knowledge_items_update_editor on public.knowledge_items for update to authenticated
  using (
    (owner_id = (select auth.uid()) and workspace_id = any (array(select private.writable_workspaces())))
    or workspace_id = any (array(select private.maintained_workspaces())))
  with check (
    (owner_id = (select auth.uid()) and workspace_id = any (array(select private.writable_workspaces())))
    or workspace_id = any (array(select private.maintained_workspaces())));
comment on policy knowledge_items_update_editor on public.knowledge_items is
  'Owners of an item edit it, maintainers edit all of the workspace.';

create function private.content_hash(title text, content text, project_context text)
returns text
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
  select encode(sha256(convert_to(
    concat_ws(e'\x1f',
      btrim(regexp_replace(title collate pg_catalog."pg_c_utf8", '\s+', ' ', 'g')),
      btrim(regexp_replace(content collate pg_catalog."pg_c_utf8", '\s+', ' ', 'g')),
      coalesce(project_context, '')),
    'UTF8')), 'hex')
$$;
comment on function private.content_hash(text, text, text) is
  'The identity of a text: SHA-256 (hex) of title, content and project, white space folded.';

create function private.embedding_text(title text, content text)
returns text
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$ select title || e'\n' || content $$;
comment on function private.embedding_text(text, text) is
  'What is embedded of an item: its title, a line break, its content.';

create function private.is_valid_now(item public.knowledge_items)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select ($1.valid_from is null or $1.valid_from <= now()) and ($1.valid_to is null or $1.valid_to > now())
$$;
comment on function private.is_valid_now(public.knowledge_items) is 'Whether an item holds at this moment, by valid_from and valid_to.';

-- definer because it takes a session position and reads the model registry for any writer.
create function private.prepare_knowledge_item()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_user boolean := not private.is_trusted();
  v_maintainer boolean := not v_user
    or new.workspace_id in (select private.my_workspaces_as('{owner,maintainer}'));
  v_text_changed boolean := tg_op = 'INSERT';
  v_vector_changed boolean := tg_op = 'INSERT';
  v_session record;
begin
  if tg_op = 'INSERT' then
    if new.created_in_session is null then
      new.created_in_session := private.current_session();
    end if;
    if new.created_in_session is not null then
      select s.workspace_id, s.owner_id, s.project_context into v_session
        from public.ai_sessions s where s.id = new.created_in_session;
      if v_session.workspace_id is distinct from new.workspace_id
         or (v_user and v_session.owner_id is distinct from auth.uid()) then
        perform private.fail('PT403', 'created_in_session does not name a session of yours in this workspace',
          'leave it out: the current session is taken');
      end if;
      new.project_context := coalesce(new.project_context, v_session.project_context);
      if new.session_position is null then
        new.session_position := private.reserve_session_positions(new.created_in_session, 1);
      elsif v_user and not exists (
        select from private.session_keys s
         where s.session_id = new.created_in_session and new.session_position between 1 and s.last_position
      ) then
        perform private.fail('PT403', 'session_position is given, not chosen', 'leave it out');
      end if;
    end if;
    new.created_by := coalesce(new.created_by, new.created_in_session::text, new.owner_id::text);
    if new.validation_status <> 'pending' and not v_maintainer then
      perform private.fail('PT403', 'only maintainers and owners of the workspace validate',
        'record it as pending and ask one of them');
    end if;
  else
    v_text_changed := (new.title, new.content) is distinct from (old.title, old.content);
    if new.validation_status is distinct from old.validation_status and not v_maintainer then
      perform private.fail('PT403', 'only maintainers and owners of the workspace validate');
    end if;
    if (new.title, new.content, new.knowledge_type, new.category, new.subcategory, new.context_data,
        new.importance_score, new.retrieval_triggers, new.project_context, new.valid_from, new.valid_to,
        new.text_search_config)
       is distinct from
       (old.title, old.content, old.knowledge_type, old.category, old.subcategory, old.context_data,
        old.importance_score, old.retrieval_triggers, old.project_context, old.valid_from, old.valid_to,
        old.text_search_config) then
      new.updated_at := clock_timestamp();
      if not v_maintainer and old.validation_status <> 'pending' then
        -- The workspace trusted the old text, not this one.
        new.validated_at := null;
        if old.validation_status <> 'deprecated' then
          new.validation_status := 'pending';
        end if;
      end if;
    end if;
    if new.validation_note is distinct from old.validation_note and not v_maintainer then
      perform private.fail('PT403', 'only maintainers and owners of the workspace say why an item has its status');
    end if;
    -- Not `is distinct from`: that looks for pgvector's `=` on the search path, where it is not.
    v_vector_changed := (new.content_embedding is null) <> (old.content_embedding is null)
      or new.content_embedding operator(extensions.<>) old.content_embedding;
    if v_text_changed and v_vector_changed is not true then
      new.content_embedding := null;
    end if;
    if not v_maintainer and new.validation_status in ('validated', 'needs_update') and new.content_embedding is not null
       and (v_vector_changed or new.embedding_model is distinct from old.embedding_model) then
      perform private.fail('PT403', 'the vector of a validated item is not its author''s to choose',
        'leave it to the worker, or change the text with it');
    end if;
  end if;

  if tg_op = 'INSERT' or new.validation_status is distinct from old.validation_status then
    if new.validation_status <> 'pending' then
      new.validated_by := auth.uid();
      if new.validation_status = 'validated' then
        new.validated_at := now();
      end if;
      new.updated_at := clock_timestamp();
    end if;
  end if;

  if new.text_search_config is not null and not pg_input_is_valid(new.text_search_config, 'regconfig') then
    perform private.fail('PT400', format('%L is not a text search configuration', new.text_search_config),
      'pg_ts_config lists them: simple, english, german …');
  end if;

  if v_text_changed or new.project_context is distinct from old.project_context then
    new.content_hash := private.content_hash(new.title, new.content, new.project_context);
  end if;

  if new.content_embedding is null then
    new.embedding_model := null;
  elsif v_vector_changed or new.embedding_model is distinct from old.embedding_model then
    new.embedding_model := coalesce(new.embedding_model, private.model_of_workspace(new.workspace_id));
    perform private.require_model(new.embedding_model, new.content_embedding);
  end if;
  return new;
end
$$;
comment on function private.prepare_knowledge_item() is
  'Trigger: fills in session, project, position, provenance and hash of an item, and holds the rules on status and vectors, whoever writes and through whichever door.';

create trigger knowledge_items_prepare_insert before insert on public.knowledge_items
  for each row execute function private.prepare_knowledge_item();
create trigger knowledge_items_prepare_update
  before update of title, content, knowledge_type, category, subcategory, context_data, importance_score,
    retrieval_triggers, project_context, valid_from, valid_to, validation_status, validation_note, content_embedding,
    embedding_model, text_search_config
  on public.knowledge_items
  for each row execute function private.prepare_knowledge_item();

-- definer because it locks keys of sessions, which are not the caller's to touch. It changes own items only, and those
-- as an edit of the caller's.
create function private.renew_validity(workspace_id uuid, content_hashes text[], items jsonb)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_ids uuid[];
  v_keys uuid[];
begin
  v_ids := array(
    select k.id from public.knowledge_items k
     where k.workspace_id = renew_validity.workspace_id and k.content_hash = any (content_hashes)
       and k.validation_status <> 'deprecated' and k.superseded_by is null
       and k.owner_id = auth.uid() and not private.is_valid_now(k));
  if cardinality(v_ids) = 0 or renew_validity.workspace_id not in (select private.writable_workspaces()) then
    return;
  end if;
  -- As an edit takes them: items, then the keys of the sessions that their documents are built in; and with these the
  -- one that what is new is recorded in.
  perform from public.knowledge_items k where k.id = any (v_ids) order by k.id for no key update;
  v_keys := array(select k.created_in_session from public.knowledge_items k where k.id = any (v_ids))
    || private.current_session();
  perform from private.session_keys s where s.session_id = any (v_keys) order by s.session_id for no key update;
  update public.knowledge_items k set valid_from = n.valid_from, valid_to = n.valid_to
    from (select distinct on (content_hashes[i.ordinality]) content_hashes[i.ordinality] as content_hash,
                 (i.item ->> 'valid_from')::timestamptz as valid_from, (i.item ->> 'valid_to')::timestamptz as valid_to
            from jsonb_array_elements(items) with ordinality i (item, ordinality)
           order by content_hashes[i.ordinality], i.ordinality) n
   where k.id = any (v_ids) and k.content_hash = n.content_hash and k.owner_id = auth.uid()
     and k.validation_status <> 'deprecated' and k.superseded_by is null and not private.is_valid_now(k)
     and (n.valid_from is null or n.valid_from <= now()) and (n.valid_to is null or n.valid_to > now());
end
$$;
comment on function private.renew_validity(uuid, text[], jsonb) is
  'Of what the caller has recorded before as valid at another time, lets hold again what is recorded again as valid now.';

create type public.recorded_knowledge as (
  item_index integer, knowledge_id uuid, outcome text, validation_status text, workspace_id uuid,
  created_in_session uuid, session_position bigint
);
comment on type public.recorded_knowledge is
  'What became of a recorded item: created, or duplicate of one that the caller may see. item_index counts from 0.';

create function public.record_knowledge_batch(items jsonb, allow_credentials boolean default false)
returns setof public.recorded_knowledge
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = 'force_generic_plan'  -- as for search documents
as $$
#variable_conflict use_column
declare
  v_workspace uuid := private.default_workspace();
  v_session uuid := private.current_session();
  v_user uuid := private.require_user();
  v_project text;
  v_position bigint;
  v_count integer;
  v_problem text;
  v_hashes text[];
  v_created uuid[] := '{}';
  v_recorded public.recorded_knowledge[];
  v_attempts integer := 0;
begin
  if items is null or jsonb_typeof(items) <> 'array' then
    perform private.fail('PT400', 'items is not a JSON array', 'send an array of objects');
  end if;
  v_count := jsonb_array_length(items);
  if v_count > 1000 then
    perform private.fail('PT400', format('%s items at once', v_count), 'at most 1000 a call');
  end if;
  if v_count = 0 then
    return;
  end if;
  select format('item %s: %s', i.ordinality - 1, case
      when jsonb_typeof(i.item) <> 'object' then 'not an object'
      when coalesce(i.item ->> 'content', '') collate pg_catalog."pg_c_utf8" !~ '\S' then 'content is missing or blank'
      when coalesce(i.item ->> 'title', '') collate pg_catalog."pg_c_utf8" !~ '\S' then 'title is missing or blank'
      else 'unknown key ' || k.key end)
    into v_problem
    from jsonb_array_elements(items) with ordinality i (item, ordinality)
    left join lateral (
      select key from jsonb_object_keys(case jsonb_typeof(i.item) when 'object' then i.item else '{}' end) key
       where key not in ('title', 'content', 'knowledge_type', 'category', 'subcategory', 'context_data',
         'importance_score', 'retrieval_triggers', 'project_context', 'content_embedding', 'embedding_model',
         'valid_from', 'valid_to', 'text_search_config')
       limit 1) k on true
   where jsonb_typeof(i.item) <> 'object' or k.key is not null
      or coalesce(i.item ->> 'content', '') collate pg_catalog."pg_c_utf8" !~ '\S'
      or coalesce(i.item ->> 'title', '') collate pg_catalog."pg_c_utf8" !~ '\S'
   order by i.ordinality
   limit 1;
  if v_problem is not null then
    perform private.fail('PT400', v_problem);
  end if;

  -- Read by the trigger that refuses credentials, and set back below.
  perform set_config('app.allow_credentials', case when record_knowledge_batch.allow_credentials then 'on' else '' end, true);

  select s.project_context into v_project from public.ai_sessions s where s.id = v_session;
  v_hashes := array(
    select private.content_hash(i.item ->> 'title', i.item ->> 'content', coalesce(i.item ->> 'project_context', v_project))
      from jsonb_array_elements(items) with ordinality i (item, ordinality)
     order by i.ordinality);
  perform private.renew_validity(v_workspace, v_hashes, items);
  if v_session is not null then
    v_position := private.reserve_session_positions(v_session, v_count);
  end if;

  -- Existing texts are looked up for the whole batch at once: one lookup each would be at the mercy of the planner
  -- while the table has no statistics. Rows go in sorted by their key, so that two batches with the same texts never
  -- wait for each other in a circle. A text that the caller has already, or may see as somebody else's, is a
  -- duplicate; a race is settled by the unique index. Of twins within the batch the first counts.
  loop
    with input as materialized (
      select i.ordinality::integer - 1 as item_index, r.*,
             v_hashes[i.ordinality] as content_hash
        from jsonb_array_elements(items) with ordinality i (item, ordinality),
             jsonb_to_record(i.item) as r (title text, content text, knowledge_type text, category text,
               subcategory text, context_data jsonb, importance_score integer, retrieval_triggers text[],
               project_context text, content_embedding extensions.vector, embedding_model text,
               valid_from timestamptz, valid_to timestamptz, text_search_config text)
    ), inserted as (
      insert into public.knowledge_items (workspace_id, owner_id, title, content, knowledge_type, category, subcategory,
        context_data, importance_score, retrieval_triggers, project_context, content_embedding, embedding_model,
        valid_from, valid_to, created_in_session, session_position, text_search_config)
      select v_workspace, v_user, f.title, f.content, coalesce(f.knowledge_type, 'factual'),
             coalesce(f.category, 'general'), f.subcategory, f.context_data, coalesce(f.importance_score, 50),
             f.retrieval_triggers, f.project_context, f.content_embedding, f.embedding_model, f.valid_from, f.valid_to,
             v_session, v_position + f.item_index, f.text_search_config
        from (select distinct on (content_hash) * from input order by content_hash, item_index) f
       where f.content_hash not in (
         select k.content_hash from public.knowledge_items k
          where k.workspace_id = v_workspace and k.content_hash = any (v_hashes)
            and k.validation_status <> 'deprecated' and k.superseded_by is null
            and (k.owner_id = v_user or (k.valid_from is null or k.valid_from <= now()) and (k.valid_to is null or k.valid_to > now())))
       order by f.content_hash
      on conflict (workspace_id, content_hash, owner_id)
        where validation_status <> 'deprecated' and superseded_by is null do nothing
      returning id
    )
    select v_created || coalesce(array_agg(id), '{}') into v_created from inserted;

    with kept as materialized (
      select distinct on (k.content_hash) k.*
        from public.knowledge_items k
       where k.workspace_id = v_workspace and k.content_hash = any (v_hashes)
         and k.validation_status <> 'deprecated' and k.superseded_by is null
       order by k.content_hash, (k.owner_id = v_user) desc nulls last, k.validated_at desc nulls last, k.id
    ), recorded as (
      select h.ordinality, k.*, row_number() over (partition by k.id order by h.ordinality) = 1 as is_first
        from unnest(v_hashes) with ordinality h (content_hash, ordinality)
        join kept k on k.content_hash = h.content_hash
    )
    select array_agg(row(r.ordinality - 1, r.id,
             case when r.is_first and r.id = any (v_created) then 'created' else 'duplicate' end,
             r.validation_status, r.workspace_id, r.created_in_session, r.session_position
           )::public.recorded_knowledge order by r.ordinality)
      into v_recorded
      from recorded r;
    exit when cardinality(v_recorded) = v_count;
    -- Between the two somebody erased, or took out of the caller's sight, what had been said already: once more.
    v_attempts := v_attempts + 1;
    if v_attempts > 10 then
      raise exception using errcode = '40001', message = 'could not serialize access due to concurrent changes of the same texts';
    end if;
  end loop;
  perform set_config('app.allow_credentials', '', true);
  return query select r.* from unnest(v_recorded) r;
end
$$;
comment on function public.record_knowledge_batch(jsonb, boolean) is
  'Records up to 1000 items, all or none. Each is an object with title, content and optionally knowledge_type, category, subcategory, context_data, importance_score, retrieval_triggers, project_context, content_embedding, embedding_model, valid_from, valid_to, text_search_config. Idempotent: a text that is there already is answered as a duplicate; one of the caller''s own that does not hold now gets the validity that is given, where that does. Text that looks like a credential is refused (PT451) unless allow_credentials.';

create function public.record_knowledge(
  title text, content text, knowledge_type text default 'factual', category text default 'general',
  subcategory text default null, context_data jsonb default null, importance_score integer default 50,
  retrieval_triggers text[] default null, project_context text default null,
  content_embedding extensions.vector default null, embedding_model text default null,
  valid_from timestamptz default null, valid_to timestamptz default null, allow_credentials boolean default false,
  text_search_config text default null
)
returns setof public.recorded_knowledge
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  select * from public.record_knowledge_batch(jsonb_build_array(jsonb_build_object(
    'title', title, 'content', content, 'knowledge_type', knowledge_type, 'category', category,
    'subcategory', subcategory, 'context_data', context_data, 'importance_score', importance_score,
    'retrieval_triggers', retrieval_triggers, 'project_context', project_context,
    'content_embedding', content_embedding::text, 'embedding_model', embedding_model,
    'valid_from', valid_from, 'valid_to', valid_to, 'text_search_config', text_search_config)), allow_credentials)
$$;
comment on function public.record_knowledge(text, text, text, text, text, jsonb, integer, text[], text, extensions.vector, text, timestamptz, timestamptz, boolean, text) is
  'Records one item in the current workspace and session. Idempotent by content: the answer says created or duplicate. The vector may be left to the worker.';

revoke execute on function
  private.content_hash(text, text, text), private.embedding_text(text, text), private.prepare_knowledge_item(),
  private.is_valid_now(public.knowledge_items), private.renew_validity(uuid, text[], jsonb),
  public.record_knowledge_batch(jsonb, boolean),
  public.record_knowledge(text, text, text, text, text, jsonb, integer, text[], text, extensions.vector, text, timestamptz, timestamptz, boolean, text)
  from public, anon, authenticated, service_role;
grant execute on function private.content_hash(text, text, text), private.embedding_text(text, text),
  private.is_valid_now(public.knowledge_items), private.renew_validity(uuid, text[], jsonb)
  to authenticated, service_role;
grant execute on function
  public.record_knowledge_batch(jsonb, boolean),
  public.record_knowledge(text, text, text, text, text, jsonb, integer, text[], text, extensions.vector, text, timestamptz, timestamptz, boolean, text)
  to authenticated;
