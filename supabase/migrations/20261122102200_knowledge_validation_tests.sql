-- Validation tests: does this memory still answer what it must?
--
-- Owns: knowledge_validation_tests, validation_test_results, their running and the report.
--
-- Invariants
--   * A test is data: a situation, which items must be among the first within_top that a search for it finds, which
--     must not be, and what an answer must contain in words (expected_response, judged by pass_criteria).
--   * Members of the workspace see its tests and results; contributors write tests in their own name, maintainers
--     edit all. A test names only items of its workspace that its writer sees.
--   * Results are added and never changed. They hold ids and ranks, no text of any item, and outlive the session
--     in which they were made: an archived month must not take the history of a test with it.
--   * An erased item is taken out of the tests and results that name it, and what was answered and noted in those
--     results goes, since it may repeat the item's words.

set local lock_timeout = '5s';

create table public.knowledge_validation_tests (
  id uuid not null default gen_random_uuid(),
  workspace_id uuid not null default private.default_workspace(),
  owner_id uuid default auth.uid(),
  test_name varchar(200) not null,
  test_category varchar(100),
  test_scenario text not null,
  expected_response text not null default '',
  pass_criteria text not null default '',
  difficulty_level integer,
  knowledge_types_tested varchar(100)[],
  expected_knowledge_ids uuid[] not null default '{}',
  forbidden_knowledge_ids uuid[] not null default '{}',
  within_top integer not null default 5,
  created_at timestamptz not null default now(),
  test_metadata jsonb,
  constraint knowledge_validation_tests_pkey primary key (id),
  constraint knowledge_validation_tests_workspace_id_fkey foreign key (workspace_id)
    references public.workspaces (id) on delete cascade,
  constraint knowledge_validation_tests_owner_id_fkey foreign key (owner_id) references auth.users (id) on delete set null,
  constraint knowledge_validation_tests_test_name_check check (btrim(test_name) <> ''),
  constraint knowledge_validation_tests_test_scenario_check check (btrim(test_scenario) <> ''),
  constraint knowledge_validation_tests_difficulty_level_check check (difficulty_level between 1 and 10),
  constraint knowledge_validation_tests_types_check check (knowledge_types_tested::text[] <@ array[
    'factual', 'procedural', 'contextual', 'relational', 'experiential', 'technical_discovery']),
  constraint knowledge_validation_tests_within_top_check check (within_top between 1 and 100),
  constraint knowledge_validation_tests_ids_check check (
    not expected_knowledge_ids && forbidden_knowledge_ids
    and cardinality(expected_knowledge_ids) <= 100 and cardinality(forbidden_knowledge_ids) <= 100
    and array_position(expected_knowledge_ids, null) is null and array_position(forbidden_knowledge_ids, null) is null)
);
create index knowledge_validation_tests_workspace_id_idx on public.knowledge_validation_tests (workspace_id, test_name);
create index knowledge_validation_tests_owner_id_idx on public.knowledge_validation_tests (owner_id);
create index knowledge_validation_tests_expected_idx on public.knowledge_validation_tests using gin (expected_knowledge_ids);
create index knowledge_validation_tests_forbidden_idx on public.knowledge_validation_tests using gin (forbidden_knowledge_ids);

alter table public.knowledge_validation_tests enable row level security;
comment on table public.knowledge_validation_tests is 'What a workspace''s memory must answer: a situation, and what has to be found, must not be found, must be said.';
comment on column public.knowledge_validation_tests.id is 'The test.';
comment on column public.knowledge_validation_tests.workspace_id is 'The workspace whose memory it tests.';
comment on column public.knowledge_validation_tests.owner_id is 'Who wrote it; null once that user''s account is deleted.';
comment on column public.knowledge_validation_tests.test_name is 'What people call it.';
comment on column public.knowledge_validation_tests.test_category is 'A word to sort by.';
comment on column public.knowledge_validation_tests.test_scenario is 'The situation, in words: what is searched for, and what an agent is asked.';
comment on column public.knowledge_validation_tests.expected_response is 'What an answer should say; empty where only retrieval is tested.';
comment on column public.knowledge_validation_tests.pass_criteria is 'By what an answer is judged.';
comment on column public.knowledge_validation_tests.difficulty_level is '1 to 10.';
comment on column public.knowledge_validation_tests.knowledge_types_tested is 'The kinds of knowledge that the search is limited to; null: all.';
comment on column public.knowledge_validation_tests.expected_knowledge_ids is 'Items that must be found among the first within_top.';
comment on column public.knowledge_validation_tests.forbidden_knowledge_ids is 'Items that must not be.';
comment on column public.knowledge_validation_tests.within_top is 'How many results count, 1 to 100.';
comment on column public.knowledge_validation_tests.created_at is 'When it was written.';
comment on column public.knowledge_validation_tests.test_metadata is 'What its writer wants to keep with it.';

