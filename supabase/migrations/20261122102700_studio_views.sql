-- Views: what people look for when they browse in Studio.
--
-- Owns: session_timeline, top_gotchas, decision_overview, unused_knowledge, failed_validation_tests,
-- knowledge_to_validate.
--
-- Invariants
--   * security_invoker: a view shows what the tables behind it show to who asks, and nothing else. In Studio that is
--     everything, unless a user is impersonated there.
--   * They read only, and only signed-in users and operators may read them.

set local lock_timeout = '5s';

create view public.session_timeline with (security_invoker = true) as
  select s.id as session_id, s.workspace_id, s.session_identifier, s.project_context, s.owner_id,
         e.happened_at, e.event, e.knowledge_id, e.title, e.detail
    from public.ai_sessions s
    cross join lateral (
      select s.start_time as happened_at, 'started' as event, null::uuid as knowledge_id, null::text as title,
             null::text as detail
      union all
      select s.end_time, 'ended', null, null, s.session_metadata ->> 'summary' where s.end_time is not null
      union all
      select l.interaction_timestamp, l.interaction_type, l.knowledge_id, k.title,
             nullif(concat_ws('; ', l.learning_context,
               case l.application_success when true then 'it worked' when false then 'it did not work' end,
               'rated ' || l.effectiveness_rating || ' of 10', l.notes), '')
        from public.session_knowledge_links l
        join public.knowledge_items k on k.id = l.knowledge_id
       where l.session_id = s.id
    ) e;
comment on view public.session_timeline is 'What happened in each session, moment by moment. Filter by session_id or session_identifier, sort by happened_at.';
comment on column public.session_timeline.session_id is 'The session.';
comment on column public.session_timeline.workspace_id is 'Its workspace.';
comment on column public.session_timeline.session_identifier is 'Its name.';
comment on column public.session_timeline.project_context is 'Its project.';
comment on column public.session_timeline.owner_id is 'Whose session it is.';
comment on column public.session_timeline.happened_at is 'When.';
comment on column public.session_timeline.event is 'started, created, accessed, updated, validated, applied, breakthrough or ended.';
comment on column public.session_timeline.knowledge_id is 'The item that it was about.';
comment on column public.session_timeline.title is 'The item''s title.';
comment on column public.session_timeline.detail is 'What was said of it: context, rating, notes; of the end the summary.';

create view public.top_gotchas with (security_invoker = true) as
  select g.id as gotcha_id, g.knowledge_id, g.workspace_id, g.problem_signature, g.problem_description,
         g.working_solution is not null as is_solved, g.working_solution, g.prevention_guidance,
         g.frequency_encountered, g.severity_level, g.frequency_encountered::bigint * coalesce(g.severity_level, 5) as weight,
         jsonb_array_length(g.attempted_solutions) as attempt_count, g.last_encountered, g.project_context,
         k.validation_status
    from public.technical_gotchas g
    join public.knowledge_items k on k.id = g.knowledge_id
   where k.validation_status <> 'deprecated' and k.superseded_by is null
   order by weight desc, g.last_encountered desc;
comment on view public.top_gotchas is 'The problems that cost most, worst first: frequency times severity (5 where none is given).';
comment on column public.top_gotchas.gotcha_id is 'The gotcha.';
comment on column public.top_gotchas.knowledge_id is 'Its item.';
comment on column public.top_gotchas.workspace_id is 'Its workspace.';
comment on column public.top_gotchas.problem_signature is 'By what it is recognised.';
comment on column public.top_gotchas.problem_description is 'The problem.';
comment on column public.top_gotchas.is_solved is 'Whether something works.';
comment on column public.top_gotchas.working_solution is 'What works.';
comment on column public.top_gotchas.prevention_guidance is 'How not to meet it again.';
comment on column public.top_gotchas.frequency_encountered is 'How often it was met.';
comment on column public.top_gotchas.severity_level is '1 to 10: how much it hurts.';
comment on column public.top_gotchas.weight is 'Frequency times severity.';
comment on column public.top_gotchas.attempt_count is 'How many attempts are on record.';
comment on column public.top_gotchas.last_encountered is 'When it was last met.';
comment on column public.top_gotchas.project_context is 'The project.';
comment on column public.top_gotchas.validation_status is 'Its item''s status.';

