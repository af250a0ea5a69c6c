-- Retrieval: the right piece, at the right moment, with the reason why.
--
-- Owns: find_similar_knowledge, search_knowledge, recall_knowledge, get_contextual_knowledge.
--
-- Invariants
--   * SECURITY INVOKER: whatever nominates an item, the caller's policies on knowledge_items decide.
--   * One model at a time: a query's vector is compared with vectors of its own model only.
--   * Several arms (meaning, words, triggers, relationships of the best), each able to nominate. They are fused by
--     score: the union of their candidates, each arm's score for all of them, stretched to 0..1. Ranks (reciprocal
--     rank fusion) would let a weak arm drown a strong one.
--   * Deprecated, superseded and expired items are left out unless their status is asked for.
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
  'Which items a search is about; null: no restriction. include_retired lets superseded and expired items in.';

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

create function private.filter_conditions()
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $fragment$
  select $$
        k.workspace_id = ($2).workspace_id
    and case when ($2).as_of is not null then private.was_current(k, ($2).validation_statuses, ($2).as_of)
        else k.validation_status = any (($2).validation_statuses)
         and (k.superseded_by is null or ($2).include_retired)
         and (k.valid_to is null or k.valid_to > now() or ($2).include_retired) end
    and (($2).knowledge_types is null or k.knowledge_type = any (($2).knowledge_types))
    and (($2).categories is null or k.category = any (($2).categories))
    and (($2).project_context is null or k.project_context = ($2).project_context)
    and (($2).tags is null or k.retrieval_triggers && ($2).tags)
    and (($2).min_importance is null or k.importance_score >= ($2).min_importance)
    and (($2).created_after is null or k.created_at >= ($2).created_after)
    and (($2).created_before is null or k.created_at < ($2).created_before)
    and (($2).exclude_ids is null or k.id <> all (($2).exclude_ids))
    and (($2).updated_after is null or k.updated_at >= ($2).updated_after)
    and (($2).updated_before is null or k.updated_at < ($2).updated_before)
    and (($2).author_id is null or k.owner_id = ($2).author_id)
    and (($2).session_id is null or k.created_in_session = ($2).session_id)
    and (($2).context_data is null or k.context_data @> ($2).context_data)
  $$
$fragment$;
comment on function private.filter_conditions() is
  'The conditions that a search puts on knowledge_items k, as SQL with the filters as $2.';

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

create type private.near_item as (id uuid, similarity double precision);
comment on type private.near_item is 'An item with its cosine similarity to what was asked.';

-- definer because item_vectors is nobody's to read; the WHERE carries the visibility rule.
create function private.walk_vectors(
  query_embedding extensions.vector, scope private.vector_scope, filters private.item_filters, how_many integer
)
returns setof private.near_item
language plpgsql
stable
rows 100
security definer
set search_path = pg_catalog, pg_temp
-- The index walk goes on until enough rows pass the rule and the filters.
set hnsw.iterative_scan = 'relaxed_order'
set hnsw.ef_search = 100
-- The planner can't know how far a walk has to go, and likes to fetch the whole workspace and sort it.
set enable_sort = off
as $$
begin
  if not private.is_trusted() and (filters).workspace_id not in (select private.my_workspaces()) then
    return;
  end if;
  return query execute format($sql$
    select k.id, 1 - ((v.embedding::extensions.halfvec(%1$s)) operator(extensions.<=>) $1)
      from private.item_vectors v
      join public.knowledge_items k on k.id = v.knowledge_id
     where v.embedding_model = %2$L and v.workspace_id = ($2).workspace_id
       and ($4 or k.validation_status in ('validated', 'needs_update')
            or (k.validation_status = 'deprecated' and k.validated_at is not null)
            or k.owner_id = $5 or k.created_in_session = $6)
       and %3$s
     order by (v.embedding::extensions.halfvec(%1$s)) operator(extensions.<=>) $1
     limit $3
    $sql$, (scope.model).dimensions, (scope.model).name, private.filter_conditions())
    using query_embedding::extensions.halfvec, filters, how_many,
      private.is_trusted() or (filters).workspace_id in (select private.maintained_workspaces()),
      auth.uid(), private.current_session();
