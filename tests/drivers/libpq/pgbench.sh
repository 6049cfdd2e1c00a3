#!/usr/bin/env bash
# pgbench.sh URL: pgbench with prepared statements, twenty clients; what it processed and what it left in the tables.
# A thread for each client: one that waits for the answer to its Parse blocks its thread,
# and with it those who have a server. The random numbers are the same in every run, and what they add up to is.
set -euo pipefail
url=$1
dir=$(mktemp -d "${TMPDIR:-/tmp}/pgweir-pgbench.XXXXXX")
trap 'rm -rf "$dir"' EXIT

# Everything but times and names of files.
run() {
    echo "# pgbench $*"
    pgbench -n -M prepared -c 20 -j 20 --random-seed=42 "$@" "$url" 2>"$dir/errors" >"$dir/out" || echo "exit code $?"
    grep -E '^number of (transactions|failed)|scripts? [0-9]+:|failed' "$dir/out" || true
    grep -o 'ERROR: .*' "$dir/errors" | sort | uniq -c || true
}

ask() { psql -X -At -d "$url" -c "$1"; }

left() {
    ask "select count(*), sum(abalance), md5(string_agg(abalance::text, ',' order by aid)) from pgbench_accounts"
    ask "select sum(bbalance), (select sum(tbalance) from pgbench_tellers), (select sum(delta) from pgbench_history),
         (select count(*) from pgbench_history) from pgbench_branches"
}

script() { cat >"$dir/$1" && cd "$dir"; }

# One transcript for all.
echo '== client 19'
pgbench -i -q -s 2 "$url" >"$dir/out" 2>&1 || cat "$dir/out"
run -t 50
left
run -t 200 -S
run -t 50 -N -b select-only
left

script pipeline.sql <<'SQL'
\set aid random(1, 200000)
\set delta random(-500, 500)
\startpipeline
begin;
update pgbench_accounts set abalance = abalance + :delta where aid = :aid;
select abalance from pgbench_accounts where aid = :aid;
insert into pgbench_history (tid, bid, aid, delta, mtime) values (1, 1, :aid, :delta, now());
commit;
select abalance from pgbench_accounts where aid = :aid;
\endpipeline
select 1 + :delta as next \gset
select :next;
SQL
run -t 50 -f pipeline.sql
left

script failing.sql <<'SQL'
\set delta random(1, 500)
begin;
update pgbench_accounts set abalance = abalance + :delta where aid = :client_id + 1;
select 1 / (:delta::int - :delta::int);
commit;
SQL
run -t 5 -f failing.sql
left

script many.sql <<'SQL'
\set client :client_id
select 1 + :client;
select 2 + :client, :client_id;
select 3 + :client, 'x';
select * from generate_series(1, 100) i where i > :client;
SQL
run -t 50 -f many.sql -C
run -t 100 -f many.sql
