#!/usr/bin/env bash
# instructions.sh: fails where the relay's core takes more instructions than benches/micro/instructions.tsv says.
#   UPDATE  1: writes the table instead
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/deps.sh instructions
options=()
[ "${UPDATE:-0}" = 0 ] || options+=(--update)
cargo run --release --locked --quiet -p pgweir-micro -- "${options[@]}"