create view public.decision_overview with (security_invoker = true) as
  select d.id as decision_id, d.knowledge_id, d.workspace_id, d.decision_topic, d.project_context,
         d.final_understanding is not null as is_decided,
         coalesce(d.final_understanding, d.current_understanding) as latest_understanding,
         jsonb_array_length(d.evolution_stages) as stage_count,
         case when pg_input_is_valid(d.evolution_stages -> -1 ->> 'at', 'timestamptz')
           then (d.evolution_stages -> -1 ->> 'at')::timestamptz end as latest_stage_at,
         date_trunc('second', now() - d.created_at) as age,
         coalesce(d.evolution_stages -> -1 -> 'is_proposal' = 'true', false) as latest_is_proposal,
         d.decision_rationale, d.lessons_learned,
         k.validation_status <> 'deprecated' and k.superseded_by is null and private.is_valid_now(k) as is_in_force, k.validation_status
    from public.decision_evolution d
    join public.knowledge_items k on k.id = d.knowledge_id
   order by latest_stage_at desc nulls last, d.id;
comment on view public.decision_overview is 'Decisions with their latest stage and their age, the latest moved first. decision_history() has every stage.';
comment on column public.decision_overview.decision_id is 'The decision.';
comment on column public.decision_overview.knowledge_id is 'Its item.';
comment on column public.decision_overview.workspace_id is 'Its workspace.';
comment on column public.decision_overview.decision_topic is 'What it is about.';
comment on column public.decision_overview.project_context is 'The project.';
comment on column public.decision_overview.is_decided is 'Whether it is decided.';
comment on column public.decision_overview.latest_understanding is 'What was decided, else how it is understood now.';
comment on column public.decision_overview.stage_count is 'How many stages it went through.';
comment on column public.decision_overview.latest_stage_at is 'When the latest stage was recorded.';
comment on column public.decision_overview.age is 'How long ago its first stage was recorded.';
comment on column public.decision_overview.latest_is_proposal is 'Whether the latest stage only proposes: it was recorded by somebody who may not edit the decision.';
comment on column public.decision_overview.decision_rationale is 'Why.';
comment on column public.decision_overview.lessons_learned is 'What was learned.';
comment on column public.decision_overview.is_in_force is 'Whether it is neither deprecated nor superseded, and valid now.';
comment on column public.decision_overview.validation_status is 'Its item''s status.';

create view public.unused_knowledge with (security_invoker = true) as
  select k.id as knowledge_id, k.workspace_id, k.title, k.knowledge_type, k.category, k.project_context,
         k.validation_status, k.importance_score, k.owner_id, k.created_at,
         date_trunc('day', now() - k.created_at) as age
    from public.knowledge_items k
   where greatest(k.access_count, k.rating_count, k.success_count, k.failure_count) = 0
     and k.validation_status <> 'deprecated' and k.superseded_by is null
     and k.created_at < now() - interval '30 days'
   order by k.created_at, k.id;
comment on view public.unused_knowledge is 'Living items of more than 30 days that nobody has recalled, rated or applied, the oldest first.';
comment on column public.unused_knowledge.knowledge_id is 'The item.';
comment on column public.unused_knowledge.workspace_id is 'Its workspace.';
comment on column public.unused_knowledge.title is 'What it is about.';
comment on column public.unused_knowledge.knowledge_type is 'What kind of knowledge it is.';
comment on column public.unused_knowledge.category is 'Its category.';
comment on column public.unused_knowledge.project_context is 'The project.';
comment on column public.unused_knowledge.validation_status is 'Its status.';
comment on column public.unused_knowledge.importance_score is '1 to 100.';
comment on column public.unused_knowledge.owner_id is 'Who recorded it.';
comment on column public.unused_knowledge.created_at is 'When it was recorded.';
comment on column public.unused_knowledge.age is 'How long ago that was.';