create table public.validation_test_results (
  id uuid not null default gen_random_uuid(),
  test_id uuid not null,
  workspace_id uuid not null,
  owner_id uuid default auth.uid(),
  session_id uuid default private.current_session(),
  test_executed_at timestamptz not null default clock_timestamp(),
  ai_response text,
  pass_status boolean,
  performance_score integer,
  response_time_seconds numeric(10,3),
  retrieved jsonb,
  evaluator_notes text,
  improvement_needed text,
  constraint validation_test_results_pkey primary key (id),
  constraint validation_test_results_test_id_fkey foreign key (test_id)
    references public.knowledge_validation_tests (id) on delete cascade,
  constraint validation_test_results_workspace_id_fkey foreign key (workspace_id)
    references public.workspaces (id) on delete cascade,
  constraint validation_test_results_owner_id_fkey foreign key (owner_id) references auth.users (id) on delete set null,
  constraint validation_test_results_session_id_fkey foreign key (session_id)
    references public.ai_sessions (id) on delete set null,
  constraint validation_test_results_performance_score_check check (performance_score between 0 and 100),
  constraint validation_test_results_response_time_check check (response_time_seconds >= 0),
  constraint validation_test_results_retrieved_check check (retrieved is null or coalesce(
    jsonb_typeof(retrieved -> 'expected') = 'array' and jsonb_typeof(retrieved -> 'forbidden') = 'array'
    and jsonb_typeof(retrieved -> 'top') = 'array', false))
);
create index validation_test_results_test_id_idx on public.validation_test_results (test_id, test_executed_at desc);
create index validation_test_results_workspace_id_idx on public.validation_test_results (workspace_id, test_executed_at desc);
create index validation_test_results_owner_id_idx on public.validation_test_results (owner_id);
create index validation_test_results_session_id_idx on public.validation_test_results (session_id) where session_id is not null;

alter table public.validation_test_results enable row level security;
comment on table public.validation_test_results is 'What came of each run of a validation test. Added to, never changed.';
comment on column public.validation_test_results.id is 'The result.';
comment on column public.validation_test_results.test_id is 'The test.';
comment on column public.validation_test_results.workspace_id is 'As in the test.';
comment on column public.validation_test_results.owner_id is 'Who ran it; null once that user''s account is deleted.';
comment on column public.validation_test_results.session_id is 'The session in which it was run, while that is kept.';
comment on column public.validation_test_results.test_executed_at is 'When.';
comment on column public.validation_test_results.ai_response is 'What was answered, where an answer was asked for.';
comment on column public.validation_test_results.pass_status is 'Whether it passed.';
comment on column public.validation_test_results.performance_score is '0 to 100: how much of what was asked held.';
comment on column public.validation_test_results.response_time_seconds is 'How long it took, in seconds.';
comment on column public.validation_test_results.retrieved is 'What a search found: {"expected": [{"knowledge_id", "rank"}], "forbidden": [the same], "top": [ids, best first]}; a rank is null where the item was not among the first 100.';
comment on column public.validation_test_results.evaluator_notes is 'What the judge says.';
comment on column public.validation_test_results.improvement_needed is 'What would have to be better.';

revoke all on public.knowledge_validation_tests, public.validation_test_results
  from public, anon, authenticated, service_role;
grant select, delete on public.knowledge_validation_tests to authenticated;
grant insert (workspace_id, test_name, test_category, test_scenario, expected_response, pass_criteria,
  difficulty_level, knowledge_types_tested, expected_knowledge_ids, forbidden_knowledge_ids, within_top, test_metadata)
  on public.knowledge_validation_tests to authenticated;
