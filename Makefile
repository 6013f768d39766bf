# Every target works as the first command typed on a fresh clone: set-up is a prerequisite, never a step for you.
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.PHONY: install demo test test-ray test-all check sim oracle consistency bench proto requirements clean
.DEFAULT_GOAL := help

help:
	@echo "make demo      rows travel from a Postgres to two devices and back, in under a minute"
	@echo "make test      the whole test suite        make check    types, lint, import contracts"
	@echo "make test-ray  what runs a whole service, on the runtime ray"
	@echo "make test-all  what speaks to Postgres, on each supported major of it, and on both runtimes; then the long tests"
	@echo "make sim       the seeded simulator (SEED=, RUNS=, JOBS=) make bench    every benchmark"
	@echo "make oracle    devices with random shapes against Postgres (SEED=, RUNS=)"
	@echo "make consistency  the promises on the real thing, with faults (FAULT=, each: one by one; MINUTES=, DEVICES=, NPM=,"
	@echo "               SEED=, RECORD=yes)"
	@echo "make install   everything into .venv       make proto    regenerate the protobuf code"

install: $(STAMP)

$(STAMP): pyproject.toml requirements.txt
	test -x $(PY) || python3 -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $(STAMP)

demo: install
	$(VENV)/bin/syncline demo

# Two workers, a file at a time: each worker has its own Postgres. First everything on the newest one and the runtime
# local, then on the oldest what differs between them most (see tests/postgres_majors.py), and the same for the runtime
# ray, which the host's own tests (tests/conformance) run on in any case.
PYTEST := $(PY) -m pytest -n 2 --dist loadfile -q
test: install
	$(PYTEST)
	@echo "Postgres 14, the tests marked every_major:"
	SYNCLINE_TEST_POSTGRES=14 $(PYTEST) -m every_major tests/integration tests/e2e
	@echo "The runtime ray, the tests marked each_runtime:"
	SYNCLINE_TEST_RUNTIME=ray $(PYTEST) -m each_runtime tests/e2e

test-ray: install
	SYNCLINE_TEST_RUNTIME=ray $(PYTEST) tests/e2e tests/integration/test_docs_code.py
	$(PY) -m pytest -q -m slow_on_ray tests

test-all: install
	$(PY) -m tests.all_majors
	@echo "The long tests:"
	$(PY) -m pytest -q -m "long or slow_on_ray" tests

check: install
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/lint-imports
	$(VENV)/bin/mypy

SEED ?= 1
RUNS ?= 1000
JOBS ?= 1
sim: install
	$(PY) -m tests.sim --seed $(SEED) --runs $(RUNS) --jobs $(JOBS)

oracle: RUNS = 50
oracle: install
	$(PY) -m tests.oracle --seed $(SEED) --runs $(RUNS)

FAULT ?= kill
MINUTES ?= 1
DEVICES ?= 8
NPM ?= 2
consistency: install
	$(PY) -m tests.consistency --fault $(FAULT) --minutes $(MINUTES) --devices $(DEVICES) --npm $(NPM) --seed $(SEED) \
	  $(if $(RECORD),--record)

bench: install
	$(PY) -m benchmarks

proto: install
	$(PY) -m grpc_tools.protoc -I proto --python_out=proto --pyi_out=proto proto/syncline/proto/satellite.proto

requirements: pyproject.toml
	$(PY) -m pip install --quiet pip-tools
	$(PY) -m piptools compile --quiet --all-extras --generate-hashes --strip-extras --no-emit-index-url \
	  --no-emit-find-links --no-emit-trusted-host --no-emit-options --no-header --no-annotate --allow-unsafe \
	  --build-deps-for editable --output-file requirements.txt pyproject.toml

clean:
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
