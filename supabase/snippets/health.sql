-- How the deployment does: maintenance, partitions of sessions, sizes.
select 'maintenance: ' || r.task as subject, r.outcome as state, r.detail, r.last_run as since
  from private.maintenance_runs r
union all
select 'partition: ' || c.relname, pg_size_pretty(pg_total_relation_size(c.oid)),
       format('%s rows', greatest(c.reltuples, 0)), null
  from pg_inherits i join pg_class c on c.oid = i.inhrelid
 where i.inhparent = 'public.ai_sessions'::regclass
union all
select 'table: ' || c.relname, pg_size_pretty(pg_total_relation_size(c.oid)),
       format('%s rows', greatest(c.reltuples, 0)), null
  from pg_class c
 where c.relnamespace = 'public'::regnamespace and c.relkind = 'r'
 order by subject;
