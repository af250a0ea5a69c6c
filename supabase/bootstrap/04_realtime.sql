-- Realtime: what its service creates in a tenant's database, for a stack whose migrations run without it.
--
-- On the image these objects come from Realtime's own migrations. The signatures and the behaviour that callers can
-- see are upstream's: `send` never fails its caller, it warns. realtime.messages has row-level security from the
-- start; policies on it decide who may join a private channel.

create table if not exists realtime.messages (
  topic text not null,
  extension text not null,
  payload jsonb,
  event text,
  private boolean default false,
  updated_at timestamp without time zone not null default now(),
  inserted_at timestamp without time zone not null default now(),
  id uuid not null default gen_random_uuid(),
  constraint messages_pkey primary key (id, inserted_at)
) partition by range (inserted_at);
alter table realtime.messages enable row level security;
comment on table realtime.messages is
  'Broadcast messages on their way to channels, kept for three days. Policies on it say who may join what.';

-- Upstream loses a message whose day has no partition. The default one catches it.
create table if not exists realtime.messages_default partition of realtime.messages default;

-- One partition a day, from yesterday to three days ahead, as Realtime keeps them; older days go.
do $$
declare
  v_day date;
  v_partition text;
begin
  for v_day in select generate_series(current_date - 1, current_date + 3, interval '1 day')::date loop
    v_partition := 'messages_' || to_char(v_day, 'YYYY_MM_DD');
    if to_regclass('realtime.' || v_partition) is null then
      begin
        execute format(
          'create table realtime.%I partition of realtime.messages for values from (%L) to (%L)',
          v_partition, v_day::timestamp, (v_day + 1)::timestamp);
        execute format('alter table realtime.%I owner to supabase_realtime_admin', v_partition);
      exception when check_violation then
        null; -- that day's first messages are in the default partition already: so are the rest
      end;
    end if;
  end loop;
  for v_partition in
    select c.relname
    from pg_catalog.pg_inherits i
    join pg_catalog.pg_class c on c.oid = i.inhrelid
    where i.inhparent = 'realtime.messages'::regclass
      and c.relname ~ '^messages_\d{4}_\d\d_\d\d$'
      and to_date(substr(c.relname, 10), 'YYYY_MM_DD') < current_date - 3
  loop
    execute format('drop table realtime.%I', v_partition);
  end loop;
  delete from realtime.messages_default where inserted_at < current_date - 3;
end
$$;

alter table realtime.messages owner to supabase_realtime_admin;
alter table realtime.messages_default owner to supabase_realtime_admin;

create or replace function realtime.topic()
returns text
language sql
stable
as $$
  select nullif(current_setting('realtime.topic', true), '')::text
$$;
comment on function realtime.topic() is 'The channel that is being joined or sent to, for policies on realtime.messages.';

create or replace function realtime.send(payload jsonb, event text, topic text, private boolean default true)
returns void
language plpgsql
as $$
declare
  v_id uuid := gen_random_uuid();
begin
  perform set_config('realtime.topic', send.topic, true);
  insert into realtime.messages (id, payload, event, topic, private, extension)
  values (
    v_id,
    case when send.payload ? 'id' then send.payload else jsonb_set(send.payload, '{id}', to_jsonb(v_id)) end,
    send.event, send.topic, send.private, 'broadcast');
exception when others then
  -- As upstream: a broadcast is a hint, and must not undo the write it tells of.
  raise warning 'ErrorSendingBroadcastMessage: %', sqlerrm;
end
$$;
comment on function realtime.send(jsonb, text, text, boolean) is
  'Sends a message to a channel. Errors become warnings.';

create or replace function realtime.broadcast_changes(
  topic_name text, event_name text, operation text, table_name text, table_schema text,
  new record, old record, level text default 'ROW')
returns void
language plpgsql
as $$
begin
  if broadcast_changes.level = 'STATEMENT' then
    raise exception 'function can only be triggered for each row, not for each statement';
  end if;
  if broadcast_changes.operation not in ('INSERT', 'UPDATE', 'DELETE') then
    raise exception 'Unexpected operation type: %', broadcast_changes.operation;
  end if;
  perform realtime.send(
    jsonb_build_object(
      'old_record', broadcast_changes.old, 'record', broadcast_changes.new,
      'operation', broadcast_changes.operation,
      'table', broadcast_changes.table_name, 'schema', broadcast_changes.table_schema),
    broadcast_changes.event_name,
    broadcast_changes.topic_name);
exception when others then
  raise exception 'Failed to process the row: %', sqlerrm;
end
$$;
comment on function realtime.broadcast_changes(text, text, text, text, text, record, record, text) is
  'Sends a row''s change to a channel; for row triggers.';

-- The service reads the table's changes from the WAL; the embedded gateway is told of each message's commit instead.
create or replace function realtime.notify_message()
returns trigger
language plpgsql
as $$
begin
  perform pg_notify('realtime_messages', new.id::text);
  return null;
end
$$;
comment on function realtime.notify_message() is 'Trigger: tells the embedded gateway of a message, by its id.';
create or replace trigger messages_notify after insert on realtime.messages
  for each row execute function realtime.notify_message();

grant usage on schema realtime to postgres, anon, authenticated, service_role;
grant select, insert, update on realtime.messages to postgres, anon, authenticated, service_role;

-- What Realtime's postgres_changes reads. Empty, as in the image: tables are added to it by migrations.
do $$
begin
  if not exists (select from pg_catalog.pg_publication where pubname = 'supabase_realtime') then
    create publication supabase_realtime;
  end if;
  alter publication supabase_realtime owner to postgres;
end
$$;
