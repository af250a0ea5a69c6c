-- Maintenance: what has to be done now and then, and how old sessions are put away.
--
-- Owns: run_maintenance and its tasks, archive_sessions, restore_sessions and the tables in which archived sessions lie.
--
-- Invariants
--   * One function does all that is due. Whoever calls it (pg_cron, the worker, an operator) gets the same; two calls at
--     once don't do it twice. A task that fails is told in the answer, in private.maintenance_runs and as a warning, and
--     does not keep the others from running.
--   * Archiving a month takes its sessions with their links out of the live tables, and writes down every reference to
--     them before it is set null, so that the month's partition can be dropped and restoring gives all of it back.
--     Knowledge is not touched: an item keeps its text, its owner, its place and, in created_by, the session's id. What
--     it loses while the month is archived is being found by the words of what was recorded beside it.
--   * Erasure reaches what is archived: links go with their item, sessions with their owner or workspace.
--   * A session that was in use in the last seven days is not archived, nor with it its month.
--
-- The references to sessions are looked up in the catalog, so that a table that comes to refer to sessions is served
-- without a change here; one in a way that this can't undo makes archiving fail, not lose rows.

set local lock_timeout = '5s';

-- -- archived sessions -----------------------------------------------------------------------------------------

create table private.archived_sessions (
  session_id uuid not null,
  month text not null,
  workspace_id uuid not null,
  owner_id uuid not null,
  session jsonb not null,
  last_position bigint not null,
  link_counts jsonb not null,
  archived_at timestamptz not null default now(),
  constraint archived_sessions_pkey primary key (session_id),
  constraint archived_sessions_workspace_id_fkey foreign key (workspace_id)
    references public.workspaces (id) on delete cascade,
  constraint archived_sessions_owner_id_fkey foreign key (owner_id) references auth.users (id) on delete cascade
);
create index archived_sessions_month_idx on private.archived_sessions (month);
create index archived_sessions_workspace_id_idx on private.archived_sessions (workspace_id);
create index archived_sessions_owner_id_idx on private.archived_sessions (owner_id);
alter table private.archived_sessions enable row level security;
comment on table private.archived_sessions is 'Sessions of archived months, whole; restore_sessions puts them back.';
comment on column private.archived_sessions.session_id is 'The session.';
comment on column private.archived_sessions.month is 'The month in which it began (UTC), like 2026-01.';
comment on column private.archived_sessions.workspace_id is 'As in the session: erased with the workspace.';
comment on column private.archived_sessions.owner_id is 'As in the session: erased with the user.';
comment on column private.archived_sessions.session is 'The row of ai_sessions.';
comment on column private.archived_sessions.last_position is 'The last session_position given to an item.';
comment on column private.archived_sessions.link_counts is 'How many links of each type it had when it was archived; fewer later: items were erased.';
comment on column private.archived_sessions.archived_at is 'When.';

create table private.archived_session_links (
  link_id uuid not null,
  session_id uuid not null,
  knowledge_id uuid not null,
  link jsonb not null,
  constraint archived_session_links_pkey primary key (link_id),
  constraint archived_session_links_session_id_fkey foreign key (session_id)
    references private.archived_sessions (session_id) on delete cascade,
  constraint archived_session_links_knowledge_id_fkey foreign key (knowledge_id)
    references public.knowledge_items (id) on delete cascade
);
create index archived_session_links_session_id_idx on private.archived_session_links (session_id);
create index archived_session_links_knowledge_id_idx on private.archived_session_links (knowledge_id);
alter table private.archived_session_links enable row level security;
comment on table private.archived_session_links is 'The links of archived sessions to knowledge.';
comment on column private.archived_session_links.link_id is 'The link.';
comment on column private.archived_session_links.session_id is 'Its session.';
comment on column private.archived_session_links.knowledge_id is 'Its item: erased with it.';
comment on column private.archived_session_links.link is 'The row of session_knowledge_links.';

