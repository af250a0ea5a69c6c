-- Events: the durable log of what changed, for whoever must miss nothing.
--
-- Owns: knowledge_events, its triggers, knowledge_events_since and knowledge_events_cursor, its retention.
--
-- Invariants
--   * A change and its event are one transaction: triggers on items (and so on everything that has a companion),
--     sessions, relationships and validation results write it. Counters write none.
--   * An event says what happened to what, never what it says: ids, type, status, project. Who may see it is recorded
--     when it is written: `members` of the workspace; `owner`: the owner of what changed, and maintainers; `others`:
--     members who are neither. An item that becomes visible to the workspace has a complete event then; one that stops
--     being so a bare one for the others.
--   * Reading after a cursor skips nothing, in whatever order transactions commit. Ids follow the order of inserts,
--     not of commits, and are no order to read by. The log is read in the order of (era, transaction, id), and
--     only below the oldest transaction that still runs: whatever commits later is a transaction of a higher number,
--     and so comes after all that was handed out. What it costs: one transaction that writes and stays open (anywhere
--     in the cluster) holds the log back for everybody, though not the push.
--   * A cursor is the id of an event. Rows stay where they are as long as they are kept: erasing what an event is about
--     empties it. Retention takes them from the beginning; a cursor that is gone is told so (PT410).
--   * Transaction numbers are a cluster's own. A log that was restored into another cluster begins a new era, which
--     comes after the old one whatever the numbers say.
--   * Events are locked last, after everything that they are about.

set local lock_timeout = '5s';

create table private.event_clock (
  only_row boolean not null default true,
  era integer not null,
  system_identifier bigint not null,
  constraint event_clock_pkey primary key (only_row),
  constraint event_clock_only_row_check check (only_row)
);
alter table private.event_clock enable row level security;
comment on table private.event_clock is 'In which era of the log events are written now: one row.';
comment on column private.event_clock.only_row is 'True.';
comment on column private.event_clock.era is 'The present era.';
comment on column private.event_clock.system_identifier is 'The cluster whose transaction numbers it counts.';
revoke all on private.event_clock from public, anon, authenticated, service_role;
insert into private.event_clock (era, system_identifier) select 1, c.system_identifier from pg_control_system() c;

create table public.knowledge_events (
  id bigint not null generated always as identity,
  era integer not null,
  transaction_id xid8 not null default pg_current_xact_id(),
  workspace_id uuid,
  audience varchar(20) not null,
  owner_id uuid,
  subject varchar(20),
  what varchar(20) not null,
  subject_id uuid,
  knowledge_id uuid,
  related_id uuid,
  session_id uuid,
  project_context varchar(200),
  knowledge_type varchar(50),
  record_kind varchar(30),
  validation_status varchar(20),
  happened_at timestamptz not null default clock_timestamp(),
  constraint knowledge_events_pkey primary key (id),
  constraint knowledge_events_owner_id_fkey foreign key (owner_id) references auth.users (id) on delete set null,
  constraint knowledge_events_audience_check check (audience in ('members', 'owner', 'others')),
  constraint knowledge_events_subject_check check (subject in ('knowledge', 'session', 'relationship', 'validation_result')),
  constraint knowledge_events_what_check check (what in ('created', 'updated', 'shared', 'gone', 'erased')),
  constraint knowledge_events_erased_check check (
    what <> 'erased' or num_nonnulls(workspace_id, owner_id, subject, subject_id, knowledge_id, related_id, session_id,
      project_context, knowledge_type, record_kind, validation_status) = 0)
);
create index knowledge_events_workspace_id_idx on public.knowledge_events (workspace_id, era, transaction_id, id);
-- For the log as a whole. An expression, so that it is never taken for reading one workspace's part: the planner guesses
-- a comparison of rows by the first column, of which there is one value, and would read what everybody wrote.
create index knowledge_events_order_idx on public.knowledge_events ((era + 0), transaction_id, id);
create index knowledge_events_subject_id_idx on public.knowledge_events (subject_id);
create index knowledge_events_owner_id_idx on public.knowledge_events (owner_id) where owner_id is not null;

