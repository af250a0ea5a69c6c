-- Decisions: how an understanding came to be.
--
-- Owns: decision_evolution, record_decision_stage, decision_history.
--
-- Invariants
--   * A decision is known by its topic and project, whatever their case and spacing.
--   * Stages are appended, never edited: the first sets the initial understanding, each one the present one, a final
--     one the final understanding. What a later stage replaces stays in the stages before it.
--   * A stage by somebody who may not edit the record is kept as a proposal: in the stages and the timeline, but it
--     changes neither the text nor what is decided.
--   * Stages, timeline and breakthroughs are not the caller's to write, and not rendered into the item.

set local lock_timeout = '5s';

create table public.decision_evolution (
  id uuid not null default gen_random_uuid(),
  workspace_id uuid not null default private.default_workspace(),
  owner_id uuid default auth.uid(),
  knowledge_id uuid not null,
  decision_topic varchar(300) not null,
  initial_understanding text,
  evolution_stages jsonb not null default '[]',
  current_understanding text,
  final_understanding text,
  key_influences text[],
  breakthrough_moments jsonb not null default '[]',
  decision_rationale text,
  alternative_approaches jsonb,
  lessons_learned text,
  evolution_timeline jsonb not null default '[]',
  project_context varchar(200),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint decision_evolution_pkey primary key (id),
  constraint decision_evolution_knowledge_id_key unique (knowledge_id),
  constraint decision_evolution_workspace_id_fkey foreign key (workspace_id)
    references public.workspaces (id) on delete cascade,
  constraint decision_evolution_owner_id_fkey foreign key (owner_id) references auth.users (id) on delete set null,
  constraint decision_evolution_knowledge_id_fkey foreign key (knowledge_id)
    references public.knowledge_items (id) on delete cascade,
  constraint decision_evolution_decision_topic_check check (btrim(decision_topic) <> ''),
  constraint decision_evolution_evolution_stages_check check (jsonb_typeof(evolution_stages) = 'array'),
  constraint decision_evolution_breakthrough_moments_check check (jsonb_typeof(breakthrough_moments) = 'array'),
  constraint decision_evolution_evolution_timeline_check check (
    jsonb_typeof(evolution_timeline) = 'array'
    and jsonb_array_length(evolution_timeline) = jsonb_array_length(evolution_stages))
) with (fillfactor = 85);
create index decision_evolution_project_context_idx on public.decision_evolution (workspace_id, project_context);
create index decision_evolution_owner_id_idx on public.decision_evolution (owner_id);

alter table public.decision_evolution enable row level security;
comment on table public.decision_evolution is 'Decisions: how their understanding changed, stage by stage, and why.';
comment on column public.decision_evolution.id is 'The decision.';
comment on column public.decision_evolution.workspace_id is 'The workspace it belongs to.';
comment on column public.decision_evolution.owner_id is 'Who recorded it; null once that user''s account is deleted.';
comment on column public.decision_evolution.knowledge_id is 'Its companion item, made and kept by a trigger.';
comment on column public.decision_evolution.project_context is 'The project it belongs to; by default its session''s.';
comment on column public.decision_evolution.created_at is 'When it was recorded.';
comment on column public.decision_evolution.updated_at is 'When its text last changed; not moved by counters.';
comment on column public.decision_evolution.decision_topic is 'What is to be decided.';
comment on column public.decision_evolution.initial_understanding is 'How it was understood at first.';
comment on column public.decision_evolution.evolution_stages is 'Stages in order, each {stage, understanding, influences, rationale, alternatives, lessons, breakthrough, is_final, is_proposal, at, session}.';
comment on column public.decision_evolution.current_understanding is 'How it is understood now.';
comment on column public.decision_evolution.final_understanding is 'What was decided; null while it is open.';
comment on column public.decision_evolution.key_influences is 'What moved it.';
comment on column public.decision_evolution.breakthrough_moments is 'Breakthroughs in order, each {stage, breakthrough, at, session}.';
comment on column public.decision_evolution.decision_rationale is 'Why it was decided so.';
comment on column public.decision_evolution.alternative_approaches is 'What else was considered.';
comment on column public.decision_evolution.lessons_learned is 'What to do otherwise next time.';
comment on column public.decision_evolution.evolution_timeline is 'One entry a stage: {stage, event (initial, revised, decided or proposed), at, session}.';

