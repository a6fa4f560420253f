# make demo   fresh machine: makes .venv, installs everything, starts all services, runs the three tasks, stops
# make test   the whole test suite; as root on Debian it installs the programs that tests need (Prometheus, Chromium)
# TORCH=cuda  torch with CUDA in place of its CPU build; TORCH_INDEX_URL a further index that it may come from
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev
export TORCH TORCH_INDEX_URL

.PHONY: demo test test-wheel check lint types contracts quality docs resolve install dev models clean

demo: $(STAMP)
	$(BIN)/semlink demo

test: $(DEV_STAMP)
	sh scripts/install_test_programs.sh
	$(BIN)/python -m pytest

# the wheel, installed as a user would in a new environment, and one query of it
test-wheel: $(DEV_STAMP)
	$(BIN)/python -m pytest -m wheel tests/packaging

check: lint types contracts

lint: $(DEV_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV_STAMP)
	$(BIN)/mypy

contracts: $(DEV_STAMP)
	$(BIN)/lint-imports

# the quick experiments against stored ones: has quality fallen?
quality: $(STAMP)
	$(BIN)/python -m tools.regression_check

docs: $(DEV_STAMP)
	$(BIN)/semlink docs

install: $(STAMP)

# and what tests and checks need
dev: $(DEV_STAMP)

SOURCES := pyproject.toml hatch_build.py $(wildcard scripts/install*.sh semlink/requirements/*.txt proto/semlink/v1/*.proto)

$(STAMP): $(SOURCES)
	PYTHON="$(PYTHON)" sh scripts/install.sh $(VENV)
	touch $@

$(DEV_STAMP): $(SOURCES)
	PYTHON="$(PYTHON)" sh scripts/install.sh $(VENV) dev
	touch $(STAMP) $@

# do the pinned versions exist for every Python and processor that we name?
resolve: $(STAMP)
	$(BIN)/python scripts/resolve.py

models: $(STAMP)
	$(BIN)/semlink models install

clean:
	rm -rf $(VENV) demo results
