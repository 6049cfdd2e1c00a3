#!/usr/bin/env bash
# pgbouncer-suite.sh CHECKOUT [pytest arguments]: runs the test suite of the PgBouncer checkout CHECKOUT against pgweir
# and prints how many tests passed, failed and were skipped. The checkout need not be built and is not changed.
#
#   scripts/pgbouncer-suite.sh ~/pgbouncer                           all of it
#   scripts/pgbouncer-suite.sh ~/pgbouncer -k 'limits or timeouts'   some
#   BOUNCER_EXE=/usr/sbin/pgbouncer scripts/pgbouncer-suite.sh ...   against PgBouncer, to compare
#
# pgweir is run with sqlstates = pgbouncer: psycopg, by which the tests know errors, names their class by their code.
#
# BOUNCER_EXE  the program to test; made by cargo build --release if not given
# JOBS         how many tests run at once (as many as there are processors)
# VENV         where the suite's Python packages are, or are installed to (in target/)
# PGBIN        where PostgreSQL's server programs are
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=scripts/lib.sh
. "$here/scripts/lib.sh"

[ $# -ge 1 ] || die "usage: $(sed -n '2s/^# //p' "$0" | cut -d : -f 1)"
[ -f "$1/test/conftest.py" ] || die "$1 is no checkout of PgBouncer: it has no test/conftest.py"
[ "$(id -u)" != 0 ] || die "PostgreSQL does not run as root: run this as an ordinary user"
checkout=$(cd "$1" && pwd)
shift
# Debian has sbin in root's PATH only; slapd is there.
PATH=$(pg_bin || die "PostgreSQL's server programs are missing: scripts/deps.sh installs them"):$PATH:/usr/sbin:/sbin
export PATH

if [ -z "${BOUNCER_EXE:-}" ]; then
    (cd "$here" && cargo build --release)
    BOUNCER_EXE=$(cd "$here" && target_dir)/release/pgweir
fi
venv=${VENV:-$(cd "$here" && target_dir)/pgbouncer-suite}
if [ ! -x "$venv/bin/pytest" ]; then
    python3 -m venv "$venv"
    # psycopg 3.3 forgets its statements on DEALLOCATE ALL by itself, which tests take for the pooler's doing.
    "$venv/bin/pip" install --quiet pytest pytest-asyncio pytest-timeout pytest-xdist filelock 'psycopg<3.3'
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r "$checkout/test" "$checkout/include" "$checkout/pyproject.toml" "$work"
# A copy: a build during the run does not change what is tested.
cp "$BOUNCER_EXE" "$work/bouncer"
# The suite asks a build of PgBouncer what it can do. The tests of LDAP need a server of OpenLDAP.
ldap=$(command -v slapd >/dev/null && echo yes || echo no)
printf '%s\n' 'tls_support = yes' "ldap_support = $ldap" >"$work/config.mak"

if grep -qs ' lo$' /proc/net/if_inet6; then
    export HAVE_IPV6_LOCALHOST=1
fi

export PGWEIR_SQLSTATES=pgbouncer
cd "$work/test"
status=0
# pytest's own form of tracebacks makes Python 3.11 fail on some of these tests, with an end of the whole run.
BOUNCER_EXE=$work/bouncer PYTHONDONTWRITEBYTECODE=1 LC_ALL=C.UTF-8 \
    "$venv/bin/pytest" -p no:cacheprovider -o asyncio_default_fixture_loop_scope=function \
    -n "${JOBS:-$(nproc)}" -rfE --tb=native "$@" | tee "$work/out" || status=$?
count() {
    tail -n 1 "$work/out" | grep -oE "[0-9]+ $1" | cut -d ' ' -f 1 || echo 0
}
echo "passed: $(count passed), failed: $(($(count failed) + $(count error))), skipped: $(count skipped)"
exit "$status"
