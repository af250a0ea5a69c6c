-- Problems without a solution, those that cost most first, with what was tried.
select g.problem_description, g.frequency_encountered, g.severity_level, g.last_encountered,
       (select string_agg(a ->> 'solution', '; ') from jsonb_array_elements(t.attempted_solutions) a) as tried
  from public.top_gotchas g
  join public.technical_gotchas t on t.id = g.gotcha_id
 where not g.is_solved
 order by g.weight desc, g.last_encountered desc;
