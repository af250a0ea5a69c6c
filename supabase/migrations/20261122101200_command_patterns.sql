-- Commands: what was run, how often it worked, how it fails.
--
-- Owns: command_patterns, record_command_run, suggest_commands.
--
-- Invariants
--   * A command is known by its text with white space folded. Each run counts: usage_count and success_count are whole
--     numbers, success_rate is computed from them, so that it never drifts.
--   * A run counts on the caller's own record, else on one that the caller may see. How it failed is an observation
--     and is added by anybody who may see the record; what describes the command only by those who may edit it.
--   * Counters, failures, times and session are not the caller's to write. Failures are not rendered into the item.

set local lock_timeout = '5s';

create table public.command_patterns (
  id uuid not null default gen_random_uuid(),
  workspace_id uuid not null default private.default_workspace(),
  owner_id uuid default auth.uid(),
  knowledge_id uuid not null,
  command_signature varchar(500) not null,
  command_description text,
  success_pattern text not null,
  failure_patterns text[] not null default '{}',
  context_requirements text[],
  parameter_notes jsonb,
  discovered_in_session uuid default private.current_session(),
  usage_count integer not null default 1,
  success_count integer not null default 1,
  success_rate numeric(5,2) generated always as (round(100.0 * success_count / usage_count, 2)) stored,
  last_used timestamptz not null default now(),
  command_category varchar(100),
  project_context varchar(200),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint command_patterns_pkey primary key (id),
  constraint command_patterns_knowledge_id_key unique (knowledge_id),
  constraint command_patterns_workspace_id_fkey foreign key (workspace_id)
    references public.workspaces (id) on delete cascade,
  constraint command_patterns_owner_id_fkey foreign key (owner_id) references auth.users (id) on delete set null,
  constraint command_patterns_knowledge_id_fkey foreign key (knowledge_id)
    references public.knowledge_items (id) on delete cascade,
  constraint command_patterns_discovered_in_session_fkey foreign key (discovered_in_session)
    references public.ai_sessions (id) on delete set null,
  constraint command_patterns_success_pattern_check check (btrim(success_pattern) <> ''),
  constraint command_patterns_counters_check check (usage_count >= 1 and success_count between 0 and usage_count)
) with (fillfactor = 85);
create index command_patterns_command_signature_idx on public.command_patterns (workspace_id, command_signature);
create index command_patterns_command_category_idx on public.command_patterns (workspace_id, command_category);
create index command_patterns_owner_id_idx on public.command_patterns (owner_id);
create index command_patterns_discovered_in_session_idx on public.command_patterns (discovered_in_session);

alter table public.command_patterns enable row level security;
comment on table public.command_patterns is 'Commands and API calls: what they are for, what they need, how often they worked, how they fail.';
comment on column public.command_patterns.id is 'The command.';
comment on column public.command_patterns.workspace_id is 'The workspace it belongs to.';
comment on column public.command_patterns.owner_id is 'Who recorded it; null once that user''s account is deleted.';
comment on column public.command_patterns.knowledge_id is 'Its companion item, made and kept by a trigger.';
comment on column public.command_patterns.project_context is 'The project it belongs to; by default its session''s.';
comment on column public.command_patterns.created_at is 'When it was recorded.';
comment on column public.command_patterns.updated_at is 'When its text last changed; not moved by counters.';
comment on column public.command_patterns.command_signature is 'What runs of the command have in common: its text with white space folded.';
comment on column public.command_patterns.command_description is 'What it is for.';
comment on column public.command_patterns.success_pattern is 'The command as it works.';
comment on column public.command_patterns.failure_patterns is 'The signatures of up to 50 errors with which it failed.';
comment on column public.command_patterns.context_requirements is 'What must hold for it to work.';
comment on column public.command_patterns.parameter_notes is 'Notes by parameter.';
comment on column public.command_patterns.discovered_in_session is 'The session that recorded it first.';
comment on column public.command_patterns.usage_count is 'How often it was run.';
comment on column public.command_patterns.success_count is 'How often it worked.';
comment on column public.command_patterns.success_rate is 'success_count of usage_count in percent, computed.';
comment on column public.command_patterns.last_used is 'When it was last run.';
comment on column public.command_patterns.command_category is 'A word to sort by.';