create table private.archived_session_references (
  session_id uuid not null,
  table_name text not null,
  column_name text not null,
  row_key text not null,
  constraint archived_session_references_pkey primary key (table_name, column_name, row_key),
  constraint archived_session_references_session_id_fkey foreign key (session_id)
    references private.archived_sessions (session_id) on delete cascade
);
create index archived_session_references_session_id_idx on private.archived_session_references (session_id);
alter table private.archived_session_references enable row level security;
comment on table private.archived_session_references is 'Which rows referred to archived sessions.';
comment on column private.archived_session_references.session_id is 'The session.';
comment on column private.archived_session_references.table_name is 'The table that referred to it, with its schema.';
comment on column private.archived_session_references.column_name is 'The column that did, null since.';
comment on column private.archived_session_references.row_key is 'The primary key of the row.';

revoke all on private.archived_sessions, private.archived_session_links, private.archived_session_references
  from public, anon, authenticated, service_role;
grant select on private.archived_sessions, private.archived_session_links, private.archived_session_references
  to service_role;

create function private.session_references()
returns table (table_name text, column_name text, key_column text, key_type text)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_reference record;
begin
  for v_reference in
    select c.conrelid::regclass::text as refers, a.attname::text as referring, c.confdeltype,
           p.attname::text as key_column, format_type(p.atttypid, p.atttypmod) as key_type
      from pg_constraint c
      join pg_attribute a on a.attrelid = c.conrelid and a.attnum = c.conkey[1]
      left join pg_constraint k on k.conrelid = c.conrelid and k.contype = 'p' and cardinality(k.conkey) = 1
      left join pg_attribute p on p.attrelid = k.conrelid and p.attnum = k.conkey[1]
     where c.contype = 'f' and c.confrelid = 'public.ai_sessions'::regclass and c.conparentid = 0
       and c.conrelid <> all (array['private.session_keys'::regclass, 'public.session_knowledge_links'::regclass])
     -- Whoever writes a record takes it before its item.
     order by c.conrelid = 'public.knowledge_items'::regclass, 1, 2
  loop
    if v_reference.confdeltype <> 'n' or v_reference.key_column is null then
      perform private.fail('PT409', format('%s.%s refers to sessions in a way that archiving can''t give back',
        v_reference.refers, v_reference.referring), 'on delete set null, and a primary key of one column, would do');
    end if;
    table_name := v_reference.refers;
    column_name := v_reference.referring;
    key_column := v_reference.key_column;
    key_type := v_reference.key_type;
    return next;
  end loop;
end
$$;
comment on function private.session_references() is
  'The columns that refer to sessions, apart from links and keys, which go with their session; knowledge_items last.';

create function private.lock_sessions(month text)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_from uuid := private.uuid_floor(private.month_start(lock_sessions.month));
  v_to uuid := private.uuid_floor(private.month_end(lock_sessions.month));
begin
  -- Before what refers to them, against the usual order: from here on nobody resumes these sessions, records in them or
  -- links to them, so nothing is left behind. Who is at work in one is waited for, and then found to be.
  perform from private.session_keys k where k.session_id >= v_from and k.session_id < v_to order by k.session_id for update;
  perform from public.ai_sessions s where s.id >= v_from and s.id < v_to order by s.id for update;
end
$$;
comment on function private.lock_sessions(text) is 'Takes the sessions of a month, each with its key.';

create function private.move_sessions_out(month text)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_from uuid := private.uuid_floor(private.month_start(move_sessions_out.month));
  v_to uuid := private.uuid_floor(private.month_end(move_sessions_out.month));
  v_reference record;
begin
  perform private.lock_sessions(move_sessions_out.month);
  insert into private.archived_sessions (session_id, month, workspace_id, owner_id, session, last_position, link_counts)
  select s.id, move_sessions_out.month, s.workspace_id, s.owner_id, to_jsonb(s), k.last_position,
         coalesce((select jsonb_object_agg(n.interaction_type, n.how_many)
                     from (select l.interaction_type, count(*) as how_many from public.session_knowledge_links l
                            where l.session_id = s.id group by 1) n), '{}')
    from public.ai_sessions s join private.session_keys k on k.session_id = s.id
   where s.id >= v_from and s.id < v_to;
  insert into private.archived_session_links (link_id, session_id, knowledge_id, link)
  select l.id, l.session_id, l.knowledge_id, to_jsonb(l)
    from public.session_knowledge_links l where l.session_id >= v_from and l.session_id < v_to;
  for v_reference in select * from private.session_references() loop
    execute format(
      'with found as materialized (
         select t.%2$I as key, t.%3$I as session_id from %1$s t where t.%3$I >= $1 and t.%3$I < $2
          order by t.%2$I for no key update
       )
       insert into private.archived_session_references (session_id, table_name, column_name, row_key)
       select f.session_id, %4$L, %5$L, f.key::text from found f',
      v_reference.table_name, v_reference.key_column, v_reference.column_name, v_reference.table_name,
      v_reference.column_name) using v_from, v_to;
    execute format('update %1$s t set %2$I = null where t.%2$I >= $1 and t.%2$I < $2',
      v_reference.table_name, v_reference.column_name) using v_from, v_to;
  end loop;
  delete from public.ai_sessions s where s.id >= v_from and s.id < v_to;
