-- Moment by moment, what happened in the session that began last.
select t.happened_at, t.event, t.title, t.detail
  from public.session_timeline t
 where t.session_id = (select s.id from public.ai_sessions s order by s.id desc limit 1)
 order by t.happened_at, t.event desc;