revoke all on public.command_patterns from public, anon, authenticated, service_role;
grant select on public.command_patterns to authenticated;
grant insert (workspace_id, owner_id, command_signature, command_description, success_pattern, context_requirements,
  parameter_notes, command_category, project_context) on public.command_patterns to authenticated;
grant update (command_description, success_pattern, context_requirements, parameter_notes, command_category,
  project_context) on public.command_patterns to authenticated;
grant select, insert, update, delete on public.command_patterns to service_role;

create policy command_patterns_select_visible on public.command_patterns for select to authenticated
  using (
    workspace_id = any (array(select private.my_workspaces()))
    and (owner_id = (select auth.uid()) or exists (select from public.knowledge_items k where k.id = knowledge_id)));
comment on policy command_patterns_select_visible on public.command_patterns is
  'A record is visible exactly when its item is. Owners see their items: said first, because the item of a row that is being inserted can''t be looked up yet.';
create policy command_patterns_insert_own on public.command_patterns for insert to authenticated
  with check (owner_id = (select auth.uid()) and workspace_id = any (array(select private.writable_workspaces())));
comment on policy command_patterns_insert_own on public.command_patterns is
  'Contributors and above record commands in their own name.';
create policy command_patterns_update_editor on public.command_patterns for update to authenticated
  using (
    (owner_id = (select auth.uid()) and workspace_id = any (array(select private.writable_workspaces())))
    or workspace_id = any (array(select private.maintained_workspaces())))
  with check (
    (owner_id = (select auth.uid()) and workspace_id = any (array(select private.writable_workspaces())))
    or workspace_id = any (array(select private.maintained_workspaces())));
comment on policy command_patterns_update_editor on public.command_patterns is
  'Owners of commands edit them, maintainers edit all of the workspace.';

create function private.render_command(command public.command_patterns)
returns private.companion_text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  -- Each thing is said once: what is said twice counts twice in a search, and pulls the vector towards itself.
  select row(
    'procedural', coalesce(nullif(btrim(command.command_category), ''), 'command'), t.title,
    concat_ws(e'\n',
      'Command: ' || private.clip(command.success_pattern, 12000),
      nullif(private.clip(command.command_description, 8000), t.title),
      'Needs: ' || private.clip(array_to_string(command.context_requirements, '; '), 4000),
      'Parameters: ' || private.clip(command.parameter_notes::text, 8000),
      'Signature: ' || nullif(command.command_signature, command.success_pattern)),
    50,
    private.merge_words(array[command.command_signature::text], array[split_part(command.command_signature, ' ', 1)]),
    jsonb_build_object('kind', 'command'),
    command.project_context)::private.companion_text
    from (select left(coalesce(nullif(btrim(regexp_replace(command.command_description, '\s+', ' ', 'g')), ''),
                               command.command_signature), 200) as title) t
$$;
comment on function private.render_command(public.command_patterns) is 'What the companion of a command says.';

create function private.keep_command_companion()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_made record;
begin
  if tg_op = 'INSERT' then
    new.command_signature := private.signature_of(coalesce(nullif(btrim(new.command_signature), ''), new.success_pattern));
    v_made := private.make_companion('command', new.workspace_id, new.owner_id, new.knowledge_id,
      new.command_signature, private.render_command(new));
    new.knowledge_id := v_made.made_id;
    new.project_context := v_made.project_context;
  elsif private.keep_companion(new.knowledge_id, private.render_command(old), private.render_command(new)) then
    new.updated_at := clock_timestamp();
  end if;
  return new;
end
$$;
comment on function private.keep_command_companion() is 'Trigger: makes and maintains the companion item of a record.';
create trigger command_patterns_keep_companion_insert before insert on public.command_patterns
  for each row execute function private.keep_command_companion();
create trigger command_patterns_keep_companion_update
  before update of command_description, success_pattern, context_requirements, parameter_notes, command_category,
    project_context on public.command_patterns
  for each row execute function private.keep_command_companion();
