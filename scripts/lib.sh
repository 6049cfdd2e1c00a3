# shellcheck shell=bash
# Shared by the scripts beside it: source it, do not run it.

die() {
    echo "$*" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "must be root, or have sudo, for: $*"
    fi
}

# Prints the folder of PostgreSQL's server programs (Debian keeps them out of PATH): $PGBIN if set,
# else the newest version found. Fails if there is none.
pg_bin() {
    local initdb
    if [ -n "${PGBIN:-}" ]; then
        echo "$PGBIN"
        return
    fi
    initdb=$(find /usr/lib/postgresql -path '*/bin/initdb' 2>/dev/null | sort -V | tail -n 1)
    [ -n "$initdb" ] || initdb=$(command -v initdb) || return 1
    dirname "$initdb"
}

# Prints the folder that cargo builds in.
target_dir() {
    cargo metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/'
}
