#!/usr/bin/env bash
# fuzz.sh: fuzzes each decoder for TIME seconds (60), or the one named by TARGET. Beginning with the seeds; what it finds
# to be new is kept in fuzz/corpus/, an input that fails in fuzz/artifacts/.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

time=${TIME:-60}
command -v cargo-fuzz >/dev/null || die "cargo-fuzz is missing: cargo install cargo-fuzz --locked"
cargo +nightly --version >/dev/null 2>&1 || die "the nightly toolchain is missing: rustup toolchain install nightly"

cd fuzz
for file in targets/*.rs; do
    target=$(basename "$file" .rs)
    if [ -n "${TARGET:-}" ] && [ "$TARGET" != "$target" ]; then
        continue
    fi
    mkdir -p "corpus/$target"
    echo "fuzzing $target for $time s" >&2
    # What allocates far more than its input has bytes is a failure, too.
    cargo +nightly fuzz run --fuzz-dir . "$target" "corpus/$target" "seeds/$target" -- \
        -max_total_time="$time" -timeout=10 -malloc_limit_mb=64 -rss_limit_mb=1024 -verbosity=0 -print_final_stats=1
done
