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
--   * The words are stemmed by the row's own text search configuration: the item's, else the one of the language
--     that it is plainly written in, else the workspace's.
--   * Identifiers (paths, flags, symbols, codes) are words as they stand, beside the words that they are made of.
--     Scripts that write no spaces between words are found by single characters and pairs of neighbours (n-grams).
--   * A document's neighbours are read under the lock of the session's key, which recording takes too: of two
--     writers side by side the later one sees the earlier one's text.
--
-- The keys of words are those of one workspace, so an index on the workspace can only be a detour, which a planner
-- without statistics would take: `(workspace_id = …) is true` is the same condition, and no index's.
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
create function private.trigger_keys(workspace_id uuid, triggers text[])
returns bigint[]
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(array_agg(hashtextextended(t collate "C", uuid_hash_extended(workspace_id, 0))), '{}') from unnest(triggers) t
$$;
comment on function private.trigger_keys(uuid, text[]) is 'Triggers as numbers of their workspace, as term_keys.';
-- What was written last waits in a list that each search reads whole: a short one, so that searches stay fast.
create index search_documents_terms_idx on private.search_documents
  using gin (private.term_keys(workspace_id, document)) with (gin_pending_list_limit = 256);
create index search_documents_triggers_idx on private.search_documents
  using gin (private.trigger_keys(workspace_id, triggers)) with (gin_pending_list_limit = 128);
alter table private.search_documents enable row level security;
comment on table private.search_documents is 'The words by which each item is found, and who may find it by them.';
comment on column private.search_documents.knowledge_id is 'The item.';
comment on column private.search_documents.workspace_id is 'As in the item.';
comment on column private.search_documents.owner_id is 'As in the item.';
comment on column private.search_documents.session_id is 'The item''s created_in_session.';
comment on column private.search_documents.is_shared is 'Whether the whole workspace may see the item.';
comment on column private.search_documents.is_live is 'Whether the item is neither deprecated nor superseded.';
comment on column private.search_documents.config is 'The text search configuration of its words: the item''s own, else its language''s, else the workspace''s.';
comment on column private.search_documents.triggers is 'The item''s triggers in lower case.';
comment on column private.search_documents.document is 'Words with weights: A title and triggers, B content, C date, tags and project, D neighbours in the session.';
comment on column private.search_documents.document_length is 'How many word positions it has.';
revoke all on private.search_documents from public, anon, authenticated, service_role;
grant select on private.search_documents to service_role;

create function private.quote_lexeme(lexeme text)
returns text
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  return '''' || replace(replace(lexeme, '\', '\\'), '''', '''''') || '''';
end
$$;
comment on function private.quote_lexeme(text) is 'A lexeme as a tsquery is written.';

create function private.lexeme_queries(lexemes text[], weights text default '')
returns tsquery[]
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select array_agg((private.quote_lexeme(l) || weights)::tsquery order by n) from unnest(lexemes) with ordinality u (l, n)
$$;
comment on function private.lexeme_queries(text[], text) is
  'A query for each lexeme; weights (":ABC") restrict where it may stand.';

-- The configurations of a workspace's documents besides its own, noted when they come up: a query's words are stemmed
-- by each. One that no document has any more does no harm.
create table private.workspace_languages (
  workspace_id uuid not null,
  config text not null,
  constraint workspace_languages_pkey primary key (workspace_id, config),
  constraint workspace_languages_workspace_id_fkey foreign key (workspace_id)
    references public.workspaces (id) on delete cascade
);
alter table private.workspace_languages enable row level security;
comment on table private.workspace_languages is 'In which other text search configurations a workspace has items.';
comment on column private.workspace_languages.workspace_id is 'The workspace.';
comment on column private.workspace_languages.config is 'The text search configuration.';
revoke all on private.workspace_languages from public, anon, authenticated, service_role;
grant select on private.workspace_languages to service_role;

create type private.split_text as (plain text, marks text[]);
comment on type private.split_text is
  'A text as the text search parser can read it, and what is found in it as it stands: identifiers and n-grams, in order.';

create function private.split_text(text text)
returns private.split_text
language plpgsql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
  -- Thai, Lao, Myanmar, Khmer, Kana, Han, Hangul.
  v_unsegmented constant text :=
    '[\u0e01-\u0edf\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]+';
  -- Whether a letter is one, and its small form, must not depend on the locale of the database.
  v_text text collate pg_catalog."pg_c_utf8" := coalesce(split_text.text, '');
  v_split private.split_text;
  v_parts text;
