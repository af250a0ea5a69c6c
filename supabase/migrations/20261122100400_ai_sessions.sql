-- Sessions: one row per working session of an agent or a person.
--
-- Owns: ai_sessions with its monthly partitions, the uniqueness of session identifiers, start and end.
--
-- Invariants
--   * The id is a version 7 UUID made here from start_time, and the partitions are ranges of ids, one a month: the
--     id alone finds the partition, and foreign keys need one column. Callers can't supply an id.
--   * session_identifier is unique per workspace and owner. A partitioned table can't enforce that (a unique index
--     would need the partition key), so private.session_keys does, filled by an AFTER INSERT trigger.
--   * Partitions live in `private`: people and APIs use the parent.
--   * A row that finds no month's partition goes to the default one: a late maintenance run never refuses a session.
--   * Times, duration, counters and quality are computed, not typed in. A caller who gives a score of its own has the
--     last word: session_quality_score is the given one, else the computed one.

set local lock_timeout = '5s';

create table public.ai_sessions (
  id uuid not null default private.uuid_v7(now()),
  workspace_id uuid not null default private.default_workspace(),
  owner_id uuid not null default auth.uid(),
  session_identifier varchar(200) not null,
  project_context varchar(200),
  start_time timestamptz not null default now(),
  end_time timestamptz,
  session_duration interval generated always as (end_time - start_time) stored,
  knowledge_items_accessed integer not null default 0,
  knowledge_items_created integer not null default 0,
  breakthrough_moments integer not null default 0,
  given_quality_score integer,
  computed_quality_score integer,
  session_quality_score integer generated always as (coalesce(given_quality_score, computed_quality_score)) stored,
  session_metadata jsonb,
  user_feedback text,
  constraint ai_sessions_pkey primary key (id),
  constraint ai_sessions_workspace_id_fkey foreign key (workspace_id)
    references public.workspaces (id) on delete cascade,
  constraint ai_sessions_owner_id_fkey foreign key (owner_id) references auth.users (id) on delete cascade,
  constraint ai_sessions_id_check check (
    id >= private.uuid_floor(start_time) and id < private.uuid_floor(start_time + interval '1 millisecond')),
  constraint ai_sessions_session_identifier_check check (btrim(session_identifier) <> ''),
  constraint ai_sessions_end_time_check check (end_time >= start_time),
  constraint ai_sessions_counters_check check (
    least(knowledge_items_accessed, knowledge_items_created, breakthrough_moments) >= 0),
  constraint ai_sessions_session_quality_score_check check (
    given_quality_score between 1 and 100 and computed_quality_score between 1 and 100)
) partition by range (id);

create index ai_sessions_workspace_id_idx on public.ai_sessions (workspace_id, start_time desc);
create index ai_sessions_owner_id_idx on public.ai_sessions (owner_id, start_time desc);
create index ai_sessions_project_context_idx on public.ai_sessions (workspace_id, project_context);
create index ai_sessions_session_metadata_idx on public.ai_sessions using gin (session_metadata jsonb_path_ops);

alter table public.ai_sessions enable row level security;
comment on table public.ai_sessions is 'Working sessions of agents and people, partitioned by month.';
comment on column public.ai_sessions.id is 'Version 7 UUID made from start_time; what x-session-id names.';
comment on column public.ai_sessions.workspace_id is 'The workspace it works in.';
comment on column public.ai_sessions.owner_id is 'Whose session it is.';
comment on column public.ai_sessions.session_identifier is 'The caller''s own name for it, unique per workspace and owner; the same one resumes.';
comment on column public.ai_sessions.project_context is 'The project it is about; items recorded in it inherit that.';
comment on column public.ai_sessions.start_time is 'When it began.';
comment on column public.ai_sessions.end_time is 'When it ended; null while it runs.';
comment on column public.ai_sessions.session_duration is 'end_time minus start_time, computed.';
comment on column public.ai_sessions.knowledge_items_accessed is 'How many different items it recalled.';
comment on column public.ai_sessions.knowledge_items_created is 'How many items it recorded.';
comment on column public.ai_sessions.breakthrough_moments is 'How many items it had a breakthrough about: marked as one, a problem solved that had resisted, a turn in a decision. Counted when it is marked and when the session ends.';
comment on column public.ai_sessions.given_quality_score is '1 to 100: how well it went, as its owner says; null: nothing was said.';
comment on column public.ai_sessions.computed_quality_score is '1 to 100: how well it went, by what it did (see private.session_quality); null until it has ended, or when it did nothing.';
comment on column public.ai_sessions.session_quality_score is '1 to 100: how well it went. The given score, else the computed one.';
comment on column public.ai_sessions.session_metadata is 'What the agent wants to keep with it; the key summary holds the closing summary.';
comment on column public.ai_sessions.user_feedback is 'What the user said of it.';