alter table public.knowledge_events enable row level security;
comment on table public.knowledge_events is 'What changed, in the order in which knowledge_events_since hands it out. Written by triggers, changed by erasure alone.';
comment on column public.knowledge_events.id is 'The event, and a cursor: where to go on reading.';
comment on column public.knowledge_events.era is 'Which cluster''s transactions: a restored log begins a new era.';
comment on column public.knowledge_events.transaction_id is 'The transaction that wrote it.';
comment on column public.knowledge_events.workspace_id is 'The workspace; null once it is erased.';
comment on column public.knowledge_events.audience is 'Who may see it: members, owner (and maintainers), or others (members who are neither).';
comment on column public.knowledge_events.owner_id is 'Whose thing it is about, where the audience depends on that.';
comment on column public.knowledge_events.subject is 'Of what kind the thing is: knowledge, session, relationship or validation_result.';
comment on column public.knowledge_events.what is 'created, updated, shared (it became visible to the workspace), gone (it is no longer visible, or no longer there), or erased (an event of which nothing is left).';
comment on column public.knowledge_events.subject_id is 'The thing: an item, session, relationship or validation result.';
comment on column public.knowledge_events.knowledge_id is 'The item; of a relationship its source.';
comment on column public.knowledge_events.related_id is 'Of a relationship its target, of a validation result its test.';
comment on column public.knowledge_events.session_id is 'The session in which it came to be.';
comment on column public.knowledge_events.project_context is 'Its project.';
comment on column public.knowledge_events.knowledge_type is 'Of an item its type, of a relationship its type.';
comment on column public.knowledge_events.record_kind is 'Of a companion item what it is rendered from: gotcha, command, interaction_pattern, insight or decision.';
comment on column public.knowledge_events.validation_status is 'Of an item its status, of a relationship its status.';
comment on column public.knowledge_events.happened_at is 'When.';

revoke all on public.knowledge_events from public, anon, authenticated, service_role;
revoke all on sequence public.knowledge_events_id_seq from public, anon, authenticated, service_role;
grant select on public.knowledge_events to authenticated, service_role;

create policy knowledge_events_select_audience on public.knowledge_events for select to authenticated
  using (
    workspace_id = any (array(select private.my_workspaces()))
    and case audience
      when 'members' then true
      when 'owner' then owner_id = (select auth.uid())
        or workspace_id = any (array(select private.maintained_workspaces()))
      else owner_id is distinct from (select auth.uid())
        and workspace_id <> all (array(select private.maintained_workspaces()))
    end);
comment on policy knowledge_events_select_audience on public.knowledge_events is
  'A member of the workspace sees the events whose recorded audience the member belongs to.';

-- -- writing ---------------------------------------------------------------------------------------------------

-- definer because nobody writes the clock directly. It tells and changes nothing of anybody's.
create function private.event_era()
returns integer
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_cluster bigint := (select c.system_identifier from pg_control_system() c);
  v_era integer := (select c.era from private.event_clock c where c.system_identifier = v_cluster);
begin
  if v_era is null then
    insert into private.event_clock as c (era, system_identifier) values (1, v_cluster)
    on conflict on constraint event_clock_pkey do update
      set era = c.era + 1, system_identifier = excluded.system_identifier
      where c.system_identifier <> excluded.system_identifier;
    select c.era into strict v_era from private.event_clock c;
  end if;
  return v_era;
end
$$;
comment on function private.event_era() is 'The era to write events in; begins a new one where the log has come into another cluster.';

create function private.is_shared(validation_status text, validated_at timestamptz)
returns boolean
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$ select validation_status in ('validated', 'needs_update') or (validation_status = 'deprecated' and validated_at is not null) $$;
comment on function private.is_shared(text, timestamptz) is 'Whether an item of this status is visible to its whole workspace: the visibility rule''s part that depends on nobody.';

-- definer because nobody writes events directly.
create function private.note_recorded_items()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_era integer := private.event_era();
begin
  insert into public.knowledge_events (era, workspace_id, audience, owner_id, subject, what, subject_id, knowledge_id,
    session_id, project_context, knowledge_type, validation_status)
  select v_era, i.workspace_id, case when s.is_shared then 'members' else 'owner' end,
         case when not s.is_shared then i.owner_id end, 'knowledge', 'created', i.id, i.id, i.created_in_session,
         i.project_context, i.knowledge_type, i.validation_status
    from written i
    cross join lateral (select private.is_shared(i.validation_status, i.validated_at)) s (is_shared)
   order by i.session_position, i.id;
  return null;