begin
  if octet_length(v_text) <> length(v_text) then
    -- One spelling of accents and widths; no Arabic vowel signs and stretching.
    v_text := regexp_replace(normalize(v_text, nfkc), '[\u0640\u064b-\u0652]', '', 'g');
    -- In some locales the parser takes any sign that is not ASCII for a letter.
    v_text := regexp_replace(v_text,
      '[\u00a1-\u00bf\u00d7\u00f7\u060c\u061b\u061f\u06d4\u0964\u0965\u2000-\u206f\u2190-\u2bff\u3000-\u3004\u3008-\u303f]+', ' ', 'g');
    if v_text ~ v_unsegmented then
      select array_agg(g.gram order by g.run, g.n, length(g.gram)) into v_split.marks
        from (select r.run, c.n, p.gram
                from regexp_matches(v_text, v_unsegmented, 'g') with ordinality r (found, run)
                cross join lateral (
                  select c.n, c.character, lead(c.character) over (order by c.n) as following
                    from string_to_table(r.found[1], null) with ordinality c (character, n)) c
                cross join lateral (values (c.character), (c.character || c.following)) p (gram)
               where p.gram is not null) g;
      v_text := regexp_replace(v_text, v_unsegmented, ' ', 'g');
    end if;
  end if;
  v_split.plain := v_text;
  -- An identifier is what holds more than letters and digits, but is no hyphenated word. The parser takes it apart,
  -- drops its signs, or (paths, addresses) keeps it whole: it is kept as it stands, and its parts are words, too.
  if v_text ~ '[[:alnum:]][-._/:\\@#$~%+]+[[:alnum:]]|[-._/\\@#$~%+][[:alnum:]]|[[:alnum:]][#+]|[[:lower:]][[:upper:]]' then
    select v_split.marks || array_agg(lower(m.mark) order by c.n, m.mark)
             filter (where m.mark ~ '[[:alpha:]]' and m.mark ~ '[^[:alnum:]]' and length(m.mark) between 2 and 200),
           string_agg(case when c.chunk ~ '[[:alnum:]][/\\.@][[:alnum:]]|[[:lower:]][[:upper:]]' and m.mark = c.chunk then
             regexp_replace(regexp_replace(c.chunk, '([[:lower:][:digit:]])([[:upper:]])', '\1 \2', 'g'), '\W+|_', ' ', 'g')
             end, ' ')
      into v_split.marks, v_parts
      from (select c.n, ltrim(rtrim(c.chunk, '.:/\-'), ':') as chunk
              from regexp_split_to_table(v_text, '[][\s"''`(){}<>,;|=&!?*]+') with ordinality c (chunk, n)) c
      cross join lateral (
        select c.chunk as mark
        union
        select substring(c.chunk from '[/\\]([^/\\]+)$')) m
     where c.chunk ~ '^[-._/:\\@#$~%+[:alnum:]]+$'
       and c.chunk ~ '[^[:alnum:]]|[[:lower:]][[:upper:]]' and c.chunk !~ '^[[:alpha:]]+(-[[:alpha:]]+)*$|^[^[:alpha:]]+$';
    v_split.plain := concat_ws(' ', v_text, v_parts);
  end if;
  if octet_length(v_split.plain) <> length(v_split.plain) then
    v_split.plain := lower(v_split.plain collate pg_catalog."pg_c_utf8");
  end if;
  return v_split;
end
$$;
comment on function private.split_text(text) is
  'Takes a text apart for searching: identifiers and n-grams as they stand, and the rest with the parts of identifiers for the parser.';

create function private.text_vector(config regconfig, text text)
returns tsvector
language plpgsql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
  v_split private.split_text := private.split_text(text_vector.text);
begin
  -- The dictionaries would make letters small as the locale of the database does.
  return to_tsvector(config, lower(v_split.plain collate pg_catalog."pg_c_utf8")) || coalesce(
    (select string_agg(private.quote_lexeme(m.mark) || ':' || m.places, ' ')::tsvector
       from (select u.mark, string_agg(least(u.n, 16383)::text, ',' order by u.n) as places
               from unnest(v_split.marks) with ordinality u (mark, n) where u.n <= 16383 group by u.mark) m), '');
end
$$;
comment on function private.text_vector(regconfig, text) is
  'The words of a text: stemmed by the configuration, with identifiers and n-grams as they stand.';

