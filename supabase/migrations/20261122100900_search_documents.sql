-- Search documents: what the keyword arm of retrieval reads.
--
-- Owns: private.search_documents, one narrow row per item, kept by triggers, and the ranking of words.
--
-- Invariants
--   * A document holds the item's own words (title and triggers weigh most), its date, tags and project, and what
--     the session recorded just before and after it. A neighbour's words are there only if everybody who may see
--     the item may see the neighbour: else a search could be used to feel for hidden text. A change of an item
--     reaches all documents that hold its words, also past any number of items that may not be told.
--   * What the caller may not see doesn't count in the statistics of words either: scores would tell of it.
--   * Widening never touches the item's own row, so neither its vector nor the vector index is written again.
--   * The words are stemmed by the row's own text search configuration.
--   * A document's neighbours are read under the lock of the session's key, which recording takes too: of two
--     writers side by side the later one sees the earlier one's text.
--
-- Row-level security switches GIN indexes off: `@@` and `&&` are not leakproof, so PostgreSQL must check the policy
-- first. Hence the nominating functions here are definer functions with the full visibility rule in their WHERE;
-- their callers join the ids back to knowledge_items under the policy, which has the last word.

set local lock_timeout = '5s';

create table private.search_documents (
  knowledge_id uuid not null,
  workspace_id uuid not null,
  owner_id uuid,
  session_id uuid,
  is_shared boolean not null,
  is_live boolean not null,
  config text not null,
  triggers text[] not null,
  document tsvector not null,
  document_length integer not null,
  constraint search_documents_pkey primary key (knowledge_id),
  constraint search_documents_knowledge_id_fkey foreign key (knowledge_id)
    references public.knowledge_items (id) on delete cascade
);
-- Ranking reads a document once for each word asked: it lies in the row, and is not compressed.
alter table private.search_documents alter column document set storage external, set (toast_tuple_target = 8160);
create index search_documents_triggers_idx on private.search_documents using gin (triggers);
create index search_documents_workspace_id_idx on private.search_documents (workspace_id, knowledge_id)
  include (is_live, is_shared, owner_id, session_id);

create function private.term_keys(workspace_id uuid, document tsvector)
returns bigint[]
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(array_agg(hashtextextended(lexeme collate "C", uuid_hash_extended(workspace_id, 0))), '{}')
    from unnest(tsvector_to_array(document)) lexeme
$$;
comment on function private.term_keys(uuid, tsvector) is
  'The words of a document as numbers of their workspace: what its index holds, so that a tenant''s search never reads the others'' texts.';
create index search_documents_terms_idx on private.search_documents using gin (private.term_keys(workspace_id, document));
alter table private.search_documents enable row level security;
comment on table private.search_documents is 'The words by which each item is found, and who may find it by them.';
comment on column private.search_documents.knowledge_id is 'The item.';
comment on column private.search_documents.workspace_id is 'As in the item.';
comment on column private.search_documents.owner_id is 'As in the item.';
comment on column private.search_documents.session_id is 'The item''s created_in_session.';
comment on column private.search_documents.is_shared is 'Whether the whole workspace may see the item.';
comment on column private.search_documents.is_live is 'Whether the item is neither deprecated nor superseded.';
comment on column private.search_documents.config is 'The text search configuration of its words.';
comment on column private.search_documents.triggers is 'The item''s triggers in lower case.';
comment on column private.search_documents.document is 'Words with weights: A title and triggers, B content, C date, tags and project, D neighbours in the session.';
comment on column private.search_documents.document_length is 'How many word positions it has.';
revoke all on private.search_documents from public, anon, authenticated, service_role;
grant select on private.search_documents to service_role;