grant update (test_name, test_category, test_scenario, expected_response, pass_criteria, difficulty_level,
  knowledge_types_tested, expected_knowledge_ids, forbidden_knowledge_ids, within_top, test_metadata)
  on public.knowledge_validation_tests to authenticated;
grant select on public.validation_test_results to authenticated;
grant insert (test_id, ai_response, pass_status, performance_score, response_time_seconds, retrieved, evaluator_notes,
  improvement_needed) on public.validation_test_results to authenticated;
grant select, insert, update, delete on public.knowledge_validation_tests, public.validation_test_results to service_role;

create policy knowledge_validation_tests_select_member on public.knowledge_validation_tests for select to authenticated
  using (workspace_id = any (array(select private.my_workspaces())));
comment on policy knowledge_validation_tests_select_member on public.knowledge_validation_tests is 'Members see the tests of their workspaces.';
create policy knowledge_validation_tests_insert_own on public.knowledge_validation_tests for insert to authenticated
  with check (owner_id = (select auth.uid()) and workspace_id = any (array(select private.writable_workspaces())));
comment on policy knowledge_validation_tests_insert_own on public.knowledge_validation_tests is
  'Contributors and above write tests in their own name.';
create policy knowledge_validation_tests_update_editor on public.knowledge_validation_tests for update to authenticated
  using (
    (owner_id = (select auth.uid()) and workspace_id = any (array(select private.writable_workspaces())))
    or workspace_id = any (array(select private.maintained_workspaces())))
  with check (
    (owner_id = (select auth.uid()) and workspace_id = any (array(select private.writable_workspaces())))
    or workspace_id = any (array(select private.maintained_workspaces())));
comment on policy knowledge_validation_tests_update_editor on public.knowledge_validation_tests is
  'Who wrote a test edits it, maintainers edit all of the workspace.';
create policy knowledge_validation_tests_delete_editor on public.knowledge_validation_tests for delete to authenticated
  using (
    (owner_id = (select auth.uid()) and workspace_id = any (array(select private.writable_workspaces())))
    or workspace_id = any (array(select private.maintained_workspaces())));
comment on policy knowledge_validation_tests_delete_editor on public.knowledge_validation_tests is
  'Who wrote a test deletes it, with its results; maintainers delete any of the workspace.';

create policy validation_test_results_select_member on public.validation_test_results for select to authenticated
  using (workspace_id = any (array(select private.my_workspaces())));
comment on policy validation_test_results_select_member on public.validation_test_results is 'Members see the results in their workspaces.';
create policy validation_test_results_insert_own on public.validation_test_results for insert to authenticated
  with check (owner_id = (select auth.uid()) and workspace_id = any (array(select private.writable_workspaces())));
comment on policy validation_test_results_insert_own on public.validation_test_results is
  'Contributors and above add results in their own name.';

-- As the caller: what a test may name is what its writer sees.
create function private.check_tested_items()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_ids uuid[] := new.expected_knowledge_ids || new.forbidden_knowledge_ids;
  -- What it named already may just be going.
  v_old uuid[] := case tg_op when 'UPDATE' then old.expected_knowledge_ids || old.forbidden_knowledge_ids else '{}' end;
begin
  if exists (
    select from unnest(v_ids) i (id)
     where i.id is not null and i.id <> all (v_old) and not exists (
       select from public.knowledge_items k where k.id = i.id and k.workspace_id = new.workspace_id)) then
    perform private.fail('PT404', 'no such knowledge item',
      'expected_knowledge_ids and forbidden_knowledge_ids name items of the test''s workspace');
  end if;
  return new;
end
$$;
comment on function private.check_tested_items() is 'Trigger: a test names items of its workspace that its writer sees.';
create trigger knowledge_validation_tests_check_items
  before insert or update of expected_knowledge_ids, forbidden_knowledge_ids on public.knowledge_validation_tests
  for each row execute function private.check_tested_items();

-- definer because a test of another workspace has to be looked up to be refused by the policy like one that isn't there.
create function private.place_test_result()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  select t.workspace_id into new.workspace_id from public.knowledge_validation_tests t where t.id = new.test_id;
  return new;
end
$$;
comment on function private.place_test_result() is 'Trigger: puts a result into the workspace of its test.';
create trigger validation_test_results_place before insert on public.validation_test_results
  for each row execute function private.place_test_result();

