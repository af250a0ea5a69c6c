-- Embedding models: which vectors may be stored, and what belongs to each.
--
-- Owns: embedding_models, the choice of a workspace's model, the record of switches from one default to another. The
-- vector indexes, one partial HNSW index per model, are made by register_embedding_model in the file of the embedding
-- jobs, once the items' table exists; what a switch does is in a file of its own.
--
-- Invariants
--   * Vectors of two models are never compared, whatever their size: every vector carries its model's name, every
--     index and every query names one model.
--   * There is exactly one default model; a workspace may choose another.
--   * At most one switch is under way.

set local lock_timeout = '5s';

create table public.embedding_models (
  name varchar(200) not null,
  dimensions integer not null,
  similarity_threshold double precision not null default 0.3,
  is_default boolean not null default false,
  query_prefix text not null default '',
  document_prefix text not null default '',
  created_at timestamptz not null default now(),
  constraint embedding_models_pkey primary key (name),
  constraint embedding_models_name_check check (btrim(name) <> ''),
  constraint embedding_models_dimensions_check check (dimensions between 1 and 4000),
  constraint embedding_models_similarity_threshold_check check (similarity_threshold between -1 and 1)
);
create unique index embedding_models_default_key on public.embedding_models (is_default) where is_default;
alter table public.embedding_models enable row level security;
comment on table public.embedding_models is 'The embedding models whose vectors may be stored. register_embedding_model adds one with its index.';
comment on column public.embedding_models.name is 'The model''s name, as the embedder reports it.';
comment on column public.embedding_models.dimensions is 'Length of its vectors; at most 4000, what an HNSW index on half vectors takes.';
comment on column public.embedding_models.similarity_threshold is 'Cosine similarity from which two texts count as related for this model; find_similar_knowledge uses it unless told otherwise.';
comment on column public.embedding_models.is_default is 'Whether it serves workspaces that chose none.';
comment on column public.embedding_models.query_prefix is 'What the embedder puts before a query, for models trained with one.';
comment on column public.embedding_models.document_prefix is 'What the embedder puts before a document.';
comment on column public.embedding_models.created_at is 'When it was registered.';

revoke all on public.embedding_models from public, anon, authenticated, service_role;
grant select on public.embedding_models to authenticated, service_role;

create policy embedding_models_select_all on public.embedding_models for select to authenticated
  using ((select auth.uid()) is not null);
comment on policy embedding_models_select_all on public.embedding_models is 'Every signed-in user sees the models.';

alter table public.workspaces
  add column embedding_model varchar(200),
  add constraint workspaces_embedding_model_fkey foreign key (embedding_model)
    references public.embedding_models (name);
create index workspaces_embedding_model_idx on public.workspaces (embedding_model);
comment on column public.workspaces.embedding_model is 'The model of its vectors; null: the default model.';

create table private.embedding_switches (
  id bigint generated always as identity,
  from_model varchar(200),
  to_model varchar(200) not null,
  started_at timestamptz not null default now(),
  swapped_at timestamptz,
  settled_at timestamptz,
  ended_at timestamptz,
  constraint embedding_switches_pkey primary key (id),
  constraint embedding_switches_from_model_fkey foreign key (from_model) references public.embedding_models (name),
  constraint embedding_switches_to_model_fkey foreign key (to_model) references public.embedding_models (name),
  constraint embedding_switches_order_check check (
    (settled_at is null or swapped_at is not null) and (swapped_at is null or settled_at is not null or ended_at is null))
);
create unique index embedding_switches_current_key on private.embedding_switches ((true)) where ended_at is null;
create index embedding_switches_from_model_idx on private.embedding_switches (from_model);
create index embedding_switches_to_model_idx on private.embedding_switches (to_model);
alter table private.embedding_switches enable row level security;
comment on table private.embedding_switches is 'The switches of the default model, one under way at most.';
comment on column private.embedding_switches.id is 'The switch.';
comment on column private.embedding_switches.from_model is 'The model that served when it began.';
comment on column private.embedding_switches.to_model is 'The model that is to serve.';
comment on column private.embedding_switches.started_at is 'Since when old texts are embedded anew.';
comment on column private.embedding_switches.swapped_at is 'From when the new model served.';
comment on column private.embedding_switches.settled_at is 'When every item had its new vector in its own row.';
comment on column private.embedding_switches.ended_at is 'When the old model''s vectors were gone, or, never swapped, when it was given up.';
revoke all on private.embedding_switches from public, anon, authenticated, service_role;
grant select on private.embedding_switches to service_role;

-- definer because it is asked before the caller's membership is visible. Of a foreign workspace it tells nothing.
create function private.model_of_workspace(workspace_id uuid)
returns text
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    (select w.embedding_model from public.workspaces w
      where w.id = model_of_workspace.workspace_id
        and (private.is_trusted() or exists (
          select from public.workspace_members m where m.workspace_id = w.id and m.user_id = auth.uid()))),
    (select m.name from public.embedding_models m where m.is_default))
$$;
comment on function private.model_of_workspace(uuid) is
  'The name of the embedding model in use in a workspace of the caller''s, else of the default model; null when there is none.';

create function private.require_model(embedding_model text, embedding extensions.vector)
returns public.embedding_models
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_model public.embedding_models;
begin
  select m.* into v_model from public.embedding_models m where m.name = require_model.embedding_model;
  if v_model.name is null then
    perform private.fail('PT422', format('the embedding model %L is not registered', require_model.embedding_model),
      'register_embedding_model registers one (service_role)');
  end if;
  if extensions.vector_dims(require_model.embedding) <> v_model.dimensions then
    perform private.fail('PT422',
      format('the vector has %s dimensions, %s has %s',
             extensions.vector_dims(require_model.embedding), v_model.name, v_model.dimensions),
      'embed with the model that you name, or name the model that you embedded with');
  end if;
  -- Its cosine with anything would be no number. Half vectors are compared, so half of one it must not vanish in.
  if not extensions.l2_norm(require_model.embedding::extensions.halfvec) > 0 then
    perform private.fail('PT422', 'the vector is zero, or too small to tell a direction',
      'what can''t be embedded is recorded without a vector');
  end if;
  return v_model;
end
$$;
comment on function private.require_model(text, extensions.vector) is
  'The registered model of this name, or an error when it is unknown, the vector''s length is not its, or the vector is zero.';

revoke execute on function private.model_of_workspace(uuid), private.require_model(text, extensions.vector) from public;
grant execute on function private.model_of_workspace(uuid), private.require_model(text, extensions.vector)
  to authenticated, service_role;