end
$$;
comment on function private.walk_vectors(extensions.vector, private.vector_scope, private.item_filters, integer) is
  'The items nearest to a vector, visible to the caller, by the model''s HNSW index.';

-- definer for the same reason.
create function private.compare_vectors(
  query_embedding extensions.vector, scope private.vector_scope, filters private.item_filters, how_many integer
)
returns setof private.near_item
language plpgsql
stable
rows 100
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  if not private.is_trusted() and (filters).workspace_id not in (select private.my_workspaces()) then
    return;
  end if;
  -- Sorted by an expression that no index is sorted by: every vector of the workspace is compared.
  return query execute format($sql$
    select k.id, 1 - v.distance
      from (select v.knowledge_id, v.embedding operator(extensions.<=>) $1 as distance
              from private.item_vectors v
             where v.embedding_model = %1$L and v.workspace_id = ($2).workspace_id) v
      join public.knowledge_items k on k.id = v.knowledge_id
     where ($4 or k.validation_status in ('validated', 'needs_update')
            or (k.validation_status = 'deprecated' and k.validated_at is not null)
            or k.owner_id = $5 or k.created_in_session = $6)
       and %2$s
     order by v.distance
     limit $3
    $sql$, (scope.model).name, private.filter_conditions())
    using query_embedding::extensions.halfvec, filters, how_many,
      private.is_trusted() or (filters).workspace_id in (select private.maintained_workspaces()),
      auth.uid(), private.current_session();
end
$$;
comment on function private.compare_vectors(extensions.vector, private.vector_scope, private.item_filters, integer) is
  'The items nearest to a vector, visible to the caller, by comparing all of the workspace.';

create function private.nearest_items(
  query_embedding extensions.vector, scope private.vector_scope, filters private.item_filters, how_many integer
)
returns setof private.near_item
language plpgsql
stable
rows 100
set search_path = pg_catalog, pg_temp
as $$
declare
  v_found private.near_item[];
begin
  if not scope.exact then
    v_found := array(select n from private.walk_vectors(query_embedding, scope, filters, how_many) n);
    if cardinality(v_found) = how_many then
      return query select * from unnest(v_found);
      return;
    end if;
    -- The walk ended before it had met enough that may be shown: they are few among many, and are compared all.
  end if;
  return query select * from private.compare_vectors(query_embedding, scope, filters, how_many);
end
$$;
comment on function private.nearest_items(extensions.vector, private.vector_scope, private.item_filters, integer) is
  'The items nearest to a vector: in a small workspace, or where few pass the filters, by comparing all; else by the model''s HNSW index.';

-- definer for the same reason: it answers for items that the caller may see.
create function private.similarities(
  knowledge_ids uuid[], query_embedding extensions.vector, embedding_model text
)
returns setof private.near_item
language plpgsql
stable
rows 100
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_trusted boolean := private.is_trusted();
  v_user uuid := auth.uid();
  v_session uuid := private.current_session();
  v_mine uuid[] := array(select private.my_workspaces());
  v_maintained uuid[] := array(select private.maintained_workspaces());
begin
  return query
    select k.id, 1 - (v.embedding operator(extensions.<=>) query_embedding::extensions.halfvec)
      from private.item_vectors v
      join public.knowledge_items k on k.id = v.knowledge_id
     where v.knowledge_id = any (similarities.knowledge_ids) and v.embedding_model = similarities.embedding_model
       and (v_trusted or k.workspace_id = any (v_mine)
            and (k.validation_status in ('validated', 'needs_update')
                 or (k.validation_status = 'deprecated' and k.validated_at is not null)
                 or k.owner_id = v_user or k.created_in_session = v_session
                 or k.workspace_id = any (v_maintained)));
end
$$;
comment on function private.similarities(uuid[], extensions.vector, text) is
  'How near to a vector those of these items are that the caller may see and that have a vector of the model.';

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
    select k.id, k.title::text, k.content, n.similarity, k.knowledge_type::text
      from private.nearest_items(query_embedding, v_scope, v_filters, limit_results) n
      join public.knowledge_items k on k.id = n.id
     where n.similarity >= coalesce(find_similar_knowledge.similarity_threshold, (v_scope.model).similarity_threshold)
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
  v_changed boolean;
