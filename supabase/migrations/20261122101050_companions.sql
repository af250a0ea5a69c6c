-- Companions: how a specialised record and its knowledge item stay one thing.
--
-- Owns: private.companions, the making and keeping of companion items, the matching of repeats by signature.
--
-- Invariants
--   * Every specialised record (gotcha, command, interaction pattern, insight, decision) has one knowledge item,
--     rendered from it by a trigger, whoever writes and through whichever door. One search finds all of them.
--   * The trigger writes the item as the caller, so that the item's policies and rules hold: a record is pending until
--     its item is validated, and an edit of a validated one by anybody but a maintainer makes it pending again.
--   * What is rendered is edited in the record; editing it in the item is refused.
--   * A signature is kept once per owner and workspace while its item lives. The key lies here rather than on the
--     records because whether an item lives changes with the item: the item's writers would otherwise have to lock
--     the record after the item, and the record's writers do it the other way round.
--   * Locks are taken in this order: the signature (advisory), the record, session key, item, companion, documents,
--     session row.
--   * A record is never deleted by itself: deprecating or superseding its item retires it, erasing its item erases it.

set local lock_timeout = '5s';

create table private.companions (
  knowledge_id uuid not null,
  kind text not null,
  workspace_id uuid not null,
  owner_id uuid,
  signature text not null,
  is_live boolean not null default true,
  constraint companions_pkey primary key (knowledge_id),
  constraint companions_knowledge_id_fkey foreign key (knowledge_id)
    references public.knowledge_items (id) on delete cascade,
  constraint companions_owner_id_fkey foreign key (owner_id) references auth.users (id) on delete set null,
  constraint companions_kind_check check (kind in ('gotcha', 'command', 'interaction_pattern', 'insight', 'decision'))
);
create unique index companions_signature_key on private.companions (workspace_id, kind, signature, owner_id)
  where is_live;
create index companions_owner_id_idx on private.companions (owner_id);
alter table private.companions enable row level security;
comment on table private.companions is 'The knowledge items that are rendered from a specialised record.';
comment on column private.companions.knowledge_id is 'The item.';
comment on column private.companions.kind is 'What it is rendered from: gotcha, command, interaction_pattern, insight or decision.';
comment on column private.companions.workspace_id is 'As in the item.';
comment on column private.companions.owner_id is 'As in the item.';
comment on column private.companions.signature is 'What repeats of the record have in common.';
comment on column private.companions.is_live is 'Whether the item is neither deprecated nor superseded.';
revoke all on private.companions from public, anon, authenticated, service_role;
grant select on private.companions to service_role;

create type private.companion_text as (
  knowledge_type text, category text, title text, content text, importance_score integer, retrieval_triggers text[],
  context_data jsonb, project_context text
);
comment on type private.companion_text is 'What a companion item says: rendered from its record.';

-- definer because nobody writes companions directly. Only triggers get past its first line, and since a caller can put
-- a trigger on a temporary table, what they register is checked as well.
create function private.register_companion(
  knowledge_id uuid, kind text, workspace_id uuid, owner_id uuid, signature text
)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  if pg_trigger_depth() = 0 then
    perform private.fail('PT403', 'companions are registered by triggers');
  end if;
  if not (select a.is_editable from private.item_access(register_companion.knowledge_id) a)
     or not exists (select from public.knowledge_items k
                     where k.id = register_companion.knowledge_id and k.workspace_id = register_companion.workspace_id
                       and k.owner_id is not distinct from register_companion.owner_id) then
    perform private.fail('PT404', 'no such knowledge item');
  end if;
  insert into private.companions (knowledge_id, kind, workspace_id, owner_id, signature)
  values (register_companion.knowledge_id, register_companion.kind, register_companion.workspace_id,
    register_companion.owner_id, register_companion.signature);
exception when unique_violation then
  perform private.fail('PT409', format('you have recorded this %s already', replace(register_companion.kind, '_', ' ')),
    'the record_… function merges a repeat into what is there');
end
$$;
comment on function private.register_companion(uuid, text, uuid, uuid, text) is
  'Notes that an item is rendered from a record with this signature, or fails when its owner has a living one.';