-- definer because nobody writes search documents directly.
create function private.refresh_search_documents(knowledge_ids uuid[])
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform from private.session_keys s
    where s.session_id in (select k.created_in_session from public.knowledge_items k where k.id = any (knowledge_ids))
    order by s.session_id for no key update;
  insert into private.search_documents as d (knowledge_id, workspace_id, owner_id, session_id, is_shared, is_live,
    config, triggers, document, document_length)
  select k.id, k.workspace_id, k.owner_id, k.created_in_session,
         k.validation_status in ('validated', 'needs_update')
           or (k.validation_status = 'deprecated' and k.validated_at is not null),
         k.validation_status <> 'deprecated' and k.superseded_by is null, w.text_search_config,
         coalesce((select array_agg(distinct lower(btrim(t))) from unnest(k.retrieval_triggers) t where btrim(t) <> ''), '{}'),
         t.document, (select coalesce(sum(cardinality(positions)), 0) from unnest(t.document))
    from public.knowledge_items k
    join public.workspaces w on w.id = k.workspace_id
    cross join lateral (
      select string_agg(n.title || ' ' || n.content, ' ') as words
        from (
          (select b.* from public.knowledge_items b
            where b.created_in_session = k.created_in_session and b.session_position < k.session_position
              and b.validation_status <> 'deprecated' and b.superseded_by is null
              and (b.validation_status in ('validated', 'needs_update')
                   or (k.validation_status = 'pending' and b.owner_id = k.owner_id))
            order by b.session_position desc limit 2)
          union all
          (select a.* from public.knowledge_items a
            where a.created_in_session = k.created_in_session and a.session_position > k.session_position
              and a.validation_status <> 'deprecated' and a.superseded_by is null
              and (a.validation_status in ('validated', 'needs_update')
                   or (k.validation_status = 'pending' and a.owner_id = k.owner_id))
            order by a.session_position limit 2)
        ) n
    ) neighbours
    cross join lateral (
      select setweight(to_tsvector(w.text_search_config::regconfig, left(k.title, 10000)), 'A')
          || setweight(to_tsvector(w.text_search_config::regconfig, left(coalesce(array_to_string(k.retrieval_triggers, ' '), ''), 10000)), 'A')
          || setweight(to_tsvector(w.text_search_config::regconfig, k.content), 'B')
          || setweight(to_tsvector(w.text_search_config::regconfig, concat_ws(' ', k.category, k.subcategory, k.project_context,
               to_char(coalesce(k.valid_from, k.created_at) at time zone 'UTC', 'FMDay FMDD FMMonth YYYY'))), 'C')
          || setweight(to_tsvector(w.text_search_config::regconfig, left(coalesce(neighbours.words, ''), 50000)), 'D') as document
    ) t
   where k.id = any (knowledge_ids)
   order by k.id
  on conflict (knowledge_id) do update set
    workspace_id = excluded.workspace_id, owner_id = excluded.owner_id, session_id = excluded.session_id,
    is_shared = excluded.is_shared, is_live = excluded.is_live, config = excluded.config,
    triggers = excluded.triggers, document = excluded.document, document_length = excluded.document_length;
end
$$;
comment on function private.refresh_search_documents(uuid[]) is 'Builds the search documents of these items anew.';

-- definer because it reads items and writes documents that the writer may not see.
create function private.refresh_inserted_documents()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform private.refresh_search_documents(array(
    select i.id from inserted i
    union
    select b.id
      from (select i.created_in_session, min(i.session_position) as first_position
              from inserted i where i.created_in_session is not null group by 1) s
      cross join lateral (
        select k.id from public.knowledge_items k
         where k.created_in_session = s.created_in_session and k.session_position < s.first_position
         order by k.session_position desc limit 2) b));
  return null;
end
$$;
comment on function private.refresh_inserted_documents() is 'Trigger: documents of new items, and of those just before them in the session.';