revoke all on public.ai_sessions from public, anon, authenticated, service_role;
grant select on public.ai_sessions to authenticated;
grant insert (session_identifier, project_context, session_metadata, workspace_id) on public.ai_sessions to authenticated;
grant update (project_context, session_metadata, user_feedback, given_quality_score) on public.ai_sessions
  to authenticated;
grant select, insert, update, delete on public.ai_sessions to service_role;

create policy ai_sessions_select_own on public.ai_sessions for select to authenticated
  using (workspace_id = any (array(select private.my_workspaces()))
         and (owner_id = (select auth.uid())
              or workspace_id = any (array(select private.maintained_workspaces()))));
comment on policy ai_sessions_select_own on public.ai_sessions is 'Owners see their sessions, maintainers those of their workspaces.';
create policy ai_sessions_insert_own on public.ai_sessions for insert to authenticated
  with check (owner_id = (select auth.uid()) and workspace_id = any (array(select private.my_workspaces())));
comment on policy ai_sessions_insert_own on public.ai_sessions is 'A member starts sessions in the member''s own name.';
create policy ai_sessions_update_own on public.ai_sessions for update to authenticated
  using (owner_id = (select auth.uid()) and workspace_id = any (array(select private.my_workspaces())))
  with check (owner_id = (select auth.uid()) and workspace_id = any (array(select private.my_workspaces())));
comment on policy ai_sessions_update_own on public.ai_sessions is 'Owners edit their sessions.';

create table private.ai_sessions_default partition of public.ai_sessions default;
alter table private.ai_sessions_default enable row level security;
comment on table private.ai_sessions_default is 'Sessions of months whose partition did not exist when they began.';
revoke all on private.ai_sessions_default from public, anon, authenticated, service_role;

create function private.month_start(month text)
returns timestamptz
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  if month is null or month !~ '^[0-9]{4}-(0[1-9]|1[0-2])$' or month < '1970-01' then
    perform private.fail('PT400', format('%L is no month', month), 'write it like 2026-01');
  end if;
  return make_timestamptz(left(month, 4)::integer, right(month, 2)::integer, 1, 0, 0, 0, 'UTC');
end
$$;
comment on function private.month_start(text) is 'When a month, written like 2026-01, begins (UTC).';

create function private.month_end(month text)
returns timestamptz
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$ select (private.month_start(month) at time zone 'UTC' + interval '1 month') at time zone 'UTC' $$;
comment on function private.month_end(text) is 'When the month after a month, written like 2026-01, begins (UTC).';

create function private.session_partition(month text)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$ select 'ai_sessions_' || replace(month, '-', '') $$;
comment on function private.session_partition(text) is 'The name of the partition of a month, written like 2026-01.';

create function private.make_session_partition(month text)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_name text := private.session_partition(make_session_partition.month);
  v_begins timestamptz := private.month_start(make_session_partition.month);
  v_ends timestamptz := private.month_end(make_session_partition.month);
  v_waiting boolean;
