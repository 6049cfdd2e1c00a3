#!/usr/bin/env bash
# run.sh: a throwaway PostgreSQL with pgweir in front of it, until Ctrl-C. Nothing is kept.
#   PORT    where pgweir listens, on 127.0.0.1 (6432)
#   POOLER  another program to run in pgweir's place, with the same file: POOLER=/usr/sbin/pgbouncer
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

port=${PORT:-6432}
user=app password=app database=app
pooler_pid='' pg_started=''

listening() { (: <>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# PostgreSQL and the pooler both refuse to run as root.
unprivileged=()
[ "$(id -u)" != 0 ] || unprivileged=(setpriv --reuid=postgres --regid=postgres --init-groups)

# SIGQUIT ends it at once; SIGINT and SIGTERM would wait for clients.
stop_pooler() {
    kill -QUIT "$pooler_pid" 2>/dev/null || return 0
    for _ in {1..50}; do
        kill -0 "$pooler_pid" 2>/dev/null || return 0
        sleep 0.1
    done
    kill -KILL "$pooler_pid" 2>/dev/null || true
}

cleanup() {
    trap - EXIT
    trap '' INT TERM HUP
    [ -z "$pooler_pid" ] || stop_pooler
    [ -z "$pg_started" ] || "${unprivileged[@]}" "$bin/pg_ctl" -D "$dir/data" -m immediate -w stop >/dev/null 2>&1 || true
    rm -rf "$dir"
}

build() {
    if [ -n "${POOLER:-}" ]; then
        pooler=$(realpath "$POOLER")
        return
    fi
    cargo build --release
    pooler=$(target_dir)/release/pgweir
}

# The checkout may be where the unprivileged user cannot go (/root): what runs is copied.
prepare() {
    dir=$(mktemp -d "${TMPDIR:-/tmp}/pgweir-run.XXXXXX")
    trap cleanup EXIT
    trap 'exit 0' INT TERM HUP
    cp "$pooler" "$dir/"
    pooler=$dir/$(basename "$pooler")
    cd "$dir"
    echo "$password" >"$dir/password"
    [ "$(id -u)" != 0 ] || chown -R postgres: "$dir"
}

start_postgres() {
    "${unprivileged[@]}" "$bin/initdb" -D "$dir/data" -U "$user" --pwfile="$dir/password" \
        --auth=scram-sha-256 --no-sync >"$dir/initdb.log" || die "initdb failed: $(cat "$dir/initdb.log")"
    for _ in 1 2 3 4 5; do
        pg_port=$((20000 + RANDOM % 10000))
        ! listening "$pg_port" || continue
        pg_started=yes
        if "${unprivileged[@]}" "$bin/pg_ctl" -D "$dir/data" -l "$dir/postgres.log" -w start \
            -o "-p $pg_port -c listen_addresses=127.0.0.1 -c unix_socket_directories=" >/dev/null; then
            PGPASSWORD=$password "$bin/createdb" -h 127.0.0.1 -p "$pg_port" -U "$user" "$database"
            return
        fi
    done
    die "PostgreSQL did not start: $(tail -n 5 "$dir/postgres.log")"
}

write_config() {
    echo "\"$user\" \"$password\"" >"$dir/userlist.txt"
    cat >"$dir/pgbouncer.ini" <<INI
[databases]
$database = host=127.0.0.1 port=$pg_port dbname=$database

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $port
unix_socket_dir =
auth_type = scram-sha-256
auth_file = $dir/userlist.txt
admin_users = $user
pool_mode = transaction
max_client_conn = 1000
default_pool_size = 20
INI
    [ "$(id -u)" != 0 ] || chown postgres: "$dir/userlist.txt" "$dir/pgbouncer.ini"
}

# Its own session: a Ctrl-C goes to this script, which then ends it.
start_pooler() {
    local deadline=$((SECONDS + 20))
    "${unprivileged[@]}" setsid "$pooler" "$dir/pgbouncer.ini" &
    pooler_pid=$!
    until PGPASSWORD=$password PGCONNECT_TIMEOUT=5 "$bin/psql" -h 127.0.0.1 -p "$port" -U "$user" -d "$database" \
        -Xqc 'select 1' >"$dir/psql.log" 2>&1; do
        kill -0 "$pooler_pid" 2>/dev/null || die "the pooler ended, see its log above"
        [ "$SECONDS" -lt "$deadline" ] || die "the pooler does not answer: $(cat "$dir/psql.log")"
        sleep 0.1
    done
}

say_what_to_try() {
    cat <<TEXT

Ready: user $user, password $password, transaction pooling.
  through the pooler  PGPASSWORD=$password psql -h 127.0.0.1 -p $port -U $user $database
  its console         PGPASSWORD=$password psql -h 127.0.0.1 -p $port -U $user pgbouncer -c 'SHOW POOLS'
  PostgreSQL itself   PGPASSWORD=$password psql -h 127.0.0.1 -p $pg_port -U $user $database
  load                PGPASSWORD=$password $bin/pgbench -i -h 127.0.0.1 -p $port -U $user $database
                      PGPASSWORD=$password $bin/pgbench -c 50 -T 10 -h 127.0.0.1 -p $port -U $user $database
Files are in $dir. Ctrl-C ends everything and deletes them.

TEXT
}

[[ $port =~ ^[0-9]+$ ]] && [ "$port" -ge 1 ] && [ "$port" -le 65535 ] || die "PORT=$port is no port number"
! listening "$port" || die "port $port is taken, by another pooler perhaps; choose one: make run PORT=7432"
scripts/deps.sh
bin=$(pg_bin)
build
prepare
start_postgres
write_config
start_pooler
say_what_to_try
wait "$pooler_pid" || die "the pooler ended, see its log above"
