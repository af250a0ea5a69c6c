-- Retrieval: the right piece, at the right moment, with the reason why.
--
-- Owns: find_similar_knowledge, search_knowledge, recall_knowledge, get_contextual_knowledge.
--
-- Invariants
--   * SECURITY INVOKER: whatever nominates an item, the caller's policies on knowledge_items decide.
--   * One model at a time: a query's vector is compared with vectors of its own model only.
--   * Several arms (meaning, words, triggers), each able to nominate. They are fused by score: the union of their
--     candidates, each arm's score for all of them, stretched to 0..1. Ranks (reciprocal rank fusion) would let a
--     weak arm drown a strong one.
--   * Deprecated, superseded and expired items are left out unless their status is asked for.
--   * Each result says why it is there.
--
-- The vector arm compares half vectors, which the partial HNSW index of the model serves. PostgreSQL can match that
-- index only with the model's name and size as literals, hence the dynamic SQL; values stay parameters.

set local lock_timeout = '5s';

-- pgvector must be loaded before functions with `set hnsw.…` can be made by a role that is not superuser.
select '[1]'::extensions.vector;

create type private.item_filters as (
  workspace_id uuid, validation_statuses text[], include_retired boolean, knowledge_types text[], categories text[],
  project_context text, tags text[], min_importance integer, created_after timestamptz, created_before timestamptz,
  exclude_ids uuid[]
);
comment on type private.item_filters is
  'Which items a search is about; null: no restriction. include_retired lets superseded and expired items in.';

create function private.nearest_query(model public.embedding_models, exact boolean)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  -- `+ 0` makes the distance an expression that no index is sorted by: every row is compared.
  select format($sql$
    select k.id, k.title::text, k.content, k.knowledge_type::text,
           1 - ((k.content_embedding::extensions.halfvec(%1$s)) operator(extensions.<=>) $1)
      from public.knowledge_items k
     where k.embedding_model = %2$L and k.workspace_id = ($2).workspace_id
       and k.validation_status = any (($2).validation_statuses)
       and (k.superseded_by is null or ($2).include_retired)
       and (k.valid_to is null or k.valid_to > now() or ($2).include_retired)
       and (($2).knowledge_types is null or k.knowledge_type = any (($2).knowledge_types))
       and (($2).categories is null or k.category = any (($2).categories))
       and (($2).project_context is null or k.project_context = ($2).project_context)
       and (($2).tags is null or k.retrieval_triggers && ($2).tags)
       and (($2).min_importance is null or k.importance_score >= ($2).min_importance)
       and (($2).created_after is null or k.created_at >= ($2).created_after)
       and (($2).created_before is null or k.created_at < ($2).created_before)
       and (($2).exclude_ids is null or k.id <> all (($2).exclude_ids))
     order by ((k.content_embedding::extensions.halfvec(%1$s)) operator(extensions.<=>) $1) %3$s
     limit $3
    $sql$, model.dimensions, model.name, case when exact then '+ 0' else '' end)
$$;
comment on function private.nearest_query(public.embedding_models, boolean) is
  'The SQL that finds the items nearest to a vector: with the model''s name and size as literals, which its partial index takes.';

create type private.vector_scope as (model public.embedding_models, exact boolean);
comment on type private.vector_scope is 'The model whose vectors a search compares, and whether it compares all of them.';

-- definer because large_workspaces is not the caller's to read. Of a foreign workspace it tells nothing.
create function private.vector_scope(workspace_id uuid, embedding_model text, query_embedding extensions.vector)
returns private.vector_scope
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_scope private.vector_scope;
begin
  select m, l.workspace_id is null into v_scope.model, v_scope.exact
    from public.embedding_models m
    left join public.workspaces w on w.id = vector_scope.workspace_id
      and (private.is_trusted() or exists (
        select from public.workspace_members u where u.workspace_id = w.id and u.user_id = auth.uid()))
    left join private.large_workspaces l on l.workspace_id = w.id
   where case when vector_scope.embedding_model is not null then m.name = vector_scope.embedding_model
              when w.embedding_model is not null then m.name = w.embedding_model
              else m.is_default end;
  if (v_scope.model).dimensions is distinct from extensions.vector_dims(query_embedding) then
    perform private.require_model(
      coalesce(vector_scope.embedding_model, private.model_of_workspace(vector_scope.workspace_id)), query_embedding);
  end if;
  return v_scope;