end
$$;
comment on function private.move_sessions_out(text) is
  'Moves the sessions of a month into the archive, with their links, and writes down and nulls what refers to them.';

create function private.move_sessions_in(month text)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_columns text;
  v_reference record;
  v_allowed text := coalesce(current_setting('app.allow_credentials', true), '');
begin
  select string_agg(format('s.%I', a.attname), ', ' order by a.attnum) into v_columns
    from pg_attribute a
   where a.attrelid = 'public.ai_sessions'::regclass and a.attnum > 0 and not a.attisdropped and a.attgenerated = '';
  -- What was let in once is not refused on its way back.
  perform set_config('app.allow_credentials', 'on', true);
  -- A name that its owner has given to another session meanwhile stays with that one.
  execute format($sql$
    insert into public.ai_sessions (%1$s)
    select %2$s
      from private.archived_sessions a
      cross join lateral jsonb_populate_record(null::public.ai_sessions, a.session || jsonb_build_object(
        'session_identifier', case when exists (
            select from private.session_keys k
             where k.workspace_id = a.workspace_id and k.owner_id = a.owner_id
               and k.session_identifier = a.session ->> 'session_identifier')
          then left(a.session ->> 'session_identifier', 150) || ' (' || a.month || ' ' || left(a.session_id::text, 13) || ')'
          else a.session ->> 'session_identifier' end)) s
     where a.month = $1 order by a.session_id
    $sql$, replace(v_columns, 's.', ''), v_columns) using move_sessions_in.month;
  update private.session_keys k set last_position = a.last_position
    from private.archived_sessions a where a.month = move_sessions_in.month and k.session_id = a.session_id;
  insert into public.session_knowledge_links
  select l.*
    from private.archived_session_links x
    join private.archived_sessions a on a.session_id = x.session_id and a.month = move_sessions_in.month
    cross join lateral jsonb_populate_record(null::public.session_knowledge_links, x.link) l
   order by x.knowledge_id;
  for v_reference in select * from private.session_references() loop
    execute format(
      'update %1$s t set %3$I = r.session_id
         from private.archived_session_references r
         join private.archived_sessions a on a.session_id = r.session_id and a.month = $1
        where r.table_name = %5$L and r.column_name = %6$L and t.%2$I = r.row_key::%4$s and t.%3$I is null',
      v_reference.table_name, v_reference.key_column, v_reference.column_name, v_reference.key_type,
      v_reference.table_name, v_reference.column_name) using move_sessions_in.month;
  end loop;
  -- What was erased while it was archived is counted no more.
  update public.ai_sessions s
     set knowledge_items_created = greatest(s.knowledge_items_created - coalesce((a.link_counts ->> 'created')::integer, 0) + n.created, 0),
         knowledge_items_accessed = greatest(s.knowledge_items_accessed - coalesce((a.link_counts ->> 'accessed')::integer, 0) + n.accessed, 0),
         breakthrough_moments = greatest(s.breakthrough_moments - coalesce((a.link_counts ->> 'breakthrough')::integer, 0) + n.breakthroughs, 0)
    from private.archived_sessions a
    cross join lateral (
      select (count(*) filter (where l.interaction_type = 'created'))::integer as created,
             (count(*) filter (where l.interaction_type = 'accessed'))::integer as accessed,
             (count(*) filter (where l.interaction_type = 'breakthrough'))::integer as breakthroughs
        from public.session_knowledge_links l where l.session_id = a.session_id) n
   where a.month = move_sessions_in.month and s.id = a.session_id
     and (n.created, n.accessed, n.breakthroughs) is distinct from
         (coalesce((a.link_counts ->> 'created')::integer, 0), coalesce((a.link_counts ->> 'accessed')::integer, 0),
          coalesce((a.link_counts ->> 'breakthrough')::integer, 0));
  delete from private.archived_sessions a where a.month = move_sessions_in.month;
  perform set_config('app.allow_credentials', v_allowed, true);
