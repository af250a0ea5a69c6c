-- Scheduled work: validation tests that run by themselves, and relationships that are looked for now and then.
--
-- Owns: when what is due, the worker's claims on it. The work itself is run_retrieval_test and discover_relationships.
--
-- Invariants
--   * The worker does it as a person does: as authenticated, with that person's id, bound to that one workspace. A test
--     runs under the eyes of whoever wrote it, so that it never finds more than they would; relationships are looked for
--     under the eyes of an owner, and what is found is a proposal like any other. Who has left the workspace lends
--     their eyes no more: the failure is shown instead.
--   * Several workers share it (SKIP LOCKED). A claim is a lease: what a worker that died had taken is due again.
--   * A test runs by itself only where somebody who may edit it says so. Relationships are looked for once a day unless
--     a maintainer says otherwise.

set local lock_timeout = '5s';

alter table public.knowledge_validation_tests
  add column run_every interval,
  add column next_run_at timestamptz,
  add column run_failure text,
  -- Months have no fixed length, and not every client can read them.
  add constraint knowledge_validation_tests_run_every_check check (
    run_every between interval '1 hour' and interval '366 days'
    and extract(year from run_every) = 0 and extract(month from run_every) = 0);
create index knowledge_validation_tests_next_run_at_idx on public.knowledge_validation_tests (next_run_at)
  where next_run_at is not null;
comment on column public.knowledge_validation_tests.run_every is 'How often the worker runs it, as whoever wrote it; null: it is run by hand.';
comment on column public.knowledge_validation_tests.next_run_at is 'When it is run next.';
comment on column public.knowledge_validation_tests.run_failure is 'Why the worker could not run it the last time; null: it could.';
grant insert (run_every), update (run_every) on public.knowledge_validation_tests to authenticated;

create function private.schedule_test()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  new.run_every := justify_hours(new.run_every);
  new.next_run_at := now() + new.run_every;
  new.run_failure := null;
  return new;
end
$$;
comment on function private.schedule_test() is 'Trigger: a test that is scheduled runs for the first time when its interval is over.';
create trigger knowledge_validation_tests_schedule_inserted before insert on public.knowledge_validation_tests
  for each row execute function private.schedule_test();
create trigger knowledge_validation_tests_schedule_updated before update of run_every on public.knowledge_validation_tests
  for each row when (new.run_every is distinct from old.run_every)
  execute function private.schedule_test();

create function public.schedule_validation_test(test_id uuid, run_every interval default null)
returns setof public.knowledge_validation_tests
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_test public.knowledge_validation_tests;
begin
  select t.* into v_test from public.knowledge_validation_tests t where t.id = schedule_validation_test.test_id;
  if v_test.id is null then
    perform private.fail('PT404', 'no such validation test');
  end if;
  if schedule_validation_test.run_every is not null
     and cardinality(v_test.expected_knowledge_ids || v_test.forbidden_knowledge_ids) = 0 then
    perform private.fail('PT400', 'the test names no items, so a search can''t pass or fail it',
      'set expected_knowledge_ids or forbidden_knowledge_ids: answers are judged when somebody runs it');
  end if;
  if schedule_validation_test.run_every not between interval '1 hour' and interval '366 days'
     or extract(year from schedule_validation_test.run_every) <> 0
     or extract(month from schedule_validation_test.run_every) <> 0 then
    perform private.fail('PT400', 'run_every is between 1 hour and 366 days, without months');
  end if;
  return query
    update public.knowledge_validation_tests t set run_every = justify_hours(schedule_validation_test.run_every)
     where t.id = v_test.id
    returning t.*;
  if not found then
    perform private.fail('PT403', 'only who wrote a test and maintainers of the workspace change it');
  end if;
end
$$;
comment on function public.schedule_validation_test(uuid, interval) is
  'Lets the worker run a validation test every so often, 1 hour to 366 days, as whoever wrote it; null: never. For who wrote it and for maintainers.';

create table private.discovery_schedules (
  workspace_id uuid not null,
  run_every interval default interval '1 day',
  next_run_at timestamptz,
  run_failure text,
  constraint discovery_schedules_pkey primary key (workspace_id),
  constraint discovery_schedules_workspace_id_fkey foreign key (workspace_id)
    references public.workspaces (id) on delete cascade,
  constraint discovery_schedules_run_every_check check (
    run_every between interval '1 hour' and interval '366 days'
    and extract(year from run_every) = 0 and extract(month from run_every) = 0)
);
create index discovery_schedules_next_run_at_idx on private.discovery_schedules (next_run_at)
  where next_run_at is not null;
alter table private.discovery_schedules enable row level security;
comment on table private.discovery_schedules is 'When the worker looks for relationships in a workspace.';
comment on column private.discovery_schedules.workspace_id is 'The workspace.';
comment on column private.discovery_schedules.run_every is 'How often; null: never.';
comment on column private.discovery_schedules.next_run_at is 'When next.';
comment on column private.discovery_schedules.run_failure is 'Why it could not the last time; null: it could.';
revoke all on private.discovery_schedules from public, anon, authenticated, service_role;
grant select, update (next_run_at, run_failure) on private.discovery_schedules to service_role;

-- definer because nobody writes the table directly.
create function private.schedule_new_workspace()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  insert into private.discovery_schedules (workspace_id, next_run_at) values (new.id, now() + interval '1 day');
  return null;
