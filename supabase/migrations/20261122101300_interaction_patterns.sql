-- Interaction patterns: how people work with an agent, and what they expect of it.
--
-- Owns: interaction_patterns, record_interaction_pattern, match_interaction_patterns.
--
-- Invariants
--   * A pattern is known by its name and the type of situation, whatever their case and spacing.
--   * Seeing it again raises its frequency, appends the example and moves its effectiveness, which is the mean of what
--     observers gave; indicators and descriptions grow only by those who may edit the record.
--   * Frequency, effectiveness, examples and times are not the caller's to change, and not rendered into the item.

set local lock_timeout = '5s';

create table public.interaction_patterns (
  id uuid not null default gen_random_uuid(),
  workspace_id uuid not null default private.default_workspace(),
  owner_id uuid default auth.uid(),
  knowledge_id uuid not null,
  pattern_name varchar(200) not null,
  situation_type varchar(100) not null,
  user_behavior_description text,
  ai_response_expected text,
  success_indicators text[],
  failure_indicators text[],
  pattern_frequency integer not null default 1,
  last_observed timestamptz not null default now(),
  effectiveness_score integer,
  effectiveness_sum bigint not null default 0,
  effectiveness_count integer not null default 0,
  pattern_metadata jsonb,
  examples jsonb not null default '[]',
  project_context varchar(200),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint interaction_patterns_pkey primary key (id),
  constraint interaction_patterns_knowledge_id_key unique (knowledge_id),
  constraint interaction_patterns_workspace_id_fkey foreign key (workspace_id)
    references public.workspaces (id) on delete cascade,
  constraint interaction_patterns_owner_id_fkey foreign key (owner_id) references auth.users (id) on delete set null,
  constraint interaction_patterns_knowledge_id_fkey foreign key (knowledge_id)
    references public.knowledge_items (id) on delete cascade,
  constraint interaction_patterns_pattern_name_check check (btrim(pattern_name) <> ''),
  constraint interaction_patterns_situation_type_check check (btrim(situation_type) <> ''),
  constraint interaction_patterns_pattern_frequency_check check (pattern_frequency >= 1),
  constraint interaction_patterns_effectiveness_score_check check (effectiveness_score between 1 and 100),
  constraint interaction_patterns_effectiveness_check check (
    (effectiveness_score is null) = (effectiveness_count = 0) and least(effectiveness_sum, effectiveness_count) >= 0),
  constraint interaction_patterns_examples_check check (jsonb_typeof(examples) = 'array')
) with (fillfactor = 85);
create index interaction_patterns_situation_type_idx
  on public.interaction_patterns (workspace_id, situation_type, effectiveness_score desc);
create index interaction_patterns_owner_id_idx on public.interaction_patterns (owner_id);

alter table public.interaction_patterns enable row level security;
comment on table public.interaction_patterns is 'How people behave in kinds of situations, and what they expect of the agent then.';
comment on column public.interaction_patterns.id is 'The pattern.';
comment on column public.interaction_patterns.workspace_id is 'The workspace it belongs to.';
comment on column public.interaction_patterns.owner_id is 'Who recorded it; null once that user''s account is deleted.';
comment on column public.interaction_patterns.knowledge_id is 'Its companion item, made and kept by a trigger.';
comment on column public.interaction_patterns.project_context is 'The project it belongs to; by default its session''s.';
comment on column public.interaction_patterns.created_at is 'When it was recorded.';
comment on column public.interaction_patterns.updated_at is 'When its text last changed; not moved by counters.';
comment on column public.interaction_patterns.pattern_name is 'What it is called.';
comment on column public.interaction_patterns.situation_type is 'The kind of situation: debugging, review, planning and the like.';
comment on column public.interaction_patterns.user_behavior_description is 'What the person does.';
comment on column public.interaction_patterns.ai_response_expected is 'What the person expects of the agent.';
comment on column public.interaction_patterns.success_indicators is 'How one sees that it went well.';
comment on column public.interaction_patterns.failure_indicators is 'How one sees that it went wrong.';
comment on column public.interaction_patterns.pattern_frequency is 'How often it was seen.';
comment on column public.interaction_patterns.last_observed is 'When it was last seen.';
comment on column public.interaction_patterns.effectiveness_score is '1 to 100: how well the expected response serves; the mean of all scores given, rounded.';
comment on column public.interaction_patterns.effectiveness_sum is 'Sum of the scores given.';
comment on column public.interaction_patterns.effectiveness_count is 'How many scores were given.';
comment on column public.interaction_patterns.pattern_metadata is 'What else belongs to it.';
comment on column public.interaction_patterns.examples is 'Examples in order, each {example, at, session}.';

