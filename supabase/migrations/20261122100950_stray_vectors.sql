-- Stray vectors: what a vector index has lost sight of, and a search compares all the same.
--
-- Owns: private.stray_vectors, private.vector_rounds, check_vectors.
--
-- An HNSW index links each vector with some near ones, and drops links as others come. What is unlike everything else
-- of a large workspace can end up with hardly a link that leads to it: no walk meets it, however long, though it may be
-- the one thing that is asked for. So every vector of a workspace that is searched by index is looked for now and then,
-- by itself and, if few are near it, as a question would: by what lies half way between it and others. Those that the
-- index doesn't find are written down here, and compared with every query.
--
-- Invariants
--   * A stray is a hint: what is written here only nominates, as the index does. A missing row costs recall, a
--     superfluous one less than a microsecond. It holds a copy of the vector, so that a search reads few pages; a vector
--     that changes is no stray until it is looked for again.
--   * They are few, since every search compares them: where the vectors are all alike an index misses some of any ten,
--     which makes no strays of them, and of more than 500 those stay that fewest others are near. What has
--     many beside it that say nearly the same is missed least.
--   * Rounds go on for ever, since what was in reach yesterday need not be today; they take at most a fiftieth of the
--     time, and none where no vector was written.

set local lock_timeout = '5s';

create table private.stray_vectors (
  knowledge_id uuid not null,
  embedding_model varchar(200) not null,
  workspace_id uuid not null,
  embedding extensions.halfvec not null,
  remoteness double precision not null,
  constraint stray_vectors_pkey primary key (knowledge_id, embedding_model),
  constraint stray_vectors_item_vectors_fkey foreign key (knowledge_id, embedding_model)
    references private.item_vectors (knowledge_id, embedding_model) on delete cascade
);
alter table private.stray_vectors alter column embedding set storage main;
create index stray_vectors_workspace_id_idx on private.stray_vectors (workspace_id, embedding_model);
alter table private.stray_vectors enable row level security;
comment on table private.stray_vectors is 'Vectors of large workspaces that their index did not find when it was looked.';
comment on column private.stray_vectors.knowledge_id is 'The item.';
comment on column private.stray_vectors.embedding_model is 'The model that made the vector.';
comment on column private.stray_vectors.workspace_id is 'As in the item.';
comment on column private.stray_vectors.embedding is 'The vector.';
comment on column private.stray_vectors.remoteness is 'The cosine distance of its tenth nearest, by the index.';
revoke all on private.stray_vectors from public, anon, authenticated, service_role;
grant select on private.stray_vectors to service_role;

create table private.vector_rounds (
  workspace_id uuid not null,
  embedding_model varchar(200) not null,
  reached uuid,
  started_at timestamptz not null default now(),
  finished_at timestamptz,
  written bigint not null,
  constraint vector_rounds_pkey primary key (workspace_id, embedding_model),
  constraint vector_rounds_workspace_id_fkey foreign key (workspace_id)
    references public.workspaces (id) on delete cascade
);
alter table private.vector_rounds enable row level security;
comment on table private.vector_rounds is 'How far the vectors of each large workspace have been looked up.';
comment on column private.vector_rounds.workspace_id is 'The workspace.';
comment on column private.vector_rounds.embedding_model is 'The model.';
comment on column private.vector_rounds.reached is 'The last item that was looked up; null: none yet.';
comment on column private.vector_rounds.started_at is 'When the round began.';
comment on column private.vector_rounds.finished_at is 'When all had been looked up; null: it is under way.';
comment on column private.vector_rounds.written is 'How many vectors had ever been written when it began, by the server''s statistics.';
revoke all on private.vector_rounds from public, anon, authenticated, service_role;
grant select on private.vector_rounds to service_role;

-- pgvector must be loaded before functions with `set hnsw.…` can be made by a role that is not superuser.
select '[1]'::extensions.vector;

create function private.check_some_vectors(
  workspace_id uuid, model public.embedding_models, after uuid, max_vectors integer, out checked integer, out reached uuid
)
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
-- As when searching.
set hnsw.iterative_scan = 'relaxed_order'
set hnsw.ef_search = 100
set enable_sort = off
as $$
declare
  v_most constant integer := 500;
  v_over uuid[];
