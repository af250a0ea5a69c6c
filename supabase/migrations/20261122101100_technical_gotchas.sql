-- Gotchas: problems met, what was tried, what worked.
--
-- Owns: technical_gotchas, the signature of a problem, record_gotcha, find_gotchas.
--
-- Invariants
--   * A problem is known by its signature: the line of the error text that names it, without what changes from one
--     sighting to the next (times, addresses, directories, line numbers, values).
--   * Meeting it again raises the frequency and appends the attempt, on the caller's own record, else on one that
--     the caller may see. Only who may edit the record changes its text; a working solution is kept until an editor
--     gives another, and then stays among the attempts.
--   * Attempts are appended, never edited: they are not rendered into the item, so adding one changes no text.
--   * Frequency, times, session and attempts are not the caller's to write.

set local lock_timeout = '5s';

create function private.problem_line(problem text)
returns text
language plpgsql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
  -- What is a letter, and its small form, must not depend on the locale of the database.
  v_lines text[] collate pg_catalog."pg_c_utf8";
  v_line text collate pg_catalog."pg_c_utf8";
  v_place integer;
begin
  -- Terminal colours, then one array element a line; what pytest and quoting put before a line goes.
  v_lines := array(
    select btrim(regexp_replace(l.line, '^\s*(E\s{2,}|>\s+|[|]\s+)', ''))
      from regexp_split_to_table(
             regexp_replace(left(problem, 65536) collate pg_catalog."pg_c_utf8", e'\x1b\\[[0-9;?]*[A-Za-z]', '', 'g'), e'\r\n|\r|\n')
           with ordinality l (line, place)
     where btrim(l.line) <> ''
       -- Frames and rulers of stack traces name places, not the problem.
       and l.line !~ '^\s*(at\s.*[:(]|File "|\.\.\. |\^|~|--+>|[|]?\s*[|^~]+\s*$|Traceback|goroutine \d|During handling of|The above exception|note:|\d+\s*[|])'
     order by l.place);
  if cardinality(v_lines) = 0 then
    return btrim(problem);
  end if;
  if cardinality(v_lines) = 1 then
    return v_lines[1];
  end if;
  -- The root cause of a chain is its last link (Java says "Caused by", Python prints it last).
  select l.line, l.place into v_line, v_place
    from unnest(v_lines) with ordinality l (line, place)
   where l.line ~ '^Caused by:' order by l.place desc limit 1;
  if v_line is null and problem ~ 'Traceback \(most recent call last\)' then
    select l.line, l.place into v_line, v_place
      from unnest(v_lines) with ordinality l (line, place)
     where l.line ~ '^[A-Za-z_][\w.]*(Error|Exception|Warning|Interrupt|Exit|Iteration|Timeout|Refused|Violation|Failure|Table|Column|Object|[a-z])(:|$)' and l.line !~ '\s.*\s=\s'
     order by l.place desc limit 1;
  end if;
  if v_line is null then
    select l.line, l.place into v_line, v_place
      from unnest(v_lines) with ordinality l (line, place)
     where l.line ~ '([A-Za-z]\w*(Error|Exception)\M|\merror(\[\w+\])?:|\mERROR\M|\mFATAL\M|\mPANIC\M|\mpanic:|panicked at|\mnpm (ERR!|error)|[Ss]egmentation fault)'
     order by l.place limit 1;
  end if;
  if v_line is null then
    select l.line, l.place into v_line, v_place
      from unnest(v_lines) with ordinality l (line, place)
     where l.line ~* '(error|exception|fatal|fail|denied|refused|cannot|can''t|could not|not found|no such|undefined|unable|timed? ?out|abort|killed|invalid|unexpected)'
     order by l.place limit 1;
  end if;
  if v_line is null then
    return v_lines[1];
  end if;
  -- Rust says where it panicked, and why on the next line.
  if v_line ~ 'panicked at .*:$' then
    v_line := regexp_replace(v_line, 'panicked at .*$', 'panicked: ') || coalesce(v_lines[v_place + 1], '');
  end if;
  return v_line;
end
$$;
comment on function private.problem_line(text) is 'The line of a pasted error text or stack trace that names the problem.';