end
$$;
comment on function private.move_sessions_in(text) is
  'Moves the archived sessions of a month back, with their links and with what referred to them. The month''s partition must be there.';

create function private.drop_session_partition(month text)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
-- Detaching waits for everybody who reads sessions, and everybody then waits for it. Less than the time after which
-- PostgreSQL looks for deadlocks, so that nobody is ended for it.
set lock_timeout = '500ms'
as $$
declare
  v_name text := private.session_partition(drop_session_partition.month);
  v_rows boolean;
begin
  if to_regclass('private.' || v_name) is null then
    return false;
  end if;
  execute format('select exists (select from private.%I)', v_name) into v_rows;
  if v_rows then
    return false;
  end if;
  lock table only public.ai_sessions in access exclusive mode;
  execute format('select exists (select from private.%I)', v_name) into v_rows;
  if v_rows then
    raise sqlstate 'KP000';  -- lets the lock go
  end if;
  execute format('alter table public.ai_sessions detach partition private.%I', v_name);
  execute format('drop table private.%I', v_name);
  return true;
exception when lock_not_available or sqlstate 'KP000' then
  return false;
end
$$;
comment on function private.drop_session_partition(text) is
  'Drops the partition of a month if it is empty and nobody is at work on sessions, and says whether it did.';

create type public.archived_month as (
  month text, outcome text, sessions integer, links integer, "references" integer, partition_dropped boolean
);
comment on type public.archived_month is
  'What became of a month. outcome: archived, restored, or would be archived (a dry run); references: rows of other tables that refer to its sessions; partition_dropped: false where somebody was at work, then run_maintenance drops it later.';

-- definer because it moves rows of everybody's and drops a partition, for operators only.
create function public.archive_sessions(month text, dry_run boolean default false)
returns setof public.archived_month
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_from uuid;
  v_to uuid;
  v_busy integer;
  v_result public.archived_month;
begin
  if not private.is_trusted() then
    perform private.fail('PT403', 'only service_role archives sessions');
  end if;
  v_from := private.uuid_floor(private.month_start(archive_sessions.month));
  v_to := private.uuid_floor(private.month_end(archive_sessions.month));
  if private.month_end(archive_sessions.month) > now() then
    perform private.fail('PT409', format('%s is not over', archive_sessions.month), 'archive a month that is');
  end if;
  perform pg_advisory_xact_lock(hashtextextended('knowledge-persistence: session partitions', 0));
  perform private.lock_sessions(archive_sessions.month);
  select count(*) into v_busy
    from public.ai_sessions s join private.session_keys k on k.session_id = s.id
   where s.id >= v_from and s.id < v_to
     and (greatest(s.start_time, s.end_time, k.resumed_at) > now() - interval '7 days' or exists (
       select from public.session_knowledge_links l
        where l.session_id = s.id and l.interaction_timestamp > now() - interval '7 days'));
  if v_busy > 0 then
    perform private.fail('PT409', format('%s sessions of %s were in use in the last seven days', v_busy, archive_sessions.month),
      'archive the month later');
  end if;
  v_result.month := archive_sessions.month;
  v_result.partition_dropped := false;
  begin
    perform private.move_sessions_out(archive_sessions.month);
    select count(*) into v_result.sessions from private.archived_sessions a where a.month = archive_sessions.month;
    select count(*) into v_result.links
      from private.archived_session_links l join private.archived_sessions a on a.session_id = l.session_id
     where a.month = archive_sessions.month;
    select count(*) into v_result."references"
      from private.archived_session_references r join private.archived_sessions a on a.session_id = r.session_id
     where a.month = archive_sessions.month;
    if archive_sessions.dry_run then
      raise sqlstate 'KP000';  -- undoes the move; the counts stay
    end if;
    v_result.outcome := 'archived';
    v_result.partition_dropped := private.drop_session_partition(archive_sessions.month);
  exception when sqlstate 'KP000' then
    v_result.outcome := 'would be archived';
  end;
  return next v_result;
