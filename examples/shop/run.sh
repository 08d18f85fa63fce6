#!/bin/sh
# Starts the daemon, sends it half an hour of traffic, stops it, and asks the store. Again: the same numbers.
set -eu
cd "$(dirname "$0")"
command -v sqlite3 >/dev/null || { echo "sqlite3 is missing: apt-get install sqlite3" >&2; exit 69; }
if [ -z "${TIDEMILL:-}" ]; then
  cargo build --release
  TIDEMILL=${CARGO_TARGET_DIR:-../../target}/release/tidemill
fi
export TIDEMILL

ready=$(mktemp)
"$TIDEMILL" run tidemill.toml --ready "$ready" &
mill=$!
trap 'kill "$mill" 2>/dev/null || :; rm "$ready"' EXIT
until [ -s "$ready" ]; do kill -0 "$mill"; sleep 0.1; done
sh events.sh | "$TIDEMILL" send "${SHOP_TCP:-127.0.0.1:7600}" --producer shop
kill "$mill" && wait "$mill"            # a daemon that has ended has committed all that it took
sqlite3 -box "${SHOP_DATA:-data}/tidemill.db" < queries.sql