begin
  if not private.is_trusted() and write_retrieval_settings.workspace_id not in (select private.my_workspaces_as('{owner}')) then
    perform private.fail('PT403', 'only an owner of the workspace says how its searches read and weigh');
  end if;
  if not pg_input_is_valid(write_retrieval_settings.text_search_config, 'regconfig') then
    perform private.fail('PT400', format('%L is not a text search configuration', write_retrieval_settings.text_search_config),
      'pg_ts_config lists them: simple, english, german …');
  end if;
  -- Writers of items read the setting: those under way are waited for, those to come wait, so that no document is
  -- left stemmed the old way. Sessions first: that is the order in which a recording locks.
  if write_retrieval_settings.text_search_config is not null then
    perform from private.session_keys s
      where s.session_id in (select d.session_id from private.search_documents d
                              where d.workspace_id = write_retrieval_settings.workspace_id)
      order by s.session_id for no key update;
  end if;
  select w.text_search_config <> write_retrieval_settings.text_search_config into v_changed
    from public.workspaces w where w.id = write_retrieval_settings.workspace_id for update;
  update public.workspaces w
     set text_search_config = coalesce(write_retrieval_settings.text_search_config, w.text_search_config),
         retrieval_weights = coalesce(write_retrieval_settings.retrieval_weights, w.retrieval_weights)
   where w.id = write_retrieval_settings.workspace_id;
  if v_changed then
    perform private.refresh_search_documents(array(
      select d.knowledge_id from private.search_documents d where d.workspace_id = write_retrieval_settings.workspace_id));
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
  -- How many candidates an arm nominates. The same on every page, since scores are relative to the candidates.
  v_pool constant integer := case when search_knowledge.max_results <= 100 then 200 else 1000 end;
  v_text text := nullif(btrim(search_knowledge.query_text), '');
  v_filters private.item_filters := row(
    private.current_workspace(),
    coalesce(search_knowledge.validation_statuses, '{pending,validated,needs_update}'),
    coalesce(search_knowledge.validation_statuses && '{deprecated}', false),
    search_knowledge.knowledge_types, search_knowledge.categories, search_knowledge.project_context,
    search_knowledge.tags, search_knowledge.min_importance, search_knowledge.created_after,
    search_knowledge.created_before, search_knowledge.exclude_ids, search_knowledge.updated_after,
    search_knowledge.updated_before, search_knowledge.author_id, search_knowledge.session_id,
    search_knowledge.context_data, search_knowledge.as_of);
  v_workspace uuid := v_filters.workspace_id;
  -- Then as now: what is retired today may have been current at the moment asked about.
  v_retired boolean := v_filters.include_retired or search_knowledge.as_of is not null;
  -- Words and triggers know no filters: where there are any, more of what they nominate is looked at.
  v_wide integer := case when num_nonnulls(search_knowledge.knowledge_types, search_knowledge.categories,
    search_knowledge.project_context, search_knowledge.tags, search_knowledge.min_importance,
    search_knowledge.validation_statuses, search_knowledge.created_after, search_knowledge.created_before,
    search_knowledge.updated_after, search_knowledge.updated_before, search_knowledge.author_id,
    search_knowledge.session_id, search_knowledge.context_data, search_knowledge.as_of) > 0 then 1500 else v_pool end;
  v_weights private.retrieval_weights;
  v_meaning double precision;
  v_scope private.vector_scope;
  v_model text;
  v_threshold double precision;
  v_near private.near_item[] := '{}';
  v_words private.word_hit[] := '{}';
  v_triggers private.trigger_hit[] := '{}';
  v_best uuid[];
  v_links private.link[] := '{}';
  v_ids uuid[];
  v_after text[] := string_to_array(search_knowledge.after_cursor, '_');
  v_now timestamptz := now();
  v_clock timestamptz[] := array[clock_timestamp()];
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
  if v_workspace is null then
    return;  -- a user who has not written anything has nothing to find
  end if;
  select coalesce((w.retrieval_weights ->> 'meaning')::double precision, 0.8),
         coalesce((w.retrieval_weights ->> 'triggers')::double precision, 0.6),
         coalesce((w.retrieval_weights ->> 'neighbours')::double precision, 0.1),
         coalesce((w.retrieval_weights ->> 'relationships')::double precision, 0.3)
    into v_weights from public.workspaces w where w.id = v_workspace;

  if search_knowledge.query_embedding is not null then
    v_scope := private.vector_scope(v_workspace, search_knowledge.embedding_model, search_knowledge.query_embedding);
    v_model := (v_scope.model).name;
    v_threshold := (v_scope.model).similarity_threshold;
    v_near := array(select n from private.nearest_items(search_knowledge.query_embedding, v_scope, v_filters, v_pool) n);
  end if;
  v_clock := v_clock || clock_timestamp();
  if v_text is not null then
    v_words := array(select w from private.keyword_candidates(v_workspace, v_text, v_retired, v_wide) w);
    v_clock := v_clock || clock_timestamp();
    v_triggers := array(select t from private.trigger_candidates(v_workspace, v_text, v_retired, v_wide) t);
    v_clock := v_clock || clock_timestamp();
  else
    v_clock := v_clock || v_clock[2] || v_clock[2];
  end if;
  -- Words are sure of themselves where one item holds most of what the query says and the fifty-first little of it;
  -- the surer they are, the less meaning weighs.
  v_meaning := v_weights.meaning * (1 - 0.5 * power(
    coalesce((select max(w.query_share) from unnest(v_words) w), 0)
    * (1 - coalesce(v_words[51].keyword_score / nullif(v_words[1].keyword_score, 0), 0)), 3));

  -- What is related to the best of each arm may be what is needed, whatever words it is told in.
  v_best := array(select n.id from unnest(v_near[1:5]) n union select w.knowledge_id from unnest(v_words[1:5]) w
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
  execute 'select array(select k.id from public.knowledge_items k where k.id = any ($1) and ' || private.filter_conditions() || ')'
    into v_ids
    using array(select n.id from unnest(v_near) n union select w.knowledge_id from unnest(v_words) w
                union select t.knowledge_id from unnest(v_triggers) t union select l.knowledge_id from unnest(v_links) l),
          v_filters;

  return query
    with meant as materialized (
      select n.id, n.similarity from unnest(v_near) n
      union all
      select s.id, s.similarity
        from private.similarities(array(select i from unnest(v_ids) i except select n.id from unnest(v_near) n),
               search_knowledge.query_embedding, v_model) s
       where v_model is not null
    ), scored as materialized (
      select k.id, k.created_in_session, k.session_position, s.similarity, w.keyword_score as keyword_raw, w.query_share,
             w.matched_words, w.near_words, t.matched_triggers, w.matched_marks,
             -- An identifier of the query that the item has is a trigger that nobody had to write down.
             greatest(t.trigger_score, case when w.matched_marks is not null then 0.5 end)
               as trigger_score,
             w.keyword_score / nullif(max(w.keyword_score) over (), 0) as keyword_share,
             (s.similarity - min(s.similarity) over ())
               / nullif(max(s.similarity) over () - min(s.similarity) over (), 0) as similarity_share,
             -- Trust, importance and age move a result by a few percent each: they settle near ties, never relevance.
             case k.validation_status when 'validated' then 1.05 when 'needs_update' then 0.95
                                      when 'deprecated' then 0.8 else 1 end
             * (1 + 0.05 * ((coalesce(k.rating_sum, 0) + 2 * 5.5) / (coalesce(k.rating_count, 0) + 2) - 5.5) / 4.5)
             * (1 + 0.05 * (k.success_count - k.failure_count) / (k.success_count + k.failure_count + 2.0))
             * (1 + 0.05 * (k.importance_score - 50) / 50.0)
             * (1 + 0.02 * exp(-greatest(extract(epoch from v_now - k.updated_at), 0) / (86400.0 * 30))) as factor
        from unnest(v_ids) i (id)
        join public.knowledge_items k on k.id = i.id
        left join meant s on s.id = i.id
        left join unnest(v_words) w on w.knowledge_id = i.id
        left join unnest(v_triggers) t on t.knowledge_id = i.id
    ), voted as (
      select s.*,
             -- An arm that could not vote on an item (no vector yet, no words asked) leaves the vote to the other.
             -- A trigger closes part of the gap to a perfect score.
             1 - (1 - v_weights.triggers * coalesce(s.trigger_score, 0)) * (1 - case
               when s.similarity is null then coalesce(s.keyword_share, 0)
               when v_text is null then coalesce(s.similarity_share, 1)
               else (1 - v_meaning) * coalesce(s.keyword_share, 0)
                    + v_meaning * coalesce(s.similarity_share, 1)
             end) as fused
        from scored s
       where s.keyword_raw is not null or s.trigger_score is not null or s.similarity >= v_threshold / 2
          or s.id in (select l.knowledge_id from unnest(v_links) l)
    ), linked as (
      select distinct on (l.knowledge_id) l.knowledge_id, l.best_id, l.relationship_type, l.strength * b.fused as link_score
        from unnest(v_links) l join voted b on b.id = l.best_id
       order by l.knowledge_id, l.strength * b.fused desc, l.best_id
    ), beside as (
      select v.*, l.best_id, l.relationship_type, l.link_score,
             1 - (1 - v.fused) * (1 - v_weights.relationships * coalesce(l.link_score, 0)) as voted,
             greatest(
               case when lag(v.session_position) over line = v.session_position - 1 then lag(v.fused) over line end,
               case when lead(v.session_position) over line = v.session_position + 1 then lead(v.fused) over line end, 0
             ) as neighbour
        from voted v left join linked l on l.knowledge_id = v.id
      window line as (partition by v.created_in_session order by v.session_position)
    ), ranked as (
      -- What was recorded beside something that fits is likelier to fit.
      select b.*, (b.voted + v_weights.neighbours * case when b.created_in_session is null then 0 else b.neighbour end)
                  / (1 + v_weights.neighbours) * b.factor as score
        from beside b
    ), first as materialized (
      select r.*,
             case when search_knowledge.explain then jsonb_build_object(
               'meaning', case when r.similarity is not null then jsonb_build_object('similarity', r.similarity,
                 'share', r.similarity_share, 'rank', rank() over (order by r.similarity desc nulls last)) end,
               'words', case when r.keyword_raw is not null then jsonb_build_object('bm25', r.keyword_raw,
                 'share', r.keyword_share, 'rank', rank() over (order by r.keyword_raw desc nulls last)) end,
               'triggers', case when r.trigger_score is not null then jsonb_build_object('score', r.trigger_score,
                 'rank', rank() over (order by r.trigger_score desc nulls last)) end,
               'relationships', case when r.link_score is not null then jsonb_build_object('score', r.link_score,
                 'to', r.best_id, 'type', r.relationship_type, 'rank', rank() over (order by r.link_score desc nulls last)) end,
               'fused', r.voted, 'neighbour', r.neighbour, 'factor', r.factor, 'weights', to_jsonb(v_weights), 'weight of meaning', v_meaning) end as explanation
        from ranked r
    )
    select k.id, k.title::text, k.content, k.knowledge_type::text, k.category::text, k.project_context::text,
           k.validation_status::text, k.importance_score, k.retrieval_triggers, k.context_data, k.created_at,
           least(f.score, 1), f.similarity, f.keyword_share, f.trigger_score,
           concat_ws('; ',
             'has the trigger ' || (select string_agg(format('"%s"', x), ', ') from unnest(f.matched_triggers[1:3]) x),
             'has the identifier ' || (select string_agg(format('"%s"', x), ', ') from unnest(f.matched_marks[1:3]) x),
             'near match: ' || (select string_agg(format('"%s" for "%s"', private.written_word(k.title || ' ' || k.content, x.lexeme), x.word), ', ')
                                  from unnest(f.near_words[1:3]) x),
             case when f.keyword_share >= 0.2 and (f.matched_words is not null or f.near_words is null) then coalesce(
               'shares the words ' || (select string_agg(x, ', ') from unnest(f.matched_words[1:4]) x),
               'recorded beside matching words') end,
             case when f.similarity >= v_threshold
               then format('close in meaning (%s)', round(f.similarity::numeric, 2)) end,
             case when f.link_score is not null then format('related (%s) to "%s"', replace(f.relationship_type, '_', ' '),
               (select b.title from public.knowledge_items b where b.id = f.best_id)) end,
             case when f.link_score is null and f.trigger_score is null and coalesce(f.keyword_share, 0) < 0.2
                       and coalesce(f.similarity, -1) < coalesce(v_threshold, 1) then 'a loose match' end,
             case k.validation_status when 'validated' then 'validated' when 'needs_update' then 'needs an update'
               when 'deprecated' then 'deprecated' end,
             case when k.success_count > 0 then format('worked %s of %s times', k.success_count, k.success_count + k.failure_count) end),
           concat_ws('_', k.id, f.score, extract(epoch from v_now)),
           case when search_knowledge.explain then f.explanation || jsonb_build_object('milliseconds', jsonb_build_object(
             'meaning', round((1000 * extract(epoch from v_clock[2] - v_clock[1]))::numeric, 2),
             'words', round((1000 * extract(epoch from v_clock[3] - v_clock[2]))::numeric, 2),
             'triggers', round((1000 * extract(epoch from v_clock[4] - v_clock[3]))::numeric, 2),
             'relationships', round((1000 * extract(epoch from v_clock[5] - v_clock[4]))::numeric, 2))) end
      from (select f.* from first f
             where v_after is null
                or f.score < v_after[2]::double precision
                or (f.score = v_after[2]::double precision and f.id > v_after[1]::uuid)
             order by f.score desc, f.id
             limit search_knowledge.max_results) f
      join public.knowledge_items k on k.id = f.id
     order by f.score desc, f.id;
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
             keyword_score, trigger_score, relevance_reason, cursor, explanation, place)
     order by s.score * case when s.project_context = v_project then 1.15 else 1 end desc, s.place
     limit get_contextual_knowledge.max_results;