-- definer for the same reason.
create function private.refresh_updated_documents()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  -- Locked first: of two changes in a session the later one decides with the earlier one's.
  perform from private.session_keys s where s.session_id = new.created_in_session for no key update;
  -- Its neighbour is whoever has fewer than two between that could be told instead: items that the workspace sees,
  -- and between pending items pending ones too.
  perform private.refresh_search_documents(array(
    select new.id
    union
    select n.id
      from (
        select k.id, k.validation_status,
               count(*) filter (where k.superseded_by is null and k.validation_status in ('validated', 'needs_update'))
                 over between_them as shared_between,
               count(*) filter (where k.superseded_by is null and k.validation_status <> 'deprecated')
                 over between_them as living_between
          from public.knowledge_items k
         where k.created_in_session = new.created_in_session and k.session_position <> new.session_position
        window between_them as (
          partition by k.session_position > new.session_position
          order by abs(k.session_position - new.session_position)
          rows between unbounded preceding and 1 preceding)
      ) n
     where n.shared_between < 2 and (n.validation_status <> 'pending' or n.living_between < 2)));
  return null;
end
$$;
comment on function private.refresh_updated_documents() is 'Trigger: documents of a changed item and its neighbours in the session.';

create trigger knowledge_items_refresh_inserted after insert on public.knowledge_items
  referencing new table as inserted
  for each statement execute function private.refresh_inserted_documents();
-- Besides the columns that a document is made of, those whose change can change the status by way of
-- knowledge_items_prepare: a trigger on columns looks at what the statement names, not at what becomes of it.
create trigger knowledge_items_refresh_updated
  after update of title, content, knowledge_type, category, subcategory, context_data, importance_score,
    retrieval_triggers, project_context, valid_from, valid_to, validation_status, superseded_by, owner_id,
    created_in_session
  on public.knowledge_items
  for each row
  when ((new.title, new.content, new.category, new.subcategory, new.retrieval_triggers, new.project_context,
         new.valid_from, new.validation_status, new.validated_at, new.superseded_by, new.owner_id, new.created_in_session)
        is distinct from
        (old.title, old.content, old.category, old.subcategory, old.retrieval_triggers, old.project_context,
         old.valid_from, old.validation_status, old.validated_at, old.superseded_by, old.owner_id, old.created_in_session))
  execute function private.refresh_updated_documents();

create type private.word_hit as (
  knowledge_id uuid, keyword_score double precision, matched_words text[], query_share double precision
);
comment on type private.word_hit is
  'An item found by its words: its BM25 score, the words of the query that are its own, and how much of the query it holds.';
create type private.trigger_hit as (knowledge_id uuid, trigger_score double precision, matched_triggers text[]);
comment on type private.trigger_hit is 'An item found by its triggers.';

create function private.quote_lexeme(lexeme text)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$ select '''' || replace(replace(lexeme, '\', '\\'), '''', '''''') || '''' $$;
comment on function private.quote_lexeme(text) is 'A lexeme as a tsquery is written.';

-- definer because of row-level security and GIN, see above; the WHERE carries the visibility rule.
create function private.keyword_candidates(
  workspace_id uuid, query_text text, include_retired boolean, max_candidates integer
)
returns setof private.word_hit
language plpgsql
stable
rows 100
security definer
set search_path = pg_catalog, pg_temp
-- Candidates come from the index; a planner without statistics would rather read the whole table.
set enable_seqscan = off
as $$
declare
  -- How many documents are drawn to tell rare words from common ones, and how many are ranked at most.
  v_sample_size constant integer := 400;
  v_budget constant integer := 1500;
  v_max_terms constant integer := 24;
  v_config regconfig;
  v_terms text[];
  v_words text[];
  v_sampled integer[];
  v_sample integer;
  v_average double precision;
  v_size double precision;
  v_keys bigint[] := '{}';
  v_operator text := '&&';
  v_chosen boolean[] := '{}';
  v_expected double precision := 0;
  v_one double precision;
  v_user uuid := auth.uid();
  v_session uuid := private.current_session();
  v_sees_all boolean := private.is_trusted()
    or keyword_candidates.workspace_id in (select private.maintained_workspaces());
  v_seed bigint := uuid_hash_extended(keyword_candidates.workspace_id, 0);