end
$$;
comment on function private.note_recorded_items() is 'Trigger: one event for each new item.';
create trigger knowledge_items_write_events_inserted after insert on public.knowledge_items
  referencing new table as written
  for each statement execute function private.note_recorded_items();

-- definer for the same reason.
create function private.note_changed_item()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_was boolean := private.is_shared(old.validation_status, old.validated_at);
  v_is boolean := private.is_shared(new.validation_status, new.validated_at);
  v_era integer := private.event_era();
begin
  if v_was and not v_is then
    insert into public.knowledge_events (era, workspace_id, audience, owner_id, subject, what, subject_id, knowledge_id)
    values (v_era, new.workspace_id, 'others', new.owner_id, 'knowledge', 'gone', new.id, new.id);
  end if;
  insert into public.knowledge_events (era, workspace_id, audience, owner_id, subject, what, subject_id, knowledge_id,
    session_id, project_context, knowledge_type, record_kind, validation_status)
  values (v_era, new.workspace_id, case when v_is then 'members' else 'owner' end,
    case when not v_is then new.owner_id end, 'knowledge', case when v_is and not v_was then 'shared' else 'updated' end,
    new.id, new.id, new.created_in_session, new.project_context, new.knowledge_type,
    (select c.kind from private.companions c where c.knowledge_id = new.id), new.validation_status);
  return null;
end
$$;
comment on function private.note_changed_item() is 'Trigger: one event for a change of an item, and before it a bare one for those who see it no more.';
-- Beside the columns that matter those whose change can change the status by way of knowledge_items_prepare.
create trigger knowledge_items_write_events_updated
  after update of title, content, knowledge_type, category, subcategory, context_data, importance_score,
    retrieval_triggers, project_context, valid_from, valid_to, validation_status, superseded_by, text_search_config
  on public.knowledge_items
  for each row
  when ((old.title, old.content, old.knowledge_type, old.category, old.subcategory, old.context_data,
         old.importance_score, old.retrieval_triggers, old.project_context, old.valid_from, old.valid_to,
         old.validation_status, old.validated_at, old.superseded_by, old.text_search_config)
        is distinct from
        (new.title, new.content, new.knowledge_type, new.category, new.subcategory, new.context_data,
         new.importance_score, new.retrieval_triggers, new.project_context, new.valid_from, new.valid_to,
         new.validation_status, new.validated_at, new.superseded_by, new.text_search_config))
  execute function private.note_changed_item();

-- definer for the same reason. An item comes before the companion that says what it is rendered from.
create function private.name_record_in_events()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  update public.knowledge_events e set record_kind = new.kind
   where e.subject_id = new.knowledge_id and e.subject = 'knowledge' and e.what <> 'gone';
  return null;
end
$$;
comment on function private.name_record_in_events() is 'Trigger: says in the event of a new companion item what it is rendered from.';
create trigger companions_name_record_in_events after insert on private.companions
  for each row execute function private.name_record_in_events();

create function private.empty_events(subject_ids uuid[])
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  update public.knowledge_events e
     set what = 'erased', workspace_id = null, owner_id = null, subject = null, subject_id = null, knowledge_id = null,
         related_id = null, session_id = null, project_context = null, knowledge_type = null, record_kind = null,
         validation_status = null
   where e.subject_id = any (empty_events.subject_ids)
$$;
comment on function private.empty_events(uuid[]) is 'Empties the events about things that are erased; the rows stay, for they are cursors.';

-- definer for the same reason.
create function private.note_erased_items()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_era integer := private.event_era();
begin
  perform private.empty_events(array(select e.id from erased e));
  -- Where the workspace goes too, nobody is left to tell.
  insert into public.knowledge_events (era, workspace_id, audience, owner_id, subject, what, subject_id, knowledge_id)
  select v_era, e.workspace_id,
         case when private.is_shared(e.validation_status, e.validated_at) then 'members' else 'owner' end,
         case when not private.is_shared(e.validation_status, e.validated_at) then u.id end,
         'knowledge', 'gone', e.id, e.id
    from erased e
    join public.workspaces w on w.id = e.workspace_id
    left join auth.users u on u.id = e.owner_id
   order by e.id;
  return null;
