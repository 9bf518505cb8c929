# The commands that a developer needs. `make` alone lists them. Each target does its own set-up, once.
#
#   VENV=somewhere/else   keep the virtual environment there
#   PYTHON=python3.12     create it with this interpreter
#   ARGS="-k bald -x"     more arguments for pytest (test…), baal-ray (demo) or uv (lock)

SHELL := bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV ?= .venv
PYTHON ?=
ARGS ?=
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
UV := $(or $(shell command -v uv 2>/dev/null),$(BIN)/uv)
ENSURE_UV = test -x "$(UV)" || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv

.PHONY: help
help: ## list these targets
	@echo "make <target>, where target is one of"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14

.PHONY: demo
demo: $(INSTALLED) ## run active learning on real digits on this machine, in a few minutes
	$(BIN)/baal-ray demo $(ARGS)

.PHONY: test
test: test-fast test-integration ## run every test

.PHONY: test-fast
test-fast: $(INSTALLED) ## run the tests that need no Ray cluster, in two minutes
	$(BIN)/pytest -m "not integration" -n 2 --dist worksteal $(ARGS)

# Tests with clusters of their own mostly wait for them, so they run beside the others.
.PHONY: test-integration
test-integration: $(INSTALLED) ## run the tests on a real local Ray cluster and servers, a quarter of an hour
	@log=$$(mktemp); \
	$(BIN)/pytest -m "integration and own_cluster" $(ARGS) >$$log 2>&1 & beside=$$!; \
	$(BIN)/pytest -m "integration and not own_cluster" $(ARGS); status=$$?; \
	wait $$beside || status=$$?; cat $$log; rm -f $$log; exit $$status

.PHONY: test-gpu
test-gpu: $(INSTALLED) ## run the tests that need a GPU; they are skipped where there is none
	$(BIN)/pytest -m gpu $(ARGS)

.PHONY: test-stores
test-stores: $(INSTALLED) ## run the tests of object stores on a real Ceph gateway, which Debian packages
	tests/support/start_radosgw.sh $(BIN)/pytest tests/storage/test_files.py tests/integration/test_stores_faults.py \
	  tests/manifest/test_table.py::test_on_an_object_store_the_environment_is_enough \
	  tests/integration/test_stores.py $(ARGS)

# VENV's Python runs the tests. For the others, only the resolution is tried. The test tools come from requirements.lock:
# only what users install is as old as it may be. baal and kubernetes are left out with their tests, because they need
# newer versions of numpy and pydantic.
.PHONY: test-lowest
test-lowest: | $(BIN)/python ## run the fast tests on the oldest dependencies allowed, in VENV-lowest: several GB
	@$(ENSURE_UV)
	for python in 3.11 3.12 3.13; do \
	  $(UV) pip compile --quiet --resolution lowest-direct --python-version $$python --extra gpu --extra report \
	    --extra s3 pyproject.toml >/dev/null || exit 1; \
	done
	$(BIN)/python -m venv --clear $(VENV)-lowest
	$(UV) pip install --quiet --python $(VENV)-lowest/bin/python --resolution lowest-direct \
	  --editable ".[gpu,report,s3]" \
	  $$(sed -nE 's/^moto==/moto[s3,server]==/p; /^(hypothesis|pytest|pytest-timeout|pytest-xdist)==/p' requirements.lock)
	$(VENV)-lowest/bin/pytest -m "not integration" -n 2 --dist worksteal --ignore tests/test_raycronjob.py \
	  --deselect tests/test_acquisition.py::test_agrees_with_baal $(ARGS)

.PHONY: coverage
coverage: $(INSTALLED) ## run the fast tests, and fail if they leave more of the code unrun than pyproject.toml allows
	$(BIN)/pytest -m "not integration" -n 2 --dist worksteal --cov $(ARGS)

.PHONY: browser
browser: ## install a headless Chromium (100 MB) for the tests of pages; needs root, on Debian or a derivative
	command -v chromium-headless-shell chromium chromium-browser google-chrome >/dev/null || \
	  (apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium-headless-shell)

.PHONY: check
check: $(INSTALLED) ## check formatting, lint, types, import layers and spelling; change nothing
	@failed=; for tool in "ruff format --check ." "ruff check ." mypy lint-imports codespell; do \
	  echo "$$tool"; $(BIN)/$$tool || failed="$$failed, $$tool"; \
	done; \
	if [ -n "$$failed" ]; then echo "Failed: $${failed#, }" >&2; exit 1; fi

.PHONY: fix
fix: $(INSTALLED) ## format the code, and fix what the linter can fix
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

.PHONY: docs
docs: $(INSTALLED) ## build the documentation as a site, in site/, without a network
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# rfc3987-syntax, which baal pulls in through Jupyter, is left out: importing it costs each Ray process
# a second.
.PHONY: lock
lock: | $(BIN)/python ## pin the dependencies of pyproject.toml in requirements.lock (ARGS=--upgrade for newer ones)
	@$(ENSURE_UV)
	$(UV) pip compile --quiet --universal --python-version 3.11 --all-extras --no-emit-index-url \
	  --no-emit-find-links --no-annotate --no-emit-package rfc3987-syntax $(ARGS) pyproject.toml -o requirements.lock

.PHONY: dist
dist: $(INSTALLED) ## build what is released, and copied to a cluster's machines: sdist, wheel and lock, in dist/
	rm -rf dist
	$(UV) build --quiet --python $(BIN)/python --no-build-isolation --out-dir dist
	rm -f dist/.gitignore
	cp requirements.lock dist/

$(INSTALLED): pyproject.toml requirements.lock | $(BIN)/python
	@$(ENSURE_UV)
	@echo "Installing requirements.lock into $(VENV): several GB, a few minutes the first time."
	$(UV) pip install --quiet --compile-bytecode --python $(BIN)/python --no-deps -r requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

$(BIN)/python:
	@for python in $(PYTHON) python3.11 python3.12 python3.13 python3; do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "Creating $(VENV) with $$python"; exec "$$python" -m venv "$(VENV)"; \
	  fi; \
	done; \
	echo "baal_ray needs Python 3.11 or newer, and PATH has none." \
	     "Install it, or name an interpreter: make PYTHON=/path/to/python3.11" >&2; exit 1