end
$$;
comment on function public.archive_sessions(text, boolean) is
  'Moves the sessions of a month that is over (like 2026-01) with their links into the archive, remembers what refers to them, and drops the month''s partition; dry_run only says how much that is. Refused while one of the sessions was in use in the last seven days. For service_role.';

-- definer for the same reason.
create function public.restore_sessions(month text)
returns setof public.archived_month
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_result public.archived_month;
begin
  if not private.is_trusted() then
    perform private.fail('PT403', 'only service_role restores sessions');
  end if;
  perform private.month_start(restore_sessions.month);
  perform pg_advisory_xact_lock(hashtextextended('knowledge-persistence: session partitions', 0));
  select count(*) into v_result.sessions from private.archived_sessions a where a.month = restore_sessions.month;
  if v_result.sessions = 0 then
    perform private.fail('PT404', format('no sessions of %s are archived', restore_sessions.month));
  end if;
  select count(*) into v_result.links
    from private.archived_session_links l join private.archived_sessions a on a.session_id = l.session_id
   where a.month = restore_sessions.month;
  select count(*) into v_result."references"
    from private.archived_session_references r join private.archived_sessions a on a.session_id = r.session_id
   where a.month = restore_sessions.month;
  v_result.month := restore_sessions.month;
  v_result.outcome := 'restored';
  v_result.partition_dropped := false;
  perform private.make_session_partition(restore_sessions.month);
  perform private.move_sessions_in(restore_sessions.month);
  return next v_result;
end
$$;
comment on function public.restore_sessions(text) is
  'Puts the archived sessions of a month back, with their links and all that referred to them. A session whose identifier its owner has used again meanwhile gets the month behind it. For service_role.';

-- -- what is due -----------------------------------------------------------------------------------------------

create table private.maintenance_runs (
  task text not null,
  last_run timestamptz not null,
  outcome text not null,
  detail text not null,
  constraint maintenance_runs_pkey primary key (task),
  constraint maintenance_runs_outcome_check check (outcome in ('done', 'failed'))
);
alter table private.maintenance_runs enable row level security;
comment on table private.maintenance_runs is 'How each task of maintenance went last.';
comment on column private.maintenance_runs.task is 'The task.';
comment on column private.maintenance_runs.last_run is 'When it ran last.';
comment on column private.maintenance_runs.outcome is 'done or failed.';
comment on column private.maintenance_runs.detail is 'What it did, or why it failed.';
revoke all on private.maintenance_runs from public, anon, authenticated, service_role;
grant select on private.maintenance_runs to service_role;

create function private.maintain_session_partitions()
returns text
language sql
volatile
set search_path = pg_catalog, pg_temp
-- Attaching waits for whoever reads sessions, and everybody then waits for it. There are months to try again.
set lock_timeout = '2s'
as $$
  select coalesce('made ' || string_agg(p.partition_name, ', '), 'nothing was missing')
    from public.create_session_partitions(3) p
$$;
comment on function private.maintain_session_partitions() is 'Task: makes the partitions of sessions for the months ahead.';

create function private.maintain_empty_partitions()
returns text
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_month text;
  v_dropped text[] := '{}';
begin
  for v_month in
    select regexp_replace(c.relname, '^ai_sessions_(\d{4})(\d{2})$', '\1-\2')
      from pg_inherits i join pg_class c on c.oid = i.inhrelid
     where i.inhparent = 'public.ai_sessions'::regclass and c.relname ~ '^ai_sessions_\d{6}$'
     order by 1
  loop
    continue when private.month_end(v_month) > now() - interval '1 day';  -- clocks can jump back
    if private.drop_session_partition(v_month) then
      v_dropped := v_dropped || v_month;
    end if;
  end loop;
  return coalesce('dropped ' || nullif(array_to_string(v_dropped, ', '), ''), 'nothing to drop');
end
$$;
comment on function private.maintain_empty_partitions() is 'Task: drops the partitions of months that are over and have no sessions (any more).';

