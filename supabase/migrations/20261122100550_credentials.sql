-- Credentials: text that looks like one is not taken in by accident.
--
-- Owns: the recognition of credentials, and the triggers that refuse them: here on knowledge_items and ai_sessions,
-- at the other doors in credential_doors, once their tables are there.
--
-- Invariants
--   * Memory is read by models, shown in Studio, exported and backed up: a key that slips into it is a leak. So an
--     text that holds what looks like a private key, an access token, an authorization header, or a URL or variable
--     with a password is refused with PT451, which names the kind and never repeats the text.
--   * The caller can say that it is meant: allow_credentials of the record_… functions. What was let in once doesn't
--     stand in the way of changing something else.
--   * Placeholders (<password>, $TOKEN, ****), names of settings, hashes and ids are not credentials: a memory that
--     refuses ordinary text about keys is not used. So generated secrets are told by how they look, and a password
--     made of plain words is found only where nothing but a password can stand.
--   * Every pattern takes time in proportion to the text.

set local lock_timeout = '5s';

create function private.is_placeholder(word text)
returns boolean
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
  select length(word) <= 100 and (word = repeat(left(word, 1), length(word)) or word collate pg_catalog."pg_c_utf8" ~* '^([<$*{\[(%…].*|\W+|.*(\*{3}|xxxx|\.{3}|…|<|\$\{).*|.*(example|placeholder|change[_-]?me|redacted|dummy|sample|insert[_-]).*|(your|my|some|the)[_-]?(own|secret|super|db|database|api|access|auth|new|strong)*[_-]?(password|passwd|pass|pw|pwd|secret|token|key|value)?.{0,2}|pass(word|wd|phrase)?\d{0,3}|pwd?|secret(key)?|token|key|postgres(ql)?|root|admin|user(name)?|test(ing)?\d{0,4}|guest|none|null|true|false|undefined|string|foo|bar)$')
$$;
comment on function private.is_placeholder(text) is
  'Whether a word that stands where a password would is none: <password>, $TOKEN, ****, changeme, a word that everybody uses.';

create function private.find_credential(checked text)
returns text
language plpgsql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
  -- What is a letter, and its other case, must not depend on the locale of the database: Turkish has an i of its own.
  v_text constant text collate pg_catalog."pg_c_utf8" := checked;
  v_match text[] collate pg_catalog."pg_c_utf8";
