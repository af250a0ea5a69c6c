-- Retrieval: the right piece, at the right moment, with the reason why.
--
-- Owns: find_similar_knowledge, search_knowledge, recall_knowledge, get_contextual_knowledge.
--
-- Invariants
--   * SECURITY INVOKER: whatever nominates and ranks an item, the caller's policies on knowledge_items decide whether
--     it is returned. What nominates and ranks is a definer function that carries the same rule itself: policies would
--     be asked for hundreds of candidates again and again.
--   * One model at a time: a query's vector is compared with vectors of its own model only.
--   * Several arms (meaning, words, triggers, relationships of the best), each able to nominate. They are fused by
--     score: the union of their candidates, each arm's score for all of them, stretched to 0..1. Ranks (reciprocal
--     rank fusion) would let a weak arm drown a strong one.
--   * Items that are deprecated, superseded, expired or not yet valid are left out unless their status is asked for.
--   * As of a moment, what counts is what held then: an item's status, what superseded it, until when it was valid.
--     Texts and triggers are today's: the store keeps no versions of them.
--   * Each result says why it is there.
--
-- The vector arm compares half vectors. PostgreSQL can match a model's partial HNSW index only with the model's name
-- and size as literals, hence the dynamic SQL; values stay parameters.

set local lock_timeout = '5s';

-- pgvector must be loaded before functions with `set hnsw.…` can be made by a role that is not superuser.
select '[1]'::extensions.vector;

create type private.item_filters as (
  workspace_id uuid, validation_statuses text[], include_retired boolean, knowledge_types text[], categories text[],
  project_context text, tags text[], min_importance integer, created_after timestamptz, created_before timestamptz,
  exclude_ids uuid[], updated_after timestamptz, updated_before timestamptz, author_id uuid, session_id uuid,
  context_data jsonb, as_of timestamptz
);
comment on type private.item_filters is
  'Which items a search is about; null: no restriction. include_retired lets items in that are superseded, expired or not yet valid.';

create function private.was_current(item public.knowledge_items, validation_statuses text[], as_of timestamptz)
returns boolean
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_status text;
  v_valid_to timestamptz;
  v_superseded boolean;
begin
  if item.created_at > was_current.as_of or item.valid_from > was_current.as_of then
    return false;
  end if;
  -- The first change after the moment tells what was before it; none: what is now.
  select h.from_status into v_status from public.knowledge_status_history h
    where h.knowledge_id = item.id and h.change = 'status' and h.from_status is not null and h.changed_at > was_current.as_of
    order by h.id limit 1;
  if coalesce(v_status, item.validation_status) <> all (was_current.validation_statuses) then
    return false;
  end if;
  if '{deprecated}' && was_current.validation_statuses then
    return true;
  end if;
  select h.change = 'superseded' into v_superseded from public.knowledge_status_history h
    where h.knowledge_id = item.id and h.change in ('superseded', 'restored') and h.changed_at <= was_current.as_of
    order by h.id desc limit 1;
  if v_superseded then
    return false;
  end if;
  v_valid_to := item.valid_to;
  select h.valid_to_before into v_valid_to from public.knowledge_status_history h
    where h.knowledge_id = item.id and h.change = 'superseded' and h.changed_at > was_current.as_of
    order by h.id limit 1;
  if not found then
    v_valid_to := item.valid_to;
  end if;
  return v_valid_to is null or v_valid_to > was_current.as_of;
end
$$;
comment on function private.was_current(public.knowledge_items, text[], timestamptz) is
  'Whether an item had been recorded by then, held then, had one of these statuses and nothing that superseded it.';

create function private.filter_conditions(filters private.item_filters)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $fragment$
  select concat_ws(' and ',
    'k.workspace_id = ($2).workspace_id',
    case when (filters).as_of is not null then 'private.was_current(k, ($2).validation_statuses, ($2).as_of)'
         else 'k.validation_status = any (($2).validation_statuses)' end,
    case when (filters).as_of is null and not (filters).include_retired
         then 'k.superseded_by is null and (k.valid_from is null or k.valid_from <= now()) and (k.valid_to is null or k.valid_to > now())' end,
    case when (filters).knowledge_types is not null then 'k.knowledge_type = any (($2).knowledge_types)' end,
    case when (filters).categories is not null then 'k.category = any (($2).categories)' end,
    case when (filters).project_context is not null then 'k.project_context = ($2).project_context' end,
    case when (filters).tags is not null then 'k.retrieval_triggers && ($2).tags' end,
    case when (filters).min_importance is not null then 'k.importance_score >= ($2).min_importance' end,
    case when (filters).created_after is not null then 'k.created_at >= ($2).created_after' end,
    case when (filters).created_before is not null then 'k.created_at < ($2).created_before' end,
    case when (filters).exclude_ids is not null then 'k.id <> all (($2).exclude_ids)' end,
    case when (filters).updated_after is not null then 'k.updated_at >= ($2).updated_after' end,
    case when (filters).updated_before is not null then 'k.updated_at < ($2).updated_before' end,
    case when (filters).author_id is not null then 'k.owner_id = ($2).author_id' end,
    case when (filters).session_id is not null then 'k.created_in_session = ($2).session_id' end,
    case when (filters).context_data is not null then 'k.context_data @> ($2).context_data' end)
$fragment$;
comment on function private.filter_conditions(private.item_filters) is
  'The conditions that a search puts on knowledge_items k, as SQL with the filters as $2; only those that there are, since it is planned at each search.';

create function private.has_filters(filters private.item_filters)
returns boolean
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  filters.workspace_id := null;
  filters.validation_statuses := null;
  filters.include_retired := nullif(filters.include_retired, false);
  return not filters is null;  -- whatever else there is, or comes to be, is a filter
end
$$;
comment on function private.has_filters(private.item_filters) is
  'Whether a search of current items is about some of them only; the statuses are no filter, every search has them.';

create function private.visible_conditions()
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $fragment$
  select $$(($3).sees_all or k.validation_status in ('validated', 'needs_update')
    or (k.validation_status = 'deprecated' and k.validated_at is not null)
    or k.owner_id = ($3).user_id or k.created_in_session = ($3).session_id)$$
