-- Experiential knowledge: insights, with what made them matter.
--
-- Owns: experiential_knowledge, record_insight, apply_insight, the mirror of the insight's vector.
--
-- Invariants
--   * An insight is known by its title, whatever its case and spacing. Coming to it again counts, and keeps what was
--     said differently among its observations; its text grows only by those who may edit the record.
--   * Applying it counts for everybody who may see it, on the record and as a rating of the item.
--   * insight_embedding is the companion's content_embedding, kept by triggers on both sides. The item's side never
--     waits for the record: a record that is locked at that moment is left to its holder, who takes the vector over
--     at the end of the statement, after waiting for the item. So locks are still taken record first, item second.

set local lock_timeout = '5s';

create table public.experiential_knowledge (
  id uuid not null default gen_random_uuid(),
  workspace_id uuid not null default private.default_workspace(),
  owner_id uuid default auth.uid(),
  knowledge_id uuid not null,
  insight_title varchar(300) not null,
  insight_description text not null,
  emotional_context text,
  motivation_driver text,
  project_impact_description text,
  insight_embedding extensions.vector,
  discovery_moment text,
  validation_examples text[],
  retention_method text,
  confidence_level integer,
  applicability_scope varchar(200),
  insight_metadata jsonb,
  created_in_session uuid default private.current_session(),
  applied_successfully integer not null default 0,
  applied_count integer not null default 0,
  times_observed integer not null default 1,
  last_observed timestamptz not null default now(),
  observations jsonb not null default '[]',
  project_context varchar(200),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint experiential_knowledge_pkey primary key (id),
  constraint experiential_knowledge_knowledge_id_key unique (knowledge_id),
  constraint experiential_knowledge_workspace_id_fkey foreign key (workspace_id)
    references public.workspaces (id) on delete cascade,
  constraint experiential_knowledge_owner_id_fkey foreign key (owner_id) references auth.users (id) on delete set null,
  constraint experiential_knowledge_knowledge_id_fkey foreign key (knowledge_id)
    references public.knowledge_items (id) on delete cascade,
  constraint experiential_knowledge_created_in_session_fkey foreign key (created_in_session)
    references public.ai_sessions (id) on delete set null,
  constraint experiential_knowledge_insight_title_check check (btrim(insight_title) <> ''),
  constraint experiential_knowledge_insight_description_check check (btrim(insight_description) <> ''),
  constraint experiential_knowledge_confidence_level_check check (confidence_level between 1 and 100),
  constraint experiential_knowledge_counters_check check (
    times_observed >= 1 and applied_successfully between 0 and applied_count),
  constraint experiential_knowledge_observations_check check (jsonb_typeof(observations) = 'array')
) with (fillfactor = 85);
create index experiential_knowledge_applicability_scope_idx
  on public.experiential_knowledge (workspace_id, applicability_scope);
create index experiential_knowledge_confidence_level_idx
  on public.experiential_knowledge (workspace_id, confidence_level desc);
create index experiential_knowledge_owner_id_idx on public.experiential_knowledge (owner_id);
create index experiential_knowledge_created_in_session_idx on public.experiential_knowledge (created_in_session);