begin
  if not private.is_trusted() and keyword_candidates.workspace_id not in (select private.my_workspaces()) then
    return;
  end if;
  select w.text_search_config into v_config from public.workspaces w where w.id = keyword_candidates.workspace_id;
  -- Every word may match (OR): nine of ten natural questions have a word that no stored text has.
  select array_agg(q.lexeme order by q.lexeme), array_agg(q.word order by q.lexeme)
    into v_terms, v_words
    from (select distinct on (l.lexeme) l.lexeme, p.token as word
            from ts_parse('default', left(query_text, 10000)) p,
                 unnest(tsvector_to_array(to_tsvector(v_config, left(p.token, 2000)))) l (lexeme)
           order by l.lexeme, length(p.token)
           limit 64) q;
  if v_terms is null then
    return;
  end if;

  -- Ids are random, so the first documents by id are a random sample of what the caller sees, and how densely
  -- they lie tells how many there are (Bar-Yossef et al., 2002). Counting all of them would cost more than the search.
  execute format($sql$
    with drawn as materialized (
      select d.knowledge_id from private.search_documents d
       where d.workspace_id = $1 and d.is_live and ($2 or d.is_shared or d.owner_id = $3 or d.session_id = $4)
       order by d.knowledge_id limit $5)
    select count(*), avg(d.document_length), array[%s]::integer[],
           case when count(*) < $5 then count(*)
             else (count(*) - 1) / ((('x' || left(max(d.knowledge_id::text), 8))::bit(32)::bigint + 1) / 4294967296.0) end
      from drawn w join private.search_documents d on d.knowledge_id = w.knowledge_id
    $sql$, (select string_agg(format('count(*) filter (where d.document @@ %L)', private.quote_lexeme(t)), ', '
                              order by n)
              from unnest(v_terms) with ordinality u (t, n)))
    into v_sample, v_average, v_sampled, v_size
    using keyword_candidates.workspace_id, v_sees_all, v_user, v_session, v_sample_size;
  v_average := greatest(v_average, 1);

  -- The rarest words nominate, as long as what they are expected to bring stays within the budget; all words rank.
  select array_agg(t order by n), array_agg(w order by n), array_agg(s order by n) into v_terms, v_words, v_sampled
    from (select u.t, u.w, u.s, row_number() over (order by u.s, length(u.t) desc, u.t) as n
            from unnest(v_terms, v_words, v_sampled) u (t, w, s)) r
   where n <= v_max_terms;
  for i in 1 .. cardinality(v_terms) loop
    v_one := case when v_sample = v_size then v_sampled[i] else (v_sampled[i] + 0.5) / v_sample * v_size end;
    v_chosen[i] := i = 1 or v_expected + v_one <= v_budget;
    if v_chosen[i] then
      v_expected := v_expected + v_one;
      v_keys := v_keys || hashtextextended(v_terms[i] collate "C", v_seed);
    end if;
  end loop;
  -- Where even the rarest word is everywhere, the two rarest together nominate.
  if v_expected > v_budget and cardinality(v_terms) > 1 then
    v_chosen[1] := false;
    v_keys := v_keys || hashtextextended(v_terms[2] collate "C", v_seed);
    v_operator := '@>';
  end if;
  return query execute format($sql$
    with nominated as materialized (
      select d.knowledge_id, d.document, d.document_length
        from private.search_documents d
       where private.term_keys(d.workspace_id, d.document) %1$s $1
         and d.workspace_id = $2 and (d.is_live or $3)
         and ($4 or d.is_shared or d.owner_id = $5 or d.session_id = $6)
       limit 4 * $7
    ), frequencies as materialized (
      -- ts_rank of one word is its frequency with weights, repetition counting less each time.
      select n.knowledge_id, n.document_length, array[%2$s] as f from nominated n
    ), rarity as materialized (
      -- ln(1 + …) keeps a word that most texts have from counting against them.
      select array_agg(ln(1 + (greatest($8, c.df) - c.df + 0.5) / (c.df + 0.5)) order by c.n) as idf
        from (select u.n, greatest(case when u.chosen then x.df[u.n] else u.sampled * $8 / greatest($9, 1) end, x.df[u.n]) as df
                from (select array[%3$s] as df from frequencies q) x,
                     unnest($10::boolean[], $11::integer[]) with ordinality u (chosen, sampled, n)) c
    ), ranked as materialized (
      select q.knowledge_id, %4$s as score
        from frequencies q, rarity r
       order by 2 desc, 1
       limit $12
    )
    select r.knowledge_id, r.score,
           (select array_agg(w.word order by y.idf[w.n] desc, w.word)
              from unnest($13::text[], $14::tsquery[]) with ordinality w (word, own, n) where d.document @@ w.own),
           least(r.score / nullif((select sum(v) from unnest(y.idf) v), 0), 1)
      from ranked r join private.search_documents d on d.knowledge_id = r.knowledge_id, rarity y
    $sql$,
      v_operator,
      (select string_agg(format($x$ts_rank('{0.27,0.5,0.7,1}', n.document, %L) * 1.645 / 0.7$x$, private.quote_lexeme(t)), ', '
                         order by n) from unnest(v_terms) with ordinality u (t, n)),
      (select string_agg(format('count(*) filter (where q.f[%s] > 0)', n), ', ') from generate_series(1, cardinality(v_terms)) n),
      (select string_agg(format('r.idf[%1$s] * 1.9 * q.f[%1$s] / (q.f[%1$s] + 0.9 * (0.6 + 0.4 * q.document_length / $15))', n), ' + ')
         from generate_series(1, cardinality(v_terms)) n))
    using v_keys, keyword_candidates.workspace_id, include_retired, v_sees_all, v_user, v_session, v_budget, v_size, v_sample,
          v_chosen, v_sampled, max_candidates, v_words,
          (select array_agg((private.quote_lexeme(t) || ':ABC')::tsquery order by n) from unnest(v_terms) with ordinality u (t, n)),
          v_average;