-- definer because tests and results of others name the item too.
create function private.untest_erased_items()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_erased record;
begin
  for v_erased in
    select e.id, e.workspace_id from erased e
     where exists (select from public.workspaces w where w.id = e.workspace_id)
     order by e.id
  loop
    -- Those whose results have found it, too: a test that is being removed takes its results in an order of its own.
    perform from public.knowledge_validation_tests t
      where t.expected_knowledge_ids @> array[v_erased.id] or t.forbidden_knowledge_ids @> array[v_erased.id]
         or t.id in (select r.test_id from public.validation_test_results r
                      where r.workspace_id = v_erased.workspace_id and strpos(r.retrieved::text, v_erased.id::text) > 0)
      order by t.id for no key update;
    -- Answers and notes on them may repeat its words.
    update public.validation_test_results r
       set ai_response = null, evaluator_notes = null, improvement_needed = null
     where r.workspace_id = v_erased.workspace_id
       and num_nonnulls(r.ai_response, r.evaluator_notes, r.improvement_needed) > 0
       and (strpos(r.retrieved::text, v_erased.id::text) > 0 or r.test_id in (
         select t.id from public.knowledge_validation_tests t
          where t.expected_knowledge_ids @> array[v_erased.id] or t.forbidden_knowledge_ids @> array[v_erased.id]));
    update public.knowledge_validation_tests t
       set expected_knowledge_ids = array_remove(t.expected_knowledge_ids, v_erased.id),
           forbidden_knowledge_ids = array_remove(t.forbidden_knowledge_ids, v_erased.id)
     where t.expected_knowledge_ids @> array[v_erased.id] or t.forbidden_knowledge_ids @> array[v_erased.id];
    update public.validation_test_results r
       set retrieved = jsonb_build_object(
             'expected', coalesce((select jsonb_agg(x order by o) from jsonb_array_elements(r.retrieved -> 'expected')
               with ordinality a (x, o) where x ->> 'knowledge_id' <> v_erased.id::text), '[]'),
             'forbidden', coalesce((select jsonb_agg(x order by o) from jsonb_array_elements(r.retrieved -> 'forbidden')
               with ordinality a (x, o) where x ->> 'knowledge_id' <> v_erased.id::text), '[]'),
             'top', (r.retrieved -> 'top') - v_erased.id::text)
     where r.workspace_id = v_erased.workspace_id and strpos(r.retrieved::text, v_erased.id::text) > 0;
  end loop;
  return null;
end
$$;
comment on function private.untest_erased_items() is 'Trigger: takes deleted items out of the tests and results that name them.';
create trigger knowledge_items_untest_erased after delete on public.knowledge_items
  referencing old table as erased
  for each statement execute function private.untest_erased_items();

create type public.recorded_validation_test as (test_id uuid, test_name text, workspace_id uuid, outcome text);
comment on type public.recorded_validation_test is 'A test as record_validation_test has kept it. outcome: created or updated.';

create function public.record_validation_test(
  test_name text, test_scenario text, expected_knowledge_ids uuid[] default null,
  forbidden_knowledge_ids uuid[] default null, within_top integer default 5, expected_response text default null,
  pass_criteria text default null, knowledge_types_tested text[] default null, test_category text default null,
  difficulty_level integer default null, test_metadata jsonb default null, test_id uuid default null
)
returns setof public.recorded_validation_test
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_user uuid := private.require_user();
  v_workspace uuid;
  v_name text := btrim(record_validation_test.test_name);
  v_id uuid := record_validation_test.test_id;
