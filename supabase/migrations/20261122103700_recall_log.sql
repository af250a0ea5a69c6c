-- Recall log: counting as recalled what a caller chose from what a search found.
--
-- Owns: log_recall.
--
-- A caller that puts search_knowledge's results into an order of its own (a reranker does) hands on fewer than it was
-- given; recall_knowledge would count them all.

set local lock_timeout = '5s';

create function public.log_recall(knowledge_ids uuid[])
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  if cardinality(log_recall.knowledge_ids) > 1000 then
    perform private.fail('PT400', 'knowledge_ids holds 1000 ids at most');
  end if;
  perform private.log_access(coalesce(log_recall.knowledge_ids, '{}'));
end
$$;
comment on function public.log_recall(uuid[]) is
  'Counts a recall of those of these items that the caller may see, on the items and in the current session: what recall_knowledge does for all that it returns.';

revoke execute on function public.log_recall(uuid[]) from public, anon, authenticated, service_role;
grant execute on function public.log_recall(uuid[]) to authenticated;
