# `make` alone lists the targets.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DATA_DIR ?= data

NPM_FOLDERS := examples/clients/node examples/clients/micropython/host tests/aedes

.PHONY: help setup run test proof soak coverage check bench demo clean lock footprint system-packages npm-packages

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

setup: $(STAMP) system-packages npm-packages ## create .venv from the lock file and install what the tests need

# The tests talk to real third-party clients and verifiers; Debian packages bring them when we may install.
# RUNLEVEL=1: none of them shall start a service of its own.
system-packages:
	@missing=; \
	for pair in mosquitto:mosquitto mosquitto_rr:mosquitto-clients openssl:openssl certtool:gnutls-bin curl:curl softhsm2-util:softhsm2 \
	  jq:jq shellcheck:shellcheck gcc:gcc g++:g++ node:nodejs npm:npm rabbitmq-server:rabbitmq-server; do \
	  PATH=$$PATH:/usr/sbin command -v $${pair%%:*} >/dev/null 2>&1 || missing="$$missing $${pair#*:}"; done; \
	for pair in mosquitto.h:libmosquitto-dev mbedtls/gcm.h:libmbedtls-dev jsmn.h:libjsmn-dev; do \
	  [ -e /usr/include/$${pair%%:*} ] || missing="$$missing $${pair#*:}"; done; \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
	    apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing >/dev/null; \
	  else echo "note: Debian packages are missing ($$missing ): the tests that need them are left out"; fi; fi

# Two of the example clients and a broker of the tests run on Node; nothing of it is needed to run the provisioner.
npm-packages: system-packages
	@for folder in $(NPM_FOLDERS); do \
	  if [ $$folder/node_modules/.package-lock.json -nt $$folder/package-lock.json ]; then continue; fi; \
	  if command -v npm >/dev/null 2>&1; then (cd $$folder && npm ci --silent --no-audit --no-fund); \
	  else echo "note: npm is missing: the tests of $$folder are left out"; fi; done

run: $(STAMP) ## set up and start the provisioner on the embedded default
	$(BIN)/provisioner --data-dir $(DATA_DIR) serve

demo: $(STAMP) ## 200 simulated devices get their credentials, with a live display
	$(BIN)/provisioner demo

test: setup ## set up and run the whole test-suite
	$(BIN)/python -m pytest -q -n 3

proof: setup ## prove what needs many tries: seeds, kills, power cuts, hostile input; report in build/
	PROOF_SCALE=ci $(BIN)/python -m pytest -q -n 2 --timeout 3000 tests/proof
	$(BIN)/python -m tests.proof

soak: setup ## the same for hours
	PROOF_SCALE=soak $(BIN)/python -m pytest -q -n 2 --timeout 0 tests/proof
	$(BIN)/python -m tests.proof

# What drives the two rooms; the other tests start programs and brokers, and add nothing here but time.
COVERING := tests/provisioner tests/certs tests/simulation tests/hostile tests/broker/http tests/broker/cli tests/broker/sinks \
  tests/broker/test_authority_folder.py tests/broker/test_mail.py tests/broker/test_testing.py

coverage: setup ## branches of provisioner/ and certs/ that the tests pass, fails under 95 %
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest -q -n 3 $(COVERING)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

check: $(STAMP) ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(STAMP) ## hand-overs beside the null endpoint, table and plot in build/
	$(BIN)/python -m tests.bench
	$(BIN)/python -m tests.bench.imports

footprint: setup ## what the example clients cost, into their README (needs gcc-arm-none-eabi)
	$(BIN)/python -m tests.clients.footprint

lock: ## renew requirements.lock from pyproject.toml (needs uv in .venv)
	$(BIN)/uv pip compile pyproject.toml --extra plots --group dev --universal --python-version 3.11 --upgrade \
	  --generate-hashes --no-annotate --custom-compile-command "make lock" --quiet -o requirements.lock

clean: ## remove everything that was made
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage .coverage.*