begin
  if to_regclass('private.' || v_name) is not null then
    return false;
  end if;
  execute format('create table private.%I (like public.ai_sessions including defaults including constraints including generated)', v_name);
  execute format('alter table private.%I enable row level security', v_name);
  execute format('revoke all on private.%I from public, anon, authenticated, service_role', v_name);
  -- start_time follows from the id: this lets a literal start_time prune partitions too.
  execute format('alter table private.%I add constraint %I check (start_time >= %L and start_time < %L)',
    v_name, v_name || '_start_time_check', v_begins, v_ends);
  execute format('comment on table private.%I is %L', v_name,
    'Sessions that began in ' || make_session_partition.month || ' (UTC).');
  -- Sessions that began before their partition was there wait in the default one; while they do, attaching is refused.
  v_waiting := exists (select from private.ai_sessions_default d
                        where d.id >= private.uuid_floor(v_begins) and d.id < private.uuid_floor(v_ends));
  if v_waiting then
    perform private.move_sessions_out(make_session_partition.month);
  end if;
  execute format('alter table public.ai_sessions attach partition private.%I for values from (%L) to (%L)',
    v_name, private.uuid_floor(v_begins), private.uuid_floor(v_ends));
  if v_waiting then
    perform private.move_sessions_in(make_session_partition.month);
  end if;
  return true;
end
$$;
comment on function private.make_session_partition(text) is
  'Makes the partition of a month, written like 2026-01, and says whether it was missing. Sessions of the month that are in the default partition move over.';

create function public.create_session_partitions(months_ahead integer default 3)
returns table (partition_name text)
language plpgsql
volatile
-- definer because a partition must belong to the owner of the parent.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_month text;
begin
  if not private.is_trusted() then
    perform private.fail('PT403', 'only service_role makes partitions');
  end if;
  if months_ahead is null or months_ahead not between 0 and 120 then
    perform private.fail('PT400', 'months_ahead is between 0 and 120');
  end if;
  -- One run at a time; a second finds the work done.
  perform pg_advisory_xact_lock(hashtextextended('knowledge-persistence: session partitions', 0));
  for v_month in
    select to_char(date_trunc('month', now() at time zone 'UTC') + make_interval(months => n), 'YYYY-MM')
      from generate_series(0, months_ahead) n
  loop
    if private.make_session_partition(v_month) then
      partition_name := private.session_partition(v_month);
      return next;
    end if;
  end loop;
end
$$;
comment on function public.create_session_partitions(integer) is
  'Makes the partitions of ai_sessions for this month and so many months ahead that are missing, and names them. run_maintenance calls it. For service_role.';
revoke execute on function
  private.month_start(text), private.month_end(text), private.session_partition(text),
  private.make_session_partition(text), public.create_session_partitions(integer)
  from public, anon, authenticated, service_role;
grant execute on function public.create_session_partitions(integer) to service_role;
select public.create_session_partitions(3);

-- The key of a session that partitions can't hold, and the counter that orders what is recorded in it.
create table private.session_keys (
  workspace_id uuid not null,
  owner_id uuid not null,
  session_identifier varchar(200) not null,
  session_id uuid not null,
  last_position bigint not null default 0,
  resumed_at timestamptz,
  constraint session_keys_pkey primary key (session_id),
  constraint session_keys_identifier_key unique (workspace_id, owner_id, session_identifier),
  constraint session_keys_session_id_fkey foreign key (session_id) references public.ai_sessions (id) on delete cascade
);
alter table private.session_keys enable row level security;
comment on table private.session_keys is 'One row per session: keeps its identifier unique, counts what was recorded in it, and says when it was resumed.';
comment on column private.session_keys.workspace_id is 'As in ai_sessions.';
comment on column private.session_keys.owner_id is 'As in ai_sessions.';
comment on column private.session_keys.session_identifier is 'As in ai_sessions.';
comment on column private.session_keys.session_id is 'The session.';
comment on column private.session_keys.last_position is 'The last session_position given to an item.';
comment on column private.session_keys.resumed_at is 'When the session was last resumed.';
revoke all on private.session_keys from public, anon, authenticated, service_role;

-- definer because nobody writes session_keys directly.
create function private.keep_session_key()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  insert into private.session_keys (workspace_id, owner_id, session_identifier, session_id)
  values (new.workspace_id, new.owner_id, new.session_identifier, new.id);
  return null;
exception when unique_violation then
  perform private.fail('PT409', format('a session %L exists', new.session_identifier),
    'start_session resumes it');
  return null;