revoke all on public.interaction_patterns from public, anon, authenticated, service_role;
grant select on public.interaction_patterns to authenticated;
grant insert (workspace_id, owner_id, pattern_name, situation_type, user_behavior_description, ai_response_expected,
  success_indicators, failure_indicators, effectiveness_score, pattern_metadata, project_context)
  on public.interaction_patterns to authenticated;
grant update (user_behavior_description, ai_response_expected, success_indicators, failure_indicators,
  pattern_metadata, project_context) on public.interaction_patterns to authenticated;
grant select, insert, update, delete on public.interaction_patterns to service_role;

create policy interaction_patterns_select_visible on public.interaction_patterns for select to authenticated
  using (
    workspace_id = any (array(select private.my_workspaces()))
    and (owner_id = (select auth.uid()) or exists (select from public.knowledge_items k where k.id = knowledge_id)));
comment on policy interaction_patterns_select_visible on public.interaction_patterns is
  'A record is visible exactly when its item is. Owners see their items: said first, because the item of a row that is being inserted can''t be looked up yet.';
create policy interaction_patterns_insert_own on public.interaction_patterns for insert to authenticated
  with check (owner_id = (select auth.uid()) and workspace_id = any (array(select private.writable_workspaces())));
comment on policy interaction_patterns_insert_own on public.interaction_patterns is
  'Contributors and above record patterns in their own name.';
create policy interaction_patterns_update_editor on public.interaction_patterns for update to authenticated
  using (
    (owner_id = (select auth.uid()) and workspace_id = any (array(select private.writable_workspaces())))
    or workspace_id = any (array(select private.maintained_workspaces())))
  with check (
    (owner_id = (select auth.uid()) and workspace_id = any (array(select private.writable_workspaces())))
    or workspace_id = any (array(select private.maintained_workspaces())));
comment on policy interaction_patterns_update_editor on public.interaction_patterns is
  'Owners of patterns edit them, maintainers edit all of the workspace.';

create function private.pattern_signature(pattern_name text, situation_type text)
returns text
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
  select private.signature_of(lower(
    (nullif(btrim(situation_type), '') || ': ' || nullif(btrim(pattern_name), '')) collate pg_catalog."pg_c_utf8"))
$$;
comment on function private.pattern_signature(text, text) is 'What sightings of an interaction pattern have in common.';

create function private.render_interaction_pattern(pattern public.interaction_patterns)
returns private.companion_text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select row(
    'contextual', 'interaction_pattern', pattern.pattern_name::text,
    concat_ws(e'\n',
      format('In situations of type %s: %s', pattern.situation_type, pattern.pattern_name),
      'The user: ' || private.clip(pattern.user_behavior_description, 12000),
      'Expected of the agent: ' || private.clip(pattern.ai_response_expected, 12000),
      'Signs of success: ' || private.clip(array_to_string(pattern.success_indicators, '; '), 4000),
      'Signs of failure: ' || private.clip(array_to_string(pattern.failure_indicators, '; '), 4000)),
    50, array[lower(pattern.situation_type::text collate pg_catalog."pg_c_utf8")],
    jsonb_build_object('kind', 'interaction_pattern', 'situation_type', pattern.situation_type)
      || case when pattern.pattern_metadata is null then '{}'
           else jsonb_build_object('metadata', pattern.pattern_metadata) end,
    pattern.project_context)::private.companion_text
