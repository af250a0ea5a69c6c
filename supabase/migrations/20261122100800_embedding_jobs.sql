-- Embedding jobs: how vectors follow the text.
--
-- Owns: private.embedding_jobs, the worker's functions, the registration of models with their indexes.
--
-- Invariants
--   * A write never waits for a model: an item without a vector gets a job in the same transaction, and a
--     notification `knowledge_embeddings` wakes the worker at commit. Polling finds the job too.
--   * A vector is stored only for the text that it was made of: claim and store carry the text's hash, and what
--     changed meanwhile is answered as stale and stays a job.
--   * Several workers share the work (SKIP LOCKED). A claim is a lease; a worker that dies gives its jobs back when
--     the lease ends. A job that keeps failing is set aside, with its error, where it can be seen.
--   * What was claimed again and again without an answer may be what ends the workers: it is handed out alone, after
--     everything else, so that it takes no other text along, and is set aside in the end.
--   * An item has a second job while a switch to another model is under way: what is written then is found by both.

set local lock_timeout = '5s';

create table private.embedding_jobs (
  knowledge_id uuid not null,
  for_switch boolean not null default false,
  attempts integer not null default 0,
  available_at timestamptz not null default now(),
  last_error text,
  created_at timestamptz not null default now(),
  constraint embedding_jobs_pkey primary key (knowledge_id, for_switch),
  constraint embedding_jobs_knowledge_id_fkey foreign key (knowledge_id)
    references public.knowledge_items (id) on delete cascade
);
create index embedding_jobs_available_at_idx on private.embedding_jobs (for_switch, available_at);
alter table private.embedding_jobs enable row level security;
comment on table private.embedding_jobs is 'Items that wait for their vector.';
comment on column private.embedding_jobs.knowledge_id is 'The item.';
comment on column private.embedding_jobs.for_switch is 'False: it waits for a vector of the model that serves; true: of the one that is switched to.';
comment on column private.embedding_jobs.attempts is 'How often it was claimed.';
comment on column private.embedding_jobs.available_at is 'From when it may be claimed (again); infinity: set aside.';
comment on column private.embedding_jobs.last_error is 'Why the last attempt failed.';
comment on column private.embedding_jobs.created_at is 'Since when it waits.';
revoke all on private.embedding_jobs from public, anon, authenticated, service_role;
grant select on private.embedding_jobs to service_role;

-- definer because nobody writes jobs directly.
create function private.queue_embeddings()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_queued integer;
  v_next text := (select s.to_model from private.embedding_switches s where s.ended_at is null and s.swapped_at is null);
begin
  insert into private.embedding_jobs (knowledge_id, for_switch)
  select w.id, false from written w
   where w.content_embedding is null and private.model_of_workspace(w.workspace_id) is not null
  union all
  select w.id, true from written w join public.workspaces x on x.id = w.workspace_id
   where v_next is not null and x.embedding_model is null and w.embedding_model is distinct from v_next
   order by 1, 2
  on conflict (knowledge_id, for_switch) do update set available_at = now(), attempts = 0, last_error = null;
  get diagnostics v_queued = row_count;
  if v_queued > 0 then
    perform pg_notify('knowledge_embeddings', '');
  end if;
  return null;
end
$$;
comment on function private.queue_embeddings() is 'Trigger: makes a job for each new item without a vector, during a switch another for its vector to come, and wakes the worker.';
revoke execute on function private.queue_embeddings() from public;

create trigger knowledge_items_queue_inserted after insert on public.knowledge_items
  referencing new table as written
  for each statement execute function private.queue_embeddings();

-- definer for the same reason.
create function private.queue_reembedding()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_next text := (select s.to_model from private.embedding_switches s where s.ended_at is null and s.swapped_at is null);
begin
  insert into private.embedding_jobs (knowledge_id, for_switch)
  select new.id, false where private.model_of_workspace(new.workspace_id) is not null
  union all
  select new.id, true from public.workspaces w
   where w.id = new.workspace_id and w.embedding_model is null and v_next is not null
   order by 1, 2
  on conflict (knowledge_id, for_switch) do update set available_at = now(), attempts = 0, last_error = null;
  if found then
    perform pg_notify('knowledge_embeddings', '');
  end if;
  return null;
end
$$;
comment on function private.queue_reembedding() is 'Trigger: makes a job for an item whose text changed, and so lost its vector.';
revoke execute on function private.queue_reembedding() from public;
create trigger knowledge_items_queue_updated after update of title, content, content_embedding on public.knowledge_items
  for each row when (new.content_embedding is null and (old.content_embedding is not null or old.content_hash <> new.content_hash))
  execute function private.queue_reembedding();