create trigger command_patterns_refuse_deletion before delete on public.command_patterns
  for each row execute function private.refuse_record_deletion();

-- definer because a run counts on records that the caller may read and not write; it checks that first.
create function private.count_command_run(
  knowledge_id uuid, succeeded boolean, failure_output text, is_first boolean
)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_editable boolean := private.require_recorder(count_command_run.knowledge_id);
  v_failure text := case when not succeeded and btrim(failure_output) <> ''
    then private.problem_signature(failure_output) end;
begin
  perform private.refuse_credential_in(failure_output);
  -- A new record counts one run, which worked, until told otherwise here.
  if is_first then
    update public.command_patterns c set success_count = succeeded::integer
     where c.knowledge_id = count_command_run.knowledge_id and c.usage_count = 1 and c.owner_id = auth.uid();
  else
    update public.command_patterns c
       set usage_count = c.usage_count + 1, success_count = c.success_count + succeeded::integer,
           last_used = greatest(c.last_used, now())
     where c.knowledge_id = count_command_run.knowledge_id;
  end if;
  if v_failure is not null then
    update public.command_patterns c set failure_patterns = c.failure_patterns || v_failure
     where c.knowledge_id = count_command_run.knowledge_id
       and cardinality(c.failure_patterns) < 50 and v_failure <> all (c.failure_patterns);
  end if;
  return v_editable;
end
$$;
comment on function private.count_command_run(uuid, boolean, text, boolean) is
  'Counts a run of a command that the caller may see, notes how it failed, and says whether the caller may edit the record.';

create type public.recorded_command as (
  command_id uuid, knowledge_id uuid, outcome text, command_signature text, usage_count integer,
  success_count integer, success_rate numeric, validation_status text
);
comment on type public.recorded_command is 'What became of a recorded run: the command was created, or the run merged into it.';

create function public.record_command_run(
  command text, succeeded boolean, command_description text default null, failure_output text default null,
  context_requirements text[] default null, parameter_notes jsonb default null, command_category text default null,
  project_context text default null, content_embedding extensions.vector default null,
  embedding_model text default null, allow_credentials boolean default false
)
returns setof public.recorded_command
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_workspace uuid := private.default_workspace();
  v_user uuid := private.require_writer(v_workspace);
  v_signature text := private.signature_of(record_command_run.command);
  v_item uuid;
  v_created boolean;
  v_editable boolean;
begin
  if coalesce(v_signature, '') = '' then
    perform private.fail('PT400', 'command is missing or blank');
  end if;
  if record_command_run.succeeded is null then
    perform private.fail('PT400', 'succeeded is missing', 'say whether the command worked');
  end if;
  -- Read by what refuses credentials, and set back below.
  perform set_config('app.allow_credentials', case when record_command_run.allow_credentials then 'on' else '' end, true);
  v_item := private.claim_signature('command', v_workspace, v_signature);
  v_created := v_item is null;
  if v_created then
    insert into public.command_patterns as c (workspace_id, success_pattern, command_description,
      context_requirements, parameter_notes, command_category, project_context)
    values (v_workspace, btrim(record_command_run.command), record_command_run.command_description,
      record_command_run.context_requirements, record_command_run.parameter_notes,
      record_command_run.command_category, record_command_run.project_context)
    returning c.knowledge_id into v_item;
    if record_command_run.content_embedding is not null then
      update public.knowledge_items k
         set content_embedding = record_command_run.content_embedding,
             embedding_model = record_command_run.embedding_model
       where k.id = v_item;
    end if;
  end if;
  -- Locks the record until the end.
  v_editable := private.count_command_run(v_item, record_command_run.succeeded, record_command_run.failure_output, v_created);
  if v_editable and not v_created and num_nonnulls(record_command_run.command_description,
       record_command_run.context_requirements, record_command_run.parameter_notes,
       record_command_run.command_category) > 0 then
    update public.command_patterns c
       set command_description = coalesce(c.command_description, record_command_run.command_description),
           context_requirements = private.merge_words(c.context_requirements, record_command_run.context_requirements),
           parameter_notes = case
             when jsonb_typeof(c.parameter_notes) = 'object' and jsonb_typeof(record_command_run.parameter_notes) = 'object'
               then record_command_run.parameter_notes || c.parameter_notes
             else coalesce(c.parameter_notes, record_command_run.parameter_notes) end,
           command_category = coalesce(c.command_category, record_command_run.command_category)
     where c.knowledge_id = v_item;
  end if;
  perform set_config('app.allow_credentials', '', true);
  return query
    select c.id, c.knowledge_id, case when v_created then 'created' else 'merged' end, c.command_signature::text,
           c.usage_count, c.success_count, c.success_rate, k.validation_status::text
      from public.command_patterns c join public.knowledge_items k on k.id = c.knowledge_id
     where c.knowledge_id = v_item;