end
$$;
comment on function private.note_erased_items() is 'Trigger: empties the events of erased items, and leaves a bare one for those who saw them.';
create trigger knowledge_items_write_events_deleted after delete on public.knowledge_items
  referencing old table as erased
  for each statement execute function private.note_erased_items();

-- definer for the same reason.
create function private.note_started_sessions()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_era integer := private.event_era();
begin
  insert into public.knowledge_events (era, workspace_id, audience, owner_id, subject, what, subject_id, session_id,
    project_context)
  select v_era, s.workspace_id, 'owner', s.owner_id, 'session', 'created', s.id, s.id, s.project_context
    from written s
   order by s.id;
  return null;
end
$$;
comment on function private.note_started_sessions() is 'Trigger: one event for each new session.';
create trigger ai_sessions_write_events_inserted after insert on public.ai_sessions
  referencing new table as written
  for each statement execute function private.note_started_sessions();

-- definer for the same reason.
create function private.note_changed_session()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  insert into public.knowledge_events (era, workspace_id, audience, owner_id, subject, what, subject_id, session_id,
    project_context)
  values (private.event_era(), new.workspace_id, 'owner', new.owner_id, 'session', 'updated', new.id, new.id,
    new.project_context);
  return null;
end
$$;
comment on function private.note_changed_session() is 'Trigger: one event when a session ends, is resumed, or is described anew.';
create trigger ai_sessions_write_events_updated
  after update of project_context, end_time, session_quality_score, session_metadata, user_feedback on public.ai_sessions
  for each row
  when ((old.project_context, old.end_time, old.session_quality_score, old.session_metadata, old.user_feedback)
        is distinct from
        (new.project_context, new.end_time, new.session_quality_score, new.session_metadata, new.user_feedback))
  execute function private.note_changed_session();

-- definer for the same reason.
create function private.note_erased_sessions()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_era integer := private.event_era();
begin
  perform private.empty_events(array(select e.id from erased e));
  insert into public.knowledge_events (era, workspace_id, audience, owner_id, subject, what, subject_id, session_id)
  select v_era, e.workspace_id, 'owner', u.id, 'session', 'gone', e.id, e.id
    from erased e
    join public.workspaces w on w.id = e.workspace_id
    left join auth.users u on u.id = e.owner_id
   order by e.id;
  return null;
end
$$;
comment on function private.note_erased_sessions() is 'Trigger: empties the events of sessions that are gone, and leaves a bare one.';
create trigger ai_sessions_write_events_deleted after delete on public.ai_sessions
  referencing old table as erased
  for each statement execute function private.note_erased_sessions();

create function private.relationship_owner(source_is_shared boolean, source_owner uuid, target_is_shared boolean, target_owner uuid)
returns uuid
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
  -- Whoever sees a relationship sees both items. Where both are hidden and have two owners, maintainers alone.
  select case when source_is_shared then case when not target_is_shared then target_owner end
              when target_is_shared or source_owner = target_owner then source_owner end
$$;
comment on function private.relationship_owner(boolean, uuid, boolean, uuid) is 'Which member sees an event about a relationship that is not for all members, beside maintainers; null: none.';

-- definer because nobody writes events directly.
create function private.note_relationships()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_era integer := private.event_era();
begin
  insert into public.knowledge_events (era, workspace_id, audience, owner_id, subject, what, subject_id, knowledge_id,
    related_id, session_id, knowledge_type, validation_status)
  select v_era, r.workspace_id, case when a.is_shared and b.is_shared then 'members' else 'owner' end,
         private.relationship_owner(a.is_shared, a.owner_id, b.is_shared, b.owner_id),
         'relationship', 'created', r.id, r.source_knowledge_id, r.target_knowledge_id,
         r.discovered_in_session, r.relationship_type, r.status
    from written r
    join (select k.id, k.owner_id, private.is_shared(k.validation_status, k.validated_at) from public.knowledge_items k)
      a (id, owner_id, is_shared) on a.id = r.source_knowledge_id
    join (select k.id, k.owner_id, private.is_shared(k.validation_status, k.validated_at) from public.knowledge_items k)
      b (id, owner_id, is_shared) on b.id = r.target_knowledge_id
   order by r.created_at, r.id;
  return null;