revoke all on public.decision_evolution from public, anon, authenticated, service_role;
grant select on public.decision_evolution to authenticated;
grant insert (workspace_id, owner_id, decision_topic, initial_understanding, final_understanding, key_influences,
  decision_rationale, alternative_approaches, lessons_learned, project_context)
  on public.decision_evolution to authenticated;
grant update (initial_understanding, current_understanding, final_understanding, key_influences, decision_rationale,
  alternative_approaches, lessons_learned) on public.decision_evolution to authenticated;
grant select, insert, update, delete on public.decision_evolution to service_role;

create policy decision_evolution_select_visible on public.decision_evolution for select to authenticated
  using (
    workspace_id = any (array(select private.my_workspaces()))
    and (owner_id = (select auth.uid()) or exists (select from public.knowledge_items k where k.id = knowledge_id)));
comment on policy decision_evolution_select_visible on public.decision_evolution is
  'A record is visible exactly when its item is. Owners see their items: said first, because the item of a row that is being inserted can''t be looked up yet.';
create policy decision_evolution_insert_own on public.decision_evolution for insert to authenticated
  with check (owner_id = (select auth.uid()) and workspace_id = any (array(select private.writable_workspaces())));
comment on policy decision_evolution_insert_own on public.decision_evolution is
  'Contributors and above record decisions in their own name.';
create policy decision_evolution_update_editor on public.decision_evolution for update to authenticated
  using (
    (owner_id = (select auth.uid()) and workspace_id = any (array(select private.writable_workspaces())))
    or workspace_id = any (array(select private.maintained_workspaces())))
  with check (
    (owner_id = (select auth.uid()) and workspace_id = any (array(select private.writable_workspaces())))
    or workspace_id = any (array(select private.maintained_workspaces())));
comment on policy decision_evolution_update_editor on public.decision_evolution is
  'Owners of decisions edit them, maintainers edit all of the workspace.';

create function private.decision_signature(decision_topic text, project_context text)
returns text
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
  select private.signature_of(lower(
    (nullif(btrim(decision_topic), '') || case when btrim(project_context) <> '' then ' / ' || project_context else '' end)
    collate pg_catalog."pg_c_utf8"))
$$;
comment on function private.decision_signature(text, text) is 'What the stages of a decision have in common: its topic and project.';

create function private.render_decision(decision public.decision_evolution)
returns private.companion_text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select row(
    'contextual', 'decision', decision.decision_topic::text,
    concat_ws(e'\n',
      'Decision on: ' || decision.decision_topic,
      'Decided: ' || private.clip(decision.final_understanding, 10000),
      case when decision.current_understanding is distinct from decision.final_understanding
        then 'Understanding now: ' || private.clip(decision.current_understanding, 10000) end,
      'Because: ' || private.clip(decision.decision_rationale, 8000),
      'Influenced by: ' || private.clip(array_to_string(decision.key_influences, '; '), 4000),
      'Alternatives: ' || private.clip(decision.alternative_approaches::text, 8000),
      'Lessons: ' || private.clip(decision.lessons_learned, 6000),
      case when decision.initial_understanding is distinct from decision.current_understanding
        then 'At first: ' || private.clip(decision.initial_understanding, 6000) end),
    case when decision.final_understanding is null then 50 else 65 end, null::text[],
    jsonb_build_object('kind', 'decision', 'is_final', decision.final_understanding is not null),
    decision.project_context)::private.companion_text
$$;
comment on function private.render_decision(public.decision_evolution) is 'What the companion of a decision says.';

create function private.keep_decision_companion()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_made record;
  v_stage jsonb;