begin
  if coalesce(v_name, '') = '' or char_length(v_name) > 200 then
    perform private.fail('PT400', 'test_name has 1 to 200 characters');
  end if;
  if coalesce(btrim(record_validation_test.test_scenario), '') = '' then
    perform private.fail('PT400', 'test_scenario is blank', 'it is the situation that memory has to help in');
  end if;
  if cardinality(coalesce(record_validation_test.expected_knowledge_ids, '{}')
                 || coalesce(record_validation_test.forbidden_knowledge_ids, '{}')) = 0
     and coalesce(btrim(record_validation_test.expected_response), '') = ''
     and coalesce(btrim(record_validation_test.pass_criteria), '') = '' then
    perform private.fail('PT400', 'nothing could make this test fail',
      'say what must be found, what must not, or what an answer must contain');
  end if;
  if record_validation_test.expected_knowledge_ids && record_validation_test.forbidden_knowledge_ids then
    perform private.fail('PT400', 'an item is expected and forbidden at once');
  end if;
  if record_validation_test.within_top is null or record_validation_test.within_top not between 1 and 100 then
    perform private.fail('PT400', 'within_top is between 1 and 100');
  end if;
  if record_validation_test.difficulty_level not between 1 and 10 then
    perform private.fail('PT400', 'difficulty_level is between 1 and 10');
  end if;
  if not record_validation_test.knowledge_types_tested <@ array[
    'factual', 'procedural', 'contextual', 'relational', 'experiential', 'technical_discovery'] then
    perform private.fail('PT400', 'knowledge_types_tested names an unknown type',
      'the types are factual, procedural, contextual, relational, experiential and technical_discovery');
  end if;
  if v_id is null then
    v_workspace := private.default_workspace();
    if v_workspace not in (select private.writable_workspaces()) then
      perform private.fail('PT403', 'readers of a workspace write no tests', 'ask an owner to make you a contributor');
    end if;
    -- Two who record the same name at once record one test.
    perform pg_advisory_xact_lock(hashtextextended(
      format('knowledge-persistence: test %s %s %s', v_workspace, v_user, v_name), 0));
    select t.id into v_id
      from public.knowledge_validation_tests t
     where t.workspace_id = v_workspace and t.test_name = v_name and t.owner_id = v_user
     order by t.created_at, t.id
     limit 1;
    if v_id is null then
      return query
        insert into public.knowledge_validation_tests as t (workspace_id, test_name, test_scenario,
          expected_knowledge_ids, forbidden_knowledge_ids, within_top, expected_response, pass_criteria,
          knowledge_types_tested, test_category, difficulty_level, test_metadata)
        values (v_workspace, v_name, record_validation_test.test_scenario,
          coalesce(record_validation_test.expected_knowledge_ids, '{}'),
          coalesce(record_validation_test.forbidden_knowledge_ids, '{}'), record_validation_test.within_top,
          coalesce(record_validation_test.expected_response, ''), coalesce(record_validation_test.pass_criteria, ''),
          record_validation_test.knowledge_types_tested, record_validation_test.test_category,
          record_validation_test.difficulty_level, record_validation_test.test_metadata)
        returning t.id, t.test_name::text, t.workspace_id, 'created';
      return;
    end if;
  end if;
  return query
    update public.knowledge_validation_tests t
       set test_name = v_name, test_scenario = record_validation_test.test_scenario,
           expected_knowledge_ids = coalesce(record_validation_test.expected_knowledge_ids, '{}'),
           forbidden_knowledge_ids = coalesce(record_validation_test.forbidden_knowledge_ids, '{}'),
           within_top = record_validation_test.within_top,
           expected_response = coalesce(record_validation_test.expected_response, ''),
           pass_criteria = coalesce(record_validation_test.pass_criteria, ''),
           knowledge_types_tested = record_validation_test.knowledge_types_tested,
           test_category = record_validation_test.test_category,
           difficulty_level = record_validation_test.difficulty_level,
           test_metadata = record_validation_test.test_metadata
     where t.id = v_id
    returning t.id, t.test_name::text, t.workspace_id, 'updated';
  if not found then
    if exists (select from public.knowledge_validation_tests t where t.id = v_id) then
      perform private.fail('PT403', 'only who wrote a test and maintainers of the workspace change it');
    end if;
    perform private.fail('PT404', 'no such validation test');
  end if;
end
$$;
comment on function public.record_validation_test(text, text, uuid[], uuid[], integer, text, text, text[], text, integer, jsonb, uuid) is
  'Keeps a validation test in the current workspace. Recorded again under the same name, or with its test_id, it is replaced whole; its results stay.';

create function public.list_validation_tests(test_category text default null)
returns setof public.knowledge_validation_tests
language plpgsql
stable
rows 50
set search_path = pg_catalog, pg_temp
as $$
declare
  v_workspace uuid := private.current_workspace();
begin
  return query
    select t.* from public.knowledge_validation_tests t
     where t.workspace_id = v_workspace
       and (list_validation_tests.test_category is null or t.test_category = list_validation_tests.test_category)
     order by t.test_name, t.created_at, t.id;