alter table public.experiential_knowledge enable row level security;
comment on table public.experiential_knowledge is 'Insights: what was understood, how it came about, why it matters, whether it serves.';
comment on column public.experiential_knowledge.id is 'The insight.';
comment on column public.experiential_knowledge.workspace_id is 'The workspace it belongs to.';
comment on column public.experiential_knowledge.owner_id is 'Who recorded it; null once that user''s account is deleted.';
comment on column public.experiential_knowledge.knowledge_id is 'Its companion item, made and kept by a trigger.';
comment on column public.experiential_knowledge.project_context is 'The project it belongs to; by default its session''s.';
comment on column public.experiential_knowledge.created_at is 'When it was recorded.';
comment on column public.experiential_knowledge.updated_at is 'When its text last changed; not moved by counters.';
comment on column public.experiential_knowledge.insight_title is 'The insight in one line.';
comment on column public.experiential_knowledge.insight_description is 'The insight itself.';
comment on column public.experiential_knowledge.emotional_context is 'How it felt: what makes it stick.';
comment on column public.experiential_knowledge.motivation_driver is 'What drove towards it.';
comment on column public.experiential_knowledge.project_impact_description is 'What it changes for the project.';
comment on column public.experiential_knowledge.insight_embedding is 'The vector of its companion item, mirrored.';
comment on column public.experiential_knowledge.discovery_moment is 'How it came about.';
comment on column public.experiential_knowledge.validation_examples is 'Cases that bear it out.';
comment on column public.experiential_knowledge.retention_method is 'How to keep it in mind.';
comment on column public.experiential_knowledge.confidence_level is '1 to 100: how sure; also the importance of its item.';
comment on column public.experiential_knowledge.applicability_scope is 'Where it applies.';
comment on column public.experiential_knowledge.insight_metadata is 'What else belongs to it.';
comment on column public.experiential_knowledge.created_in_session is 'The session that recorded it first.';
comment on column public.experiential_knowledge.applied_successfully is 'How often applying it worked.';
comment on column public.experiential_knowledge.applied_count is 'How often it was applied.';
comment on column public.experiential_knowledge.times_observed is 'How often somebody came to it.';
comment on column public.experiential_knowledge.last_observed is 'When somebody last came to it.';
comment on column public.experiential_knowledge.observations is 'Later sightings that said something new, each {description or examples, at, session}.';

revoke all on public.experiential_knowledge from public, anon, authenticated, service_role;
grant select on public.experiential_knowledge to authenticated;
grant insert (workspace_id, owner_id, insight_title, insight_description, emotional_context, motivation_driver,
  project_impact_description, discovery_moment, validation_examples, retention_method, confidence_level,
  applicability_scope, insight_metadata, project_context) on public.experiential_knowledge to authenticated;
grant update (insight_description, emotional_context, motivation_driver, project_impact_description,
  discovery_moment, validation_examples, retention_method, confidence_level, applicability_scope, insight_metadata,
  project_context) on public.experiential_knowledge to authenticated;
grant select, insert, update, delete on public.experiential_knowledge to service_role;

create policy experiential_knowledge_select_visible on public.experiential_knowledge for select to authenticated
  using (
    workspace_id = any (array(select private.my_workspaces()))
    and (owner_id = (select auth.uid()) or exists (select from public.knowledge_items k where k.id = knowledge_id)));
comment on policy experiential_knowledge_select_visible on public.experiential_knowledge is
  'A record is visible exactly when its item is. Owners see their items: said first, because the item of a row that is being inserted can''t be looked up yet.';
create policy experiential_knowledge_insert_own on public.experiential_knowledge for insert to authenticated
  with check (owner_id = (select auth.uid()) and workspace_id = any (array(select private.writable_workspaces())));
comment on policy experiential_knowledge_insert_own on public.experiential_knowledge is
  'Contributors and above record insights in their own name.';
create policy experiential_knowledge_update_editor on public.experiential_knowledge for update to authenticated
  using (
    (owner_id = (select auth.uid()) and workspace_id = any (array(select private.writable_workspaces())))
    or workspace_id = any (array(select private.maintained_workspaces())))
  with check (
    (owner_id = (select auth.uid()) and workspace_id = any (array(select private.writable_workspaces())))
    or workspace_id = any (array(select private.maintained_workspaces())));
comment on policy experiential_knowledge_update_editor on public.experiential_knowledge is
  'Owners of insights edit them, maintainers edit all of the workspace.';

create function private.render_insight(insight public.experiential_knowledge)
returns private.companion_text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select row(
    'experiential', 'insight', insight.insight_title::text,
    concat_ws(e'\n',
      private.clip(insight.insight_description, 12000),
      'Applies to: ' || insight.applicability_scope,
      'How it came about: ' || private.clip(insight.discovery_moment, 4000),
      'Impact: ' || private.clip(insight.project_impact_description, 4000),
      'Driven by: ' || private.clip(insight.motivation_driver, 2000),
      'How it felt: ' || private.clip(insight.emotional_context, 2000),
      'Borne out by: ' || private.clip(array_to_string(insight.validation_examples, '; '), 8000),
      'To keep it in mind: ' || private.clip(insight.retention_method, 2000)),
    coalesce(insight.confidence_level, 50), null::text[],
    jsonb_build_object('kind', 'insight')
      || case when insight.insight_metadata is null then '{}'
           else jsonb_build_object('metadata', insight.insight_metadata) end,
    insight.project_context)::private.companion_text
