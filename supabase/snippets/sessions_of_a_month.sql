-- The sessions of a month. The range of ids lets PostgreSQL read that month's partition alone.
select s.session_identifier, s.project_context, s.start_time, s.session_duration, s.knowledge_items_created,
       s.knowledge_items_accessed, s.breakthrough_moments, s.session_quality_score,
       s.session_metadata ->> 'summary' as summary
  from public.ai_sessions s
 where s.id >= private.uuid_floor(date_trunc('month', now()))
   and s.id < private.uuid_floor(date_trunc('month', now()) + interval '1 month')
 order by s.start_time desc;
