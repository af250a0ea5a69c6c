#!/usr/bin/env bash
# Fill the gateway's configuration in from the environment, and start it.
#
# The templates are in the directory of the first argument (default: /etc/envoy/templates), the result goes to the
# second (default: /tmp/envoy.yaml); `--render` stops there.
set -euo pipefail

render_only=false
if [ "${1:-}" = --render ]; then render_only=true; shift; fi
templates=${1:-/etc/envoy/templates}
result=${2:-/tmp/envoy.yaml}

# What goes into the configuration has to be harmless there: keys and tokens are.
for name in ANON_KEY SERVICE_ROLE_KEY ANON_KEY_ASYMMETRIC SERVICE_ROLE_KEY_ASYMMETRIC \
            SUPABASE_PUBLISHABLE_KEY SUPABASE_SECRET_KEY; do
  if ! [[ ${!name:-} =~ ^[A-Za-z0-9._-]{20,}$ ]]; then
    echo "error: $name is missing or no key; scripts/generate-keys makes one" >&2
    exit 1
  fi
done
if ! [[ ${SUPABASE_PUBLIC_URL:-} =~ ^https?://[A-Za-z0-9.:_/-]+$ ]]; then
  echo "error: SUPABASE_PUBLIC_URL is ${SUPABASE_PUBLIC_URL:-empty}; it should be the URL that people use" >&2
  exit 1
fi
if ! [[ ${DASHBOARD_USERNAME:-} =~ ^[A-Za-z0-9._@-]+$ ]] || [ -z "${DASHBOARD_PASSWORD:-}" ]; then
  echo "error: DASHBOARD_USERNAME or DASHBOARD_PASSWORD is missing, or the name has other than letters and digits" >&2
  exit 1
fi

# Envoy knows passwords as {SHA}base64(sha1(password)), the format of htpasswd -s.
digest=$(printf %s "$DASHBOARD_PASSWORD" | sha1sum | cut -c 1-40 | sed 's/../\\x&/g')
# shellcheck disable=SC2059 # the digest is the format: \x.. for each byte
DASHBOARD_BASIC_AUTH="$DASHBOARD_USERNAME:{SHA}$(printf "$digest" | base64)"

(
  umask 077
  sed -e "s|@ANON_KEY@|$ANON_KEY|g" \
      -e "s|@SERVICE_ROLE_KEY@|$SERVICE_ROLE_KEY|g" \
      -e "s|@ANON_TOKEN@|$ANON_KEY_ASYMMETRIC|g" \
      -e "s|@SERVICE_TOKEN@|$SERVICE_ROLE_KEY_ASYMMETRIC|g" \
      -e "s|@PUBLISHABLE_KEY@|$SUPABASE_PUBLISHABLE_KEY|g" \
      -e "s|@SECRET_KEY@|$SUPABASE_SECRET_KEY|g" \
      -e "s|@PUBLIC_URL@|$SUPABASE_PUBLIC_URL|g" \
      -e "s|@DASHBOARD_BASIC_AUTH@|$DASHBOARD_BASIC_AUTH|g" \
      "$templates/envoy.template.yaml" >"$result"
)
# Envoy runs as an account of its own; the image's entry point would have changed to it.
if [ "$(id -u)" = 0 ] && id envoy >/dev/null 2>&1; then chown envoy "$result"; fi

if $render_only; then exit 0; fi
exec /docker-entrypoint.sh envoy -c "$result"
