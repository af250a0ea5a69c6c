-- Life cycle: how an item earns its audience.
--
-- Owns: validate_knowledge.
--
-- Invariants: only maintainers and owners of the workspace decide (the items' trigger holds that too). When an item
-- is validated, its living twins (the same text by other owners) are superseded by it: their text, ratings and
-- history stay, and retrieval returns one of them.

set local lock_timeout = '5s';

create type public.validated_knowledge as (knowledge_id uuid, validation_status text, merged_ids uuid[]);
comment on type public.validated_knowledge is 'An item''s new status, and its twins that it now supersedes.';

create function public.validate_knowledge(
  knowledge_id uuid, validation_status text default 'validated', note text default null,
  unchanged_since timestamptz default null
)
returns setof public.validated_knowledge
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_user uuid := private.require_user();
  v_item public.knowledge_items;
  v_merged uuid[] := '{}';
begin
  if validate_knowledge.validation_status is null
     or validate_knowledge.validation_status not in ('pending', 'validated', 'needs_update', 'deprecated') then
    perform private.fail('PT400', format('%L is no validation status', validate_knowledge.validation_status),
      'it is pending, validated, needs_update or deprecated');
  end if;
  select k.* into v_item from public.knowledge_items k where k.id = validate_knowledge.knowledge_id;
  if v_item.id is null then
    perform private.fail('PT404', 'no such knowledge item');
  end if;
  if v_item.workspace_id not in (select private.maintained_workspaces()) then
    perform private.fail('PT403', 'only maintainers and owners of the workspace validate', 'ask one of them');
  end if;
  -- The item and its twins, locked in one order, before anything is decided.
  perform from public.knowledge_items k
    where k.id = v_item.id
       or (k.workspace_id = v_item.workspace_id and k.content_hash = v_item.content_hash
           and k.validation_status <> 'deprecated' and k.superseded_by is null)
    order by k.id for no key update;
  if validate_knowledge.unchanged_since <> (select k.updated_at from public.knowledge_items k where k.id = v_item.id) then
    perform private.fail('PT409', 'the item has changed since', 'read it again, and decide on what it says now');
  end if;
  begin
    update public.knowledge_items k
       set validation_status = validate_knowledge.validation_status, validation_note = validate_knowledge.note
     where k.id = v_item.id;
    if not found then
      perform private.fail('PT404', 'no such knowledge item', 'it was erased meanwhile, or is not yours to decide on any more');
    end if;
  exception when unique_violation then
    perform private.fail('PT409', 'its owner has recorded the same text anew meanwhile',
      'keep that one, or deprecate it first');
  end;
  if validate_knowledge.validation_status = 'validated' then
    v_merged := private.merge_twins(v_item.id);
  end if;
  return query select v_item.id, validate_knowledge.validation_status, v_merged;
end
$$;
comment on function public.validate_knowledge(uuid, text, text, timestamptz) is
  'Sets an item''s status: pending, validated, needs_update or deprecated, with a note that says why. With unchanged_since (the updated_at that was read) nothing is decided on a text that the caller has not seen. For maintainers and owners of its workspace.';

-- definer because superseded_by is not the caller's to write; it is called for items just validated by the caller.
create function private.merge_twins(knowledge_id uuid)
returns uuid[]
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_merged uuid[];
begin
  with merged as (
    update public.knowledge_items twin set superseded_by = item.id
      from public.knowledge_items item
     where item.id = merge_twins.knowledge_id and item.validation_status = 'validated'
       and item.superseded_by is null  -- else a chain could lead back to it
       and (private.is_valid_now(item) or not private.is_valid_now(twin))
       and item.workspace_id in (select private.maintained_workspaces())
       and twin.workspace_id = item.workspace_id and twin.content_hash = item.content_hash and twin.id <> item.id
       and twin.validation_status <> 'deprecated' and twin.superseded_by is null
    returning twin.id
  )
  select coalesce(array_agg(id order by id), '{}') into v_merged from merged;
  return v_merged;
end
$$;
comment on function private.merge_twins(uuid) is
  'Lets a validated item supersede the living items of the same text in its workspace, and returns their ids.';

revoke execute on function public.validate_knowledge(uuid, text, text, timestamptz), private.merge_twins(uuid)
  from public, anon, authenticated, service_role;
grant execute on function public.validate_knowledge(uuid, text, text, timestamptz), private.merge_twins(uuid) to authenticated;