begin
  execute format($sql$
    with slice as materialized (
      select v.knowledge_id, v.embedding
        from private.item_vectors v
       where v.workspace_id = $1 and v.embedding_model = %1$L and ($2 is null or v.knowledge_id > $2)
       order by v.knowledge_id limit $3
    ), looked as materialized (
      select s.*, n.is_found, n.remoteness
        from (select k.knowledge_id, k.embedding, extensions.l2_normalize(k.embedding) as own,
                     extensions.l2_normalize(lag(k.embedding, 1, k.embedding) over line) as one,
                     extensions.l2_normalize(lead(k.embedding, 1, k.embedding) over line) as other
                from slice k window line as (order by k.knowledge_id)) s
        cross join lateral (
          -- A near copy in its place will do.
          select coalesce(bool_or(n.knowledge_id = s.knowledge_id or n.distance < 0.02), false) as is_found,
                 max(n.distance) as remoteness
            from (select o.knowledge_id, (o.embedding::extensions.halfvec(%2$s)) operator(extensions.<=>) s.embedding as distance
                    from private.item_vectors o
                   where o.embedding_model = %1$L and o.workspace_id = $1
                   order by (o.embedding::extensions.halfvec(%2$s)) operator(extensions.<=>) s.embedding
                   limit 10) n) n
    ), seen as materialized (
      select l.knowledge_id, l.remoteness, case
          when not l.is_found or l.remoteness <= 1.25 * u.remoteness then l.is_found
          else (
            -- A question stands somewhere between the item and all else: here half way to any two others (ids are
            -- random). Ten that are nearer to it will do, too.
            select bool_and(n.is_found)
              from (values (l.own operator(extensions.+) l.one), (l.own operator(extensions.+) l.other)) q (probe)
              cross join lateral (
                select coalesce(bool_or(n.knowledge_id = l.knowledge_id or n.to_own < 0.02), false)
                         or count(*) filter (where n.distance <= l.own operator(extensions.<=>) q.probe) = 10 as is_found
                  from (select o.knowledge_id, o.embedding operator(extensions.<=>) l.embedding as to_own,
                               (o.embedding::extensions.halfvec(%2$s)) operator(extensions.<=>) q.probe as distance
                          from private.item_vectors o
                         where o.embedding_model = %1$L and o.workspace_id = $1
                         order by (o.embedding::extensions.halfvec(%2$s)) operator(extensions.<=>) q.probe
                         limit 10) n) n)
          end as is_found
        from looked l
       cross join (select percentile_cont(0.5) within group (order by remoteness) as remoteness from looked) u
    ), found as (
      delete from private.stray_vectors y
       where y.embedding_model = %1$L and y.knowledge_id = any (array(
         select x.knowledge_id from private.stray_vectors x join seen s on s.knowledge_id = x.knowledge_id
          where s.is_found and x.embedding_model = %1$L order by 1 for update of x skip locked))
    ), lost as (
      insert into private.stray_vectors (knowledge_id, embedding_model, workspace_id, embedding, remoteness)
      select v.knowledge_id, v.embedding_model, $1, v.embedding, t.remoteness[array_position(t.ids, v.knowledge_id)]
        from (select array_agg(w.knowledge_id) as ids, array_agg(w.remoteness) as remoteness
                from (select s.knowledge_id, s.remoteness from seen s where not s.is_found
                       order by s.remoteness desc, s.knowledge_id limit $4) w) t
       cross join lateral (
         select v.* from private.item_vectors v
          where v.knowledge_id = any (t.ids) and v.embedding_model = %1$L
          order by v.knowledge_id for share of v skip locked) v
      on conflict on constraint stray_vectors_pkey do nothing
    )
    select count(*), (select s.knowledge_id from slice s order by s.knowledge_id desc limit 1) from seen
    $sql$, (model).name, (model).dimensions)
    into checked, reached using workspace_id, after, max_vectors, v_most;
  v_over := array(
    select y.knowledge_id from private.stray_vectors y
     where y.workspace_id = check_some_vectors.workspace_id and y.embedding_model = (model).name
     order by y.remoteness desc, y.knowledge_id offset v_most);
  delete from private.stray_vectors y
   where y.embedding_model = (model).name and y.knowledge_id = any (array(
     select x.knowledge_id from private.stray_vectors x
      where x.embedding_model = (model).name and x.knowledge_id = any (v_over) order by 1 for update skip locked));