end
$$;
comment on function public.list_validation_tests(text) is
  'The validation tests of the current workspace by name, of one category or all.';

create function public.remove_validation_test(test_id uuid)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  delete from public.knowledge_validation_tests t where t.id = remove_validation_test.test_id;
  if found then
    return;
  end if;
  if exists (select from public.knowledge_validation_tests t where t.id = remove_validation_test.test_id) then
    perform private.fail('PT403', 'only who wrote a test and maintainers of the workspace remove it');
  end if;
  perform private.fail('PT404', 'no such validation test');
end
$$;
comment on function public.remove_validation_test(uuid) is
  'Takes a validation test out, with its results, for who wrote it and for maintainers.';

create type public.recorded_test_result as (
  result_id uuid, test_id uuid, test_name text, pass_status boolean, performance_score integer,
  response_time_seconds double precision, test_executed_at timestamptz
);
comment on type public.recorded_test_result is 'A result as record_validation_result has kept it.';

create function public.record_validation_result(
  test_id uuid, pass_status boolean, performance_score integer default null, ai_response text default null,
  response_time_seconds double precision default null, evaluator_notes text default null,
  improvement_needed text default null
)
returns setof public.recorded_test_result
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_user uuid := private.require_user();
  v_name text;
begin
  select t.test_name into v_name
    from public.knowledge_validation_tests t where t.id = record_validation_result.test_id;
  if v_name is null then
    perform private.fail('PT404', 'no such validation test');
  end if;
  if record_validation_result.pass_status is null then
    perform private.fail('PT400', 'pass_status is true or false');
  end if;
  if record_validation_result.performance_score not between 0 and 100 then
    perform private.fail('PT400', 'performance_score is between 0 and 100');
  end if;
  if record_validation_result.response_time_seconds not between 0 and 9999999 then
    perform private.fail('PT400', 'response_time_seconds is between 0 and 9999999');
  end if;
  return query
    insert into public.validation_test_results as r (test_id, pass_status, performance_score, ai_response,
      response_time_seconds, evaluator_notes, improvement_needed)
    values (record_validation_result.test_id, record_validation_result.pass_status,
      record_validation_result.performance_score, record_validation_result.ai_response,
      record_validation_result.response_time_seconds, record_validation_result.evaluator_notes,
      record_validation_result.improvement_needed)
    returning r.id, r.test_id, v_name, r.pass_status, r.performance_score,
      r.response_time_seconds::double precision, r.test_executed_at;
exception when foreign_key_violation then
  perform private.fail('PT404', 'no such validation test');  -- removed between the look and the insert
end
$$;
comment on function public.record_validation_result(uuid, boolean, integer, text, double precision, text, text) is
  'Keeps the result of a validation test that somebody else has run and judged: an agent, a model, a person.';

create type public.retrieval_test_result as (
  result_id uuid, test_id uuid, test_name text, pass_status boolean, performance_score integer,
  response_time_seconds double precision, test_executed_at timestamptz, expected jsonb, forbidden jsonb,
  retrieved_ids uuid[], improvement_needed text
);
comment on type public.retrieval_test_result is
  'What a retrieval test gave: expected and forbidden are arrays of {knowledge_id, rank} (null: not among the first 100), retrieved_ids what was found within the top, best first.';

create function public.run_retrieval_test(
  test_id uuid, query_embedding extensions.vector default null, embedding_model text default null,
  ai_response text default null, answer_passed boolean default null, answer_score integer default null,
  answer_seconds double precision default null, evaluator_notes text default null,
  improvement_needed text default null
)
returns setof public.retrieval_test_result
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_user uuid := private.require_user();
  v_depth constant integer := 100;
  v_test public.knowledge_validation_tests;
  v_started timestamptz;
  v_seconds numeric(10,3);
  v_found uuid[];
  v_expected jsonb;
  v_forbidden jsonb;
  v_missing integer;
  v_intruding integer;
  v_asked integer;
  v_score integer;
  v_pass boolean;
  v_improvement text;
  v_result uuid;
  v_executed_at timestamptz;