$$;
comment on function private.render_insight(public.experiential_knowledge) is 'What the companion of an insight says.';

create function private.keep_insight_companion()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_made record;
begin
  perform private.refuse_credential_in(new.insight_metadata::text);
  if tg_op = 'INSERT' then
    v_made := private.make_companion('insight', new.workspace_id, new.owner_id, new.knowledge_id,
      private.signature_of(lower(new.insight_title collate pg_catalog."pg_c_utf8")), private.render_insight(new));
    new.knowledge_id := v_made.made_id;
    new.project_context := v_made.project_context;
  elsif private.keep_companion(new.knowledge_id, private.render_insight(old), private.render_insight(new)) then
    new.updated_at := clock_timestamp();
  end if;
  return new;
end
$$;
comment on function private.keep_insight_companion() is 'Trigger: makes and maintains the companion item of a record.';
create trigger experiential_knowledge_keep_companion_insert before insert on public.experiential_knowledge
  for each row execute function private.keep_insight_companion();
create trigger experiential_knowledge_keep_companion_update
  before update of insight_title, insight_description, emotional_context, motivation_driver, project_impact_description,
    discovery_moment, validation_examples, retention_method, confidence_level, applicability_scope, insight_metadata,
    project_context on public.experiential_knowledge
  for each row execute function private.keep_insight_companion();
create trigger experiential_knowledge_refuse_deletion before delete on public.experiential_knowledge
  for each row execute function private.refuse_record_deletion();

-- definer because the mirror is not the caller's to write.
create function private.push_insight_embedding()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform from public.experiential_knowledge e where e.knowledge_id = new.id for no key update skip locked;
  if found then
    update public.experiential_knowledge e set insight_embedding = new.content_embedding where e.knowledge_id = new.id;
  end if;
  return null;
end
$$;
comment on function private.push_insight_embedding() is 'Trigger: gives an item''s new vector to its insight, unless somebody holds that, who then takes it.';
-- What a record's own trigger writes is deeper, and followed by the trigger below.
create trigger knowledge_items_push_insight_embedding
  after update of title, content, content_embedding on public.knowledge_items
  for each row
  when (pg_trigger_depth() = 0
    and ((old.content_embedding is null) <> (new.content_embedding is null)
         or old.content_embedding operator(extensions.<>) new.content_embedding))
  execute function private.push_insight_embedding();

-- definer because the mirror is not the caller's to write.
create function private.pull_insight_embedding()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_embedding extensions.vector;
begin
  -- The lock waits for a vector that is just being stored, and keeps the next one waiting.
  select k.content_embedding into v_embedding
    from public.knowledge_items k where k.id = new.knowledge_id for no key update;
  update public.experiential_knowledge e set insight_embedding = v_embedding
   where e.id = new.id
     and ((e.insight_embedding is null) <> (v_embedding is null)
          or e.insight_embedding operator(extensions.<>) v_embedding);
  return null;
end
$$;
comment on function private.pull_insight_embedding() is 'Trigger: takes the item''s vector over after a change of the record.';
create trigger experiential_knowledge_pull_embedding after update on public.experiential_knowledge
  for each row when (pg_trigger_depth() = 0) execute function private.pull_insight_embedding();