create function private.problem_signature(problem text)
returns text
language plpgsql
immutable
strict
parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
  -- What names an error stands near the beginning or the end of what is pasted; the patterns below take time in
  -- proportion to the text.
  v text collate pg_catalog."pg_c_utf8" := left(private.problem_line(case when length(problem) <= 20000 then problem
    else left(problem, 10000) || e'\n' || right(problem, 10000) end), 2000);
begin
  -- Times: ISO 8601, syslog, of day.
  v := regexp_replace(v, '\[?\d{4}[-/]\d\d[-/]\d\d([T ]\d\d:\d\d(:\d\d)?([.,]\d+)?)?( ?(Z|UTC|GMT|[+-]\d\d:?\d\d))?\]?', ' ', 'g');
  v := regexp_replace(v, '\m(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) +\d{1,2} \d\d:\d\d:\d\d', ' ', 'g');
  v := regexp_replace(v, '\[?\m\d\d:\d\d:\d\d([.,]\d+)?\]?', ' ', 'g');
  v := lower(v);
  -- Identities: UUIDs, addresses, hashes.
  v := regexp_replace(v, '\m[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\M', '<id>', 'g');
  v := regexp_replace(v, '\m0x[0-9a-f]+\M', '<hex>', 'g');
  v := regexp_replace(v, '\m(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{7,}\M', '<hex>', 'g');
  -- Of an address on the web the host; of a path the base name; of a place in a file the file.
  v := regexp_replace(v, '\m([a-z][a-z0-9+]*)://(?:[^/\s@]*@)?([^/\s:''")]+(?::\d+)?)[^\s''")]*', '\2', 'g');
  v := regexp_replace(v, '(^|[\s''"`(=\[,:])(?:[a-z]:[\\/]|~[\\/]|\.{1,2}[\\/]|/)(?:[^\s\\/:"''`(),;<>]+[\\/]+)*(?=[^\s\\/])', '\1', 'g');
  v := regexp_replace(v, '(^|[\s''"`(=\[,:])(?:[\w.@+-]+[\\/])+(?=[\w.@+-]+\.[a-z]\w*)', '\1', 'g');
  v := regexp_replace(v, '(\.[a-z]\w{0,5})(?::\d+)+:?', '\1', 'g');
  v := regexp_replace(v, '(\.[a-z]\w{0,5})\(\d+(?:,\d+)?\):?', '\1', 'g');
  v := regexp_replace(v, '(\mat )?\m(line|column|col|char|position|row|offset)\M[ :=#]*\(?\d+\)?,?', '\2', 'g');
  v := regexp_replace(v, '\m\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}\M', '<ip>', 'g');
  -- A quoted name is part of the problem, a quoted value is not.
  v := regexp_replace(v, '(invalid input syntax[^:]*|invalid literal[^:]*|invalid value[^:]*): .*$', '\1', 'g');
  v := regexp_replace(v, '"(?![a-z_$@<][\w.$@/:<>-]*")[^"]*"', '<str>', 'g');
  v := regexp_replace(v, '(^|[\s(=\[:,])''(?![a-z_$@<][\w.$@/:<>-]*'')[^'']*''', '\1<str>', 'g');
  v := regexp_replace(v, '[''"`‘’“”]', '', 'g');
  -- Numbers go, but not those that name the problem: codes, statuses, ports, versions.
  v := regexp_replace(v, '(_|-)\d+\M', '\1<n>', 'g');
  v := regexp_replace(v,
    '(?<!(errno|code|status|http|http/\d|http/\d\.\d|error|exit|signal|sqlstate|port|returned|version|python|postgresql|node)[ :=#(\[]{1,3})(?<!(<ip>|localhost):)(?<![\w.])\d+(\.\d+)*( ?(ms|s|sec|seconds|secs|kb|mb|gb|kib|mib|gib|bytes|b|m|min|h)\M|%|\M)',
    '<n>', 'g');
  v := regexp_replace(v, '<n>([.:,/ ]+<n>)+', '<n>', 'g');
  -- What programs put before the message.
  v := regexp_replace(v, '^(<n>|[\s\[\]:|-])+(?=\w{2})', '');
  v := regexp_replace(v, '^(exception in thread \S+|caused by:|uncaught|npm (err!|error)|\[?(error|err|fatal|panic|warn(ing)?|critical|severe)\]?( *[:|-] *| *\[(<n>|\d+)\] *:? *)|\[(error|err|fatal|critical)\]) *', '');
  v := regexp_replace(v, '\[(<n>|\d+)\]:?', '', 'g');
  v := btrim(regexp_replace(v, '\s+', ' ', 'g'), ' .:;,-!');
  if v = '' then
    v := lower(problem collate pg_catalog."pg_c_utf8");
  end if;
  return private.signature_of(v);