end
$$;
comment on function private.note_relationships() is 'Trigger: one event for each relationship that is stated or proposed.';
create trigger knowledge_relationships_write_events_inserted after insert on public.knowledge_relationships
  referencing new table as written
  for each statement execute function private.note_relationships();

-- definer for the same reason.
create function private.note_changed_relationship()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_era integer := private.event_era();
begin
  insert into public.knowledge_events (era, workspace_id, audience, owner_id, subject, what, subject_id, knowledge_id,
    related_id, session_id, knowledge_type, validation_status)
  select v_era, new.workspace_id, case when a.is_shared and b.is_shared then 'members' else 'owner' end,
         private.relationship_owner(a.is_shared, a.owner_id, b.is_shared, b.owner_id),
         'relationship', 'updated', new.id, new.source_knowledge_id, new.target_knowledge_id,
         new.discovered_in_session, new.relationship_type, new.status
    from (select k.owner_id, private.is_shared(k.validation_status, k.validated_at) from public.knowledge_items k
           where k.id = new.source_knowledge_id) a (owner_id, is_shared),
         (select k.owner_id, private.is_shared(k.validation_status, k.validated_at) from public.knowledge_items k
           where k.id = new.target_knowledge_id) b (owner_id, is_shared);
  return null;
end
$$;
comment on function private.note_changed_relationship() is 'Trigger: one event for a relationship that is decided or described anew.';
create trigger knowledge_relationships_write_events_updated
  after update of relationship_type, strength, status, relationship_context on public.knowledge_relationships
  for each row
  when ((old.relationship_type, old.strength, old.status, old.relationship_context)
        is distinct from (new.relationship_type, new.strength, new.status, new.relationship_context))
  execute function private.note_changed_relationship();

-- definer because nobody writes events directly.
create function private.note_erased_relationships()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_era integer := private.event_era();
begin
  perform private.empty_events(array(select e.id from erased e));
  -- Where it went with one of its items, that item's own event tells.
  insert into public.knowledge_events (era, workspace_id, audience, owner_id, subject, what, subject_id)
  select v_era, e.workspace_id, case when a.is_shared and b.is_shared then 'members' else 'owner' end,
         private.relationship_owner(a.is_shared, a.owner_id, b.is_shared, b.owner_id),
         'relationship', 'gone', e.id
    from erased e
    join public.workspaces w on w.id = e.workspace_id
    join (select k.id, k.owner_id, private.is_shared(k.validation_status, k.validated_at) from public.knowledge_items k)
      a (id, owner_id, is_shared) on a.id = e.source_knowledge_id
    join (select k.id, k.owner_id, private.is_shared(k.validation_status, k.validated_at) from public.knowledge_items k)
      b (id, owner_id, is_shared) on b.id = e.target_knowledge_id
   order by e.id;
  return null;
end
$$;
comment on function private.note_erased_relationships() is 'Trigger: empties the events of removed relationships, and leaves a bare one for those who saw them.';
create trigger knowledge_relationships_write_events_deleted after delete on public.knowledge_relationships
  referencing old table as erased
  for each statement execute function private.note_erased_relationships();

-- definer for the same reason.
create function private.note_validation_results()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_era integer := private.event_era();
begin
  insert into public.knowledge_events (era, workspace_id, audience, subject, what, subject_id, related_id, session_id)
  select v_era, r.workspace_id, 'members', 'validation_result', 'created', r.id, r.test_id, r.session_id
    from written r
   order by r.test_executed_at, r.id;
  return null;
end
$$;
comment on function private.note_validation_results() is 'Trigger: one event for each result of a validation test.';
create trigger validation_test_results_write_events_inserted after insert on public.validation_test_results
  referencing new table as written
  for each statement execute function private.note_validation_results();

-- definer for the same reason.
create function private.note_erased_validation_results()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_era integer := private.event_era();
begin
  perform private.empty_events(array(select e.id from erased e));
  insert into public.knowledge_events (era, workspace_id, audience, subject, what, subject_id)
  select v_era, e.workspace_id, 'members', 'validation_result', 'gone', e.id
    from erased e
    join public.workspaces w on w.id = e.workspace_id
   order by e.id;
  return null;
