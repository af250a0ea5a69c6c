-- Links between sessions and knowledge: what was created, recalled, applied, with what success.
--
-- Owns: session_knowledge_links, the accounting of accesses, ratings, edits and validations.
--
-- Invariants
--   * One `created`, one `accessed` and one `breakthrough` link per session and item; an item's access_count counts
--     every recall, a session's knowledge_items_accessed each item once.
--   * Everybody's recall counts, also on items that the caller may not edit; nobody can set a counter.
--   * Locks are taken in this order: session key, items by id, search documents by id, session row.

set local lock_timeout = '5s';

create table public.session_knowledge_links (
  id uuid not null default gen_random_uuid(),
  session_id uuid,
  knowledge_id uuid not null,
  owner_id uuid not null default auth.uid(),
  interaction_type varchar(50) not null,
  interaction_timestamp timestamptz not null default now(),
  learning_context text,
  effectiveness_rating integer,
  breakthrough_indicator boolean not null default false,
  application_success boolean,
  notes text,
  constraint session_knowledge_links_pkey primary key (id),
  constraint session_knowledge_links_session_id_fkey foreign key (session_id)
    references public.ai_sessions (id) on delete cascade,
  constraint session_knowledge_links_knowledge_id_fkey foreign key (knowledge_id)
    references public.knowledge_items (id) on delete cascade,
  constraint session_knowledge_links_owner_id_fkey foreign key (owner_id) references auth.users (id) on delete cascade,
  constraint session_knowledge_links_interaction_type_check check (interaction_type in (
    'accessed', 'created', 'updated', 'validated', 'breakthrough', 'applied')),
  constraint session_knowledge_links_effectiveness_rating_check check (effectiveness_rating between 1 and 10)
);
create unique index session_knowledge_links_once_key on public.session_knowledge_links (session_id, knowledge_id, interaction_type)
  where interaction_type in ('accessed', 'created', 'breakthrough');
create index session_knowledge_links_session_id_idx on public.session_knowledge_links (session_id, interaction_timestamp desc);
create index session_knowledge_links_knowledge_id_idx on public.session_knowledge_links (knowledge_id, interaction_type);
create index session_knowledge_links_owner_id_idx on public.session_knowledge_links (owner_id);

alter table public.session_knowledge_links enable row level security;
comment on table public.session_knowledge_links is 'Which session did what with which item. Written by the functions that do it, never directly.';
comment on column public.session_knowledge_links.id is 'The link.';
comment on column public.session_knowledge_links.session_id is 'The session; null when it happened outside one.';
comment on column public.session_knowledge_links.knowledge_id is 'The item.';
comment on column public.session_knowledge_links.owner_id is 'Whose doing it was.';
comment on column public.session_knowledge_links.interaction_type is 'accessed, created, updated, validated, breakthrough or applied.';
comment on column public.session_knowledge_links.interaction_timestamp is 'When, for an access the first time in the session.';
comment on column public.session_knowledge_links.learning_context is 'What was being done; of a breakthrough what it was, of a validation the new status.';
comment on column public.session_knowledge_links.effectiveness_rating is '1 to 10: how much it helped.';
comment on column public.session_knowledge_links.breakthrough_indicator is 'Whether it was a breakthrough.';
comment on column public.session_knowledge_links.application_success is 'Whether applying it worked.';
comment on column public.session_knowledge_links.notes is 'What the caller wants to add.';

revoke all on public.session_knowledge_links from public, anon, authenticated, service_role;
grant select on public.session_knowledge_links to authenticated;
grant select, insert, update, delete on public.session_knowledge_links to service_role;

create policy session_knowledge_links_select_own on public.session_knowledge_links for select to authenticated
  using (exists (
    select from public.knowledge_items k
     where k.id = session_knowledge_links.knowledge_id
       and (session_knowledge_links.owner_id = (select auth.uid())
            or k.workspace_id = any (array(select private.maintained_workspaces())))));
comment on policy session_knowledge_links_select_own on public.session_knowledge_links is
  'Members see their own links to items that they see, maintainers those of their workspaces.';

-- definer because links and session counters are not the caller's to write.
create function private.count_created_items()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  insert into public.session_knowledge_links (session_id, knowledge_id, owner_id, interaction_type)
  select i.created_in_session, i.id, i.owner_id, 'created'
    from inserted i where i.created_in_session is not null and i.owner_id is not null
   order by i.created_in_session, i.id;
  update public.ai_sessions s set knowledge_items_created = s.knowledge_items_created + c.how_many
    from (select i.created_in_session as id, count(*)::integer as how_many
            from inserted i where i.created_in_session is not null group by 1) c
   where s.id = c.id;
  return null;
end
$$;
comment on function private.count_created_items() is 'Trigger: links new items to their session and counts them there.';
revoke execute on function private.count_created_items() from public;
create trigger knowledge_items_count_created after insert on public.knowledge_items
  referencing new table as inserted
  for each statement execute function private.count_created_items();

-- definer because links are not the caller's to write.
create function private.link_changed_item()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_session uuid := private.current_session();
begin
  if v_session is null or auth.uid() is null then
    return null;
  end if;
  if (new.title, new.content) is distinct from (old.title, old.content) then
    insert into public.session_knowledge_links (session_id, knowledge_id, interaction_type)
    values (v_session, new.id, 'updated');
  end if;
  if new.validation_status is distinct from old.validation_status
     and new.workspace_id in (select private.maintained_workspaces()) then
    insert into public.session_knowledge_links (session_id, knowledge_id, interaction_type, learning_context, notes)
    values (v_session, new.id, 'validated', new.validation_status, new.validation_note);
  end if;
  return null;