create function private.make_companion(
  kind text, workspace_id uuid, owner_id uuid, knowledge_id uuid, signature text, rendered private.companion_text,
  out made_id uuid, out project_context text
)
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
  if make_companion.knowledge_id is not null then
    perform private.fail('PT400', 'knowledge_id is not chosen', 'leave it out: the companion item is made with the record');
  end if;
  if coalesce(btrim(make_companion.signature), '') = '' or coalesce(btrim(rendered.title), '') = ''
     or coalesce(btrim(rendered.content), '') = '' then
    perform private.fail('PT400', format('a %s can''t be blank', replace(make_companion.kind, '_', ' ')));
  end if;
  insert into public.knowledge_items as k (workspace_id, owner_id, knowledge_type, category, title, content,
    importance_score, retrieval_triggers, context_data, project_context)
  values (make_companion.workspace_id, make_companion.owner_id, rendered.knowledge_type, rendered.category,
    rendered.title, rendered.content, rendered.importance_score, rendered.retrieval_triggers, rendered.context_data,
    rendered.project_context)
  on conflict (workspace_id, content_hash, owner_id)
    where validation_status <> 'deprecated' and superseded_by is null do nothing
  returning k.id, k.project_context into made_id, make_companion.project_context;
  if made_id is null then
    perform private.fail('PT409', 'an item of yours says exactly this already',
      'deprecate that item, or say what is different about this one');
  end if;
  perform private.register_companion(made_id, make_companion.kind, make_companion.workspace_id,
    make_companion.owner_id, make_companion.signature);
end
$$;
comment on function private.make_companion(text, uuid, uuid, uuid, text, private.companion_text) is
  'Makes the item of a new record, as the caller, and returns its id and project.';

create function private.keep_companion(
  knowledge_id uuid, before private.companion_text, after private.companion_text
)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  if before is not distinct from after then
    return false;
  end if;
  -- Importance and context may have been set on the item since: they are written only when the record changes them.
  update public.knowledge_items k
     set knowledge_type = after.knowledge_type, category = after.category, title = after.title,
         content = after.content, retrieval_triggers = after.retrieval_triggers,
         project_context = after.project_context,
         importance_score = case when after.importance_score is distinct from before.importance_score
           then after.importance_score else k.importance_score end,
         context_data = case when after.context_data is distinct from before.context_data
           then after.context_data else k.context_data end
   where k.id = keep_companion.knowledge_id;
  return true;
exception when unique_violation then
  perform private.fail('PT409', 'an item of yours says exactly this already');
  return false;
end
$$;
comment on function private.keep_companion(uuid, private.companion_text, private.companion_text) is
  'Writes into an item what changed in its record, as the caller, and says whether anything did.';

-- definer because the writer of an item may not read companions.
create function private.guard_companion()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_kind text;
begin
  select c.kind into v_kind from private.companions c where c.knowledge_id = new.id;
  if v_kind is not null then
    perform private.fail('PT409', format('this item is rendered from a record of kind %s', v_kind),
      'edit the record: the item follows');
  end if;
  return new;
end
$$;
comment on function private.guard_companion() is 'Trigger: refuses to change what an item''s record renders, unless it is the record''s trigger that does.';
-- A statement's own triggers run at depth 1; what a record's trigger writes is deeper.
create trigger knowledge_items_guard_companion
  before update of title, content, knowledge_type, category, retrieval_triggers, project_context
  on public.knowledge_items
  for each row
  when (pg_trigger_depth() = 0
    and (new.title, new.content, new.knowledge_type, new.category, new.retrieval_triggers, new.project_context)
        is distinct from
        (old.title, old.content, old.knowledge_type, old.category, old.retrieval_triggers, old.project_context))
  execute function private.guard_companion();

-- definer because nobody writes companions directly.
create function private.follow_item_life()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  update private.companions c set is_live = new.validation_status <> 'deprecated' and new.superseded_by is null
   where c.knowledge_id = new.id;
  return null;
exception when unique_violation then
  perform private.fail('PT409', 'its owner has recorded the same anew meanwhile', 'keep that one, or deprecate it first');
  return null;
end
$$;
comment on function private.follow_item_life() is 'Trigger: a deprecated or superseded item frees the signature of its record.';
create trigger knowledge_items_follow_life after update of validation_status, superseded_by on public.knowledge_items
  for each row
  when ((old.validation_status <> 'deprecated' and old.superseded_by is null)
        <> (new.validation_status <> 'deprecated' and new.superseded_by is null))
  execute function private.follow_item_life();