begin
  -- One cheap look for anything that the patterns below need: most texts end here.
  if v_text is null
     or v_text !~* '(-----begin|puttY-user-key|age-secret-key|akia|asia|gh[pousr]_|github_pat_|gl[a-z]{2,4}-|sk-|xox[abeprs]-|xapp-|hooks\.slack|aiza|gocspx|ya29|[rs]k_(live|test)_|whsec_|sb_secret_|kpt_|sbp_|eyj|npm_|hf_|sg\.|dop_v1|hvs\.|pypi-|:aa|://|passw|passphrase|secret|_pwd|api[_-]?key|access[_-]?key|account[_-]?key|private[_-]?key|token|bearer|authorization|-u )' then
    return null;
  end if;
  if v_text ~ '-----BEGIN [A-Z0-9 ]*PRIVATE KEY( BLOCK)?-----|PuTTY-User-Key-File-\d|AGE-SECRET-KEY-1[0-9A-Z]{50}' then return 'a private key'; end if;
  if v_text ~ '\m(AKIA|ASIA)[0-9A-Z]{16}\M' then return 'an AWS access key'; end if;
  if v_text ~ '\m(gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{50,})' then return 'a GitHub token'; end if;
  if v_text ~ '\m(glpat|glptt|gldt|glrt|glcbt|glsoat)-[A-Za-z0-9_-]{20,}' then return 'a GitLab token'; end if;
  if v_text ~ '\mnpm_[A-Za-z0-9]{36,}' then return 'an npm token'; end if;
  if v_text ~ '\m(xox[abeprs]|xapp)-[A-Za-z0-9-]{16,}|hooks\.slack\.com/services/T[A-Z0-9]{6,}/B[A-Z0-9]{6,}/[A-Za-z0-9]{16,}' then return 'a Slack token'; end if;
  if v_text ~ '\m(AIza[0-9A-Za-z_-]{35}|GOCSPX-[0-9A-Za-z_-]{20,}|ya29\.[0-9A-Za-z_-]{20,})' then return 'a Google API key'; end if;
  if v_text ~ '\m([rs]k_(live|test)_[0-9A-Za-z]{16,}|whsec_[0-9A-Za-z]{24,})' then return 'a Stripe key'; end if;
  if v_text ~ '\m(sb_secret_[A-Za-z0-9_-]{20,}|sbp_[0-9a-f]{40})' then return 'a Supabase secret key'; end if;
  if v_text ~ '\mkpt_[0-9a-f]{64}\M' then return 'an agent''s token'; end if;
  -- OpenAI, Anthropic and those who write theirs alike. Letters of both cases and digits, or hex: words with hyphens
  -- are no keys.
  for v_match in select regexp_matches(v_text, '\m(sk-[A-Za-z0-9_-]{20,})', 'g') loop
    if v_match[1] ~ '[0-9]' and v_match[1] ~ '[A-Z]' and v_match[1] ~ '^sk-.*[a-z]'
       or v_match[1] ~ '^sk-([a-z]+-)*(v1-)?[0-9a-f]{32,}$' then
      return 'an API key';
    end if;
  end loop;
  if v_text ~ '\m(hf_[A-Za-z]{30,}|SG\.[A-Za-z0-9_-]{20,}\.[A-Za-z0-9_-]{40,}|dop_v1_[0-9a-f]{64}|hvs\.[A-Za-z0-9_-]{24,}|pypi-AgE[A-Za-z0-9_-]{50,}|\d{8,10}:AA[A-Za-z0-9_-]{33})' then return 'an access token'; end if;
  if v_text ~ '\meyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{16,}' then return 'a JSON web token'; end if;
  for v_match in select regexp_matches(v_text, '://[^\s:/@"'']*:([^\s@/"'']{3,})@[^\s]', 'g') loop
    if not private.is_placeholder(v_match[1]) then
      return 'a URL with a password';
    end if;
  end loop;
  for v_match in
    select regexp_matches(v_text, '\mauthorization["'']?\s*[:=]\s*["'']?(?:bearer|basic|token|apikey)\s+([A-Za-z0-9._~+/=-]{8,})', 'gi')
    union all select regexp_matches(v_text, '\mbearer\s+([A-Za-z0-9._~+/=-]{20,})', 'gi')
  loop
    if v_match[1] ~ '[0-9]' and v_match[1] ~ '[A-Za-z]' and not private.is_placeholder(v_match[1])
       or v_match[1] ~ '^[A-Za-z0-9+/]{8,}={1,2}$' then
      return 'an authorization header';
    end if;
  end loop;
  -- Where a password and nothing else can stand: .netrc, libpq's and MySQL's variables, curl's option.
  for v_match in
    select regexp_matches(v_text, '\mlogin\s+\S+\s+password\s+(\S{4,})', 'gi')
    union all select regexp_matches(v_text, '\m(?:PGPASSWORD|MYSQL_PWD|SSHPASS|REDISCLI_AUTH)=["'']?([^\s"'']{4,})', 'g')
    union all select regexp_matches(v_text, '\mcurl\M[^\n]*\s(?:-u|--user)[ =]["'']?[^\s:"'']+:([^\s"'']{4,})', 'g')
  loop
    if not private.is_placeholder(v_match[1]) then
      return 'a password or key';
    end if;
  end loop;
  for v_match in
    select regexp_matches(v_text,
      '((?:pass(?:word|wd|phrase)?|_pwd|secret|token|api[_-]?key|access[_-]?key|account[_-]?key|private[_-]?key)(?:[_-]?(?:key|base))?)["'']?\s*(?::=|=>|[:=])\s*["'']?([^\s"''`,;<>(){}\[\]]{8,})',
      'gi')
    union all
    select regexp_matches(v_text, '\s--[a-z-]{0,20}(password|token|secret|api-key)[ =]+["'']?([^\s"''`,;<>(){}\[\]]{8,})', 'gi')
  loop
    -- A generated secret mixes letters and digits; names, paths, dotted code and sentences rarely do.
    if v_match[2] ~ '[0-9]' and v_match[2] ~ '[A-Za-z]' and not private.is_placeholder(v_match[2])
       and v_match[2] !~ '^(\.{0,2}/|~/|[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$|[a-z]+:/|sha\d|md5|base64)'
       and (case when v_match[1] ~* '^(pass|_pwd)' then
             v_match[2] ~ '^[A-Za-z0-9]+$' or v_match[2] ~ '[A-Z].*[a-z]|[a-z].*[A-Z]' or v_match[2] ~ '[^\w.-]'
           else length(v_match[2]) >= 16 and v_match[2] ~ '[0-9].*[A-Za-z].*[0-9]' end) then
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
    case when tg_op = 'INSERT' or new.title <> old.title then private.find_credential(new.title) end,
    case when tg_op = 'INSERT' or new.content <> old.content then private.find_credential(new.content) end,
    case when tg_op = 'INSERT' or new.retrieval_triggers is distinct from old.retrieval_triggers
      then private.find_credential(array_to_string(new.retrieval_triggers, ' ')) end,
    case when tg_op = 'INSERT' or new.context_data is distinct from old.context_data
      then private.find_credential(new.context_data::text) end,
    case when tg_op = 'INSERT' or (new.category, new.subcategory, new.project_context, new.validation_note)
           is distinct from (old.category, old.subcategory, old.project_context, old.validation_note)
      then private.find_credential(concat_ws(' ', new.category, new.subcategory, new.project_context, new.validation_note)) end);
  if v_kind is not null then
    perform private.fail('PT451', format('the text looks like it holds %s', v_kind),
      'take it out and write where it is kept instead; if it is meant, record it with allow_credentials => true');
  end if;
  return new;