create view public.failed_validation_tests with (security_invoker = true) as
  select t.id as test_id, t.workspace_id, t.test_name, t.test_category, t.test_scenario, r.test_executed_at,
         r.performance_score, r.improvement_needed, r.evaluator_notes, p.last_passed_at
    from public.knowledge_validation_tests t
    cross join lateral (
      select x.* from public.validation_test_results x where x.test_id = t.id
       order by x.test_executed_at desc, x.id limit 1) r
    cross join lateral (
      select max(x.test_executed_at) as last_passed_at
        from public.validation_test_results x where x.test_id = t.id and x.pass_status) p
   where not r.pass_status
   order by r.test_executed_at desc, t.id;
comment on view public.failed_validation_tests is 'Validation tests whose latest result is a failure, and when they last passed.';
comment on column public.failed_validation_tests.test_id is 'The test.';
comment on column public.failed_validation_tests.workspace_id is 'Its workspace.';
comment on column public.failed_validation_tests.test_name is 'Its name.';
comment on column public.failed_validation_tests.test_category is 'Its category.';
comment on column public.failed_validation_tests.test_scenario is 'The situation that it tests.';
comment on column public.failed_validation_tests.test_executed_at is 'When it failed last.';
comment on column public.failed_validation_tests.performance_score is '0 to 100.';
comment on column public.failed_validation_tests.improvement_needed is 'What was wrong.';
comment on column public.failed_validation_tests.evaluator_notes is 'What the evaluator said.';
comment on column public.failed_validation_tests.last_passed_at is 'When it last passed; null: never.';

create view public.knowledge_to_validate with (security_invoker = true) as
  select k.id as knowledge_id, k.workspace_id, k.title, k.content, k.knowledge_type, k.category, k.project_context,
         k.validation_status, k.owner_id, k.created_in_session, k.updated_at,
         date_trunc('minute', now() - k.updated_at) as waiting, k.success_count, k.failure_count,
         round(k.rating_sum::numeric / nullif(k.rating_count, 0), 1) as average_rating
    from public.knowledge_items k
   where k.validation_status in ('pending', 'needs_update') and k.superseded_by is null
   order by k.updated_at, k.id;
comment on view public.knowledge_to_validate is 'Items that wait for a maintainer: pending ones, and those that need an update; the longest waiting first.';
comment on column public.knowledge_to_validate.knowledge_id is 'The item.';
comment on column public.knowledge_to_validate.workspace_id is 'Its workspace.';
comment on column public.knowledge_to_validate.title is 'What it is about.';
comment on column public.knowledge_to_validate.content is 'What it says.';
comment on column public.knowledge_to_validate.knowledge_type is 'What kind of knowledge it is.';
comment on column public.knowledge_to_validate.category is 'Its category.';
comment on column public.knowledge_to_validate.project_context is 'The project.';
comment on column public.knowledge_to_validate.validation_status is 'pending or needs_update.';
comment on column public.knowledge_to_validate.owner_id is 'Who recorded it.';
comment on column public.knowledge_to_validate.created_in_session is 'In which session.';
comment on column public.knowledge_to_validate.updated_at is 'Since when it waits.';
comment on column public.knowledge_to_validate.waiting is 'How long that is.';
comment on column public.knowledge_to_validate.success_count is 'How often applying it worked.';
comment on column public.knowledge_to_validate.failure_count is 'How often it did not.';
comment on column public.knowledge_to_validate.average_rating is 'The mean of its ratings, 1 to 10.';

revoke all on public.session_timeline, public.top_gotchas, public.decision_overview, public.unused_knowledge,
  public.failed_validation_tests, public.knowledge_to_validate from public, anon, authenticated, service_role;
grant select on public.session_timeline, public.top_gotchas, public.decision_overview, public.unused_knowledge,
  public.failed_validation_tests, public.knowledge_to_validate to authenticated, service_role;
