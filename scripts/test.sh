#!/usr/bin/env bash
# test.sh: all tests. One that hangs makes it fail after TEST_TIMEOUT (15m); cargo names it after its first minute.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

limit=${TEST_TIMEOUT:-15m}
scripts/deps.sh test
scripts/drivers.sh
cargo test --workspace --no-run
# timeout takes its command out of the terminal's reach, so a Ctrl-C is passed on.
timeout --kill-after=10 "$limit" cargo test --workspace --no-fail-fast &
trap 'kill "$!" 2>/dev/null; exit 130' INT TERM HUP
status=0
wait "$!" || status=$?
case $status in
    124 | 137) die "the tests did not end within $limit" ;;
    *) exit "$status" ;;
esac