-- definer for the same reason.
create function private.queue_workspace()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_model text;
  v_next text;
begin
  perform private.lock_models();
  v_model := coalesce(new.embedding_model, (select m.name from public.embedding_models m where m.is_default));
  v_next := (select s.to_model from private.embedding_switches s where s.ended_at is null and s.swapped_at is null);
  -- A switch is for those who chose no model.
  if new.embedding_model is not null then
    perform from private.embedding_jobs j join public.knowledge_items k on k.id = j.knowledge_id
      where k.workspace_id = new.id and j.for_switch order by j.knowledge_id for no key update of j;
    delete from private.embedding_jobs j using public.knowledge_items k
     where k.workspace_id = new.id and j.knowledge_id = k.id and j.for_switch;
    perform from private.next_embeddings n join public.knowledge_items k on k.id = n.knowledge_id
      where k.workspace_id = new.id order by n.knowledge_id for no key update of n;
    delete from private.next_embeddings n using public.knowledge_items k
     where k.workspace_id = new.id and n.knowledge_id = k.id;
  end if;
  insert into private.embedding_jobs (knowledge_id, for_switch)
  select k.id, false from public.knowledge_items k
   where k.workspace_id = new.id and v_model is not null and k.embedding_model is distinct from v_model
  union all
  select k.id, true from public.knowledge_items k
   where k.workspace_id = new.id and new.embedding_model is null and v_next is not null
   order by 1, 2
  on conflict (knowledge_id, for_switch) do update set available_at = now(), attempts = 0, last_error = null;
  if found then
    perform pg_notify('knowledge_embeddings', '');
  end if;
  return null;
end
$$;
comment on function private.queue_workspace() is 'Trigger: makes a job for every item of a workspace that gets another model, and takes the workspace out of a switch or into it.';
revoke execute on function private.queue_workspace() from public;
create trigger workspaces_queue_items after update of embedding_model on public.workspaces
  for each row when (new.embedding_model is distinct from old.embedding_model)
  execute function private.queue_workspace();

-- definer because the worker reads items of all workspaces and writes jobs.
create function public.claim_embedding_jobs(
  max_jobs integer default 32, lease_seconds integer default 60, embedding_models text[] default null
)
returns table (knowledge_id uuid, embedding_model text, content_hash text, embedding_text text, attempts integer)
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_suspect constant integer := 3;
  v_max_unanswered constant integer := 10;
  v_default text := (select m.name from public.embedding_models m where m.is_default);
  v_next text := (select s.to_model from private.embedding_switches s where s.ended_at is null and s.swapped_at is null);
  v_alone boolean;
begin
  if not private.is_trusted() then
    perform private.fail('PT403', 'only service_role claims embedding jobs');
  end if;
  if (max_jobs between 1 and 1000 and lease_seconds between 1 and 3600) is not true then
    perform private.fail('PT400', 'max_jobs is between 1 and 1000, lease_seconds between 1 and 3600');
  end if;
  -- First what is new to the workers or known to fail in an orderly way; then, one at a time, what they never answered.
  foreach v_alone in array array[false, true] loop
    if v_alone then
      update private.embedding_jobs j
         set available_at = 'infinity',
             last_error = format('claimed %s times, and never answered: it may be what ends the worker', j.attempts)
       where j.available_at <= now() and j.last_error is null and j.attempts >= v_max_unanswered;
    end if;
    return query
      with due as (
        select j.knowledge_id, j.for_switch, m.model
          from private.embedding_jobs j
          join public.knowledge_items k on k.id = j.knowledge_id
          join public.workspaces w on w.id = k.workspace_id
          cross join lateral (
            select case when j.for_switch then v_next else coalesce(w.embedding_model::text, v_default) end) m (model)
         where j.available_at <= now() and m.model is not null
           and (claim_embedding_jobs.embedding_models is null or m.model = any (claim_embedding_jobs.embedding_models))
           and (j.last_error is null and j.attempts >= v_suspect) = v_alone
         order by j.for_switch, j.available_at
         limit case when v_alone then 1 else max_jobs end
         for update of j skip locked
      ), claimed as (
        update private.embedding_jobs j
           set attempts = j.attempts + 1, available_at = now() + make_interval(secs => lease_seconds)
          from due where j.knowledge_id = due.knowledge_id and j.for_switch = due.for_switch
        returning j.knowledge_id, due.model, j.attempts
      )
      select c.knowledge_id, c.model, k.content_hash, private.embedding_text(k.title, k.content), c.attempts
        from claimed c join public.knowledge_items k on k.id = c.knowledge_id
       order by length(k.content);  -- texts of like length batch well
    exit when found;
  end loop;
