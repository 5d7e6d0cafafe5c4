#!/usr/bin/env bash
# A private PostgreSQL for tests, in a folder of its own, on a Unix socket in that folder.
#
#   scripts/postgres.sh install           Debian's package, if no PostgreSQL is here
#   scripts/postgres.sh start DIR         makes it if need be, starts it, prints its connection string
#   scripts/postgres.sh stop DIR [MODE]   fast (default) or immediate, which is a crash in good order
#   scripts/postgres.sh query DIR SQL     runs a statement and prints its rows
#   scripts/postgres.sh kill DIR          SIGKILL to its first process, as the kernel does when memory is short
set -euo pipefail
source "$(dirname "$0")/lib.sh"

# bin is where the newest of Debian's versions has its programs, or what is in the path.
bin() {
  local found
  found=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)
  if [ -z "$found" ]; then found=$(dirname "$(command -v initdb 2>/dev/null)" 2>/dev/null || true); fi
  [ -n "$found" ] && [ -x "$found/initdb" ] && echo "$found"
}

install() {
  bin >/dev/null && return
  need initdb postgresql postgresql-common >&2 || true
  bin >/dev/null || { echo "PostgreSQL is missing; as root on Debian: apt-get install postgresql" >&2; exit 1; }
}

# as runs a command as the user of the cluster: PostgreSQL refuses to be root.
as() {
  if [ "$(id -u)" = 0 ]; then setpriv --reuid postgres --regid postgres --init-groups "$@"; else "$@"; fi
}

start() {
  local dir=$1
  install
  if [ ! -e "$dir/data/PG_VERSION" ]; then
    mkdir -p "$dir/data"
    if [ "$(id -u)" = 0 ]; then chown postgres "$dir" "$dir/data"; fi
    (cd / && as "$(bin)/initdb" -D "$dir/data" -U ringback -A trust -E UTF8 --locale=C --no-sync >"$dir/initdb.log" 2>&1) || { cat "$dir/initdb.log" >&2; exit 1; }
    cat >>"$dir/data/postgresql.conf" <<END
listen_addresses = ''
unix_socket_directories = '$dir'
max_connections = 60
recovery_init_sync_method = syncfs
log_min_messages = fatal
END
  fi
  # After a kill the processes of the old one may need a moment to end.
  local tries=0
  until (cd / && as "$(bin)/pg_ctl" start -D "$dir/data" -l "$dir/data/log" -w -t 60 >/dev/null 2>&1); do
    tries=$((tries + 1))
    if [ $tries = 100 ]; then tail -n 20 "$dir/data/log" >&2; exit 1; fi
    sleep 0.1
  done
  echo "host=$dir user=ringback dbname=postgres"
}

stop() { (cd / && as "$(bin)/pg_ctl" stop -D "$1/data" -m "${2:-fast}" -w >/dev/null); }

case "${1:-}" in
  install) install ;;
  start | stop) "$@" ;;
  kill) kill -KILL "$(head -n 1 "$2/data/postmaster.pid")" ;;
  query) "$(bin)/psql" -X -q -A -t -h "$2" -U ringback -d postgres -c "$3" ;;
  *) sed -n '2,9p' "$0" >&2; exit 2 ;;
esac
