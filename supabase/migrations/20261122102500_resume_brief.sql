-- The brief: what the next session needs to know, in as many tokens as there is room for.
--
-- Owns: resume_brief, the estimate of tokens.
--
-- Invariants
--   * SECURITY INVOKER and read-only: it tells what the caller's policies let the caller see, and logs nothing.
--   * The tokens of the rows add up to max_tokens at most, headings, line breaks and the line about what was left out
--     included. Joined by line breaks, the rows are the text to put into a prompt.
--   * What did not fit is counted by section in the last row, which is always there: whoever reads the brief knows that
--     there is more.
--   * Stored text is somebody's, not ours: each entry is one line without control characters, so that none can pass for
--     a heading or for another entry.
--
-- Tokens are estimated, because models count differently and none of their tokenizers lives here. The rule is made to
-- err on the side of too many: two tokens for every seven ASCII letters or blanks, one for every two other ASCII
-- characters (digits, punctuation), one for every two bytes of anything else in UTF-8. So a Chinese character counts
-- one and a half, an accented letter one, an emoji two.

set local lock_timeout = '5s';

create function private.estimate_tokens(words text)
returns integer
language sql
immutable
strict
parallel safe
set search_path = pg_catalog, pg_temp
as $$
  select ceil(n.plain * 2 / 7.0 + (octet_length(words) - n.plain - n.wide) / 2.0 + n.wide / 2.0)::integer
    from (select octet_length(regexp_replace(words collate "C", '[^A-Za-z[:space:]]', '', 'g')) as plain,
                 octet_length(regexp_replace(words collate "C", '[\x01-\x7f]', '', 'g')) as wide) n
$$;
comment on function private.estimate_tokens(text) is
  'About how many tokens a language model makes of a text, rather too many: 2 for 7 ASCII letters or blanks, 1 for 2 other ASCII characters, 1 for 2 bytes (UTF-8) of anything else.';

create function private.one_line(words text, max_length integer)
returns text
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
  select case when length(f.folded) > max_length then rtrim(left(f.folded, max_length - 1)) || '…' else f.folded end
    from (select btrim(regexp_replace(left(words, 4 * max_length),
                   '[\x01-\x20\x7f-\xa0\u2028\u2029\u202a-\u202e\u2066-\u2069]+', ' ', 'g')) as folded) f
$$;
comment on function private.one_line(text, integer) is
  'A text on one line, without control characters, at most so many characters long.';

create type public.brief_entry as (
  section text, "position" integer, source_id uuid, content text, tokens integer, left_out jsonb
);
comment on type public.brief_entry is
  'A line of a brief. section: sessions, decisions, gotchas, knowledge or left_out. position counts from 1 within the section, 0 is its heading. source_id: the session, or the knowledge item. tokens: the estimate for the line with its line break. left_out, in the last row only: what did not fit, counted by section.';

create function private.in_words(span interval)
returns text
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
  select case
    when span >= interval '1 hour' then format('%s h %s min', floor(s.seconds / 3600), floor(s.seconds % 3600 / 60))
    when span >= interval '1 minute' then format('%s min', floor(s.seconds / 60))
    else format('%s s', floor(s.seconds)) end
    from (select extract(epoch from span) as seconds) s
$$;
comment on function private.in_words(interval) is 'How long something took, for people: hours and minutes, minutes, or seconds.';

create function private.knowledge_line(title text, content text)
returns text
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
  select case when starts_with(c.line, rtrim(t.line, '…')) then c.line else t.line || ': ' || c.line end
    from (select private.one_line(title, 200) as line) t, (select private.one_line(content, 500) as line) c
$$;
comment on function private.knowledge_line(text, text) is 'An item on one line: its title, unless the content begins with it, and its content, shortened.';

create type private.brief_candidate as (
  section integer, place integer, source_id uuid, content text, in_section integer
);
comment on type private.brief_candidate is
  'What a brief could tell: the section by number, the place in it, best first, and how many there are in the section.';

create function private.brief_candidates(
  workspace_id uuid, project_context text, situation text, situation_embedding extensions.vector,
  embedding_model text
)
returns setof private.brief_candidate
language plpgsql
stable
rows 50
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_session uuid := private.current_session();
  v_situation text := nullif(btrim(brief_candidates.situation), '');
  v_user uuid := auth.uid();
  v_told uuid[];