end
$$;
comment on function private.problem_signature(text) is
  'A problem as a key: of a pasted error text the line that names it, in lower case, without times, addresses, identities, directories, line numbers and values. At most 500 characters.';

create table public.technical_gotchas (
  id uuid not null default gen_random_uuid(),
  workspace_id uuid not null default private.default_workspace(),
  owner_id uuid default auth.uid(),
  knowledge_id uuid not null,
  problem_signature varchar(500) not null,
  problem_description text not null,
  problem_context jsonb,
  attempted_solutions jsonb not null default '[]',
  working_solution text,
  failure_patterns text[],
  discovery_session uuid default private.current_session(),
  problem_category varchar(100),
  severity_level integer,
  frequency_encountered integer not null default 1,
  last_encountered timestamptz not null default now(),
  resolution_time_minutes integer,
  prevention_guidance text,
  related_gotchas uuid[],
  project_context varchar(200),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint technical_gotchas_pkey primary key (id),
  constraint technical_gotchas_knowledge_id_key unique (knowledge_id),
  constraint technical_gotchas_workspace_id_fkey foreign key (workspace_id)
    references public.workspaces (id) on delete cascade,
  constraint technical_gotchas_owner_id_fkey foreign key (owner_id) references auth.users (id) on delete set null,
  constraint technical_gotchas_knowledge_id_fkey foreign key (knowledge_id)
    references public.knowledge_items (id) on delete cascade,
  constraint technical_gotchas_discovery_session_fkey foreign key (discovery_session)
    references public.ai_sessions (id) on delete set null,
  constraint technical_gotchas_problem_description_check check (btrim(problem_description) <> ''),
  constraint technical_gotchas_attempted_solutions_check check (jsonb_typeof(attempted_solutions) = 'array'),
  constraint technical_gotchas_severity_level_check check (severity_level between 1 and 10),
  constraint technical_gotchas_frequency_encountered_check check (frequency_encountered >= 1),
  constraint technical_gotchas_resolution_time_minutes_check check (resolution_time_minutes >= 0)
) with (fillfactor = 85);
create index technical_gotchas_problem_signature_idx on public.technical_gotchas (workspace_id, problem_signature);
create index technical_gotchas_problem_category_idx on public.technical_gotchas (workspace_id, problem_category);
create index technical_gotchas_owner_id_idx on public.technical_gotchas (owner_id);
create index technical_gotchas_discovery_session_idx on public.technical_gotchas (discovery_session);
create index technical_gotchas_related_gotchas_idx on public.technical_gotchas using gin (related_gotchas);

alter table public.technical_gotchas enable row level security;
comment on table public.technical_gotchas is 'Problems met: how they look, what was tried with which outcome, what works, how to prevent them.';
comment on column public.technical_gotchas.id is 'The gotcha.';
comment on column public.technical_gotchas.workspace_id is 'The workspace it belongs to.';
comment on column public.technical_gotchas.owner_id is 'Who recorded it; null once that user''s account is deleted.';
comment on column public.technical_gotchas.knowledge_id is 'Its companion item, made and kept by a trigger.';
comment on column public.technical_gotchas.problem_signature is 'What sightings of the problem have in common: normalised from what was given, else from the description.';
comment on column public.technical_gotchas.problem_description is 'The problem, or the error text as pasted.';
comment on column public.technical_gotchas.problem_context is 'Structured context: versions, platform, settings.';
comment on column public.technical_gotchas.attempted_solutions is 'Attempts in order, each {solution, outcome (worked, failed or partial), at, session}.';
comment on column public.technical_gotchas.working_solution is 'What works.';
comment on column public.technical_gotchas.failure_patterns is 'Other ways in which it shows.';
comment on column public.technical_gotchas.discovery_session is 'The session that recorded it first.';
comment on column public.technical_gotchas.problem_category is 'A word to sort by.';
comment on column public.technical_gotchas.severity_level is '1 to 10: how much it hurts.';
comment on column public.technical_gotchas.frequency_encountered is 'How often it was met.';
comment on column public.technical_gotchas.last_encountered is 'When it was last met.';
comment on column public.technical_gotchas.resolution_time_minutes is 'How long it took to solve, in minutes.';
comment on column public.technical_gotchas.prevention_guidance is 'How not to meet it again.';
comment on column public.technical_gotchas.related_gotchas is 'Ids of gotchas of the same workspace that belong to it.';
comment on column public.technical_gotchas.project_context is 'The project it was met in; by default its session''s.';
comment on column public.technical_gotchas.created_at is 'When it was recorded.';
comment on column public.technical_gotchas.updated_at is 'When its text last changed; not moved by counters.';

