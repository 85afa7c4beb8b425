# Everything a developer or a newcomer runs. `make` alone lists it.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.setup
# torch: the CPU build where pip finds one. Another build is chosen by its version and pip's own settings, see README.
TORCH  ?= torch==2.13.0

.DEFAULT_GOAL := help
.PHONY: help setup setup-all proto format lint test test-all bench bench-full demo clean

help:  ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## make .venv with Cloister, its demo and its tests

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: $$($(PYTHON) --version) is too old, Python 3.11 or newer is needed (make PYTHON=python3.12 ...)"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
		|| { echo "error: Python has no venv module; on Debian or Ubuntu: apt install python3-venv"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (about 300 MB to download the first time with a CPU build of torch, some minutes on an ordinary line)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "$(TORCH)" -e '.[test]'
	@touch $@

setup-all: $(STAMP)  ## setup, and what lint and proto need
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,lint,proto]'

proto: setup-all  ## generate the gRPC code from the .proto files
	@$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. \
		attestation/service/attestation.proto fl_runtime/transport/federation.proto

format: setup-all  ## format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix-only --quiet .

lint: setup-all  ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: setup  ## unit, vectors, security and integration tests
	$(BIN)/pytest -q -n auto --dist loadfile -m "not slow" tests

test-all: setup  ## every test that this machine can run
	$(BIN)/pytest -q -n auto --dist loadfile tests

bench: setup  ## benchmarks, under 10 minutes
	@for file in tests/benchmarks/bench_*.py; do echo "== $$file"; $(BIN)/python -m tests.benchmarks.$$(basename $$file .py) || exit 1; done

bench-full: setup  ## benchmarks with the large sizes
	@echo "== bench_masks, large"; $(BIN)/python -m tests.benchmarks.bench_masks --words 100000000 --repeats 3
	@$(BIN)/python -m tests.benchmarks.bench_round --rounds 200

demo: setup  ## four sites train together on this machine, with a mock TEE
	@$(BIN)/cloister demo

clean:  ## remove what the targets made, .venv and runs
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