end
$$;
comment on function private.link_changed_item() is 'Trigger: links an item to the session that changed its text or decided its status.';
revoke execute on function private.link_changed_item() from public;
-- The columns whose change can change the status by way of knowledge_items_prepare; counters fire nothing.
create trigger knowledge_items_link_changed
  after update of title, content, knowledge_type, category, subcategory, context_data, importance_score,
    retrieval_triggers, project_context, valid_from, valid_to, validation_status, text_search_config
  on public.knowledge_items
  for each row
  when ((new.title, new.content, new.validation_status) is distinct from (old.title, old.content, old.validation_status))
  execute function private.link_changed_item();

-- definer because a recall counts on items that the caller may read and not write. Ids that the caller may not see
-- are left out, and answered like those that name nothing.
create function private.log_access(knowledge_ids uuid[])
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_session uuid := private.current_session();
  v_visible uuid[] := array(select private.visible_items(knowledge_ids));
  v_new integer;
begin
  if cardinality(v_visible) = 0 then
    return;
  end if;
  perform from public.knowledge_items k where k.id = any (v_visible) order by k.id for no key update;
  update public.knowledge_items k set access_count = k.access_count + 1, last_accessed = now()
   where k.id = any (v_visible);
  if v_session is not null and auth.uid() is not null then
    insert into public.session_knowledge_links (session_id, knowledge_id, owner_id, interaction_type)
    select v_session, k.id, auth.uid(), 'accessed'
      from public.knowledge_items k where k.id = any (v_visible)
     order by k.id
    on conflict (session_id, knowledge_id, interaction_type)
      where interaction_type in ('accessed', 'created', 'breakthrough') do nothing;
    get diagnostics v_new = row_count;
    if v_new > 0 then
      update public.ai_sessions s set knowledge_items_accessed = s.knowledge_items_accessed + v_new
       where s.id = v_session;
    end if;
  end if;
end
$$;
comment on function private.log_access(uuid[]) is
  'Counts a recall of those of these items that the caller may see, and in the current session each of them once.';

create type public.rated_knowledge as (
  knowledge_id uuid, rating_count integer, average_rating double precision, success_count integer, failure_count integer
);
comment on type public.rated_knowledge is 'An item''s ratings after one more.';

-- definer because ratings count on items that the caller may read and not write; it checks that first.
create function private.add_rating(
  knowledge_id uuid, effectiveness_rating integer, application_success boolean, notes text
)
returns setof public.rated_knowledge
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  if not exists (select from private.visible_items(array[add_rating.knowledge_id])) then
    perform private.fail('PT404', 'no such knowledge item');
  end if;
  perform from public.knowledge_items k where k.id = add_rating.knowledge_id for no key update;
  if not found then
    perform private.fail('PT404', 'no such knowledge item');  -- erased since it was looked at
  end if;
  insert into public.session_knowledge_links (session_id, knowledge_id, interaction_type, effectiveness_rating,
    application_success, notes)
  values (private.current_session(), add_rating.knowledge_id, 'applied', add_rating.effectiveness_rating,
    add_rating.application_success, add_rating.notes);
  return query
    update public.knowledge_items k
       set rating_sum = k.rating_sum + coalesce(add_rating.effectiveness_rating, 0),
           rating_count = k.rating_count + (add_rating.effectiveness_rating is not null)::integer,
           success_count = k.success_count + (add_rating.application_success is true)::integer,
           failure_count = k.failure_count + (add_rating.application_success is false)::integer
     where k.id = add_rating.knowledge_id
    returning k.id, k.rating_count, k.rating_sum::double precision / nullif(k.rating_count, 0),
      k.success_count, k.failure_count;
end
$$;
comment on function private.add_rating(uuid, integer, boolean, text) is 'Links and counts one rating of an item that the caller may see.';

create function public.rate_knowledge(
  knowledge_id uuid, effectiveness_rating integer default null, application_success boolean default null,
  notes text default null
)
returns setof public.rated_knowledge
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_user uuid := private.require_user();
begin
  if rate_knowledge.effectiveness_rating is null and rate_knowledge.application_success is null then
    perform private.fail('PT400', 'nothing to rate', 'pass effectiveness_rating (1 to 10) or application_success');
  end if;
  if rate_knowledge.effectiveness_rating not between 1 and 10 then
    perform private.fail('PT400', 'effectiveness_rating is between 1 and 10');
  end if;
  return query select * from private.add_rating(rate_knowledge.knowledge_id, rate_knowledge.effectiveness_rating,
    rate_knowledge.application_success, rate_knowledge.notes);
end
$$;
comment on function public.rate_knowledge(uuid, integer, boolean, text) is
  'Says how an item did when it was used: a rating of 1 to 10, whether applying it worked, or both. Moves the item''s trust, and trust its rank.';

revoke execute on function
  private.log_access(uuid[]), private.add_rating(uuid, integer, boolean, text),
  public.rate_knowledge(uuid, integer, boolean, text)
  from public, anon, authenticated, service_role;
grant execute on function private.log_access(uuid[]), private.add_rating(uuid, integer, boolean, text),
  public.rate_knowledge(uuid, integer, boolean, text) to authenticated;
