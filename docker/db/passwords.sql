-- Passwords of the roles that log in; the image runs this once, on an empty data directory, as a superuser.
-- `authenticator` has one of its own: who holds the worker's or a direct client's URL doesn't hold the superuser's.
\set password `echo "$POSTGRES_PASSWORD"`
\set authenticator_password `echo "$AUTHENTICATOR_PASSWORD"`
\set jwt_exp `echo "$JWT_EXP"`

alter user supabase_admin with password :'password';
alter user pgbouncer with password :'password';
alter user supabase_auth_admin with password :'password';
alter user supabase_storage_admin with password :'password';
alter user authenticator with password :'authenticator_password';

alter database postgres set "app.settings.jwt_exp" to :'jwt_exp';