begin
  return query
    with latest as (
      select s.*, row_number() over (order by s.start_time desc, s.id desc) as place, count(*) over () as how_many
        from public.ai_sessions s
       where s.workspace_id = brief_candidates.workspace_id and s.id is distinct from v_session
         and (brief_candidates.project_context is null or s.project_context = brief_candidates.project_context)
       order by place limit 5)
    select 1, s.place::integer, s.id,
           concat_ws(' ',
             format('- %s "%s"', to_char(s.start_time at time zone 'UTC', 'YYYY-MM-DD HH24:MI'),
               private.one_line(s.session_identifier, 80)),
             case when s.project_context is distinct from brief_candidates.project_context
               then 'on ' || private.one_line(s.project_context, 60) end,
             '(' || concat_ws(', ',
               case when s.end_time is null then 'never ended' else private.in_words(s.session_duration) end,
               s.knowledge_items_created || ' recorded',
               case s.breakthrough_moments when 0 then null when 1 then '1 breakthrough'
                 else s.breakthrough_moments || ' breakthroughs' end,
               'quality ' || s.session_quality_score) || '):',
             coalesce(private.one_line(s.session_metadata ->> 'summary', 600), 'no summary.'),
             'The user said: ' || private.one_line(s.user_feedback, 200)),
           s.how_many::integer
      from latest s;

  return query
    with latest as (
      select d.*, k.validation_status,
             row_number() over (order by d.project_context is null, d.updated_at desc, d.id) as place,
             count(*) over () as how_many
        from public.decision_evolution d
        join public.knowledge_items k on k.id = d.knowledge_id
       where d.workspace_id = brief_candidates.workspace_id and d.final_understanding is not null
         and k.validation_status <> 'deprecated' and k.superseded_by is null
         and (k.validation_status <> 'pending' or k.owner_id = v_user)
         and (k.valid_from is null or k.valid_from <= now()) and (k.valid_to is null or k.valid_to > now())
         and (brief_candidates.project_context is null or d.project_context is null
              or d.project_context = brief_candidates.project_context)
       order by place limit 20)
    select 2, d.place::integer, d.knowledge_id,
           concat_ws(' ',
             format('- %s: %s', private.one_line(d.decision_topic, 200), private.one_line(d.final_understanding, 400)),
             'Because: ' || private.one_line(d.decision_rationale, 300),
             '(' || concat_ws(', ', to_char(d.updated_at at time zone 'UTC', 'YYYY-MM-DD'),
               case when d.validation_status = 'pending' then 'not validated' end) || ')'),
           d.how_many::integer
      from latest d;

  return query
    with worst as (
      select g.*, row_number() over (order by g.project_context is null, g.severity_level desc nulls last,
                    g.frequency_encountered desc, g.last_encountered desc, g.id) as place,
             count(*) over () as how_many
        from public.technical_gotchas g
        join public.knowledge_items k on k.id = g.knowledge_id
       where g.workspace_id = brief_candidates.workspace_id and g.working_solution is null
         and k.validation_status <> 'deprecated' and k.superseded_by is null
         and (k.validation_status <> 'pending' or k.owner_id = v_user)
         and (k.valid_from is null or k.valid_from <= now()) and (k.valid_to is null or k.valid_to > now())
         and (brief_candidates.project_context is null or g.project_context is null
              or g.project_context = brief_candidates.project_context)
       order by place limit 20)
    select 3, g.place::integer, g.knowledge_id,
           concat_ws(' ',
             '- ' || private.one_line(private.problem_line(g.problem_description), 300),
             format('(met %s, last %s%s)',
               case g.frequency_encountered when 1 then 'once' else g.frequency_encountered || ' times' end,
               to_char(g.last_encountered at time zone 'UTC', 'YYYY-MM-DD'), ', severity ' || g.severity_level),
             'Tried in vain: ' || (
               select string_agg(private.one_line(a.attempt ->> 'solution', 160), '; ' order by a.place desc)
                 from (select x.attempt, x.place
                         from jsonb_array_elements(g.attempted_solutions) with ordinality x (attempt, place)
                        where x.attempt ->> 'outcome' in ('failed', 'partial')
                        order by x.place desc limit 3) a) || '.'),
           g.how_many::integer
      from worst g;

  -- The two sections above tell these.
  v_told := array(
    select d.knowledge_id from public.decision_evolution d
     where d.workspace_id = brief_candidates.workspace_id and d.final_understanding is not null
    union all
    select g.knowledge_id from public.technical_gotchas g
     where g.workspace_id = brief_candidates.workspace_id and g.working_solution is null);
  if v_situation is not null or brief_candidates.situation_embedding is not null then
    return query
      with best as (
        -- What nobody has validated comes after what somebody has; what belongs to the project comes up sooner.
        select s.*, row_number() over (order by s.validation_status = 'pending',
                      s.score * case when s.project_context = brief_candidates.project_context then 1.15 else 1 end desc,
                      s.knowledge_id) as place,
               count(*) over () as how_many
          from public.search_knowledge(
                 query_text => v_situation, query_embedding => brief_candidates.situation_embedding,
                 validation_statuses => '{validated,pending}', exclude_ids => v_told, max_results => 60,
                 embedding_model => brief_candidates.embedding_model) s
          join public.knowledge_items k on k.id = s.knowledge_id
         where s.validation_status = 'validated' or k.owner_id = v_user
         order by place limit 30)
      select 4, b.place::integer, b.knowledge_id,
             format('- %s (%s)', private.knowledge_line(b.title, b.content),
               concat_ws('; ', case when b.validation_status = 'pending' then 'not validated' end,
                 private.one_line(b.relevance_reason, 200),
                 case when b.project_context = brief_candidates.project_context then 'same project' end)),
             b.how_many::integer
        from best b;
  else
    return query
      with best as (
        select k.id, k.title, k.content, k.validation_status,
               row_number() over (order by k.validation_status = 'pending', k.project_context is null,
                 k.importance_score
                   + 5 * (k.success_count - k.failure_count) / (k.success_count + k.failure_count + 2.0)
                   + 5 * ((k.rating_sum + 11) / (k.rating_count + 2.0) - 5.5) desc,
                 k.updated_at desc, k.id) as place,
               count(*) over () as how_many
          from public.knowledge_items k
         where k.workspace_id = brief_candidates.workspace_id and k.superseded_by is null
           and (k.validation_status = 'validated' or (k.validation_status = 'pending' and k.owner_id = v_user))
           and (k.valid_from is null or k.valid_from <= now()) and (k.valid_to is null or k.valid_to > now())
           and (brief_candidates.project_context is null or k.project_context is null
                or k.project_context = brief_candidates.project_context)
           and k.id <> all (v_told)
         order by place limit 30)
      select 4, b.place::integer, b.id,
             concat_ws(' ', '-', private.knowledge_line(b.title, b.content),
               case when b.validation_status = 'pending' then '(not validated)' end),
             b.how_many::integer
        from best b;
  end if;