$fragment$;
comment on function private.visible_conditions() is
  'The visibility rule on knowledge_items k of a workspace that the viewer is a member of, as SQL with the viewer as $3.';

create type private.vector_scope as (model public.embedding_models, exact boolean, has_strays boolean);
comment on type private.vector_scope is 'The model whose vectors a search compares, whether it compares all of them, and whether the index has lost sight of some.';

create function private.scope_of(workspace_id uuid, embedding_model text, query_embedding extensions.vector)
returns private.vector_scope
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_name text := coalesce(embedding_model, private.model_of_workspace(workspace_id));
  v_scope private.vector_scope;
begin
  select m, l.workspace_id is null,
         exists (select from private.stray_vectors s where s.workspace_id = l.workspace_id and s.embedding_model = m.name)
    into v_scope.model, v_scope.exact, v_scope.has_strays
    from public.embedding_models m
    left join private.large_workspaces l on l.workspace_id = scope_of.workspace_id
   where m.name = v_name;
  if (v_scope.model).dimensions is distinct from extensions.vector_dims(query_embedding)
     or not extensions.l2_norm(query_embedding::extensions.halfvec) > 0 then
    perform private.require_model(v_name, query_embedding);
  end if;
  return v_scope;
end
$$;
comment on function private.scope_of(uuid, text, extensions.vector) is
  'The model to compare a vector with (the one named, else the workspace''s) and the way; an error when require_model has one.';

-- definer because large_workspaces is not the caller's to read. Of a foreign workspace it tells nothing.
create function private.vector_scope(workspace_id uuid, embedding_model text, query_embedding extensions.vector)
returns private.vector_scope
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  return private.scope_of(
    (select w.id from public.workspaces w
      where w.id = vector_scope.workspace_id
        and (private.is_trusted() or exists (
          select from public.workspace_members u where u.workspace_id = w.id and u.user_id = auth.uid()))),
    embedding_model, query_embedding);
end
$$;
comment on function private.vector_scope(uuid, text, extensions.vector) is 'scope_of for the caller.';

create type private.near_item as (id uuid, similarity double precision);
comment on type private.near_item is 'An item with its cosine similarity to what was asked.';

create function private.with_strays(
  viewer private.viewer, query_embedding extensions.halfvec, embedding_model text, filters private.item_filters,
  near private.near_item[]
)
returns private.near_item[]
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = 'force_generic_plan'
as $$
declare
  v_found private.near_item[];
  v_nearer private.near_item[] := array(
    select row(s.knowledge_id, 1 - (s.embedding operator(extensions.<=>) query_embedding))::private.near_item
      from private.stray_vectors s
     where s.workspace_id = (filters).workspace_id and s.embedding_model = with_strays.embedding_model
       and 1 - (s.embedding operator(extensions.<=>) query_embedding) > (select min(m.similarity) from unnest(near) m));
begin
  if cardinality(v_nearer) = 0 then
    return near;
  end if;
  execute format($sql$
    select array(
      select row(f.id, f.similarity)::private.near_item
        from (select u.id, u.similarity from unnest($1) u
              union
              select k.id, n.similarity from unnest($4) n join public.knowledge_items k on k.id = n.id
               where %1$s and %2$s) f
       order by f.similarity desc, f.id
       limit cardinality($1))
    $sql$, private.visible_conditions(), private.filter_conditions(filters))
    into v_found using near, filters, viewer, v_nearer;
  return v_found;
end
$$;
comment on function private.with_strays(private.viewer, extensions.halfvec, text, private.item_filters, private.near_item[]) is
  'As many of the nearest as an index walk has found, of those and the strays, visible to the viewer.';

create function private.walk_vectors(
  viewer private.viewer, query_embedding extensions.vector, scope private.vector_scope, filters private.item_filters,
  how_many integer
)
returns private.near_item[]
language plpgsql
stable
set search_path = pg_catalog, pg_temp
-- The index walk goes on until enough rows pass the rule and the filters.
set hnsw.iterative_scan = 'relaxed_order'
set hnsw.ef_search = 100
-- The planner can't know how far a walk has to go, and likes to fetch the whole workspace and sort it.
set enable_sort = off
as $$
declare
  v_found private.near_item[];
begin
  execute format($sql$
    select array(
      select row(k.id, 1 - ((v.embedding::extensions.halfvec(%1$s)) operator(extensions.<=>) $1))::private.near_item
        from private.item_vectors v
        join public.knowledge_items k on k.id = v.knowledge_id
       where v.embedding_model = %2$L and v.workspace_id = ($2).workspace_id and %3$s and %4$s
       order by (v.embedding::extensions.halfvec(%1$s)) operator(extensions.<=>) $1
       limit $4)
    $sql$, (scope.model).dimensions, (scope.model).name, private.visible_conditions(), private.filter_conditions(filters))
    into v_found using query_embedding::extensions.halfvec, filters, viewer, how_many;
  return v_found;
end
$$;
comment on function private.walk_vectors(private.viewer, extensions.vector, private.vector_scope, private.item_filters, integer) is
  'The items nearest to a vector, visible to the viewer, by the model''s HNSW index; fewer than asked for where it has met too few.';

create function private.compare_vectors(
  viewer private.viewer, query_embedding extensions.vector, scope private.vector_scope, filters private.item_filters,
  how_many integer
)
returns private.near_item[]
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_found private.near_item[];
begin
  -- Sorted by an expression that no index is sorted by: every vector of the workspace is compared.
  execute format($sql$
    select array(
      select row(k.id, 1 - v.distance)::private.near_item
        from (select v.knowledge_id, v.embedding operator(extensions.<=>) $1 as distance
                from private.item_vectors v
               where v.embedding_model = %1$L and v.workspace_id = ($2).workspace_id) v
        join public.knowledge_items k on k.id = v.knowledge_id
       where %2$s and %3$s
       order by v.distance, k.id
       limit $4)
    $sql$, (scope.model).name, private.visible_conditions(), private.filter_conditions(filters))
    into v_found using query_embedding::extensions.halfvec, filters, viewer, how_many;
  return v_found;
end
$$;
comment on function private.compare_vectors(private.viewer, extensions.vector, private.vector_scope, private.item_filters, integer) is
  'The items nearest to a vector, visible to the viewer, by comparing all of the workspace.';

