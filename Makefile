# `make` alone lists the targets. Builds run as the caller; what needs root (network
# namespaces, Debian packages) goes through scripts/as-root, which is sudo or nothing.

SHELL := /bin/bash
.DEFAULT_GOAL := help
# cargo uses all processors by itself, and the order of prerequisites means something.
.NOTPARALLEL:

# rustup's toolchain before Debian's, also in a shell that was opened before rustup
# came; the sbin directories, which a user's PATH lacks; tools that were built here.
export PATH := $(or $(CARGO_HOME),$(HOME)/.cargo)/bin:$(PATH):/usr/local/sbin:/usr/sbin:/sbin:$(CURDIR)/.tools/bin

# Options for every cargo call that resolves dependencies; .ci/run passes --locked.
CARGO_FLAGS ?=
# `make demo DEMO_FLAGS=…`: options of `l2isolate-lab demo`.
DEMO_FLAGS ?=
# Options of `l2isolate-lab neutron up`, such as `--release 29`.
NEUTRON_FLAGS ?=
# `make bench BENCH_RUNS=…`: how often each benchmark is run.
BENCH_RUNS ?= 3
# `make fuzz FUZZ_SECONDS=…`: how long each target is run.
FUZZ_SECONDS ?= 10
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)

.PHONY: help
help: ## this list
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/\1|\2/p' $(firstword $(MAKEFILE_LIST)) | \
		while IFS='|' read -r target text; do printf 'make %-13s %s\n' "$$target" "$$text"; done

.PHONY: setup
setup: ## check the machine, install missing Debian packages, start no service
	@scripts/setup

.PHONY: build
build: ## build all programs (development profile, into target/debug)
	cargo build $(CARGO_FLAGS) --workspace

# The development profile, shared with `make test`: here the build is what one waits for.
.PHONY: demo
demo: setup build ## the fabric on this machine: built up, shown, put to the test, taken down
	@scripts/as-root $(TARGET_DIR)/debug/l2isolate-lab demo $(DEMO_FLAGS)

.PHONY: neutron-up
neutron-up: setup build ## a real Neutron with database and broker in namespaces (docs/lab.md)
	@scripts/neutron-env
	@scripts/as-root $(TARGET_DIR)/debug/l2isolate-lab neutron up $(NEUTRON_FLAGS)

.PHONY: neutron-down
neutron-down: ## end it
	@scripts/as-root $(TARGET_DIR)/debug/l2isolate-lab neutron down

# The release profile: figures of a development build say nothing.
.PHONY: bench
bench: ## measure: attach, resync, filter, fabric, guest; one table of medians (docs/benchmarks.md)
	@scripts/setup bench
	cargo build $(CARGO_FLAGS) --release -p l2isolate -p l2isolate-lab
	@scripts/bench $(TARGET_DIR)/release/l2isolate-lab $(BENCH_RUNS)

.PHONY: bench-neutron
bench-neutron: ## measure a real Neutron and its agents, as one JSON object (docs/benchmarks.md)
	@scripts/setup bench
	@scripts/neutron-env
	cargo build $(CARGO_FLAGS) --release -p l2isolate -p l2isolate-lab
	@scripts/as-root $(TARGET_DIR)/release/l2isolate-lab bench neutron --json

.PHONY: bench-migrate
bench-migrate: ## measure live migration, also of a real guest, as one JSON object (docs/benchmarks.md)
	@scripts/setup bench
	@scripts/guest-image .tools/guest
	cargo build $(CARGO_FLAGS) --release -p l2isolate -p l2isolate-lab
	@scripts/as-root $(TARGET_DIR)/release/l2isolate-lab bench migrate --qemu --json

.PHONY: test
test: setup ## every test: unit, property, namespace and interop
	@scripts/test $(CARGO_FLAGS)

# Apart from `make test`: everything is built once more, with coverage counters.
.PHONY: fuzz
fuzz: ## fuzz what reads the kernel's bytes and the intent, FUZZ_SECONDS for each target
	@scripts/setup fuzz
	@scripts/fuzz $(FUZZ_SECONDS)

.PHONY: check
check: check-fmt check-clippy check-deny check-unit ## what a commit must pass, without root

.PHONY: check-tools
check-tools:
	@scripts/dev-tools

.PHONY: check-fmt
check-fmt: check-tools ## formatting
	cargo fmt --all --check

.PHONY: check-clippy
check-clippy: check-tools ## lints, warnings are errors
	cargo clippy $(CARGO_FLAGS) --workspace --all-targets -- -D warnings

.PHONY: check-deny
check-deny: check-tools ## licences, duplicate versions and origins of dependencies
	cargo deny $(CARGO_FLAGS) check licenses bans sources

.PHONY: check-unit
check-unit: ## tests of the code by itself, without namespaces
	cargo test $(CARGO_FLAGS) --workspace --lib --bins

.PHONY: audit
audit: check-tools ## known vulnerabilities in dependencies (online)
	cargo deny check advisories

.PHONY: clean
clean: ## remove what was built
	cargo clean
	rm -rf .tools