end
$$;
comment on function private.vector_scope(uuid, text, extensions.vector) is
  'The model to compare a vector with (the one named, else the workspace''s) and the way; an error when it is unknown or the vector''s length is not its.';

create function private.nearest_items(
  query_embedding extensions.vector, scope private.vector_scope, filters private.item_filters, how_many integer
)
returns table (id uuid, title text, content text, knowledge_type text, similarity double precision)
language plpgsql
stable
rows 100
set search_path = pg_catalog, pg_temp
-- The index walk goes on until enough rows pass the policy and the filters.
set hnsw.iterative_scan = 'relaxed_order'
set hnsw.ef_search = 100
-- The planner can't know how far a walk has to go, and likes to fetch the whole workspace and sort it.
set enable_sort = off
as $$
begin
  return query execute private.nearest_query(scope.model, scope.exact)
    using query_embedding::extensions.halfvec, filters, how_many;
end
$$;
comment on function private.nearest_items(extensions.vector, private.vector_scope, private.item_filters, integer) is
  'The items nearest to a vector: in a small workspace by comparing all, in a large one by the model''s HNSW index.';

create function public.find_similar_knowledge(
  query_embedding extensions.vector, knowledge_type_filter text default null, limit_results integer default 10,
  similarity_threshold double precision default null, embedding_model text default null
)
returns table (id uuid, title text, content text, similarity_score double precision, knowledge_type text)
language plpgsql
stable
rows 10
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_filters private.item_filters;
  v_scope private.vector_scope;
begin
  if query_embedding is null then
    perform private.fail('PT400', 'query_embedding is missing', 'search_knowledge searches without a vector');
  end if;
  if limit_results is null or limit_results not between 1 and 1000 then
    perform private.fail('PT400', 'limit_results is between 1 and 1000');
  end if;
  v_filters.workspace_id := private.current_workspace();
  v_filters.validation_statuses := '{pending,validated,needs_update}';
  v_filters.include_retired := false;
  if knowledge_type_filter is not null then
    v_filters.knowledge_types := array[knowledge_type_filter];
  end if;
  v_scope := private.vector_scope(v_filters.workspace_id, find_similar_knowledge.embedding_model, query_embedding);
  return query
    select n.id, n.title, n.content, n.similarity, n.knowledge_type
      from private.nearest_items(query_embedding, v_scope, v_filters, limit_results) n
     where n.similarity >= coalesce(find_similar_knowledge.similarity_threshold, (v_scope.model).similarity_threshold)
     order by n.similarity desc, n.id;
end
$$;
comment on function public.find_similar_knowledge(extensions.vector, text, integer, double precision, text) is
  'The items nearest in meaning to a vector, best first. similarity_score is the cosine similarity; the threshold defaults to the model''s own, the model to the workspace''s.';

create type public.recalled_knowledge as (
  knowledge_id uuid, title text, content text, knowledge_type text, category text, project_context text,
  validation_status text, importance_score integer, retrieval_triggers text[], context_data jsonb,
  created_at timestamptz, score double precision, vector_score double precision, keyword_score double precision,
  trigger_score double precision, relevance_reason text
);
comment on type public.recalled_knowledge is
  'A search result. score orders; the arms'' scores are 0 to 1, null where the arm has no vote; vector_score is the cosine similarity, keyword_score is relative to the best match of the words.';

