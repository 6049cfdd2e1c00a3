# The commands a developer needs; each works from a clean checkout. See README.md.

# The programs with Rust drivers that the tests run, a workspace of their own.
RUST_DRIVERS = tests/drivers/rust/Cargo.toml

.PHONY: help run test soak leaks lint fmt bench micro instructions fuzz deny

help:
	@echo 'make run    PostgreSQL with pgweir in front of it, on PORT (6432); Ctrl-C ends both'
	@echo 'make test   all tests, against real PostgreSQL servers that they start themselves'
	@echo 'make soak   a million random protocol steps and a minute of reloads, or PGWEIR_STEPS=n, PGWEIR_SEED=n to repeat a run'
	@echo 'make leaks  100,000 connections and 10 minutes of load, or PGWEIR_CONNECTS=n, PGWEIR_MIXED_SECONDS=n'
	@echo 'make lint   formatting and clippy'
	@echo 'make fmt    format the code'
	@echo 'make bench  speed and memory beside PgBouncer: the one of Debian, or PGBOUNCER=path; QUICK=1 for a look, see benches/'
	@echo 'make micro  how long single parts take (criterion); PART=name for some'
	@echo 'make instructions  whether the relay takes more instructions than recorded; UPDATE=1 records them'
	@echo 'make fuzz   each decoder and the relay fuzzed for TIME seconds (60), or the TARGET named (needs cargo-fuzz)'
	@echo 'make deny   licences, sources and advisories of the dependencies (needs cargo-deny)'

run:
	@scripts/run.sh

test:
	@scripts/test.sh

soak:
	@scripts/deps.sh
	PGWEIR_STEPS=$${PGWEIR_STEPS:-1000000} cargo test --test suite random_steps::clients -- --nocapture
	PGWEIR_RELOAD_SECONDS=$${PGWEIR_RELOAD_SECONDS:-60} cargo test --test suite reloads

leaks:
	@scripts/deps.sh
	PGWEIR_CONNECTS=$${PGWEIR_CONNECTS:-100000} PGWEIR_MIXED_SECONDS=$${PGWEIR_MIXED_SECONDS:-600} \
		cargo test --test suite leaks:: -- --nocapture --test-threads 1

lint:
	@scripts/deps.sh lint
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo fmt --check --manifest-path $(RUST_DRIVERS) -- --config-path .
	cargo clippy --manifest-path $(RUST_DRIVERS) --target-dir target/drivers/rust -- -D warnings

fmt:
	cargo fmt --all
	cargo fmt --manifest-path $(RUST_DRIVERS) -- --config-path .

bench:
	@scripts/bench.sh

micro:
	cargo bench -p pgweir-micro --bench parts -- $(PART)

instructions:
	@scripts/instructions.sh

fuzz:
	@scripts/fuzz.sh

deny:
	@command -v cargo-deny >/dev/null || { echo 'cargo-deny is missing: cargo install cargo-deny --locked' >&2; exit 1; }
	cargo deny check