end
$$;
comment on function private.note_erased_validation_results() is 'Trigger: empties the events of results that went with their test, and leaves a bare one.';
create trigger validation_test_results_write_events_deleted after delete on public.validation_test_results
  referencing old table as erased
  for each statement execute function private.note_erased_validation_results();

-- definer for the same reason.
create function private.empty_events_of_workspaces()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  update public.knowledge_events e
     set what = 'erased', workspace_id = null, owner_id = null, subject = null, subject_id = null, knowledge_id = null,
         related_id = null, session_id = null, project_context = null, knowledge_type = null, record_kind = null,
         validation_status = null
   where e.workspace_id in (select d.id from erased d);
  return null;
end
$$;
comment on function private.empty_events_of_workspaces() is 'Trigger: empties the events of deleted workspaces.';
create trigger workspaces_empty_events after delete on public.workspaces
  referencing old table as erased
  for each statement execute function private.empty_events_of_workspaces();

-- -- reading ---------------------------------------------------------------------------------------------------

create type private.event_position as (era integer, transaction_id xid8, id bigint);
comment on type private.event_position is 'A place in the log.';

-- definer because a cursor may be an event that its holder may no longer see. It tells no more than that an event of
-- this number is kept.
create function private.event_position(event_id bigint)
returns private.event_position
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
  select row(e.era, e.transaction_id, e.id)::private.event_position
    from public.knowledge_events e where e.id = event_position.event_id
$$;
comment on function private.event_position(bigint) is 'The place of an event in the log, or null when it is not kept.';

-- definer because the clock is nobody's to read.
create function private.settled_era()
returns integer
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
  -- Until the first event after a restore, all of the log is of the past.
  select case when c.system_identifier = (select s.system_identifier from pg_control_system() s)
           then c.era - 1 else c.era end
    from private.event_clock c
$$;
comment on function private.settled_era() is 'The last era that is over: no transaction that still runs can add to it.';

create type public.knowledge_event as (
  event_id bigint, subject text, what text, subject_id uuid, knowledge_id uuid, related_id uuid, session_id uuid,
  workspace_id uuid, project_context text, knowledge_type text, record_kind text, validation_status text,
  happened_at timestamptz
);
comment on type public.knowledge_event is 'An event as knowledge_events_since hands it out.';

create function public.knowledge_events_since(
  after_event bigint default null, max_events integer default 100, project_context text default null,
  types text[] default null, workspace_id uuid default null
)
returns setof public.knowledge_event
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_workspaces uuid[] := array(select w.id from public.workspaces w);
  v_after private.event_position;
  v_oldest xid8 := pg_snapshot_xmin(pg_current_snapshot());
  v_settled integer := coalesce(private.settled_era(), 0);
begin
  if max_events is null or max_events not between 1 and 1000 then
    perform private.fail('PT400', 'max_events is between 1 and 1000');
  end if;
  if knowledge_events_since.workspace_id is not null then
    if knowledge_events_since.workspace_id <> all (v_workspaces) then
      perform private.fail('PT403', 'workspace_id does not name a workspace of yours',
        'my_workspaces lists the workspaces that you are a member of');
    end if;
    v_workspaces := array[knowledge_events_since.workspace_id];
  end if;
  v_after := private.event_position(coalesce(after_event, 0));
  if v_after.id is null then
    if after_event > 0 then
      perform private.fail('PT410', format('event %s is not in the log any more', after_event),
        'read what there is anew, then go on from knowledge_events_cursor');
    end if;
    v_after := row(0, '0', 0)::private.event_position;
  end if;
  -- Each workspace's part of the log is read in order and no further than needed, however much others write.
  return query
    select e.id, e.subject::text, e.what::text, e.subject_id, e.knowledge_id, e.related_id, e.session_id,
           e.workspace_id, e.project_context::text, e.knowledge_type::text, e.record_kind::text,
           e.validation_status::text, e.happened_at
      from unnest(v_workspaces) w (id)
      cross join lateral (
        select * from public.knowledge_events k
         where k.workspace_id = w.id
           and (k.era, k.transaction_id, k.id) > (v_after.era, v_after.transaction_id, v_after.id)
           and (k.era <= v_settled or k.transaction_id < v_oldest)
           -- What is gone says no more of itself, and is told to all who may have heard of it.
           and (types is null or k.subject::text = any (types) or k.knowledge_type::text = any (types)
                or k.record_kind::text = any (types) or (k.what = 'gone' and k.subject = 'knowledge'))
           and (knowledge_events_since.project_context is null
                or k.project_context = knowledge_events_since.project_context or k.what = 'gone')
         order by k.era, k.transaction_id, k.id
         limit knowledge_events_since.max_events
      ) e
     order by e.era, e.transaction_id, e.id
     limit knowledge_events_since.max_events;
