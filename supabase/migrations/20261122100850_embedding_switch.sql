-- Embedding switch: another model takes over, and search is never blind meanwhile.
--
-- Owns: private.next_embeddings, the side table in full precision; begin_embedding_switch, swap_embedding_model,
-- settle_embedding_switch, abort_embedding_switch, embedding_switch_status.
--
-- What happens, each step resumable and none of them long
--   1. begin: every item of the workspaces that use the default model gets a second job. Workers embed with the new
--      model into item_vectors (what searches by that model read) and into the side table, while content_embedding and
--      the old model serve. What is written meanwhile is embedded by both.
--   2. The new model's index is built, concurrently: by whoever owns the table, over SQL.
--   3. swap: one row says which model serves. It is refused until every item has its vector and the index is valid.
--   4. settle: the side table moves into content_embedding, some items at a time.
--   5. An hour later, when no client asks with the old model any more, maintenance removes the old vectors.
--
-- Invariants
--   * The vectors of two models are never compared: every row of item_vectors names its model, and so does every query.
--   * A vector in the side table belongs to the item's present text: it goes with its row in item_vectors, which a
--     changed text takes away.
--   * Before the swap a switch can be given up, and leaves nothing behind.
--   * A workspace that chose a model of its own keeps it.

set local lock_timeout = '5s';

create table private.next_embeddings (
  knowledge_id uuid not null,
  embedding_model varchar(200) not null,
  embedding extensions.vector not null,
  constraint next_embeddings_pkey primary key (knowledge_id, embedding_model),
  constraint next_embeddings_item_vectors_fkey foreign key (knowledge_id, embedding_model)
    references private.item_vectors (knowledge_id, embedding_model) on delete cascade
);
alter table private.next_embeddings enable row level security;
comment on table private.next_embeddings is 'Vectors of the model that is switched to, in full precision, until they move into the items.';
comment on column private.next_embeddings.knowledge_id is 'The item.';
comment on column private.next_embeddings.embedding_model is 'The model that is switched to.';
comment on column private.next_embeddings.embedding is 'The vector.';
revoke all on private.next_embeddings from public, anon, authenticated, service_role;
grant select on private.next_embeddings to service_role;

create function private.current_switch()
returns private.embedding_switches
language sql
stable
set search_path = pg_catalog, pg_temp
as $$ select s from private.embedding_switches s where s.ended_at is null $$;
comment on function private.current_switch() is 'The switch that is under way, or null.';

create function private.lock_models()
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$ select pg_advisory_xact_lock(hashtextextended('knowledge-persistence: embedding models', 0)) $$;
comment on function private.lock_models() is 'Lets one transaction at a time change which models there are, which serves, and which a workspace chose.';

create function private.store_next_embedding(
  knowledge_id uuid, embedding_model text, content_hash text, embedding extensions.vector
)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_workspace uuid;
begin
  -- The lock keeps the text as it is until the vector is there to be taken away with it.
  select k.workspace_id into v_workspace
    from public.knowledge_items k
   where k.id = store_next_embedding.knowledge_id and k.content_hash = store_next_embedding.content_hash
     for no key update;
  if v_workspace is null then
    return false;
  end if;
  perform private.require_model(store_next_embedding.embedding_model, store_next_embedding.embedding);
  insert into private.item_vectors as v (knowledge_id, workspace_id, embedding_model, embedding)
  values (store_next_embedding.knowledge_id, v_workspace, store_next_embedding.embedding_model,
    store_next_embedding.embedding::extensions.halfvec)
  on conflict on constraint item_vectors_pkey do update set embedding = excluded.embedding
    where v.embedding operator(extensions.<>) excluded.embedding;
  insert into private.next_embeddings (knowledge_id, embedding_model, embedding)
  values (store_next_embedding.knowledge_id, store_next_embedding.embedding_model, store_next_embedding.embedding)
  on conflict on constraint next_embeddings_pkey do update set embedding = excluded.embedding;
  return true;
end
$$;
comment on function private.store_next_embedding(uuid, text, text, extensions.vector) is
  'Stores a vector of the model that is switched to, if the item still has the text that it was made of.';