create function private.refuse_record_deletion()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  -- The cascade from an erased item or workspace comes from a trigger.
  if pg_trigger_depth() = 1 then
    perform private.fail('PT409', 'a record is not deleted by itself',
      'deprecate or supersede its knowledge item, or erase that');
  end if;
  return old;
end
$$;
comment on function private.refuse_record_deletion() is 'Trigger: a record goes with its item or not at all.';

-- definer because what it decides about may be hidden from the caller. It says the same as the policies of
-- knowledge_items; a test compares the two.
create function private.item_access(knowledge_id uuid, out is_visible boolean, out is_editable boolean)
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_bound uuid := private.bound_workspace();
  v_user uuid := auth.uid();
  v_trusted boolean := private.is_trusted();
  v_session uuid := private.current_session();
  v_item record;
  v_role text;
begin
  select k.workspace_id, k.owner_id, k.validation_status, k.validated_at, k.created_in_session into v_item
    from public.knowledge_items k where k.id = item_access.knowledge_id;
  if not found then
    is_visible := false;
    is_editable := false;
    return;
  end if;
  select m.role into v_role
    from public.workspace_members m
   where m.workspace_id = v_item.workspace_id and m.user_id = v_user
     and (v_bound is null or m.workspace_id = v_bound);
  is_visible := v_trusted or (v_role is not null and (
    v_item.validation_status in ('validated', 'needs_update')
    or (v_item.validation_status = 'deprecated' and v_item.validated_at is not null)
    or v_item.owner_id is not distinct from v_user
    or (v_session is not null and v_item.created_in_session is not distinct from v_session)
    or v_role in ('owner', 'maintainer')));
  is_editable := v_trusted or coalesce(
    v_role in ('owner', 'maintainer') or (v_role = 'contributor' and v_item.owner_id = v_user), false);
end
$$;
comment on function private.item_access(uuid) is 'Whether the caller may see an item, and whether the caller may edit it.';

create function private.require_writer(workspace_id uuid)
returns uuid
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  perform private.require_user();
  if require_writer.workspace_id not in (select private.writable_workspaces()) then
    perform private.fail('PT403', 'readers of a workspace record nothing in it', 'ask an owner for another role');
  end if;
  return auth.uid();
end
$$;
comment on function private.require_writer(uuid) is 'The signed-in user''s id, or an error when the user may not record in this workspace.';

-- definer because companions are not the caller's to read, and what a repeat counts on not the caller's to lock. It
-- tells and locks nothing that the caller may not see, and only for who may record.
create function private.claim_signature(kind text, workspace_id uuid, signature text)
returns uuid
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_user uuid := private.require_writer(claim_signature.workspace_id);
  v_item uuid;
begin
  if coalesce(btrim(claim_signature.signature), '') = '' then
    perform private.fail('PT400', format('a %s can''t be blank', replace(claim_signature.kind, '_', ' ')));
  end if;
  -- One at a time per owner and signature: of two first sightings the second finds the first one's record.
  perform pg_advisory_xact_lock(hashtextextended(
    concat_ws(e'\x1f', claim_signature.kind, claim_signature.workspace_id, v_user, claim_signature.signature), 0));
  loop
    select c.knowledge_id into v_item
      from private.companions c
      join public.knowledge_items k on k.id = c.knowledge_id
     where c.workspace_id = claim_signature.workspace_id and c.kind = claim_signature.kind
       and c.signature = claim_signature.signature and c.is_live
       and (c.owner_id = v_user or (select a.is_visible from private.item_access(c.knowledge_id) a))
     order by (c.owner_id = v_user) desc nulls last, (k.validation_status = 'validated') desc, k.created_at, k.id
     limit 1;
    if v_item is null then
      return null;
    end if;
    -- The record, then the item: whoever holds one of them may be about to hide or retire it.
    case claim_signature.kind
      when 'gotcha' then
        perform from public.technical_gotchas r where r.knowledge_id = v_item for no key update;
      when 'command' then
        perform from public.command_patterns r where r.knowledge_id = v_item for no key update;
      when 'interaction_pattern' then
        perform from public.interaction_patterns r where r.knowledge_id = v_item for no key update;
      when 'insight' then
        perform from public.experiential_knowledge r where r.knowledge_id = v_item for no key update;
      when 'decision' then
        perform from public.decision_evolution r where r.knowledge_id = v_item for no key update;
    end case;
    perform from public.knowledge_items k where k.id = v_item for no key update;
    if exists (select from private.companions c where c.knowledge_id = v_item and c.is_live)
       and (select a.is_visible from private.item_access(v_item) a) then
      return v_item;
    end if;
  end loop;
