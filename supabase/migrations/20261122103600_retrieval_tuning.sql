-- Retrieval tuning: how would the validation tests end if the workspace's searches weighed otherwise?
--
-- Owns: try_retrieval_weights.
--
-- Invariants
--   * Nothing changes. Weights on trial are set, searched with and taken back within one call: nobody else ever
--     searches with them. configure_retrieval is the door that keeps any.
--   * What is tried is the search itself, as the caller, and no copy of its formula.
--   * Who may set the weights may try them, and nobody else. Writers of items don't wait meanwhile.

set local lock_timeout = '5s';

-- definer because workspaces are written by functions only; it checks that the caller owns this one. It takes the
-- weaker lock, which lets items be recorded, and is called where what it does is undone.
create function private.put_on_trial(workspace_id uuid, retrieval_weights jsonb)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  if not private.is_trusted() and put_on_trial.workspace_id not in (select private.my_workspaces_as('{owner}')) then
    perform private.fail('PT403', 'only an owner of the workspace says how its searches read and weigh');
  end if;
  update public.workspaces w set retrieval_weights = put_on_trial.retrieval_weights
   where w.id = put_on_trial.workspace_id;
exception when check_violation then
  perform private.fail('PT400', 'these are no weights',
    'retrieval_weights is an object of the weights that configure_retrieval tells, numbers from 0 to 1');
end
$$;
comment on function private.put_on_trial(uuid, jsonb) is
  'Sets the weights of a workspace of the caller''s without making anybody wait who records; for whoever takes them back.';

create type public.tried_test as (
  test_id uuid, expected_ranks integer[], forbidden_ranks integer[], effective_weights jsonb
);
comment on type public.tried_test is
  'How a validation test ends with weights on trial: the ranks of the expected and the forbidden items in the order of the test (null: not among the first 100), and on the first line that found anything all weights as they were applied, defaults included.';

create function public.try_retrieval_weights(tests jsonb, retrieval_weights jsonb default null)
returns setof public.tried_test
language plpgsql
volatile
rows 50
set search_path = pg_catalog, pg_temp
as $$
declare
  v_workspace uuid := private.current_workspace();
  v_depth constant integer := 100;
  v_test record;
  v_found uuid[];
  v_weights jsonb;
  v_told boolean := false;
  v_tried public.tried_test[] := '{}';
begin
  perform private.require_user();
  if jsonb_typeof(try_retrieval_weights.tests) is distinct from 'array'
     or jsonb_array_length(try_retrieval_weights.tests) not between 1 and 200 then
    perform private.fail('PT400', 'tests is an array of 1 to 200 objects',
      '{"test_id": …, "query_embedding": "[…]" or null, "embedding_model": … or null}');
  end if;
  begin
    perform private.put_on_trial(v_workspace, coalesce(try_retrieval_weights.retrieval_weights,
      (select w.retrieval_weights from public.workspaces w where w.id = v_workspace)));
    for v_test in
      select t.id, t.test_scenario, t.knowledge_types_tested, t.expected_knowledge_ids, t.forbidden_knowledge_ids,
             a.query_embedding, a.embedding_model
        from jsonb_to_recordset(try_retrieval_weights.tests)
             as a (test_id uuid, query_embedding extensions.vector, embedding_model text)
        left join public.knowledge_validation_tests t on t.id = a.test_id and t.workspace_id = v_workspace
    loop
      if v_test.id is null then
        perform private.fail('PT404', 'no such validation test');
      end if;
      -- As run_retrieval_test searches.
      select coalesce(array_agg(s.knowledge_id order by s.ordinality), '{}'), (array_agg(s.explanation -> 'weights'))[1]
        into v_found, v_weights
        from public.search_knowledge(
               query_text => v_test.test_scenario, query_embedding => v_test.query_embedding,
               embedding_model => v_test.embedding_model,
               knowledge_types => v_test.knowledge_types_tested::text[], max_results => v_depth,
               explain => not v_told) with ordinality s;
      v_told := v_told or v_weights is not null;
      v_tried := v_tried || row(v_test.id,
        array(select array_position(v_found, i.id)
                from unnest(v_test.expected_knowledge_ids) with ordinality i (id, place) order by i.place),
        array(select array_position(v_found, i.id)
                from unnest(v_test.forbidden_knowledge_ids) with ordinality i (id, place) order by i.place),
        v_weights)::public.tried_test;
    end loop;
    -- Takes the weights back; what was found out stays in its variable.
    perform private.fail('KP000', 'the trial is over');
  exception when sqlstate 'KP000' then
    null;
  end;
  return query select t.* from unnest(v_tried) t;
end
$$;
comment on function public.try_retrieval_weights(jsonb, jsonb) is
  'Runs validation tests of the current workspace as if its searches weighed like this (null: as they do), keeps nothing, and tells at which ranks what they name was found. tests is an array of {test_id, query_embedding, embedding_model}. For owners of the workspace.';

revoke execute on function
  private.put_on_trial(uuid, jsonb), public.try_retrieval_weights(jsonb, jsonb)
  from public, anon, authenticated, service_role;
grant execute on function
  private.put_on_trial(uuid, jsonb), public.try_retrieval_weights(jsonb, jsonb)
  to authenticated;
