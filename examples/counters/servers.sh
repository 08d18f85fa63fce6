# For who has no PostgreSQL or Redis running: starts each from the machine's own programs, in a folder that goes with the
# script that reads this. Where DATABASE_URL and REDIS_URL name yours, it starts nothing.

folder=$(mktemp -d)
: >"$folder/stop"
stop_servers() { sh "$folder/stop" >/dev/null 2>&1 || true; rm -rf "$folder"; }
trap stop_servers EXIT

if [ -z "${DATABASE_URL:-}" ]; then
  PATH=$PATH:$(ls -d /usr/lib/postgresql/*/bin /opt/homebrew/opt/postgresql*/bin 2>/dev/null | sort -r | tr '\n' ':')
  command -v pg_ctl >/dev/null || { echo "PostgreSQL is missing: apt-get install postgresql, or set DATABASE_URL" >&2; exit 69; }
  as= port=${POSTGRES_PORT:-7632} cluster=$folder/postgres
  if [ "$(id -u)" = 0 ]; then           # PostgreSQL refuses to run as root
    as="runuser -u $(id -un postgres 2>/dev/null || echo nobody) --"
    chown "$(echo "$as" | cut -d ' ' -f 3)" "$folder"
  fi
  (
    cd "$folder"
    $as "$(command -v initdb)" -A trust -U tidemill -E UTF8 --no-sync -D "$cluster" >/dev/null
    $as "$(command -v pg_ctl)" -w -D "$cluster" -l "$folder/log" -o "-h 127.0.0.1 -p $port -k ''" start >/dev/null
  ) || { cat "$folder/log" >&2; exit 69; }
  echo "cd / && $as $(command -v pg_ctl) -m fast -D $cluster stop" >>"$folder/stop"
  # What the journal says was committed is not in a new database: each run begins anew.
  export DATABASE_URL="postgres://tidemill@127.0.0.1:$port/postgres" COUNTERS_DATA="$folder/data"
fi

if [ -z "${REDIS_URL:-}" ]; then
  command -v redis-server >/dev/null || { echo "Redis is missing: apt-get install redis-server, or set REDIS_URL" >&2; exit 69; }
  port=${REDIS_PORT:-7679}
  redis-server --bind 127.0.0.1 --port "$port" --save '' --dir "$folder" --daemonize yes >/dev/null
  echo "redis-cli -p $port shutdown nosave" >>"$folder/stop"
  export REDIS_URL="redis://127.0.0.1:$port"
fi
