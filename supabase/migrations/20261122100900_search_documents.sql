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
create index search_documents_document_idx on private.search_documents using gin (document);
create index search_documents_triggers_idx on private.search_documents using gin (triggers);
create index search_documents_workspace_id_idx on private.search_documents (workspace_id, is_live)
  include (document_length, is_shared, owner_id, session_id);
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

-- definer because of row-level security and GIN, see above; the WHERE carries the visibility rule.
create function private.keyword_candidates(
  workspace_id uuid, query_text text, include_retired boolean, max_candidates integer
)
returns table (knowledge_id uuid, keyword_score double precision, matched_words text[])
language plpgsql
stable
rows 100
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  -- BM25 (Robertson and Zaragoza, 2009) with the saturation and length parameters that suit short texts.
  v_k1 constant double precision := 0.9;
  v_b constant double precision := 0.4;
  v_config regconfig;
  v_terms text[];
  v_words text[];
  v_query tsquery;
  v_user uuid := auth.uid();
  v_session uuid := private.current_session();
  v_sees_all boolean := private.is_trusted()
    or keyword_candidates.workspace_id in (select private.maintained_workspaces());
begin
  if not private.is_trusted() and keyword_candidates.workspace_id not in (select private.my_workspaces()) then
    return;
  end if;
  select w.text_search_config into v_config from public.workspaces w where w.id = keyword_candidates.workspace_id;
  -- Every word may match (OR): nine of ten natural questions have a word that no stored text has.
  select array_agg(q.lexeme order by q.lexeme), array_agg(q.word order by q.lexeme)
    into v_terms, v_words
    from (select distinct on (l.lexeme) l.lexeme, d.token as word
            from ts_debug(v_config, left(query_text, 10000)) d, unnest(d.lexemes) l (lexeme)
           where octet_length(l.lexeme) between 1 and 2000  -- a tsquery holds no longer word, nor does a tsvector
           order by l.lexeme, length(d.token)
           limit 64) q;
  if v_terms is null then
    return;
  end if;
  select string_agg(quote_literal(replace(t, '\', '\\')), ' | ')::tsquery into v_query from unnest(v_terms) t;

  return query
    with matched as materialized (
      select d.knowledge_id, d.document, d.document_length
        from private.search_documents d
       where d.workspace_id = keyword_candidates.workspace_id
         and d.document @@ v_query
         and (d.is_live or include_retired)
         and (v_sees_all or d.is_shared or d.owner_id = v_user or d.session_id = v_session)
    ), collection as (
      select count(*)::double precision as size, greatest(avg(d.document_length), 1) as average_length
        from private.search_documents d
       where d.workspace_id = keyword_candidates.workspace_id and d.is_live
         and (v_sees_all or d.is_shared or d.owner_id = v_user or d.session_id = v_session)
    ), occurrences as (
      select m.knowledge_id, m.document_length, u.lexeme, u.weights <> array_fill('D'::text, array[cardinality(u.weights)]) as own,
             (select sum(case x.weight when 'A' then 1.5 when 'B' then 1.0 when 'C' then 0.7 else 0.4 end)
                from unnest(u.weights) x (weight)) as frequency
        from matched m, unnest(m.document) u
       where u.lexeme = any (v_terms)
    ), rarity as (
      -- ln(1 + …) keeps a word that most texts have from counting against them.
      select o.lexeme, ln(1 + (greatest(c.size, count(*)) - count(*) + 0.5) / (count(*) + 0.5)) as idf
        from occurrences o, collection c group by o.lexeme, c.size
    )
    select o.knowledge_id,
           sum(r.idf * o.frequency * (v_k1 + 1)
               / (o.frequency + v_k1 * (1 - v_b + v_b * o.document_length / c.average_length)))::double precision,
           array_agg(v_words[array_position(v_terms, o.lexeme)] order by r.idf desc) filter (where o.own)
      from occurrences o join rarity r on r.lexeme = o.lexeme cross join collection c
     group by o.knowledge_id
     order by 2 desc, 1
     limit max_candidates;
end
$$;
comment on function private.keyword_candidates(uuid, text, boolean, integer) is
  'The items of a workspace, visible to the caller, that hold words of the query, ranked by BM25 with weights; with the words of the query that are their own (not a neighbour''s), rarest first.';

-- definer because of row-level security and GIN, see above; the WHERE carries the visibility rule.
create function private.trigger_candidates(
  workspace_id uuid, query_text text, include_retired boolean, max_candidates integer
)
returns table (knowledge_id uuid, trigger_score double precision, matched_triggers text[])
language plpgsql
stable
rows 100
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_words text[] := regexp_split_to_array(lower(left(query_text, 4000)), '[\s"''`(),;!?]+');
  v_phrases text[];
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
  return query
    select d.knowledge_id, 1 - power(0.5, cardinality(m.found))::double precision, m.found
      from private.search_documents d
      cross join lateral (
        select array_agg(t order by length(t) desc) as found from unnest(d.triggers) t where t = any (v_phrases)) m
     where d.workspace_id = trigger_candidates.workspace_id
       and d.triggers && v_phrases
       and (d.is_live or include_retired)
       and (v_sees_all or d.is_shared or d.owner_id = v_user or d.session_id = v_session)
     order by cardinality(m.found) desc, d.knowledge_id
     limit max_candidates;
end
$$;
comment on function private.trigger_candidates(uuid, text, boolean, integer) is
  'The items of a workspace, visible to the caller, one of whose triggers stands in the query as a word or phrase. Score: 1/2 for one trigger, 3/4 for two, and so on.';

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
comment on table private.large_workspaces is 'Workspaces of more than 500 items: their vectors are searched by index.';
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
     and exists (select from private.search_documents d where d.workspace_id = i.workspace_id offset 500)
   order by i.workspace_id
  on conflict on constraint large_workspaces_pkey do nothing;
  return null;
end
$$;
comment on function private.note_large_workspaces() is 'Trigger: writes down a workspace that has grown past 500 items.';
create trigger search_documents_note_large after insert on private.search_documents
  referencing new table as inserted
  for each statement execute function private.note_large_workspaces();

revoke execute on function
  private.refresh_search_documents(uuid[]), private.refresh_inserted_documents(), private.refresh_updated_documents(),
  private.keyword_candidates(uuid, text, boolean, integer), private.trigger_candidates(uuid, text, boolean, integer),
  private.note_large_workspaces()
  from public, anon, authenticated, service_role;
grant execute on function
  private.keyword_candidates(uuid, text, boolean, integer), private.trigger_candidates(uuid, text, boolean, integer)
  to authenticated, service_role;
