#!/usr/bin/env bash
# bench.sh: pgweir beside PgBouncer; see benches/README.md. The report goes to standard output and to target/bench.md.
#   PGBOUNCER  the PgBouncer to compare with (Debian's, installed if it is missing)
#   PGWEIR     the pgweir to measure (made by cargo build --release)
#   WORKLOADS  those named, with commas between them; WORKLOADS=list prints them (all)
#   ROUNDS     (5)
#   SECS       of load in each round (6)
#   WORKERS    of pgweir: a number, or auto (1, as many as PgBouncer has)
#   QUICK      1: a look at everything, in three minutes
#   OPTIONS    further options of benches/side_by_side.py
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

scripts/deps.sh bench
target=$(target_dir)
if [ -z "${PGWEIR:-}" ]; then
    cargo build --release --locked
    PGWEIR=$target/release/pgweir
fi
options=(--out "$target/bench.md")
[ -z "${WORKLOADS:-}" ] || options+=(--workloads "$WORKLOADS")
[ -z "${ROUNDS:-}" ] || options+=(--rounds "$ROUNDS")
[ -z "${SECS:-}" ] || options+=(--seconds "$SECS")
[ -z "${WORKERS:-}" ] || options+=(--workers "$WORKERS")
[ "${QUICK:-0}" = 0 ] || options+=(--quick)
# shellcheck disable=SC2206
options+=(${OPTIONS:-})
PGBIN=$(pg_bin) exec benches/side_by_side.py "${options[@]}" \
    "pgbouncer=${PGBOUNCER:-/usr/sbin/pgbouncer}" "pgweir=$PGWEIR"