create function public.search_knowledge(
  query_text text default null, query_embedding extensions.vector default null, knowledge_types text[] default null,
  categories text[] default null, project_context text default null, tags text[] default null,
  min_importance integer default null, validation_statuses text[] default null,
  created_after timestamptz default null, created_before timestamptz default null, exclude_ids uuid[] default null,
  max_results integer default 10, embedding_model text default null
)
returns setof public.recalled_knowledge
language plpgsql
stable
rows 10
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_candidates constant integer := 100;
  v_text text := nullif(btrim(search_knowledge.query_text), '');
  v_filters private.item_filters := row(
    private.current_workspace(),
    coalesce(search_knowledge.validation_statuses, '{pending,validated,needs_update}'),
    coalesce(search_knowledge.validation_statuses && '{deprecated}', false),
    search_knowledge.knowledge_types, search_knowledge.categories, search_knowledge.project_context,
    search_knowledge.tags, search_knowledge.min_importance, search_knowledge.created_after,
    search_knowledge.created_before, search_knowledge.exclude_ids);
  v_workspace uuid := v_filters.workspace_id;
  v_retired boolean := v_filters.include_retired;
  v_scope private.vector_scope;
  v_model public.embedding_models;
  v_nearest uuid[] := '{}';
begin
  if v_text is null and search_knowledge.query_embedding is null then
    perform private.fail('PT400', 'nothing to search for', 'pass query_text, query_embedding, or both');
  end if;
  if search_knowledge.max_results is null or search_knowledge.max_results not between 1 and 1000 then
    perform private.fail('PT400', 'max_results is between 1 and 1000');
  end if;
  if v_workspace is null then
    return;  -- a user who has not written anything has nothing to find
  end if;

  if search_knowledge.query_embedding is not null then
    v_scope := private.vector_scope(v_workspace, search_knowledge.embedding_model, search_knowledge.query_embedding);
    v_model := v_scope.model;
    v_nearest := array(
      select n.id
        from private.nearest_items(search_knowledge.query_embedding, v_scope, v_filters, v_candidates) n);
  end if;

  return query
    with words as materialized (
      select * from private.keyword_candidates(v_workspace, v_text, v_retired, 1000) where v_text is not null
    ), triggers as materialized (
      select * from private.trigger_candidates(v_workspace, v_text, v_retired, v_candidates) where v_text is not null
    ), nominated as (
      select unnest(v_nearest) as id
      union select w.knowledge_id from words w
      union select t.knowledge_id from triggers t
    ), scored as (
      select k.*, w.keyword_score as keyword_raw, w.matched_words, t.trigger_score as trigger_raw, t.matched_triggers,
             case when k.embedding_model = v_model.name
               then 1 - (k.content_embedding operator(extensions.<=>) search_knowledge.query_embedding) end as similarity
        from nominated n
        join public.knowledge_items k on k.id = n.id
        left join words w on w.knowledge_id = k.id
        left join triggers t on t.knowledge_id = k.id
       where k.workspace_id = v_workspace
         and k.validation_status = any (v_filters.validation_statuses) and (k.superseded_by is null or v_retired)
         and (k.valid_to is null or k.valid_to > now() or v_retired)
         and (search_knowledge.knowledge_types is null or k.knowledge_type = any (search_knowledge.knowledge_types))
         and (search_knowledge.categories is null or k.category = any (search_knowledge.categories))
         and (search_knowledge.project_context is null or k.project_context = search_knowledge.project_context)
         and (search_knowledge.tags is null or k.retrieval_triggers && search_knowledge.tags)
         and (search_knowledge.min_importance is null or k.importance_score >= search_knowledge.min_importance)
         and (search_knowledge.created_after is null or k.created_at >= search_knowledge.created_after)
         and (search_knowledge.created_before is null or k.created_at < search_knowledge.created_before)
         and (search_knowledge.exclude_ids is null or k.id <> all (search_knowledge.exclude_ids))
    ), stretched as (
      select s.*,
             s.keyword_raw / nullif(max(s.keyword_raw) over (), 0) as keyword_share,
             (s.similarity - min(s.similarity) over ())
               / nullif(max(s.similarity) over () - min(s.similarity) over (), 0) as similarity_share
        from scored s
    ), voted as (
      select s.*,
             -- An arm that could not vote on an item (no vector yet, no words asked) leaves the vote to the other.
             -- A trigger closes part of the gap to a perfect score.
             1 - (1 - 0.6 * coalesce(s.trigger_raw, 0)) * (1 - case
               when s.similarity is null then coalesce(s.keyword_share, 0)
               when v_text is null then coalesce(s.similarity_share, 1)
               else 0.5 * coalesce(s.keyword_share, 0) + 0.5 * coalesce(s.similarity_share, 1)
             end) as fused
        from stretched s
       where s.keyword_raw is not null or s.trigger_raw is not null
          or s.similarity >= v_model.similarity_threshold / 2
    )
    select v.id, v.title::text, v.content, v.knowledge_type::text, v.category::text, v.project_context::text,
           v.validation_status::text, v.importance_score, v.retrieval_triggers, v.context_data, v.created_at,
           least(f.score, 1), v.similarity, v.keyword_share, v.trigger_raw,
           concat_ws('; ',
             'has the trigger ' || (select string_agg(format('"%s"', x), ', ') from unnest(v.matched_triggers[1:3]) x),
             case when v.keyword_share >= 0.2 then coalesce(
               'shares the words ' || (select string_agg(x, ', ') from unnest(v.matched_words[1:4]) x),
               'recorded beside matching words') end,
             case when v.similarity >= v_model.similarity_threshold
               then format('close in meaning (%s)', round(v.similarity::numeric, 2)) end,
             case when v.trigger_raw is null and coalesce(v.keyword_share, 0) < 0.2
                       and coalesce(v.similarity, -1) < v_model.similarity_threshold then 'a loose match' end,
             case v.validation_status when 'validated' then 'validated' when 'needs_update' then 'needs an update'
               when 'deprecated' then 'deprecated' end,
             case when v.success_count > 0 then format('worked %s of %s times', v.success_count, v.success_count + v.failure_count) end)
      from voted v
      cross join lateral (
        -- Trust, importance and age move a result by a few percent each: they settle near ties, never relevance.
        select v.fused
             * case v.validation_status when 'validated' then 1.05 when 'needs_update' then 0.95
                                        when 'deprecated' then 0.8 else 1 end
             * (1 + 0.05 * ((coalesce(v.rating_sum, 0) + 2 * 5.5) / (coalesce(v.rating_count, 0) + 2) - 5.5) / 4.5)
             * (1 + 0.05 * (v.success_count - v.failure_count) / (v.success_count + v.failure_count + 2.0))
             * (1 + 0.05 * (v.importance_score - 50) / 50.0)
             * (1 + 0.02 * exp(-extract(epoch from now() - v.updated_at) / (86400.0 * 30)))
             as score
      ) f
     order by f.score desc, v.id
     limit search_knowledge.max_results;