create function private.queue_for_switch(to_model text)
returns integer
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_queued integer;
begin
  insert into private.embedding_jobs (knowledge_id, for_switch)
  select k.id, true
    from public.knowledge_items k
    join public.workspaces w on w.id = k.workspace_id
    left join private.item_vectors v on v.knowledge_id = k.id and v.embedding_model = queue_for_switch.to_model
    left join private.embedding_jobs j on j.knowledge_id = k.id and j.for_switch
   where w.embedding_model is null and v.knowledge_id is null and j.knowledge_id is null
   order by k.id
  on conflict on constraint embedding_jobs_pkey do nothing;
  get diagnostics v_queued = row_count;
  if v_queued > 0 then
    perform pg_notify('knowledge_embeddings', '');
  end if;
  return v_queued;
end
$$;
comment on function private.queue_for_switch(text) is
  'Makes a job for each item that a switch is about and that has neither its new vector nor a job for it.';

create function private.holds_up(job private.embedding_jobs, switch private.embedding_switches)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
-- There is always something that was written just now; waiting for that, too, could take for ever.
as $$ select (job).created_at <= (switch).started_at or (job).created_at < now() - interval '10 seconds' $$;
comment on function private.holds_up(private.embedding_jobs, private.embedding_switches) is
  'Whether a switch waits for a job: not for what was written in the last ten seconds, which waits for its vector as every new text does.';

create type public.embedding_switch_report as (
  from_model text, to_model text, state text, items integer, embedded integer, waiting integer, failed integer,
  unsettled integer, index_name text, index_valid boolean, index_statement text, started_at timestamptz,
  swapped_at timestamptz
);
comment on type public.embedding_switch_report is
  'How far a switch is. state: filling (the old model serves), settling (the new one serves, its vectors move into the items), settled (the old vectors are kept for a while). items: how many it is about; embedded: how many have a vector of the new model; waiting, failed: jobs (not counting what was written in the last ten seconds); unsettled: items whose own vector is not the new one. index_statement makes the index where it is missing.';

-- definer because it counts in tables that are nobody's, for operators only.
create function public.embedding_switch_status()
returns setof public.embedding_switch_report
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_switch private.embedding_switches := private.current_switch();
  v_model public.embedding_models;
  v_report public.embedding_switch_report;
begin
  if not private.is_trusted() then
    perform private.fail('PT403', 'only service_role asks for the state of a switch');
  end if;
  if v_switch.id is null then
    return;
  end if;
  select m.* into v_model from public.embedding_models m where m.name = v_switch.to_model;
  v_report.from_model := v_switch.from_model;
  v_report.to_model := v_switch.to_model;
  v_report.state := case when v_switch.swapped_at is null then 'filling' when v_switch.settled_at is null then 'settling'
    else 'settled' end;
  v_report.started_at := v_switch.started_at;
  v_report.swapped_at := v_switch.swapped_at;
  select count(*), count(v.knowledge_id), count(*) filter (where k.embedding_model is distinct from v_switch.to_model)
    into v_report.items, v_report.embedded, v_report.unsettled
    from public.knowledge_items k
    join public.workspaces w on w.id = k.workspace_id
    left join private.item_vectors v on v.knowledge_id = k.id and v.embedding_model = v_switch.to_model
   where w.embedding_model is null;
  select count(*) filter (where j.available_at < 'infinity' and private.holds_up(j, v_switch)),
         count(*) filter (where j.available_at = 'infinity')
    into v_report.waiting, v_report.failed
    from private.embedding_jobs j where j.for_switch;
  v_report.index_name := private.embedding_index_name(v_switch.to_model);
  v_report.index_valid := coalesce((
    select i.indisvalid from pg_index i
     where i.indexrelid = to_regclass(format('private.%I', v_report.index_name))), false);
  v_report.index_statement := private.embedding_index_statement(v_model, true);
  return next v_report;
end
$$;
comment on function public.embedding_switch_status() is
  'How far the switch to another embedding model is; no row: none is under way. For service_role.';