end
$$;
comment on function private.brief_candidates(uuid, text, text, extensions.vector, text) is
  'What a brief could tell the caller, best first in each section: 1 the last sessions, 2 decisions in force, 3 problems without a solution, 4 the best knowledge for the situation, else for the project.';

create function private.left_out_line(counts integer[])
returns text
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
  select 'Left out: ' || string_agg(format('%s %s', c.how_many, case c.how_many when 1 then n.one else n.many end), ', '
                                    order by n.place) || '.'
    from unnest(counts) with ordinality c (how_many, place)
    join (values (1, 'session', 'sessions'), (2, 'decision', 'decisions'), (3, 'open problem', 'open problems'),
                 (4, 'item of knowledge', 'items of knowledge')) n (place, one, many) on n.place = c.place
   where c.how_many > 0
$$;
comment on function private.left_out_line(integer[]) is 'Says how many of each section a brief leaves out; null where it leaves out nothing.';

create function public.resume_brief(
  project_context text default null, max_tokens integer default 2000, situation text default null,
  situation_embedding extensions.vector default null, embedding_model text default null
)
returns setof public.brief_entry
language plpgsql
stable
rows 50
set search_path = pg_catalog, pg_temp
as $$
declare
  v_sections constant text[] := '{sessions,decisions,gotchas,knowledge}';
  v_headings constant text[] := '{## Last sessions,## Decisions in force,## Open problems,## Worth knowing}';
  -- What each section is sure of; what it does not need goes to the others, in this order.
  v_shares constant double precision[] := '{0.25,0.2,0.25,0.3}';
  v_workspace uuid := private.current_workspace();
  v_project text := coalesce(nullif(btrim(resume_brief.project_context), ''),
    (select s.project_context from public.ai_sessions s where s.id = private.current_session()));
  v_found private.brief_candidate[] := '{}';
  v_one private.brief_candidate;
  v_left integer[] := '{0,0,0,0}';
  v_told integer[] := '{0,0,0,0}';
  v_used integer[] := '{0,0,0,0}';
  v_cost integer;
  v_budget integer;
