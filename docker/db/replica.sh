#!/usr/bin/env bash
# Start the read replica of docker-compose.yml: copy the primary once, then follow it.
set -euo pipefail

data=${PGDATA:?}/standby
incoming=${PGDATA:?}/incoming
slot=${REPLICA_SLOT:?}
user=postgres
run=(gosu postgres)
[ "$(id -u)" = 0 ] || run=()

if [ ! -f "$data/PG_VERSION" ]; then
  # What an interrupted copy left is none. A slot that nobody reads is that copy's.
  rm -rf "$incoming"
  mkdir -p "$PGDATA"
  [ "$(id -u)" != 0 ] || chown postgres "$PGDATA"
  psql --host="${PRIMARY_HOST:?}" --port="${PRIMARY_PORT:-5432}" --username="$user" --dbname=postgres \
    --quiet --tuples-only --no-password --output=/dev/null --set=slot="$slot" <<'SQL'
select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = :'slot' and not active;
SQL
  "${run[@]}" pg_basebackup --pgdata="$incoming" --host="$PRIMARY_HOST" --port="${PRIMARY_PORT:-5432}" \
    --username="$user" --no-password --slot="$slot" --create-slot --wal-method=stream --checkpoint=fast
  "${run[@]}" touch "$incoming/standby.signal"
  mv "$incoming" "$data"
fi

# The password stays in the environment: neither in an argument nor in a file, and a changed one arrives with a restart.
export PGDATA=$data
exec bash "${KP_DATABASE_ENTRYPOINT:-/usr/local/bin/kp-database}" "$@" \
  -c data_directory="$data" \
  -c primary_conninfo="host=$PRIMARY_HOST port=${PRIMARY_PORT:-5432} user=$user application_name=$slot" \
  -c primary_slot_name="$slot" \
  -c hot_standby=on