-- What almost every search is: current items, and no filters. Its statements are written out for each model and planned
-- once a connection; planning them costs as much as running them.
create function private.write_plain_vectors()
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_none private.item_filters;
  v_rule text;
  v_branches text;
begin
  perform '[1]'::extensions.vector;  -- loads pgvector: its settings below are refused before that
  v_none.include_retired := false;
  v_rule := private.visible_conditions() || ' and ' || private.filter_conditions(v_none);
  select string_agg(format($branch$
  elsif (($5).model).name = %1$L then
    v_found := array(
      select row(k.id, 1 - v.distance)::private.near_item
        from (select v.knowledge_id, (v.embedding::extensions.halfvec(%2$s)) operator(extensions.<=>) $1 as distance
                from private.item_vectors v
               where v.embedding_model = %1$L and v.workspace_id = ($2).workspace_id
               order by (v.embedding::extensions.halfvec(%2$s)) operator(extensions.<=>) $1) v
       cross join lateral (
         select k.id from public.knowledge_items k where k.id = v.knowledge_id and %3$s offset 0) k
       limit $4);$branch$, m.name, m.dimensions, v_rule), '' order by m.name)
    into v_branches from public.embedding_models m;
  -- Quoted as a literal: a model may be called whatever its operator likes.
  execute $function$
create or replace function private.plain_vectors(
  query_embedding extensions.halfvec, filters private.item_filters, viewer private.viewer, how_many integer,
  scope private.vector_scope
)
returns private.near_item[]
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = 'force_generic_plan'
set hnsw.iterative_scan = 'relaxed_order'
set hnsw.ef_search = 100
-- As in walk_vectors; comparing all has no other way than to sort.
set enable_sort = off
as $function$ || quote_literal(format($body$
declare
  v_found private.near_item[];
begin
  if ($5).exact then
    return array(
      select row(k.id, 1 - v.distance)::private.near_item
        from (select v.knowledge_id, v.embedding operator(extensions.<=>) $1 as distance
                from private.item_vectors v
               where v.workspace_id = ($2).workspace_id and v.embedding_model = (($5).model).name
               order by 2, 1) v
       cross join lateral (
         select k.id from public.knowledge_items k where k.id = v.knowledge_id and %1$s offset 0) k
       limit $4);%2$s
  end if;
  return v_found;
end
$body$, v_rule, v_branches));
end
$$;
comment on function private.write_plain_vectors() is
  'Writes private.plain_vectors for the models that there are.';
select private.write_plain_vectors();
comment on function private.plain_vectors(extensions.halfvec, private.item_filters, private.viewer, integer, private.vector_scope) is
  'The items nearest to a vector, visible to the viewer, without filters: by comparing all, or by the model''s HNSW index, which may meet too few. Written by write_plain_vectors.';

-- definer because a function belongs to its owner.
create function private.follow_models()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform private.write_plain_vectors();
  return null;
end
$$;
comment on function private.follow_models() is 'Trigger: writes private.plain_vectors anew for another set of models.';
create trigger embedding_models_follow after insert or delete or update of name, dimensions on public.embedding_models
  for each row execute function private.follow_models();

create function private.rank_vectors(
  viewer private.viewer, query_embedding extensions.vector, scope private.vector_scope, filters private.item_filters,
  how_many integer
)
returns private.near_item[]
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_found private.near_item[];
begin
  if not private.has_filters(filters) then
    v_found := private.plain_vectors(query_embedding::extensions.halfvec, filters, viewer, how_many, scope);
  elsif not scope.exact then
    v_found := private.walk_vectors(viewer, query_embedding, scope, filters, how_many);
  end if;
  -- Where a walk ended before it had met enough that may be shown, they are few among many, and are compared all.
  if v_found is null or (not scope.exact and cardinality(v_found) < how_many) then
    return private.compare_vectors(viewer, query_embedding, scope, filters, how_many);
  elsif scope.has_strays then
    return private.with_strays(viewer, query_embedding::extensions.halfvec, (scope.model).name, filters, v_found);
  end if;
  return v_found;
end
$$;
comment on function private.rank_vectors(private.viewer, extensions.vector, private.vector_scope, private.item_filters, integer) is
  'The items nearest to a vector: in a small workspace, or where few pass the filters, by comparing all; else by the model''s HNSW index and among the strays.';

-- definer because item_vectors is nobody's to read; visible_conditions carries the visibility rule.
create function private.nearest_items(
  query_embedding extensions.vector, scope private.vector_scope, filters private.item_filters, how_many integer
)
returns setof private.near_item
language plpgsql
stable
rows 100
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_viewer private.viewer := private.viewer((filters).workspace_id);
begin
  if v_viewer.sees_all is not null then
    return query select * from unnest(private.rank_vectors(v_viewer, query_embedding, scope, filters, how_many));
  end if;
end
$$;
comment on function private.nearest_items(extensions.vector, private.vector_scope, private.item_filters, integer) is
  'rank_vectors for the caller.';

-- definer for the same reason.
create function private.similar_items(
  query_embedding extensions.vector, embedding_model text, filters private.item_filters, how_many integer,
  inout similarity_threshold double precision, out near private.near_item[]
)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_viewer private.viewer := private.viewer();
  v_scope private.vector_scope := private.scope_of(v_viewer.workspace_id, embedding_model, query_embedding);
begin
  similarity_threshold := coalesce(similarity_threshold, (v_scope.model).similarity_threshold);
  if v_viewer.sees_all is not null then
    filters.workspace_id := v_viewer.workspace_id;
    near := private.rank_vectors(v_viewer, query_embedding, v_scope, filters, how_many);
  end if;
end
$$;
comment on function private.similar_items(extensions.vector, text, private.item_filters, integer, double precision) is
  'The items of this request''s workspace that are nearest to a vector, and the similarity from which one counts: the one given, else the model''s.';

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
  v_similar record;