begin
  if tg_op = 'INSERT' then
    -- The session's project is part of the signature, so it is taken before the item takes it.
    new.project_context := coalesce(new.project_context,
      (select s.project_context from public.ai_sessions s where s.id = private.current_session()));
    new.current_understanding := coalesce(new.final_understanding, new.current_understanding, new.initial_understanding);
    v_made := private.make_companion('decision', new.workspace_id, new.owner_id, new.knowledge_id,
      private.decision_signature(new.decision_topic, new.project_context), private.render_decision(new));
    new.knowledge_id := v_made.made_id;
    -- What is written through the table, without a stage, is one.
    if new.current_understanding is not null and jsonb_array_length(new.evolution_stages) = 0
       and coalesce(current_setting('app.decision_stage', true), '') <> 'follows' then
      v_stage := jsonb_build_object('stage', 1, 'at', now(), 'session', private.current_session());
      new.evolution_stages := jsonb_build_array(v_stage || jsonb_build_object(
        'understanding', new.current_understanding, 'is_final', new.final_understanding is not null));
      new.evolution_timeline := jsonb_build_array(v_stage || jsonb_build_object(
        'event', case when new.final_understanding is null then 'initial' else 'decided' end));
    end if;
  elsif private.keep_companion(new.knowledge_id, private.render_decision(old), private.render_decision(new)) then
    new.updated_at := clock_timestamp();
  end if;
  return new;
end
$$;
comment on function private.keep_decision_companion() is 'Trigger: makes and maintains the companion item of a decision, and its first stage.';
create trigger decision_evolution_keep_companion_insert before insert on public.decision_evolution
  for each row execute function private.keep_decision_companion();
create trigger decision_evolution_keep_companion_update
  before update of decision_topic, initial_understanding, current_understanding, final_understanding, key_influences,
    decision_rationale, alternative_approaches, lessons_learned on public.decision_evolution
  for each row execute function private.keep_decision_companion();
create trigger decision_evolution_refuse_deletion before delete on public.decision_evolution
  for each row execute function private.refuse_record_deletion();

-- definer because a stage is added to records that the caller may read and not write; it checks that first.
create function private.append_decision_stage(knowledge_id uuid, stage jsonb)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_editable boolean := private.require_recorder(append_decision_stage.knowledge_id);
  v_when jsonb := jsonb_build_object('at', now(), 'session', private.current_session());
  v_number integer;
begin
  if jsonb_typeof(stage) is distinct from 'object' or jsonb_typeof(stage -> 'understanding') is distinct from 'string' then
    perform private.fail('PT400', 'a stage is an object with an understanding');
  end if;
  perform private.refuse_credential_in(stage::text);
  -- Locked first, so that the number is counted on what is there then.
  select jsonb_array_length(d.evolution_stages) + 1 into v_number
    from public.decision_evolution d where d.knowledge_id = append_decision_stage.knowledge_id for no key update;
  v_when := v_when || jsonb_build_object('stage', v_number);
  update public.decision_evolution d
     set evolution_stages = d.evolution_stages || jsonb_build_array(
           stage || v_when || case when v_editable then '{}' else '{"is_proposal": true}'::jsonb end),
         evolution_timeline = d.evolution_timeline || jsonb_build_array(v_when || jsonb_build_object('event', case
           when not v_editable then 'proposed'
           when (stage ->> 'is_final')::boolean then 'decided'
           when v_number = 1 then 'initial' else 'revised' end)),
         breakthrough_moments = d.breakthrough_moments || case when stage ? 'breakthrough'
           then jsonb_build_array(v_when || jsonb_build_object('breakthrough', stage -> 'breakthrough')) else '[]' end
   where d.knowledge_id = append_decision_stage.knowledge_id;
  return v_editable;
end
$$;
comment on function private.append_decision_stage(uuid, jsonb) is
  'Appends a stage to a decision that the caller may see, as a proposal unless the caller may edit the record, and says whether so.';

create type public.recorded_decision as (
  decision_id uuid, knowledge_id uuid, outcome text, stage integer, is_proposal boolean, is_final boolean,
  validation_status text
);
comment on type public.recorded_decision is 'What became of a recorded stage: the decision was created, or the stage merged into it. is_final: the decision is decided.';