revoke all on public.technical_gotchas from public, anon, authenticated, service_role;
grant select on public.technical_gotchas to authenticated;
grant insert (workspace_id, owner_id, problem_signature, problem_description, problem_context, working_solution,
  failure_patterns, problem_category, severity_level, resolution_time_minutes, prevention_guidance, related_gotchas,
  project_context) on public.technical_gotchas to authenticated;
grant update (problem_description, problem_context, working_solution, failure_patterns, problem_category,
  severity_level, resolution_time_minutes, prevention_guidance, related_gotchas, project_context)
  on public.technical_gotchas to authenticated;
grant select, insert, update, delete on public.technical_gotchas to service_role;

-- The first half says nothing new, since owners see their items; but it needs no look at an item that the statement
-- itself has just made, which `insert … returning` could not see yet.
create policy technical_gotchas_select_visible on public.technical_gotchas for select to authenticated
  using (
    workspace_id = any (array(select private.my_workspaces()))
    and (owner_id = (select auth.uid()) or exists (select from public.knowledge_items k where k.id = knowledge_id)));
comment on policy technical_gotchas_select_visible on public.technical_gotchas is
  'A gotcha is visible exactly when its item is.';
create policy technical_gotchas_insert_own on public.technical_gotchas for insert to authenticated
  with check (owner_id = (select auth.uid()) and workspace_id = any (array(select private.writable_workspaces())));
comment on policy technical_gotchas_insert_own on public.technical_gotchas is
  'Contributors and above record gotchas in their own name.';
create policy technical_gotchas_update_editor on public.technical_gotchas for update to authenticated
  using (
    (owner_id = (select auth.uid()) and workspace_id = any (array(select private.writable_workspaces())))
    or workspace_id = any (array(select private.maintained_workspaces())))
  with check (
    (owner_id = (select auth.uid()) and workspace_id = any (array(select private.writable_workspaces())))
    or workspace_id = any (array(select private.maintained_workspaces())));
comment on policy technical_gotchas_update_editor on public.technical_gotchas is
  'Owners of a gotcha edit it, maintainers edit all of the workspace.';

create function private.render_gotcha(gotcha public.technical_gotchas)
returns private.companion_text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select row(
    'technical_discovery', coalesce(nullif(btrim(gotcha.problem_category), ''), 'gotcha'),
    left(btrim(regexp_replace(private.problem_line(gotcha.problem_description), '\s+', ' ', 'g')), 200),
    concat_ws(e'\n',
      'Problem: ' || private.clip(gotcha.problem_description, 12000),
      'Solution: ' || private.clip(gotcha.working_solution, 12000),
      'Prevention: ' || private.clip(gotcha.prevention_guidance, 4000),
      'Also seen as: ' || private.clip(array_to_string(gotcha.failure_patterns, '; '), 4000),
      'Signature: ' || gotcha.problem_signature),
    case when gotcha.severity_level is null then 50 else least(20 + 8 * gotcha.severity_level, 100) end,
    private.merge_words(array[gotcha.problem_signature::text], gotcha.failure_patterns),
    case when gotcha.problem_context is null then '{}'
         when jsonb_typeof(gotcha.problem_context) = 'object' then gotcha.problem_context
         else jsonb_build_object('problem_context', gotcha.problem_context) end
      || jsonb_build_object('kind', 'gotcha'),
    gotcha.project_context)::private.companion_text