begin
  select t.* into v_test from public.knowledge_validation_tests t where t.id = run_retrieval_test.test_id;
  if v_test.id is null then
    perform private.fail('PT404', 'no such validation test');
  end if;
  if v_test.workspace_id is distinct from private.current_workspace() then
    perform private.fail('PT400', 'the test belongs to another workspace of yours',
      'name that workspace in x-workspace-id: a test searches where it belongs');
  end if;
  v_asked := cardinality(v_test.expected_knowledge_ids) + cardinality(v_test.forbidden_knowledge_ids);
  if v_asked = 0 and run_retrieval_test.answer_passed is null then
    perform private.fail('PT400', 'the test names no items, so a search can''t pass or fail it',
      'set expected_knowledge_ids or forbidden_knowledge_ids, or judge an answer with record_validation_result');
  end if;
  if (run_retrieval_test.ai_response is null) <> (run_retrieval_test.answer_passed is null) then
    perform private.fail('PT400', 'ai_response and answer_passed go together');
  end if;
  if run_retrieval_test.answer_score not between 0 and 100 then
    perform private.fail('PT400', 'answer_score is between 0 and 100');
  end if;
  if run_retrieval_test.answer_seconds not between 0 and 999999 then
    perform private.fail('PT400', 'answer_seconds is between 0 and 999999');
  end if;

  v_started := clock_timestamp();
  v_found := array(
    select s.knowledge_id
      from public.search_knowledge(
             query_text => v_test.test_scenario, query_embedding => run_retrieval_test.query_embedding,
             embedding_model => run_retrieval_test.embedding_model,
             knowledge_types => v_test.knowledge_types_tested::text[], max_results => v_depth) with ordinality s
     order by s.ordinality);
  v_seconds := extract(epoch from clock_timestamp() - v_started) + coalesce(run_retrieval_test.answer_seconds, 0);

  select coalesce(jsonb_agg(jsonb_build_object('knowledge_id', i.id, 'rank', array_position(v_found, i.id)) order by i.place), '[]'),
         count(*) filter (where coalesce(array_position(v_found, i.id) > v_test.within_top, true))
    into v_expected, v_missing
    from unnest(v_test.expected_knowledge_ids) with ordinality i (id, place);
  select coalesce(jsonb_agg(jsonb_build_object('knowledge_id', i.id, 'rank', array_position(v_found, i.id)) order by i.place), '[]'),
         count(*) filter (where array_position(v_found, i.id) <= v_test.within_top)
    into v_forbidden, v_intruding
    from unnest(v_test.forbidden_knowledge_ids) with ordinality i (id, place);
  v_pass := v_missing + v_intruding = 0 and run_retrieval_test.answer_passed is distinct from false;
  -- What was found and what was answered weigh the same. Rounded down: only a test that passed has 100.
  select floor(avg(x.score)) into v_score
    from (values (100.0 * (v_asked - v_missing - v_intruding) / nullif(v_asked, 0)),
                 (coalesce(run_retrieval_test.answer_score,
                    case run_retrieval_test.answer_passed when true then 100 when false then 0 end))) x (score);
  v_score := least(v_score, case when v_pass then 100 else 99 end);
  v_improvement := nullif(concat_ws('; ',
    case when v_missing > 0 then format('%s of %s expected items are not in the top %s', v_missing,
      cardinality(v_test.expected_knowledge_ids), v_test.within_top) end,
    case when v_intruding > 0 then format('%s of %s forbidden items are in the top %s', v_intruding,
      cardinality(v_test.forbidden_knowledge_ids), v_test.within_top) end,
    run_retrieval_test.improvement_needed), '');

  insert into public.validation_test_results as r (test_id, pass_status, performance_score, response_time_seconds,
    ai_response, evaluator_notes, retrieved, improvement_needed)
  values (v_test.id, v_pass, v_score, v_seconds, run_retrieval_test.ai_response, run_retrieval_test.evaluator_notes,
    jsonb_build_object('expected', v_expected, 'forbidden', v_forbidden,
      'top', to_jsonb(v_found[1 : v_test.within_top])),
    v_improvement)
  returning r.id, r.test_executed_at into v_result, v_executed_at;
  return query
    select v_result, v_test.id, v_test.test_name::text, v_pass, v_score,
           v_seconds::double precision, v_executed_at, v_expected, v_forbidden, v_found[1 : v_test.within_top], v_improvement;
