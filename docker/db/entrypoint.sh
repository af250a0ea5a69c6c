#!/usr/bin/env bash
# Start the database of docker-compose.yml: check its data, extend the image's preloaded libraries, hand over.
set -euo pipefail

config=${KP_POSTGRES_CONFIG:-/etc/postgresql/postgresql.conf}
data=${PGDATA:-/var/lib/postgresql/data}

# A server of another major version can't read these files, and must not try.
server=$(postgres -V | sed -E 's/^[^0-9]*([0-9]+).*/\1/')
if [ -f "$data/PG_VERSION" ]; then
  have=$(<"$data/PG_VERSION")
  if [ "$have" != "$server" ]; then
    {
      echo "error: the data in the volume db-data belongs to PostgreSQL $have; this image is PostgreSQL $server."
      echo "       Set DB_IMAGE to an image of PostgreSQL $have, start it, run scripts/backup, and restore the archive"
      echo "       into an empty volume under the new image: docs/how-to/upgrade.md. Nothing was changed."
    } >&2
    exit 1
  fi
fi

# The image's own list, from its own configuration, and behind it those of ours that the image has.
libraries=$(postgres -C shared_preload_libraries -D "$data" -c config_file="$config")
directory=$(pg_config --pkglibdir)
for library in pg_stat_statements pg_prewarm vector; do
  case ",${libraries// /}," in
    *",$library,"*) ;;
    *)
      if [ -e "$directory/$library.so" ]; then
        libraries="${libraries:+$libraries, }$library"
      else
        echo "warning: this image has no library $library; going on without" >&2
      fi
      ;;
  esac
done

# Replicas stream as postgres, and the image's rules of access have no line for that; a password it takes all the same.
rules=$(postgres -C hba_file -D "$data" -c config_file="$config")
if [ -w "$rules" ] && ! grep -q '^host replication postgres' "$rules"; then
  printf '\nhost replication postgres all scram-sha-256\n' >>"$rules"
fi

exec docker-entrypoint.sh postgres -c config_file="$config" -c shared_preload_libraries="$libraries" "$@"