end
$$;
comment on function private.check_some_vectors(uuid, public.embedding_models, uuid, integer) is
  'Looks for some vectors of a workspace, in the order of their items, and writes down which of them the index doesn''t find.';

-- definer because vectors are nobody's to read.
create function public.check_vectors(max_vectors integer default 500, embedding_model text default null)
returns integer
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_written bigint := (select t.n_tup_ins + t.n_tup_upd from pg_stat_user_tables t
                        where t.relid = 'private.item_vectors'::regclass);
  v_due record;
  v_round private.vector_rounds;
  v_done record;
  v_checked integer := 0;
begin
  if not private.is_trusted() then
    perform private.fail('PT403', 'only service_role checks vectors');
  end if;
  if max_vectors is null or max_vectors not between 1 and 10000 then
    perform private.fail('PT400', 'max_vectors is between 1 and 10000');
  end if;
  -- The worker beside has another workspace, or nothing to do.
  for v_due in
    select l.workspace_id, m as model
      from private.large_workspaces l
      cross join public.embedding_models m
      left join private.vector_rounds r on r.workspace_id = l.workspace_id and r.embedding_model = m.name
     where (check_vectors.embedding_model is null or m.name = check_vectors.embedding_model)
       and (r.workspace_id is null or r.finished_at is null
            or (r.written <> v_written
                and now() - r.finished_at > greatest(interval '10 minutes', 50 * (r.finished_at - r.started_at))))
       -- Without its index, looking one up would compare it with all.
       and exists (select from pg_index i
                    where i.indexrelid = to_regclass('private.' || quote_ident(private.embedding_index_name(m.name)))
                      and i.indisvalid)
       -- Not exists(), which would be answered for all workspaces at once.
       and (select true from private.item_vectors v
             where v.workspace_id = l.workspace_id and v.embedding_model = m.name limit 1)
     order by r.started_at nulls first, l.workspace_id, m.name
  loop
    insert into private.vector_rounds (workspace_id, embedding_model, written)
    values (v_due.workspace_id, (v_due.model).name, coalesce(v_written, 0))
    on conflict on constraint vector_rounds_pkey do nothing;
    select r.* into v_round from private.vector_rounds r
     where r.workspace_id = v_due.workspace_id and r.embedding_model = (v_due.model).name
       for no key update skip locked;
    continue when not found;
    if v_round.finished_at is not null then
      v_round.reached := null;
      v_round.started_at := clock_timestamp();
      v_round.written := coalesce(v_written, 0);
    end if;
    v_done := private.check_some_vectors(v_due.workspace_id, v_due.model, v_round.reached, max_vectors - v_checked);
    v_checked := v_checked + v_done.checked;
    update private.vector_rounds r
       set reached = coalesce(v_done.reached, v_round.reached), started_at = v_round.started_at, written = v_round.written,
           finished_at = case when v_checked < max_vectors then clock_timestamp() end
     where r.workspace_id = v_due.workspace_id and r.embedding_model = (v_due.model).name;
    exit when v_checked >= max_vectors;
  end loop;
  return v_checked;
end
$$;
comment on function public.check_vectors(integer, text) is
  'Looks up some vectors of large workspaces (of one model or all) by their index, so that those which it doesn''t find are compared with every query; says how many, 0: none is due. For service_role; the worker calls it.';

revoke execute on function
  private.check_some_vectors(uuid, public.embedding_models, uuid, integer), public.check_vectors(integer, text)
  from public, anon, authenticated, service_role;
grant execute on function public.check_vectors(integer, text) to service_role;