end
$$;
comment on function public.record_command_run(text, boolean, text, text, text[], jsonb, text, text, extensions.vector, text, boolean) is
  'Records that a command was run and whether it worked. Not idempotent, on purpose: each call is one run, which counts on the record of the same command that the caller owns, else may see. Descriptions are filled in only by those who may edit the record. Text that looks like a credential is refused (PT451) unless allow_credentials.';

create type public.suggested_command as (
  command_id uuid, knowledge_id uuid, command text, command_description text, context_requirements text[],
  parameter_notes jsonb, failure_patterns text[], command_category text, usage_count integer, success_count integer,
  success_rate numeric, last_used timestamptz, validation_status text, score double precision, reason text
);
comment on type public.suggested_command is 'A command for a task: score is relevance times how reliably it works.';

create function public.suggest_commands(
  task text, task_embedding extensions.vector default null, max_results integer default 5,
  embedding_model text default null
)
returns setof public.suggested_command
language plpgsql
stable
rows 5
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
  if coalesce(btrim(suggest_commands.task), '') = '' then
    perform private.fail('PT400', 'task is missing or blank', 'say what is to be done');
  end if;
  if suggest_commands.max_results is null or suggest_commands.max_results not between 1 and 100 then
    perform private.fail('PT400', 'max_results is between 1 and 100');
  end if;
  return query
    with found as materialized (
      select s.knowledge_id, s.validation_status, s.score, s.relevance_reason
        from public.search_knowledge(query_text => suggest_commands.task,
               query_embedding => suggest_commands.task_embedding, knowledge_types => '{procedural}',
               max_results => 1000, embedding_model => suggest_commands.embedding_model) s
    )
    select c.id, c.knowledge_id, c.success_pattern, c.command_description, c.context_requirements, c.parameter_notes,
           c.failure_patterns, c.command_category::text, c.usage_count, c.success_count, c.success_rate, c.last_used,
           f.validation_status, w.score,
           concat_ws('; ', f.relevance_reason, format('worked %s of %s times', c.success_count, c.usage_count))
      from found f
      join public.command_patterns c on c.knowledge_id = f.knowledge_id
      -- Laplace's rule of succession: one success is no proof. What always fails keeps a quarter of its relevance.
      cross join lateral (
        select f.score * (0.25 + 0.75 * (c.success_count + 1.0) / (c.usage_count + 2.0)) as score) w
     order by w.score desc, c.usage_count desc, c.id
     limit suggest_commands.max_results;
end
$$;
comment on function public.suggest_commands(text, extensions.vector, integer, text) is
  'Commands for a task described in words (and optionally as a vector), by relevance and by how reliably they worked. Reads only.';

revoke execute on function
  private.render_command(public.command_patterns), private.keep_command_companion(),
  private.count_command_run(uuid, boolean, text, boolean),
  public.record_command_run(text, boolean, text, text, text[], jsonb, text, text, extensions.vector, text, boolean),
  public.suggest_commands(text, extensions.vector, integer, text)
  from public, anon, authenticated, service_role;
grant execute on function
  private.render_command(public.command_patterns), public.suggest_commands(text, extensions.vector, integer, text)
  to authenticated, service_role;
grant execute on function
  private.count_command_run(uuid, boolean, text, boolean),
  public.record_command_run(text, boolean, text, text, text[], jsonb, text, text, extensions.vector, text, boolean)
  to authenticated;