$$;
comment on function private.render_interaction_pattern(public.interaction_patterns) is 'What the companion of an interaction pattern says.';

create function private.keep_interaction_pattern_companion()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_made record;
begin
  perform private.refuse_credential_in(new.pattern_metadata::text);
  if tg_op = 'INSERT' then
    -- A first score is the first of those that the mean is made of.
    new.effectiveness_sum := coalesce(new.effectiveness_score, 0);
    new.effectiveness_count := (new.effectiveness_score is not null)::integer;
    v_made := private.make_companion('interaction_pattern', new.workspace_id, new.owner_id, new.knowledge_id,
      private.pattern_signature(new.pattern_name, new.situation_type), private.render_interaction_pattern(new));
    new.knowledge_id := v_made.made_id;
    new.project_context := v_made.project_context;
  elsif private.keep_companion(new.knowledge_id, private.render_interaction_pattern(old), private.render_interaction_pattern(new)) then
    new.updated_at := clock_timestamp();
  end if;
  return new;
end
$$;
comment on function private.keep_interaction_pattern_companion() is 'Trigger: makes and maintains the companion item of a record.';
create trigger interaction_patterns_keep_companion_insert before insert on public.interaction_patterns
  for each row execute function private.keep_interaction_pattern_companion();
create trigger interaction_patterns_keep_companion_update
  before update of pattern_name, situation_type, user_behavior_description, ai_response_expected, success_indicators,
    failure_indicators, pattern_metadata, project_context on public.interaction_patterns
  for each row execute function private.keep_interaction_pattern_companion();
create trigger interaction_patterns_refuse_deletion before delete on public.interaction_patterns
  for each row execute function private.refuse_record_deletion();

-- definer because a sighting counts on records that the caller may read and not write; it checks that first.
create function private.count_interaction_pattern(
  knowledge_id uuid, effectiveness_score integer, example jsonb, is_repeat boolean
)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_editable boolean := private.require_recorder(count_interaction_pattern.knowledge_id);
  v_score integer := case when is_repeat then count_interaction_pattern.effectiveness_score end;
begin
  perform private.refuse_credential_in(example::text);
  if v_score not between 1 and 100 then
    perform private.fail('PT400', 'effectiveness_score is between 1 and 100');
  end if;
  update public.interaction_patterns p
     set pattern_frequency = p.pattern_frequency + is_repeat::integer,
         last_observed = greatest(p.last_observed, now()),
         effectiveness_sum = p.effectiveness_sum + coalesce(v_score, 0),
         effectiveness_count = p.effectiveness_count + (v_score is not null)::integer,
         effectiveness_score = round((p.effectiveness_sum + coalesce(v_score, 0))::numeric
           / nullif(p.effectiveness_count + (v_score is not null)::integer, 0)),
         examples = case when example is null then p.examples else p.examples || jsonb_build_array(
           jsonb_build_object('example', example, 'at', now(), 'session', private.current_session())) end
   where p.knowledge_id = count_interaction_pattern.knowledge_id and (is_repeat or example is not null);
  return v_editable;
end
$$;
comment on function private.count_interaction_pattern(uuid, integer, jsonb, boolean) is
  'Counts a sighting of a pattern that the caller may see, with its score and example, and says whether the caller may edit the record.';

create type public.recorded_interaction_pattern as (
  pattern_id uuid, knowledge_id uuid, outcome text, pattern_frequency integer, effectiveness_score integer,
  example_count integer, validation_status text
);
comment on type public.recorded_interaction_pattern is 'What became of a recorded pattern: created, or merged into one seen before.';