begin
  if query_embedding is null then
    perform private.fail('PT400', 'query_embedding is missing', 'search_knowledge searches without a vector');
  end if;
  if limit_results is null or limit_results not between 1 and 1000 then
    perform private.fail('PT400', 'limit_results is between 1 and 1000');
  end if;
  v_filters.validation_statuses := '{pending,validated,needs_update}';
  v_filters.include_retired := false;
  if knowledge_type_filter is not null then
    v_filters.knowledge_types := array[knowledge_type_filter];
  end if;
  v_similar := private.similar_items(query_embedding, find_similar_knowledge.embedding_model, v_filters, limit_results,
    find_similar_knowledge.similarity_threshold);
  return query
    select k.id, k.title::text, k.content, n.similarity, k.knowledge_type::text
      from unnest(v_similar.near) n
      join public.knowledge_items k on k.id = n.id
     where n.similarity >= v_similar.similarity_threshold
     order by n.similarity desc, n.id;
end
$$;
comment on function public.find_similar_knowledge(extensions.vector, text, integer, double precision, text) is
  'The items nearest in meaning to a vector, best first. similarity_score is the cosine similarity; the threshold defaults to the model''s own, the model to the workspace''s.';

alter table public.workspaces
  add column retrieval_weights jsonb not null default '{}',
  add constraint workspaces_retrieval_weights_check check (
    jsonb_typeof(retrieval_weights) = 'object'
    and (retrieval_weights - '{meaning,triggers,neighbours,relationships}'::text[]) = '{}'
    and not jsonb_path_exists(retrieval_weights, '$.* ? (@.type() != "number" || @ < 0 || @ > 1)', '{}', true));
comment on column public.workspaces.retrieval_weights is
  'How its searches weigh: meaning (0 to 1; the words have the rest), triggers (the part of the gap to a perfect score that a trigger closes), neighbours (what an item gains from the better of the items recorded just before and after it), relationships (the part of the gap that a relationship of full strength to a perfect result closes). What is missing has its default: 0.8, 0.6, 0.1, 0.3. The surer the words are of themselves, the less meaning weighs, down to half.';

create type public.retrieval_settings as (workspace_id uuid, text_search_config text, retrieval_weights jsonb);
comment on type public.retrieval_settings is 'How a workspace''s searches read and weigh.';

-- definer because workspaces are written by functions only; it checks that the caller owns this one.
create function private.write_retrieval_settings(workspace_id uuid, text_search_config text, retrieval_weights jsonb)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_before text;
  v_items uuid[];
begin
  if not private.is_trusted() and write_retrieval_settings.workspace_id not in (select private.my_workspaces_as('{owner}')) then
    perform private.fail('PT403', 'only an owner of the workspace says how its searches read and weigh');
  end if;
  if not pg_input_is_valid(write_retrieval_settings.text_search_config, 'regconfig') then
    perform private.fail('PT400', format('%L is not a text search configuration', write_retrieval_settings.text_search_config),
      'pg_ts_config lists them: simple, english, german …');
  end if;
  select w.text_search_config into v_before
    from public.workspaces w where w.id = write_retrieval_settings.workspace_id for no key update;
  update public.workspaces w
     set text_search_config = coalesce(write_retrieval_settings.text_search_config, w.text_search_config),
         retrieval_weights = coalesce(write_retrieval_settings.retrieval_weights, w.retrieval_weights)
   where w.id = write_retrieval_settings.workspace_id;
  if write_retrieval_settings.text_search_config <> v_before then
    -- Who is recording at this moment stems as before. Queries go on being stemmed that way, too, so that nothing is
    -- lost, and nobody has to wait.
    insert into private.workspace_languages (workspace_id, config)
    values (write_retrieval_settings.workspace_id, v_before)
    on conflict on constraint workspace_languages_pkey do nothing;
    perform from private.session_keys s
      where s.session_id in (select d.session_id from private.search_documents d
                              where d.workspace_id = write_retrieval_settings.workspace_id)
      order by s.session_id for no key update;
    v_items := array(
      select k.id from public.knowledge_items k where k.workspace_id = write_retrieval_settings.workspace_id
       order by k.id for key share);  -- what is being erased is waited for, and no longer there
    perform private.refresh_search_documents(v_items);
  end if;
exception when check_violation then
  perform private.fail('PT400', 'retrieval_weights is an object of meaning, triggers, neighbours and relationships, numbers from 0 to 1');
end
$$;
comment on function private.write_retrieval_settings(uuid, text, jsonb) is
  'Sets how the searches of a workspace of the caller''s read and weigh; what is null stays. Its documents are built anew when the configuration changes.';

create function public.configure_retrieval(text_search_config text default null, retrieval_weights jsonb default null)
returns setof public.retrieval_settings
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_workspace uuid := private.default_workspace();
begin
  if num_nonnulls(configure_retrieval.text_search_config, configure_retrieval.retrieval_weights) > 0 then
    perform private.write_retrieval_settings(v_workspace, configure_retrieval.text_search_config,
      configure_retrieval.retrieval_weights);
  end if;
  return query
    select w.id, w.text_search_config, w.retrieval_weights from public.workspaces w where w.id = v_workspace;
end
$$;
comment on function public.configure_retrieval(text, jsonb) is
  'Sets how the searches of the current workspace read (text search configuration) and weigh (see workspaces.retrieval_weights), and tells what is set. Null leaves a setting as it is. For owners of the workspace.';

create type private.retrieval_weights as (
  meaning double precision, triggers double precision, neighbours double precision, relationships double precision
);
comment on type private.retrieval_weights is 'How a search weighs its arms, see workspaces.retrieval_weights.';

create type private.link as (knowledge_id uuid, best_id uuid, strength double precision, relationship_type text);
comment on type private.link is 'An item that is related to one of the best, which, how strongly and how.';

create function private.written_word(text text, lexeme text)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  -- Stems are beginnings of words, but for the last letter.
  select coalesce(
    (select w from regexp_split_to_table(written_word.text collate pg_catalog."pg_c_utf8", '[^[:alnum:]_]+') w
      where starts_with(lower(w), left(written_word.lexeme, greatest(length(written_word.lexeme) - 1, 3)))
      order by length(w), w limit 1),
    written_word.lexeme)
$$;
comment on function private.written_word(text, text) is 'The word of a text that has this stem, as it is written there.';

