-- Credential doors: where text comes in besides knowledge_items.
--
-- Owns: the triggers that refuse credentials (see credentials) in the columns of text that callers write, on every
-- table that has such columns. A test compares them with the catalog, so that a new column is not forgotten.
--
-- Columns that only functions append to (attempts, observations, stages) are checked by those functions: what was let
-- in there once must not refuse what is appended next.

set local lock_timeout = '5s';

create trigger workspaces_refuse_credentials
  before insert or update of name, description
  on public.workspaces
  for each row execute function private.refuse_credentials_in_columns(
    'name', 'description');
create trigger session_knowledge_links_refuse_credentials
  before insert or update of learning_context, notes
  on public.session_knowledge_links
  for each row execute function private.refuse_credentials_in_columns(
    'learning_context', 'notes');
create trigger technical_gotchas_refuse_credentials
  before insert or update of problem_signature, problem_description, problem_context, working_solution,
    failure_patterns, problem_category, prevention_guidance, project_context
  on public.technical_gotchas
  for each row execute function private.refuse_credentials_in_columns(
    'problem_signature', 'problem_description', 'problem_context', 'working_solution', 'failure_patterns',
    'problem_category', 'prevention_guidance', 'project_context');
create trigger command_patterns_refuse_credentials
  before insert or update of command_signature, command_description, success_pattern, context_requirements,
    parameter_notes, command_category, project_context
  on public.command_patterns
  for each row execute function private.refuse_credentials_in_columns(
    'command_signature', 'command_description', 'success_pattern', 'context_requirements', 'parameter_notes',
    'command_category', 'project_context');
create trigger interaction_patterns_refuse_credentials
  before insert or update of pattern_name, situation_type, user_behavior_description, ai_response_expected,
    success_indicators, failure_indicators, pattern_metadata, project_context
  on public.interaction_patterns
  for each row execute function private.refuse_credentials_in_columns(
    'pattern_name', 'situation_type', 'user_behavior_description', 'ai_response_expected',
    'success_indicators', 'failure_indicators', 'pattern_metadata', 'project_context');
create trigger experiential_knowledge_refuse_credentials
  before insert or update of insight_title, insight_description, emotional_context, motivation_driver,
    project_impact_description, discovery_moment, validation_examples, retention_method, applicability_scope,
    insight_metadata, project_context
  on public.experiential_knowledge
  for each row execute function private.refuse_credentials_in_columns(
    'insight_title', 'insight_description', 'emotional_context', 'motivation_driver',
    'project_impact_description', 'discovery_moment', 'validation_examples', 'retention_method',
    'applicability_scope', 'insight_metadata', 'project_context');
create trigger decision_evolution_refuse_credentials
  before insert or update of decision_topic, initial_understanding, current_understanding,
    final_understanding, key_influences, decision_rationale, alternative_approaches, lessons_learned,
    project_context
  on public.decision_evolution
  for each row execute function private.refuse_credentials_in_columns(
    'decision_topic', 'initial_understanding', 'current_understanding', 'final_understanding',
    'key_influences', 'decision_rationale', 'alternative_approaches', 'lessons_learned', 'project_context');
create trigger knowledge_relationships_refuse_credentials
  before insert or update of reason, relationship_context
  on public.knowledge_relationships
  for each row execute function private.refuse_credentials_in_columns(
    'reason', 'relationship_context');
create trigger knowledge_validation_tests_refuse_credentials
  before insert or update of test_name, test_category, test_scenario, expected_response, pass_criteria,
    test_metadata
  on public.knowledge_validation_tests
  for each row execute function private.refuse_credentials_in_columns(
    'test_name', 'test_category', 'test_scenario', 'expected_response', 'pass_criteria', 'test_metadata');
create trigger validation_test_results_refuse_credentials
  before insert or update of ai_response, evaluator_notes, improvement_needed
  on public.validation_test_results
  for each row execute function private.refuse_credentials_in_columns(
    'ai_response', 'evaluator_notes', 'improvement_needed');
create trigger knowledge_duplicates_refuse_credentials
  before insert or update of reason
  on public.knowledge_duplicates
  for each row execute function private.refuse_credentials_in_columns(
    'reason');
