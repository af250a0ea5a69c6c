-- Integrations: what frameworks for agents keep here, in their own shapes.
--
-- Owns: the key-value store (put_store_items, get_store_items, search_store_items, list_store_namespaces) and
-- agent_session_items with its functions: a conversation's items, in order.
--
-- Invariants
--   * A stored item is a knowledge item of its owner (category `store`): one search finds it with all else, its text
--     passes the same doors, erasing it erases it. What it is known by and its value are in context_data.store.
--   * A key lives once per workspace, owner and namespace. Writers of one key take turns by an advisory lock, taken in
--     the keys' order, before any row; then the rows are taken by id.
--   * The store shows its owner's items only, also those that others may see as knowledge.
--   * A conversation is its owner's alone. It is no knowledge and nothing searches it. Items are in the order in which
--     they were added; who adds to a conversation holds its lock until the end of the transaction.
--   * SECURITY INVOKER throughout.

set local lock_timeout = '5s';
select '[1]'::extensions.vector;

create type public.stored_item as (
  knowledge_id uuid, namespace text[], key text, value jsonb, created_at timestamptz, updated_at timestamptz,
  score double precision
);
comment on type public.stored_item is
  'An item of the store. namespace: the way to it, the outermost first. score: how near it is to what was asked, null where nothing was or it has nothing to compare.';

create index knowledge_items_store_idx on public.knowledge_items (workspace_id, owner_id, title) where category = 'store';

