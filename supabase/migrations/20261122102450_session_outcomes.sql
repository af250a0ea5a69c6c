-- Session outcomes: what a session was worth, worked out from what it did.
--
-- Owns: mark_breakthrough, what else counts as a breakthrough, the computed quality of a session.
--
-- Invariants
--   * A breakthrough of a session is an item, once, about which one of these happened in it: the caller marked it
--     (mark_breakthrough); it is a gotcha that had resisted, an attempt having failed, and got its solution; it is a
--     decision and a stage was recorded with a breakthrough.
--   * The quality of a session is computed from its links alone, so anybody can work it out again. It starts at 40,
--     for having done something, and each part moves towards its bound with diminishing returns:
--         + 20 · c/(c+2)               c items recorded
--         +  5 · a/(a+3)               a items recalled
--         + 15 · (s−f)/(s+f+2)         s applications that worked, f that did not
--         + 10 · (r−5.5)/4.5           r the mean of the ratings it gave (1 to 10), if it gave any
--         + 10 · b/(b+1)               b breakthroughs
--     So it lies between 15 and 100. A session that did nothing has none. It is an indication to sort by; a score that
--     somebody gives goes before it.
--   * Triggers here write links and never the session's row, which writers lock last.

set local lock_timeout = '5s';

create function private.session_quality(
  created integer, accessed integer, succeeded integer, failed integer, rating double precision, breakthroughs integer
)
returns integer
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
  select case when created + accessed + succeeded + failed + breakthroughs > 0 or rating is not null then
    round(40 + 20.0 * created / (created + 2) + 5.0 * accessed / (accessed + 3)
          + 15.0 * (succeeded - failed) / (succeeded + failed + 2)
          + 10.0 * (coalesce(rating, 5.5) - 5.5) / 4.5
          + 10.0 * breakthroughs / (breakthroughs + 1))::integer end
$$;
comment on function private.session_quality(integer, integer, integer, integer, double precision, integer) is
  'How well a session went, 15 to 100, by what it did: 40, + 20·c/(c+2) for c items recorded, + 5·a/(a+3) for a recalled, + 15·(s−f)/(s+f+2) for s applications that worked and f that did not, + 10·(r−5.5)/4.5 for a mean rating r given, + 10·b/(b+1) for b breakthroughs. Null when it did nothing.';

create function private.session_outcome(session_id uuid, out breakthroughs integer, out quality integer)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select n.breakthroughs,
         private.session_quality(n.created, n.accessed, n.succeeded, n.failed, n.rating, n.breakthroughs)
    from (select (count(*) filter (where l.interaction_type = 'created'))::integer as created,
                 (count(*) filter (where l.interaction_type = 'accessed'))::integer as accessed,
                 (count(*) filter (where l.application_success))::integer as succeeded,
                 (count(*) filter (where not l.application_success))::integer as failed,
                 avg(l.effectiveness_rating)::double precision as rating,
                 (count(*) filter (where l.interaction_type = 'breakthrough'))::integer as breakthroughs
            from public.session_knowledge_links l where l.session_id = session_outcome.session_id) n
$$;
comment on function private.session_outcome(uuid) is 'What a session amounts to: how many breakthroughs, and its computed quality.';

-- definer because links are not the caller's to write.
create function private.link_solved_gotcha()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_session uuid := private.current_session();
begin
  if v_session is not null and auth.uid() is not null and exists (
    select from jsonb_array_elements(new.attempted_solutions) a where a ->> 'outcome' in ('failed', 'partial')) then
    insert into public.session_knowledge_links (session_id, knowledge_id, interaction_type, learning_context,
      breakthrough_indicator)
    values (v_session, new.knowledge_id, 'breakthrough', 'solved a problem that had resisted', true)
    on conflict (session_id, knowledge_id, interaction_type)
      where interaction_type in ('accessed', 'created', 'breakthrough') do nothing;
  end if;
  return null;
end
$$;
comment on function private.link_solved_gotcha() is 'Trigger: a problem that had resisted and is solved is a breakthrough of the session.';
create trigger technical_gotchas_link_solved after update of working_solution on public.technical_gotchas
  for each row when (old.working_solution is null and new.working_solution is not null)
  execute function private.link_solved_gotcha();

