-- Audit: what in a memory wants a person's attention, and why.
--
-- Owns: knowledge_audit and the rules behind it.
--
-- Invariants
--   * It reads, under the caller's rights, and changes nothing: every finding says what could be done, and a person
--     decides.
--   * Its work is bounded: one pass over the living items of the workspace, and a fixed number of findings per check,
--     each with the number of all that there are.

set local lock_timeout = '5s';

create function private.junk_reason(content text)
returns text
language plpgsql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
  v_words text collate pg_catalog."pg_c_utf8";
begin
  -- An audit looks at every item there is: what is long is looked at from afar.
  if octet_length(content) > 100 then
    return case
      when left(content, 20) collate pg_catalog."pg_c_utf8" ~* '^\s*lorem ipsum' then 'filler text'
      when left(content, 40) = repeat(left(content, 1), 40) and content = repeat(left(content, 1), length(content))
        then 'one character again and again' end;
  end if;
  v_words := lower(btrim(content, e' \t\r\n') collate pg_catalog."pg_c_utf8");
  return case
    when v_words !~ '[[:alnum:]]' then 'no letter and no digit'
    -- Scripts that say much in few characters take more bytes for each.
    when octet_length(v_words) < 8 then 'too short to say anything'
    when v_words = repeat(left(v_words, 1), length(v_words)) then 'one character again and again'
    when v_words ~ '^(\S+)(\s+\1)+$' then 'one word again and again'
    when v_words ~ '^((a|is|it|just|my|the|this|another|only)\s+)*(test(s|ing|ed)?|foo|bar|baz|asdf\w*|qwert\w*|lorem ipsum.*|hello|world|todo|tbd|fixme|n/a|none|null|undefined|nothing|placeholder|example|dummy|sample|blah|abc|item|text|content|note|title|\d+|[-_.,:!?\s])+$'
      then 'looks like text to try something out' end;
end
$$;
comment on function private.junk_reason(text) is 'Why a text looks like none that anybody wants to keep, or null.';

create type public.audited_knowledge as (
  check_name text, knowledge_id uuid, title text, project_context text, validation_status text, reason text,
  suggestion text, since timestamptz, related_id uuid, related_title text, proposal_id uuid, total integer
);
comment on type public.audited_knowledge is
  'A finding: which check, about which item, why, what could be done. related_id is the other item of a pair, proposal_id what decides a proposed one, total how many findings the check has in all.';

create function public.knowledge_audit(
  checks text[] default null, project_context text default null, max_findings integer default 50,
  stale_after_days integer default 180, unused_after_days integer default 90,
  unvalidated_after_days integer default 14
)
returns setof public.audited_knowledge
language plpgsql
stable
rows 100
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_all constant text[] := '{contradictory,duplicate,expired,failing,junk,unvalidated,stale,unused}';
  v_checks text[] := coalesce(knowledge_audit.checks, v_all);
  v_project text := knowledge_audit.project_context;
  v_workspace uuid := private.current_workspace();
  v_junk boolean := 'junk' = any (coalesce(knowledge_audit.checks, v_all));
  v_stale timestamptz;
  v_unused timestamptz;
  v_unvalidated timestamptz;