end
$$;
comment on function private.keep_session_key() is 'Trigger: claims a new session''s identifier.';
revoke execute on function private.keep_session_key() from public;
create trigger ai_sessions_keep_session_key after insert on public.ai_sessions
  for each row execute function private.keep_session_key();

-- definer because it reads and writes session_keys, after checking whose session it is.
create function private.reserve_session_positions(session_id uuid, how_many integer)
returns bigint
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
  update private.session_keys k set last_position = k.last_position + how_many
   where k.session_id = reserve_session_positions.session_id and how_many > 0
     and (private.is_trusted() or k.owner_id = auth.uid() and exists (
       select from public.workspace_members m where m.workspace_id = k.workspace_id and m.user_id = auth.uid()))
  returning k.last_position - how_many + 1
$$;
comment on function private.reserve_session_positions(uuid, integer) is
  'Takes so many positions in a session of the caller''s and returns the first; null when it is not the caller''s. Writers of one session queue here, so positions follow commit order.';

-- definer because identifiers are found through session_keys.
create function private.find_session(workspace_id uuid, session_identifier text)
returns uuid
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
  select k.session_id from private.session_keys k
   where k.workspace_id = find_session.workspace_id and k.owner_id = auth.uid()
     and k.session_identifier = find_session.session_identifier
$$;
comment on function private.find_session(uuid, text) is 'The caller''s session of this identifier in a workspace, or null.';

create type public.session_state as (
  session_id uuid, session_identifier text, workspace_id uuid, project_context text,
  start_time timestamptz, end_time timestamptz, resumed boolean
);
comment on type public.session_state is 'A session as start_session answers; resumed: it existed already.';

create type public.session_outcome as (
  session_id uuid, session_identifier text, project_context text, start_time timestamptz, end_time timestamptz,
  session_duration interval, knowledge_items_accessed integer, knowledge_items_created integer,
  breakthrough_moments integer, session_quality_score integer
);
comment on type public.session_outcome is 'A session as end_session answers: what it did.';

-- definer because end_time, breakthrough_moments and computed_quality_score are not the caller's to write.
create function private.set_session_end(session_id uuid, end_time timestamptz)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  if set_session_end.end_time is null then
    update private.session_keys k set resumed_at = clock_timestamp()
     where k.session_id = set_session_end.session_id and (private.is_trusted() or k.owner_id = auth.uid() and exists (
       select from public.workspace_members m where m.workspace_id = k.workspace_id and m.user_id = auth.uid()));
  end if;
  -- Counted after whoever is at work on it.
  perform from public.ai_sessions s
    where s.id = set_session_end.session_id and (private.is_trusted() or s.owner_id = auth.uid()) for no key update;
  update public.ai_sessions s
     -- Not before it began, since clocks can jump back, and not in the future, whoever calls this.
     set end_time = case when set_session_end.end_time is not null
           then coalesce(s.end_time, greatest(least(set_session_end.end_time, clock_timestamp()), s.start_time)) end,
         breakthrough_moments = o.breakthroughs,
         computed_quality_score = case when set_session_end.end_time is not null then o.quality end
    from private.session_outcome(set_session_end.session_id) o
   where s.id = set_session_end.session_id
     and (private.is_trusted() or s.owner_id = auth.uid() and exists (
       select from public.workspace_members m where m.workspace_id = s.workspace_id and m.user_id = auth.uid()))
     and (s.end_time is not null or set_session_end.end_time is not null);
end
$$;
comment on function private.set_session_end(uuid, timestamptz) is 'Ends (or with null reopens) a session of the caller''s, and works out what it was worth.';

create function public.start_session(
  session_identifier text default null, project_context text default null, session_metadata jsonb default null
)
returns setof public.session_state
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_user uuid := private.require_user();
  v_workspace uuid := private.default_workspace();
  v_identifier text := coalesce(btrim(start_session.session_identifier),
    to_char(now() at time zone 'UTC', 'YYYY-MM-DD"T"HH24MISS"Z"-') || left(gen_random_uuid()::text, 8));
  v_session uuid;
  v_resumed boolean;
  v_attempts integer := 0;
