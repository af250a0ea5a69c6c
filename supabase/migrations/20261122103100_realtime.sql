-- Realtime: the push. A hint that something happened; the log (knowledge_events) is the truth.
--
-- Owns: notify_knowledge_update, the broadcasts to `workspace:<id>` and `session:<id>`, the policies on
-- realtime.messages, the tables that postgres_changes may tell of.
--
-- Invariants
--   * A push never fails or delays the write: what goes wrong becomes a warning, a lock is not waited for. One
--     exception, that no function can catch: a NOTIFY queue full of what some listener never reads fails the commit of
--     whatever notifies. `pg_notification_queue_usage()` shows it long before.
--   * A broadcast says no more than its receivers may know: where an event is not for all members, the workspace's
--     topic gets its number alone.
--   * Members of a workspace join `workspace:<id>`; owners of a session, and maintainers, `session:<id>`. Every member
--     shows presence, contributors broadcast.
--   * LISTEN on knowledge_update is for trusted SQL listeners: PostgreSQL asks nobody who may listen.

set local lock_timeout = '5s';

create function public.notify_knowledge_update()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  perform pg_notify('knowledge_update', json_build_object(
    'operation', tg_op,
    'knowledge_id', new.id,
    'knowledge_type', new.knowledge_type,
    'session_id', new.created_by)::text);
  return null;
end
$$;
comment on function public.notify_knowledge_update() is
  'Trigger: tells SQL listeners on the channel knowledge_update of a new or changed item, as JSON: operation, knowledge_id, knowledge_type, session_id (the item''s created_by).';

create trigger knowledge_update_trigger
  after insert or update of title, content, knowledge_type, category, subcategory, context_data, importance_score,
    retrieval_triggers, project_context, valid_from, valid_to, validation_status, superseded_by, text_search_config
  on public.knowledge_items
  for each row execute function public.notify_knowledge_update();

-- definer because those who write knowledge may not write realtime.messages.
create function private.push_events()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '100ms'
as $$
declare
  v_message record;
begin
  for v_message in
    select t.topic,
           jsonb_build_object(
             'workspace_id', min(w.workspace_id::text),
             'last_event', max(w.id),
             'count', count(*),
             -- A batch is told by its number and its beginning: who wants all of it asks the log.
             'events', coalesce(jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
               'event_id', w.id, 'subject', w.subject, 'what', w.what, 'subject_id', w.subject_id,
               'knowledge_id', w.knowledge_id, 'related_id', w.related_id, 'session_id', w.session_id,
               'project_context', w.project_context, 'knowledge_type', w.knowledge_type,
               'validation_status', w.validation_status)) order by w.id)
               filter (where w.place <= 20 and (t.is_narrow or w.audience = 'members')), '[]')) as payload
      from (select e.*, row_number() over (order by e.id) as place from written e) w
      cross join lateral (
        select 'workspace:' || w.workspace_id as topic, false as is_narrow
        union all
        select 'session:' || w.session_id, true where w.session_id is not null and w.audience <> 'others'
      ) t
     group by t.topic
     order by t.topic
  loop
    perform realtime.send(v_message.payload, 'knowledge_event', v_message.topic, true);
  end loop;
  return null;
exception when others then
  raise warning 'the push of an event failed: %', sqlerrm;
  return null;
end
$$;
comment on function private.push_events() is
  'Trigger: broadcasts new events to their workspace''s and session''s private topics, as the event knowledge_event: workspace_id, last_event (a cursor position), count, events (ids of the first twenty that all receivers may see).';
create trigger knowledge_events_push after insert on public.knowledge_events
  referencing new table as written
  for each statement execute function private.push_events();

-- definer because it decides on topics before the caller may see anything behind them.
create function private.may_use_topic(topic text, roles text[])
returns boolean
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_kind text := split_part(may_use_topic.topic, ':', 1);
  v_id text := split_part(may_use_topic.topic, ':', 2);
begin
  if auth.uid() is null or not pg_input_is_valid(v_id, 'uuid') or may_use_topic.topic <> v_kind || ':' || v_id then
    return false;
  end if;
  return case v_kind
    when 'workspace' then exists (
      select from public.workspace_members m
       where m.workspace_id = v_id::uuid and m.user_id = auth.uid() and m.role = any (roles)
         and (private.bound_workspace() is null or m.workspace_id = private.bound_workspace()))
    when 'session' then exists (
      select from public.ai_sessions s
        join public.workspace_members m on m.workspace_id = s.workspace_id and m.user_id = auth.uid()
       where s.id = v_id::uuid and m.role = any (roles)
         and (private.bound_workspace() is null or m.workspace_id = private.bound_workspace())
         and (s.owner_id = auth.uid() or m.role in ('owner', 'maintainer')))
    else false
  end;
end
$$;
comment on function private.may_use_topic(text, text[]) is
  'Whether the caller may use a topic (workspace:<id>, session:<id>): as a member of the workspace in one of these roles, of a session besides as its owner or a maintainer.';

-- Supabase lets its `postgres` make policies on realtime.messages, and not comment on them.
create policy knowledge_topics_receive on realtime.messages for select to authenticated
  using (
    extension in ('broadcast', 'presence')
    and (select private.may_use_topic((select realtime.topic()), '{owner,maintainer,contributor,reader}')));
create policy knowledge_topics_send on realtime.messages for insert to authenticated
  with check (
    (extension = 'presence'
     and (select private.may_use_topic((select realtime.topic()), '{owner,maintainer,contributor,reader}')))
    or (extension = 'broadcast'
        and (select private.may_use_topic((select realtime.topic()), '{owner,maintainer,contributor}'))));

revoke execute on function public.notify_knowledge_update(), private.push_events(), private.may_use_topic(text, text[])
  from public, anon, authenticated, service_role;
grant execute on function private.may_use_topic(text, text[]) to authenticated, service_role;

-- ai_sessions is left out: postgres_changes tells of partitions by their own names, which nobody may read.
do $$
declare
  v_table text;
begin
  foreach v_table in array array['knowledge_items', 'knowledge_relationships', 'knowledge_events',
    'technical_gotchas', 'command_patterns', 'interaction_patterns', 'experiential_knowledge', 'decision_evolution',
    'validation_test_results']
  loop
    if not exists (select from pg_catalog.pg_publication_tables p
                    where p.pubname = 'supabase_realtime' and p.schemaname = 'public' and p.tablename = v_table) then
      execute format('alter publication supabase_realtime add table public.%I', v_table);
    end if;
  end loop;
end
$$;
