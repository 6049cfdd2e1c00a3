#!/usr/bin/env bash
# psql.sh URL: psql, twenty at a time, each with the script beside this one; the transcripts in order.
set -euo pipefail
url=$1
here=$(dirname "$0")
dir=$(mktemp -d "${TMPDIR:-/tmp}/pgweir-psql.XXXXXX")
trap 'rm -rf "$dir"' EXIT
clients=20

ask() { psql -X -At -d "$url" -c "$1"; }

# Ctrl-C for a query, once it runs.
cancel() {
    local n=$1 psql
    psql -X -At -d "$url" -c "select pg_sleep(60)" >"$dir/canceled.$n" 2>&1 &
    psql=$!
    for _ in {1..500}; do
        [ "$(ask "select count(*) from pg_stat_activity
            where wait_event = 'PgSleep' and datname = current_database()")" = 0 ] || break
        sleep 0.02
    done
    kill -INT "$psql"
    wait "$psql" || echo "psql's exit code: $?" >>"$dir/canceled.$n"
}

for ((n = 0; n < clients; n++)); do
    seq -f "%g|line of $n|\\\\x00ff" 1 2000 >"$dir/in.$n"
    echo "\\copy copied_$n from 'in.$n' with (delimiter '|')" >"$dir/copy.$n"
    CLIENT=$n psql -X -At -d "$url" -v n="$n" -v dir="$dir" -f "$here/psql.sql" >"$dir/out.$n" 2>&1 &
done
# One after another: who looks whether a query sleeps needs a server too.
for n in 0 1 2; do cancel "$n"; done
wait
for ((n = 0; n < clients; n++)); do
    echo "== client $n"
    # Without the script's path and line.
    sed "s/^psql:[^ ]*psql.sql:[0-9]*: //" "$dir/out.$n"
    cksum <"$dir/copied.$n"
done
for n in 0 1 2; do
    echo "== canceled $n"
    cat "$dir/canceled.$n"
done