$$;
comment on function private.render_gotcha(public.technical_gotchas) is 'What the companion of a gotcha says.';

create function private.keep_gotcha_companion()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_made record;
begin
  new.related_gotchas := case when cardinality(new.related_gotchas) > 0 then new.related_gotchas end;
  if new.related_gotchas is not null and (tg_op = 'INSERT' or new.related_gotchas is distinct from old.related_gotchas)
     and exists (select from unnest(new.related_gotchas) r (id)
                  where not exists (select from public.technical_gotchas g
                                     where g.id = r.id and g.id <> new.id and g.workspace_id = new.workspace_id)) then
    perform private.fail('PT404', 'related_gotchas names no gotcha of this workspace');
  end if;
  if tg_op = 'INSERT' then
    -- An import brings the signature that was made of the text as it was pasted.
    if private.imported_item() is null then
      new.problem_signature := private.problem_signature(coalesce(nullif(btrim(new.problem_signature), ''), new.problem_description));
    end if;
    v_made := private.make_companion('gotcha', new.workspace_id, new.owner_id, new.knowledge_id,
      new.problem_signature, private.render_gotcha(new));
    new.knowledge_id := v_made.made_id;
    new.project_context := v_made.project_context;
  elsif private.keep_companion(new.knowledge_id, private.render_gotcha(old), private.render_gotcha(new)) then
    new.updated_at := clock_timestamp();
  end if;
  return new;
end
$$;
comment on function private.keep_gotcha_companion() is 'Trigger: makes and maintains a gotcha''s companion item, and holds its references.';
create trigger technical_gotchas_keep_companion_insert before insert on public.technical_gotchas
  for each row execute function private.keep_gotcha_companion();
create trigger technical_gotchas_keep_companion_update
  before update of problem_description, problem_context, working_solution, failure_patterns, problem_category,
    severity_level, prevention_guidance, related_gotchas, project_context on public.technical_gotchas
  for each row execute function private.keep_gotcha_companion();
create trigger technical_gotchas_refuse_deletion before delete on public.technical_gotchas
  for each row execute function private.refuse_record_deletion();

-- definer because a reference to an erased gotcha goes from everybody's records.
create function private.forget_related_gotcha()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  update public.technical_gotchas g set related_gotchas = array_remove(g.related_gotchas, old.id)
   where g.related_gotchas @> array[old.id];
  return null;
end
$$;
comment on function private.forget_related_gotcha() is 'Trigger: an erased gotcha is no longer referred to.';
create trigger technical_gotchas_forget_related after delete on public.technical_gotchas
  for each row execute function private.forget_related_gotcha();

-- definer because a sighting counts on records that the caller may read and not write; it checks that first.
create function private.count_gotcha(knowledge_id uuid, attempts jsonb, is_repeat boolean)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_editable boolean := private.require_recorder(count_gotcha.knowledge_id);
  v_session uuid := private.current_session();
begin
  if attempts is null or jsonb_typeof(attempts) <> 'array' or exists (
    select from jsonb_array_elements(attempts) a (attempt)
     where jsonb_typeof(a.attempt) <> 'object' or jsonb_typeof(a.attempt -> 'solution') is distinct from 'string'
        or a.attempt ->> 'outcome' is null or a.attempt ->> 'outcome' not in ('worked', 'failed', 'partial')) then
    perform private.fail('PT400', 'an attempt has a solution and an outcome: worked, failed or partial');
  end if;
  if not is_repeat and jsonb_array_length(attempts) = 0 then
    return v_editable;
  end if;
  perform private.refuse_credential_in(attempts::text);
  update public.technical_gotchas g
     set frequency_encountered = g.frequency_encountered + is_repeat::integer,
         last_encountered = greatest(g.last_encountered, now()),
         attempted_solutions = g.attempted_solutions || (
           select coalesce(jsonb_agg(a.attempt || jsonb_build_object('at', now(), 'session', v_session) order by a.place), '[]')
             from jsonb_array_elements(attempts) with ordinality a (attempt, place))
   where g.knowledge_id = count_gotcha.knowledge_id;
  return v_editable;
end
$$;
comment on function private.count_gotcha(uuid, jsonb, boolean) is
  'Counts a sighting of a gotcha that the caller may see, appends the attempts, and says whether the caller may edit it.';