end
$$;
comment on function private.keyword_candidates(uuid, text, boolean, integer) is
  'The items of a workspace, visible to the caller, that hold words of the query, ranked by BM25 with weights; with the words of the query that are their own (not a neighbour''s), rarest first.';

-- definer because of row-level security and GIN, see above; the WHERE carries the visibility rule.
create function private.trigger_candidates(
  workspace_id uuid, query_text text, include_retired boolean, max_candidates integer
)
returns setof private.trigger_hit
language plpgsql
stable
rows 100
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_words text[] := regexp_split_to_array(lower(left(query_text, 4000)), '[\s"''`(),;!?]+');
  v_phrases text[];
  v_common text[];
  v_user uuid := auth.uid();
  v_session uuid := private.current_session();
  v_sees_all boolean := private.is_trusted()
    or trigger_candidates.workspace_id in (select private.maintained_workspaces());
begin
  if not private.is_trusted() and trigger_candidates.workspace_id not in (select private.my_workspaces()) then
    return;
  end if;
  -- A trigger matches as a whole: one word, or up to four in a row, as they stand or without closing punctuation.
  select array_agg(distinct p.phrase) into v_phrases
    from generate_subscripts(v_words, 1) i
    cross join generate_series(1, 4) n
    cross join lateral (select array_to_string(v_words[i : i + n - 1], ' ') as joined) j
    cross join lateral (values (j.joined), (rtrim(j.joined, '.:'))) p (phrase)
   where i + n - 1 <= cardinality(v_words) and p.phrase <> '';
  -- A trigger that hundreds of items have tells nothing about any of them, and would crowd out the telling ones.
  loop
    select array_agg(c.word) into v_common
      from (select t.word
              from (select d.triggers from private.search_documents d
                     where d.workspace_id = trigger_candidates.workspace_id and d.triggers && v_phrases
                       and (d.is_live or include_retired)
                       and (v_sees_all or d.is_shared or d.owner_id = v_user or d.session_id = v_session)
                     limit 1000) d,
                   unnest(d.triggers) t (word)
             where t.word = any (v_phrases)
             group by t.word having count(*) > 200) c;
    exit when v_common is null;
    v_phrases := array(select p from unnest(v_phrases) p where p <> all (v_common));
  end loop;
  return query
    with held as materialized (
      select d.knowledge_id, array(select t from unnest(d.triggers) t where t = any (v_phrases)) as found
        from private.search_documents d
       where d.workspace_id = trigger_candidates.workspace_id
         and d.triggers && v_phrases
         and (d.is_live or include_retired)
         and (v_sees_all or d.is_shared or d.owner_id = v_user or d.session_id = v_session)
       limit 2000
    ), weighed as materialized (
      -- A trigger that more than twenty items have says less about each of them.
      select t as word, 0.5 * least(1, 20.0 / count(*)) as weight from held h, unnest(h.found) t group by t
    )
    select h.knowledge_id, (1 - exp(sum(ln(1 - w.weight))))::double precision,
           array_agg(w.word order by w.weight desc, length(w.word) desc, w.word)
      from held h cross join lateral unnest(h.found) t (word) join weighed w on w.word = t.word
     group by h.knowledge_id
     order by 2 desc, 1
     limit max_candidates;