-- definer because the registry and the jobs are not the caller's to write.
create function public.begin_embedding_switch(
  embedding_model text, dimensions integer default null, similarity_threshold double precision default null,
  query_prefix text default null, document_prefix text default null
)
returns setof public.embedding_switch_report
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_switch private.embedding_switches;
  v_model public.embedding_models;
begin
  if not private.is_trusted() then
    perform private.fail('PT403', 'only service_role switches the embedding model');
  end if;
  perform private.lock_models();
  v_switch := private.current_switch();
  if v_switch.to_model = begin_embedding_switch.embedding_model and v_switch.settled_at is null then
    return query select * from public.embedding_switch_status();  -- resumed
    return;
  end if;
  if v_switch.id is not null and v_switch.settled_at is null then
    perform private.fail('PT409', format('a switch to %s is under way', v_switch.to_model), case
      when v_switch.swapped_at is null then 'finish it with the same command, or give it up with --abort'
      else 'it has swapped already: finish it with the same command' end);
  end if;
  if v_switch.id is not null then
    perform private.end_embedding_switch(null);
  end if;
  select m.* into v_model from public.embedding_models m where m.name = begin_embedding_switch.embedding_model;
  if v_model.name is null then
    if begin_embedding_switch.dimensions is null or begin_embedding_switch.dimensions not between 1 and 4000 then
      perform private.fail('PT422', format('the embedding model %L is not registered', begin_embedding_switch.embedding_model),
        'say how many dimensions its vectors have, 1 to 4000, to register it');
    end if;
    -- Without its index: building that now would block writes, and filling it row by row is slower than building it.
    insert into public.embedding_models (name, dimensions, similarity_threshold, query_prefix, document_prefix)
    values (begin_embedding_switch.embedding_model, begin_embedding_switch.dimensions,
      coalesce(begin_embedding_switch.similarity_threshold, 0.3), coalesce(begin_embedding_switch.query_prefix, ''),
      coalesce(begin_embedding_switch.document_prefix, ''));
  elsif v_model.dimensions <> begin_embedding_switch.dimensions then
    perform private.fail('PT409', format('%s is registered with %s dimensions', v_model.name, v_model.dimensions),
      'register the other size under a name of its own: vectors of two sizes are never compared');
  end if;
  insert into private.embedding_switches (from_model, to_model)
  values ((select m.name from public.embedding_models m where m.is_default), begin_embedding_switch.embedding_model);
  delete from private.embedding_jobs j where j.for_switch;
  perform private.queue_for_switch(begin_embedding_switch.embedding_model);
  return query select * from public.embedding_switch_status();
end
$$;
comment on function public.begin_embedding_switch(text, integer, double precision, text, text) is
  'Begins to switch the default embedding model, or says how far the switch to it is: everything is embedded anew in the background while the old model serves. A model that is not registered yet is, with the given dimensions, threshold and prefixes. For service_role.';

create type public.embedding_swap as (outcome text, waiting integer, failed integer);
comment on type public.embedding_swap is
  'What became of a swap. outcome: swapped, waiting (items have no vector of the new model yet), failed (nothing waits, but some could not be embedded).';

-- definer because the registry is not the caller's to write.
create function public.swap_embedding_model(accept_failed boolean default false)
returns setof public.embedding_swap
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_switch private.embedding_switches;
  v_swap public.embedding_swap;
  v_slipped integer;
