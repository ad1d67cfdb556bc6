# `make run` serves the default model; `make test` runs every test. Both set up what they need.
SHELL := /bin/bash
.DELETE_ON_ERROR:
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(HOME)/.cargo/bin:$(PATH)
RUST := rust/Cargo.toml rust/Cargo.lock $(shell find rust -name '*.rs' -not -path '*/target/*') $(wildcard rust/*/Cargo.toml)
PYTHON ?= $(shell scripts/find-python)
HOST ?= 127.0.0.1
PORT ?= 8000
MODEL ?= smollm2
ARGS ?=

.PHONY: help run test test-arm test-memory lint format lock services clean

help: ## what can be done here
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 16

run: $(VENV)/serve.stamp ## serve the default model on http://127.0.0.1:8000 (PORT=, MODEL=, ARGS=)
	@exec $(BIN)/penstock serve $(MODEL) --host $(HOST) --port $(PORT) $(ARGS)

test: $(VENV)/dev.stamp services ## run all tests (ARGS= goes to pytest)
	@[ -n "$(ARGS)" ] || cargo test --quiet --locked --manifest-path rust/Cargo.toml --workspace
	@$(BIN)/python -m pytest --cov --cov-report= $(ARGS)

test-arm: ## run the Rust tests for Arm under an emulator
	@scripts/test-arm

test-memory: ## run the Rust tests of the kernels under Valgrind
	@scripts/test-memory

lint: $(VENV)/dev.stamp ## style, types and the order of the rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	cargo fmt --check --manifest-path rust/Cargo.toml --all
	cargo clippy --quiet --locked --manifest-path rust/Cargo.toml --workspace --all-targets -- -D warnings

format: $(VENV)/dev.stamp ## rewrite the code in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	cargo fmt --manifest-path rust/Cargo.toml --all

lock: $(VENV)/build.stamp ## pin the dependencies again
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	  --custom-compile-command 'make lock' --no-annotate pyproject.toml -o requirements/serve.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --extra encoders --extra grpc --extra lab --extra ray --extra torch --group dev \
	  --custom-compile-command 'make lock' --no-annotate -c requirements/serve.txt pyproject.toml -o requirements/dev.txt

services: ## what the tests use beyond Python: Node, Chromium
	@scripts/services

clean: ## remove what make made
	rm -rf $(VENV) build dist rust/target src/penstock/_native*.so .mypy_cache .pytest_cache .ruff_cache tests/npm/node_modules

$(VENV)/build.stamp: requirements/build.txt
	@test -n "$(PYTHON)" || { scripts/find-python --explain; exit 1; }
	@echo "penstock: making a virtual environment in $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV) || { echo "penstock: Python's venv module is missing: apt-get install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/build.txt
	@touch $@

$(VENV)/requirements.stamp: requirements/serve.txt $(VENV)/build.stamp
	@echo "penstock: installing what serving needs"
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --compile-bytecode --require-hashes -r $<
	@touch $@

$(VENV)/serve.stamp: pyproject.toml $(RUST) $(VENV)/requirements.stamp
	@scripts/find-rust
	@echo "penstock: building the native runner (a minute the first time)"
	@PATH="$(CURDIR)/$(BIN):$$PATH" VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/dev.stamp: requirements/dev.txt $(VENV)/serve.stamp
	@echo "penstock: installing what the tests need"
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --require-hashes -r $<
	@touch $@
