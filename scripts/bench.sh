#!/usr/bin/env bash
# bench.sh: pgweir beside PgBouncer, in load and memory; see benches/README.md.
#   PGBOUNCER  the PgBouncer to compare with (Debian's, installed if it is missing)
#   WORKERS    pgweir's setting `workers` (1: as many as PgBouncer has)
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

scripts/deps.sh bench
cargo build --release --locked
PGBIN=$(pg_bin) PGWEIR_WORKERS=${WORKERS:-1} exec benches/side_by_side.py \
    --load 32/8 --load 200/20 --logins 16 --idle 10000 \
    "pgbouncer=${PGBOUNCER:-/usr/sbin/pgbouncer}" "pgweir=$(target_dir)/release/pgweir"