end
$$;
comment on function private.schedule_new_workspace() is 'Trigger: in a new workspace relationships are looked for once a day.';
create trigger workspaces_schedule_discovery after insert on public.workspaces
  for each row execute function private.schedule_new_workspace();
-- Not all of them at once.
insert into private.discovery_schedules (workspace_id, next_run_at)
select w.id, now() + interval '1 day' * random() from public.workspaces w;

create type public.discovery_schedule as (workspace_id uuid, run_every interval, next_run_at timestamptz);
comment on type public.discovery_schedule is 'When relationships are looked for in a workspace; null: never.';

-- definer because nobody writes the table directly; it asks whether the caller maintains the workspace.
create function private.set_discovery_schedule(run_every interval)
returns setof public.discovery_schedule
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_workspace uuid := private.default_workspace();
begin
  perform private.refuse_agents();
  if v_workspace not in (select private.maintained_workspaces()) then
    perform private.fail('PT403', 'only maintainers of the workspace schedule what is done for all of it');
  end if;
  if set_discovery_schedule.run_every not between interval '1 hour' and interval '366 days'
     or extract(year from set_discovery_schedule.run_every) <> 0
     or extract(month from set_discovery_schedule.run_every) <> 0 then
    perform private.fail('PT400', 'run_every is between 1 hour and 366 days, without months');
  end if;
  return query
    update private.discovery_schedules d
       set run_every = justify_hours(set_discovery_schedule.run_every),
           next_run_at = now() + set_discovery_schedule.run_every, run_failure = null
     where d.workspace_id = v_workspace
    returning d.workspace_id, d.run_every, d.next_run_at;
end
$$;
comment on function private.set_discovery_schedule(interval) is 'Writes when relationships are looked for in the current workspace.';

create function public.schedule_discovery(run_every interval default null)
returns setof public.discovery_schedule
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$ select * from private.set_discovery_schedule($1) $$;
comment on function public.schedule_discovery(interval) is
  'Lets the worker look for relationships in the current workspace every so often, 1 hour to 366 days, and propose what it finds; null: never. Once a day unless somebody says otherwise. For maintainers.';

-- -- the worker's side -----------------------------------------------------------------------------------------

create type public.due_work as (
  task text, workspace_id uuid, test_id uuid, user_id uuid, embedding_model text
);
comment on type public.due_work is
  'What a worker is to do now. task: validation_test or discover_relationships; user_id: as whom, null where nobody is left to lend their eyes; embedding_model: the workspace''s.';

create function public.claim_due_work(embedding_models text[] default null)
returns setof public.due_work
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_lease constant interval := interval '10 minutes';
begin
  return query
    with due as (
      select t.id, private.model_of_workspace(t.workspace_id) as model
        from public.knowledge_validation_tests t
       where t.next_run_at <= now()
         -- Without its model a search would go by words alone, and fail where a person's would not.
         and (claim_due_work.embedding_models is null
              or coalesce(private.model_of_workspace(t.workspace_id) = any (claim_due_work.embedding_models), true))
       order by t.next_run_at
       limit 1
       for no key update of t skip locked
    )
    update public.knowledge_validation_tests t set next_run_at = now() + v_lease
      from due where t.id = due.id
    returning 'validation_test'::text, t.workspace_id, t.id,
      (select m.user_id from public.workspace_members m where m.workspace_id = t.workspace_id and m.user_id = t.owner_id),
      due.model;
  if found then
    return;
  end if;
  return query
    with due as (
      select d.workspace_id from private.discovery_schedules d
       where d.next_run_at <= now()
       order by d.next_run_at
       limit 1
       for no key update skip locked
    )
    update private.discovery_schedules d set next_run_at = now() + v_lease
      from due where d.workspace_id = due.workspace_id
    returning 'discover_relationships'::text, d.workspace_id, null::uuid,
      (select m.user_id from public.workspace_members m where m.workspace_id = d.workspace_id and m.role = 'owner'
        order by m.created_at, m.user_id limit 1),
      null::text;
end
$$;
comment on function public.claim_due_work(text[]) is
  'Leases one piece of scheduled work that is due, for ten minutes; no row: none is. Tests only of workspaces whose embedding model is among those named. For service_role.';

create function public.finish_due_work(workspace_id uuid, test_id uuid default null, failure text default null)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  update public.knowledge_validation_tests t
     set next_run_at = now() + case when $3 is null then t.run_every else least(t.run_every, interval '1 hour') end,
         run_failure = left($3, 1000)
   where t.id = $2 and t.workspace_id = $1 and t.run_every is not null;
  update private.discovery_schedules d
     set next_run_at = now() + case when $3 is null then d.run_every else least(d.run_every, interval '1 hour') end,
         run_failure = left($3, 1000)
   where $2 is null and d.workspace_id = $1 and d.run_every is not null;
$$;
comment on function public.finish_due_work(uuid, uuid, text) is
  'Says that scheduled work is done, or why it could not be done: then it is tried again within the hour. For service_role.';

revoke execute on function
  private.schedule_test(), public.schedule_validation_test(uuid, interval), private.schedule_new_workspace(),
  private.set_discovery_schedule(interval), public.schedule_discovery(interval), public.claim_due_work(text[]),
  public.finish_due_work(uuid, uuid, text)
  from public, anon, authenticated, service_role;
grant execute on function
  public.schedule_validation_test(uuid, interval), private.set_discovery_schedule(interval),
  public.schedule_discovery(interval)
  to authenticated;
grant execute on function public.claim_due_work(text[]), public.finish_due_work(uuid, uuid, text) to service_role;
