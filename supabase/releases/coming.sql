-- What is in a database of the release to come, written by its own functions.
--
-- `scripts/release` keeps a copy beside the release's record; the tests fill a database of that release with it, upgrade
-- it to today's, and compare. Runs once, as the superuser, in a database that has this release's migrations and no
-- people. Everybody acts as the API lets them: role and claims in each transaction. Whoever adds a kind of record adds
-- a scene here.
--
-- Ana owns the workspace Harbour, Ben contributes to it; Eve has a workspace of her own.

insert into auth.users (id, email) values
  ('0a000000-0000-4000-8000-000000000001', 'ana@example.org'),
  ('0b000000-0000-4000-8000-000000000002', 'ben@example.org'),
  ('0e000000-0000-4000-8000-000000000003', 'eve@example.org');

-- The service: a model of three dimensions.
begin;
select set_config('role', 'service_role', true), set_config('request.jwt.claims', '{"role":"service_role"}', true);
select * from public.register_embedding_model('three', 3, similarity_threshold => 0.5, is_default => true);
commit;

-- Ana makes the workspace and lets Ben in.
begin;
select set_config('role', 'authenticated', true),
       set_config('request.jwt.claims', '{"role":"authenticated","sub":"0a000000-0000-4000-8000-000000000001"}', true);
select set_config('app.current_workspace', (select workspace_id::text from public.create_workspace('Harbour', 'Ships and piers')), true);
select public.add_workspace_member(current_setting('app.current_workspace')::uuid, '0b000000-0000-4000-8000-000000000002', 'contributor');
commit;

-- A session of Ana's: texts with and without vectors, of several languages, with triggers and times.
begin;
select set_config('role', 'authenticated', true),
       set_config('request.jwt.claims', '{"role":"authenticated","sub":"0a000000-0000-4000-8000-000000000001"}', true);
select set_config('app.current_workspace', (select workspace_id::text from public.my_workspaces() where name = 'Harbour'), true);
select set_config('app.current_session', (select session_id::text from public.start_session('pier-1', 'harbour', '{"agent": "crane"}')), true);
select * from public.record_knowledge('Tide table', 'The tide table is kept in tides.csv and starts at low water.',
  importance_score => 80, retrieval_triggers => '{tides.csv,Ebbe}', project_context => 'harbour',
  content_embedding => '[1,0,0]', embedding_model => 'three');
select * from public.record_knowledge('Hafenmeister', 'Der Hafenmeister ist über Kanal 12 zu erreichen, nicht über das Telefon.',
  knowledge_type => 'procedural', category => 'people', context_data => '{"channel": 12}', project_context => 'harbour');
select * from public.record_knowledge('Old berth', 'The ferry berths at pier 3.', content_embedding => '[0,1,0]', embedding_model => 'three',
  valid_from => '2025-01-01T00:00:00Z');
select * from public.record_knowledge('New berth', 'The ferry berths at pier 7 since the storm.', content_embedding => '[0,0.9,0.1]', embedding_model => 'three');
select * from public.record_knowledge_batch('[{"title": "Crane A", "content": "Crane A lifts forty tonnes."}, {"title": "Crane B", "content": "Crane B lifts twelve tonnes."}]');
commit;

begin;
select set_config('role', 'authenticated', true),
       set_config('request.jwt.claims', '{"role":"authenticated","sub":"0a000000-0000-4000-8000-000000000001"}', true);
select set_config('app.current_workspace', (select workspace_id::text from public.my_workspaces() where name = 'Harbour'), true);
select count(v.*) from (select id from public.knowledge_items
    where title in ('Tide table', 'Old berth', 'New berth', 'Crane A') order by id) k (id)
  cross join lateral public.validate_knowledge(k.id, 'validated', 'seen at the pier') v;
select * from public.supersede_knowledge((select id from public.knowledge_items where title = 'Old berth'),
                                         (select id from public.knowledge_items where title = 'New berth'));
select * from public.rate_knowledge((select id from public.knowledge_items where title = 'Tide table'), 9, true, 'it was right');
select * from public.relate_knowledge((select id from public.knowledge_items where title = 'Crane A'),
                                      (select id from public.knowledge_items where title = 'Tide table'), 'depends_on', 0.8, 'lifts at low water');
select * from public.record_gotcha('Error: winch 4 jams at -5 degrees', attempted_solution => 'hit it', attempt_outcome => 'failed');
select * from public.record_gotcha('Error: winch 4 jams at -5 degrees', working_solution => 'warm the oil', severity_level => 6);
select * from public.record_command_run('tide --next', true, 'Say when the next tide is');
select * from public.record_command_run('tide --next', false, failure_output => 'no such file: tides.csv');
select * from public.record_insight('Fog muffles horns', 'In fog the horn is heard half as far.', confidence_level => 8);
select * from public.record_decision_stage('Which crane to buy', 'Crane C is too dear.', project_context => 'harbour');
select * from public.record_decision_stage('Which crane to buy', 'We rent one.', is_final => true, project_context => 'harbour');
select * from public.record_interaction_pattern('short answers', 'radio', 'asks by radio', 'answer in one sentence', effectiveness_score => 70);
select * from public.record_validation_test('finds the tides', 'Where is the tide table?',
  array(select id from public.knowledge_items where title = 'Tide table'));
select * from public.end_session('pier-1', 8, 'went well', 'The ferry berths at pier 7 now.');
commit;

-- Ben: an item that waits for validation, one that Ana's validation shows, and recalls that count.
begin;
select set_config('role', 'authenticated', true),
       set_config('request.jwt.claims', '{"role":"authenticated","sub":"0b000000-0000-4000-8000-000000000002"}', true);
select set_config('app.current_workspace', (select workspace_id::text from public.my_workspaces() where name = 'Harbour'), true);
select set_config('app.current_session', (select session_id::text from public.start_session('night-shift', 'harbour')), true);
select * from public.record_knowledge('Bens Verdacht', 'Pier 7 sinkt um einen Zentimeter im Jahr.');
select count(*) from public.recall_knowledge('Where is the tide table?', max_results => 3);
commit;

-- Eve, who has nothing to do with them.
begin;
select set_config('role', 'authenticated', true),
       set_config('request.jwt.claims', '{"role":"authenticated","sub":"0e000000-0000-4000-8000-000000000003"}', true);
select * from public.record_knowledge('Tide table', 'Eve keeps another tide table, on paper.');
select * from public.record_knowledge('To be forgotten', 'A phone number that nobody should have.');
select * from public.forget_knowledge((select id from public.knowledge_items where title = 'To be forgotten'));
commit;

-- The worker: what waits for a vector gets one.
begin;
select set_config('role', 'service_role', true), set_config('request.jwt.claims', '{"role":"service_role"}', true);
select * from public.store_embeddings((
  select jsonb_agg(jsonb_build_object('knowledge_id', j.knowledge_id, 'embedding_model', j.embedding_model,
                                      'content_hash', j.content_hash, 'embedding', '[0.5,0.5,0.7]'))
    from public.claim_embedding_jobs(5, 60) j));
commit;