end
$$;
comment on function private.refuse_credentials() is 'Trigger: refuses an item whose text looks like it holds a credential.';

create function private.refuse_credentials_in_columns()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_new jsonb := to_jsonb(new);
  v_old jsonb := case tg_op when 'UPDATE' then to_jsonb(old) end;
  v_column text;
  v_kind text;
begin
  if coalesce(current_setting('app.allow_credentials', true), '') = 'on' then
    return new;
  end if;
  foreach v_column in array tg_argv loop
    if v_new -> v_column is distinct from v_old -> v_column then
      v_kind := private.find_credential(v_new ->> v_column);
      if v_kind is not null then
        perform private.fail('PT451', format('%s looks like it holds %s', v_column, v_kind),
          'take it out and write where it is kept instead; the record_… functions take it with allow_credentials => true');
      end if;
    end if;
  end loop;
  return new;
end
$$;
comment on function private.refuse_credentials_in_columns() is
  'Trigger: refuses a row of which one of the columns that are its arguments looks like it holds a credential.';

create trigger knowledge_items_refuse_credentials_insert before insert on public.knowledge_items
  for each row execute function private.refuse_credentials();
create trigger knowledge_items_refuse_credentials_update
  before update of title, content, retrieval_triggers, context_data, category, subcategory, project_context,
    validation_note
  on public.knowledge_items
  for each row execute function private.refuse_credentials();
create trigger ai_sessions_refuse_credentials
  before insert or update of session_identifier, project_context, session_metadata, user_feedback on public.ai_sessions
  for each row execute function private.refuse_credentials_in_columns(
    'session_identifier', 'project_context', 'session_metadata', 'user_feedback');

revoke execute on function
  private.is_placeholder(text), private.find_credential(text), private.refuse_credentials(),
  private.refuse_credentials_in_columns()
  from public, anon, authenticated, service_role;
grant execute on function private.is_placeholder(text), private.find_credential(text) to authenticated, service_role;