end
$$;
comment on function private.claim_signature(text, uuid, text) is
  'Waits for other writers of this signature, then returns the item of the living record that a repeat belongs to: the caller''s own, else one that the caller may see; null when there is none. Record and item stay locked, and so what they are, until the transaction ends.';

create function private.require_visible_item(knowledge_id uuid)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_access record := private.item_access(require_visible_item.knowledge_id);
begin
  if v_access.is_visible is not true then
    perform private.fail('PT404', 'no such record');
  end if;
  return v_access.is_editable;
end
$$;
comment on function private.require_visible_item(uuid) is 'Whether the caller may edit an item; an error when the caller may not even see it.';

create function private.require_recorder(knowledge_id uuid)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_editable boolean := private.require_visible_item(require_recorder.knowledge_id);
begin
  perform private.require_writer(
    (select k.workspace_id from public.knowledge_items k where k.id = require_recorder.knowledge_id));
  return v_editable;
end
$$;
comment on function private.require_recorder(uuid) is
  'Whether the caller may edit an item; an error when the caller may not see it, or may record nothing in its workspace.';

create function private.clip(words text, max_length integer)
returns text
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
  -- A change behind the cut changes the item all the same: what the workspace trusts is the whole record.
  select case when length(words) <= max_length then words else left(words, max_length) || ' … ' || md5(words) end
$$;
comment on function private.clip(text, integer) is 'A text, or of a longer one so many characters and a digest of the whole.';

create function private.merge_words(present text[], given text[])
returns text[]
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
  -- Order is kept, and null when there is nothing at all, so that merging nothing changes nothing.
  select case when given is null then present else (
    select array_agg(w.word order by w.place)
      from (select x.word, min(x.place) as place
              from unnest(coalesce(present, '{}') || given) with ordinality x (word, place)
             where btrim(x.word) <> '' group by x.word) w) end
$$;
comment on function private.merge_words(text[], text[]) is 'What is present, then what is given and new, each once.';

create function private.signature_of(words text)
returns text
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
  -- A signature has up to 500 characters; a longer text keeps its beginning and is told apart by its hash.
  select case when length(f.folded) <= 500 then f.folded else left(f.folded, 467) || ' ' || md5(f.folded) end
    from (select btrim(regexp_replace(words collate pg_catalog."pg_c_utf8", '\s+', ' ', 'g')) as folded) f
$$;
comment on function private.signature_of(text) is 'A text as a key: white space folded, at most 500 characters.';

create function private.refuse_credential_in(words text)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_kind text := case when coalesce(current_setting('app.allow_credentials', true), '') <> 'on'
    then private.find_credential(words) end;
begin
  if v_kind is not null then
    perform private.fail('PT451', format('the text looks like it holds %s', v_kind),
      'take it out and write where it is kept instead; if it is meant, record it with allow_credentials => true');
  end if;
end
$$;
comment on function private.refuse_credential_in(text) is
  'Refuses what of a record is not rendered into its item, whose own trigger refuses the rest, when it looks like it holds a credential.';

revoke execute on function
  private.refuse_credential_in(text),
  private.register_companion(uuid, text, uuid, uuid, text),
  private.make_companion(text, uuid, uuid, uuid, text, private.companion_text),
  private.keep_companion(uuid, private.companion_text, private.companion_text),
  private.guard_companion(), private.follow_item_life(), private.refuse_record_deletion(), private.item_access(uuid),
  private.require_writer(uuid), private.claim_signature(text, uuid, text), private.require_visible_item(uuid),
  private.require_recorder(uuid), private.clip(text, integer), private.merge_words(text[], text[]),
  private.signature_of(text)
  from public, anon, authenticated, service_role;
grant execute on function
  private.refuse_credential_in(text),
  private.register_companion(uuid, text, uuid, uuid, text),
  private.make_companion(text, uuid, uuid, uuid, text, private.companion_text),
  private.keep_companion(uuid, private.companion_text, private.companion_text),
  private.clip(text, integer), private.merge_words(text[], text[]), private.signature_of(text)
  to authenticated, service_role;
grant execute on function
  private.item_access(uuid), private.require_writer(uuid), private.claim_signature(text, uuid, text),
  private.require_visible_item(uuid), private.require_recorder(uuid)
  to authenticated;