-- definer because a sighting counts on records that the caller may read and not write; it checks that first.
create function private.count_insight(
  knowledge_id uuid, description text, examples text[], is_repeat boolean
)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_editable boolean := private.require_recorder(count_insight.knowledge_id);
begin
  if is_repeat then
    perform private.refuse_credential_in(concat_ws(' ', description, array_to_string(examples, ' ')));
    update public.experiential_knowledge e
       set times_observed = e.times_observed + 1, last_observed = greatest(e.last_observed, now()),
           observations = case
             when description = e.insight_description and (v_editable or examples is null) then e.observations
             else e.observations || jsonb_strip_nulls(jsonb_build_object(
               'description', nullif(description, e.insight_description),
               'examples', case when not v_editable then to_jsonb(examples) end,
               'at', now(), 'session', private.current_session())) end
     where e.knowledge_id = count_insight.knowledge_id;
  end if;
  return v_editable;
end
$$;
comment on function private.count_insight(uuid, text, text[], boolean) is
  'Counts a sighting of an insight that the caller may see, keeps what it says differently, and says whether the caller may edit the record.';

create type public.recorded_insight as (
  insight_id uuid, knowledge_id uuid, outcome text, times_observed integer, observation_count integer,
  validation_status text
);
comment on type public.recorded_insight is 'What became of a recorded insight: created, or merged into one had before.';

create function public.record_insight(
  insight_title text, insight_description text, emotional_context text default null,
  motivation_driver text default null, project_impact_description text default null,
  discovery_moment text default null, validation_examples text[] default null, retention_method text default null,
  confidence_level integer default null, applicability_scope text default null, insight_metadata jsonb default null,
  project_context text default null, content_embedding extensions.vector default null,
  embedding_model text default null, allow_credentials boolean default false
)
returns setof public.recorded_insight
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_workspace uuid := private.default_workspace();
  v_user uuid := private.require_writer(v_workspace);
  v_signature text := private.signature_of(lower(record_insight.insight_title collate pg_catalog."pg_c_utf8"));
  v_item uuid;
  v_created boolean;
  v_editable boolean;
begin
  if coalesce(v_signature, '') = '' or coalesce(btrim(record_insight.insight_description), '') = '' then
    perform private.fail('PT400', 'insight_title or insight_description is missing or blank');
  end if;
  -- Read by what refuses credentials, and set back below.
  perform set_config('app.allow_credentials', case when record_insight.allow_credentials then 'on' else '' end, true);
  v_item := private.claim_signature('insight', v_workspace, v_signature);
  v_created := v_item is null;
  if v_created then
    insert into public.experiential_knowledge as e (workspace_id, insight_title, insight_description,
      emotional_context, motivation_driver, project_impact_description, discovery_moment, validation_examples,
      retention_method, confidence_level, applicability_scope, insight_metadata, project_context)
    values (v_workspace, btrim(record_insight.insight_title), record_insight.insight_description,
      record_insight.emotional_context, record_insight.motivation_driver, record_insight.project_impact_description,
      record_insight.discovery_moment, record_insight.validation_examples, record_insight.retention_method,
      record_insight.confidence_level, record_insight.applicability_scope, record_insight.insight_metadata,
      record_insight.project_context)
    returning e.knowledge_id into v_item;
    if record_insight.content_embedding is not null then
      update public.knowledge_items k
         set content_embedding = record_insight.content_embedding, embedding_model = record_insight.embedding_model
       where k.id = v_item;
    end if;
  end if;
  -- Locks the record until the end.
  v_editable := private.count_insight(v_item, record_insight.insight_description, record_insight.validation_examples,
    not v_created);
  if v_editable and not v_created and num_nonnulls(record_insight.emotional_context, record_insight.motivation_driver,
       record_insight.project_impact_description, record_insight.discovery_moment, record_insight.validation_examples,
       record_insight.retention_method, record_insight.confidence_level, record_insight.applicability_scope,
       record_insight.insight_metadata) > 0 then
    update public.experiential_knowledge e
       set emotional_context = coalesce(e.emotional_context, record_insight.emotional_context),
           motivation_driver = coalesce(e.motivation_driver, record_insight.motivation_driver),
           project_impact_description = coalesce(e.project_impact_description, record_insight.project_impact_description),
           discovery_moment = coalesce(e.discovery_moment, record_insight.discovery_moment),
           validation_examples = private.merge_words(e.validation_examples, record_insight.validation_examples),
           retention_method = coalesce(e.retention_method, record_insight.retention_method),
           confidence_level = coalesce(e.confidence_level, record_insight.confidence_level),
           applicability_scope = coalesce(e.applicability_scope, record_insight.applicability_scope),
           insight_metadata = case
             when jsonb_typeof(e.insight_metadata) = 'object' and jsonb_typeof(record_insight.insight_metadata) = 'object'
               then record_insight.insight_metadata || e.insight_metadata
             else coalesce(e.insight_metadata, record_insight.insight_metadata) end
     where e.knowledge_id = v_item;
  end if;
  perform set_config('app.allow_credentials', '', true);
  return query
    select e.id, e.knowledge_id, case when v_created then 'created' else 'merged' end, e.times_observed,
           jsonb_array_length(e.observations), k.validation_status::text
      from public.experiential_knowledge e join public.knowledge_items k on k.id = e.knowledge_id
     where e.knowledge_id = v_item;