create function public.record_interaction_pattern(
  pattern_name text, situation_type text, user_behavior_description text default null,
  ai_response_expected text default null, success_indicators text[] default null,
  failure_indicators text[] default null, effectiveness_score integer default null, example jsonb default null,
  pattern_metadata jsonb default null, project_context text default null,
  content_embedding extensions.vector default null, embedding_model text default null,
  allow_credentials boolean default false
)
returns setof public.recorded_interaction_pattern
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_workspace uuid := private.default_workspace();
  v_user uuid := private.require_writer(v_workspace);
  v_signature text := private.pattern_signature(record_interaction_pattern.pattern_name, record_interaction_pattern.situation_type);
  v_item uuid;
  v_created boolean;
  v_editable boolean;
begin
  if v_signature is null then
    perform private.fail('PT400', 'pattern_name or situation_type is missing or blank');
  end if;
  -- Read by what refuses credentials, and set back below.
  perform set_config('app.allow_credentials', case when record_interaction_pattern.allow_credentials then 'on' else '' end, true);
  v_item := private.claim_signature('interaction_pattern', v_workspace, v_signature);
  v_created := v_item is null;
  if v_created then
    insert into public.interaction_patterns as p (workspace_id, pattern_name, situation_type, user_behavior_description,
      ai_response_expected, success_indicators, failure_indicators, effectiveness_score, pattern_metadata,
      project_context)
    values (v_workspace, btrim(record_interaction_pattern.pattern_name), btrim(record_interaction_pattern.situation_type),
      record_interaction_pattern.user_behavior_description, record_interaction_pattern.ai_response_expected,
      record_interaction_pattern.success_indicators, record_interaction_pattern.failure_indicators,
      record_interaction_pattern.effectiveness_score, record_interaction_pattern.pattern_metadata,
      record_interaction_pattern.project_context)
    returning p.knowledge_id into v_item;
    if record_interaction_pattern.content_embedding is not null then
      update public.knowledge_items k
         set content_embedding = record_interaction_pattern.content_embedding,
             embedding_model = record_interaction_pattern.embedding_model
       where k.id = v_item;
    end if;
  end if;
  -- Locks the record until the end.
  v_editable := private.count_interaction_pattern(v_item, record_interaction_pattern.effectiveness_score,
    record_interaction_pattern.example, not v_created);
  if v_editable and not v_created and num_nonnulls(record_interaction_pattern.user_behavior_description,
       record_interaction_pattern.ai_response_expected, record_interaction_pattern.success_indicators,
       record_interaction_pattern.failure_indicators, record_interaction_pattern.pattern_metadata) > 0 then
    update public.interaction_patterns p
       set user_behavior_description = coalesce(p.user_behavior_description, record_interaction_pattern.user_behavior_description),
           ai_response_expected = coalesce(p.ai_response_expected, record_interaction_pattern.ai_response_expected),
           success_indicators = private.merge_words(p.success_indicators, record_interaction_pattern.success_indicators),
           failure_indicators = private.merge_words(p.failure_indicators, record_interaction_pattern.failure_indicators),
           pattern_metadata = case
             when jsonb_typeof(p.pattern_metadata) = 'object' and jsonb_typeof(record_interaction_pattern.pattern_metadata) = 'object'
               then record_interaction_pattern.pattern_metadata || p.pattern_metadata
             else coalesce(p.pattern_metadata, record_interaction_pattern.pattern_metadata) end
     where p.knowledge_id = v_item;
  end if;
  perform set_config('app.allow_credentials', '', true);
  return query
    select p.id, p.knowledge_id, case when v_created then 'created' else 'merged' end, p.pattern_frequency,
           p.effectiveness_score, jsonb_array_length(p.examples), k.validation_status::text
      from public.interaction_patterns p join public.knowledge_items k on k.id = p.knowledge_id
     where p.knowledge_id = v_item;
end
$$;
comment on function public.record_interaction_pattern(text, text, text, text, text[], text[], integer, jsonb, jsonb, text, extensions.vector, text, boolean) is
  'Records that an interaction pattern was seen. Not idempotent, on purpose: each call is one sighting, which counts on the record of the same name and situation type that the caller owns, else may see. Descriptions and indicators are added only by those who may edit the record. Text that looks like a credential is refused (PT451) unless allow_credentials.';