begin
  if not private.is_trusted() then
    perform private.fail('PT403', 'only service_role swaps the embedding model');
  end if;
  perform private.lock_models();
  v_switch := private.current_switch();
  if v_switch.id is null or v_switch.swapped_at is not null then
    perform private.fail('PT409', 'no switch waits for its swap', 'begin_embedding_switch begins one');
  end if;
  -- What slipped in beside the beginning of the switch.
  v_slipped := private.queue_for_switch(v_switch.to_model);
  select v_slipped + count(*) filter (where j.available_at < 'infinity' and private.holds_up(j, v_switch)),
         count(*) filter (where j.available_at = 'infinity')
    into v_swap.waiting, v_swap.failed
    from private.embedding_jobs j where j.for_switch;
  if v_swap.waiting > 0 then
    v_swap.outcome := 'waiting';
  elsif v_swap.failed > 0 and not swap_embedding_model.accept_failed then
    v_swap.outcome := 'failed';
  else
    if not exists (
      select from pg_index i
       where i.indexrelid = to_regclass(format('private.%I', private.embedding_index_name(v_switch.to_model)))
         and i.indisvalid
    ) then
      perform private.fail('PT409', format('the index of %s is not there', v_switch.to_model),
        'build it as the owner of the table: embedding_switch_status has the statement');
    end if;
    update public.embedding_models m set is_default = false where m.is_default;
    update public.embedding_models m set is_default = true where m.name = v_switch.to_model;
    update private.embedding_switches s set swapped_at = clock_timestamp() where s.id = v_switch.id;
    -- What the old model could not embed, the new one may.
    update private.embedding_jobs j set available_at = now(), attempts = 0, last_error = null
     where not j.for_switch and j.available_at = 'infinity';
    perform pg_notify('knowledge_embeddings', '');
    v_swap.outcome := 'swapped';
  end if;
  return next v_swap;
end
$$;
comment on function public.swap_embedding_model(boolean) is
  'Lets the new model serve, at once and for all, if every item has its vector and the index is built; with accept_failed also where some could not be embedded, which are found by their words and tried again. For service_role.';

-- definer because it writes items of all workspaces.
create function public.settle_embedding_switch(max_items integer default 500)
returns integer
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_switch private.embedding_switches;
  v_ids uuid[];
  v_left integer;
begin
  if not private.is_trusted() then
    perform private.fail('PT403', 'only service_role settles a switch');
  end if;
  if settle_embedding_switch.max_items is null or settle_embedding_switch.max_items not between 1 and 10000 then
    perform private.fail('PT400', 'max_items is between 1 and 10000');
  end if;
  perform private.lock_models();
  v_switch := private.current_switch();
  if v_switch.swapped_at is null or v_switch.settled_at is not null then
    return 0;
  end if;
  v_ids := array(select n.knowledge_id from private.next_embeddings n order by n.knowledge_id
                  limit settle_embedding_switch.max_items);
  -- Held first, in a statement of its own: whose text changes meanwhile loses its new vector before the next one looks.
  perform from public.knowledge_items k where k.id = any (v_ids) order by k.id for no key update;
  update public.knowledge_items k set content_embedding = n.embedding, embedding_model = n.embedding_model
    from private.next_embeddings n
   where n.knowledge_id = any (v_ids) and k.id = n.knowledge_id and n.embedding_model = v_switch.to_model
     and exists (select from public.workspaces w where w.id = k.workspace_id and w.embedding_model is null);
  delete from private.embedding_jobs j
   using private.next_embeddings n, public.knowledge_items k, public.workspaces w
   where n.knowledge_id = any (v_ids) and j.knowledge_id = n.knowledge_id and k.id = n.knowledge_id
     and w.id = k.workspace_id and (w.embedding_model is null or j.for_switch);
  delete from private.next_embeddings n where n.knowledge_id = any (v_ids);
  if cardinality(v_ids) = 0 then
    -- What could not be embedded, or came in with a vector of the old model: from now on it waits like a new text.
    v_ids := array(
      select k.id from public.knowledge_items k join public.workspaces w on w.id = k.workspace_id
       where w.embedding_model is null and k.content_embedding is not null
         and k.embedding_model is distinct from v_switch.to_model
       order by k.id limit settle_embedding_switch.max_items for no key update of k);
    update public.knowledge_items k set content_embedding = null where k.id = any (v_ids);
  end if;
  select count(*) into v_left from private.next_embeddings;
  v_left := v_left + (
    select count(*) from public.knowledge_items k join public.workspaces w on w.id = k.workspace_id
     where w.embedding_model is null and k.content_embedding is not null
       and k.embedding_model is distinct from v_switch.to_model
       and not exists (select from private.next_embeddings n where n.knowledge_id = k.id));
  if v_left = 0 then
    delete from private.embedding_jobs j where j.for_switch;
    update private.embedding_switches s set settled_at = clock_timestamp() where s.id = v_switch.id;
  end if;
  return v_left;