end
$$;
comment on function private.trigger_candidates(uuid, text, boolean, integer) is
  'The items of a workspace, visible to the caller, one of whose triggers stands in the query as a word or phrase. Score: 1/2 for one trigger, 3/4 for two, and so on; less for triggers that many items have.';

-- Comparing every vector of a small workspace is exact, and cheaper than walking the index past everybody else's.
-- Which workspaces are not small is written down when they grow, since counting at each search would cost more than
-- it saves. A workspace that shrinks again is searched by the index still, which is right, if not as fast.
create table private.large_workspaces (
  workspace_id uuid not null,
  constraint large_workspaces_pkey primary key (workspace_id),
  constraint large_workspaces_workspace_id_fkey foreign key (workspace_id)
    references public.workspaces (id) on delete cascade
);
alter table private.large_workspaces enable row level security;
comment on table private.large_workspaces is 'Workspaces of more than 5000 items: their vectors are searched by index.';
comment on column private.large_workspaces.workspace_id is 'The workspace.';
revoke all on private.large_workspaces from public, anon, authenticated, service_role;
grant select on private.large_workspaces to service_role;

-- definer because nobody writes this table directly.
create function private.note_large_workspaces()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  insert into private.large_workspaces (workspace_id)
  select i.workspace_id
    from (select distinct workspace_id from inserted) i
   where not exists (select from private.large_workspaces l where l.workspace_id = i.workspace_id)
     and exists (select from private.search_documents d where d.workspace_id = i.workspace_id offset 5000)
   order by i.workspace_id
  on conflict on constraint large_workspaces_pkey do nothing;
  return null;
end
$$;
comment on function private.note_large_workspaces() is 'Trigger: writes down a workspace that has grown past 5000 items.';
create trigger search_documents_note_large after insert on private.search_documents
  referencing new table as inserted
  for each statement execute function private.note_large_workspaces();

revoke execute on function
  private.refresh_search_documents(uuid[]), private.refresh_inserted_documents(), private.refresh_updated_documents(),
  private.keyword_candidates(uuid, text, boolean, integer), private.trigger_candidates(uuid, text, boolean, integer),
  private.quote_lexeme(text), private.term_keys(uuid, tsvector), private.note_large_workspaces()
  from public, anon, authenticated, service_role;
grant execute on function
  private.keyword_candidates(uuid, text, boolean, integer), private.trigger_candidates(uuid, text, boolean, integer)
  to authenticated, service_role;