create function private.store_title(namespace text[], key text)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  -- Escaped, so that no two keys have one title.
  select string_agg(replace(replace(p.part, '\', '\\'), '/', '\/'), '/' order by p.ordinality)
    from unnest(store_title.namespace || store_title.key) with ordinality p (part, ordinality)
$$;
comment on function private.store_title(text[], text) is 'The title of the item that a key of the store is: its way, with slashes.';

create function private.store_words(words text)
returns text[]
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$ select tsvector_to_array(to_tsvector('pg_catalog.english'::regconfig, left(store_words.words, 65536))) $$;
comment on function private.store_words(text) is 'The stems of a text, to compare it by words where there is no vector.';

create function private.store_matches(value jsonb, wanted jsonb)
returns boolean
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_key text;
  v_wanted jsonb;
  v_given jsonb;
  v_operator text;
  v_operand jsonb;
  v_is_ordered boolean;
begin
  for v_key, v_wanted in select e.key, e.value from jsonb_each(store_matches.wanted) e loop
    v_given := coalesce(store_matches.value -> v_key, 'null');
    if jsonb_typeof(v_wanted) = 'object' and exists (select from jsonb_object_keys(v_wanted) k (name) where starts_with(k.name, '$')) then
      for v_operator, v_operand in select e.key, e.value from jsonb_each(v_wanted) e loop
        -- Numbers are compared with numbers, texts with texts; anything else is neither more nor less.
        v_is_ordered := jsonb_typeof(v_given) = jsonb_typeof(v_operand) and jsonb_typeof(v_given) in ('number', 'string');
        if not (case v_operator
            when '$eq' then v_given = v_operand
            when '$ne' then v_given <> v_operand
            when '$gt' then v_is_ordered and v_given > v_operand
            when '$gte' then v_is_ordered and v_given >= v_operand
            when '$lt' then v_is_ordered and v_given < v_operand
            when '$lte' then v_is_ordered and v_given <= v_operand
          end) then
          return false;
        elsif v_operator not in ('$eq', '$ne', '$gt', '$gte', '$lt', '$lte') then
          perform private.fail('PT400', format('%s is no operator of a filter', v_operator),
            'there are $eq, $ne, $gt, $gte, $lt and $lte');
        end if;
      end loop;
    elsif jsonb_typeof(v_wanted) = 'object' then
      if jsonb_typeof(v_given) <> 'object' or not private.store_matches(v_given, v_wanted) then
        return false;
      end if;
    elsif v_given <> v_wanted then
      return false;
    end if;
  end loop;
  return true;
end
$$;
comment on function private.store_matches(jsonb, jsonb) is
  'Whether a value has these members: equal, or by operators $eq, $ne, $gt, $gte, $lt, $lte. Objects are compared member by member.';

create function private.store_namespace(given jsonb)
returns text[]
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  if jsonb_typeof(store_namespace.given) is distinct from 'array'
     or jsonb_path_exists(store_namespace.given, '$[*] ? (@.type() != "string" || @ == "")') then
    perform private.fail('PT400', 'a namespace is a list of words, none of them blank');
  end if;
  return array(select e.word from jsonb_array_elements_text(store_namespace.given) with ordinality e (word, place) order by e.place);
end
$$;
comment on function private.store_namespace(jsonb) is 'A namespace that came as JSON.';

create function public.put_store_items(items jsonb, allow_credentials boolean default false)
returns setof public.stored_item
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_workspace uuid := private.default_workspace();
  v_user uuid := private.require_writer(v_workspace);
  v_allowed text := coalesce(current_setting('app.allow_credentials', true), '');
  v_put record;
  v_id uuid;
  v_title text;
  v_titles text[];
  v_stored public.stored_item;
begin
  if jsonb_typeof(put_store_items.items) is distinct from 'array' or jsonb_array_length(put_store_items.items) > 1000 then
    perform private.fail('PT400', 'items is a list of at most 1000');
  end if;
  -- All locks before the first row is written: the keys, the chain of supersession where something is erased, and the
  -- items by id, as everybody does.
  v_titles := array(
    select distinct t.title
      from jsonb_array_elements(put_store_items.items) e (item)
      cross join lateral (
        select private.store_title(private.store_namespace(e.item -> 'namespace'), e.item ->> 'key') as title) t
     where t.title is not null order by 1);
  foreach v_title in array v_titles loop
    perform pg_advisory_xact_lock(hashtextextended(concat_ws(e'\x1f', 'store', v_workspace, v_user, v_title), 0));
  end loop;
  if exists (select from jsonb_array_elements(put_store_items.items) e (item)
              where coalesce(jsonb_typeof(e.item -> 'value'), 'null') = 'null') then
    perform pg_advisory_xact_lock(
      hashtextextended('knowledge-persistence: supersession ' || v_workspace::text, 0));
  end if;
  perform from public.knowledge_items k
    where k.workspace_id = v_workspace and k.owner_id = v_user and k.category = 'store' and k.title = any (v_titles)
      and k.context_data ? 'store'
    order by k.id for no key update;
  if put_store_items.allow_credentials then
    perform set_config('app.allow_credentials', 'on', true);
  end if;
  for v_put in
    select i.namespace, i.key, private.store_title(i.namespace, i.key) as title, i.value,
           coalesce(nullif(btrim(i.content), ''), private.store_title(i.namespace, i.key)) as content,
           i.is_indexed, i.content_embedding::extensions.vector as content_embedding, i.embedding_model
      from (select e.place, private.store_namespace(e.item -> 'namespace') as namespace, e.item ->> 'key' as key,
                   nullif(e.item -> 'value', 'null') as value, e.item ->> 'content' as content,
                   coalesce((e.item ->> 'is_indexed')::boolean, true) as is_indexed,
                   e.item ->> 'content_embedding' as content_embedding, e.item ->> 'embedding_model' as embedding_model
              from jsonb_array_elements(put_store_items.items) with ordinality e (item, place)) i
     order by 3, i.place  -- of one key the last word counts
  loop
    if coalesce(v_put.key, '') = '' or cardinality(v_put.namespace) = 0 then
      perform private.fail('PT400', 'an item of the store has a namespace and a key');
    elsif length(v_put.title) > 500 then
      perform private.fail('PT400', 'the namespace and the key are longer than 500 characters together');
    elsif jsonb_typeof(v_put.value) <> 'object' then
      perform private.fail('PT400', 'the value of an item of the store is an object, or null to delete it');
    end if;
    select k.id into v_id from public.knowledge_items k
     where k.workspace_id = v_workspace and k.owner_id = v_user and k.category = 'store' and k.title = v_put.title
       and k.context_data ? 'store';
    if v_put.value is null then
      if v_id is not null then
        perform private.erase_item(v_id);
      end if;
      continue;
    end if;
    begin
      if v_id is null then
        insert into public.knowledge_items as k (workspace_id, owner_id, category, title, content, context_data,
          content_embedding, embedding_model)
        values (v_workspace, v_user, 'store', v_put.title, v_put.content,
          jsonb_build_object('store', jsonb_build_object('namespace', v_put.namespace, 'key', v_put.key,
            'value', v_put.value, 'is_indexed', v_put.is_indexed)),
          v_put.content_embedding, v_put.embedding_model)
        returning k.id, v_put.namespace, v_put.key, v_put.value, k.created_at, k.updated_at, null into v_stored;
      else
        update public.knowledge_items k
           set content = v_put.content, content_embedding = v_put.content_embedding,
               embedding_model = v_put.embedding_model,
               context_data = jsonb_build_object('store', jsonb_build_object('namespace', v_put.namespace,
                 'key', v_put.key, 'value', v_put.value, 'is_indexed', v_put.is_indexed))
         where k.id = v_id
        returning k.id, v_put.namespace, v_put.key, v_put.value, k.created_at, k.updated_at, null into v_stored;
      end if;
    exception when unique_violation then
      perform private.fail('PT409', format('an item of the caller''s says what %s would say', v_put.title),
        'keys that differ in white space only hold different content');
    end;
    return next v_stored;
  end loop;
  perform set_config('app.allow_credentials', v_allowed, true);
end
$$;
comment on function public.put_store_items(jsonb, boolean) is
  'Writes items of the caller''s store, each {namespace, key, value}, with content (what it is searched by), is_indexed, content_embedding and embedding_model as wanted; one of the same key is replaced, a value of null erases it. All or nothing, at most 1000.';

create function public.get_store_items(keys jsonb)
returns setof public.stored_item
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select k.id, array(select jsonb_array_elements_text(k.context_data #> '{store,namespace}')),
         k.context_data #>> '{store,key}', k.context_data #> '{store,value}', k.created_at, k.updated_at,
         null::double precision
    from public.knowledge_items k
   where k.workspace_id = private.current_workspace() and k.owner_id = (select auth.uid()) and k.category = 'store'
     and k.title = any (array(
       select private.store_title(private.store_namespace(e.item -> 'namespace'), e.item ->> 'key')
         from jsonb_array_elements(get_store_items.keys) e (item)))
     and k.context_data ? 'store'
$$;
comment on function public.get_store_items(jsonb) is
  'The items of the caller''s store of these keys, a list of {namespace, key}. Those that are not there are left out.';

create function public.search_store_items(
  namespace_prefix text[] default '{}', filter jsonb default null, query_text text default null,
  query_embedding extensions.vector default null, embedding_model text default null, max_results integer default 10,
  skip integer default 0
)
returns setof public.stored_item
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with asked as (
    select private.store_words(search_store_items.query_text) as words
  ), stored as (
    select k.id, n.namespace, k.context_data #>> '{store,key}' as key, k.context_data #> '{store,value}' as value,
           k.created_at, k.updated_at,
           case
             when search_store_items.query_text is null or (k.context_data #>> '{store,is_indexed}') = 'false' then null
             when search_store_items.query_embedding is not null
                  and k.embedding_model = search_store_items.embedding_model then
               1 - (k.content_embedding operator(extensions.<=>) search_store_items.query_embedding)
             else (select count(*) from unnest(a.words) w (stem) where w.stem = any (private.store_words(k.content)))
                  / greatest(cardinality(a.words), 1)::double precision
           end as score
      from public.knowledge_items k
      cross join asked a
      cross join lateral (
        select array(select jsonb_array_elements_text(k.context_data #> '{store,namespace}')) as namespace) n
     where k.workspace_id = private.current_workspace() and k.owner_id = (select auth.uid()) and k.category = 'store'
       and k.context_data ? 'store'
       and n.namespace[1:cardinality(search_store_items.namespace_prefix)] = search_store_items.namespace_prefix
       and (search_store_items.filter is null
            or private.store_matches(k.context_data #> '{store,value}', search_store_items.filter))
  )
  select s.id, s.namespace, s.key, s.value, s.created_at, s.updated_at, s.score
    from stored s
   order by s.score desc nulls last, s.updated_at desc, s.id
   limit least(greatest(coalesce(search_store_items.max_results, 10), 0), 1000) offset greatest(search_store_items.skip, 0)
$$;
comment on function public.search_store_items(text[], jsonb, text, extensions.vector, text, integer, integer) is
  'The items of the caller''s store below a namespace, with members as the filter says, the nearest to the question first, else the latest written. An item without a vector of the same model is compared by its words. Every item below the namespace is looked at: a store is not for hundreds of thousands.';

create function public.list_store_namespaces()
returns table (namespace text[])
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select distinct array(select jsonb_array_elements_text(k.context_data #> '{store,namespace}'))
    from public.knowledge_items k
   where k.workspace_id = private.current_workspace() and k.owner_id = (select auth.uid()) and k.category = 'store'
     and k.context_data ? 'store'
   order by 1
$$;
comment on function public.list_store_namespaces() is 'The namespaces of the caller''s store that hold something.';

create table public.agent_session_items (
  id bigint generated always as identity,
  workspace_id uuid not null default private.default_workspace(),
  owner_id uuid not null default auth.uid(),
  conversation text not null,
  item jsonb not null,
  created_at timestamptz not null default now(),
  constraint agent_session_items_pkey primary key (id),
  constraint agent_session_items_workspace_id_fkey foreign key (workspace_id)
    references public.workspaces (id) on delete cascade,
  constraint agent_session_items_owner_id_fkey foreign key (owner_id) references auth.users (id) on delete cascade,
  constraint agent_session_items_conversation_check check (btrim(conversation) <> '' and length(conversation) <= 500)
);
create index agent_session_items_conversation_idx
  on public.agent_session_items (owner_id, workspace_id, conversation, id desc);
create index agent_session_items_workspace_id_idx on public.agent_session_items (workspace_id);
alter table public.agent_session_items enable row level security;
comment on table public.agent_session_items is 'Conversations that agent frameworks keep here: each item as the framework gave it, its owner''s alone, and no knowledge.';
comment on column public.agent_session_items.id is 'Counts up: the order of a conversation.';
comment on column public.agent_session_items.workspace_id is 'The workspace it was held in.';
comment on column public.agent_session_items.owner_id is 'Whose conversation it is.';
comment on column public.agent_session_items.conversation is 'Its name, the framework''s session id.';
comment on column public.agent_session_items.item is 'The item.';
comment on column public.agent_session_items.created_at is 'When it was added.';
revoke all on public.agent_session_items from public, anon, authenticated, service_role;
revoke all on sequence public.agent_session_items_id_seq from public, anon, authenticated, service_role;
grant select, delete on public.agent_session_items to authenticated;
grant insert (workspace_id, owner_id, conversation, item) on public.agent_session_items to authenticated;
grant select, insert, update, delete on public.agent_session_items to service_role;

create policy agent_session_items_select_own on public.agent_session_items for select to authenticated
  using (owner_id = (select auth.uid()) and workspace_id = any (array(select private.my_workspaces())));
comment on policy agent_session_items_select_own on public.agent_session_items is 'A conversation is its owner''s alone.';
create policy agent_session_items_insert_own on public.agent_session_items for insert to authenticated
  with check (owner_id = (select auth.uid()) and workspace_id = any (array(select private.writable_workspaces())));
comment on policy agent_session_items_insert_own on public.agent_session_items is
  'Contributors and above keep conversations, in their own name.';
create policy agent_session_items_delete_own on public.agent_session_items for delete to authenticated
  using (owner_id = (select auth.uid()) and workspace_id = any (array(select private.my_workspaces())));
comment on policy agent_session_items_delete_own on public.agent_session_items is 'Owners erase what they kept.';

create trigger agent_session_items_refuse_credentials
  before insert or update of conversation, item on public.agent_session_items
  for each row execute function private.refuse_credentials_in_columns('conversation', 'item');

create function private.lock_conversation(conversation text)
returns uuid
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_workspace uuid := private.default_workspace();
  v_user uuid := private.require_writer(v_workspace);
begin
  perform pg_advisory_xact_lock(hashtextextended(
    concat_ws(e'\x1f', 'conversation', v_workspace, v_user, lock_conversation.conversation), 0));
  return v_workspace;
end
$$;
comment on function private.lock_conversation(text) is 'Lets the writers of a conversation of the caller''s take turns; returns its workspace.';

create function public.add_agent_session_items(
  conversation text, items jsonb, allow_credentials boolean default false
)
returns table (added integer)
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_workspace uuid := private.lock_conversation(add_agent_session_items.conversation);
  v_allowed text := coalesce(current_setting('app.allow_credentials', true), '');
begin
  if jsonb_typeof(add_agent_session_items.items) is distinct from 'array' then
    perform private.fail('PT400', 'items is a list');
  end if;
  if add_agent_session_items.allow_credentials then
    perform set_config('app.allow_credentials', 'on', true);
  end if;
  insert into public.agent_session_items (workspace_id, conversation, item)
  select v_workspace, add_agent_session_items.conversation, e.item
    from jsonb_array_elements(add_agent_session_items.items) with ordinality e (item, place)
   order by e.place;
  get diagnostics added = row_count;
  perform set_config('app.allow_credentials', v_allowed, true);
  return next;
end
$$;
comment on function public.add_agent_session_items(text, jsonb, boolean) is
  'Adds items at the end of a conversation of the caller''s, in their order, all or none. With allow_credentials also such as look like they hold a credential.';

create function public.get_agent_session_items(conversation text, max_results integer default null)
returns table (item jsonb)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select l.item
    from (select i.id, i.item
            from public.agent_session_items i
           where i.owner_id = (select auth.uid()) and i.workspace_id = private.current_workspace()
             and i.conversation = get_agent_session_items.conversation
           order by i.id desc
           limit get_agent_session_items.max_results) l
   order by l.id
$$;
comment on function public.get_agent_session_items(text, integer) is
  'The items of a conversation of the caller''s in their order: the latest so many, or all.';

create function public.pop_agent_session_item(conversation text)
returns table (item jsonb)
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_workspace uuid := private.lock_conversation(pop_agent_session_item.conversation);
begin
  return query
    delete from public.agent_session_items i
     where i.id = (select l.id from public.agent_session_items l
                    where l.owner_id = (select auth.uid()) and l.workspace_id = v_workspace
                      and l.conversation = pop_agent_session_item.conversation
                    order by l.id desc limit 1)
    returning i.item;
end
$$;
comment on function public.pop_agent_session_item(text) is
  'Takes the last item off a conversation of the caller''s and returns it; of an empty one, nothing.';

create function public.clear_agent_session(conversation text)
returns table (erased integer)
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_workspace uuid := private.lock_conversation(clear_agent_session.conversation);
begin
  delete from public.agent_session_items i
   where i.owner_id = (select auth.uid()) and i.workspace_id = v_workspace
     and i.conversation = clear_agent_session.conversation;
  get diagnostics erased = row_count;
  return next;
end
$$;
comment on function public.clear_agent_session(text) is 'Erases all items of a conversation of the caller''s, and says how many.';

revoke execute on function
  private.store_title(text[], text), private.store_words(text), private.store_matches(jsonb, jsonb),
  private.store_namespace(jsonb), public.put_store_items(jsonb, boolean), public.get_store_items(jsonb),
  public.search_store_items(text[], jsonb, text, extensions.vector, text, integer, integer),
  public.list_store_namespaces(), private.lock_conversation(text),
  public.add_agent_session_items(text, jsonb, boolean), public.get_agent_session_items(text, integer),
  public.pop_agent_session_item(text), public.clear_agent_session(text)
  from public, anon, authenticated, service_role;
grant execute on function
  private.store_title(text[], text), private.store_words(text), private.store_matches(jsonb, jsonb),
  private.store_namespace(jsonb), public.put_store_items(jsonb, boolean), public.get_store_items(jsonb),
  public.search_store_items(text[], jsonb, text, extensions.vector, text, integer, integer),
  public.list_store_namespaces(), private.lock_conversation(text),
  public.add_agent_session_items(text, jsonb, boolean), public.get_agent_session_items(text, integer),
  public.pop_agent_session_item(text), public.clear_agent_session(text)
  to authenticated;