create type public.recalled_knowledge as (
  knowledge_id uuid, title text, content text, knowledge_type text, category text, project_context text,
  validation_status text, importance_score integer, retrieval_triggers text[], context_data jsonb,
  created_at timestamptz, score double precision, vector_score double precision, keyword_score double precision,
  trigger_score double precision, relevance_reason text, cursor text, explanation jsonb
);
comment on type public.recalled_knowledge is
  'A search result. score orders; the arms'' scores are 0 to 1, null where the arm has no vote; vector_score is the cosine similarity, keyword_score is relative to the best match of the words. cursor asks for what comes after this result. explanation, where asked for, tells each arm''s rank, score and time.';

create type private.candidate as (
  id uuid, session_id uuid, session_position bigint, similarity double precision, factor double precision
);
comment on type private.candidate is 'An item that an arm nominated, with what all arms need to know of it.';

create type private.ranked_item as (
  id uuid, score double precision, similarity double precision, is_close boolean, keyword_share double precision,
  trigger_score double precision, matched_triggers text[], matched_marks text[], matched_words text[],
  near_words private.near_word[], best_id uuid, relationship_type text, explanation jsonb
);
comment on type private.ranked_item is 'A search result: its scores and what it was found by.';

create function private.candidates_query(filters private.item_filters)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $fragment$
  select format($sql$
    select array(
      select row(k.id, k.created_in_session, k.session_position,
               coalesce(u.similarity, (select 1 - (v.embedding operator(extensions.<=>) $4) from private.item_vectors v
                                        where v.knowledge_id = k.id and v.embedding_model = $5)),
               -- Trust, importance and age move a result by a few percent each: they settle near ties, never relevance.
               case k.validation_status when 'validated' then 1.05 when 'needs_update' then 0.95
                                        when 'deprecated' then 0.8 else 1 end::double precision
               * (1 + 0.05 * ((k.rating_sum + 11.0::double precision) / (k.rating_count + 2.0::double precision) - 5.5) / 4.5)
               * (1 + 0.05 * (k.success_count - k.failure_count) / (2.0::double precision + k.success_count + k.failure_count))
               * (1 + 0.05 * (k.importance_score - 50)::double precision / 50)
               * (1 + 0.02 * exp(-least(greatest(extract(epoch from $6 - k.updated_at), 0)::double precision / (86400.0 * 30), 100)))
             )::private.candidate
        from unnest($1) u
       cross join lateral (select * from public.knowledge_items k where k.id = u.id and %s and %s offset 0) k)
    $sql$, private.visible_conditions(), private.filter_conditions(filters))
$fragment$;
comment on function private.candidates_query(private.item_filters) is
  'The statement that looks at what the arms nominated ($1, with the similarity where it is known), all of it alike: $2 filters, $3 viewer, $4 vector, $5 model, $6 now.';

-- Without filters it is always the same, and planned once a connection.
do $$
declare
  v_none private.item_filters;
begin
  v_none.include_retired := false;
  execute format($function$
create function private.plain_candidates(
  nominated private.near_item[], filters private.item_filters, viewer private.viewer, query_embedding extensions.halfvec,
  embedding_model text, ranked_at timestamptz
)
returns private.candidate[]
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = 'force_generic_plan'
as $body$
begin
  return (%s);
end
$body$
  $function$, private.candidates_query(v_none));
end
$$;
comment on function private.plain_candidates(private.near_item[], private.item_filters, private.viewer, extensions.halfvec, text, timestamptz) is
  'candidates_query of current items, without filters.';

-- definer because policies would be asked for each candidate at each step; visible_conditions carries their rule, and
-- search_knowledge asks them for what is returned.
create function private.rank_knowledge(
  query_text text, query_embedding extensions.vector, embedding_model text, filters private.item_filters,
  ranked_at timestamptz, after_score double precision, after_id uuid, max_results integer, explain boolean
)
returns setof private.ranked_item
language plpgsql
stable
rows 10
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_viewer private.viewer := private.viewer();
  v_workspace uuid := v_viewer.workspace_id;
  -- How many candidates an arm nominates. The same on every page, since scores are relative to the candidates.
  v_pool constant integer := case when rank_knowledge.max_results <= 100 then 100 else 1000 end;
  -- Words and triggers know no filters: where there are any, more of what they nominate is looked at.
  v_wide constant integer := case when num_nonnulls((filters).knowledge_types, (filters).categories,
    (filters).project_context, (filters).tags, (filters).min_importance, (filters).created_after,
    (filters).created_before, (filters).updated_after, (filters).updated_before, (filters).author_id,
    (filters).session_id, (filters).context_data, (filters).as_of) > 0
    or (filters).validation_statuses <> '{pending,validated,needs_update}' then 1500 else v_pool end;
  -- Then as now: what is retired today may have been current at the moment asked about.
  v_retired constant boolean := (filters).include_retired or (filters).as_of is not null;
  v_weights private.retrieval_weights;
  v_meaning double precision;
  v_scope private.vector_scope;
  v_threshold double precision;
  v_near private.near_item[] := '{}';
  v_words private.word_hit[] := '{}';
  v_triggers private.trigger_hit[] := '{}';
  v_best uuid[];
  v_links private.link[];
  v_nominated private.near_item[];
  v_candidates private.candidate[];
  v_clock timestamptz[] := array[clock_timestamp()];