create type public.recorded_gotcha as (
  gotcha_id uuid, knowledge_id uuid, outcome text, problem_signature text, frequency_encountered integer,
  attempt_count integer, working_solution text, validation_status text
);
comment on type public.recorded_gotcha is 'What became of a recorded gotcha: created, or merged into one met before.';

create function public.record_gotcha(
  problem_description text, problem_signature text default null, attempted_solution text default null,
  attempt_outcome text default null, working_solution text default null, failure_patterns text[] default null,
  problem_context jsonb default null, problem_category text default null, severity_level integer default null,
  resolution_time_minutes integer default null, prevention_guidance text default null,
  project_context text default null, content_embedding extensions.vector default null,
  embedding_model text default null, allow_credentials boolean default false
)
returns setof public.recorded_gotcha
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_workspace uuid := private.default_workspace();
  v_user uuid := private.require_writer(v_workspace);
  v_signature text := private.problem_signature(
    coalesce(nullif(btrim(record_gotcha.problem_signature), ''), record_gotcha.problem_description));
  v_attempt text := nullif(btrim(record_gotcha.attempted_solution), '');
  v_solution text := nullif(btrim(record_gotcha.working_solution), '');
  v_attempts jsonb := '[]';
  v_item uuid;
  v_created boolean;
  v_editable boolean;
  v_present text;
begin
  if coalesce(btrim(record_gotcha.problem_description), '') = '' then
    perform private.fail('PT400', 'problem_description is missing or blank', 'paste the error text, or say what went wrong');
  end if;
  if length(record_gotcha.problem_signature) > 500 then
    perform private.fail('PT400', 'problem_signature has at most 500 characters', 'leave it out to have one made');
  end if;
  if (v_attempt is null) <> (record_gotcha.attempt_outcome is null)
     or record_gotcha.attempt_outcome not in ('worked', 'failed', 'partial') then
    perform private.fail('PT400', 'an attempt has an outcome: worked, failed or partial',
      'pass attempted_solution and attempt_outcome together');
  end if;
  if v_attempt is not null then
    v_attempts := jsonb_build_array(jsonb_build_object('solution', v_attempt, 'outcome', record_gotcha.attempt_outcome));
    if record_gotcha.attempt_outcome = 'worked' then
      v_solution := coalesce(v_solution, v_attempt);
    end if;
  end if;

  -- Read by what refuses credentials, and set back below.
  perform set_config('app.allow_credentials', case when record_gotcha.allow_credentials then 'on' else '' end, true);
  v_item := private.claim_signature('gotcha', v_workspace, v_signature);
  v_created := v_item is null;
  if v_created then
    insert into public.technical_gotchas as g (workspace_id, problem_signature, problem_description, problem_context,
      working_solution, failure_patterns, problem_category, severity_level, resolution_time_minutes,
      prevention_guidance, project_context)
    values (v_workspace, nullif(btrim(record_gotcha.problem_signature), ''), record_gotcha.problem_description, record_gotcha.problem_context, v_solution,
      record_gotcha.failure_patterns, record_gotcha.problem_category, record_gotcha.severity_level,
      record_gotcha.resolution_time_minutes, record_gotcha.prevention_guidance, record_gotcha.project_context)
    returning g.knowledge_id into v_item;
    if record_gotcha.content_embedding is not null then
      update public.knowledge_items k
         set content_embedding = record_gotcha.content_embedding, embedding_model = record_gotcha.embedding_model
       where k.id = v_item;
    end if;
    perform private.count_gotcha(v_item, v_attempts, false);
  else
    select a.is_editable into v_editable from private.item_access(v_item) a;
    if v_solution is not null and v_attempt is distinct from v_solution and not v_editable then
      -- Not the caller's text to change, nor anything to lose.
      v_attempts := v_attempts || jsonb_build_object('solution', v_solution, 'outcome', 'worked');
    end if;
    v_editable := private.count_gotcha(v_item, v_attempts, true);  -- locks the record until the end
    if v_editable then
      select g.working_solution into v_present from public.technical_gotchas g where g.knowledge_id = v_item;
      if v_present <> record_gotcha.working_solution and btrim(record_gotcha.working_solution) <> '' then
        perform private.count_gotcha(v_item,
          jsonb_build_array(jsonb_build_object('solution', v_present, 'outcome', 'worked', 'replaced', true)), false);
      end if;
      update public.technical_gotchas g
         set working_solution = coalesce(nullif(btrim(record_gotcha.working_solution), ''), g.working_solution, v_solution),
             failure_patterns = private.merge_words(g.failure_patterns, record_gotcha.failure_patterns),
             problem_context = case when jsonb_typeof(g.problem_context) = 'object' and jsonb_typeof(record_gotcha.problem_context) = 'object'
               then record_gotcha.problem_context || g.problem_context
               else coalesce(g.problem_context, record_gotcha.problem_context) end,
             problem_category = coalesce(g.problem_category, record_gotcha.problem_category),
             severity_level = coalesce(g.severity_level, record_gotcha.severity_level),
             resolution_time_minutes = coalesce(g.resolution_time_minutes, record_gotcha.resolution_time_minutes),
             prevention_guidance = coalesce(g.prevention_guidance, record_gotcha.prevention_guidance)
       where g.knowledge_id = v_item
         and num_nonnulls(v_solution, record_gotcha.failure_patterns, record_gotcha.problem_context,
               record_gotcha.problem_category, record_gotcha.severity_level, record_gotcha.resolution_time_minutes,
               record_gotcha.prevention_guidance) > 0;
    end if;
  end if;
  perform set_config('app.allow_credentials', '', true);
  return query
    select g.id, g.knowledge_id, case when v_created then 'created' else 'merged' end, g.problem_signature::text,
           g.frequency_encountered, jsonb_array_length(g.attempted_solutions), g.working_solution,
           k.validation_status::text
      from public.technical_gotchas g join public.knowledge_items k on k.id = g.knowledge_id
     where g.knowledge_id = v_item;