end
$$;
comment on function public.get_contextual_knowledge(text, text, integer, extensions.vector, text) is
  'What is worth knowing in a situation described in words (and optionally as a vector), items of the project first among equals, each with the reason.';

revoke execute on function
  private.write_retrieval_settings(uuid, text, jsonb), public.configure_retrieval(text, jsonb),
  private.was_current(public.knowledge_items, text[], timestamptz), private.filter_conditions(),
  private.written_word(text, text), private.walk_vectors(extensions.vector, private.vector_scope, private.item_filters, integer),
  private.compare_vectors(extensions.vector, private.vector_scope, private.item_filters, integer),
  private.similarities(uuid[], extensions.vector, text),
  private.vector_scope(uuid, text, extensions.vector),
  private.nearest_items(extensions.vector, private.vector_scope, private.item_filters, integer),
  public.find_similar_knowledge(extensions.vector, text, integer, double precision, text),
  public.search_knowledge(text, extensions.vector, text[], text[], text, text[], integer, text[], timestamptz, timestamptz, uuid[], integer, text, timestamptz, timestamptz, uuid, uuid, jsonb, timestamptz, text, boolean),
  public.recall_knowledge(text, extensions.vector, text[], text[], text, text[], integer, text[], timestamptz, timestamptz, uuid[], integer, text, timestamptz, timestamptz, uuid, uuid, jsonb, timestamptz, text, boolean),
  public.get_contextual_knowledge(text, text, integer, extensions.vector, text)
  from public, anon, authenticated, service_role;
