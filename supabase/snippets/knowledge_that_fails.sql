-- What the workspace trusts and what yet fails when it is applied, or is rated low: look at these first.
select k.id, k.title, k.validation_status, k.success_count, k.failure_count,
       round(k.rating_sum::numeric / nullif(k.rating_count, 0), 1) as average_rating
  from public.knowledge_items k
 where k.validation_status = 'validated' and k.superseded_by is null
   and (k.failure_count > k.success_count or k.rating_sum < 4 * k.rating_count)
 order by k.failure_count - k.success_count desc, average_rating, k.id;
