-- Items that wait for their vector. Those set aside have failed too often: last_error says why.
select k.title, j.created_at as waiting_since, j.attempts, j.last_error,
       j.available_at = 'infinity' as is_set_aside
  from private.embedding_jobs j
  join public.knowledge_items k on k.id = j.knowledge_id
 order by is_set_aside desc, j.created_at;