end
$$;
comment on function public.search_knowledge(text, extensions.vector, text[], text[], text, text[], integer, text[], timestamptz, timestamptz, uuid[], integer, text) is
  'Hybrid search of the current workspace by words, meaning and triggers, best first, each result with its scores and the reason in words. Reads only; recall_knowledge also logs the access.';

create function public.recall_knowledge(
  query_text text default null, query_embedding extensions.vector default null, knowledge_types text[] default null,
  categories text[] default null, project_context text default null, tags text[] default null,
  min_importance integer default null, validation_statuses text[] default null,
  created_after timestamptz default null, created_before timestamptz default null, exclude_ids uuid[] default null,
  max_results integer default 10, embedding_model text default null
)
returns setof public.recalled_knowledge
language plpgsql
volatile
rows 10
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_found public.recalled_knowledge[];
begin
  select coalesce(array_agg(s), '{}') into v_found
    from public.search_knowledge(recall_knowledge.query_text, recall_knowledge.query_embedding,
      recall_knowledge.knowledge_types, recall_knowledge.categories, recall_knowledge.project_context,
      recall_knowledge.tags, recall_knowledge.min_importance, recall_knowledge.validation_statuses,
      recall_knowledge.created_after, recall_knowledge.created_before, recall_knowledge.exclude_ids,
      recall_knowledge.max_results, recall_knowledge.embedding_model) s;
  perform private.log_access(array(select f.knowledge_id from unnest(v_found) f));
  return query select * from unnest(v_found);