end
$$;
comment on function public.record_gotcha(text, text, text, text, text, text[], jsonb, text, integer, integer, text, text, extensions.vector, text, boolean) is
  'Records a problem that was met, with an attempt at it and its outcome (worked, failed, partial). Not idempotent, on purpose: each call is one sighting, which raises the frequency and appends the attempt to the record of the same signature that the caller owns, else may see. Its text is filled in only by those who may edit it. Text that looks like a credential is refused (PT451) unless allow_credentials.';

create type public.found_gotcha as (
  gotcha_id uuid, knowledge_id uuid, problem_signature text, problem_description text, working_solution text,
  worked jsonb, failed jsonb, failure_patterns text[], prevention_guidance text, problem_category text,
  severity_level integer, frequency_encountered integer, last_encountered timestamptz,
  resolution_time_minutes integer, validation_status text, exact_match boolean, confidence double precision,
  match_reason text
);
comment on type public.found_gotcha is
  'A known problem: worked and failed are its attempts by outcome (a partial one counts as failed), confidence (0 to 1) is how well it matches times how well its solution is borne out, match_reason says both in words.';

create function public.find_gotchas(
  problem text, problem_embedding extensions.vector default null, max_results integer default 5,
  embedding_model text default null
)
returns setof public.found_gotcha
language plpgsql
stable
rows 5
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_workspace uuid := private.current_workspace();
  v_signature text := private.problem_signature(coalesce(find_gotchas.problem, ''));