begin
  if not v_checks <@ v_all then
    perform private.fail('PT400', 'checks names an unknown check',
      'the checks are contradictory, duplicate, expired, failing, junk, unvalidated, stale and unused');
  end if;
  if knowledge_audit.max_findings is null or knowledge_audit.max_findings not between 1 and 1000 then
    perform private.fail('PT400', 'max_findings is between 1 and 1000');
  end if;
  if coalesce(least(knowledge_audit.stale_after_days, knowledge_audit.unused_after_days, knowledge_audit.unvalidated_after_days), -1) < 0
     or num_nulls(knowledge_audit.stale_after_days, knowledge_audit.unused_after_days, knowledge_audit.unvalidated_after_days) > 0
     or greatest(knowledge_audit.stale_after_days, knowledge_audit.unused_after_days, knowledge_audit.unvalidated_after_days) > 36500 then
    perform private.fail('PT400', 'a number of days is between 0 and 36500');
  end if;
  v_stale := now() - make_interval(days => knowledge_audit.stale_after_days);
  v_unused := now() - make_interval(days => knowledge_audit.unused_after_days);
  v_unvalidated := now() - make_interval(days => knowledge_audit.unvalidated_after_days);

  return query
    with found as materialized (
      select f.check_name, k.id, k.importance_score,
             case f.check_name when 'expired' then k.valid_to when 'junk' then k.created_at when 'unused' then k.created_at
               else k.updated_at end as since,
             null::uuid as related_id, null::uuid as proposal_id, null::double precision as strength, null::text as pair_reason
        from public.knowledge_items k
        -- An array of what applies: most items have nothing, and cost no row here.
        cross join lateral unnest(array_remove(array[
          case when k.valid_to <= now() then 'expired' end,
          case when k.failure_count > k.success_count then 'failing' end,
          case when v_junk and private.junk_reason(k.content) is not null then 'junk' end,
          case when k.validation_status = 'pending' and (k.owner_id is null or k.updated_at <= v_unvalidated) then 'unvalidated' end,
          case when k.validation_status = 'needs_update' and k.updated_at <= v_unvalidated
                 or k.validation_status = 'validated' and k.updated_at <= v_stale and k.last_accessed <= v_stale then 'stale' end,
          case when k.access_count = 0 and k.created_at <= v_unused then 'unused' end], null)) f (check_name)
       where v_checks && '{expired,failing,junk,unvalidated,stale,unused}'
         and k.workspace_id = v_workspace and k.validation_status <> 'deprecated' and k.superseded_by is null
         and (v_project is null or k.project_context = v_project)
         and f.check_name = any (v_checks)
      union all
      select 'contradictory', s.id, greatest(s.importance_score, t.importance_score), r.created_at, t.id,
             case r.status when 'proposed' then r.id end, r.strength::double precision,
             case r.status when 'proposed' then coalesce(r.reason, 'proposed as a contradiction')
               else coalesce('said to contradict: ' || nullif(r.relationship_context, ''), 'said to contradict') end
        from public.knowledge_relationships r
        join public.knowledge_items s on s.id = r.source_knowledge_id
        join public.knowledge_items t on t.id = r.target_knowledge_id
       where 'contradictory' = any (v_checks)
         and r.workspace_id = v_workspace and r.relationship_type = 'contradicts' and r.status <> 'rejected'
         and s.validation_status <> 'deprecated' and s.superseded_by is null
         and t.validation_status <> 'deprecated' and t.superseded_by is null
         and (v_project is null or v_project in (s.project_context, t.project_context))
      union all
      select 'duplicate', o.id, greatest(k.importance_score, o.importance_score), d.created_at, k.id, d.id,
             d.strength::double precision, d.reason
        from public.knowledge_duplicates d
        join public.knowledge_items k on k.id = d.keep_id
        join public.knowledge_items o on o.id = d.duplicate_id
       where 'duplicate' = any (v_checks) and d.workspace_id = v_workspace and d.status = 'proposed'
         and k.validation_status <> 'deprecated' and k.superseded_by is null
         and o.validation_status <> 'deprecated' and o.superseded_by is null
         and (v_project is null or v_project in (k.project_context, o.project_context))
    ), first as (
      select f.*,
             count(*) over (partition by f.check_name)::integer as total,
             row_number() over (
               partition by f.check_name
               order by f.strength desc nulls last, f.importance_score desc, f.since, f.id, f.related_id) as place
        from found f
    )
    select f.check_name, k.id, k.title::text, k.project_context::text, k.validation_status::text,
           case f.check_name
             when 'expired' then format('it held until %s and is still in force', to_char(k.valid_to at time zone 'UTC', 'YYYY-MM-DD'))
             when 'failing' then format('applying it failed %s of %s times', k.failure_count, k.failure_count::bigint + k.success_count)
             when 'junk' then private.junk_reason(k.content)
             when 'unvalidated' then case when k.owner_id is null then 'pending, and its author''s account is gone'
               else format('pending for %s days', extract(day from now() - k.updated_at)) end
             when 'stale' then case k.validation_status
               when 'needs_update' then format('marked as needing an update for %s days', extract(day from now() - k.updated_at))
               else format('neither changed nor recalled for %s days',
                 extract(day from now() - greatest(k.updated_at, k.last_accessed))) end
             when 'unused' then format('never recalled in %s days', extract(day from now() - k.created_at))
             else f.pair_reason end,
           case f.check_name
             when 'contradictory' then case when f.proposal_id is not null
               then 'decide whether they do; if so, supersede the one that is wrong'
               else 'supersede the one that is wrong' end
             when 'duplicate' then 'merge the two, or reject the proposal'
             when 'expired' then 'supersede or deprecate it, or extend its validity'
             when 'failing' then 'correct it, or deprecate it'
             when 'junk' then 'forget it, or say what it means'
             when 'unvalidated' then 'validate it, or deprecate it'
             when 'stale' then 'check whether it still holds; then validate it anew or deprecate it'
             else 'give it triggers by which it is found, or deprecate it' end,
           f.since, f.related_id, r.title::text, f.proposal_id, f.total
      from first f
      join public.knowledge_items k on k.id = f.id
      left join public.knowledge_items r on r.id = f.related_id
     where f.place <= knowledge_audit.max_findings
     order by array_position(v_all, f.check_name), f.place;
end
$$;
comment on function public.knowledge_audit(text[], text, integer, integer, integer, integer) is
  'What in the current workspace wants attention, of what the caller may see, gravest first: contradictory and duplicate pairs, items that are expired and still in force, that fail when applied, that look like junk, that wait for validation, that are stale, that nobody recalls. At most max_findings of each check, each with the total. Reads only.';

revoke execute on function
  private.junk_reason(text), public.knowledge_audit(text[], text, integer, integer, integer, integer)
  from public, anon, authenticated, service_role;
grant execute on function
  private.junk_reason(text), public.knowledge_audit(text[], text, integer, integer, integer, integer)
  to authenticated, service_role;
