# For who has no PostgreSQL or Redis running: starts each from the machine's own programs, in a folder that goes with the
# script that reads this (`. ./servers.sh`). Where DATABASE_URL and REDIS_URL are set, it does nothing.

folder=$(mktemp -d)
trap 'sh "$folder/stop" >"$folder/log" 2>&1; rm -rf "$folder"' EXIT
: >"$folder/stop"

if [ -z "${DATABASE_URL:-}" ]; then
  for bin in "$(dirname "$(command -v initdb || echo /none/)")" /usr/lib/postgresql/*/bin /opt/homebrew/opt/postgresql*/bin; do
    [ -x "$bin/initdb" ] && [ -x "$bin/pg_ctl" ] && break
  done
  [ -x "$bin/initdb" ] || { echo "PostgreSQL is missing: apt-get install postgresql, or set DATABASE_URL" >&2; exit 69; }
  as=                                   # PostgreSQL refuses to run as root
  if [ "$(id -u)" = 0 ]; then as="runuser -u postgres --"; chown postgres "$folder"; fi
  port=${POSTGRES_PORT:-7632}
  cd "$folder"
  $as "$bin/initdb" -A trust -U tidemill -E UTF8 --no-sync -D "$folder/postgres" >/dev/null
  $as "$bin/pg_ctl" -w -D "$folder/postgres" -l "$folder/postgres/log" -o "-h 127.0.0.1 -p $port -k ''" start >/dev/null
  echo "$as $bin/pg_ctl -m fast -D $folder/postgres stop" >>"$folder/stop"
  cd "$OLDPWD"
  export DATABASE_URL="postgres://tidemill@127.0.0.1:$port/postgres"
fi

if [ -z "${REDIS_URL:-}" ]; then
  command -v redis-server >/dev/null || { echo "Redis is missing: apt-get install redis-server, or set REDIS_URL" >&2; exit 69; }
  port=${REDIS_PORT:-7679}
  redis-server --bind 127.0.0.1 --port "$port" --save '' --dir "$folder" --daemonize yes --pidfile "$folder/redis.pid" >/dev/null
  echo "redis-cli -p $port shutdown nosave" >>"$folder/stop"
  export REDIS_URL="redis://127.0.0.1:$port"
fi