create function private.language_config(text text, default_config text)
returns text
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
  -- By script, else by the words that only this language is full of. `simple` was chosen: it stays.
  select case
    when language_config.default_config in ('simple', 'pg_catalog.simple') then language_config.default_config
    when s.text ~ '[\u0621-\u06ff]{2}.*[\u0621-\u06ff]{2}' then 'pg_catalog.arabic'
    when s.text ~ '[\u0400-\u04ff]{2}.*[\u0400-\u04ff]{2}' then 'pg_catalog.russian'
    when s.text ~ '[\u0370-\u03ff]{2}.*[\u0370-\u03ff]{2}' then 'pg_catalog.greek'
    when s.text ~ '[\u0900-\u097f]{2}.*[\u0900-\u097f]{2}' then 'pg_catalog.hindi'
    when regexp_count(lower(s.text), '\y(the|and|is|are|of|to|with|that|it|this|for)\y') >= 3 then 'pg_catalog.english'
    -- Most texts that are not plainly English (code, names) have none of the words below, which is soon seen.
    when lower(s.text) !~ '\y(der|die|das|und|ist|ein|eine|mit|den|für|le|la|les|des|est|une|que|el|los|por|para|se|su|il|che|di|per|non|uma|não|da|um|het|een|van|och|att|det|som)\y'
      then language_config.default_config
    else coalesce(
      (select 'pg_catalog.' || w.language
         from (select regexp_split_to_array(lower(s.text), '[^[:alpha:]\u00c0-\u017f]+') as words) x
         cross join (values
           ('english', '{the,and,is,are,of,to,with,that,it,this,for,was,have,be,you,not,from,by,when,on,at}'::text[]),
           ('german', '{der,die,das,und,ist,sind,nicht,ein,eine,einen,einer,wird,werden,wurde,mit,den,dem,des,für,auf,von,vom,zu,zum,zur,im,nach,aus,als,wie,sich,sie,es,er,über,oder,wenn,bei,auch,nur,kann,muss,haben,hat}'),
           ('french', '{le,la,les,des,est,sont,un,une,dans,pas,que,et,du,au,sur,avec,qui,pour,par,ne,ce,il,elle,aux,cette,plus}'),
           ('spanish', '{el,la,los,las,que,un,una,del,con,por,para,es,son,se,su,lo,como,cuando,está,y,de}'),
           ('italian', '{il,che,di,un,una,della,del,per,con,non,sono,gli,nel,alla,si,quando,è,le,la}'),
           ('portuguese', '{que,uma,não,para,com,da,dos,um,quando,é,são,está,ao,pela,de}'),
           ('dutch', '{het,een,van,niet,dat,zijn,worden,op,te,voor,met,aan,wordt,de,als,ook,bij,naar,deze}'),
           ('swedish', '{och,att,det,som,en,är,för,inte,på,med,av,till,den,ett,när,från}')
         ) w (language, common)
         cross join lateral (
           select count(*) as hits, count(distinct u.word) as kinds from unnest(x.words) u (word) where u.word = any (w.common)) c
        where c.hits >= 3 and c.kinds >= 2
        order by c.hits desc, w.language = 'english' desc, w.language
        limit 1),
      language_config.default_config)
    end
    from (select left(language_config.text, 1000) collate pg_catalog."pg_c_utf8" as text) s
$$;
comment on function private.language_config(text, text) is
  'The text search configuration of the language that a text is plainly written in, else the given one.';

-- definer because nobody writes search documents directly.
create function private.refresh_search_documents(knowledge_ids uuid[], beside uuid[] default '{}')
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = 'force_generic_plan'  -- planning it costs more than running it for one item
as $$
declare
  v_slice constant integer := 1000;
begin
  perform from private.session_keys s
    where s.session_id in (select k.created_in_session from public.knowledge_items k
                            where k.id = any (knowledge_ids || beside))
    order by s.session_id for no key update;
  if cardinality(knowledge_ids) + cardinality(beside) > v_slice then
    -- First the own words of all, then what they have of their neighbours.
    for i in 1..cardinality(knowledge_ids) by v_slice loop
      perform private.refresh_search_documents(knowledge_ids[i:i + v_slice - 1], '{}');
    end loop;
    beside := knowledge_ids || beside;
    for i in 1..cardinality(beside) by v_slice loop
      perform private.refresh_search_documents('{}', beside[i:i + v_slice - 1]);
    end loop;
    return;
  end if;
  insert into private.search_documents as d (knowledge_id, workspace_id, owner_id, session_id, is_shared, is_live,
    config, triggers, document, document_length)
  -- Reading words out of a text is the work here: it is done once, and its neighbours get them from its document.
  with own as materialized (
    select k.id, c.config,
           setweight(private.text_vector(c.config::regconfig, left(k.title, 10000)), 'A')
             || setweight(private.text_vector(c.config::regconfig, left(array_to_string(k.retrieval_triggers, ' '), 10000)), 'A')
             || setweight(private.text_vector(c.config::regconfig, k.content), 'B')
             || setweight(to_tsvector(c.config::regconfig, lower(concat_ws(' ', k.category, k.subcategory, k.project_context,
                  to_char(coalesce(k.valid_from, k.created_at) at time zone 'UTC', 'FMDay FMDD FMMonth YYYY')) collate pg_catalog."pg_c_utf8")), 'C')
             as words
      from public.knowledge_items k
      join public.workspaces w on w.id = k.workspace_id
      cross join lateral (
        select coalesce(k.text_search_config,
                 private.language_config(k.title || ' ' || k.content, w.text_search_config)) as config offset 0) c
     where k.id = any (knowledge_ids)
    union all
    select b.knowledge_id, b.config, ts_filter(b.document, '{a,b,c}')
      from private.search_documents b where b.knowledge_id = any (beside) and b.knowledge_id <> all (knowledge_ids)
  )
  select k.id, k.workspace_id, k.owner_id, k.created_in_session,
         k.validation_status in ('validated', 'needs_update')
           or (k.validation_status = 'deprecated' and k.validated_at is not null),
         k.validation_status <> 'deprecated' and k.superseded_by is null, o.config,
         coalesce((select array_agg(distinct lower(btrim(t) collate pg_catalog."pg_c_utf8")) from unnest(k.retrieval_triggers) t where btrim(t) <> ''), '{}'),
         t.document, (select coalesce(sum(cardinality(positions)), 0) from unnest(t.document))
    from own o
    join public.knowledge_items k on k.id = o.id
    cross join lateral (
      select array_agg(setweight(ts_filter(n.words, '{a,b}'), 'D') order by n.place) as words
        from (
          select coalesce(x.words, d.document) as words, b.session_position as place
            from (select b.* from public.knowledge_items b
                   where b.created_in_session = k.created_in_session and b.session_position < k.session_position
                     and b.validation_status <> 'deprecated' and b.superseded_by is null
                     and (b.validation_status in ('validated', 'needs_update')
                          or (k.validation_status = 'pending' and b.owner_id = k.owner_id))
                   order by b.session_position desc limit 2) b
            left join own x on x.id = b.id
            left join private.search_documents d on d.knowledge_id = b.id
          union all
          select coalesce(x.words, d.document), a.session_position
            from (select a.* from public.knowledge_items a
                   where a.created_in_session = k.created_in_session and a.session_position > k.session_position
                     and a.validation_status <> 'deprecated' and a.superseded_by is null
                     and (a.validation_status in ('validated', 'needs_update')
                          or (k.validation_status = 'pending' and a.owner_id = k.owner_id))
                   order by a.session_position limit 2) a
            left join own x on x.id = a.id
            left join private.search_documents d on d.knowledge_id = a.id
        ) n
       -- A tsvector has a megabyte at most.
       where pg_column_size(n.words) < 100000
    ) around
    cross join lateral (
      select o.words || coalesce(around.words[1], '') || coalesce(around.words[2], '')
               || coalesce(around.words[3], '') || coalesce(around.words[4], '') as document offset 0) t
   order by k.id
  on conflict (knowledge_id) do update set
    workspace_id = excluded.workspace_id, owner_id = excluded.owner_id, session_id = excluded.session_id,
    is_shared = excluded.is_shared, is_live = excluded.is_live, config = excluded.config,
    triggers = excluded.triggers, document = excluded.document, document_length = excluded.document_length;
  insert into private.workspace_languages (workspace_id, config)
  select distinct d.workspace_id, d.config
    from private.search_documents d join public.workspaces w on w.id = d.workspace_id
   where d.knowledge_id = any (knowledge_ids) and d.config <> w.text_search_config
     and not exists (select from private.workspace_languages l where l.workspace_id = d.workspace_id and l.config = d.config)
   order by 1, 2
  on conflict on constraint workspace_languages_pkey do nothing;