end
$$;
comment on function public.recall_knowledge(text, extensions.vector, text[], text[], text, text[], integer, text[], timestamptz, timestamptz, uuid[], integer, text) is
  'search_knowledge, and counts the access on the items and in the current session, in one round trip.';

create function public.get_contextual_knowledge(
  current_situation text, project_context text default null, max_results integer default 20,
  situation_embedding extensions.vector default null, embedding_model text default null
)
returns table (
  knowledge_id uuid, title text, content text, relevance_reason text, knowledge_type text, score double precision
)
language plpgsql
stable
rows 20
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_project text := coalesce(get_contextual_knowledge.project_context,
    (select s.project_context from public.ai_sessions s where s.id = private.current_session()));
begin
  -- What belongs to the project comes up sooner, what doesn't still may.
  return query
    select s.knowledge_id, s.title, s.content,
           concat_ws('; ', s.relevance_reason, case when s.project_context = v_project then 'same project' end),
           s.knowledge_type,
           least(s.score * case when s.project_context = v_project then 1.15 else 1 end, 1)
      from public.search_knowledge(
             query_text => current_situation, query_embedding => situation_embedding,
             max_results => least(greatest(get_contextual_knowledge.max_results, 1) * 3, 1000),
             embedding_model => get_contextual_knowledge.embedding_model)
           with ordinality as s (knowledge_id, title, content, knowledge_type, category, project_context,
             validation_status, importance_score, retrieval_triggers, context_data, created_at, score, vector_score,
             keyword_score, trigger_score, relevance_reason, place)
     order by s.score * case when s.project_context = v_project then 1.15 else 1 end desc, s.place
     limit get_contextual_knowledge.max_results;
end
$$;
comment on function public.get_contextual_knowledge(text, text, integer, extensions.vector, text) is
  'What is worth knowing in a situation described in words (and optionally as a vector), items of the project first among equals, each with the reason.';

revoke execute on function
  private.nearest_query(public.embedding_models, boolean),
  private.vector_scope(uuid, text, extensions.vector),
  private.nearest_items(extensions.vector, private.vector_scope, private.item_filters, integer),
  public.find_similar_knowledge(extensions.vector, text, integer, double precision, text),
  public.search_knowledge(text, extensions.vector, text[], text[], text, text[], integer, text[], timestamptz, timestamptz, uuid[], integer, text),
  public.recall_knowledge(text, extensions.vector, text[], text[], text, text[], integer, text[], timestamptz, timestamptz, uuid[], integer, text),
  public.get_contextual_knowledge(text, text, integer, extensions.vector, text)
  from public, anon, authenticated, service_role;
grant execute on function
  private.nearest_query(public.embedding_models, boolean),
  private.vector_scope(uuid, text, extensions.vector),
  private.nearest_items(extensions.vector, private.vector_scope, private.item_filters, integer),
  public.find_similar_knowledge(extensions.vector, text, integer, double precision, text),
  public.search_knowledge(text, extensions.vector, text[], text[], text, text[], integer, text[], timestamptz, timestamptz, uuid[], integer, text),
  public.get_contextual_knowledge(text, text, integer, extensions.vector, text)
  to authenticated, service_role;
grant execute on function
  public.recall_knowledge(text, extensions.vector, text[], text[], text, text[], integer, text[], timestamptz, timestamptz, uuid[], integer, text)
  to authenticated;