create function public.record_decision_stage(
  decision_topic text, understanding text, influences text[] default null, rationale text default null,
  alternatives jsonb default null, is_final boolean default false, lessons_learned text default null,
  project_context text default null, breakthrough text default null,
  content_embedding extensions.vector default null, embedding_model text default null,
  allow_credentials boolean default false
)
returns setof public.recorded_decision
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_workspace uuid := private.default_workspace();
  v_user uuid := private.require_writer(v_workspace);
  v_project text := coalesce(record_decision_stage.project_context,
    (select s.project_context from public.ai_sessions s where s.id = private.current_session()));
  v_signature text := private.decision_signature(record_decision_stage.decision_topic, v_project);
  v_final boolean := coalesce(record_decision_stage.is_final, false);
  v_item uuid;
  v_created boolean;
  v_editable boolean;
begin
  if v_signature is null or coalesce(btrim(record_decision_stage.understanding), '') = '' then
    perform private.fail('PT400', 'decision_topic or understanding is missing or blank');
  end if;
  -- Read by what refuses credentials, and set back below.
  perform set_config('app.allow_credentials', case when record_decision_stage.allow_credentials then 'on' else '' end, true);
  v_item := private.claim_signature('decision', v_workspace, v_signature);
  v_created := v_item is null;
  if v_created then
    perform set_config('app.decision_stage', 'follows', true);
    insert into public.decision_evolution as d (workspace_id, decision_topic, initial_understanding,
      final_understanding, key_influences, decision_rationale, alternative_approaches, lessons_learned, project_context)
    values (v_workspace, btrim(record_decision_stage.decision_topic), record_decision_stage.understanding,
      case when v_final then record_decision_stage.understanding end, record_decision_stage.influences,
      record_decision_stage.rationale, record_decision_stage.alternatives, record_decision_stage.lessons_learned,
      v_project)
    returning d.knowledge_id into v_item;
    perform set_config('app.decision_stage', '', true);
    if record_decision_stage.content_embedding is not null then
      update public.knowledge_items k
         set content_embedding = record_decision_stage.content_embedding,
             embedding_model = record_decision_stage.embedding_model
       where k.id = v_item;
    end if;
  end if;
  -- Locks the record until the end.
  v_editable := private.append_decision_stage(v_item, jsonb_strip_nulls(jsonb_build_object(
    'understanding', record_decision_stage.understanding, 'influences', record_decision_stage.influences,
    'rationale', record_decision_stage.rationale, 'alternatives', record_decision_stage.alternatives,
    'lessons', record_decision_stage.lessons_learned, 'breakthrough', nullif(btrim(record_decision_stage.breakthrough), ''),
    'is_final', v_final)));
  if v_editable and not v_created then
    update public.decision_evolution d
       set initial_understanding = coalesce(d.initial_understanding, record_decision_stage.understanding),
           current_understanding = record_decision_stage.understanding,
           final_understanding = case when v_final then record_decision_stage.understanding else d.final_understanding end,
           key_influences = private.merge_words(d.key_influences, record_decision_stage.influences),
           decision_rationale = coalesce(record_decision_stage.rationale, d.decision_rationale),
           alternative_approaches = case
             when record_decision_stage.alternatives is null or d.alternative_approaches is null
               then coalesce(record_decision_stage.alternatives, d.alternative_approaches)
             when jsonb_typeof(d.alternative_approaches) = 'object' and jsonb_typeof(record_decision_stage.alternatives) = 'object'
               then d.alternative_approaches || record_decision_stage.alternatives
             when d.alternative_approaches @> record_decision_stage.alternatives then d.alternative_approaches
             else case jsonb_typeof(d.alternative_approaches) when 'array' then d.alternative_approaches
                    else jsonb_build_array(d.alternative_approaches) end || record_decision_stage.alternatives end,
           lessons_learned = coalesce(record_decision_stage.lessons_learned, d.lessons_learned)
     where d.knowledge_id = v_item;
  end if;
  perform set_config('app.allow_credentials', '', true);
  return query
    select d.id, d.knowledge_id, case when v_created then 'created' else 'merged' end,
           jsonb_array_length(d.evolution_stages), not v_editable, d.final_understanding is not null,
           k.validation_status::text
      from public.decision_evolution d join public.knowledge_items k on k.id = d.knowledge_id
     where d.knowledge_id = v_item;
