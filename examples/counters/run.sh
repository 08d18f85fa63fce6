#!/bin/sh
# Starts the daemon (and PostgreSQL and Redis, where DATABASE_URL and REDIS_URL do not name yours), sends it two days of
# traffic, stops it, and asks both.
set -eu
cd "$(dirname "$0")"
if [ -z "${TIDEMILL:-}" ]; then
  cargo build --release
  TIDEMILL=${CARGO_TARGET_DIR:-../../target}/release/tidemill
fi
export TIDEMILL
. ./servers.sh

"$TIDEMILL" run tidemill.toml --ready "$folder/ready" &
mill=$!
trap 'kill "$mill" 2>/dev/null || :; stop_servers' EXIT
until [ -s "$folder/ready" ]; do kill -0 "$mill"; sleep 0.1; done
sh events.sh | "$TIDEMILL" send "${COUNTERS_TCP:-127.0.0.1:7600}" --producer counters
kill "$mill" && wait "$mill"            # a daemon that has ended has committed all that it took
psql -X -d "$DATABASE_URL" -f queries.sql

key=tidemill:hourly:1767258000000:page_view     # of 2026-01-01 09:00 UTC
echo "$key"
redis-cli -u "$REDIS_URL" HGETALL "$key"
echo "goes in $(redis-cli -u "$REDIS_URL" TTL "$key") s"
