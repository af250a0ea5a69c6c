-- Who recorded how much, and how much of it was validated, by workspace.
select w.name as workspace, u.email, m.role, count(k.id) as recorded,
       count(k.id) filter (where k.validation_status = 'validated') as validated,
       coalesce(sum(k.access_count), 0) as recalled
  from public.workspace_members m
  join public.workspaces w on w.id = m.workspace_id
  join auth.users u on u.id = m.user_id
  left join public.knowledge_items k on k.workspace_id = m.workspace_id and k.owner_id = m.user_id
 group by w.name, u.email, m.role
 order by workspace, recorded desc, u.email;