end
$$;
comment on function public.record_insight(text, text, text, text, text, text, text[], text, integer, text, jsonb, text, extensions.vector, text, boolean) is
  'Records an insight. Not idempotent, on purpose: each call is one sighting, which counts on the insight of the same title that the caller owns, else may see; what it describes differently is kept among the observations. Text is filled in only by those who may edit the record. Text that looks like a credential is refused (PT451) unless allow_credentials.';

create type public.applied_insight as (
  insight_id uuid, knowledge_id uuid, applied_count integer, applied_successfully integer
);
comment on type public.applied_insight is 'An insight after it was applied once more.';

-- definer because an application counts on records that the caller may read and not write; it checks that first.
create function private.count_application(insight_id uuid, success boolean, notes text)
returns setof public.applied_insight
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_item uuid;
begin
  select e.knowledge_id into v_item from public.experiential_knowledge e
   where e.id = count_application.insight_id or e.knowledge_id = count_application.insight_id;
  perform private.require_visible_item(v_item);
  perform private.refuse_credential_in(notes);
  update public.experiential_knowledge e
     set applied_count = e.applied_count + 1, applied_successfully = e.applied_successfully + success::integer
   where e.knowledge_id = v_item;
  perform private.add_rating(v_item, null, success, notes);
  return query
    select e.id, e.knowledge_id, e.applied_count, e.applied_successfully
      from public.experiential_knowledge e where e.knowledge_id = v_item;
end
$$;
comment on function private.count_application(uuid, boolean, text) is 'Counts that an insight which the caller may see was applied.';

create function public.apply_insight(insight_id uuid, success boolean default true, notes text default null)
returns setof public.applied_insight
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_user uuid := private.require_user();
begin
  if apply_insight.success is null then
    perform private.fail('PT400', 'success is missing', 'say whether applying the insight worked');
  end if;
  return query
    select * from private.count_application(apply_insight.insight_id, apply_insight.success, apply_insight.notes);
end
$$;
comment on function public.apply_insight(uuid, boolean, text) is
  'Says that an insight, named by its own id or its item''s, was applied and whether that worked. Counts on the insight and as a rating of its item, whose rank it moves. Not idempotent, on purpose: each call is one application.';

revoke execute on function
  private.render_insight(public.experiential_knowledge), private.keep_insight_companion(),
  private.push_insight_embedding(), private.pull_insight_embedding(),
  private.count_insight(uuid, text, text[], boolean), private.count_application(uuid, boolean, text),
  public.record_insight(text, text, text, text, text, text, text[], text, integer, text, jsonb, text, extensions.vector, text, boolean),
  public.apply_insight(uuid, boolean, text)
  from public, anon, authenticated, service_role;
grant execute on function private.render_insight(public.experiential_knowledge) to authenticated, service_role;
grant execute on function
  private.count_insight(uuid, text, text[], boolean), private.count_application(uuid, boolean, text),
  public.record_insight(text, text, text, text, text, text, text[], text, integer, text, jsonb, text, extensions.vector, text, boolean),
  public.apply_insight(uuid, boolean, text)
  to authenticated;