end
$$;
comment on function public.settle_embedding_switch(integer) is
  'After the swap: moves the next items'' new vectors into the items, and says how many are left; 0: it is done. For service_role.';

create function private.end_embedding_switch(max_items integer)
returns integer
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_switch private.embedding_switches := private.current_switch();
  v_removed integer;
begin
  delete from private.item_vectors v
   using (select o.knowledge_id, o.embedding_model
            from private.item_vectors o
            join public.knowledge_items k on k.id = o.knowledge_id
           where o.embedding_model = v_switch.from_model and k.embedding_model is distinct from o.embedding_model
           order by o.knowledge_id
           limit end_embedding_switch.max_items) old
   where v.knowledge_id = old.knowledge_id and v.embedding_model = old.embedding_model;
  get diagnostics v_removed = row_count;
  if max_items is null or v_removed < max_items then
    update private.embedding_switches s set ended_at = clock_timestamp() where s.id = v_switch.id;
  end if;
  return v_removed;
end
$$;
comment on function private.end_embedding_switch(integer) is
  'Removes vectors of the model that served before a settled switch, all or so many, and ends it when none are left.';

-- definer because it deletes vectors and jobs of everybody's.
create function public.abort_embedding_switch()
returns setof public.embedding_switch_report
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_switch private.embedding_switches;
begin
  if not private.is_trusted() then
    perform private.fail('PT403', 'only service_role gives a switch up');
  end if;
  perform private.lock_models();
  v_switch := private.current_switch();
  if v_switch.id is null or v_switch.swapped_at is not null then
    perform private.fail('PT409', 'no switch waits for its swap', case when v_switch.id is not null
      then 'the new model serves already: switch back to ' || v_switch.from_model end);
  end if;
  return query select * from public.embedding_switch_status();
  update private.embedding_switches s set ended_at = clock_timestamp() where s.id = v_switch.id;
  delete from private.embedding_jobs j where j.for_switch;
  -- A workspace that chose this model keeps its vectors, and so does an item that came with one.
  delete from private.item_vectors v
   using public.knowledge_items k
   where v.embedding_model = v_switch.to_model and k.id = v.knowledge_id
     and k.embedding_model is distinct from v_switch.to_model;
end
$$;
comment on function public.abort_embedding_switch() is
  'Gives up a switch that has not swapped yet, and removes what was embedded for it; answers how far it was. For service_role.';

create function private.maintain_embedding_switch()
returns text
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_switch private.embedding_switches := private.current_switch();
  v_left integer;
begin
  if v_switch.id is null then
    return 'no switch is under way';
  elsif v_switch.swapped_at is null then
    return format('the switch to %s waits for vectors and its swap', v_switch.to_model);
  elsif v_switch.settled_at is null then
    for i in 1..20 loop
      v_left := public.settle_embedding_switch(500);
      exit when v_left = 0;
    end loop;
    return format('%s items left to move to %s', v_left, v_switch.to_model);
  elsif v_switch.settled_at > now() - interval '1 hour' then
    return format('vectors of %s are kept for clients that still ask with it', v_switch.from_model);
  end if;
  perform private.lock_models();
  return format('%s vectors of %s removed', private.end_embedding_switch(20000), v_switch.from_model);
end
$$;
comment on function private.maintain_embedding_switch() is
  'Task: moves what a swap left to move, and removes the old model''s vectors an hour later. Run by run_maintenance.';

revoke execute on function
  private.current_switch(), private.lock_models(), private.store_next_embedding(uuid, text, text, extensions.vector),
  private.queue_for_switch(text), private.holds_up(private.embedding_jobs, private.embedding_switches),
  private.end_embedding_switch(integer), private.maintain_embedding_switch(),
  public.embedding_switch_status(), public.begin_embedding_switch(text, integer, double precision, text, text),
  public.swap_embedding_model(boolean), public.settle_embedding_switch(integer), public.abort_embedding_switch()
  from public, anon, authenticated, service_role;
grant execute on function
  public.embedding_switch_status(), public.begin_embedding_switch(text, integer, double precision, text, text),
  public.swap_embedding_model(boolean), public.settle_embedding_switch(integer), public.abort_embedding_switch()
  to service_role;