begin
  if resume_brief.max_tokens is null or resume_brief.max_tokens not between 100 and 1000000 then
    perform private.fail('PT400', 'max_tokens is between 100 and 1000000');
  end if;
  if v_workspace is not null then  -- a user who has not written anything has nothing to resume
    v_found := array(
      select c from private.brief_candidates(v_workspace, v_project, resume_brief.situation,
        resume_brief.situation_embedding, resume_brief.embedding_model) c
       order by c.section, c.place);
  end if;
  foreach v_one in array v_found loop
    v_left[v_one.section] := v_one.in_section;
  end loop;
  -- The line about what is left out never gets longer than when all is.
  v_budget := resume_brief.max_tokens
    - coalesce(private.estimate_tokens(private.left_out_line(v_left) || e'\n'), 0);

  -- First each section up to its share, then whatever there is room for; within a section never past its order.
  for v_round in 1 .. 2 loop
    foreach v_one in array v_found loop
      continue when v_one.place <> v_told[v_one.section] + 1;
      v_cost := private.estimate_tokens(v_one.content || e'\n') + case when v_told[v_one.section] = 0
        then private.estimate_tokens(v_headings[v_one.section] || e'\n') else 0 end;
      if (v_round = 1 and v_used[v_one.section] + v_cost <= v_budget * v_shares[v_one.section])
         or (v_round = 2 and (select sum(u) from unnest(v_used) u) + v_cost <= v_budget) then
        v_told[v_one.section] := v_one.place;
        v_used[v_one.section] := v_used[v_one.section] + v_cost;
        v_left[v_one.section] := v_left[v_one.section] - 1;
      end if;
    end loop;
  end loop;

  return query
    select v_sections[e.section], e.place, e.source_id, e.content, private.estimate_tokens(e.content || e'\n'), null::jsonb
      from (select s.section, 0 as place, null::uuid as source_id, v_headings[s.section] as content
              from generate_subscripts(v_sections, 1) s (section) where v_told[s.section] > 0
            union all
            select c.section, c.place, c.source_id, c.content
              from unnest(v_found) c where c.place <= v_told[c.section]) e
     order by e.section, e.place;
  return query
    select 'left_out', 1, null::uuid, l.line, coalesce(private.estimate_tokens(l.line || e'\n'), 0),
           (select jsonb_object_agg(v_sections[n.place], n.how_many) from unnest(v_left) with ordinality n (how_many, place))
      from (select private.left_out_line(v_left) as line) l;
end
$$;
comment on function public.resume_brief(text, integer, text, extensions.vector, text) is
  'What the next session needs, within max_tokens (100 to 1000000, estimated): the outcome of the last sessions, decisions in force, problems without a solution, the best validated knowledge (then the caller''s own that waits for validation) for the situation, else for the project. The last row says how many of each were left out. The contents of the rows, joined by line breaks, are ready for a prompt. The project is the one named, else the session''s; then other projects'' sessions, decisions and problems are not told. Reads only.';

revoke execute on function
  private.estimate_tokens(text), private.one_line(text, integer),
  private.brief_candidates(uuid, text, text, extensions.vector, text), private.left_out_line(integer[]),
  private.in_words(interval), private.knowledge_line(text, text),
  public.resume_brief(text, integer, text, extensions.vector, text)
  from public, anon, authenticated, service_role;
grant execute on function
  private.estimate_tokens(text), private.one_line(text, integer),
  private.brief_candidates(uuid, text, text, extensions.vector, text), private.left_out_line(integer[]),
  private.in_words(interval), private.knowledge_line(text, text),
  public.resume_brief(text, integer, text, extensions.vector, text)
  to authenticated;