begin
  if v_identifier = '' then
    perform private.fail('PT400', 'session_identifier is blank', 'leave it out to have one made');
  end if;
  loop
    v_attempts := v_attempts + 1;
    if v_attempts > 10 then  -- a transaction that will never see it
      raise exception using errcode = '40001', message = 'could not serialize access: somebody else starts this session';
    end if;
    v_session := private.find_session(v_workspace, v_identifier);
    v_resumed := v_session is not null;
    if v_resumed then
      perform private.set_session_end(v_session, null);
      continue when not exists (select from public.ai_sessions s where s.id = v_session);  -- archived meanwhile
      update public.ai_sessions s
         set project_context = coalesce(start_session.project_context, s.project_context),
             session_metadata = case when start_session.session_metadata is null then s.session_metadata
               else coalesce(s.session_metadata, '{}') || start_session.session_metadata end
       where s.id = v_session
         and (start_session.project_context is not null or start_session.session_metadata is not null);
      exit;
    end if;
    begin
      insert into public.ai_sessions (workspace_id, session_identifier, project_context, session_metadata)
      values (v_workspace, v_identifier, start_session.project_context, start_session.session_metadata)
      returning id into v_session;
      exit;
    exception when sqlstate 'PT409' then
      null;  -- another connection started it between the look and the insert: resume that one
    end;
  end loop;
  return query
    select s.id, s.session_identifier::text, s.workspace_id, s.project_context::text, s.start_time, s.end_time, v_resumed
      from public.ai_sessions s where s.id = v_session;
end
$$;
comment on function public.start_session(text, text, jsonb) is
  'Starts a session, or resumes the caller''s session of the same identifier in the workspace (and reopens it if it had ended). Without an identifier one is made.';

create function public.end_session(
  session_identifier text default null, session_quality_score integer default null,
  user_feedback text default null, summary text default null
)
returns setof public.session_outcome
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_user uuid := private.require_user();
  v_session uuid;
begin
  if end_session.session_identifier is null then
    v_session := private.current_session();
    if v_session is null then
      perform private.fail('PT400', 'which session?', 'name its identifier, or send x-session-id');
    end if;
  else
    v_session := private.find_session(private.current_workspace(), btrim(end_session.session_identifier));
    if v_session is null then
      perform private.fail('PT404', format('no session %L of yours in this workspace', end_session.session_identifier),
        'start_session starts one');
    end if;
  end if;
  perform private.set_session_end(v_session, clock_timestamp());
  update public.ai_sessions s
     set given_quality_score = coalesce(end_session.session_quality_score, s.given_quality_score),
         user_feedback = coalesce(end_session.user_feedback, s.user_feedback),
         session_metadata = case when end_session.summary is null then s.session_metadata
           else coalesce(s.session_metadata, '{}') || jsonb_build_object('summary', end_session.summary) end
   where s.id = v_session
     and (end_session.session_quality_score is not null or end_session.user_feedback is not null
          or end_session.summary is not null);
  return query
    select s.id, s.session_identifier::text, s.project_context::text, s.start_time, s.end_time, s.session_duration,
           s.knowledge_items_accessed, s.knowledge_items_created, s.breakthrough_moments, s.session_quality_score
      from public.ai_sessions s where s.id = v_session;
end
$$;
comment on function public.end_session(text, integer, text, text) is
  'Ends a session of the caller''s (the current one when no identifier is given) and says what it did: how long it took, what it recorded, recalled and had breakthroughs about, and how well it went, computed unless a score is given. Ended again it stays ended when it was, and its score is computed anew.';

revoke execute on function
  private.reserve_session_positions(uuid, integer), private.find_session(uuid, text),
  private.set_session_end(uuid, timestamptz), public.start_session(text, text, jsonb),
  public.end_session(text, integer, text, text)
  from public, anon, authenticated, service_role;
grant execute on function
  private.reserve_session_positions(uuid, integer), private.find_session(uuid, text),
  private.set_session_end(uuid, timestamptz), public.start_session(text, text, jsonb),
  public.end_session(text, integer, text, text)
  to authenticated;
grant execute on function private.reserve_session_positions(uuid, integer) to service_role;