begin
  if v_viewer.sees_all is null or v_workspace is null then
    return;  -- who has not written anything has nothing to find
  end if;
  filters.workspace_id := v_workspace;
  select coalesce((w.retrieval_weights ->> 'meaning')::double precision, 0.8),
         coalesce((w.retrieval_weights ->> 'triggers')::double precision, 0.6),
         coalesce((w.retrieval_weights ->> 'neighbours')::double precision, 0.1),
         coalesce((w.retrieval_weights ->> 'relationships')::double precision, 0.3)
    into v_weights from public.workspaces w where w.id = v_workspace;

  if rank_knowledge.query_embedding is not null then
    v_scope := private.scope_of(v_workspace, rank_knowledge.embedding_model, rank_knowledge.query_embedding);
    v_threshold := (v_scope.model).similarity_threshold;
    v_near := private.rank_vectors(v_viewer, rank_knowledge.query_embedding, v_scope, filters, v_pool);
  end if;
  v_clock := v_clock || clock_timestamp();
  if rank_knowledge.query_text is not null then
    v_words := array(
      select w from private.rank_words(v_viewer, v_workspace, rank_knowledge.query_text, v_retired, v_wide) w);
    v_clock := v_clock || clock_timestamp();
    v_triggers := array(
      select t from private.rank_triggers(v_viewer, v_workspace, rank_knowledge.query_text, v_retired, v_wide) t);
    v_clock := v_clock || clock_timestamp();
  else
    v_clock := v_clock || v_clock[2] || v_clock[2];
  end if;
  -- Words are sure of themselves where one item holds most of what the query says and the fifty-first little of it;
  -- the surer they are, the less meaning weighs.
  v_meaning := v_weights.meaning * (1 - 0.5 * power(coalesce(v_words[1].query_share, 0)
    * (1 - coalesce(v_words[51].keyword_score / nullif(v_words[1].keyword_score, 0), 0)), 3));

  -- What is related to the best of each arm may be what is needed, whatever words it is told in.
  v_best := array((select n.id from unnest(v_near) n where n.similarity >= v_threshold
                    order by n.similarity desc, n.id limit 5) union select w.knowledge_id from unnest(v_words[1:5]) w
                  union select t.knowledge_id from unnest(v_triggers[1:5]) t);
  v_links := array(
    select row(l.id, l.best_id, l.strength, l.relationship_type)::private.link
      from (select r.target_knowledge_id as id, r.source_knowledge_id as best_id, r.strength, r.relationship_type
              from public.knowledge_relationships r
             where r.source_knowledge_id = any (v_best) and r.status = 'accepted'
            union all
            select r.source_knowledge_id, r.target_knowledge_id, r.strength, r.relationship_type
              from public.knowledge_relationships r
             where r.target_knowledge_id = any (v_best) and r.status = 'accepted') l
     order by l.strength desc, l.id, l.best_id limit 50);
  v_clock := v_clock || clock_timestamp();

  -- What an arm nominated is looked at by all.
  v_nominated := array(
    select row(i.id, n.similarity)::private.near_item
      from (select n.id from unnest(v_near) n union select w.knowledge_id from unnest(v_words) w
            union select t.knowledge_id from unnest(v_triggers) t union select l.knowledge_id from unnest(v_links) l) i
      left join unnest(v_near) n on n.id = i.id);
  if private.has_filters(filters) then
    execute private.candidates_query(filters) into v_candidates
      using v_nominated, filters, v_viewer, rank_knowledge.query_embedding::extensions.halfvec, (v_scope.model).name,
            rank_knowledge.ranked_at;
  else
    v_candidates := private.plain_candidates(v_nominated, filters, v_viewer,
      rank_knowledge.query_embedding::extensions.halfvec, (v_scope.model).name, rank_knowledge.ranked_at);
  end if;

  return query
    with scored as (
      select c.*, w.keyword_score as keyword_raw, w.matched_words, w.near_words, w.matched_marks, t.matched_triggers,
             -- An identifier of the query that the item has is a trigger that nobody had to write down.
             greatest(t.trigger_score, case when w.matched_marks is not null then 0.5 end) as trigger_score,
             w.keyword_score / nullif(max(w.keyword_score) over (), 0) as keyword_share,
             (c.similarity - min(c.similarity) over ())
               / nullif(max(c.similarity) over () - min(c.similarity) over (), 0) as similarity_share
        from unnest(v_candidates) c
        left join unnest(v_words) w on w.knowledge_id = c.id
        left join unnest(v_triggers) t on t.knowledge_id = c.id
    ), fused as materialized (
      select s.*,
             -- An arm that could not vote on an item (no vector yet, no words asked) leaves the vote to the other.
             -- A trigger closes part of the gap to a perfect score.
             1 - (1 - v_weights.triggers * coalesce(s.trigger_score, 0)) * (1 - case
               when s.similarity is null then coalesce(s.keyword_share, 0)
               when rank_knowledge.query_text is null then coalesce(s.similarity_share, 1)
               else (1 - v_meaning) * coalesce(s.keyword_share, 0)
                    + v_meaning * coalesce(s.similarity_share, 1)
             end) as own_score
        from scored s
       where s.keyword_raw is not null or s.trigger_score is not null or s.similarity >= v_threshold / 2
          or s.id in (select l.knowledge_id from unnest(v_links) l)
    ), linked as (
      select distinct on (l.knowledge_id) l.knowledge_id, l.best_id, l.relationship_type,
             l.strength * b.own_score as link_score
        from unnest(v_links) l join fused b on b.id = l.best_id
       order by l.knowledge_id, l.strength * b.own_score desc, l.best_id
    ), beside as (
      select f.*, l.best_id, l.relationship_type, l.link_score,
             1 - (1 - f.own_score) * (1 - v_weights.relationships * coalesce(l.link_score, 0)) as voted,
             case when f.session_id is null then 0 else greatest(
               case when lag(f.session_position) over line = f.session_position - 1 then lag(f.own_score) over line end,
               case when lead(f.session_position) over line = f.session_position + 1 then lead(f.own_score) over line end, 0
             ) end as neighbour
        from fused f left join linked l on l.knowledge_id = f.id
      window line as (partition by f.session_id order by f.session_position)
    ), ranked as materialized (
      -- What was recorded beside something that fits is likelier to fit.
      select b.*, (b.voted + v_weights.neighbours * b.neighbour) / (1 + v_weights.neighbours) * b.factor as score
        from beside b
    )
    select r.id, r.score, r.similarity, r.similarity >= v_threshold, r.keyword_share, r.trigger_score, r.matched_triggers,
           r.matched_marks, r.matched_words, r.near_words, r.best_id, r.relationship_type,
           case when rank_knowledge.explain then jsonb_build_object(
             'meaning', case when r.similarity is not null then jsonb_build_object('similarity', r.similarity,
               'share', r.similarity_share,
               'rank', 1 + (select count(*) from ranked o where o.similarity > r.similarity)) end,
             'words', case when r.keyword_raw is not null then jsonb_build_object('bm25', r.keyword_raw,
               'share', r.keyword_share,
               'rank', 1 + (select count(*) from ranked o where o.keyword_raw > r.keyword_raw)) end,
             'triggers', case when r.trigger_score is not null then jsonb_build_object('score', r.trigger_score,
               'rank', 1 + (select count(*) from ranked o where o.trigger_score > r.trigger_score)) end,
             'relationships', case when r.link_score is not null then jsonb_build_object('score', r.link_score,
               'to', r.best_id, 'type', r.relationship_type,
               'rank', 1 + (select count(*) from ranked o where o.link_score > r.link_score)) end,
             'fused', r.voted, 'neighbour', r.neighbour, 'factor', r.factor, 'weights', to_jsonb(v_weights),
             'weight of meaning', v_meaning,
             'milliseconds', jsonb_build_object(
               'meaning', round((1000 * extract(epoch from v_clock[2] - v_clock[1]))::numeric, 2),
               'words', round((1000 * extract(epoch from v_clock[3] - v_clock[2]))::numeric, 2),
               'triggers', round((1000 * extract(epoch from v_clock[4] - v_clock[3]))::numeric, 2),
               'relationships', round((1000 * extract(epoch from v_clock[5] - v_clock[4]))::numeric, 2))) end
      from ranked r
     where rank_knowledge.after_id is null or r.score < rank_knowledge.after_score
        or (r.score = rank_knowledge.after_score and r.id > rank_knowledge.after_id)
     order by r.score desc, r.id
     limit rank_knowledge.max_results;
