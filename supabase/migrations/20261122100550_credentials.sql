-- Credentials: text that looks like one is not taken in by accident.
--
-- Owns: the recognition of credentials and the trigger that refuses them on knowledge_items.
--
-- Invariants
--   * Memory is read by models, shown in Studio, exported and backed up: a key that slips into it is a leak. So an
--     item whose text holds what looks like a private key, an access token, or a URL with a password is refused
--     with PT451, which names the kind and never repeats the text.
--   * The caller can say that it is meant: allow_credentials of record_knowledge and record_knowledge_batch.
--   * Placeholders (<password>, $TOKEN, ****) are not credentials.

set local lock_timeout = '5s';

create function private.find_credential(checked text)
returns text
language plpgsql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
  v_match text[];
begin
  -- One cheap look for anything that the patterns below begin with: most texts end here.
  if checked is null
     or checked !~* '(-----begin|akia|asia|gh[pousr]_|github_pat_|sk-|xox[abeprs]-|aiza|[rs]k_(live|test)_|sb_secret_|eyj|glpat-|npm_|://|passw|secret|api[_-]?key|token)' then
    return null;
  end if;
  if checked ~ '-----BEGIN [A-Z0-9 ]*PRIVATE KEY( BLOCK)?-----' then return 'a private key'; end if;
  if checked ~ '\m(AKIA|ASIA)[0-9A-Z]{16}\M' then return 'an AWS access key'; end if;
  if checked ~ '\m(gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{50,})' then return 'a GitHub token'; end if;
  if checked ~ '\mglpat-[A-Za-z0-9_-]{20,}' then return 'a GitLab token'; end if;
  if checked ~ '\mnpm_[A-Za-z0-9]{36,}' then return 'an npm token'; end if;
  if checked ~ '\mxox[abeprs]-[A-Za-z0-9-]{16,}' then return 'a Slack token'; end if;
  if checked ~ '\mAIza[0-9A-Za-z_-]{35}' then return 'a Google API key'; end if;
  if checked ~ '\m[rs]k_(live|test)_[0-9A-Za-z]{16,}' then return 'a Stripe key'; end if;
  if checked ~ '\msk-(ant-|proj-)?[A-Za-z0-9_-]*[0-9][A-Za-z0-9_-]{19,}' then return 'an API key'; end if;
  if checked ~ '\msb_secret_[A-Za-z0-9_-]{20,}' then return 'a Supabase secret key'; end if;
  if checked ~ '\meyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{16,}' then return 'a JSON web token'; end if;
  for v_match in
    select regexp_matches(checked, '[a-z][a-z0-9+.-]*://[^\s:/@]+:([^\s@/]{3,})@', 'gi')
  loop
    if v_match[1] !~* '^([<$*{\[%].*|\.+|x+|pass(word|wd)?|secret|changeme|your.*|my.*|postgres|user|example)$' then
      return 'a URL with a password';
    end if;
  end loop;
  for v_match in
    select regexp_matches(checked,
      '\m(?:password|passwd|secret|api[_-]?key|access[_-]?key|auth[_-]?token|access[_-]?token)["'']?\s*[=:]\s*["'']?([A-Za-z0-9+/_!@#%^&.=-]{16,})',
      'gi')
  loop
    -- A generated secret mixes letters and digits; a variable's name or a sentence rarely does.
    if v_match[1] ~ '[0-9].*[A-Za-z].*[0-9]' and v_match[1] !~* '(example|placeholder|changeme|your|xxxx)' then
      return 'a password or key';
    end if;
  end loop;
  return null;
end
$$;
comment on function private.find_credential(text) is
  'The kind of credential that a text seems to hold (a private key, an access token, a URL with a password …), or null.';

create function private.refuse_credentials()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_kind text;
begin
  if coalesce(current_setting('app.allow_credentials', true), '') = 'on' then
    return new;
  end if;
  v_kind := coalesce(
    private.find_credential(new.title), private.find_credential(new.content),
    private.find_credential(array_to_string(new.retrieval_triggers, ' ')),
    private.find_credential(new.context_data::text));
  if v_kind is not null then
    perform private.fail('PT451', format('the text looks like it holds %s', v_kind),
      'take it out and write where it is kept instead; if it is meant, record it with allow_credentials => true');
  end if;
  return new;
end
$$;
comment on function private.refuse_credentials() is 'Trigger: refuses an item whose text looks like it holds a credential.';

create trigger knowledge_items_refuse_credentials_insert before insert on public.knowledge_items
  for each row execute function private.refuse_credentials();
create trigger knowledge_items_refuse_credentials_update
  before update of title, content, retrieval_triggers, context_data on public.knowledge_items
  for each row execute function private.refuse_credentials();

revoke execute on function private.find_credential(text), private.refuse_credentials()
  from public, anon, authenticated, service_role;
grant execute on function private.find_credential(text) to authenticated, service_role;