exception when foreign_key_violation then
  perform private.fail('PT404', 'no such validation test');  -- removed while it ran
end
$$;
comment on function public.run_retrieval_test(uuid, extensions.vector, text, text, boolean, integer, double precision, text, text) is
  'Searches for a validation test''s scenario as the caller, in the kinds of knowledge that it tests, and keeps the result: whether every expected item is in the top within_top and no forbidden one is, with the ranks. The vector of the scenario is optional. An answer that was judged goes into the same result, which passes when both do.';

create function public.validation_report(since timestamptz default null)
returns table (
  test_id uuid, test_name text, test_category text, last_executed_at timestamptz, last_pass boolean,
  last_score integer, last_seconds double precision, last_improvement_needed text, answer_judged boolean,
  previous_executed_at timestamptz, previous_pass boolean, previous_score integer, run_count integer,
  pass_count integer, pass_rate double precision, recent boolean[], got_worse boolean
)
language plpgsql
stable
rows 50
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_workspace uuid := private.current_workspace();
begin
  return query
    select t.id, t.test_name::text, t.test_category::text, l.test_executed_at, l.pass_status, l.performance_score,
           l.response_time_seconds::double precision, l.improvement_needed, l.ai_response is not null,
           p.test_executed_at, p.pass_status, p.performance_score,
           c.run_count, c.pass_count, c.pass_count::double precision / nullif(c.run_count, 0), c.recent,
           coalesce((not l.pass_status and p.pass_status)
                    or (l.pass_status is not distinct from p.pass_status
                        and l.performance_score < p.performance_score), false)
      from public.knowledge_validation_tests t
      left join lateral (
        select x.* from public.validation_test_results x
         where x.test_id = t.id and (validation_report.since is null or x.test_executed_at >= validation_report.since)
         order by x.test_executed_at desc, x.id
         limit 1
      ) l on true
      -- What was asked of memory alone is not compared with what was asked of a model, too.
      left join lateral (
        select x.* from public.validation_test_results x
         where x.test_id = t.id and x.id <> l.id and x.test_executed_at <= l.test_executed_at
           and (x.ai_response is null) = (l.ai_response is null) and (x.retrieved is null) = (l.retrieved is null)
         order by x.test_executed_at desc, x.id
         limit 1
      ) p on true
      cross join lateral (
        select count(*)::integer as run_count, (count(*) filter (where x.pass_status))::integer as pass_count,
               coalesce(array_agg(x.pass_status order by x.place desc) filter (where x.place <= 10), '{}') as recent
          from (
            select y.pass_status, row_number() over (order by y.test_executed_at desc, y.id) as place
              from public.validation_test_results y
             where y.test_id = t.id and (validation_report.since is null or y.test_executed_at >= validation_report.since)
          ) x
      ) c
     where t.workspace_id = v_workspace
     order by 17 desc, l.pass_status nulls last, t.test_name, t.id;
end
$$;
comment on function public.validation_report(timestamptz) is
  'The validation tests of the current workspace, what got worse first: the last result, the one before it that asked for the same (with or without an answer), runs, passes, and how the last ten ended, oldest first. With since, only runs from then on count, and tests without any show none; the result before the last may be older.';

revoke execute on function
  private.check_tested_items(), private.place_test_result(), private.untest_erased_items(),
  public.record_validation_result(uuid, boolean, integer, text, double precision, text, text),
  public.run_retrieval_test(uuid, extensions.vector, text, text, boolean, integer, double precision, text, text), public.validation_report(timestamptz),
  public.record_validation_test(text, text, uuid[], uuid[], integer, text, text, text[], text, integer, jsonb, uuid),
  public.remove_validation_test(uuid), public.list_validation_tests(text)
  from public, anon, authenticated, service_role;
grant execute on function
  public.record_validation_result(uuid, boolean, integer, text, double precision, text, text),
  public.run_retrieval_test(uuid, extensions.vector, text, text, boolean, integer, double precision, text, text),
  public.record_validation_test(text, text, uuid[], uuid[], integer, text, text, text[], text, integer, jsonb, uuid),
  public.remove_validation_test(uuid)
  to authenticated;
grant execute on function public.validation_report(timestamptz), public.list_validation_tests(text)
  to authenticated, service_role;
