-- What Realtime, the pooler and the log server keep for themselves; the image runs this once, as its superuser.
\set superuser `echo "${POSTGRES_USER:-supabase_admin}"`

create schema if not exists _realtime;
alter schema _realtime owner to :superuser;

create database _supabase with owner :superuser;
\connect _supabase
create schema if not exists _supavisor;
alter schema _supavisor owner to :superuser;
create schema if not exists _analytics;
alter schema _analytics owner to :superuser;
\connect postgres