-- definer because links are not the caller's to write.
create function private.link_decision_breakthrough()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_session uuid := private.current_session();
begin
  if v_session is not null and auth.uid() is not null then
    insert into public.session_knowledge_links (session_id, knowledge_id, interaction_type, learning_context,
      breakthrough_indicator)
    values (v_session, new.knowledge_id, 'breakthrough', left(new.breakthrough_moments -> -1 ->> 'breakthrough', 2000), true)
    on conflict (session_id, knowledge_id, interaction_type)
      where interaction_type in ('accessed', 'created', 'breakthrough') do nothing;
  end if;
  return null;
end
$$;
comment on function private.link_decision_breakthrough() is 'Trigger: a stage recorded with a breakthrough is one of the session.';
create trigger decision_evolution_link_breakthrough after update of breakthrough_moments on public.decision_evolution
  for each row
  when (jsonb_array_length(new.breakthrough_moments) > jsonb_array_length(old.breakthrough_moments))
  execute function private.link_decision_breakthrough();

create type public.marked_breakthrough as (
  knowledge_id uuid, session_id uuid, outcome text, breakthrough_moments integer
);
comment on type public.marked_breakthrough is
  'A breakthrough after it was marked. outcome: marked, or unchanged where the session had one about the item; breakthrough_moments: how many the session has now.';

-- definer because links and session counters are not the caller's to write; it checks both first.
create function private.add_breakthrough(knowledge_id uuid, learning_context text)
returns setof public.marked_breakthrough
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_user uuid := private.require_user();
  v_session uuid := private.current_session();
  v_added boolean;
begin
  if v_session is null then
    perform private.fail('PT400', 'a breakthrough is one of a session', 'send x-session-id: start_session gives one');
  end if;
  if not exists (select from private.visible_items(array[add_breakthrough.knowledge_id])) then
    perform private.fail('PT404', 'no such knowledge item');
  end if;
  perform private.refuse_credential_in(add_breakthrough.learning_context);
  perform from public.knowledge_items k where k.id = add_breakthrough.knowledge_id for key share;
  if not found then  -- erased meanwhile
    perform private.fail('PT404', 'no such knowledge item');
  end if;
  insert into public.session_knowledge_links (session_id, knowledge_id, interaction_type, learning_context,
    breakthrough_indicator)
  values (v_session, add_breakthrough.knowledge_id, 'breakthrough', nullif(btrim(add_breakthrough.learning_context), ''), true)
  on conflict (session_id, knowledge_id, interaction_type)
    where interaction_type in ('accessed', 'created', 'breakthrough') do nothing;
  v_added := found;
  -- Whoever marks at the same moment is counted by the second of the two.
  perform from public.ai_sessions s where s.id = v_session for no key update;
  return query
    update public.ai_sessions s set breakthrough_moments = o.breakthroughs
      from private.session_outcome(v_session) o
     where s.id = v_session
    returning add_breakthrough.knowledge_id, s.id, case when v_added then 'marked' else 'unchanged' end,
      s.breakthrough_moments;
end
$$;
comment on function private.add_breakthrough(uuid, text) is 'Links an item that the caller may see to the current session as a breakthrough, and counts it there.';

create function public.mark_breakthrough(knowledge_id uuid, learning_context text default null)
returns setof public.marked_breakthrough
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$ select * from private.add_breakthrough($1, $2) $$;
comment on function public.mark_breakthrough(uuid, text) is
  'Marks an item as a breakthrough of the current session, with what was being done. Once for each item; marked again, nothing changes.';

revoke execute on function
  private.session_quality(integer, integer, integer, integer, double precision, integer),
  private.session_outcome(uuid), private.link_solved_gotcha(), private.link_decision_breakthrough(),
  private.add_breakthrough(uuid, text), public.mark_breakthrough(uuid, text)
  from public, anon, authenticated, service_role;
grant execute on function private.add_breakthrough(uuid, text), public.mark_breakthrough(uuid, text) to authenticated;
