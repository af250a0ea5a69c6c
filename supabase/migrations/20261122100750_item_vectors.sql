-- Item vectors: what the vector arm of retrieval reads.
--
-- Owns: private.item_vectors, one narrow row per embedded item and model, kept by triggers; the vector indexes lie on
-- it.
--
-- Invariants
--   * It holds the vector of knowledge_items in half precision, and nothing that changes more often than the vector:
--     counters, ratings and status never write a vector index.
--   * An item has a second row only around a switch of the embedding model: that of the model to come, or of the one
--     that served before. A changed text takes all of them away.
--   * A row is small enough to lie in the table itself, so that comparing all vectors of a workspace reads nothing
--     from the side. In the item's own row the vector in full precision is stored out of line.
--   * Nobody reads it directly: the vector of a hidden item tells of its text. Definer functions nominate from it
--     under the visibility rule.

set local lock_timeout = '5s';

create table private.item_vectors (
  knowledge_id uuid not null,
  workspace_id uuid not null,
  embedding_model varchar(200) not null,
  embedding extensions.halfvec not null,
  constraint item_vectors_pkey primary key (knowledge_id, embedding_model),
  constraint item_vectors_knowledge_id_fkey foreign key (knowledge_id)
    references public.knowledge_items (id) on delete cascade
);
alter table private.item_vectors alter column embedding set storage main;
create index item_vectors_workspace_id_idx on private.item_vectors (workspace_id, embedding_model);
alter table private.item_vectors enable row level security;
comment on table private.item_vectors is 'The vector of each item in half precision, for the vector indexes and for exact comparison. Around a switch of the model, those of both.';
comment on column private.item_vectors.knowledge_id is 'The item.';
comment on column private.item_vectors.workspace_id is 'As in the item.';
comment on column private.item_vectors.embedding_model is 'The model that made it.';
comment on column private.item_vectors.embedding is 'The vector: for the item''s own model its content_embedding in half precision.';
revoke all on private.item_vectors from public, anon, authenticated, service_role;
grant select on private.item_vectors to service_role;

-- definer because nobody writes vectors here directly.
create function private.keep_inserted_vectors()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  insert into private.item_vectors (knowledge_id, workspace_id, embedding_model, embedding)
  select i.id, i.workspace_id, i.embedding_model, i.content_embedding::extensions.halfvec
    from inserted i where i.content_embedding is not null
   order by i.id;
  return null;
end
$$;
comment on function private.keep_inserted_vectors() is 'Trigger: copies the vectors of new items.';

-- definer for the same reason.
create function private.keep_updated_vector()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  if new.content_embedding is null or (old.title, old.content) is distinct from (new.title, new.content) then
    delete from private.item_vectors v where v.knowledge_id = new.id;
  elsif old.embedding_model is distinct from new.embedding_model then
    -- Around a switch the other model's stays: it serves until the swap, or is still asked for after it.
    delete from private.item_vectors v
     where v.knowledge_id = new.id and v.embedding_model <> new.embedding_model
       and not exists (select from private.embedding_switches s
                        where s.ended_at is null and v.embedding_model in (s.from_model, s.to_model));
  end if;
  if new.content_embedding is not null then
    insert into private.item_vectors as v (knowledge_id, workspace_id, embedding_model, embedding)
    values (new.id, new.workspace_id, new.embedding_model, new.content_embedding::extensions.halfvec)
    on conflict (knowledge_id, embedding_model) do update set embedding = excluded.embedding
      where v.embedding operator(extensions.<>) excluded.embedding;
    delete from private.stray_vectors y
     where y.knowledge_id = new.id and y.embedding_model = new.embedding_model
       and y.embedding operator(extensions.<>) new.content_embedding::extensions.halfvec;
  end if;
  return null;
end
$$;
comment on function private.keep_updated_vector() is 'Trigger: copies the new vector of an item, and removes what was made of another text or, but for a switch, by another model.';

create trigger knowledge_items_keep_inserted_vectors after insert on public.knowledge_items
  referencing new table as inserted
  for each statement execute function private.keep_inserted_vectors();
-- A changed text takes the vector away by way of knowledge_items_prepare.
create trigger knowledge_items_keep_updated_vector
  after update of title, content, content_embedding, embedding_model on public.knowledge_items
  for each row
  when ((old.content_embedding is null) <> (new.content_embedding is null)
        or old.content_embedding operator(extensions.<>) new.content_embedding
        or old.embedding_model is distinct from new.embedding_model
        or (old.title, old.content) is distinct from (new.title, new.content))
  execute function private.keep_updated_vector();

revoke execute on function private.keep_inserted_vectors(), private.keep_updated_vector()
  from public, anon, authenticated, service_role;