end
$$;
comment on function private.rank_knowledge(text, extensions.vector, text, private.item_filters, timestamptz, double precision, uuid, integer, boolean) is
  'Hybrid search of a workspace as far as the caller may see it, best first: what each arm nominates, fused by score.';

create function public.search_knowledge(
  query_text text default null, query_embedding extensions.vector default null, knowledge_types text[] default null,
  categories text[] default null, project_context text default null, tags text[] default null,
  min_importance integer default null, validation_statuses text[] default null,
  created_after timestamptz default null, created_before timestamptz default null, exclude_ids uuid[] default null,
  max_results integer default 10, embedding_model text default null, updated_after timestamptz default null,
  updated_before timestamptz default null, author_id uuid default null, session_id uuid default null,
  context_data jsonb default null, as_of timestamptz default null, after_cursor text default null,
  explain boolean default false
)
returns setof public.recalled_knowledge
language plpgsql
stable
rows 10
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_text text := nullif(btrim(search_knowledge.query_text), '');
  v_filters private.item_filters := row(
    null,  -- this request's
    coalesce(search_knowledge.validation_statuses, '{pending,validated,needs_update}'),
    coalesce(search_knowledge.validation_statuses && '{deprecated}', false),
    search_knowledge.knowledge_types, search_knowledge.categories, search_knowledge.project_context,
    search_knowledge.tags, search_knowledge.min_importance, search_knowledge.created_after,
    search_knowledge.created_before, search_knowledge.exclude_ids, search_knowledge.updated_after,
    search_knowledge.updated_before, search_knowledge.author_id, search_knowledge.session_id,
    search_knowledge.context_data, search_knowledge.as_of);
  v_after text[] := string_to_array(search_knowledge.after_cursor, '_');
  v_now timestamptz := now();
begin
  if v_text is null and search_knowledge.query_embedding is null then
    perform private.fail('PT400', 'nothing to search for', 'pass query_text, query_embedding, or both');
  end if;
  if search_knowledge.max_results is null or search_knowledge.max_results not between 1 and 1000 then
    perform private.fail('PT400', 'max_results is between 1 and 1000');
  end if;
  if search_knowledge.after_cursor is not null then
    if search_knowledge.after_cursor !~ '^[0-9a-f-]{36}_[0-9]+(\.[0-9]+)?(e-[0-9]+)?_[0-9]{1,12}(\.[0-9]+)?$' then
      perform private.fail('PT400', 'after_cursor is not a cursor', 'pass the cursor of the last result that you have');
    end if;
    -- The next page is ranked as of the same moment as the first.
    v_now := to_timestamp(v_after[3]::double precision);
  end if;
  return query
    select k.id, k.title::text, k.content, k.knowledge_type::text, k.category::text, k.project_context::text,
           k.validation_status::text, k.importance_score, k.retrieval_triggers, k.context_data, k.created_at,
           least(r.score, 1), r.similarity, r.keyword_share, r.trigger_score,
           concat_ws('; ',
             'has the trigger ' || (select string_agg(format('"%s"', x), ', ') from unnest(r.matched_triggers[1:3]) x),
             'has the identifier ' || (select string_agg(format('"%s"', x), ', ') from unnest(r.matched_marks[1:3]) x),
             'near match: ' || (select string_agg(format('"%s" for "%s"', private.written_word(k.title || ' ' || k.content, x.lexeme), x.word), ', ')
                                  from unnest(r.near_words[1:3]) x),
             case when r.keyword_share >= 0.2 and (r.matched_words is not null or r.near_words is null) then coalesce(
               'shares the words ' || (select string_agg(x, ', ') from unnest(r.matched_words[1:4]) x),
               'recorded beside matching words') end,
             case when r.is_close then format('close in meaning (%s)', round(r.similarity::numeric, 2)) end,
             case when r.best_id is not null then format('related (%s) to "%s"', replace(r.relationship_type, '_', ' '),
               (select b.title from public.knowledge_items b where b.id = r.best_id)) end,
             case when r.best_id is null and r.trigger_score is null and coalesce(r.keyword_share, 0) < 0.2
                       and r.is_close is not true then 'a loose match' end,
             case k.validation_status when 'validated' then 'validated' when 'needs_update' then 'needs an update'
               when 'deprecated' then 'deprecated' end,
             case when k.success_count > 0 then format('worked %s of %s times', k.success_count, k.success_count::bigint + k.failure_count) end),
           concat_ws('_', k.id, r.score, extract(epoch from v_now)), r.explanation
      from private.rank_knowledge(v_text, search_knowledge.query_embedding, search_knowledge.embedding_model, v_filters,
             v_now, v_after[2]::double precision, v_after[1]::uuid, search_knowledge.max_results,
             search_knowledge.explain) r
      join public.knowledge_items k on k.id = r.id
     order by r.score desc, r.id;
end
$$;
comment on function public.search_knowledge(text, extensions.vector, text[], text[], text, text[], integer, text[], timestamptz, timestamptz, uuid[], integer, text, timestamptz, timestamptz, uuid, uuid, jsonb, timestamptz, text, boolean) is
  'Hybrid search of the current workspace by words, meaning and triggers, best first, each result with its scores and the reason in words; with explain also with each arm''s say. as_of answers as it would have then; after_cursor continues after a result. Reads only; recall_knowledge also logs the access.';

