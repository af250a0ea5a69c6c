-- What was recorded in the last seven days, by workspace and kind.
select w.name as workspace, k.knowledge_type, count(*) as recorded,
       count(*) filter (where k.validation_status = 'validated') as validated,
       max(k.created_at) as latest
  from public.knowledge_items k
  join public.workspaces w on w.id = k.workspace_id
 where k.created_at > now() - interval '7 days'
 group by w.name, k.knowledge_type
 order by recorded desc, workspace, k.knowledge_type;