create function private.maintain_proposals()
returns text
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_removed integer;
begin
  -- What is still apt is proposed again when somebody looks again.
  delete from public.knowledge_relationships r
   where r.status = 'proposed'
     and (r.created_at < now() - interval '90 days'
          or exists (select from public.knowledge_items k
                      where k.id in (r.source_knowledge_id, r.target_knowledge_id)
                        and (k.validation_status = 'deprecated' or k.superseded_by is not null)));
  get diagnostics v_removed = row_count;
  return format('%s proposals removed', v_removed);
end
$$;
comment on function private.maintain_proposals() is
  'Task: removes proposed relationships that nobody has decided for 90 days, or one of whose items is retired. People''s decisions stay.';

create function private.maintain_large_workspaces()
returns text
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_shrunk integer;
begin
  -- A margin, so that a workspace at the border doesn't go to and fro.
  delete from private.large_workspaces l
   where not exists (select from private.search_documents d where d.workspace_id = l.workspace_id offset 4000);
  get diagnostics v_shrunk = row_count;
  return format('%s workspaces are small again', v_shrunk);
end
$$;
comment on function private.maintain_large_workspaces() is
  'Task: workspaces that have shrunk to 4000 items or fewer are searched by comparing all vectors again.';

create type public.maintenance_outcome as (task text, outcome text, detail text);
comment on type public.maintenance_outcome is 'How a task went. outcome: done, failed, or skipped (another run is at work).';

-- definer because its tasks make and drop partitions and reach everybody's rows, for operators only.
create function public.run_maintenance()
returns setof public.maintenance_outcome
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  -- Those last that keep everybody from sessions until the end.
  v_tasks constant text[] := '{proposals,large_workspaces,event_log,embedding_switch,session_partitions,empty_partitions}';
  v_task text;
  v_one public.maintenance_outcome;
begin
  if not private.is_trusted() then
    perform private.fail('PT403', 'only service_role runs maintenance');
  end if;
  if not pg_try_advisory_xact_lock(hashtextextended('knowledge-persistence: maintenance', 0)) then
    return next row('all', 'skipped', 'another run is at work')::public.maintenance_outcome;
    return;
  end if;
  foreach v_task in array v_tasks loop
    v_one.task := v_task;
    begin
      execute format('select private.%I()', 'maintain_' || v_task) into v_one.detail;
      v_one.outcome := 'done';
    exception when others then
      v_one.outcome := 'failed';
      v_one.detail := format('%s (SQLSTATE %s)', sqlerrm, sqlstate);
      raise warning 'maintenance: % failed: %', v_task, v_one.detail;
    end;
    insert into private.maintenance_runs as r (task, last_run, outcome, detail)
    values (v_one.task, now(), v_one.outcome, v_one.detail)
    on conflict on constraint maintenance_runs_pkey do update set
      last_run = excluded.last_run, outcome = excluded.outcome, detail = excluded.detail;
    return next v_one;
  end loop;
end
$$;
comment on function public.run_maintenance() is
  'Does all that is due now and then: partitions of sessions ahead, empty ones away, proposals that nobody decided, workspaces that have shrunk, old events away, the rest of a switch of the embedding model. Every hour is right; the worker and pg_cron, where it is there, call it. For service_role.';

create function private.schedule_maintenance()
returns text
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  if to_regprocedure('cron.schedule(text, text, text)') is null then
    return 'pg_cron is not installed here: the worker runs maintenance';
  end if;
  execute 'select cron.schedule($1, $2, $3)'
    using 'knowledge-persistence-maintenance', '17 * * * *', 'select * from public.run_maintenance()';
  return 'pg_cron runs maintenance every hour';
end
$$;
comment on function private.schedule_maintenance() is
  'Lets pg_cron run maintenance every hour, where it is installed; for whoever installs it later: call this again, as postgres.';
select private.schedule_maintenance();

revoke execute on function
  private.session_references(), private.lock_sessions(text), private.move_sessions_out(text), private.move_sessions_in(text),
  private.drop_session_partition(text), public.archive_sessions(text, boolean), public.restore_sessions(text),
  private.maintain_session_partitions(), private.maintain_empty_partitions(), private.maintain_proposals(),
  private.maintain_large_workspaces(), public.run_maintenance(), private.schedule_maintenance()
  from public, anon, authenticated, service_role;
grant execute on function
  public.archive_sessions(text, boolean), public.restore_sessions(text), public.run_maintenance() to service_role;