create function public.recall_knowledge(
  query_text text default null, query_embedding extensions.vector default null, knowledge_types text[] default null,
  categories text[] default null, project_context text default null, tags text[] default null,
  min_importance integer default null, validation_statuses text[] default null,
  created_after timestamptz default null, created_before timestamptz default null, exclude_ids uuid[] default null,
  max_results integer default 10, embedding_model text default null, updated_after timestamptz default null,
  updated_before timestamptz default null, author_id uuid default null, session_id uuid default null,
  context_data jsonb default null, as_of timestamptz default null, after_cursor text default null,
  explain boolean default false
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
      recall_knowledge.max_results, recall_knowledge.embedding_model, recall_knowledge.updated_after,
      recall_knowledge.updated_before, recall_knowledge.author_id, recall_knowledge.session_id,
      recall_knowledge.context_data, recall_knowledge.as_of, recall_knowledge.after_cursor,
      recall_knowledge.explain) s;
  perform private.log_access(array(select f.knowledge_id from unnest(v_found) f));
  return query select * from unnest(v_found);
end
$$;
comment on function public.recall_knowledge(text, extensions.vector, text[], text[], text, text[], integer, text[], timestamptz, timestamptz, uuid[], integer, text, timestamptz, timestamptz, uuid, uuid, jsonb, timestamptz, text, boolean) is
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
  if get_contextual_knowledge.max_results is null or get_contextual_knowledge.max_results not between 1 and 1000 then
    perform private.fail('PT400', 'max_results is between 1 and 1000');
  end if;
  -- What belongs to the project comes up sooner, what doesn't still may.
  return query
    select s.knowledge_id, s.title, s.content,
           concat_ws('; ', s.relevance_reason, case when s.project_context = v_project then 'same project' end),
           s.knowledge_type,
           least(s.score * case when s.project_context = v_project then 1.15 else 1 end, 1)
      from public.search_knowledge(
             query_text => current_situation, query_embedding => situation_embedding,
             max_results => least(get_contextual_knowledge.max_results * 3, 1000),
             embedding_model => get_contextual_knowledge.embedding_model)
           with ordinality as s (knowledge_id, title, content, knowledge_type, category, project_context,
             validation_status, importance_score, retrieval_triggers, context_data, created_at, score, vector_score,
             keyword_score, trigger_score, relevance_reason, cursor, explanation, place)
     order by s.score * case when s.project_context = v_project then 1.15 else 1 end desc, s.place
     limit get_contextual_knowledge.max_results;
end
$$;
comment on function public.get_contextual_knowledge(text, text, integer, extensions.vector, text) is
  'What is worth knowing in a situation described in words (and optionally as a vector), items of the project first among equals, each with the reason.';

revoke execute on function
  private.write_retrieval_settings(uuid, text, jsonb), public.configure_retrieval(text, jsonb),
  private.was_current(public.knowledge_items, text[], timestamptz), private.filter_conditions(private.item_filters),
  private.has_filters(private.item_filters), private.visible_conditions(), private.written_word(text, text),
  private.candidates_query(private.item_filters),
  private.plain_candidates(private.near_item[], private.item_filters, private.viewer, extensions.halfvec, text, timestamptz),
  private.with_strays(private.viewer, extensions.halfvec, text, private.item_filters, private.near_item[]),
  private.walk_vectors(private.viewer, extensions.vector, private.vector_scope, private.item_filters, integer),
  private.compare_vectors(private.viewer, extensions.vector, private.vector_scope, private.item_filters, integer),
  private.rank_vectors(private.viewer, extensions.vector, private.vector_scope, private.item_filters, integer),
  private.plain_vectors(extensions.halfvec, private.item_filters, private.viewer, integer, private.vector_scope),
  private.write_plain_vectors(), private.follow_models(),
  private.similar_items(extensions.vector, text, private.item_filters, integer, double precision),
  private.rank_knowledge(text, extensions.vector, text, private.item_filters, timestamptz, double precision, uuid, integer, boolean),
  private.scope_of(uuid, text, extensions.vector), private.vector_scope(uuid, text, extensions.vector),
  private.nearest_items(extensions.vector, private.vector_scope, private.item_filters, integer),
  public.find_similar_knowledge(extensions.vector, text, integer, double precision, text),
  public.search_knowledge(text, extensions.vector, text[], text[], text, text[], integer, text[], timestamptz, timestamptz, uuid[], integer, text, timestamptz, timestamptz, uuid, uuid, jsonb, timestamptz, text, boolean),
  public.recall_knowledge(text, extensions.vector, text[], text[], text, text[], integer, text[], timestamptz, timestamptz, uuid[], integer, text, timestamptz, timestamptz, uuid, uuid, jsonb, timestamptz, text, boolean),
  public.get_contextual_knowledge(text, text, integer, extensions.vector, text)
  from public, anon, authenticated, service_role;
grant execute on function
  private.written_word(text, text),
  private.rank_knowledge(text, extensions.vector, text, private.item_filters, timestamptz, double precision, uuid, integer, boolean),
  private.vector_scope(uuid, text, extensions.vector),
  private.nearest_items(extensions.vector, private.vector_scope, private.item_filters, integer),
  private.similar_items(extensions.vector, text, private.item_filters, integer, double precision),
  public.find_similar_knowledge(extensions.vector, text, integer, double precision, text),
  public.search_knowledge(text, extensions.vector, text[], text[], text, text[], integer, text[], timestamptz, timestamptz, uuid[], integer, text, timestamptz, timestamptz, uuid, uuid, jsonb, timestamptz, text, boolean),
  public.get_contextual_knowledge(text, text, integer, extensions.vector, text)
  to authenticated, service_role;
grant execute on function
  private.write_retrieval_settings(uuid, text, jsonb), public.configure_retrieval(text, jsonb),
  public.recall_knowledge(text, extensions.vector, text[], text[], text, text[], integer, text[], timestamptz, timestamptz, uuid[], integer, text, timestamptz, timestamptz, uuid, uuid, jsonb, timestamptz, text, boolean)
  to authenticated;
