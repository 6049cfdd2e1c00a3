#!/usr/bin/env bash
# deps.sh [lint|bench|instructions|test]: installs what the build (linting, measuring, counting instructions, the tests
# with the drivers of other languages) needs and the machine lacks.
# Says nothing and needs no privileges when all is there.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

# Exits with a message when cargo is missing or older than the workspace allows.
check_cargo() {
    local wanted found
    command -v cargo >/dev/null || die "cargo is missing: install Rust with rustup"
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    found=$(cargo --version | cut -d ' ' -f 2)
    [ "$(printf '%s\n' "$wanted" "$found" | sort -V | head -n 1)" = "$wanted" ] ||
        die "cargo $found is too old, pgweir needs $wanted or newer: rustup update stable"
}

# apt's pages of output are shown only when it fails.
install_packages() {
    local log
    command -v apt-get >/dev/null ||
        die "please install by hand (only Debian's apt-get is known here): $*"
    echo "installing $*" >&2
    log=$(mktemp)
    # The tests start directories of their own; the system's would only take the port.
    if ! { echo 'slapd slapd/no_configuration boolean true' | as_root debconf-set-selections &&
        as_root apt-get update -q &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"; } >"$log" 2>&1; then
        cat "$log" >&2
        rm "$log"
        die "could not install $*"
    fi
    rm "$log"
}

check_cargo
packages=()
command -v cc >/dev/null || packages+=(gcc libc6-dev)
[ -e /usr/include/security/pam_appl.h ] || packages+=(libpam0g-dev)
pg_bin >/dev/null || packages+=(postgresql)
command -v psql >/dev/null || packages+=(postgresql-client)
if [ "${1:-}" = bench ]; then
    command -v python3 >/dev/null || packages+=(python3)
    command -v openssl >/dev/null || packages+=(openssl)
    [ -n "${PGBOUNCER:-}" ] || [ -x /usr/sbin/pgbouncer ] || packages+=(pgbouncer)
    # For system calls; where perf may not count, or is of another kernel, strace does.
    command -v perf >/dev/null || command -v strace >/dev/null || packages+=(strace)
fi
if [ "${1:-}" = instructions ]; then
    command -v valgrind >/dev/null || packages+=(valgrind)
fi
if [ "${1:-}" = test ]; then
    [ -x /usr/sbin/slapd ] || packages+=(slapd)
    compgen -G '/usr/lib/*/libpam_wrapper.so' >/dev/null || packages+=(libpam-wrapper)
    # Debian has the module, but not what it makes environments with, in a package of its own.
    python3 -c 'import ensurepip' 2>/dev/null || packages+=(python3-venv)
    command -v npm >/dev/null || packages+=(nodejs npm)
    command -v javac >/dev/null || packages+=(default-jdk-headless)
    [ -e /usr/share/java/postgresql.jar ] || packages+=(libpostgresql-jdbc-java)
fi
[ ${#packages[@]} = 0 ] || install_packages "${packages[@]}"

if [ "${1:-}" = lint ]; then
    cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
    cargo clippy --version >/dev/null 2>&1 || rustup component add clippy
fi