end
$$;
comment on function public.knowledge_events_since(bigint, integer, text, text[], uuid) is
  'What happened after an event (null or 0: since the log begins), in an order in which nothing that commits later comes before. At most max_events (up to 1000); fewer mean that there are no more just now. types: subjects (knowledge, session, relationship, validation_result), knowledge types or kinds of record; what is gone passes every filter. A cursor that is not kept any more fails with PT410.';

-- definer because the last event may be one that the caller may not see. It tells only its number.
create function private.last_settled_event()
returns bigint
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
  select e.id from public.knowledge_events e
   where e.era <= coalesce(private.settled_era(), 0) or e.transaction_id < pg_snapshot_xmin(pg_current_snapshot())
   order by e.era + 0 desc, e.transaction_id desc, e.id desc limit 1
$$;
comment on function private.last_settled_event() is 'The last event that knowledge_events_since would hand out to somebody, or null.';

create function public.knowledge_events_cursor()
returns table (event_id bigint)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$ select coalesce(private.last_settled_event(), 0) $$;
comment on function public.knowledge_events_cursor() is
  'The cursor of now: where to begin for what comes from here on, and how far a reader has come who was handed everything.';

-- definer because nobody deletes events directly.
create function private.prune_knowledge_events(keep interval default interval '30 days')
returns bigint
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_last bigint;
  v_until private.event_position;
  v_pruned bigint;
begin
  if not private.is_trusted() then
    perform private.fail('PT403', 'only service_role prunes the log');
  end if;
  if keep is null or keep < interval '0' then
    perform private.fail('PT400', 'keep is how long events are kept');
  end if;
  -- From the beginning up to the first event that is young enough: a gap would lie after somebody's cursor. The last
  -- event stays, so that whoever has read everything keeps a cursor.
  v_last := private.last_settled_event();
  select e.era, e.transaction_id, e.id into v_until
    from public.knowledge_events e
   where e.happened_at >= now() - keep or e.id = v_last
   order by e.era + 0, e.transaction_id, e.id
   limit 1;
  delete from public.knowledge_events e
   where (e.era + 0, e.transaction_id, e.id) < (v_until.era, v_until.transaction_id, v_until.id);
  get diagnostics v_pruned = row_count;
  return v_pruned;
end
$$;
comment on function private.prune_knowledge_events(interval) is
  'Deletes the events older than this from the beginning of the log, and says how many. Cursors into what is gone are refused with PT410 from then on.';

create function private.maintain_event_log()
returns text
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$ select format('%s events older than 30 days deleted', private.prune_knowledge_events()) $$;
comment on function private.maintain_event_log() is 'Task: deletes old events. Run by run_maintenance.';

revoke execute on function
  private.event_era(), private.is_shared(text, timestamptz), private.relationship_owner(boolean, uuid, boolean, uuid),
  private.note_recorded_items(), private.note_changed_item(),
  private.name_record_in_events(), private.empty_events(uuid[]), private.note_erased_items(),
  private.note_started_sessions(), private.note_changed_session(), private.note_erased_sessions(),
  private.note_relationships(), private.note_erased_relationships(),
  private.note_validation_results(), private.note_erased_validation_results(), private.empty_events_of_workspaces(),
  private.event_position(bigint), private.settled_era(), private.last_settled_event(),
  private.prune_knowledge_events(interval), private.maintain_event_log(), private.note_changed_relationship(),
  public.knowledge_events_since(bigint, integer, text, text[], uuid), public.knowledge_events_cursor()
  from public, anon, authenticated, service_role;
grant execute on function
  private.event_position(bigint), private.settled_era(), private.last_settled_event(),
  public.knowledge_events_since(bigint, integer, text, text[], uuid), public.knowledge_events_cursor()
  to authenticated, service_role;
grant execute on function private.prune_knowledge_events(interval) to service_role;