end
$$;
comment on function private.refresh_search_documents(uuid[], uuid[]) is
  'Builds the search documents of these items anew, and those of others from the words that they have and those of their neighbours.';

-- definer because it reads items and writes documents that the writer may not see.
create function private.refresh_inserted_documents()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform private.refresh_search_documents(array(select i.id from inserted i), array(
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
  perform private.refresh_search_documents(array[new.id], array(
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
    created_in_session, text_search_config
  on public.knowledge_items
  for each row
  when ((new.title, new.content, new.category, new.subcategory, new.retrieval_triggers, new.project_context,
         new.valid_from, new.validation_status, new.validated_at, new.superseded_by, new.owner_id, new.created_in_session,
         new.text_search_config)
        is distinct from
        (old.title, old.content, old.category, old.subcategory, old.retrieval_triggers, old.project_context,
         old.valid_from, old.validation_status, old.validated_at, old.superseded_by, old.owner_id, old.created_in_session,
         old.text_search_config))
  execute function private.refresh_updated_documents();

create type private.viewer as (sees_all boolean, user_id uuid, session_id uuid, workspace_id uuid);
comment on type private.viewer is 'Who looks into a workspace: all of it, or what is shared, their own and of their session.';

-- definer because it reads memberships before the caller may; of a foreign workspace it tells nothing.
create function private.viewer(workspace_id uuid default null)
returns private.viewer
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_context record := private.request_context();  -- a forged context fails every request
  v_workspace uuid := coalesce(viewer.workspace_id, v_context.workspace_id);
  v_role text;
begin
  if private.is_trusted() then
    return row(true, v_context.user_id, v_context.session_id, v_workspace);
  end if;
  select m.role into v_role
    from public.workspace_members m
   where m.workspace_id = v_workspace and m.user_id = v_context.user_id
     -- A bound token's context is its workspace.
     and (m.workspace_id = v_context.workspace_id or private.bound_workspace() is null);
  if v_role is null then
    return null;
  end if;
  return row(v_role in ('owner', 'maintainer'), v_context.user_id, v_context.session_id, v_workspace);
end
$$;
comment on function private.viewer(uuid) is
  'How the caller looks into a workspace, or into the one of this request; null: not at all.';

create type private.near_word as (word text, lexeme text);
comment on type private.near_word is 'A word that nothing holds, and the lexeme of one that is nearly it.';

create type private.word_hit as (
  knowledge_id uuid, keyword_score double precision, matched_words text[], query_share double precision,
  matched_marks text[], near_words private.near_word[]
);
comment on type private.word_hit is
  'An item found by its words: its BM25 score, the words of the query that are its own, how much of the query it holds, the telling identifiers of the query that it has, and its words that are nearly those of the query.';
create type private.trigger_hit as (knowledge_id uuid, trigger_score double precision, matched_triggers text[]);
comment on type private.trigger_hit is 'An item found by its triggers.';

create function private.count_words(documents tsvector[], terms text[])
returns integer[]
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  return array(
    select (select count(*)::integer from unnest(documents) d (document) where d.document @@ u.query)
      from unnest(private.lexeme_queries(terms)) with ordinality u (query, n)
     order by u.n);
end
$$;
comment on function private.count_words(tsvector[], text[]) is 'How many of these documents hold each of the lexemes.';

create function private.misspellings(word text)
returns setof text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  -- A letter left out, doubled, swapped with the next, or another in its place (Damerau, 1964): four of five slips.
  -- The first letter is seldom wrong.
  with word as (
    select misspellings.word as w, case
      when misspellings.word ~ '[\u0400-\u04ff]' then 'абвгдежзийклмнопрстуфхцчшщъыьэюяёіїєґ'
      when misspellings.word ~ '[\u0370-\u03ff]' then 'αβγδεζηθικλμνξοπρστυφχψωςάέήίόύώ'
      when misspellings.word ~ '[\u0621-\u06ff]' then 'ابتثجحخدذرزسشصضطظعغفقكلمنهويةىءأإآؤئ'
      when misspellings.word ~ '[^\u0001-\u007f]' then 'abcdefghijklmnopqrstuvwxyzäöüßàáâãåæçèéêëíîïñóôõøúû'
      else 'abcdefghijklmnopqrstuvwxyz' end as alphabet
  ), places as (select w, i, length(w) as n from word, generate_series(1, length(w)) i)
  select overlay(w placing '' from i for 1) from places where i > 1
  union
  select overlay(w placing substr(w, i + 1, 1) || substr(w, i, 1) from i for 2) from places where i < n
  union
  select overlay(p.w placing a.letter from i for 1)
    from places p, word, string_to_table(alphabet, null) a (letter) where i > 1
  union
  select left(p.w, i) || a.letter || substr(p.w, i + 1) from places p, word, string_to_table(alphabet, null) a (letter)
$$;
comment on function private.misspellings(text) is 'What is one slip of the pen away from a word.';

create function private.near_words(
  workspace_id uuid, configs text[], words text[], sees_all boolean, user_id uuid, session_id uuid
)
returns setof private.near_word
language plpgsql
stable
rows 3
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
  v_seed bigint := uuid_hash_extended(near_words.workspace_id, 0);
  v_word text;
  v_stems text[];
  v_lexemes text[];
begin
  foreach v_word in array words loop
    -- The pairs of its letters are tried: what is longer than any word is no word.
    continue when length(v_word) > 40;
    v_stems := array(
      select distinct l from unnest(configs) c (config), unnest(tsvector_to_array(to_tsvector(c.config::regconfig, lower(v_word collate pg_catalog."pg_c_utf8")))) l);
    continue when exists (
      select from private.search_documents d
       where private.term_keys(d.workspace_id, d.document)
               && array(select hashtextextended(l collate "C", v_seed) from unnest(v_stems) l)
         and (d.workspace_id = near_words.workspace_id) is true
         and (sees_all or d.is_shared or d.owner_id = near_words.user_id or d.session_id = near_words.session_id));
    -- Two slips where the word is long: an ending that the stemmer didn't know, say.
    v_lexemes := array(
      select l from unnest(configs) c (config),
             unnest(tsvector_to_array(to_tsvector(c.config::regconfig, (select string_agg(m, ' ') from private.misspellings(lower(v_word collate pg_catalog."pg_c_utf8")) m)))) l
      union
      select m from unnest(v_stems) l, private.misspellings(l) m where length(l) >= 4
      union
      select overlay(overlay(l placing '' from j for 1) placing '' from i for 1)
        from unnest(v_stems) l, generate_series(2, length(l)) i, generate_series(2, length(l)) j
       where length(l) >= 8 and i < j);
    return query
      with beside as materialized (
        select d.document from private.search_documents d
         where private.term_keys(d.workspace_id, d.document)
                 && array(select hashtextextended(l collate "C", v_seed) from unnest(v_lexemes) l)
           and (d.workspace_id = near_words.workspace_id) is true
           and (sees_all or d.is_shared or d.owner_id = near_words.user_id or d.session_id = near_words.session_id)
         limit 200
      ), found as materialized (
        select l.lexeme, count(*) as n
          from unnest(v_lexemes) l (lexeme) join (select unnest(tsvector_to_array(b.document)) as lexeme from beside b) h
            on h.lexeme = l.lexeme
         group by l.lexeme order by n desc, l.lexeme limit 3
      )
      select v_word, f.lexeme from found f;
  end loop;
end
$$;
comment on function private.near_words(uuid, text[], text[], boolean, uuid, uuid) is
  'For those of the words that no visible document of the workspace holds, up to three that are nearly the same and there.';

create function private.rank_words(
  viewer private.viewer, workspace_id uuid, query_text text, include_retired boolean, max_candidates integer
)
returns setof private.word_hit
language plpgsql
stable
rows 100
set search_path = pg_catalog, pg_temp
-- Candidates come from the index; a planner without statistics would rather read the whole table.
set enable_seqscan = off
-- Its statements take more planning than running, and one plan serves all queries.
set plan_cache_mode = 'force_generic_plan'
as $$
declare
  -- How many documents are drawn to tell rare words from common ones, and how many are ranked at most.
  v_sample_size constant integer := 300;
  v_budget constant integer := 800;
  v_max_terms constant integer := 24;
  v_split private.split_text := private.split_text(left(query_text, 10000));
  v_configs text[];
  v_terms text[];
  v_words text[];
  v_kinds text[];
  v_sampled integer[];
  v_near private.near_word[];
  v_drawn uuid[];
  v_documents tsvector[];
  v_sample integer;
  v_average double precision;
  v_size double precision;
  v_any_keys bigint[] := '{}';
  v_all_keys bigint[];
  v_chosen boolean[] := '{}';
  v_expected double precision := 0;
  v_one double precision;
  v_user uuid := viewer.user_id;
  v_session uuid := viewer.session_id;
  v_sees_all boolean := viewer.sees_all;
  v_seed bigint := uuid_hash_extended(rank_words.workspace_id, 0);
begin
  v_configs := array(
    select w.text_search_config from public.workspaces w where w.id = rank_words.workspace_id
    union
    select l.config from private.workspace_languages l where l.workspace_id = rank_words.workspace_id);
  -- Every word may match (OR): nine of ten natural questions have a word that no stored text has. A mark is a word
  -- that names one thing: an identifier, or letters and digits or capitals as no word of a language is written.
  select array_agg(q.lexeme order by q.lexeme), array_agg(q.word order by q.lexeme), array_agg(q.kind order by q.lexeme)
    into v_terms, v_words, v_kinds
    from (select distinct on (l.lexeme) l.lexeme, t.word, case
                   when l.lexeme = any (v_split.marks) and l.lexeme ~ '[[:alpha:]]' and l.lexeme ~ '[^[:alnum:]]' then 'mark'
                   when t.word ~ '[A-Za-z]' and t.word ~ '[0-9]' and t.word !~* '^[0-9]+(st|nd|rd|th|am|pm|s|h|m|k|x)$' then 'mark'
                   when t.word ~ '^[A-Z]{4,}$|^[a-z]+[A-Z]|^[A-Z][a-z]+[A-Z]' and query_text <> upper(query_text collate pg_catalog."pg_c_utf8") then 'mark'
                   when t.word ~ '^[[:alpha:]]{4,}$' then 'word' end as kind
            from (select left(p.token, 2000) collate pg_catalog."pg_c_utf8" as word from ts_parse('default', v_split.plain) p) t
            cross join unnest(v_configs) c (config)
            cross join unnest(tsvector_to_array(to_tsvector(c.config::regconfig, lower(t.word)))) l (lexeme)
           order by l.lexeme, length(t.word)
           limit 64) q;
  select coalesce(v_terms, '{}') || m.marks, coalesce(v_words, '{}') || m.marks, coalesce(v_kinds, '{}') || m.kinds
    into v_terms, v_words, v_kinds
    from (select coalesce(array_agg(u.mark), '{}') as marks,
                 coalesce(array_agg(case when u.mark ~ '[[:alpha:]]' and u.mark ~ '[^[:alnum:]]' then 'mark' end), '{}') as kinds
            from (select distinct unnest(v_split.marks[1:64]) as mark) u
           where v_terms is null or u.mark <> all (v_terms)) m;
  if cardinality(v_terms) = 0 then
    return;
  end if;

  -- Ids are random, so the first documents by id are a random sample of what the caller sees, and how densely
  -- they lie tells how many there are (Bar-Yossef et al., 2002). Counting all of them would cost more than the search.
  select coalesce(array_agg(d.knowledge_id), '{}'), coalesce(array_agg(d.document), '{}'), greatest(avg(d.document_length), 1)
    into v_drawn, v_documents, v_average
    from (select d.knowledge_id, d.document, d.document_length
            from private.search_documents d
           where d.workspace_id = rank_words.workspace_id and d.is_live
             and (v_sees_all or d.is_shared or d.owner_id = v_user or d.session_id = v_session)
           order by d.knowledge_id limit v_sample_size) d;
  v_sample := cardinality(v_drawn);
  v_size := case when v_sample < v_sample_size then v_sample
    else (v_sample - 1) / ((('x' || left(v_drawn[v_sample]::text, 8))::bit(32)::bigint + 1) / 4294967296.0) end;
  v_sampled := private.count_words(v_documents, v_terms);

  -- A word that nothing holds may be misspelt: what is nearly it stands in for it.
  v_near := array(
    select n from private.near_words(rank_words.workspace_id, v_configs, array(
        select u.w from unnest(v_words, v_kinds, v_sampled) u (w, k, s)
         where u.k = 'word' group by u.w having max(u.s) = 0 order by length(u.w) desc, u.w limit 3),
      v_sees_all, v_user, v_session) n);
  if cardinality(v_near) > 0 then
    select array_agg(x.t), array_agg(x.w), array_agg(x.k), array_agg(x.s) into v_terms, v_words, v_kinds, v_sampled
      from (select u.t, u.w, u.k, u.s from unnest(v_terms, v_words, v_kinds, v_sampled) u (t, w, k, s)
             where u.w not in (select n.word from unnest(v_near) n)
            union all
            select distinct on (n.lexeme) n.lexeme, n.word, 'near', c.s
              from unnest(v_near) n
              join unnest((select array_agg(a.lexeme) from unnest(v_near) a),
                          private.count_words(v_documents, (select array_agg(a.lexeme) from unnest(v_near) a))) c (t, s)
                on c.t = n.lexeme
             where n.lexeme <> all (v_terms)) x;
  end if;

  -- The rarest words nominate, as long as what they are expected to bring stays within the budget; all words rank.
  select array_agg(t order by n), array_agg(w order by n), array_agg(k order by n), array_agg(s order by n)
    into v_terms, v_words, v_kinds, v_sampled
    from (select u.t, u.w, u.k, u.s, row_number() over (order by u.s, length(u.t) desc, u.t) as n
            from unnest(v_terms, v_words, v_kinds, v_sampled) u (t, w, k, s)) r
   where n <= v_max_terms;
  for i in 1 .. coalesce(cardinality(v_terms), 0) loop
    v_one := case when v_sample = v_size then v_sampled[i] else (v_sampled[i] + 0.5) / v_sample * v_size end;
    v_chosen[i] := i = 1 or v_expected + v_one <= v_budget;
    if v_chosen[i] then
      v_expected := v_expected + v_one;
      v_any_keys := v_any_keys || hashtextextended(v_terms[i] collate "C", v_seed);
    end if;
  end loop;
  -- Where even the rarest word is everywhere, the two rarest together nominate.
  if v_expected > v_budget and cardinality(v_terms) > 1 then
    v_chosen[1] := false;
    v_all_keys := v_any_keys || hashtextextended(v_terms[2] collate "C", v_seed);
    v_any_keys := null;
  end if;
  return query
    with hits as materialized (
      -- ts_rank of one word is its frequency with weights, repetition counting less each time.
      select d.knowledge_id, 0.9 * (0.6 + 0.4 * d.document_length::double precision / v_average) as damping, u.n,
             ts_rank('{0.27,0.5,0.7,1}', d.document, u.query) * 1.645 / 0.7 as frequency
        from (select d.knowledge_id, d.document, d.document_length
                from private.search_documents d
               where (private.term_keys(d.workspace_id, d.document) && v_any_keys
                      or private.term_keys(d.workspace_id, d.document) @> v_all_keys)
                 and (d.workspace_id = rank_words.workspace_id) is true and (d.is_live or include_retired)
                 and (v_sees_all or d.is_shared or d.owner_id = v_user or d.session_id = v_session)
               limit 4 * v_budget) d
        join unnest(private.lexeme_queries(v_terms)) with ordinality u (query, n) on d.document @@ u.query
    ), terms as materialized (
      -- ln(1 + …) keeps a word that most texts have from counting against them. A near word is not the word.
      select u.n, u.own, u.word, u.lexeme, u.kind, c.df,
             ln(1 + (greatest(v_size, c.df) - c.df + 0.5) / (c.df + 0.5)) * case u.kind when 'near' then 0.7 else 1 end as idf
        from unnest(v_terms, private.lexeme_queries(v_terms, ':ABC'), v_words, v_kinds, v_chosen, v_sampled)
               with ordinality u (lexeme, own, word, kind, chosen, sampled, n)
        left join (select h.n, count(*) as df from hits h group by h.n) h on h.n = u.n
       cross join lateral (
         select greatest(case when u.chosen then 0 else u.sampled * v_size / greatest(v_sample, 1) end,
                         coalesce(h.df, 0)) as df) c
    ), ranked as materialized (
      select h.knowledge_id, sum(t.idf * 1.9 * h.frequency / (h.frequency + h.damping)) as score
        from hits h join terms t on t.n = h.n
       group by h.knowledge_id
       order by 2 desc, 1
       limit max_candidates
    )
    select r.knowledge_id, r.score,
           -- Its own words, not a neighbour's. Like a trigger, an identifier that more than twenty items have tells little.
           nullif(array(select t.word from terms t
                         where t.kind is distinct from 'near' and d.document @@ t.own order by t.n), '{}'),
           least(r.score / nullif(o.idf, 0), 1),
           case when o.has_marks then nullif(array(select t.word from terms t
                         where t.kind = 'mark' and t.df <= 20 and d.document @@ t.own order by t.n), '{}') end,
           case when o.has_near then nullif(array(select row(t.word, t.lexeme)::private.near_word from terms t
                         where t.kind = 'near' and d.document @@ t.own order by t.n), '{}') end
      from ranked r
      join private.search_documents d on d.knowledge_id = r.knowledge_id
     cross join (select sum(t.idf) as idf, bool_or(t.kind = 'mark' and t.df <= 20) as has_marks,
                        bool_or(t.kind = 'near') as has_near from terms t) o
     order by r.score desc, r.knowledge_id;
end
$$;
comment on function private.rank_words(private.viewer, uuid, text, boolean, integer) is
  'The items of a workspace, visible to the viewer, that hold words of the query, ranked by BM25 with weights; with the words of the query that are their own (not a neighbour''s), rarest first.';

-- definer because of row-level security and GIN, see above; rank_words carries the visibility rule.
create function private.keyword_candidates(
  workspace_id uuid, query_text text, include_retired boolean, max_candidates integer
)
returns setof private.word_hit
language plpgsql
stable
rows 100
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_viewer private.viewer := private.viewer(workspace_id);
begin
  if v_viewer.sees_all is not null then
    return query select * from private.rank_words(v_viewer, workspace_id, query_text, include_retired, max_candidates);
  end if;
end
$$;
comment on function private.keyword_candidates(uuid, text, boolean, integer) is
  'rank_words for the caller.';

create function private.rank_triggers(
  viewer private.viewer, workspace_id uuid, query_text text, include_retired boolean, max_candidates integer
)
returns setof private.trigger_hit
language plpgsql
stable
rows 100
set search_path = pg_catalog, pg_temp
-- As in rank_words.
set enable_seqscan = off
set plan_cache_mode = 'force_generic_plan'
as $$
declare
  v_words text[] := regexp_split_to_array(lower(left(query_text, 4000) collate pg_catalog."pg_c_utf8"), '[\s"''`(),;!?]+');
  v_phrases text[];
  v_common text[];
  v_keys bigint[];
  v_user uuid := viewer.user_id;
  v_session uuid := viewer.session_id;
  v_sees_all boolean := viewer.sees_all;
begin
  -- A trigger matches as a whole: one word, or up to four in a row, as they stand or without closing punctuation.
  select array_agg(distinct p.phrase) into v_phrases
    from generate_subscripts(v_words, 1) i
    cross join generate_series(1, 4) n
    cross join lateral (select array_to_string(v_words[i : i + n - 1], ' ') as joined) j
    cross join lateral (values (j.joined), (rtrim(j.joined, '.:'))) p (phrase)
   where i + n - 1 <= cardinality(v_words) and p.phrase <> '';
  -- A trigger that hundreds of items have tells nothing about any of them, and would crowd out the telling ones.
  loop
    v_keys := private.trigger_keys(rank_triggers.workspace_id, v_phrases);
    select array_agg(c.word) into v_common
      from (select t.word
              from (select d.triggers from private.search_documents d
                     where private.trigger_keys(d.workspace_id, d.triggers) && v_keys
                       and (d.workspace_id = rank_triggers.workspace_id) is true
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
       where private.trigger_keys(d.workspace_id, d.triggers) && v_keys
         and (d.workspace_id = rank_triggers.workspace_id) is true and d.triggers && v_phrases
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
comment on function private.rank_triggers(private.viewer, uuid, text, boolean, integer) is
  'The items of a workspace, visible to the viewer, one of whose triggers stands in the query as a word or phrase. Score: 1/2 for one trigger, 3/4 for two, and so on; less for triggers that many items have.';

-- definer because of row-level security and GIN, see above; rank_triggers carries the visibility rule.
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
  v_viewer private.viewer := private.viewer(workspace_id);
begin
  if v_viewer.sees_all is not null then
    return query select * from private.rank_triggers(v_viewer, workspace_id, query_text, include_retired, max_candidates);
  end if;
end
$$;
comment on function private.trigger_candidates(uuid, text, boolean, integer) is
  'rank_triggers for the caller.';

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
    from (select distinct i.workspace_id
            from inserted i left join private.large_workspaces l on l.workspace_id = i.workspace_id
           where l.workspace_id is null offset 0) i  -- counted only where it isn't known yet
   where exists (select from private.search_documents d where d.workspace_id = i.workspace_id offset 5000)
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
  private.refresh_search_documents(uuid[], uuid[]), private.refresh_inserted_documents(), private.refresh_updated_documents(),
  private.viewer(uuid), private.rank_words(private.viewer, uuid, text, boolean, integer),
  private.rank_triggers(private.viewer, uuid, text, boolean, integer),
  private.keyword_candidates(uuid, text, boolean, integer), private.trigger_candidates(uuid, text, boolean, integer),
  private.split_text(text), private.text_vector(regconfig, text), private.language_config(text, text),
  private.count_words(tsvector[], text[]), private.misspellings(text),
  private.near_words(uuid, text[], text[], boolean, uuid, uuid),
  private.quote_lexeme(text), private.lexeme_queries(text[], text), private.term_keys(uuid, tsvector), private.trigger_keys(uuid, text[]),
  private.note_large_workspaces()
  from public, anon, authenticated, service_role;
grant execute on function
  private.keyword_candidates(uuid, text, boolean, integer), private.trigger_candidates(uuid, text, boolean, integer)
  to authenticated, service_role;
