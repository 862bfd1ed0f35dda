# `make demo` and `make test` do everything from a bare Debian 12 or 13 with Rust; the others are for daily work.

export PATH := $(HOME)/.cargo/bin:$(PATH)

.DEFAULT_GOAL := build
.PHONY: help build qemu demo test unit-tests fmt clippy doc clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

build: ## ktracer, ktreplay and the plugin, in target/release
	cargo build --release --workspace

qemu: ## install what is missing, and build the patched QEMU for `ktracer record --patched` (some 6 minutes, once)
	scripts/setup.sh demo
	cargo build --release --workspace
	qemu-patches/build.sh --plugin "$${CARGO_TARGET_DIR:-target}/release/libktracer.so"

demo: ## install what is missing, build, record U-Boot, and go backwards through it in gdb
	scripts/setup.sh demo
	cargo build --release --workspace
	scripts/demo.sh

test: ## install what is missing, check format and lints, build (the patched QEMU too), and run all tests
	scripts/setup.sh test
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	$(MAKE) qemu
	qemu-patches/check.sh
	cargo test --workspace

unit-tests: ## the tests of the libraries and programs alone, without QEMU or gdb set-up
	cargo test --workspace --lib --bins

fmt: ## format all Rust code
	cargo fmt --all

clippy: ## lints, as `make test` wants them
	cargo clippy --workspace --all-targets -- -D warnings

doc: ## the libraries' documentation, in target/doc
	cargo doc --workspace --no-deps

clean: ## remove what was built (the firmware and QEMU below ~/.cache/ktracer stay)
	cargo clean
