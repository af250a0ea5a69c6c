-- Operations views: what an operator and Prometheus look at.
--
-- Owns: failed_embeddings, operations_metrics.
--
-- Invariants
--   * For operators only (service_role, and Studio): they count over all workspaces.
--   * operations_metrics is what the worker's /metrics shows of the database, one row a number: a new row here is a new
--     metric there.
--   * Reading them costs milliseconds: they count small tables, and take the sizes of large ones from the catalog.

set local lock_timeout = '5s';

create view public.failed_embeddings with (security_invoker = true) as
  select j.knowledge_id, k.workspace_id, k.title,
         case when j.for_switch then (select s.to_model from private.embedding_switches s where s.ended_at is null)
              else private.model_of_workspace(k.workspace_id) end as embedding_model,
         j.for_switch, j.attempts, j.last_error, j.created_at,
         case when j.available_at < 'infinity' then j.available_at end as tried_again_at
    from private.embedding_jobs j
    join public.knowledge_items k on k.id = j.knowledge_id
   where j.last_error is not null
   order by j.available_at desc, j.knowledge_id, j.for_switch;
comment on view public.failed_embeddings is 'Texts whose last attempt at embedding failed, those that were set aside first. retry_embeddings gives the latter a new chance.';
comment on column public.failed_embeddings.knowledge_id is 'The item.';
comment on column public.failed_embeddings.workspace_id is 'Its workspace.';
comment on column public.failed_embeddings.title is 'Its title.';
comment on column public.failed_embeddings.embedding_model is 'The model that was to embed it.';
comment on column public.failed_embeddings.for_switch is 'Whether that is the model that is being switched to.';
comment on column public.failed_embeddings.attempts is 'How often it was tried.';
comment on column public.failed_embeddings.last_error is 'Why the last attempt failed.';
comment on column public.failed_embeddings.created_at is 'Since when it waits.';
comment on column public.failed_embeddings.tried_again_at is 'When it is tried again; null: it was set aside.';

create view public.operations_metrics with (security_invoker = true) as
  with jobs as (
    select case when j.for_switch then (select s.to_model from private.embedding_switches s where s.ended_at is null)
                else coalesce(w.embedding_model, (select m.name from public.embedding_models m where m.is_default)) end as model,
           j.for_switch, j.available_at, j.created_at
      from private.embedding_jobs j
      join public.knowledge_items k on k.id = j.knowledge_id
      join public.workspaces w on w.id = k.workspace_id
  ), scheduled as (
    select 'validation_test' as task, count(*) as planned, count(t.run_failure) as failed,
           coalesce(greatest(extract(epoch from now() - min(t.next_run_at)), 0), 0) as late
      from public.knowledge_validation_tests t where t.next_run_at is not null
    union all
    select 'discover_relationships', count(*), count(d.run_failure),
           coalesce(greatest(extract(epoch from now() - min(d.next_run_at)), 0), 0)
      from private.discovery_schedules d where d.next_run_at is not null
  ), models as (
    select m.name as model, s.state, s.for_switch
      from public.embedding_models m, (values ('pending', false), ('failed', false), ('switching', true)) s (state, for_switch)
  )
  select 'kp_embedding_jobs' as metric, jsonb_build_object('model', m.model, 'state', m.state) as labels,
         'Texts that wait for a vector: pending, failed (set aside), switching (for the model to come).' as help,
         (select count(*) from jobs j
           where j.model = m.model and j.for_switch = m.for_switch
             and (m.for_switch or (j.available_at = 'infinity') = (m.state = 'failed')))::double precision as value
    from models m
  union all
  select 'kp_embedding_oldest_job_seconds', jsonb_build_object('model', m.name),
         'Age of the oldest text that waits for a vector and was not set aside.',
         coalesce((select extract(epoch from now() - min(j.created_at)) from jobs j
                    where j.model = m.name and not j.for_switch and j.available_at < 'infinity'), 0)
    from public.embedding_models m
  union all
  select 'kp_embedding_model_serves', jsonb_build_object('model', m.name), 'Whether this is the default model.',
         m.is_default::integer
    from public.embedding_models m
  union all
  select 'kp_maintenance_age_seconds', jsonb_build_object('task', r.task), 'How long ago a task of maintenance ran last.',
         extract(epoch from now() - r.last_run)
    from private.maintenance_runs r
  union all
  select 'kp_maintenance_failed', jsonb_build_object('task', r.task), 'Whether a task of maintenance failed when it ran last.',
         (r.outcome = 'failed')::integer
    from private.maintenance_runs r
  union all
  select 'kp_scheduled_work', jsonb_build_object('task', s.task), 'What the worker does by itself now and then.', s.planned
    from scheduled s
  union all
  select 'kp_scheduled_work_failed', jsonb_build_object('task', s.task), 'How much of it could not be done the last time.',
         s.failed
    from scheduled s
  union all
  select 'kp_scheduled_work_late_seconds', jsonb_build_object('task', s.task),
         'How long what was due first has been waiting.', s.late
    from scheduled s
  union all
  select 'kp_event_log_bytes', '{}', 'Size of the event log on disk, with its indexes.',
         pg_total_relation_size('public.knowledge_events')
  union all
  select 'kp_event_log_rows', '{}', 'Events in the log, as the planner estimates them.',
         greatest((select c.reltuples from pg_class c where c.oid = 'public.knowledge_events'::regclass), 0)
  union all
  select 'kp_database_bytes', '{}', 'Size of the database on disk.', pg_database_size(current_database())
  union all
  select 'kp_notify_queue_usage', '{}', 'How full the queue of notifications is, 0 to 1.', pg_notification_queue_usage()
  union all
  select 'kp_session_partitions_ahead', '{}', 'Months after this one for which sessions have a partition.', count(*)
    from pg_inherits i join pg_class c on c.oid = i.inhrelid
   where i.inhparent = 'public.ai_sessions'::regclass
     and c.relname > 'ai_sessions_' || to_char(now() at time zone 'UTC', 'YYYYMM') and c.relname ~ '^ai_sessions_\d{6}$'
  union all
  select 'kp_items', '{}', 'Knowledge items, as the planner estimates them.',
         greatest((select c.reltuples from pg_class c where c.oid = 'public.knowledge_items'::regclass), 0);
comment on view public.operations_metrics is 'Numbers to watch, as the worker''s /metrics shows them.';
comment on column public.operations_metrics.metric is 'The metric''s name.';
comment on column public.operations_metrics.labels is 'What it is of.';
comment on column public.operations_metrics.help is 'What it says.';
comment on column public.operations_metrics.value is 'The number.';

revoke all on public.failed_embeddings, public.operations_metrics from public, anon, authenticated, service_role;
grant select on public.failed_embeddings, public.operations_metrics to service_role;