create type public.matched_interaction_pattern as (
  pattern_id uuid, knowledge_id uuid, pattern_name text, situation_type text, user_behavior_description text,
  ai_response_expected text, success_indicators text[], failure_indicators text[], effectiveness_score integer,
  pattern_frequency integer, last_observed timestamptz, examples jsonb, validation_status text,
  score double precision, reason text
);
comment on type public.matched_interaction_pattern is 'A pattern for a situation: score is relevance, moved by effectiveness.';

create function public.match_interaction_patterns(
  situation text, situation_embedding extensions.vector default null, situation_type text default null,
  max_results integer default 5, embedding_model text default null
)
returns setof public.matched_interaction_pattern
language plpgsql
stable
rows 5
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
  if coalesce(btrim(match_interaction_patterns.situation), '') = '' then
    perform private.fail('PT400', 'situation is missing or blank', 'say what is going on');
  end if;
  if match_interaction_patterns.max_results is null or match_interaction_patterns.max_results not between 1 and 100 then
    perform private.fail('PT400', 'max_results is between 1 and 100');
  end if;
  return query
    with found as materialized (
      select s.knowledge_id, s.validation_status, s.score, s.relevance_reason
        from public.search_knowledge(query_text => match_interaction_patterns.situation,
               query_embedding => match_interaction_patterns.situation_embedding, knowledge_types => '{contextual}',
               categories => '{interaction_pattern}', max_results => 1000,
               embedding_model => match_interaction_patterns.embedding_model) s
    )
    select p.id, p.knowledge_id, p.pattern_name::text, p.situation_type::text, p.user_behavior_description,
           p.ai_response_expected, p.success_indicators, p.failure_indicators, p.effectiveness_score,
           p.pattern_frequency, p.last_observed, p.examples, f.validation_status, w.score,
           concat_ws('; ', f.relevance_reason, 'effectiveness ' || p.effectiveness_score,
             format('seen %s %s', p.pattern_frequency, case p.pattern_frequency when 1 then 'time' else 'times' end))
      from found f
      join public.interaction_patterns p on p.knowledge_id = f.knowledge_id
      cross join lateral (
        select f.score * (0.75 + 0.25 * coalesce(p.effectiveness_score, 50) / 100.0) as score) w
     where match_interaction_patterns.situation_type is null
        or lower(p.situation_type collate pg_catalog."pg_c_utf8")
           = lower(btrim(match_interaction_patterns.situation_type) collate pg_catalog."pg_c_utf8")
     order by w.score desc, p.pattern_frequency desc, p.id
     limit match_interaction_patterns.max_results;
end
$$;
comment on function public.match_interaction_patterns(text, extensions.vector, text, integer, text) is
  'Interaction patterns for a situation described in words (and optionally as a vector), optionally of one situation type, by relevance and effectiveness. Reads only.';

revoke execute on function
  private.pattern_signature(text, text), private.render_interaction_pattern(public.interaction_patterns),
  private.keep_interaction_pattern_companion(), private.count_interaction_pattern(uuid, integer, jsonb, boolean),
  public.record_interaction_pattern(text, text, text, text, text[], text[], integer, jsonb, jsonb, text, extensions.vector, text, boolean),
  public.match_interaction_patterns(text, extensions.vector, text, integer, text)
  from public, anon, authenticated, service_role;
grant execute on function
  private.pattern_signature(text, text), private.render_interaction_pattern(public.interaction_patterns),
  public.match_interaction_patterns(text, extensions.vector, text, integer, text)
  to authenticated, service_role;
grant execute on function
  private.count_interaction_pattern(uuid, integer, jsonb, boolean),
  public.record_interaction_pattern(text, text, text, text, text[], text[], integer, jsonb, jsonb, text, extensions.vector, text, boolean)
  to authenticated;