end
$$;
comment on function public.claim_embedding_jobs(integer, integer, text[]) is
  'Leases up to max_jobs items that wait for a vector, for lease_seconds, optionally only those of some models; what a switch to another model waits for comes last. For service_role.';

-- definer because it writes jobs, and vectors of all workspaces.
create function public.store_embeddings(embeddings jsonb)
returns table (knowledge_id uuid, outcome text)
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_max_attempts constant integer := 8;
  v_next text := (select s.to_model from private.embedding_switches s where s.ended_at is null and s.swapped_at is null);
  v_one record;
  v_workspace uuid;
  v_for_switch boolean;
begin
  if not private.is_trusted() then
    perform private.fail('PT403', 'only service_role stores embeddings');
  end if;
  if embeddings is null or jsonb_typeof(embeddings) <> 'array' then
    perform private.fail('PT400', 'embeddings is not a JSON array');
  end if;
  for v_one in
    select e.* from jsonb_to_recordset(embeddings)
      as e (knowledge_id uuid, embedding_model text, content_hash text, embedding extensions.vector, error text,
        unanswered boolean)
     order by e.knowledge_id  -- one order for all workers
  loop
    knowledge_id := v_one.knowledge_id;
    select k.workspace_id, coalesce(v_one.embedding_model = v_next, false)
             and private.model_of_workspace(k.workspace_id) is distinct from v_next
      into v_workspace, v_for_switch
      from public.knowledge_items k where k.id = v_one.knowledge_id;
    if v_one.embedding is null then
      update private.embedding_jobs j
         set last_error = left(coalesce(v_one.error, 'no embedding and no error given'), 1000),
             -- Who gave no answer at all says nothing of the text.
             available_at = case when j.attempts >= v_max_attempts and v_one.unanswered is not true then 'infinity'
               else now() + least(interval '1 hour', interval '1 second' * power(2, least(j.attempts, 12))) end
       where j.knowledge_id = v_one.knowledge_id and j.for_switch = v_for_switch;
      outcome := 'failed';
    elsif v_for_switch then
      outcome := case when private.store_next_embedding(v_one.knowledge_id, v_one.embedding_model, v_one.content_hash, v_one.embedding)
                   then 'stored' else 'stale' end;
    else
      update public.knowledge_items k
         set content_embedding = v_one.embedding, embedding_model = v_one.embedding_model
       where k.id = v_one.knowledge_id and k.content_hash = v_one.content_hash
         and private.model_of_workspace(k.workspace_id) = v_one.embedding_model;
      outcome := case when found then 'stored' else 'stale' end;
    end if;
    if outcome = 'stored' then
      delete from private.embedding_jobs j where j.knowledge_id = v_one.knowledge_id and j.for_switch = v_for_switch;
      -- That may have waited for who gave the workspace another model, and taken the job that this made.
      insert into private.embedding_jobs (knowledge_id, for_switch)
      select v_one.knowledge_id, false
       where not v_for_switch and private.model_of_workspace(v_workspace) is distinct from v_one.embedding_model
      on conflict (knowledge_id, for_switch) do nothing;
    elsif outcome = 'stale' then
      update private.embedding_jobs j set available_at = now()
       where j.knowledge_id = v_one.knowledge_id and j.for_switch = v_for_switch and j.available_at < 'infinity';
    end if;
    return next;
  end loop;
end
$$;
comment on function public.store_embeddings(jsonb) is
  'Stores vectors: an array of {knowledge_id, embedding_model, content_hash, embedding} or, where embedding failed, {knowledge_id, embedding_model, error, unanswered}. Answers stored, stale (the text or the model changed; it is claimed again) or failed (tried again later; set aside after 8 attempts, unless unanswered: the provider gave no answer at all). For service_role.';

-- definer because nobody writes jobs directly.
create function public.retry_embeddings(knowledge_ids uuid[] default null)
returns integer
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_retried integer;
begin
  if not private.is_trusted() then
    perform private.fail('PT403', 'only service_role retries embeddings');
  end if;
  -- By id, as everybody does.
  perform from private.embedding_jobs j
    where j.available_at = 'infinity'
      and (retry_embeddings.knowledge_ids is null or j.knowledge_id = any (retry_embeddings.knowledge_ids))
    order by j.knowledge_id, j.for_switch for no key update;
  update private.embedding_jobs j
     set available_at = now(), attempts = 0, last_error = null
   where j.available_at = 'infinity'
     and (retry_embeddings.knowledge_ids is null or j.knowledge_id = any (retry_embeddings.knowledge_ids));
  get diagnostics v_retried = row_count;
  if v_retried > 0 then
    perform pg_notify('knowledge_embeddings', '');
  end if;
  return v_retried;
end
$$;
comment on function public.retry_embeddings(uuid[]) is
  'Gives what was set aside a new chance, all of it or some items, and says how many jobs that is. For service_role.';