begin
  if coalesce(btrim(find_gotchas.problem), '') = '' then
    perform private.fail('PT400', 'problem is missing or blank', 'paste the error text, or say what goes wrong');
  end if;
  if find_gotchas.max_results is null or find_gotchas.max_results not between 1 and 100 then
    perform private.fail('PT400', 'max_results is between 1 and 100');
  end if;
  if v_workspace is null then
    return;
  end if;
  return query
    with found as materialized (
      select s.knowledge_id, s.score, s.relevance_reason
        from public.search_knowledge(
               -- Of a long stack trace the words of its frames would crowd out those of the problem.
               query_text => concat_ws(' ', case when length(find_gotchas.problem) > 600
                 then left(private.problem_line(find_gotchas.problem), 4000) else find_gotchas.problem end, v_signature),
               query_embedding => find_gotchas.problem_embedding,
               knowledge_types => '{technical_discovery}', max_results => 1000,
               embedding_model => find_gotchas.embedding_model) s
    ), nominated as (
      select g.knowledge_id from public.technical_gotchas g
       where g.workspace_id = v_workspace and g.problem_signature = v_signature
      union
      select f.knowledge_id from found f
    ), matched as (
      select g, k, g.problem_signature = v_signature as is_exact,
             case when g.problem_signature = v_signature then 1 else coalesce(f.score, 0) end as match_score,
             f.relevance_reason
        from nominated n
        join public.technical_gotchas g on g.knowledge_id = n.knowledge_id
        join public.knowledge_items k on k.id = g.knowledge_id
        left join found f on f.knowledge_id = g.knowledge_id
       where k.validation_status <> 'deprecated' and k.superseded_by is null
         and (k.valid_from is null or k.valid_from <= now()) and (k.valid_to is null or k.valid_to > now())
    ), weighed as (
      select m.*, a.worked, a.failed,
             (select coalesce(jsonb_array_length(a.worked), 0)) + (m.k).success_count as successes,
             (m.k).failure_count as failures
        from matched m
        cross join lateral (
          select jsonb_agg(x.attempt order by x.place) filter (where x.attempt ->> 'outcome' = 'worked') as worked,
                 jsonb_agg(x.attempt order by x.place) filter (where x.attempt ->> 'outcome' <> 'worked') as failed
            from jsonb_array_elements((m.g).attempted_solutions) with ordinality x (attempt, place)) a
    )
    select (w.g).id, (w.g).knowledge_id, (w.g).problem_signature::text, (w.g).problem_description,
           (w.g).working_solution, coalesce(w.worked, '[]'), coalesce(w.failed, '[]'), (w.g).failure_patterns,
           (w.g).prevention_guidance, (w.g).problem_category::text, (w.g).severity_level,
           (w.g).frequency_encountered, (w.g).last_encountered, (w.g).resolution_time_minutes,
           (w.k).validation_status::text, w.is_exact, e.confidence,
           concat_ws('; ',
             case when w.is_exact then 'the same problem by its signature' else w.relevance_reason end,
             case when (w.g).working_solution is null then 'no solution yet'
                  when w.successes + w.failures > 0
                    then format('the solution worked %s of %s times', w.successes, w.successes + w.failures)
                  else 'a solution that nobody has confirmed' end,
             case when w.is_exact and (w.k).validation_status = 'validated' then 'validated' end,
             format('met %s %s', (w.g).frequency_encountered,
                    case when (w.g).frequency_encountered = 1 then 'time' else 'times' end))
      from weighed w
      cross join lateral (
        -- Laplace's rule of succession, a validation counting as two successes; without a solution little is sure.
        select w.match_score * case when (w.g).working_solution is null then 0.2 else
          (1.0 + w.successes + 2 * ((w.k).validation_status = 'validated')::integer)
          / (2.0 + w.successes + w.failures + 2 * ((w.k).validation_status = 'validated')::integer) end as confidence) e
     order by w.is_exact desc, w.match_score desc, e.confidence desc, (w.g).frequency_encountered desc, (w.g).id
     limit find_gotchas.max_results;
end
$$;
comment on function public.find_gotchas(text, extensions.vector, integer, text) is
  'Known problems like this one: those of the same signature first, then by search; with what worked, what failed, how to prevent it, how sure that is and why. Reads only.';

revoke execute on function
  private.problem_line(text), private.problem_signature(text), private.render_gotcha(public.technical_gotchas),
  private.keep_gotcha_companion(), private.forget_related_gotcha(), private.count_gotcha(uuid, jsonb, boolean),
  public.record_gotcha(text, text, text, text, text, text[], jsonb, text, integer, integer, text, text, extensions.vector, text, boolean),
  public.find_gotchas(text, extensions.vector, integer, text)
  from public, anon, authenticated, service_role;
grant execute on function
  private.problem_line(text), private.problem_signature(text), private.render_gotcha(public.technical_gotchas),
  public.find_gotchas(text, extensions.vector, integer, text)
  to authenticated, service_role;
grant execute on function
  private.count_gotcha(uuid, jsonb, boolean),
  public.record_gotcha(text, text, text, text, text, text[], jsonb, text, integer, integer, text, text, extensions.vector, text, boolean)
  to authenticated;