grant execute on function
  private.was_current(public.knowledge_items, text[], timestamptz), private.filter_conditions(),
  private.written_word(text, text), private.walk_vectors(extensions.vector, private.vector_scope, private.item_filters, integer),
  private.compare_vectors(extensions.vector, private.vector_scope, private.item_filters, integer),
  private.similarities(uuid[], extensions.vector, text),
  private.vector_scope(uuid, text, extensions.vector),
  private.nearest_items(extensions.vector, private.vector_scope, private.item_filters, integer),
  public.find_similar_knowledge(extensions.vector, text, integer, double precision, text),
  public.search_knowledge(text, extensions.vector, text[], text[], text, text[], integer, text[], timestamptz, timestamptz, uuid[], integer, text, timestamptz, timestamptz, uuid, uuid, jsonb, timestamptz, text, boolean),
  public.get_contextual_knowledge(text, text, integer, extensions.vector, text)
  to authenticated, service_role;
grant execute on function
  private.write_retrieval_settings(uuid, text, jsonb), public.configure_retrieval(text, jsonb),
  public.recall_knowledge(text, extensions.vector, text[], text[], text, text[], integer, text[], timestamptz, timestamptz, uuid[], integer, text, timestamptz, timestamptz, uuid, uuid, jsonb, timestamptz, text, boolean)
  to authenticated;