create function private.embedding_index_name(embedding_model text)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select 'item_vectors_' || left(regexp_replace(lower(embedding_model collate pg_catalog."pg_c_utf8"), '[^a-z0-9]+', '_', 'g'), 26)
    || '_' || left(md5(embedding_model), 6)
$$;
comment on function private.embedding_index_name(text) is 'The name of a model''s vector index on item_vectors.';

create function private.embedding_index_statement(model public.embedding_models, concurrently boolean)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    'create index %s if not exists %I on private.item_vectors using hnsw ((embedding::extensions.halfvec(%s)) extensions.halfvec_cosine_ops) with (m = 16, ef_construction = 128) where embedding_model = %L',
    case when embedding_index_statement.concurrently then 'concurrently' else '' end,
    private.embedding_index_name((model).name), (model).dimensions, (model).name)
$$;
comment on function private.embedding_index_statement(public.embedding_models, boolean) is
  'The statement that makes a model''s vector index.';

-- definer because an index belongs to the table's owner.
create function public.register_embedding_model(
  name text, dimensions integer, similarity_threshold double precision default null, is_default boolean default false,
  query_prefix text default null, document_prefix text default null
)
returns setof public.embedding_models
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_model public.embedding_models;
begin
  if not private.is_trusted() then
    perform private.fail('PT403', 'only service_role registers embedding models');
  end if;
  if register_embedding_model.name is null or btrim(register_embedding_model.name) = ''
     or register_embedding_model.dimensions is null or register_embedding_model.dimensions not between 1 and 4000 then
    perform private.fail('PT400', 'a model has a name and 1 to 4000 dimensions');
  end if;
  perform pg_advisory_xact_lock(hashtextextended('knowledge-persistence: embedding models', 0));
  select m.* into v_model from public.embedding_models m where m.name = register_embedding_model.name;
  if v_model.name is not null and v_model.dimensions <> register_embedding_model.dimensions then
    perform private.fail('PT409',
      format('%s is registered with %s dimensions', v_model.name, v_model.dimensions),
      'register the other size under a name of its own: vectors of two sizes are never compared');
  end if;
  if register_embedding_model.is_default and not coalesce(v_model.is_default, false) and exists (
    select from public.knowledge_items k join public.workspaces w on w.id = k.workspace_id where w.embedding_model is null
  ) then
    perform private.fail('PT409', 'there are items already, which the new model could not find by meaning',
      format('`kp embeddings switch %s` embeds them anew, and then makes it the default', register_embedding_model.name));
  end if;
  if register_embedding_model.is_default then
    update public.embedding_models m set is_default = false where m.is_default and m.name <> register_embedding_model.name;
  end if;
  insert into public.embedding_models as m (name, dimensions, similarity_threshold, is_default, query_prefix, document_prefix)
  values (register_embedding_model.name, register_embedding_model.dimensions,
    coalesce(register_embedding_model.similarity_threshold, 0.3), register_embedding_model.is_default,
    coalesce(register_embedding_model.query_prefix, ''), coalesce(register_embedding_model.document_prefix, ''))
  on conflict on constraint embedding_models_pkey do update set
    similarity_threshold = coalesce(register_embedding_model.similarity_threshold, m.similarity_threshold),
    is_default = register_embedding_model.is_default or m.is_default,
    query_prefix = coalesce(register_embedding_model.query_prefix, m.query_prefix),
    document_prefix = coalesce(register_embedding_model.document_prefix, m.document_prefix)
  returning m.* into v_model;
  execute private.embedding_index_statement(v_model, false);
  return next v_model;
end
$$;
comment on function public.register_embedding_model(text, integer, double precision, boolean, text, text) is
  'Registers an embedding model and makes its vector index (half precision, cosine, only its rows); again: changes threshold, prefixes, default. Where there are items, another model becomes the default by a switch. For service_role.';

revoke execute on function
  public.claim_embedding_jobs(integer, integer, text[]), public.store_embeddings(jsonb),
  private.embedding_index_name(text), private.embedding_index_statement(public.embedding_models, boolean),
  public.retry_embeddings(uuid[]),
  public.register_embedding_model(text, integer, double precision, boolean, text, text)
  from public, anon, authenticated, service_role;
grant execute on function
  public.claim_embedding_jobs(integer, integer, text[]), public.store_embeddings(jsonb), public.retry_embeddings(uuid[]),
  public.register_embedding_model(text, integer, double precision, boolean, text, text) to service_role;

select public.register_embedding_model('all-MiniLM-L6-v2', 384, 0.3, true);
select public.register_embedding_model('text-embedding-3-small', 1536, 0.3);
