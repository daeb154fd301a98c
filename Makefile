# `make run` and `make test` set everything up by themselves: a virtual environment in .venv and the build in place.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml setup.cfg $(shell find memcache_shm -name '*.pyx' -o -name '*.pxd' -o -name '*.h')
ARGS ?= 1024 256
PYTEST_ARGS ?=
TORTURE_S ?= 600
export PYTHON

.PHONY: help run test lint types bench bench-memory crowd debug torture clean

help:
	@echo "make run      build, then serve a table of 1024 elements of 256 bytes on 127.0.0.1:11211 (ARGS=... for other options)"
	@echo "make test     build, then run the tests"
	@echo "make lint     ruff and cython-lint          make types    mypy --strict and stubtest"
	@echo "make bench    compare with memcached, redis and lmdb in one run"
	@echo "make bench-memory  the same of memory: what fits into it, and what making room costs, beside memcached"
	@echo "make crowd    64 clients at once, each reply compared with the one that is due (CROWD_ARGS=...)"
	@echo "make debug    build with invariant checks, then run the tests"
	@echo "make torture  the long runs (TORTURE_S=$(TORTURE_S))"
	@echo "make clean    remove the build and .venv"

$(BIN)/python:
	@scripts/require
	$(PYTHON) -m venv $(VENV)

# The build, release flavour, by the interpreter's own flags (CFLAGS would take the place of all of them). The compiler's output is
# shown only when it fails. The stamp is as old as the build's beginning, so that a source edited meanwhile is newer.
$(VENV)/built: $(SOURCES) | $(BIN)/python
	@scripts/require
	@echo "building (about a minute) ..."; touch $@.begun
	@$(BIN)/pip install -q --disable-pip-version-check -e . >$(VENV)/build.log 2>&1 || { cat $(VENV)/build.log; exit 1; }
	@mv $@.begun $@; rm -f $(VENV)/built-debug

$(VENV)/built-debug: $(SOURCES) | $(BIN)/python
	@scripts/require
	@echo "building with invariant checks ..."
	@touch $(SOURCES); touch $@.begun
	@CFLAGS="-O1 -g -DMEMCACHE_SHM_DEBUG" $(BIN)/pip install -q --disable-pip-version-check -e . >$(VENV)/build.log 2>&1 || { cat $(VENV)/build.log; exit 1; }
	@mv $@.begun $@; rm -f $(VENV)/built

$(VENV)/extras-%: pyproject.toml | $(BIN)/python
	@$(BIN)/python -c "import tomllib" 2>/dev/null || $(BIN)/pip install -q --disable-pip-version-check tomli
	@$(BIN)/python scripts/extras.py $* | $(BIN)/pip install -q --disable-pip-version-check -r /dev/stdin
	@touch $@

run: $(VENV)/built
	$(BIN)/python -m memcache_shm $(ARGS)

test: $(VENV)/built $(VENV)/extras-test
	@scripts/require test
	$(BIN)/python -m pytest -n 5 -m "not torture" $(PYTEST_ARGS)

lint: $(VENV)/extras-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/cython-lint --max-line-length=140 memcache_shm

types: $(VENV)/built $(VENV)/extras-lint
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest $$($(BIN)/python scripts/extras.py --stubs) --ignore-disjoint-bases --allowlist .ci/stubtest-allow --ignore-unused-allowlist

bench: $(VENV)/built $(VENV)/extras-bench
	@scripts/require bench
	$(BIN)/python scripts/bench.py $(BENCH_ARGS)

bench-memory: $(VENV)/built $(VENV)/extras-bench
	@scripts/require bench-memory
	$(BIN)/python scripts/bench_memory.py $(BENCH_ARGS)

crowd: $(VENV)/built
	$(BIN)/python scripts/crowd.py $(CROWD_ARGS)

# Scribbled memory breaks the invariants that this build ends the process for.
debug: $(VENV)/built-debug $(VENV)/extras-test
	@scripts/require test
	$(BIN)/python -m pytest -n 5 -m "not torture" --ignore=tests/storage/test_scribbles.py $(PYTEST_ARGS)

torture: $(VENV)/built $(VENV)/extras-test $(VENV)/extras-lint
	@scripts/require test
	@echo "a writer killed after every instruction:"; PYTHONPATH=tests $(BIN)/python -m torture.stepping
	@echo "... while somebody listens to the feed:"; PYTHONPATH=tests $(BIN)/python -m torture.stepping --listened
	@echo "a reader interleaved with a writer:"; PYTHONPATH=tests $(BIN)/python -m torture.reading
	@echo "either side of a channel killed after every instruction:"; PYTHONPATH=tests $(BIN)/python -m torture.channels
	@echo "one store left out or misplaced at a time:"; $(BIN)/python scripts/mutate.py
	TORTURE_S=$(TORTURE_S) $(BIN)/python -m pytest -m torture --timeout=0 $(PYTEST_ARGS)

clean:
	rm -rf build dist *.egg-info $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find memcache_shm \( -name '*.so' -o -name '*.c' -o -name __pycache__ \) -prune -exec rm -rf {} +
