# The one command file of the project: `make help` lists what it can do.
#
# Every target makes what it needs by itself; stamps under $(VENV)/.made say what is made already. Nothing outside the
# clone is touched, but for a browser, which is installed where the machine lets us.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

# The first Python on PATH that is new enough; say `make PYTHON=/path/to/python3.12 …` for another.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
VENV ?= .venv
CONSTRAINTS ?= constraints.txt

BIN := $(abspath $(VENV))/bin
MADE := $(VENV)/.made
EXTENSION := $(VENV)/share/jupyter/labextensions/mlbench
WAITING := $(addprefix tests/integration/,clusters faults sharing)
FRONT := $(shell find src style schema -type f 2>/dev/null) package.json tsconfig.json

export PATH := $(BIN):$(PATH)
export UV_PYTHON_DOWNLOADS := never
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# uv is fast; pip is there where uv cannot reach an index that only pip was told about.
define install
	if $(BIN)/uv pip install --python $(BIN)/python -c $(CONSTRAINTS) $(1); then :; \
	else echo "uv could not install this; trying pip." >&2; $(BIN)/python -m pip install -c $(CONSTRAINTS) $(1); fi
endef

.PHONY: help setup demo lab test check lint types layers docs bench clean

help: ## List the targets
	@grep -hE '^[a-z]+:.*## ' $(firstword $(MAKEFILE_LIST)) | awk -F ':.*## ' '{printf "  %-8s %s\n", $$1, $$2}'

setup: $(MADE)/install $(MADE)/browser ## Make .venv with everything in it, front end and browser included
	@echo "Ready. Next: make demo, or make lab."

demo: $(MADE)/install ## Run the example notebook and show its steps and what was recorded
	@mkdir -p build
	$(BIN)/mlbench run examples/flights.ipynb --output build/flights.ipynb
	@printf '\n%s\n' "See it in JupyterLab: make lab" "To use the commands above: source $(VENV)/bin/activate"

lab: $(MADE)/install ## Open the example in JupyterLab
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) --ServerApp.root_dir=examples examples/flights.ipynb

test: setup ## Run all tests: unit, contracts, repository, integration, journeys in a browser, front end
	@failed=""; \
	try() { echo "== $$1"; shift; "$$@" || failed="$$failed [$$*]"; }; \
	try "front end" npm test --silent; \
	try "journeys" $(BIN)/python -m tests.steady -c tests/journeys/pytest.ini tests/journeys; \
	mkdir -p build; \
	$(BIN)/python -m tests.steady $(WAITING) tests/unit tests/contracts tests/repository >build/beside.log 2>&1 & beside=$$!; \
	trap 'kill $$beside 2>/dev/null || true' EXIT; \
	try "integration" $(BIN)/python -m tests.steady tests/integration $(WAITING:%=--ignore=%); \
	try "integration that mostly waits, unit, contracts, repository" wait $$beside; cat build/beside.log; \
	[ -z "$$failed" ] || { echo "Failed:$$failed" >&2; exit 1; }

check: lint types layers docs test ## Everything that a change has to pass: what CI runs

lint: $(MADE)/install ## Look for mistakes and untidiness: ruff, eslint, prettier, stylelint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	npm run --silent eslint:check
	npm run --silent prettier:check
	npm run --silent stylelint:check

types: $(MADE)/install ## Check the types of both halves
	$(BIN)/mypy
	npm run --silent lint:types

layers: $(MADE)/install ## Check that imports point one way, in both halves
	$(BIN)/lint-imports
	@answer="$$(npm run --silent layers)" || { echo "$$answer"; exit 1; }; echo "$$answer"; \
	grep -qE '\([1-9][0-9]* modules' <<<"$$answer" || { echo "dependency-cruiser read no module." >&2; exit 1; }

docs: $(MADE)/install ## Check that the docs are complete, that their links lead somewhere and that their examples run
	$(BIN)/pytest tests/repository/test_docs.py tests/repository/test_doctests.py

bench: $(MADE)/install ## Measure the headline figures beside their peers
	$(BIN)/python -m benchmarks --table

clean: ## Remove what was built, and caches; .venv and node_modules stay
	rm -rf lib dist build coverage test-results mlbench/labextension .pytest_cache .mypy_cache .ruff_cache \
		.hypothesis .import_linter_cache .eslintcache .stylelintcache *.tsbuildinfo $(MADE)/bundle
	find mlbench tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +

# --- what the targets need -------------------------------------------------------------------------------------------

$(MADE)/venv:
	@[ -n "$(PYTHON)" ] || { echo "mlbench needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 …" >&2; exit 1; }
	[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	[ -x $(BIN)/uv ] || $(BIN)/python -m pip install --quiet -c $(CONSTRAINTS) uv
	@mkdir -p $(MADE) && touch $@

# The front end's tools live in both worlds: jupyter-builder is a Python package, and Node may come as one.
$(MADE)/tools: $(MADE)/venv hatch_build.py pyproject.toml $(CONSTRAINTS)
	$(call install,$$($(BIN)/python -c 'import tomllib; print(*tomllib.loads(open("pyproject.toml").read())["build-system"]["requires"])'))
	node="$$($(BIN)/python hatch_build.py)"; [ -z "$$node" ] || { $(call install,"$$node"); }
	@touch $@

node_modules/.made: package-lock.json | $(MADE)/tools
	npm ci --no-audit --no-fund
	@touch $@

$(MADE)/bundle: node_modules/.made $(FRONT)
	npm run --silent build
	@touch $@

# The extension is linked, so that a rebuilt bundle is what JupyterLab loads next. The link goes first: an installer
# that replaces the former version would follow it and delete what was built.
$(MADE)/install: $(MADE)/bundle pyproject.toml $(CONSTRAINTS) $(wildcard jupyter-config/*/* install.json)
	rm -rf $(EXTENSION)
	export SKIP_JUPYTER_BUILDER=1; $(call install,-e '.[dev]')
	rm -rf $(EXTENSION) && ln -s $(abspath mlbench/labextension) $(EXTENSION)
	@touch $@

$(MADE)/browser: $(MADE)/venv
	@if browser="$$(command -v chromium || command -v chromium-browser || command -v google-chrome)"; then \
		echo "Browser for the journeys: $$browser"; touch $@; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium && touch $@; \
	else \
		printf '%s\n' '' '*****************************************************************' \
			'  No Chromium here, and no right to install one. Everything works' \
			'  but the journeys, which are SKIPPED until you install chromium.' \
			'*****************************************************************' '' >&2; \
	fi