end
$$;
comment on function public.record_decision_stage(text, text, text[], text, jsonb, boolean, text, text, text, extensions.vector, text, boolean) is
  'Adds a stage to a decision, which the first stage makes: how it is understood now, moved by what, why; is_final says that it is decided. Not idempotent, on purpose: each call is one stage, on the decision of the same topic and project that the caller owns, else may see; there a caller who may not edit only proposes. Text that looks like a credential is refused (PT451) unless allow_credentials.';

create type public.decision_trail as (
  decision_id uuid, knowledge_id uuid, decision_topic text, project_context text, is_final boolean,
  initial_understanding text, current_understanding text, final_understanding text, stages jsonb, timeline jsonb,
  key_influences text[], breakthrough_moments jsonb, decision_rationale text, alternative_approaches jsonb,
  lessons_learned text, validation_status text, is_in_force boolean, created_at timestamptz, updated_at timestamptz,
  match_reason text
);
comment on type public.decision_trail is 'A decision with its stages. is_in_force: neither deprecated nor superseded, and valid now.';

create function public.decision_history(
  decision_topic text default null, project_context text default null, max_results integer default 50,
  topic_embedding extensions.vector default null, embedding_model text default null
)
returns setof public.decision_trail
language plpgsql
stable
rows 20
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_workspace uuid := private.current_workspace();
  v_topic text := nullif(btrim(decision_history.decision_topic), '');
begin
  if decision_history.max_results is null or decision_history.max_results not between 1 and 1000 then
    perform private.fail('PT400', 'max_results is between 1 and 1000');
  end if;
  if v_workspace is null then
    return;
  end if;
  return query
    with found as materialized (
      select s.knowledge_id, s.score, s.relevance_reason
        from public.search_knowledge(query_text => v_topic, query_embedding => decision_history.topic_embedding,
               knowledge_types => '{contextual}', categories => '{decision}', max_results => 1000,
               embedding_model => decision_history.embedding_model) s
       where num_nonnulls(v_topic, decision_history.topic_embedding) > 0
    )
    select d.id, d.knowledge_id, d.decision_topic::text, d.project_context::text, d.final_understanding is not null,
           d.initial_understanding, d.current_understanding, d.final_understanding, d.evolution_stages,
           d.evolution_timeline, d.key_influences, d.breakthrough_moments, d.decision_rationale,
           d.alternative_approaches, d.lessons_learned, k.validation_status::text,
           k.validation_status <> 'deprecated' and k.superseded_by is null and private.is_valid_now(k), d.created_at,
           d.updated_at,
           case when t.is_topic then 'this topic' else f.relevance_reason end
      from public.decision_evolution d
      join public.knowledge_items k on k.id = d.knowledge_id
      left join found f on f.knowledge_id = d.knowledge_id
      cross join lateral (
        select private.decision_signature(d.decision_topic, null) = private.decision_signature(v_topic, null) as is_topic) t
     where d.workspace_id = v_workspace
       and (num_nonnulls(v_topic, decision_history.topic_embedding) = 0 or t.is_topic or f.knowledge_id is not null)
       and (decision_history.project_context is null or d.project_context = decision_history.project_context)
     order by coalesce(t.is_topic, false) desc, f.score desc nulls last, d.updated_at desc, d.id
     limit decision_history.max_results;
end
$$;
comment on function public.decision_history(text, text, integer, extensions.vector, text) is
  'Decisions with their stages: of a topic (the same first, then what search finds for its words and its vector), of a project, or all, newest first. Retired ones are told by is_in_force. Reads only.';

revoke execute on function
  private.decision_signature(text, text), private.render_decision(public.decision_evolution),
  private.keep_decision_companion(), private.append_decision_stage(uuid, jsonb),
  public.record_decision_stage(text, text, text[], text, jsonb, boolean, text, text, text, extensions.vector, text, boolean),
  public.decision_history(text, text, integer, extensions.vector, text)
  from public, anon, authenticated, service_role;
grant execute on function
  private.decision_signature(text, text), private.render_decision(public.decision_evolution),
  public.decision_history(text, text, integer, extensions.vector, text)
  to authenticated, service_role;
grant execute on function
  private.append_decision_stage(uuid, jsonb),
  public.record_decision_stage(text, text, text[], text, jsonb, boolean, text, text, text, extensions.vector, text, boolean)
  to authenticated;
